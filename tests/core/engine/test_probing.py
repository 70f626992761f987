"""What is found out by trying: how far a network looks, and on what grid it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from networks import BY_NAME, TILED, Acting, milesial, settled, with_middle
from torch import Tensor, nn

from napari_unet.core.engine import probing
from napari_unet.core.engine.fitting import Fit
from napari_unet.core.engine.graph import UnsupportedError
from napari_unet.core.engine.probing import (
    known_layers,
    likely_grid,
    measured_fit,
    measured_grid,
    measured_reach,
    reach_of,
)

KNOWN = ["unet 2d 0 batch transposed", "unet 2d 2 batch transposed", "unet 2d 3 batch linear",
         "unpadded 2d", "residual 2d", "nearest", "dense 2d", "strided", "kernels 2d", "stem 2d",
         "flat 2d", "shuffled", "gates 2d", "flat 3d", "unet 3d 1 batch linear"]  # fmt: skip


INTERPOLATING = ("unet 2d 3 batch linear", "unet 3d 1 batch linear", "flat 2d", "gates 2d")


def measured(network: nn.Module, dims: int = 2) -> tuple[Fit, tuple[int, ...] | None]:
    """Sizes and reach, as if the layers were not known."""
    fit = measured_fit(network, 1, dims)
    fit = replace(fit, grid=likely_grid(network, 1, fit))
    reach = measured_reach(network, 1, fit)
    assert reach is not None
    grid = measured_grid(network, 1, fit, reach)
    assert grid is not None
    fit = replace(fit, grid=grid)
    return fit, measured_reach(network, 1, fit)


@pytest.mark.parametrize("name", KNOWN)
def test_trying_finds_what_the_layers_say(name: str) -> None:
    case = BY_NAME[name]
    network = case.network()
    graph, fit = known_layers(network, 1, case.dims)
    by_trying, reach = measured(network, case.dims)
    assert (by_trying.stride, by_trying.margin) == (fit.stride, fit.margin)
    assert all(found % step == 0 for found, step in zip(by_trying.grid, fit.grid, strict=True))
    assert reach is not None
    for tried, known in zip(reach, reach_of(graph, fit), strict=True):
        # What is known of interpolation has some px to spare.
        assert known - case.margin <= tried + (8 if name in INTERPOLATING else 0)
        assert tried <= 2 * known + 2 * max(fit.stride) or name in ("flat 3d", "kernels 2d")


@pytest.mark.parametrize(
    ("name", "reach"),
    [("unet 2d 0 batch transposed", 2), ("unet 2d 1 none linear", 12),
     ("unet 2d 2 batch transposed", 22), ("unet 2d 4 none transposed", 94)],
)  # fmt: skip
def test_the_reach_of_a_u_net(name: str, reach: int) -> None:
    network = BY_NAME[name].network()
    assert reach_of(*known_layers(network, 1, 2)) == (reach, reach)


def test_a_network_of_any_size_still_works_on_a_grid() -> None:
    """It pools to a quarter, and would be wrong in tiles that begin anywhere else."""
    fit, reach = measured(BY_NAME["mirrored"].network())
    assert fit.stride == (1, 1)
    assert fit.grid == (4, 4)
    assert fit.least == (8, 8)
    assert reach is not None
    assert min(reach) >= 22


def test_a_grid_that_no_part_of_the_network_shows() -> None:
    """Poolings that are functions, behind a padding that is not known."""

    def function(image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        padded = F.pad(image, (0, -width % 6, 0, -height % 6), mode="replicate")
        low = F.interpolate(F.max_pool2d(padded, 6), scale_factor=6)
        return image + low[:, :, :height, :width]

    network = settled(with_middle(Acting(function)))
    fit, reach = measured(network)
    assert (fit.stride, fit.grid) == ((1, 1), (6, 6))
    assert reach == (12, 12)


def test_weights_that_hide_what_is_far_do_not_hide_it() -> None:
    """The influence from 9 px away is below the precision of a sum, unless values are large."""
    far = nn.Conv2d(4, 4, 3, padding=9, dilation=9, bias=False)
    network = settled(with_middle(nn.Identity()))

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.near, self.far = network, far

        def forward(self, image: Tensor) -> Tensor:
            first = self.near[0](image)
            aside = torch.where(first > 1e30, first, first)  # so that layers are not known
            return self.near[2:](aside + 1e-12 * self.far(aside))

    reach = measured_reach(Hidden().eval(), 1, measured_fit(Hidden().eval(), 1, 2))
    assert reach is not None
    assert min(reach) >= 12


@pytest.mark.parametrize(
    "middle",
    [
        lambda x: x - F.adaptive_avg_pool2d(x, 1),
        lambda x: x - x.flatten(2).mean(2)[..., None, None],
        lambda x: x.cumsum(2) / 100,
    ],
)  # fmt: skip
def test_what_depends_on_everything(middle: Callable[[Tensor], Tensor]) -> None:
    network = settled(with_middle(Acting(middle)))
    assert measured_reach(network, 1, measured_fit(network, 1, 2)) is None


def with_places(image: Tensor) -> Tensor:
    places = torch.linspace(-1, 1, image.shape[3]).expand(image[:, :1].shape)
    return image + torch.where(places > 2, places, 3 * places)


@pytest.mark.parametrize("middle", [with_places, lambda x: x / x.flip(3).abs().add(1)])
def test_what_depends_on_where_it_is(middle: Callable[[Tensor], Tensor]) -> None:
    network = settled(with_middle(Acting(middle)))
    fit = measured_fit(network, 1, 2)
    reach = measured_reach(network, 1, fit)
    assert reach is not None
    assert measured_grid(network, 1, fit, reach) is None


def test_layers_that_are_read_wrong_are_noticed() -> None:
    """A view of the image is changed in place: the recording does not see that."""

    def function(image: Tensor) -> Tensor:
        image[:, :2].neg_()
        return image

    with pytest.raises(UnsupportedError, match="do not give what it gives as a whole"):
        known_layers(settled(with_middle(Acting(function))), 1, 2)


def test_a_network_of_one_size_only() -> None:
    network = with_middle(Acting(lambda x, a: x + a, a=torch.randn(1, 4, 64, 64)))
    with pytest.raises(UnsupportedError, match="a picture of its own"):
        known_layers(settled(network), 1, 2)
    with pytest.raises(UnsupportedError, match="another resolution"):
        measured_fit(settled(network), 1, 2)


def test_layers_of_other_sizes() -> None:
    network = settled(milesial())
    graph, fit = known_layers(network, 1, 2, like=(65, 67))
    assert (fit.base, fit.stride, fit.margin) == ((65, 67), (4, 4), (0, 0))
    assert graph.sizes((69, 71))[-1] == (69, 71)
    with pytest.raises(UnsupportedError, match="sizes that do not fit"):
        graph.sizes((68, 68))
    with pytest.raises(UnsupportedError, match="no image of usual size"):
        known_layers(BY_NAME["unet 2d 2 batch transposed"].network(), 1, 2, like=(65, 67))


@pytest.mark.parametrize("error", [ValueError, AssertionError, TypeError, KeyError, RuntimeError])
def test_networks_may_raise_anything_at_sizes_they_do_not_take(error: type[Exception]) -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, image: Tensor) -> Tensor:
            if image.shape[2] % 20:
                raise error("a size I do not like")
            return self.network(image)  # type: ignore[no-any-return]

    _, fit = known_layers(Picky(), 1, 2)
    assert fit.stride == (1, 1)  # its layers take any
    assert fit.base == (160, 160)
    assert measured_fit(Picky(), 1, 2).stride == (20, 1)


def test_images_to_try_are_no_larger_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In 3D each px of edge counts: a large one would not fit in memory."""
    sizes: list[int] = []
    network = BY_NAME["replicated 3d"].network()
    real = probing._output

    def output(network: nn.Module, image: Tensor) -> Tensor:
        sizes.append(image[0, 0].numel())
        return real(network, image)

    monkeypatch.setattr(probing, "_output", output)
    fit = Fit(base=(32,) * 3, stride=(4,) * 3, margin=(0,) * 3)
    reach = measured_reach(network, 1, fit)
    assert reach is not None
    assert max(sizes) <= (2 * (max(reach) + 16 + 4) + 12) ** 3


def test_all_local_networks_have_been_seen() -> None:
    """Of this list, none whose layers are known needs to be tried out."""
    assert all(BY_NAME[name].way != TILED for name in KNOWN)
