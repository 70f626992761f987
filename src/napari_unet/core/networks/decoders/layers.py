"""What several decoders are made of."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "Attention",
    "AttentionKind",
    "Interpolation",
    "Norm",
    "centre",
    "conv_relu",
    "enlarged",
    "global_weights",
    "normalised",
]

Norm = Literal["batch", "instance", "none"]

AttentionKind = Literal["none", "scse", "old scse"]
"""The old one, of 2019, weighs each channel of a pixel by itself."""

Interpolation = Literal["nearest", "bilinear", "bicubic"]


def normalised(conv: nn.Module, n: int, norm: Norm) -> nn.Sequential:
    """Convolution to `n` channels, norm, ReLU; they have the names 0, 1 and 2."""
    norms: dict[Norm, nn.Module] = {
        "batch": nn.BatchNorm2d(n),
        "instance": nn.InstanceNorm2d(n, affine=True),
        "none": nn.Identity(),
    }
    return nn.Sequential(conv, norms[norm], nn.ReLU(inplace=True))


def conv_relu(n_in: int, n_out: int, size: int, norm: Norm) -> nn.Sequential:
    """Padded convolution, norm, ReLU; `(b, n_in, y, x)` to `(b, n_out, y, x)`."""
    conv = nn.Conv2d(n_in, n_out, size, padding=size // 2, bias=norm == "none")
    return normalised(conv, n_out, norm)


def centre(n: int, norm: Norm, has_layers: bool) -> nn.Module:
    """Two convolutions 3x3 of the deepest feature map, or nothing."""
    if not has_layers:
        return nn.Identity()
    return nn.Sequential(conv_relu(n, n, 3, norm), conv_relu(n, n, 3, norm))


def enlarged(x: Tensor, mode: Interpolation, factor: int = 2) -> Tensor:
    """The image at `factor` times the resolution."""
    return F.interpolate(x, scale_factor=float(factor), mode=mode)


def global_weights(n: int, reduced: int) -> nn.Sequential:
    """A weight for each channel from what all are on average; `(b, n, y, x)` to `(b, n, 1, 1)`."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(n, reduced, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(reduced, n, 1),
        nn.Sigmoid(),
    )


class _Attention(nn.Module):
    """Channels and pixels weighed (Roy et al. 2018, "Concurrent Spatial and Channel ...")."""

    def __init__(self, n: int, n_weights: int) -> None:
        super().__init__()
        self.cSE = global_weights(n, n // 16)
        self.sSE = nn.Sequential(nn.Conv2d(n, n_weights, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        weighed: Tensor = x * self.cSE(x) + x * self.sSE(x)
        return weighed


class Attention(nn.Module):
    """Attention, or none; `(b, n, y, x)` to the same."""

    def __init__(self, n: int, kind: AttentionKind) -> None:
        super().__init__()
        self.attention: nn.Module = nn.Identity()
        if kind != "none":
            self.attention = _Attention(n, 1 if kind == "scse" else n)

    def forward(self, x: Tensor) -> Tensor:
        """The image weighed."""
        weighed: Tensor = self.attention(x)
        return weighed
