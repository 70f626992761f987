"""The U-Net with same-size output, in 2D and 3D.

After Ronneberger, Fischer, Brox: "U-Net: Convolutional Networks for Biomedical Image
Segmentation", MICCAI 2015, and Çiçek et al.: "3D U-Net", MICCAI 2016. Unlike those two its
convolutions are padded, so that the output is as large as the input, and it has batch
normalisation, as nearly all later U-Nets do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from napari_unet.core.errors import SettingsError
from napari_unet.core.networks.parts import (
    MAX_LEVELS,
    check_channels,
    check_dims,
    check_share,
    doubling,
    he_,
)
from napari_unet.core.networks.registry import Kind, Preset, Wanted

__all__ = ["PRESETS", "UNet", "UNetConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetConfig:
    """What the network is: enough to build it again.

    Attributes
    ----------
    dims : 2 for images `(y, x)`, 3 for volumes `(z, y, x)`.
    in_channels, out_channels : channels of the input and of the output.
    widths : channels of each level, from full resolution down to the bottom.
    norm : "batch" or "none".
    upsampling : "transposed" (learned 2x2 up-convolution) or "linear" (interpolation).
    dropout : share of channels dropped at the bottom while training.
    """

    dims: Literal[2, 3] = 2
    in_channels: int = 1
    out_channels: int = 2
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    norm: Literal["batch", "none"] = "batch"
    upsampling: Literal["transposed", "linear"] = "transposed"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_dims(self.dims)
        check_channels(self)
        if len(self.widths) < 1 or min(self.widths) < 1:
            raise SettingsError(f"widths must be positive numbers, not {self.widths}.")
        if len(self.widths) > MAX_LEVELS:
            raise SettingsError(f"{len(self.widths)} levels are more than any image can be halved.")
        check_share("dropout", self.dropout)

    @property
    def n_poolings(self) -> int:
        """How often the image is halved on its way down."""
        return len(self.widths) - 1

    @property
    def stride(self) -> int:
        """Sizes that fit are multiples of this, in px."""
        return 1 << self.n_poolings

    @property
    def halo(self) -> int:
        """How far around a block of `stride` px the input can matter to it, in px.

        A multiple of `stride`. Followed from the first pixel of a block at full resolution down
        to the bottom and up again: two 3x3 convolutions reach 2 px of their level, and a pixel
        of one level lies in, or is interpolated from, whole pixels of the level below.
        """
        reach = 0
        for _ in range(self.n_poolings):
            reach += 2
            reach = reach // 2 + 1 if self.upsampling == "linear" else -(-reach // 2)
        reach += 2
        for _ in range(self.n_poolings):
            reach = 2 * reach + 2
        return -(-reach // self.stride) * self.stride


def _layers(dims: int) -> tuple[type[nn.Module], type[nn.Module], type[nn.Module], type[nn.Module]]:
    if dims == 2:
        return nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.ConvTranspose2d
    return nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d, nn.ConvTranspose3d


def _double_conv(config: UNetConfig, n_in: int, n_out: int) -> nn.Sequential:
    """(convolution 3x3, batch norm, ReLU) twice; `(b, n_in, ...)` to `(b, n_out, ...)`."""
    conv, norm, _, _ = _layers(config.dims)
    has_norm = config.norm == "batch"
    layers: list[nn.Module] = []
    for n_from in (n_in, n_out):
        layers.append(conv(n_from, n_out, kernel_size=3, padding=1, bias=not has_norm))
        if has_norm:
            layers.append(norm(n_out))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _upsampling(config: UNetConfig, n_in: int, n_out: int) -> nn.Module:
    """Twice the size, `n_in` to `n_out` channels."""
    conv, _, _, transposed = _layers(config.dims)
    if config.upsampling == "transposed":
        return transposed(n_in, n_out, kernel_size=2, stride=2)
    mode = "bilinear" if config.dims == 2 else "trilinear"
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode=mode, align_corners=False),
        conv(n_in, n_out, kernel_size=1),
    )


class UNet(nn.Module):
    """U-Net with padded convolutions: `(b, c, [z,] y, x)` to logits `(b, class, [z,] y, x)`.

    Each spatial size must be a multiple of `config.stride`.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        conv, _, pool, _ = _layers(config.dims)
        widths = config.widths
        self.pool = pool(2)
        self.encoder = nn.ModuleList(
            _double_conv(config, n_in, n_out)
            for n_in, n_out in zip((config.in_channels, *widths[:-1]), widths, strict=True)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.up = nn.ModuleList(
            _upsampling(config, widths[i + 1], widths[i])
            for i in reversed(range(config.n_poolings))
        )
        self.decoder = nn.ModuleList(
            _double_conv(config, 2 * widths[i], widths[i])
            for i in reversed(range(config.n_poolings))
        )
        self.head = conv(widths[0], config.out_channels, kernel_size=1)
        he_(self)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(b, class, [z,] y, x)` of `image` `(b, c, [z,] y, x)`."""
        skips = [self.encoder[0](image)]
        for level in list(self.encoder)[1:]:
            skips.append(level(self.pool(skips[-1])))  # (b, width, y / 2^i, x / 2^i)
        features: Tensor = self.dropout(skips.pop())
        for up, decoder in zip(self.up, self.decoder, strict=True):
            features = decoder(torch.cat([skips.pop(), up(features)], dim=1))
        logits: Tensor = self.head(features)
        return logits


def _configured(wanted: Wanted) -> UNetConfig:
    width = wanted.width or 32
    return UNetConfig(
        dims=3 if wanted.dims == 3 else 2,
        in_channels=wanted.in_channels,
        out_channels=wanted.out_channels,
        widths=doubling(width, 5 if wanted.dims == 2 else 4),
    )


def _linear(wanted: Wanted) -> UNetConfig:
    return replace(_configured(wanted), upsampling="linear")


def _plain(wanted: Wanted) -> UNetConfig:
    return replace(_configured(wanted), norm="none")


KIND = Kind(name="unet", title="U-Net with padded convolutions", config=UNetConfig, network=UNet)
PAPER = "Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, with padded convolutions"
PRESETS = (
    Preset(
        name="unet",
        title="U-Net, padded",
        paper=PAPER + " and batch normalisation (Ioffe, Szegedy 2015)",
        summary="The output is as large as the input; trains fast and steadily.",
        kind=KIND,
        configure=_configured,
        dims=(2, 3),
    ),
    Preset(
        name="unet-linear",
        title="U-Net, padded, interpolating",
        paper=PAPER + ", batch normalisation, and linear interpolation instead of up-convolutions",
        summary="Fewer weights, and no checkerboards, which up-convolutions may leave.",
        kind=KIND,
        configure=_linear,
        dims=(2, 3),
    ),
    Preset(
        name="unet-plain",
        title="U-Net, padded, without batch normalisation",
        paper=PAPER,
        summary="Each image is seen by itself, whatever else is in the batch; learns more slowly.",
        kind=KIND,
        configure=_plain,
        dims=(2, 3),
        recipe={"normalization": "zscore"},
    ),
)
