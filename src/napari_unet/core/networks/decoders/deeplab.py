"""The decoders of DeepLabV3 and DeepLabV3+ (Chen et al. 2017 and 2018).

Files have the names of segmentation_models_pytorch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DeepLabDecoder", "DeepLabPlusDecoder"]

Rates = tuple[int, int, int]


def _separable(n_in: int, n_out: int, dilation: int = 1) -> nn.Sequential:
    """Convolution 3x3 of each channel by itself, then of all channels in each pixel."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_in, 3, padding=dilation, dilation=dilation, groups=n_in, bias=False),
        nn.Conv2d(n_in, n_out, 1, bias=False),
    )


def _normed(*convs: nn.Module, n: int) -> nn.Sequential:
    return nn.Sequential(*convs, nn.BatchNorm2d(n), nn.ReLU())


def _atrous(n_in: int, n_out: int, rate: int, separable: bool) -> nn.Sequential:
    if separable:
        return _normed(_separable(n_in, n_out, rate), n=n_out)
    conv = nn.Conv2d(n_in, n_out, 3, padding=rate, dilation=rate, bias=False)
    return _normed(conv, n=n_out)


class _Atrous(nn.Module):
    """A feature map seen at five scales at once."""

    def __init__(self, n_in: int, n_out: int, rates: Rates, separable: bool) -> None:
        super().__init__()
        pooled = _normed(nn.AdaptiveAvgPool2d(1), nn.Conv2d(n_in, n_out, 1, bias=False), n=n_out)
        self.convs = nn.ModuleList(
            [
                _normed(nn.Conv2d(n_in, n_out, 1, bias=False), n=n_out),
                *(_atrous(n_in, n_out, rate, separable) for rate in rates),
                pooled,
            ]
        )
        self.project = nn.Sequential(
            *_normed(nn.Conv2d(5 * n_out, n_out, 1, bias=False), n=n_out), nn.Dropout(0.5)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(b, n_in, y, x)` to `(b, n_out, y, x)`."""
        *local, pooled = [conv(x) for conv in self.convs]
        pooled = F.interpolate(pooled, size=x.shape[2:], mode="bilinear", align_corners=False)
        projected: Tensor = self.project(torch.cat([*local, pooled], dim=1))
        return projected


class DeepLabDecoder(nn.Module):
    """The deepest feature map seen at several scales; `(b, width, ...)` of its size.

    Parameters
    ----------
    encoder_channels : of the feature maps, from full resolution down; only the last counts.
    width : channels of all layers.
    rates : how many pixels apart the convolutions look.
    separable : whether these convolve each channel by itself.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        width: int = 256,
        *,
        rates: Rates = (12, 24, 36),
        separable: bool = False,
    ) -> None:
        super().__init__()
        self.aspp = _Atrous(encoder_channels[-1], width, rates, separable)
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """`(b, width, y, x)` of the deepest feature map."""
        return F.relu(self.bn(self.conv(self.aspp(features[-1]))))


class DeepLabPlusDecoder(nn.Module):
    """As `DeepLabDecoder`, and then refined with the feature map at a quarter of the resolution.

    Parameters as there, and `factor`: how much coarser the deepest feature map is than that one.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        width: int = 256,
        *,
        rates: Rates = (12, 24, 36),
        separable: bool = True,
        factor: int = 4,
    ) -> None:
        super().__init__()
        self.factor = factor
        self.aspp = nn.Sequential(
            _Atrous(encoder_channels[-1], width, rates, separable),
            *_normed(_separable(width, width), n=width),
        )
        self.block1 = _normed(nn.Conv2d(encoder_channels[2], 48, 1, bias=False), n=48)
        self.block2 = _normed(_separable(48 + width, width), n=width)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """`(b, width, y / 4, x / 4)`."""
        deep = F.interpolate(
            self.aspp(features[-1]),
            scale_factor=float(self.factor),
            mode="bilinear",
            align_corners=True,
        )
        refined: Tensor = self.block2(torch.cat([deep, self.block1(features[2])], dim=1))
        return refined
