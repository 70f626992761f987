"""The decoders of MA-Net (Fan et al. 2020) and of LinkNet (Chaurasia & Culurciello 2017).

Files have the names of segmentation_models_pytorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from napari_unet.core.networks.decoders.layers import (
    Interpolation,
    Norm,
    conv_relu,
    enlarged,
    global_weights,
    normalised,
)

__all__ = ["LinkNetDecoder", "MANetDecoder"]


class _Everywhere(nn.Module):
    """Each pixel of the deepest feature map gets something of all others."""

    def __init__(self, n: int, inner: int) -> None:
        super().__init__()
        self.top_conv = nn.Conv2d(n, inner, 1)
        self.center_conv = nn.Conv2d(n, inner, 1)
        self.bottom_conv = nn.Conv2d(n, n, 3, padding=1)
        self.out_conv = nn.Conv2d(n, n, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, n, y, x)` to the same."""
        top = self.top_conv(x).flatten(2)  # (b, inner, pixel)
        center = self.center_conv(x).flatten(2).transpose(1, 2)  # (b, pixel, inner)
        bottom = self.bottom_conv(x).flatten(2).transpose(1, 2)  # (b, pixel, n)
        # NOTE: all pairs of pixels compete with one another, not those of each pixel.
        alike = torch.matmul(center, top)  # (b, pixel, pixel)
        alike = torch.softmax(alike.flatten(1), dim=1).view_as(alike)
        # NOTE: pixels and channels are mixed up here, and the weights were trained with it.
        mixed = torch.matmul(alike, bottom).reshape(x.shape)
        out: Tensor = self.out_conv(x + mixed)
        return out


class _Fusing(nn.Module):
    """Enlarge, weigh the channels by both what comes from below and across, join, convolve."""

    def __init__(
        self, n_in: int, n_skip: int, n_out: int, norm: Norm, interpolation: Interpolation
    ) -> None:
        super().__init__()
        self.interpolation: Interpolation = interpolation
        self.hl_conv = nn.Sequential(
            conv_relu(n_in, n_in, 3, norm), conv_relu(n_in, n_skip, 1, norm)
        )
        self.SE_ll = global_weights(n_skip, max(1, n_skip // 16))
        self.SE_hl = global_weights(n_skip, max(1, n_skip // 16))
        self.conv1 = conv_relu(2 * n_skip, n_out, 3, norm)
        self.conv2 = conv_relu(n_out, n_out, 3, norm)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """`(b, n_in, y / 2, x / 2)` and `(b, n_skip, y, x)` to `(b, n_out, y, x)`."""
        x = enlarged(self.hl_conv(below), self.interpolation)
        x = x * (self.SE_hl(x) + self.SE_ll(skip))
        out: Tensor = self.conv2(self.conv1(torch.cat([x, skip], dim=1)))
        return out


class _Last(nn.Module):
    """Enlarge and convolve twice; nothing comes across."""

    def __init__(self, n_in: int, n_out: int, norm: Norm, interpolation: Interpolation) -> None:
        super().__init__()
        self.interpolation: Interpolation = interpolation
        self.conv1 = conv_relu(n_in, n_out, 3, norm)
        self.conv2 = conv_relu(n_out, n_out, 3, norm)

    def forward(self, below: Tensor) -> Tensor:
        """`(b, n_in, y / 2, x / 2)` to `(b, n_out, y, x)`."""
        out: Tensor = self.conv2(self.conv1(enlarged(below, self.interpolation)))
        return out


class MANetDecoder(nn.Module):
    """Feature maps of an encoder to one at full resolution.

    Parameters
    ----------
    encoder_channels : of the feature maps, from full resolution down. The first is not used.
    widths : channels of each block, from the deepest up.
    inner : channels in which pixels of the deepest feature map are compared.
    norm : after each convolution of the blocks.
    interpolation : how images are enlarged.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        widths: Sequence[int],
        *,
        inner: int = 64,
        norm: Norm = "batch",
        interpolation: Interpolation = "nearest",
    ) -> None:
        super().__init__()
        deepest, *skips = encoder_channels[:0:-1]
        self.center = _Everywhere(deepest, inner)
        inputs = (deepest, *widths[:-1])
        blocks: list[nn.Module] = [
            _Fusing(n_in, n_skip, n_out, norm, interpolation)
            for n_in, n_skip, n_out in zip(inputs[:-1], skips, widths[:-1], strict=True)
        ]
        self.blocks = nn.ModuleList([*blocks, _Last(inputs[-1], widths[-1], norm, interpolation)])

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """`(b, widths[-1], y, x)`."""
        deepest, *skips = features[:0:-1]
        below: Tensor = self.center(deepest)
        for i, block in enumerate(self.blocks):
            below = block(below, *skips[i : i + 1])
        return below


class _Link(nn.Module):
    """Twice the resolution by a learned up-convolution, in a quarter of the channels."""

    def __init__(self, n_in: int, n_out: int, norm: Norm) -> None:
        super().__init__()
        inner = n_in // 4
        self.block = nn.Sequential(
            conv_relu(n_in, inner, 1, norm),
            normalised(nn.ConvTranspose2d(inner, inner, 4, stride=2, padding=1), inner, norm),
            conv_relu(inner, n_out, 1, norm),
        )

    def forward(self, below: Tensor) -> Tensor:
        """`(b, n_in, y / 2, x / 2)` to `(b, n_out, y, x)`."""
        out: Tensor = self.block(below)
        return out


class LinkNetDecoder(nn.Module):
    """Feature maps of an encoder to one at full resolution, each added to what is below it.

    Parameters
    ----------
    encoder_channels : of the feature maps, from full resolution down. The first is not used.
    width : channels in the end.
    norm : after each convolution.
    """

    def __init__(
        self, encoder_channels: Sequence[int], width: int = 32, *, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        channels = (*encoder_channels[:0:-1], width)
        self.blocks = nn.ModuleList(_Link(n_in, n_out, norm) for n_in, n_out in pairwise(channels))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """`(b, width, y, x)`."""
        below, *skips = features[:0:-1]
        for i, block in enumerate(self.blocks):
            below = block(below)
            if i < len(skips):
                below = below + skips[i]
        return below
