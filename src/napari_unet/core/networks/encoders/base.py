"""What all encoders have in common: a first half of a U-Net that was made to classify pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["N_STAGES", "Encoder", "EncoderConfig", "SameConv", "dilate", "from_stride"]

N_STAGES = 5
"""How often an encoder halves the resolution at most."""


class Encoder(nn.Module):
    """Image `(b, c, y, x)` to feature maps at full resolution, half, a quarter, and so on.

    An encoder always has the layers of all stages, so that files fit whatever its depth is; those
    below its depth are not run.

    Attributes
    ----------
    depth : how often it halves the resolution, 1 to 5.
    out_channels : channels of each feature map; `depth + 1` of them. The first map is the image
        itself, except where the first layers work at full resolution.
    """

    depth: int
    out_channels: tuple[int, ...]

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """What leads from each feature map to the next; the first begins with the image."""
        raise NotImplementedError

    def late(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The modules that lead to 1/16 and to 1/32 of the resolution.

        Raises
        ------
        ValueError
            If they halve the resolution by pooling: they cannot go on at 1/8 or 1/16 then.
        """
        raise ValueError(f"{type(self).__name__} cannot keep the resolution of its last stages.")

    def forward(self, image: Tensor) -> list[Tensor]:
        """The feature maps `(b, out_channels[i], y / 2^i, x / 2^i)`."""
        features = [image]
        for stage, _ in zip(self.stages(), range(self.depth), strict=False):
            features.append(stage(features[-1]))
        return features


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """One encoder that can be built.

    Attributes
    ----------
    name : as other libraries call it.
    first : name of the weights of its first convolution.
    widths : channels at half of the resolution, a quarter ... 1/32.
    network : builds it from the channels of the image and the depth.
    """

    name: str
    first: str
    widths: tuple[int, int, int, int, int]
    network: Callable[[int, int], Encoder]


class SameConv(nn.Conv2d):
    """Convolution padded as TensorFlow does for an input of the nominal size, whatever its size.

    Parameters
    ----------
    n_in, n_out, kernel, stride, groups : as usual.
    side : side of the nominal input, in px.

    Attributes
    ----------
    rim : padding before and after, in px, along both axes.
    """

    def __init__(
        self, n_in: int, n_out: int, kernel: int, *, stride: int, side: int, groups: int = 1
    ) -> None:
        super().__init__(n_in, n_out, kernel, stride=stride, groups=groups, bias=False)
        missing = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        self.rim = (missing // 2, missing - missing // 2)

    def forward(self, x: Tensor) -> Tensor:
        """`(b, n_in, y, x)` to `(b, n_out, y / stride, x / stride)`."""
        return super().forward(F.pad(x, self.rim * 2) if any(self.rim) else x)


def from_stride(encoder: Encoder, output_stride: int) -> Encoder:
    """The encoder, changed such that no feature map is coarser than 1/`output_stride`.

    The stages beyond no longer skip pixels, and their convolutions reach as much farther instead
    (Chen et al. 2017, "Rethinking Atrous Convolution").
    """
    for stride, modules in zip((16, 32), encoder.late(), strict=True):
        if stride > output_stride:
            for module in modules:
                dilate(module, stride // output_stride)
    return encoder


def dilate(module: nn.Module, rate: int) -> None:
    """Let all convolutions of a module keep the resolution, and look at every `rate`-th pixel."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.stride, layer.dilation = (1, 1), (rate, rate)
            layer.padding = (layer.kernel_size[0] // 2 * rate, layer.kernel_size[1] // 2 * rate)
        if isinstance(layer, SameConv):
            layer.rim = (0, 0)
