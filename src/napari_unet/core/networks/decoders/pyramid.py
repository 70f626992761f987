"""The decoders FPN (Kirillov et al. 2019), PSPNet (Zhao et al. 2017) and PAN (Li et al. 2018).

Files have the names of segmentation_models_pytorch. All end below full resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_unet.core.networks.decoders.layers import Interpolation, Norm, conv_relu, enlarged

__all__ = ["FPNDecoder", "PANDecoder", "PSPDecoder"]

FIELDS = (1, 2, 3, 6)
"""Into how many fields along each axis a PSPNet divides the image."""


def _resized(x: Tensor, size: Sequence[int], mode: Interpolation = "bilinear") -> Tensor:
    """To a size `(y, x)`; if linearly, the pixels in the corners stay in the corners."""
    corners = True if mode == "bilinear" else None
    return F.interpolate(x, size=tuple(size), mode=mode, align_corners=corners)


class _Lateral(nn.Module):
    """Enlarge and add what came across."""

    def __init__(self, n_skip: int, n: int, interpolation: Interpolation) -> None:
        super().__init__()
        self.interpolation: Interpolation = interpolation
        self.skip_conv = nn.Conv2d(n_skip, n, 1)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """`(b, n, y / 2, x / 2)` and `(b, n_skip, y, x)` to `(b, n, y, x)`."""
        across: Tensor = self.skip_conv(skip)
        return enlarged(below, self.interpolation) + across


class _GroupConv(nn.Module):
    """Convolution, group norm, ReLU, and perhaps twice the resolution."""

    def __init__(self, n_in: int, n_out: int, enlarges: bool) -> None:
        super().__init__()
        self.enlarges = enlarges
        self.block = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, padding=1, bias=False),
            nn.GroupNorm(32, n_out),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(b, n_in, y, x)` to `(b, n_out, y, x)` or `(b, n_out, 2 y, 2 x)`."""
        out: Tensor = self.block(x)
        if not self.enlarges:
            return out
        return F.interpolate(out, scale_factor=2.0, mode="bilinear", align_corners=True)


def _ascent(n_in: int, n_out: int, n_times: int) -> nn.Module:
    """So many times twice the resolution."""
    steps = [_GroupConv(n_in, n_out, n_times > 0)]
    steps += [_GroupConv(n_out, n_out, True) for _ in range(1, n_times)]
    named = nn.Sequential()
    named.add_module("block", nn.Sequential(*steps))
    return named


class FPNDecoder(nn.Module):
    """The four deepest feature maps of an encoder to one at the resolution of the fourth.

    Parameters
    ----------
    encoder_channels : of the feature maps, from full resolution down.
    widths : channels of the pyramid, and of what is made of each of its levels.
    merge : whether these are added or joined in the end.
    interpolation : how images are enlarged on the way from level to level.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        widths: tuple[int, int] = (256, 128),
        *,
        merge: Literal["add", "cat"] = "add",
        interpolation: Interpolation = "nearest",
    ) -> None:
        super().__init__()
        pyramid, width = widths
        fifth, fourth, third, second = encoder_channels[:-5:-1]
        self.merge = merge
        self.p5 = nn.Conv2d(fifth, pyramid, 1)
        self.p4 = _Lateral(fourth, pyramid, interpolation)
        self.p3 = _Lateral(third, pyramid, interpolation)
        self.p2 = _Lateral(second, pyramid, interpolation)
        self.seg_blocks = nn.ModuleList(_ascent(pyramid, width, n) for n in (3, 2, 1, 0))
        self.dropout = nn.Dropout2d(0.2)
        self.out_channels = width if merge == "add" else 4 * width

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """`(b, out_channels, y, x)` of the fourth-deepest feature map."""
        levels = [self.p5(features[-1])]
        for lateral, skip in zip((self.p4, self.p3, self.p2), features[-2:-5:-1], strict=True):
            levels.append(lateral(levels[-1], skip))
        ends = [ascent(level) for ascent, level in zip(self.seg_blocks, levels, strict=True)]
        merged = torch.stack(ends).sum(dim=0) if self.merge == "add" else torch.cat(ends, dim=1)
        out: Tensor = self.dropout(merged)
        return out


class _Pooled(nn.Module):
    """The image on average, in `n` times `n` fields."""

    def __init__(self, n_in: int, n_out: int, n: int, norm: Norm) -> None:
        super().__init__()
        # A batch norm cannot be trained on a single pixel.
        self.pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(n), conv_relu(n_in, n_out, 1, "none" if n == 1 else norm)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(b, n_in, y, x)` to `(b, n_out, y, x)`."""
        return _resized(self.pool(x), x.shape[2:])


