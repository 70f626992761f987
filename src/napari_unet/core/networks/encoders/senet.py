"""Squeeze-and-excitation networks (Hu et al. 2018), with the names of Cadene's collection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_unet.core.networks.encoders.base import Encoder, EncoderConfig

__all__ = ["SENETS", "SENet"]

Kind = Literal["senet", "resnet", "resnext"]


class _Attention(nn.Module):
    """Weighs channels by what they are on average."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(n, n // 16, 1)
        self.fc2 = nn.Conv2d(n // 16, n, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))
        return x * torch.sigmoid(self.fc2(mean))


class _Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3 and 1x1 with attention beside a shortcut; gives `4 * width`."""

    def __init__(
        self, n_in: int, width: int, stride: int, shortcut: int, *, kind: Kind, groups: int
    ) -> None:
        super().__init__()
        n_out = 4 * width
        first, second = {
            "senet": (2 * width, 4 * width),
            "resnet": (width, width),
            "resnext": (width // 16 * groups, width // 16 * groups),
        }[kind]
        # Of these, only the ResNet skips pixels in its first convolution, as Caffe's did.
        strides = (stride, 1) if kind == "resnet" else (1, stride)
        self.conv1 = nn.Conv2d(n_in, first, 1, stride=strides[0], bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, strides[1], 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(second)
        self.conv3 = nn.Conv2d(second, n_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(n_out)
        self.se_module = _Attention(n_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(n_in, n_out, shortcut, stride, shortcut // 2, bias=False),
                nn.BatchNorm2d(n_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        inner = self.se_module(self.bn3(self.conv3(inner)))
        return F.relu(inner + (x if self.downsample is None else self.downsample(x)))


def _stem(in_channels: int, kind: Kind) -> nn.Sequential:
    """One convolution 7x7, or three 3x3, to half of the resolution."""
    sizes = ((in_channels, 64, 3, 2), (64, 64, 3, 1), (64, 128, 3, 1))
    if kind != "senet":
        sizes = ((in_channels, 64, 7, 2),)  # type: ignore[assignment]
    layers = nn.Sequential()
    for i, (n_in, n_out, size, stride) in enumerate(sizes, start=1):
        layers.add_module(f"conv{i}", nn.Conv2d(n_in, n_out, size, stride, size // 2, bias=False))
        layers.add_module(f"bn{i}", nn.BatchNorm2d(n_out))
        layers.add_module(f"relu{i}", nn.ReLU(inplace=True))
    return layers


class SENet(Encoder):
    """Stages of bottlenecks with attention.

    Parameters
    ----------
    in_channels, depth : of the image, and how often the resolution is halved.
    counts : blocks of each of the four stages.
    kind : what the blocks are like without attention.
    groups : of the convolutions 3x3.
    """

    def __init__(
        self,
        in_channels: int,
        depth: int,
        *,
        counts: tuple[int, int, int, int],
        kind: Kind,
        groups: int,
    ) -> None:
        super().__init__()
        self.depth = depth
        self.layer0 = _stem(in_channels, kind)
        n_in = first = 128 if kind == "senet" else 64
        for i, count in enumerate(counts):
            width, shortcut = 64 << i, 3 if kind == "senet" and i > 0 else 1
            block = partial(_Bottleneck, shortcut=shortcut, kind=kind, groups=groups)
            blocks = [block(n_in, width, 1 if i == 0 else 2)]
            n_in = 4 * width
            blocks += [block(n_in, width, 1) for _ in range(1, count)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.out_channels = (in_channels, first, 256, 512, 1024, 2048)[: depth + 1]

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Stem; pooling (which rounds sizes up) and the first stage of blocks; the others."""
        part = self.get_submodule
        yield self.layer0
        yield lambda x: part("layer1")(F.max_pool2d(x, 3, stride=2, ceil_mode=True))
        yield from (part("layer2"), part("layer3"), part("layer4"))

    def late(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The last two stages of blocks."""
        return [self.get_submodule("layer3")], [self.get_submodule("layer4")]


def _config(
    name: str, kind: Kind, counts: tuple[int, int, int, int], groups: int = 1
) -> EncoderConfig:
    return EncoderConfig(
        name=name,
        first="layer0.conv1.weight",
        widths=(128 if kind == "senet" else 64, 256, 512, 1024, 2048),
        network=partial(SENet, counts=counts, kind=kind, groups=groups),
    )


SENETS: tuple[EncoderConfig, ...] = (
    _config("se_resnet50", "resnet", (3, 4, 6, 3)),
    _config("se_resnet101", "resnet", (3, 4, 23, 3)),
    _config("se_resnet152", "resnet", (3, 8, 36, 3)),
    _config("se_resnext50_32x4d", "resnext", (3, 4, 6, 3), 32),
    _config("se_resnext101_32x4d", "resnext", (3, 4, 23, 3), 32),
    _config("senet154", "senet", (3, 8, 36, 3), 64),
)
"""Those of Cadene's collection of networks."""
