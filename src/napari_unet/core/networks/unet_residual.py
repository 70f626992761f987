"""The residual U-Net, in 2D and 3D: each level adds to what came in.

Zhang, Liu, Wang: "Road Extraction by Deep Residual U-Net", IEEE Geoscience and Remote Sensing
Letters 2018, with the residual units of He, Zhang, Ren, Sun: "Identity Mappings in Deep Residual
Networks", ECCV 2016. There is no pooling: the first convolution of a level takes steps of 2 px.
The 3x3 convolutions have the 7.8 million weights that the paper counts; those of 1x1 px, where
the number of channels changes on the way around them, come on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from napari_unet.core.networks.parts import (
    check_channels,
    check_choice,
    check_dims,
    check_widths,
    doubling,
    he_,
)
from napari_unet.core.networks.registry import Kind, Preset, Wanted

__all__ = ["PRESETS", "ResidualUNet", "ResidualUNetConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualUNetConfig:
    """What the network is: enough to build it again.

    Attributes
    ----------
    dims : 2 for images `(y, x)`, 3 for volumes `(z, y, x)`.
    in_channels, out_channels : channels of the input and of the output.
    widths : channels of each level, from full resolution down to the bottom.
    upsampling : "nearest" (each pixel doubled, as in the paper) or "transposed" (learned).
    """

    dims: Literal[2, 3] = 2
    in_channels: int = 1
    out_channels: int = 2
    widths: tuple[int, ...] = (64, 128, 256, 512)
    upsampling: Literal["nearest", "transposed"] = "nearest"

    def __post_init__(self) -> None:
        check_dims(self.dims)
        check_channels(self)
        check_widths(self.widths)
        check_choice("upsampling", self.upsampling, ("nearest", "transposed"))

    @property
    def stride(self) -> int:
        """Sizes that fit are multiples of this, in px."""
        return 1 << (len(self.widths) - 1)


def _conv(dims: int, n_in: int, n_out: int, size: int, step: int = 1) -> nn.Module:
    """A convolution that keeps the size, or halves it; the batch norm to come has its bias."""
    conv = nn.Conv2d if dims == 2 else nn.Conv3d
    return conv(n_in, n_out, size, stride=step, padding=size // 2, bias=False)


def _ready(dims: int, n: int) -> nn.Sequential:
    """Batch norm and ReLU, which come before a convolution here."""
    norm = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
    return nn.Sequential(norm(n), nn.ReLU(inplace=True))


class ResidualUnit(nn.Module):
    """(batch norm, ReLU, convolution) twice, plus what came in: y = h(x) + F(x).

    h is the identity, or a convolution of 1x1 px where channels or size change.

    Parameters
    ----------
    dims, n_in, n_out : axes of the image, channels of the input and of the output.
    step : 2 to halve the size.
    is_first : of the network: convolves the image as it is.
    """

    def __init__(
        self, dims: int, n_in: int, n_out: int, *, step: int = 1, is_first: bool = False
    ) -> None:
        super().__init__()
        self.ready_1 = nn.Identity() if is_first else _ready(dims, n_in)
        self.conv_1 = _conv(dims, n_in, n_out, 3, step)
        self.ready_2 = _ready(dims, n_out)
        self.conv_2 = _conv(dims, n_out, n_out, 3)
        has_changed = n_in != n_out or step != 1
        self.around = _conv(dims, n_in, n_out, 1, step) if has_changed else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """`(b, n_in, [z,] y, x)` to `(b, n_out, [z / step,] y / step, x / step)`."""
        residue = self.conv_1(self.ready_1(features))  # (b, n_out, [z / step,] y / step, x / step)
        residue = self.conv_2(self.ready_2(residue))
        added: Tensor = self.around(features) + residue
        return added


def _upsampling(config: ResidualUNetConfig, n: int) -> nn.Module:
    """Twice the size, with as many channels."""
    if config.upsampling == "nearest":
        return nn.Upsample(scale_factor=2, mode="nearest")
    transposed = nn.ConvTranspose2d if config.dims == 2 else nn.ConvTranspose3d
    return transposed(n, n, kernel_size=2, stride=2)


class ResidualUNet(nn.Module):
    """Image `(b, c, [z,] y, x)` to logits `(b, class, [z,] y, x)`.

    Each spatial size must be a multiple of `config.stride`.
    """

    def __init__(self, config: ResidualUNetConfig) -> None:
        super().__init__()
        self.config = config
        dims, widths = config.dims, config.widths
        self.encoder = nn.ModuleList(
            ResidualUnit(dims, n_in, n_out, step=2 if level else 1, is_first=level == 0)
            for level, (n_in, n_out) in enumerate(pairwise((config.in_channels, *widths)))
        )
        self.up = nn.ModuleList(_upsampling(config, n) for n in widths[:0:-1])
        self.decoder = nn.ModuleList(
            ResidualUnit(dims, n_below + n, n) for n_below, n in pairwise(widths[::-1])
        )
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.head = conv(widths[0], config.out_channels, kernel_size=1)
        he_(self)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(b, class, [z,] y, x)` of `image` `(b, c, [z,] y, x)`."""
        features, skips = image, []
        for unit in self.encoder:
            features = unit(features)  # (b, width, [z / 2^i,] y / 2^i, x / 2^i)
            skips.append(features)
        skips.pop()
        for up, unit in zip(self.up, self.decoder, strict=True):
            joined = torch.cat([up(features), skips.pop()], dim=1)  # (b, n_below + width, 2 y, 2 x)
            features = unit(joined)  # (b, width, [2 z,] 2 y, 2 x)
        logits: Tensor = self.head(features)
        return logits


def _configured(wanted: Wanted) -> ResidualUNetConfig:
    width = wanted.width or (64 if wanted.dims == 2 else 32)
    return ResidualUNetConfig(
        dims=3 if wanted.dims == 3 else 2,
        in_channels=wanted.in_channels,
        out_channels=wanted.out_channels,
        widths=doubling(width, 4),
    )


PRESETS = (
    Preset(
        name="unet-residual",
        title="Residual U-Net",
        paper="Zhang, Liu, Wang: Road Extraction by Deep Residual U-Net, IEEE Geoscience and "
        "Remote Sensing Letters 2018",
        summary="Each level adds to what came in, so that gradients reach all of them.",
        kind=Kind(
            name="unet_residual", title="Residual U-Net", config=ResidualUNetConfig,
            network=ResidualUNet,
        ),
        configure=_configured,
        dims=(2, 3),
        # The paper trains with a squared error, whose learning rate says nothing for other losses.
        recipe={"patch_size": 224, "batch_size": 8},
    ),
)  # fmt: skip
