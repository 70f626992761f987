"""FC-DenseNet: layers and channels as in the paper's tables, and a second computation."""

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
from napari_unet.core.networks.unet_dense import LAYERS_56, LAYERS_103, DenseUNet, DenseUNetConfig

SMALL = DenseUNetConfig(first_width=4, growth=2, layers=(2, 3, 1), out_channels=3)


@pytest.mark.parametrize(
    ("layers", "growth", "n_out", "n"),
    [
        (LAYERS_56, 12, 11, 1_376_795),
        (LAYERS_103, 16, 11, 9_322_091),
        # As others count who built the same.
        (LAYERS_56, 12, 1, 1_374_865),
        ((5,) * 6, 16, 11, 3_463_243),
        (LAYERS_103, 16, 1, 9_319_521),
    ],
)
def test_it_has_as_many_weights_as_in_the_paper(
    layers: tuple[int, ...], growth: int, n_out: int, n: int
) -> None:
    config = DenseUNetConfig(in_channels=3, out_channels=n_out, layers=layers, growth=growth)
    with torch.device("meta"):
        assert n_parameters(DenseUNet(config)) == n


@pytest.mark.parametrize(("name", "n"), [("unet-dense", 56), ("unet-dense-103", 103)])
def test_it_has_as_many_layers_as_its_name_says(name: str, n: int) -> None:
    network = on_meta(preset_of(name), Wanted())
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    assert sum(isinstance(module, kinds) for module in network.modules()) == n


def test_blocks_have_the_channels_of_the_paper() -> None:
    """Table 2; its 578 is the sum 192 + 304 + 80 = 576 misprinted."""
    network = on_meta(preset_of("unet-dense-103"), Wanted(in_channels=3, out_channels=11))
    assert isinstance(network, DenseUNet)
    found: list[tuple[int, int]] = []

    def see(_block: nn.Module, _given: object, parts: list[Tensor]) -> None:
        found.append((sum(part.shape[1] for part in parts), parts[0].shape[-1]))

    for block in (*network.encoder, *network.decoder):
        block.register_forward_hook(see)
    with torch.no_grad():
        logits = network(torch.empty(1, 3, 224, 224, device="meta"))
    assert logits.shape == (1, 11, 224, 224)
    down = [(112, 224), (192, 112), (304, 56), (464, 28), (656, 14)]
    up = [(1088, 14), (816, 28), (576, 56), (384, 112), (256, 224)]
    assert found == [*down, (896, 7), *up]


