"""EfficientNet (Tan & Le 2019), with the names of EfficientNet-PyTorch and with those of timm.

They are the same network but for how the rim of the image is padded and for the smallest
variance of their batch norms. The stochastic depth of their training is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_unet.core.networks.encoders.base import Encoder, EncoderConfig, SameConv

__all__ = ["EFFICIENTNETS", "EfficientNet", "TimmEfficientNet"]

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Number of blocks, kernel size, stride of the first block, how often wider inside, channels."""

ENDS = (1, 2, 4, 6)
"""After which of these stages, counted from 0, there is a feature map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """One network of the family.

    Attributes
    ----------
    width, deep : factors for the channels and for the number of blocks.
    nominal : side of the images that it was made for, in px.
    lite : without attention, with fixed first and last stages, and with ReLU6.
    stops : before which blocks the feature maps are, if not at the ends of stages.
    """

    width: float
    deep: float
    nominal: int = 224
    lite: bool = False
    stops: tuple[int, ...] = ()

    @property
    def stem(self) -> int:
        """Channels after the first convolution."""
        return 32 if self.lite else self.channels(32)

    @property
    def head(self) -> int:
        """Channels after the last convolution, which only a classifier needs."""
        return 1280 if self.lite else self.channels(1280)

    def channels(self, n: int) -> int:
        """So many channels times the factor, rounded to a multiple of 8, by at most 10 % down."""
        wanted = n * self.width
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * wanted else rounded

    def stages(self) -> list[list[_Block]]:
        """All blocks, by stage."""
        n_in, side, stages = self.stem, math.ceil(self.nominal / 2), []
        for i, (count, kernel, stride, expansion, width) in enumerate(STAGES):
            fixed = self.lite and i in (0, len(STAGES) - 1)
            n_out, blocks = self.channels(width), []
            for j in range(count if fixed else math.ceil(count * self.deep)):
                step = stride if j == 0 else 1
                blocks.append(_Block(n_in, n_out, kernel, step, expansion, side, not self.lite))
                n_in, side = n_out, math.ceil(side / step)
            stages.append(blocks)
        return stages

    def widths(self) -> tuple[int, int, int, int, int]:
        """Channels of the feature maps but for the image."""
        second, third, fourth, fifth = (self.channels(STAGES[i][-1]) for i in ENDS)
        return self.stem, second, third, fourth, fifth


@dataclass(frozen=True, slots=True)
class _Block:
    """One block: channels, kernel size, stride, expansion, side of its nominal input, attention."""

    n_in: int
    n_out: int
    kernel: int
    stride: int
    expansion: int
    side: int
    attention: bool

    @property
    def inner(self) -> int:
        """Channels inside."""
        return self.n_in * self.expansion

    @property
    def squeezed(self) -> int:
        """Channels of the attention."""
        return max(1, self.n_in // 4)

    @property
    def has_shortcut(self) -> bool:
        """Whether the input is added."""
        return self.stride == 1 and self.n_in == self.n_out


class _Attention(nn.Module):
    """Weighs channels by what they are on average (Hu et al. 2018), under the names of timm."""

    def __init__(self, n: int, squeezed: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(n, squeezed, 1)
        self.conv_expand = nn.Conv2d(squeezed, n, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = F.silu(self.conv_reduce(F.adaptive_avg_pool2d(x, 1)))
        weighed: Tensor = x * torch.sigmoid(self.conv_expand(mean))
        return weighed


class _Inverted(nn.Module):
    """A block under the names of EfficientNet-PyTorch."""

    def __init__(self, block: _Block) -> None:
        super().__init__()
        inner, norm = block.inner, partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
        self.has_shortcut = block.has_shortcut
        self.expands = block.expansion != 1
        if self.expands:
            self._expand_conv = nn.Conv2d(block.n_in, inner, 1, bias=False)
            self._bn0 = norm(inner)
        self._depthwise_conv = SameConv(
            inner, inner, block.kernel, stride=block.stride, side=block.side, groups=inner
        )
        self._bn1 = norm(inner)
        self._se_reduce = nn.Conv2d(inner, block.squeezed, 1)
        self._se_expand = nn.Conv2d(block.squeezed, inner, 1)
        self._project_conv = nn.Conv2d(inner, block.n_out, 1, bias=False)
        self._bn2 = norm(block.n_out)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.silu(self._bn0(self._expand_conv(x))) if self.expands else x
        inner = F.silu(self._bn1(self._depthwise_conv(inner)))
        mean = F.silu(self._se_reduce(F.adaptive_avg_pool2d(inner, 1)))
        inner = torch.sigmoid(self._se_expand(mean)) * inner
        out: Tensor = self._bn2(self._project_conv(inner))
        return out + x if self.has_shortcut else out


class EfficientNet(Encoder):
    """Under the names of EfficientNet-PyTorch; for an image of `in_channels`."""

    def __init__(self, in_channels: int, depth: int, *, size: _Size) -> None:
        super().__init__()
        self.depth = depth
        self._conv_stem = SameConv(in_channels, size.stem, 3, stride=2, side=size.nominal)
        self._bn0 = nn.BatchNorm2d(size.stem, eps=1e-3, momentum=0.01)
        stages = size.stages()
        self._blocks = nn.ModuleList(_Inverted(block) for stage in stages for block in stage)
        self._conv_head = nn.Conv2d(stages[-1][-1].n_out, size.head, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(size.head, eps=1e-3, momentum=0.01)
        ends = tuple(sum(len(stage) for stage in stages[: end + 1]) for end in ENDS)
        self._stops = size.stops or ends
        self.out_channels = (in_channels, *size.widths())[: depth + 1]

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """The stem, and then slices of the list of blocks."""
        yield lambda x: F.silu(self._bn0(self._conv_stem(x)))
        for start, stop in zip((0, *self._stops), self._stops, strict=False):
            yield nn.Sequential(*self._blocks[start:stop])

    def late(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The last two of these slices."""
        second, third = self._stops[1:3]
        return list(self._blocks[second:third]), list(self._blocks[third:])


