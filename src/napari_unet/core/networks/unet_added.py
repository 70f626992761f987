"""The U-Net whose skips are added instead of concatenated, in 2D and 3D.

Lin, Dollár, Girshick, He, Hariharan, Belongie: "Feature Pyramid Networks for Object Detection",
CVPR 2017, and Chaurasia, Culurciello: "LinkNet: Exploiting Encoder Representations for Efficient
Semantic Segmentation", VCIP 2017. The way down and the blocks are those of the U-Net. What comes
from the side is added as it is (LinkNet), or after a convolution of 1x1 px (FPN). Decoders have
half the weights in their first convolution, and less to remember.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

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

__all__ = ["PRESETS", "AddedUNet", "AddedUNetConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedUNetConfig:
    """What the network is: enough to build it again.

    Attributes
    ----------
    dims : 2 for images `(y, x)`, 3 for volumes `(z, y, x)`.
    in_channels, out_channels : channels of the input and of the output.
    widths : channels of each level, from full resolution down to the bottom.
    lateral : "identity" (skips are added as they are) or "conv" (after a 1x1 convolution).
    upsampling : "transposed" (learned 2x2 up-convolution, as LinkNet learns its own) or "nearest"
        (a 1x1 convolution, then each pixel doubled, as in FPN).
    norm : "batch" or "none".
    """

    dims: Literal[2, 3] = 2
    in_channels: int = 1
    out_channels: int = 2
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    lateral: Literal["identity", "conv"] = "conv"
    upsampling: Literal["transposed", "nearest"] = "nearest"
    norm: Literal["batch", "none"] = "batch"

    def __post_init__(self) -> None:
        check_dims(self.dims)
        check_channels(self)
        check_widths(self.widths)
        check_choice("lateral", self.lateral, ("identity", "conv"))
        check_choice("upsampling", self.upsampling, ("transposed", "nearest"))
        check_choice("norm", self.norm, ("batch", "none"))

    @property
    def stride(self) -> int:
        """Sizes that fit are multiples of this, in px."""
        return 1 << (len(self.widths) - 1)


def _conv(config: AddedUNetConfig) -> type[nn.Conv2d] | type[nn.Conv3d]:
    return nn.Conv2d if config.dims == 2 else nn.Conv3d


def _double_conv(config: AddedUNetConfig, n_in: int, n_out: int) -> nn.Sequential:
    """(convolution 3x3, batch norm, ReLU) twice; `(b, n_in, ...)` to `(b, n_out, ...)`."""
    has_norm = config.norm == "batch"
    norm = nn.BatchNorm2d if config.dims == 2 else nn.BatchNorm3d
    layers: list[nn.Module] = []
    for n_from in (n_in, n_out):
        layers.append(_conv(config)(n_from, n_out, 3, padding=1, bias=not has_norm))
        layers += [norm(n_out)] if has_norm else []
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _upsampling(config: AddedUNetConfig, n_in: int, n_out: int) -> nn.Module:
    """Twice the size, `n_in` to `n_out` channels."""
    if config.upsampling == "nearest":  # pixels are doubled last: a quarter of the arithmetic
        return nn.Sequential(
            _conv(config)(n_in, n_out, kernel_size=1), nn.Upsample(scale_factor=2, mode="nearest")
        )
    transposed = nn.ConvTranspose2d if config.dims == 2 else nn.ConvTranspose3d
    return transposed(n_in, n_out, kernel_size=2, stride=2)


class AddedUNet(nn.Module):
    """Image `(b, c, [z,] y, x)` to logits `(b, class, [z,] y, x)`.

    Each spatial size must be a multiple of `config.stride`.
    """

    def __init__(self, config: AddedUNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.pool = nn.MaxPool2d(2) if config.dims == 2 else nn.MaxPool3d(2)
        self.encoder = nn.ModuleList(
            _double_conv(config, n_in, n_out)
            for n_in, n_out in pairwise((config.in_channels, *widths))
        )
        self.up = nn.ModuleList(
            _upsampling(config, n_below, n) for n_below, n in pairwise(widths[::-1])
        )
        conv = _conv(config)
        self.lateral = nn.ModuleList(
            nn.Identity() if config.lateral == "identity" else conv(n, n, kernel_size=1)
            for n in widths[-2::-1]
        )
        self.decoder = nn.ModuleList(_double_conv(config, n, n) for n in widths[-2::-1])
        self.head = conv(widths[0], config.out_channels, kernel_size=1)
        he_(self)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(b, class, [z,] y, x)` of `image` `(b, c, [z,] y, x)`."""
        skips = [self.encoder[0](image)]
        for level in list(self.encoder)[1:]:
            skips.append(level(self.pool(skips[-1])))  # (b, width, [z / 2^i,] y / 2^i, x / 2^i)
        features = skips.pop()
        for up, lateral, decoder in zip(self.up, self.lateral, self.decoder, strict=True):
            features = decoder(up(features) + lateral(skips.pop()))  # (b, width, [2 z,] 2 y, 2 x)
        logits: Tensor = self.head(features)
        return logits


def _configured(wanted: Wanted) -> AddedUNetConfig:
    width = wanted.width or 32
    return AddedUNetConfig(
        dims=3 if wanted.dims == 3 else 2,
        in_channels=wanted.in_channels,
        out_channels=wanted.out_channels,
        widths=doubling(width, 5 if wanted.dims == 2 else 4),
    )


PRESETS = (
    Preset(
        name="unet-added",
        title="U-Net with added skips (FPN)",
        paper="Lin et al.: Feature Pyramid Networks for Object Detection, CVPR 2017; Chaurasia, "
        "Culurciello: LinkNet, VCIP 2017; on the U-Net of Ronneberger et al., MICCAI 2015",
        summary="What comes from the side is added, not put beside: a smaller, faster decoder.",
        kind=Kind(
            name="unet_added", title="U-Net with added skips", config=AddedUNetConfig,
            network=AddedUNet,
        ),
        configure=_configured,
        dims=(2, 3),
    ),
)  # fmt: skip