def second(state: Mapping[str, Tensor], image: Tensor, config: DenseUNetConfig) -> Tensor:
    """The network once more, as the authors' code has it: one stack of channels, that grows."""
    dims, n_pools = config.dims, len(config.layers) - 1
    conv = F.conv2d if dims == 2 else F.conv3d
    spread = F.conv_transpose2d if dims == 2 else F.conv_transpose3d

    def layer(features: Tensor, name: str) -> Tensor:
        mean, var = (state[f"{name}.0.running_{key}"] for key in ("mean", "var"))
        weight, bias = (state[f"{name}.0.{key}"] for key in ("weight", "bias"))
        features = F.batch_norm(features, mean, var, weight, bias).clamp(min=0)
        kernel = state[f"{name}.2.weight"]
        return conv(features, kernel, state[f"{name}.2.bias"], padding=kernel.shape[-1] // 2)

    stack = conv(image, state["first.weight"], state["first.bias"], padding=1)
    skips = []
    for i in range(n_pools):
        for j in range(config.layers[i]):
            stack = torch.cat([stack, layer(stack, f"encoder.{i}.layers.{j}")], 1)
        skips.append(stack)
        stack = layer(stack, f"down.{i}")
        stack = F.max_pool2d(stack, 2) if dims == 2 else F.max_pool3d(stack, 2)
    for i in range(n_pools + 1):
        name = f"encoder.{n_pools}" if i == 0 else f"decoder.{i - 1}"
        new = []
        for j in range(config.layers[n_pools - i]):
            new.append(layer(stack, f"{name}.layers.{j}"))
            stack = torch.cat([stack, new[-1]], 1)
        if i < n_pools:
            weight, bias = state[f"up.{i}.conv.weight"], state[f"up.{i}.conv.bias"]
            enlarged = spread(torch.cat(new, 1), weight, bias, stride=2)
            skip = skips.pop()
            for axis in range(2, image.ndim):  # the centre, as far as there is one
                start = (enlarged.shape[axis] - skip.shape[axis]) // 2
                enlarged = enlarged.narrow(axis, start, skip.shape[axis])
            stack = torch.cat([enlarged, skip], 1)
    return conv(stack, state["head.weight"], state["head.bias"])


@pytest.mark.parametrize("layers", [(1, 2), (2, 3, 1), (3, 1, 2, 1)])
@pytest.mark.parametrize("dims", [2, 3])
def test_it_computes_what_the_paper_says(dims: Literal[2, 3], layers: tuple[int, ...]) -> None:
    config = DenseUNetConfig(
        dims=dims, in_channels=2, out_channels=3, first_width=4, growth=3, layers=layers
    )
    network = randomised(DenseUNet(config)).double()
    image = image_for(2, *(16, 24, 8)[:dims]).double()
    with torch.no_grad():
        found = network(image)
        assert found.shape == (1, 3, *image.shape[2:])
        torch.testing.assert_close(found, second(network.state_dict(), image, config))


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_reach_every_weight(dims: Literal[2, 3], is_training: bool) -> None:
    """In training, what is added before a batch norm takes away again gets no gradient."""
    config = DenseUNetConfig(dims=dims, first_width=4, growth=2, layers=(1, 2, 2), dropout=0.0)
    network = randomised(DenseUNet(config)).train(is_training)
    image = image_for(1, *(16,) * dims).requires_grad_()
    logits = network(image)
    (
        logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    ).sum().backward()
    for name, weights in network.named_parameters():
        assert weights.grad is not None, name
        is_shift = name.endswith(".bias") and not name.startswith("head")
        if not (is_training and is_shift):
            assert float(weights.grad.abs().max()) > 1e-5, name
    assert image.grad is not None
    assert float(image.grad.abs().min()) > 0


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    network = preset_of("unet-dense").build(Wanted(width=4))
    drops = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    assert len(drops) == 44 + 5
    assert {drop.p for drop in drops} == {0.2}
    image = image_for(1, 64, 64)
    with torch.no_grad():
        network.eval()
        assert torch.equal(network(image), network(image))
        network.train()
        assert not torch.equal(network(image), network(image))


def test_the_engine_gives_what_the_whole_image_gives() -> None:
    check_engine(DenseUNet(SMALL), picture(1, 61, 45), 4)
    deeper = DenseUNetConfig(first_width=3, growth=1, layers=(1, 1, 1, 1, 1), in_channels=2)
    check_engine(DenseUNet(deeper), picture(2, 50, 83), 16)


def test_the_engine_gives_what_the_whole_volume_gives() -> None:
    config = DenseUNetConfig(dims=3, first_width=2, growth=2, layers=(1, 1, 2))
    check_engine(DenseUNet(config), picture(1, 9, 22, 17), 4)


@pytest.mark.parametrize(
    "config", [SMALL, DenseUNetConfig(dims=3, first_width=2, growth=1, layers=(1, 2))]
)
def test_it_stands_alone(config: DenseUNetConfig) -> None:
    check_stands_alone("unet-dense", config, image_for(1, *(16,) * config.dims))


def test_weights_are_drawn_as_by_he() -> None:
    torch.manual_seed(0)
    network = DenseUNet(DenseUNetConfig())
    weight = network.encoder[0].layers[3][2].weight.detach()  # of 84 channels
    bound = (6 / (84 * 9)) ** 0.5
    assert 0.99 * bound < float(weight.abs().max()) <= bound
    assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.05)


def test_width_and_channels_are_those_wanted() -> None:
    config = preset_of("unet-dense").config_for(Wanted(width=8, in_channels=2, out_channels=5))
    assert (config.first_width, config.growth, config.layers) == (8, 2, LAYERS_56)
    assert (config.in_channels, config.out_channels) == (2, 5)
    assert preset_of("unet-dense").config_for(Wanted(width=1)).growth == 1
    assert preset_of("unet-dense").config_for(Wanted()) == DenseUNetConfig()
    config = preset_of("unet-dense-103").config_for(Wanted(dims=3))
    assert config == DenseUNetConfig(dims=3, growth=16, layers=LAYERS_103)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"dims": 4}, "dims must be 2 or 3"),
        ({"in_channels": 0}, "in_channels"),
        ({"growth": 0}, "growth"),
        ({"first_width": 0}, "first_width"),
        ({"layers": (4,)}, "layers"),
        ({"layers": (4, 0)}, "layers"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_refuses_a_network_that_cannot_be(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        DenseUNetConfig(**settings)