def _activated(lite: bool, x: Tensor) -> Tensor:
    return F.relu6(x) if lite else F.silu(x)


class _TimmInverted(nn.Module):
    """A block under the names of timm; where it is no wider inside, the names shift by one."""

    def __init__(self, block: _Block) -> None:
        super().__init__()
        inner, n_out, kernel = block.inner, block.n_out, block.kernel
        self.has_shortcut = block.has_shortcut
        self.expands = block.expansion != 1
        self.lite = not block.attention
        depthwise = nn.Conv2d(
            inner, inner, kernel, block.stride, kernel // 2, groups=inner, bias=False
        )
        if self.expands:
            self.conv_pw = nn.Conv2d(block.n_in, inner, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(inner)
            self.conv_dw, self.bn2 = depthwise, nn.BatchNorm2d(inner)
        else:
            self.conv_dw, self.bn1 = depthwise, nn.BatchNorm2d(inner)
        if not self.lite:
            self.se = _Attention(inner, block.squeezed)
        if self.expands:
            self.conv_pwl = nn.Conv2d(inner, n_out, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(n_out)
        else:
            self.conv_pw, self.bn2 = nn.Conv2d(inner, n_out, 1, bias=False), nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        inner = _activated(self.lite, self.bn1(self.conv_pw(x))) if self.expands else x
        norm = self.bn2 if self.expands else self.bn1
        inner = _activated(self.lite, norm(self.conv_dw(inner)))
        if not self.lite:
            inner = self.se(inner)
        out: Tensor = (
            self.bn3(self.conv_pwl(inner)) if self.expands else self.bn2(self.conv_pw(inner))
        )
        return out + x if self.has_shortcut else out


class TimmEfficientNet(Encoder):
    """Under the names of timm; for an image of `in_channels`."""

    def __init__(self, in_channels: int, depth: int, *, size: _Size) -> None:
        super().__init__()
        self.depth = depth
        self.lite = size.lite
        self.conv_stem = nn.Conv2d(in_channels, size.stem, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(size.stem)
        stages = size.stages()
        self.blocks = nn.Sequential(
            *(nn.Sequential(*(_TimmInverted(block) for block in stage)) for stage in stages)
        )
        self.conv_head = nn.Conv2d(stages[-1][-1].n_out, size.head, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(size.head)
        self.out_channels = (in_channels, *size.widths())[: depth + 1]

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """The stem, and then one or two stages of blocks each."""
        yield lambda x: _activated(self.lite, self.bn1(self.conv_stem(x)))
        for start, stop in ((0, 2), (2, 3), (3, 5), (5, 7)):
            yield self.blocks[start:stop]

    def late(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The last two of these."""
        blocks = list(self.blocks.children())
        return blocks[3:5], blocks[5:7]


def _config(name: str, size: _Size) -> EncoderConfig:
    timm = name.startswith("timm-")
    return EncoderConfig(
        name=name,
        first="conv_stem.weight" if timm else "_conv_stem.weight",
        widths=size.widths(),
        network=partial(TimmEfficientNet if timm else EfficientNet, size=size),
    )


SIZES = {
    # NOTE: the third feature map of b0 is from the middle of a stage in all versions of smp.
    "b0": _Size(width=1.0, deep=1.0, nominal=224, stops=(3, 5, 9, 16)),
    "b1": _Size(width=1.0, deep=1.1, nominal=240),
    "b2": _Size(width=1.1, deep=1.2, nominal=260),
    "b3": _Size(width=1.2, deep=1.4, nominal=300),
    "b4": _Size(width=1.4, deep=1.8, nominal=380),
    "b5": _Size(width=1.6, deep=2.2, nominal=456),
    "b6": _Size(width=1.8, deep=2.6, nominal=528),
    "b7": _Size(width=2.0, deep=3.1, nominal=600),
    "b8": _Size(width=2.2, deep=3.6, nominal=672),
    "l2": _Size(width=4.3, deep=5.3, nominal=800),
}
LITE_SIZES = {
    "0": _Size(width=1.0, deep=1.0, lite=True),
    "1": _Size(width=1.0, deep=1.1, lite=True),
    "2": _Size(width=1.1, deep=1.2, lite=True),
    "3": _Size(width=1.2, deep=1.4, lite=True),
    "4": _Size(width=1.4, deep=1.8, lite=True),
}

EFFICIENTNETS: tuple[EncoderConfig, ...] = (
    *(_config(f"efficientnet-{key}", SIZES[key]) for key in list(SIZES)[:8]),
    *(_config(f"timm-efficientnet-{key}", size) for key, size in SIZES.items()),
    *(_config(f"timm-tf_efficientnet_lite{key}", size) for key, size in LITE_SIZES.items()),
)
"""Those of segmentation_models_pytorch."""
