"""What a network sees in a mirror, or turned: from its layers, and from tiles."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from networks import BY_NAME, ROW, TILED, Case, picture
from running import plan_for, run, with_strips

from napari_unet.core.engine.choosing import replay
from napari_unet.core.engine.graph import UnsupportedError, fused
from napari_unet.core.engine.symmetry import (
    AS_IT_IS,
    Symmetry,
    reordered,
    seen_through,
    symmetries,
)
from napari_unet.core.engine.tracing import trace

NAMES = ["unet 2d 2 batch transposed", "unet 2d 3 batch linear", "unpadded 2d", "residual 2d",
         "corners", "nested 2d", "dense 2d", "strided", "kernels 2d", "even kernels", "stem 2d",
         "up by 4 with overlap", "gates 2d", "heads in a dict", "act layer norm"]  # fmt: skip
VOLUMES = ["unet 3d 2 batch linear", "residual 3d", "flat 3d", "kernels 3d"]


def averaged(
    case: Case, network: torch.nn.Module, array: npt.NDArray[np.float32], turns: bool
) -> npt.NDArray[Any]:
    """The mean over all mirror images and turns of the frame that the network takes."""
    shape = array.shape[1:]
    before = case.margin // 2
    frame = case.frame(shape)
    around = [(before, size - n - before) for n, size in zip(shape, frame, strict=True)]
    shown = np.pad(array, [(0, 0), *around], mode="reflect")
    found = []
    for turned in (False, True) if turns else (False,):
        for flips in product((False, True), repeat=case.dims):
            axes = [at + 1 for at, is_flipped in enumerate(flips) if is_flipped]
            seen = np.swapaxes(shown, -1, -2) if turned else shown
            seen = np.flip(seen, axes)
            with torch.no_grad():
                out = network(torch.from_numpy(seen.copy())[None])
            out = out["out"] if isinstance(out, dict) else out
            out = np.flip((out[0] if isinstance(out, list | tuple) else out)[0].numpy(), axes)
            found.append(np.swapaxes(out, -1, -2) if turned else out)
    return np.mean(found, axis=0)[(slice(None), *(slice(0, n) for n in shape))]


@pytest.mark.parametrize(
    ("name", "views"),
    [*((name, "rotations") for name in NAMES), *((name, "flips") for name in VOLUMES),
     ("unet 2d 2 batch transposed", "flips"), ("flat 3d", "rotations")],
)  # fmt: skip
def test_the_mean_of_what_is_seen_row_by_row(name: str, views: Any) -> None:
    case = BY_NAME[name]
    network = case.network()
    array = picture(1, *((37, 50) if case.dims == 2 else (7, 18, 10)))
    made = plan_for(network, array, views=views)
    assert made.name == ROW
    assert made.is_exact
    n_views = 2**case.dims * (2 if views == "rotations" else 1)
    assert len(made.ways) == n_views
    assert f"average of {n_views} views" in made.summary
    expected = averaged(case, network, array, views == "rotations")
    np.testing.assert_allclose(run(with_strips(made, 3000), array), expected, rtol=0, atol=3e-5)
    window = tuple((n // 3, n - 1) for n in array.shape[1:])
    np.testing.assert_allclose(
        run(with_strips(made, 700), array, window),
        expected[(slice(None), *(slice(*span) for span in window))], rtol=0, atol=3e-5,
    )  # fmt: skip


@pytest.mark.parametrize("views", ["flips", "rotations"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [("segnet", (37, 50)), ("segnet 3 x 2", (36, 48)), ("mirrored", (43, 61)),
     ("shuffled", (37, 50)), ("unshuffled", (37, 50)), ("bicubic", (37, 50)),
     ("flat 2d", (36, 48))],
)  # fmt: skip
def test_the_mean_of_what_is_seen_in_tiles(name: str, shape: Any, views: Any) -> None:
    """Also where a mirrored tile begins elsewhere on the grid of the poolings."""
    case = BY_NAME[name]
    network, array = case.network(), picture(1, *shape)
    expected = averaged(case, network, array, views == "rotations")
    for tile_size in (16, 20, None):
        made = plan_for(network, array, views=views, tile_size=tile_size)
        if case.way == TILED or name == "shuffled":
            assert made.name == TILED
        np.testing.assert_allclose(run(made, array), expected, rtol=0, atol=3e-5)
        window = ((5, 30), (shape[1] - 9, shape[1]))
        np.testing.assert_allclose(
            run(made, array, window), expected[:, 5:30, -9:], rtol=0, atol=3e-5
        )


@pytest.mark.parametrize("shape", [(37, 50), (45, 42), (33, 64)])
@pytest.mark.parametrize("tile_size", [None, 16])
def test_networks_that_take_any_size_see_the_image_and_nothing_mirrored(
    shape: Any, tile_size: int | None
) -> None:
    case = BY_NAME["padded up"]
    network, array = case.network(), picture(1, *shape)
    made = plan_for(network, array, views="rotations", tile_size=tile_size)
    assert made.name == ROW
    expected = averaged(case, network, array, turns=True)
    np.testing.assert_allclose(run(made, array), expected, rtol=0, atol=3e-5)


def test_blended_tiles_are_seen_so_too() -> None:
    case = BY_NAME["group norm"]
    network, array = case.network(), picture(1, 40, 30)
    made = plan_for(network, array, views="rotations")
    assert made.is_exact
    np.testing.assert_allclose(
        run(made, array), averaged(case, network, array, turns=True), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_all_views_are_different_and_can_be_undone(dims: int) -> None:
    image = torch.arange(2.0 * 3 * 4 * 5).reshape(
        1, 2, *(3, 4, 5)[-dims:], *([] if dims == 3 else [3])
    )
    image = image[..., :4] if dims == 2 else image
    for kind, n in (("none", 1), ("flips", 2**dims), ("rotations", 2 ** (dims + 1))):
        views = symmetries(kind, dims)  # type: ignore[arg-type]
        assert len(set(views)) == len(views) == n
        assert views[0] == AS_IT_IS
        for view in views:
            assert torch.equal(view.undo(view.apply(image)), image)
    seen = {str(view.apply(image).tolist()) for view in symmetries("rotations", dims)}
    assert len(seen) == 2 ** (dims + 1)


def test_the_eight_views_are_the_turns_and_their_mirror_images() -> None:
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    expected = {str(torch.rot90(one, n, (2, 3)).tolist()) for one in (image, image.flip(2))
                for n in range(4)}  # fmt: skip
    assert {str(view.apply(image).tolist()) for view in symmetries("rotations", 2)} == expected


def test_which_axes_of_the_image_are_mirrored() -> None:
    image = torch.arange(20.0).reshape(1, 1, 4, 5)
    for view in symmetries("rotations", 2):
        mirrored = image.flip([axis + 2 for axis in view.mirrored_axes(2)])
        turned = mirrored.transpose(-1, -2) if view.turned else mirrored
        assert torch.equal(turned, view.apply(image))
    assert Symmetry(mirrored=(0, 2), turned=True).mirrored_axes(3) == (0, 1)


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1), (0, 2, 1), (2, 1, 0)])
def test_axes_in_another_order(order: tuple[int, ...]) -> None:
    case = BY_NAME["flat 3d"]
    graph = fused(trace(case.network(), 1, (5, 8, 6)))
    image = torch.randn(1, 1, 5, 8, 6, generator=torch.Generator().manual_seed(0))
    sizes = tuple(image.shape[at + 2] for at in order)
    whole = tuple((0, n) for n in sizes)
    shown = image.permute(0, 1, *(at + 2 for at in order))
    found = replay(reordered(graph, order), shown, whole)
    with torch.no_grad():
        expected = case.network()(image)[0].permute(0, *(at + 1 for at in order))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_what_cannot_be_mirrored_says_so() -> None:
    graph = trace(BY_NAME["shuffled"].network(), 1, (32, 32))
    with pytest.raises(UnsupportedError, match="channels into pixels"):
        seen_through(graph, Symmetry(mirrored=(0,)), (32, 32))
    with pytest.raises(UnsupportedError, match="channels into pixels"):
        reordered(graph, (1, 0))
