"""DenseNet (Huang et al. 2017), with torchvision's names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_unet.core.networks.encoders.base import Encoder, EncoderConfig

__all__ = ["DENSENETS", "DenseNet"]


class _Dense(nn.Module):
    """Adds `growth` channels to those that there are."""

    def __init__(self, n_in: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(inner)))], dim=1)


def _transition(n_in: int) -> nn.Sequential:
    """Half of the channels at half of the resolution."""
    layers = nn.Sequential()
    layers.add_module("norm", nn.BatchNorm2d(n_in))
    layers.add_module("relu", nn.ReLU())
    layers.add_module("conv", nn.Conv2d(n_in, n_in // 2, 1, bias=False))
    layers.add_module("pool", nn.AvgPool2d(2))
    return layers


class DenseNet(Encoder):
    """Four blocks of layers each of which sees all that came before it in its block.

    Parameters
    ----------
    in_channels, depth : of the image, and how often the resolution is halved.
    first : channels after the first convolution.
    growth : channels that each layer adds.
    counts : layers of each block.
    """

    def __init__(
        self,
        in_channels: int,
        depth: int,
        *,
        first: int,
        growth: int,
        counts: tuple[int, int, int, int],
    ) -> None:
        super().__init__()
        self.depth = depth
        self.features = nn.Sequential()
        add = self.features.add_module
        add("conv0", nn.Conv2d(in_channels, first, 7, stride=2, padding=3, bias=False))
        add("norm0", nn.BatchNorm2d(first))
        width, widths = first, [in_channels, first]
        for i, count in enumerate(counts, start=1):
            block = nn.Sequential()
            for j in range(count):
                block.add_module(f"denselayer{j + 1}", _Dense(width + j * growth, growth))
            add(f"denseblock{i}", block)
            width += count * growth
            widths.append(width)
            if i < len(counts):
                add(f"transition{i}", _transition(width))
                width //= 2
        add("norm5", nn.BatchNorm2d(width))
        self.out_channels = tuple(widths[: depth + 1])

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """A feature map is taken in the middle of a transition, where it has all its channels."""
        part = self.features.get_submodule
        yield lambda x: F.relu(part("norm0")(part("conv0")(x)))
        yield lambda x: self._ended(F.max_pool2d(x, 3, stride=2, padding=1), 1)
        for i in range(2, 5):
            yield partial(self._deeper, i)

    def _deeper(self, i: int, x: Tensor) -> Tensor:
        """The rest of the transition before block `i`, that block, and what ends it."""
        before = self.features.get_submodule(f"transition{i - 1}")
        return self._ended(before.get_submodule("pool")(before.get_submodule("conv")(x)), i)

    def _ended(self, x: Tensor, i: int) -> Tensor:
        """Block `i` and what ends it."""
        part = self.features.get_submodule
        dense: Tensor = part(f"denseblock{i}")(x)
        if i == 4:
            ended: Tensor = part("norm5")(dense)
            return ended
        return F.relu(part(f"transition{i}.norm")(dense))


def _config(
    n_layers: int,
    widths: tuple[int, int, int, int, int],
    counts: tuple[int, int, int, int],
    growth: int = 32,
) -> EncoderConfig:
    return EncoderConfig(
        name=f"densenet{n_layers}",
        first="features.conv0.weight",
        widths=widths,
        network=partial(DenseNet, first=2 * growth, growth=growth, counts=counts),
    )


DENSENETS: tuple[EncoderConfig, ...] = (
    _config(121, (64, 256, 512, 1024, 1024), (6, 12, 24, 16)),
    _config(169, (64, 256, 512, 1280, 1664), (6, 12, 32, 32)),
    _config(201, (64, 256, 512, 1792, 1920), (6, 12, 48, 32)),
    _config(161, (96, 384, 768, 2112, 2208), (6, 12, 36, 24), growth=48),
)
"""Those of torchvision."""
