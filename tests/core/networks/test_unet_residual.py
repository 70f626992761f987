"""The residual U-Net, against the figures of the paper and plain arithmetic."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from originals import image_for, import_smp, largest_difference, randomised
from torch import Tensor, nn
from unet_checks import (
    check_engine,
    check_gradients,
    check_stands_alone,
    n_parameters,
    on_meta,
    picture,
)

from napari_unet.core.errors import SettingsError
from napari_unet.core.networks import Wanted, preset_of
from napari_unet.core.networks.unet_residual import ResidualUNet, ResidualUNetConfig, ResidualUnit

TWO_D = ResidualUNetConfig(in_channels=2, out_channels=3, widths=(3, 4, 5))
THREE_D = ResidualUNetConfig(dims=3, widths=(3, 4), upsampling="transposed")
PAPER = Wanted(in_channels=3, out_channels=1)


def test_it_has_the_weights_that_the_paper_counts() -> None:
    network = on_meta(preset_of("unet-residual"), PAPER)
    sizes = {(3, 3): 0, (1, 1): 0}
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            sizes[module.kernel_size] += module.weight.numel()  # type: ignore[index]
    assert sizes[3, 3] == 7_780_032  # "7.8 M"
    around = 3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 768 * 256 + 384 * 128 + 192 * 64
    assert sizes[1, 1] == around + 64
    norms = 2 * (64 + 64 + 2 * 128 + 128 + 256 + 256 + 512 + 768 + 256 + 384 + 128 + 192 + 64 - 128)
    assert n_parameters(network) == sizes[3, 3] + sizes[1, 1] + norms + 1


def test_it_has_the_sizes_of_the_table() -> None:
    network = on_meta(preset_of("unet-residual"), PAPER).eval()
    sizes: list[tuple[int, ...]] = []
    for unit in [*network.encoder, *network.decoder]:
        unit.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[1:])))
    logits = network(torch.empty(1, 3, 224, 224, device="meta"))
    assert logits.shape == (1, 1, 224, 224)
    assert sizes == [
        (64, 224, 224), (128, 112, 112), (256, 56, 56), (512, 28, 28), (256, 56, 56),
        (128, 112, 112), (64, 224, 224),
    ]  # fmt: skip
    assert sum(m.kernel_size == (3, 3) for m in network.modules() if isinstance(m, nn.Conv2d)) == 14


def by_hand(network: ResidualUNet, image: Tensor) -> Tensor:
    """Its arithmetic written out, from its state dict."""
    weights = network.state_dict()
    dims = network.config.dims
    convolve: Any = F.conv2d if dims == 2 else F.conv3d
    transpose: Any = F.conv_transpose2d if dims == 2 else F.conv_transpose3d

    def ready(name: str, x: Tensor) -> Tensor:
        if f"{name}.0.weight" not in weights:
            return x
        shape = (1, -1, *[1] * dims)
        mean, var, scale, shift = (
            weights[f"{name}.0.{key}"].view(shape)
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)

    def unit(name: str, x: Tensor, step: int) -> Tensor:
        y = convolve(
            ready(f"{name}.ready_1", x), weights[f"{name}.conv_1.weight"], stride=step, padding=1
        )
        y = convolve(ready(f"{name}.ready_2", y), weights[f"{name}.conv_2.weight"], padding=1)
        if f"{name}.around.weight" in weights:
            x = x[(..., *[slice(None, None, step)] * dims)]
            x = torch.einsum("bi...,oi->bo...", x, weights[f"{name}.around.weight"].flatten(1))
        return x + y

    n_levels, features, skips = len(network.config.widths), image, []
    for i in range(n_levels):
        features = unit(f"encoder.{i}", features, 2 if i else 1)
        skips.append(features)
    skips.pop()
    for i in range(n_levels - 1):
        if network.config.upsampling == "nearest":
            for axis in range(2, features.ndim):
                features = features.repeat_interleave(2, dim=axis)
        else:
            features = transpose(
                features, weights[f"up.{i}.weight"], weights[f"up.{i}.bias"], stride=2
            )
        features = unit(f"decoder.{i}", torch.cat([features, skips.pop()], 1), 1)
    return convolve(features, weights["head.weight"], weights["head.bias"])


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (TWO_D, (12, 8)),
        (THREE_D, (4, 6, 8)),
        (ResidualUNetConfig(widths=(4,), in_channels=4), (5, 7)),
    ],
)
def test_written_out_it_gives_the_same(config: ResidualUNetConfig, size: tuple[int, ...]) -> None:
    network = ResidualUNet(config)
    randomised(network)
    image = image_for(config.in_channels, *size)
    assert largest_difference(network, lambda x: by_hand(network, x), image) < 1e-5


@pytest.mark.parametrize("step", [1, 2])
def test_another_implementation_of_the_unit_gives_the_same(step: Literal[1, 2]) -> None:
    """That of timm. There the way around begins behind the first ReLU: all is positive here."""
    import_smp()
    resnetv2, layers = import_module("timm.models.resnetv2"), import_module("timm.layers")
    n_out = 8 if step == 1 else 16
    unit = ResidualUnit(2, 8, n_out, step=step)
    randomised(unit)
    first, second = unit.ready_1[0], unit.ready_2[0]  # type: ignore[index]
    with torch.no_grad():  # what is positive stays as it is
        first.running_mean.zero_()
        first.running_var.fill_(1 - first.eps)
        first.weight.fill_(1)
        first.bias.zero_()
    other = resnetv2.PreActBasic(
        8, n_out, stride=step, norm_layer=layers.BatchNormAct2d,
        proj_layer=resnetv2.DownsampleConv if step == 2 else None,
    ).eval()  # fmt: skip
    other.conv1, other.conv2 = unit.conv_1, unit.conv_2
    other.norm1.load_state_dict(first.state_dict())
    other.norm2.load_state_dict(second.state_dict())
    if step == 2:
        other.downsample.conv = unit.around
    assert largest_difference(unit, other, image_for(8, 8, 10).abs()) < 1e-5


@pytest.mark.parametrize(
    ("config", "shape"), [(TWO_D, (61, 53)), (THREE_D, (5, 11, 17)), (TWO_D, (3, 30))]
)
def test_the_result_is_that_of_the_whole_image(
    config: ResidualUNetConfig, shape: tuple[int, ...]
) -> None:
    image = picture(config.in_channels, *shape)
    check_engine(ResidualUNet(config), image, stride=config.stride)


@pytest.mark.parametrize(("config", "size"), [(TWO_D, (16, 24)), (THREE_D, (8, 8, 12))])
def test_gradients_reach_every_weight(config: ResidualUNetConfig, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    check_gradients(ResidualUNet(config), image_for(config.in_channels, *size))


@pytest.mark.parametrize(("config", "size"), [(TWO_D, (8, 12)), (THREE_D, (4, 2, 6))])
def test_it_stands_alone(config: ResidualUNetConfig, size: tuple[int, ...]) -> None:
    check_stands_alone("unet_residual", config, image_for(config.in_channels, *size))


def test_what_comes_in_goes_round_unchanged() -> None:
    """With residues of zero a unit of as many channels is the identity."""
    unit = ResidualUnit(2, 3, 3).eval()
    nn.init.zeros_(unit.conv_2.weight)  # type: ignore[arg-type]
    image = image_for(3, 6, 6)
    assert torch.equal(unit(image), image)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_width_scales_every_level(dims: Literal[2, 3]) -> None:
    config = preset_of("unet-residual").config_for(Wanted(dims=dims, width=3))
    assert (config.dims, config.widths) == (dims, (3, 6, 12, 24))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"dims": 4}, "dims must be 2 or 3"),
        ({"in_channels": 0}, "in_channels"),
        ({"widths": ()}, "widths"),
        ({"upsampling": "linear"}, "upsampling"),
    ],
)
def test_refuses_a_network_that_cannot_be(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        ResidualUNetConfig(**settings)
