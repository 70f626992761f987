"""The U-Net with added skips, against the U-Net that concatenates them."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from originals import image_for, largest_difference, randomised
from torch import Tensor
from unet_checks import (
    check_engine,
    check_gradients,
    check_stands_alone,
    n_parameters,
    on_meta,
    picture,
)

from napari_unet.core.errors import SettingsError
from napari_unet.core.networks import UNet, UNetConfig, Wanted, preset_of
from napari_unet.core.networks.unet_added import AddedUNet, AddedUNetConfig

LINKNET = AddedUNetConfig(
    in_channels=2, out_channels=3, widths=(3, 4, 5), lateral="identity", upsampling="transposed"
)
FPN = AddedUNetConfig(widths=(3, 4, 5))
FPN_3D = AddedUNetConfig(dims=3, widths=(2, 3), norm="none")


def concatenating(network: AddedUNet) -> UNet:
    """A U-Net that adds: both halves of what it concatenates have the same weights."""
    config = network.config
    other = UNet(
        UNetConfig(
            dims=config.dims, in_channels=config.in_channels, out_channels=config.out_channels,
            widths=config.widths, norm=config.norm,
        )
    )  # fmt: skip
    weights: dict[str, Tensor] = dict(network.state_dict())
    for i in range(len(config.widths) - 1):
        first = weights[f"decoder.{i}.0.weight"]
        weights[f"decoder.{i}.0.weight"] = torch.cat([first, first], dim=1)
    other.load_state_dict(weights, strict=True)
    return other.eval()


@pytest.mark.parametrize(
    ("dims", "norm", "size"), [(2, "batch", (12, 8)), (3, "none", (4, 8, 12)), (2, "none", (4, 4))]
)
def test_it_is_a_u_net_of_weights_that_are_twice_the_same(
    dims: Literal[2, 3], norm: Literal["batch", "none"], size: tuple[int, ...]
) -> None:
    network = AddedUNet(
        AddedUNetConfig(
            dims=dims, norm=norm, widths=(3, 4, 5), lateral="identity", upsampling="transposed"
        )
    )
    randomised(network)
    assert largest_difference(network, concatenating(network), image_for(1, *size)) < 1e-5


def test_a_pyramid_adds_what_a_small_convolution_makes_of_the_skip() -> None:
    """Of two levels, step by step: lateral 1x1, pixels doubled, added."""
    network = AddedUNet(AddedUNetConfig(widths=(3, 4), norm="none"))
    randomised(network)
    weights = network.state_dict()

    def expected(image: Tensor) -> Tensor:
        top = network.encoder[0](image)
        low = network.encoder[1](F.max_pool2d(top, 2))
        low = low.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)  # (b, 4, y, x)
        low = F.conv2d(low, weights["up.0.0.weight"], weights["up.0.0.bias"])
        side = F.conv2d(top, weights["lateral.0.weight"], weights["lateral.0.bias"])
        return network.head(network.decoder[0](low + side))

    assert largest_difference(network, expected, image_for(1, 6, 8)) < 1e-5


def test_its_decoder_has_fewer_weights() -> None:
    ours, plain = (on_meta(preset_of(name), Wanted()) for name in ("unet-added", "unet"))
    assert n_parameters(ours) < 0.85 * n_parameters(plain)
    widths = [block[0].in_channels for block in ours.decoder]
    assert widths == [256, 128, 64, 32]
    assert [block[0].in_channels for block in plain.decoder] == [512, 256, 128, 64]


CONFIGS = [(LINKNET, (61, 53)), (FPN, (6, 35)), (FPN_3D, (5, 11, 17))]


@pytest.mark.parametrize(("config", "shape"), CONFIGS)
def test_the_result_is_that_of_the_whole_image(
    config: AddedUNetConfig, shape: tuple[int, ...]
) -> None:
    check_engine(AddedUNet(config), picture(config.in_channels, *shape), stride=config.stride)


@pytest.mark.parametrize(
    ("config", "size"), [(LINKNET, (16, 24)), (FPN, (16, 16)), (FPN_3D, (8, 8, 12))]
)
def test_gradients_reach_every_weight(config: AddedUNetConfig, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = AddedUNet(config)
    check_gradients(network, image_for(config.in_channels, *size))


@pytest.mark.parametrize(
    ("config", "size"), [(LINKNET, (8, 12)), (FPN, (4, 8)), (FPN_3D, (4, 2, 6))]
)
def test_it_stands_alone(config: AddedUNetConfig, size: tuple[int, ...]) -> None:
    check_stands_alone("unet_added", config, image_for(config.in_channels, *size))


@pytest.mark.parametrize(("dims", "n_levels"), [(2, 5), (3, 4)])
def test_the_width_scales_every_level(dims: Literal[2, 3], n_levels: int) -> None:
    config = preset_of("unet-added").config_for(Wanted(dims=dims, width=3))
    assert (config.dims, config.widths) == (dims, tuple(3 * 2**i for i in range(n_levels)))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"dims": 1}, "dims must be 2 or 3"),
        ({"out_channels": 0}, "out_channels"),
        ({"widths": (2, 0)}, "widths"),
        ({"lateral": "gate"}, "lateral must be 'identity' or 'conv', not 'gate'"),
        ({"upsampling": "linear"}, "upsampling"),
        ({"norm": "group"}, "norm"),
    ],
)
def test_refuses_a_network_that_cannot_be(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        AddedUNetConfig(**settings)
