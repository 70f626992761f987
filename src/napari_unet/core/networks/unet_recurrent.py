"""R2U-Net: a U-Net of recurrent convolutions inside residual blocks.

After Alom et al.: "Recurrent Residual Convolutional Neural Network based on U-Net (R2U-Net) for
Medical Image Segmentation", 2018 (arXiv 1802.06955). A recurrent convolution looks at its input
and at its own last result, `t` times over with the same weights, so that its reach grows but not
the number of weights; two of them and a straight path around them are a block.

The paper's t = 2 is one convolution of the input and two more of input and last result. Layers are
those of the best known copy (LeeJunHyun/Image_Segmentation: 39.09 M weights), where batch
normalisation, too, is the same at each time, and pixels are doubled before a 3x3 convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from napari_unet.core.errors import SettingsError
from napari_unet.core.networks.parts import check_channels, check_dims, check_widths, doubling, he_
from napari_unet.core.networks.registry import Kind, Preset, Wanted

__all__ = ["PRESETS", "RecurrentUNet", "RecurrentUNetConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentUNetConfig:
    """What the network is: enough to build it again.

    Attributes
    ----------
    dims : 2 for images `(y, x)`, 3 for volumes `(z, y, x)`.
    in_channels, out_channels : channels of the input and of the output.
    widths : channels of each level, from full resolution down to the bottom.
    steps : how often a convolution looks at its own result; t in the paper.
    """

    dims: Literal[2, 3] = 2
    in_channels: int = 1
    out_channels: int = 2
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    steps: int = 2

    def __post_init__(self) -> None:
        check_dims(self.dims)
        check_channels(self)
        check_widths(self.widths)
        if not 0 <= self.steps <= 16:
            raise SettingsError(f"steps must be 0 to 16, not {self.steps}.")


def _layers(dims: int) -> tuple[type[nn.Module], type[nn.Module], type[nn.Module]]:
    if dims == 2:
        return nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d
    return nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d


def _convolved(dims: int, n_in: int, n_out: int) -> list[nn.Module]:
    """Convolution 3x3, batch norm, ReLU."""
    conv, norm, _ = _layers(dims)
    return [conv(n_in, n_out, kernel_size=3, padding=1), norm(n_out), nn.ReLU(inplace=True)]


class _Recurrent(nn.Module):
    """One convolution, repeated on the sum of its input and its last result."""

    def __init__(self, dims: int, width: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.conv = nn.Sequential(*_convolved(dims, width, width))

    def forward(self, features: Tensor) -> Tensor:
        """`(b, width, y, x)` to the same; batch norm has the same weights each time, too."""
        result: Tensor = self.conv(features)
        for _ in range(self.steps):
            result = self.conv(features + result)
        return result


class _Residual(nn.Module):
    """A 1x1 convolution, and what two recurrent convolutions add to it."""

    def __init__(self, config: RecurrentUNetConfig, n_in: int, n_out: int) -> None:
        super().__init__()
        conv, _, _ = _layers(config.dims)
        self.straight = conv(n_in, n_out, kernel_size=1)
        self.around = nn.Sequential(
            *(_Recurrent(config.dims, n_out, config.steps) for _ in range(2))
        )

    def forward(self, features: Tensor) -> Tensor:
        """`(b, n_in, y, x)` to `(b, n_out, y, x)`."""
        straight: Tensor = self.straight(features)
        both: Tensor = straight + self.around(straight)
        return both


class RecurrentUNet(nn.Module):
    """U-Net of recurrent residual blocks: `(b, c, [z,] y, x)` to logits `(b, class, [z,] y, x)`.

    Each spatial size must be a multiple of `2 ** (len(config.widths) - 1)`.
    """

    def __init__(self, config: RecurrentUNetConfig) -> None:
        super().__init__()
        self.config = config
        conv, _, pool = _layers(config.dims)
        widths = config.widths
        self.pool = pool(2)
        self.encoder = nn.ModuleList(
            _Residual(config, n_in, n_out)
            for n_in, n_out in zip((config.in_channels, *widths[:-1]), widths, strict=True)
        )
        above = list(reversed(range(len(widths) - 1)))  # levels on the way up
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.Upsample(scale_factor=2), *_convolved(config.dims, widths[i + 1], widths[i])
            )
            for i in above
        )
        self.decoder = nn.ModuleList(_Residual(config, 2 * widths[i], widths[i]) for i in above)
        self.head = conv(widths[0], config.out_channels, kernel_size=1)
        he_(self)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(b, class, [z,] y, x)` of `image` `(b, c, [z,] y, x)`."""
        skips = [self.encoder[0](image)]
        for encode in list(self.encoder)[1:]:
            skips.append(encode(self.pool(skips[-1])))  # (b, width, y / 2^i, x / 2^i)
        features: Tensor = skips.pop()
        for up, decode in zip(self.up, self.decoder, strict=True):
            features = decode(torch.cat([skips.pop(), up(features)], dim=1))
        logits: Tensor = self.head(features)
        return logits


def _configured(wanted: Wanted) -> RecurrentUNetConfig:
    width = wanted.width or 64
    return RecurrentUNetConfig(
        dims=3 if wanted.dims == 3 else 2,
        in_channels=wanted.in_channels,
        out_channels=wanted.out_channels,
        widths=doubling(width, 5 if wanted.dims == 2 else 4),
    )


PRESETS = (
    Preset(
        name="unet-r2",
        title="R2U-Net",
        paper="Alom, Hasan, Yakopcic, Taha, Asari: Recurrent Residual Convolutional Neural Network "
        "based on U-Net (R2U-Net) for Medical Image Segmentation, 2018",
        summary="Each convolution is repeated on its own result, inside residual blocks.",
        kind=Kind(
            name="unet-r2", title="R2U-Net", config=RecurrentUNetConfig, network=RecurrentUNet
        ),
        configure=_configured,
        dims=(2, 3),
        recipe={
            "loss": "cross-entropy",
            "optimizer": "adam",
            "learning_rate": 2e-4,
            "schedule": "constant",
        },
    ),
)