class PSPDecoder(nn.Module):
    """The deepest feature map of an encoder with what it is in large fields.

    Parameters
    ----------
    encoder_channels : of the feature maps, from full resolution down; only the last counts.
    width : channels in the end.
    norm : after each convolution.
    """

    def __init__(
        self, encoder_channels: Sequence[int], width: int = 512, *, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        n = encoder_channels[-1]
        pooled = [_Pooled(n, n // len(FIELDS), fields, norm) for fields in FIELDS]
        self.psp = nn.ModuleDict({"blocks": nn.ModuleList(pooled)})
        self.conv = conv_relu(2 * n, width, 1, norm)
        self.dropout = nn.Dropout2d(0.2)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """`(b, width, y, x)` of the deepest feature map."""
        x = features[-1]
        pooled = [block(x) for block in self.psp["blocks"].children()]
        joined = torch.cat([*pooled, x], dim=1)
        out: Tensor = self.dropout(self.conv(joined))
        return out


class _ConvNorm(nn.Module):
    """Convolution and batch norm, and perhaps a ReLU."""

    def __init__(self, n_in: int, n_out: int, size: int, relu: bool = True) -> None:
        super().__init__()
        self.relu = relu
        self.conv = nn.Conv2d(n_in, n_out, size, padding=size // 2)
        self.bn = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, n_in, y, x)` to `(b, n_out, y, x)`."""
        out: Tensor = self.bn(self.conv(x))
        return F.relu(out) if self.relu else out


class _PyramidAttention(nn.Module):
    """The deepest feature map, weighed by what is seen at three coarser resolutions."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.branch1 = nn.Sequential(nn.AdaptiveAvgPool2d(1), _ConvNorm(n_in, n_out, 1))
        self.mid = nn.Sequential(_ConvNorm(n_in, n_out, 1))
        self.down1 = nn.Sequential(nn.MaxPool2d(2), _ConvNorm(n_in, 1, 7))
        self.down2 = nn.Sequential(nn.MaxPool2d(2), _ConvNorm(1, 1, 5))
        self.down3 = nn.Sequential(nn.MaxPool2d(2), _ConvNorm(1, 1, 3), _ConvNorm(1, 1, 3))
        self.conv2 = _ConvNorm(1, 1, 5)
        self.conv1 = _ConvNorm(1, 1, 7)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, n_in, y, x)` to `(b, n_out, y, x)`."""
        size = x.shape[2:]
        half = self.down1(x)
        quarter = self.down2(half)
        eighth = self.down3(quarter)
        weights = self.conv2(quarter) + _resized(eighth, [n // 4 for n in size])
        weights = self.conv1(half) + _resized(weights, [n // 2 for n in size])
        weighed: Tensor = _resized(weights, size) * self.mid(x)
        return weighed + _resized(self.branch1(x), size)


class _ChannelAttention(nn.Module):
    """Enlarge, and add what came across, its channels weighed by what is below."""

    def __init__(self, n_skip: int, n: int, interpolation: Interpolation) -> None:
        super().__init__()
        self.interpolation: Interpolation = interpolation
        self.conv1 = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), _ConvNorm(n, n, 1, relu=False), nn.Sigmoid()
        )
        self.conv2 = _ConvNorm(n_skip, n, 3)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """`(b, n, ...)` and `(b, n_skip, y, x)` to `(b, n, y, x)`."""
        across: Tensor = self.conv2(skip) * self.conv1(below)
        return _resized(below, skip.shape[2:], self.interpolation) + across


class PANDecoder(nn.Module):
    """Feature maps of an encoder to one at a quarter of the resolution.

    Parameters
    ----------
    encoder_channels : of the feature maps, from full resolution down; four to six of them.
    width : channels in the end.
    interpolation : how images are enlarged on the way from level to level.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        width: int = 32,
        *,
        interpolation: Interpolation = "bilinear",
    ) -> None:
        super().__init__()
        self.fpa = _PyramidAttention(encoder_channels[-1], width)
        self.n_steps = len(encoder_channels) - 3
        for i in range(self.n_steps, 0, -1):
            step = _ChannelAttention(encoder_channels[1 + i], width, interpolation)
            self.add_module(f"gau{i}", step)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """`(b, width, y / 4, x / 4)`."""
        below: Tensor = self.fpa(features[-1])
        for i in range(self.n_steps, 0, -1):
            below = self.get_submodule(f"gau{i}")(below, features[1 + i])
        return below
