"""The 3D U-Net, against the figures of the paper and another implementation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from originals import image_for, largest_difference, randomised
from torch import Tensor, nn
from unet_checks import (
    check_engine,
    check_gradients,
    check_stands_alone,
    n_parameters,
    on_meta,
    picture,
)

from napari_unet.core.checkpoints.unet3d.network import Unet3dConfig, Unet3dNetwork
from napari_unet.core.engine.facts import general_facts
from napari_unet.core.errors import SettingsError
from napari_unet.core.networks import Wanted, preset_of
from napari_unet.core.networks.unet_3d import UNet3d, UNet3dConfig

PAPER = Wanted(dims=3, in_channels=3, out_channels=3)
TWO = UNet3dConfig(
    widths=(4, 6), strides=((2, 2, 2),), kernels=((3, 3, 3),) * 2, in_channels=2, out_channels=3
)
FLAT: dict[str, Any] = {
    "widths": (2, 4, 4), "strides": ((1, 2, 2), (2, 2, 2)),
    "kernels": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
}  # fmt: skip


def test_it_has_the_parameters_of_the_paper() -> None:
    network = on_meta(preset_of("unet-3d"), PAPER)
    scales = sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.BatchNorm3d))
    assert scales == 32 + 2 * 64 + 2 * 128 + 2 * 256 + 512 + 2 * (256 + 128 + 64) == 2336
    assert n_parameters(network) == 19_072_291
    assert n_parameters(network) - scales == 19_069_955
    with torch.device("meta"):
        plain = UNet3d(UNet3dConfig(in_channels=3, out_channels=3, norm="none"))
    assert n_parameters(plain) == 19_069_955


def test_the_volume_of_the_paper_gives_the_sizes_of_its_figure() -> None:
    network = on_meta(preset_of("unet-3d"), PAPER).eval()
    sizes, n_in = [], []
    for block in [*network.encoder, *network.decoder]:
        block.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[1:])))
        n_in.append(block[0].in_channels)
    logits = network(torch.empty(1, 3, 116, 132, 132, device="meta"))
    assert logits.shape == (1, 3, 28, 44, 44)
    assert [n for n, *_ in sizes] == [64, 128, 256, 512, 256, 128, 64]
    assert [size[1:] for size in sizes] == [
        (112, 128, 128), (52, 60, 60), (22, 26, 26), (7, 9, 9), (10, 14, 14), (16, 24, 24),
        (28, 44, 44),
    ]  # fmt: skip
    assert n_in == [3, 64, 128, 256, 256 + 512, 128 + 256, 64 + 128]
    assert [block[0].out_channels for block in network.encoder] == [32, 64, 128, 256]


def test_batch_norm_comes_before_the_activation() -> None:
    names = [type(m).__name__ for m in UNet3d(TWO).encoder[0]]
    assert names == ["Conv3d", "BatchNorm3d", "ReLU"] * 2


def test_up_convolutions_keep_the_number_of_channels() -> None:
    network = on_meta(preset_of("unet-3d"), PAPER)
    assert [(up.in_channels, up.out_channels) for up in network.up] == [
        (512, 512), (256, 256), (128, 128),
    ]  # fmt: skip


def walked(n: int, kernels: list[int], strides: list[int]) -> int | None:
    """Along one axis, convolution by convolution; None if something does not fit."""
    skips = []
    for kernel, stride in zip(kernels, [*strides, 0], strict=True):
        for _ in range(2):
            n = n - kernel + 1
            if n < 1:
                return None
        if stride:
            skips.append(n)
            if n % stride:
                return None
            n //= stride
    for kernel, stride in zip(kernels[-2::-1], strides[::-1], strict=True):
        n *= stride
        if n > skips.pop():
            return None
        for _ in range(2):
            n = n - kernel + 1
            if n < 1:
                return None
    return n


@pytest.mark.parametrize(
    "config",
    [UNet3dConfig(), TWO, UNet3dConfig(**FLAT),
     UNet3dConfig(widths=(1,) * 3, strides=((1, 3, 4), (2, 1, 3)),
                  kernels=((5, 1, 3), (3, 3, 1), (1, 7, 3)))],
)  # fmt: skip
def test_which_sizes_fit(config: UNet3dConfig) -> None:
    for axis in range(3):
        kernels = [k[axis] for k in config.kernels]
        strides = [s[axis] for s in config.strides]
        least, step = config.least[axis], config.stride[axis]
        for n in range(1, least + 3 * step):
            size = [least_n if at != axis else n for at, least_n in enumerate(config.least)]
            expected = walked(n, kernels, strides)
            assert (expected is not None) == (n >= least and (n - least) % step == 0)
            if expected is None:
                with pytest.raises(SettingsError, match="does not fit this network"):
                    config.output_size(size)
            else:
                assert config.output_size(size)[axis] == expected
                assert expected == n - config.margin[axis]


def test_it_says_which_sizes_fit() -> None:
    assert UNet3dConfig().output_size((116, 132, 132)) == (28, 44, 44)
    sentence = r"64 x 132 x 132 px \(z, y, x\) does not fit.*92, 100, 108, ... along z, 92, 100"
    with pytest.raises(SettingsError, match=sentence):
        UNet3d(UNet3dConfig(widths=(1, 1, 1, 1)))(torch.zeros(1, 1, 64, 132, 132))
    padded = UNet3d(UNet3dConfig(padding="same", **FLAT))
    with pytest.raises(SettingsError, match=r"2, 4, 6, ... along z, 4, 8, 12, ... along y"):
        padded(torch.zeros(1, 1, 3, 8, 8))


@pytest.mark.parametrize(
    ("name", "stride", "margin"),
    [("unet-3d", (8, 8, 8), 88), ("unet-3d-padded", (8, 8, 8), 0), ("unet-3d-flat", (4, 8, 8), 0)],
)
def test_the_engine_finds_out_the_same_sizes(
    name: str, stride: tuple[int, ...], margin: int
) -> None:
    config = preset_of(name).config_for(Wanted(dims=3, width=1))
    fit = general_facts(UNet3d(config).eval(), 1, 3).fit
    assert fit.stride == config.stride == stride
    assert fit.margin == config.margin == (margin,) * 3
    assert fit.least == config.least


def as_pytorch_3dunet(network: UNet3d) -> Unet3dNetwork:
    """The same weights in another implementation, whose up-convolutions have 3x3x3 px."""
    config = network.config
    halves = tuple((n // 2, n) for n in config.widths)
    other = Unet3dNetwork(
        Unet3dConfig(
            dims=3, in_channels=config.in_channels, out_channels=config.out_channels,
            block="double", encoders=halves, decoders=tuple((n, n) for n in config.widths[-2::-1]),
            up=config.widths[:0:-1], join="concat", kernel=(3, 3, 3), pool=(2, 2, 2),
            norm="batchnorm", norm_at="between", upsampling="deconv",
        )
    )  # fmt: skip
    renamed: dict[str, Tensor] = {}
    parts = {"0": "SingleConv1.conv", "1": "SingleConv1.batchnorm", "3": "SingleConv2.conv",
             "4": "SingleConv2.batchnorm"}  # fmt: skip
    for name, value in network.state_dict().items():
        part, level, *rest = name.split(".")
        if part == "head":
            renamed[f"final_conv.{level}"] = value
        elif part == "up":  # the first px of three would reach back into the px before
            wide = nn.functional.pad(value, (1, 0, 1, 0, 1, 0))  # (in, out, 3, 3, 3)
            renamed[f"decoders.{level}.upsampling.upsample.weight"] = wide
        else:
            block = f"{part}s.{level}.basic_module.{parts[rest[0]]}.{rest[1]}"
            renamed[block] = value
            if part == "decoder" and rest == ["0", "weight"]:  # there the skip comes first
                n_up = value.shape[1] - config.widths[-2 - int(level)]
                renamed[block] = torch.cat([value[:, n_up:], value[:, :n_up]], dim=1)
    other.load_state_dict(renamed, strict=True)
    return other.eval()


def test_another_implementation_gives_the_same() -> None:
    config = UNet3dConfig(
        in_channels=2, out_channels=3, widths=(4, 6, 8), strides=((2, 2, 2),) * 2,
        kernels=((3, 3, 3),) * 3, padding="same",
    )  # fmt: skip
    network = UNet3d(config)
    randomised(network)
    difference = largest_difference(network, as_pytorch_3dunet(network), image_for(2, 8, 12, 16))
    assert difference < 1e-5


@torch.no_grad()
def test_unpadded_it_gives_what_it_gives_padded_where_no_padding_has_reached() -> None:
    """And so its crops take the very middle."""
    about: dict[str, Any] = {
        "widths": (2, 3, 4), "strides": ((2, 2, 2),) * 2, "kernels": ((3, 3, 3),) * 3,
    }  # fmt: skip
    unpadded = randomised(UNet3d(UNet3dConfig(**about)))
    padded = UNet3d(UNet3dConfig(padding="same", **about)).eval()
    padded.load_state_dict(unpadded.state_dict(), strict=True)
    volume = image_for(1, 52, 48, 44)
    found = unpadded(volume)
    assert found.shape[2:] == (12, 8, 4)
    # 2 + 4 px are lost before the second pooling: 2 px more, and both pool the same.
    whole = padded(nn.functional.pad(volume, (2,) * 6))
    torch.testing.assert_close(found, whole[:, :, 22:34, 22:30, 22:26], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("config", "shape", "stride", "margin"),
    [
        (TWO, (5, 11, 14), 2, 16),
        (UNet3dConfig(padding="same", in_channels=2, **FLAT), (5, 11, 18), (2, 4, 4), 0),
        (UNet3dConfig(in_channels=2, **FLAT), (3, 6, 9), (2, 4, 4), None),
    ],
)
def test_the_result_is_that_of_the_mirrored_volume(
    config: UNet3dConfig, shape: tuple[int, ...], stride: Any, margin: Any
) -> None:
    margin = config.margin if margin is None else margin
    assert config.stride == (stride if isinstance(stride, tuple) else (stride,) * 3)
    check_engine(UNet3d(config), picture(2, *shape), stride, margin)


def test_weights_are_drawn_for_what_goes_into_a_voxel() -> None:
    torch.manual_seed(0)
    config = UNet3dConfig(widths=(8, 16), strides=((1, 2, 2),), kernels=((1, 3, 3), (3, 3, 3)))
    for name, module in UNet3d(config).named_modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            n_px = 1 if isinstance(module, nn.ConvTranspose3d) else math.prod(module.kernel_size)
            std = math.sqrt(2 / (module.in_channels * n_px))
            weight = module.weight.detach()
            near = pytest.approx(std, rel=5 / math.sqrt(2 * weight.numel()))
            assert float(weight.std()) == near, name


def test_gradients_reach_every_weight() -> None:
    torch.manual_seed(0)
    check_gradients(UNet3d(TWO), image_for(2, 20, 20, 24))


@pytest.mark.parametrize(
    ("config", "size"), [(TWO, (20, 20, 22)), (UNet3dConfig(padding="same", **FLAT), (2, 8, 4))]
)
def test_it_stands_alone(config: UNet3dConfig, size: tuple[int, ...]) -> None:
    check_stands_alone("unet_3d", config, image_for(config.in_channels, *size))


def test_the_width_scales_every_level() -> None:
    config = preset_of("unet-3d").config_for(Wanted(dims=3, width=4))
    assert config.widths == (4, 8, 16, 32)
    network = UNet3d(config)
    assert network.encoder[0][0].out_channels == 2
    flat = preset_of("unet-3d-flat").config_for(Wanted(dims=3))
    assert (flat.strides[0], flat.kernels[0], flat.padding) == ((1, 2, 2), (1, 3, 3), "same")
    with pytest.raises(SettingsError, match="is one for 3D"):
        preset_of("unet-3d").config_for(Wanted(dims=2))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"dims": 2}, "dims must be 3"),
        ({"in_channels": 0}, "in_channels"),
        ({"widths": ()}, "widths"),
        ({"widths": (1,) * 9}, "widths must be 1 to 8"),
        ({"strides": ((2, 2, 2),)}, "strides must be 3 times three numbers"),
        ({"strides": ((0, 2, 2),) * 3}, "strides"),
        ({"kernels": ((3, 3, 3),) * 3}, "kernels must be 4 times three numbers"),
        ({"kernels": ((3, 3, 99),) * 4}, "from 1 to 16"),
        ({"kernels": ((2, 3, 3),) * 4}, "odd"),
        ({"padding": "mirror"}, "padding"),
    ],
)
def test_refuses_a_network_that_cannot_be(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        UNet3dConfig(**settings)
