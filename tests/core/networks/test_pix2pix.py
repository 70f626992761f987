"""The generator of pix2pix: layers, sizes and first weights as in the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from originals import image_for, randomised
from torch import Tensor, nn
from unet_checks import check_engine, check_stands_alone, n_parameters, on_meta, picture

from napari_unet.core.errors import SettingsError
from napari_unet.core.networks import Wanted, preset_of
from napari_unet.core.networks.pix2pix import Pix2Pix, Pix2PixConfig

SMALL = Pix2PixConfig(width=2, depth=4, out_channels=3)


def paper() -> Pix2Pix:
    network = on_meta(preset_of("pix2pix"), Wanted(in_channels=3, out_channels=3))
    assert isinstance(network, Pix2Pix)
    return network


def test_it_has_as_many_weights_as_the_authors_network() -> None:
    assert n_parameters(paper()) == 54_413_955


def test_layers_and_sizes_are_those_of_the_paper() -> None:
    network, found = paper(), []
    for part in (*network.down, *network.up):
        part.register_forward_hook(lambda _part, _given, out: found.append(tuple(out.shape[1:3])))
    with torch.no_grad():
        output = network(torch.empty(1, 3, 256, 256, device="meta"))
    assert output.shape == (1, 3, 256, 256)
    down = [(64, 128), (128, 64), (256, 32), (512, 16), (512, 8), (512, 4), (512, 2), (512, 1)]
    up = [(512, 2), (512, 4), (512, 8), (512, 16), (256, 32), (128, 64), (64, 128), (3, 256)]
    assert found == [*down, *up]


def test_norms_and_dropouts_are_where_the_paper_has_them() -> None:
    network = paper()

    def has(part: nn.Module, kind: type[nn.Module]) -> bool:
        return any(isinstance(module, kind) for module in part.modules())

    assert [has(part, nn.BatchNorm2d) for part in network.down] == [False, *[True] * 6, False]
    assert [has(part, nn.BatchNorm2d) for part in network.up] == [*[True] * 7, False]
    assert [has(part, nn.Dropout) for part in network.up] == [*[True] * 3, *[False] * 5]
    assert {m.p for m in network.modules() if isinstance(m, nn.Dropout)} == {0.5}
    slopes = [m.negative_slope for m in network.modules() if isinstance(m, nn.LeakyReLU)]
    assert slopes == [0.2] * 7
    kernels = {m.kernel_size for m in network.modules() if isinstance(m, nn.Conv2d)}
    assert kernels == {(4, 4)}


def second(state: Mapping[str, Tensor], image: Tensor, depth: int) -> Tensor:
    """The network once more, one layer inside the other, as the best known code has it."""
    dims = image.ndim - 2
    down = F.conv2d if dims == 2 else F.conv3d
    back = F.conv_transpose2d if dims == 2 else F.conv_transpose3d

    def at(name: str) -> Tensor | None:
        return state.get(name)

    def normal(features: Tensor, name: str) -> Tensor:
        if f"{name}.running_mean" not in state:
            return features
        of = [state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(features, *of)

    def inside(features: Tensor, i: int) -> Tensor:
        """What layer i and all below it make of the features, behind the features."""
        low = features if i == 0 else torch.where(features > 0, features, 0.2 * features)
        n = 0 if i == 0 else 1
        low = down(low, state[f"down.{i}.{n}.weight"], stride=2, padding=1)
        low = normal(low, f"down.{i}.{n + 1}")
        if i < depth - 1:
            low = inside(low, i + 1)
        name = f"up.{depth - 1 - i}"
        low = back(low.clamp(min=0), state[f"{name}.1.weight"], at(f"{name}.1.bias"), 2, 1)
        low = normal(low, f"{name}.2")
        return low if i == 0 else torch.cat([features, low], 1)

    return inside(image, 0)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("dims", [2, 3])
def test_it_computes_what_the_paper_says(dims: Literal[2, 3], depth: int) -> None:
    about: Any = {"dims": dims, "in_channels": 2, "out_channels": 3, "width": 2, "depth": depth}
    linear = randomised(Pix2Pix(Pix2PixConfig(**about, output="linear"))).double()
    network = Pix2Pix(Pix2PixConfig(**about)).double().eval()
    network.load_state_dict(linear.state_dict(), strict=True)
    image = image_for(2, *(16, 32, 16)[:dims]).double()
    with torch.no_grad():
        expected = second(network.state_dict(), image, depth)
        assert expected.shape == (1, 3, *image.shape[2:])
        torch.testing.assert_close(linear(image), expected)
        torch.testing.assert_close(network(image), torch.tanh(expected))


def test_images_end_at_one_and_classes_do_not() -> None:
    image = 100 * image_for(1, 256, 256)
    largest = {}
    for name in ("pix2pix", "pix2pix-classes"):
        network = randomised(preset_of(name).build(Wanted(width=1)))
        with torch.no_grad():
            largest[name] = float(network(image).abs().max())
    assert largest["pix2pix"] <= 1 < largest["pix2pix-classes"]


def test_it_trains_on_a_single_image_down_to_one_pixel() -> None:
    """Batch norm of a single pixel would say nothing, and raises."""
    torch.manual_seed(0)
    network = Pix2Pix(Pix2PixConfig(width=2, depth=4)).train()
    assert network(image_for(1, 16, 16)).shape == (1, 1, 16, 16)


def test_weights_are_drawn_from_the_normal_distribution_of_the_paper() -> None:
    torch.manual_seed(0)
    network = Pix2Pix(Pix2PixConfig(width=16, depth=4))
    for name, weights in network.named_parameters():
        if weights.ndim == 4:
            assert float(weights.detach().std()) == pytest.approx(0.02, rel=0.15), name
        elif name.endswith("bias"):
            assert not weights.any()
        else:
            assert float(weights.detach().mean()) == pytest.approx(1, abs=0.02)
            assert float(weights.detach().std()) == pytest.approx(0.02, rel=0.5)


@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_reach_every_weight(dims: Literal[2, 3]) -> None:
    config = Pix2PixConfig(dims=dims, width=3, depth=3, dropout=0.0)
    network = randomised(Pix2Pix(config)).train()
    image = image_for(1, *(16,) * dims).requires_grad_()
    output = network(image)
    (
        output * torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
    ).sum().backward()
    for name, weights in network.named_parameters():
        assert weights.grad is not None, name
        assert float(weights.grad.abs().max()) > 1e-6, name
    assert image.grad is not None
    assert float(image.grad.abs().min()) > 0


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    network, image = Pix2Pix(SMALL), image_for(1, 32, 32)
    with torch.no_grad():
        network.eval()
        assert torch.equal(network(image), network(image))
        network.train()
        assert not torch.equal(network(image), network(image))


def test_it_learns_an_image_from_an_image() -> None:
    torch.manual_seed(0)
    network = Pix2Pix(Pix2PixConfig(width=4, depth=4, dropout=0.0)).train()
    image = torch.tanh(image_for(1, 32, 32))
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3, betas=(0.5, 0.999))
    losses = []
    for _ in range(80):
        loss = (network(image) + image).abs().mean()  # wanted is the negative
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("output", ["linear", "tanh"])
def test_the_engine_gives_what_the_whole_image_gives(output: Any) -> None:
    config = Pix2PixConfig(width=2, depth=4, in_channels=2, output=output)
    check_engine(Pix2Pix(config), picture(2, 61, 45), 16)


def test_the_engine_gives_what_the_whole_volume_gives() -> None:
    check_engine(Pix2Pix(Pix2PixConfig(dims=3, width=2, depth=2)), picture(1, 9, 14, 17), 4)


@pytest.mark.parametrize("config", [SMALL, Pix2PixConfig(dims=3, width=2, depth=2)])
def test_it_stands_alone(config: Pix2PixConfig) -> None:
    check_stands_alone("pix2pix", config, image_for(1, *(16,) * config.dims))


def test_width_and_channels_are_those_wanted() -> None:
    config = preset_of("pix2pix").config_for(Wanted(width=3, in_channels=2, out_channels=5))
    assert config == Pix2PixConfig(in_channels=2, out_channels=5, width=3, depth=8, output="tanh")
    assert config.widths == (3, 6, 12, 24, 24, 24, 24, 24)
    with pytest.raises(SettingsError, match="one for 2D, not for 3D"):
        preset_of("pix2pix").config_for(Wanted(dims=3))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"dims": 4}, "dims must be 2 or 3"),
        ({"in_channels": 0}, "in_channels"),
        ({"width": 0}, "width"),
        ({"depth": 0}, "depth"),
        ({"dropout": 1.0}, "dropout"),
        ({"output": "sigmoid"}, "output must be 'linear' or 'tanh'"),
    ],
)
def test_refuses_a_network_that_cannot_be(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        Pix2PixConfig(**settings)
