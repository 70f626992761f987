"""The convolutions of VGG-16, the trunk of FCN and SegNet.

After Simonyan, Zisserman: "Very Deep Convolutional Networks for Large-Scale Image Recognition",
ICLR 2015. Parameters have the names that they have in torchvision, so that files of its weights
fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import nn

__all__ = ["COUNTS", "Norm", "VGGTrunk", "conv_layers", "widths_of"]

Norm = Literal["none", "batch"]

COUNTS = (2, 2, 3, 3, 3)
"""Convolutions of each stage."""


def widths_of(width: int) -> tuple[int, ...]:
    """Channels of each of the five stages, 64 to 512 in the paper."""
    return (width, 2 * width, 4 * width, 8 * width, 8 * width)


def conv_layers(
    n_in: int, n_out: int, *, norm: Norm, size: int = 3, padding: int | None = None
) -> list[nn.Module]:
    """Convolution, perhaps batch norm, ReLU; `(b, n_in, y, x)` to `(b, n_out, y, x)`.

    The convolution has a bias also where a batch norm follows, as in the papers and in files.
    """
    padding = size // 2 if padding is None else padding
    layers: list[nn.Module] = [nn.Conv2d(n_in, n_out, size, padding=padding)]
    layers += [nn.BatchNorm2d(n_out)] if norm == "batch" else []
    return [*layers, nn.ReLU(inplace=True)]


class VGGTrunk(nn.Module):
    """Five stages of convolutions 3x3, a pooling after each.

    Parameters
    ----------
    in_channels : of the image.
    width : channels of the first stage.
    norm : "batch" for a batch norm after each convolution.
    padding : of the first convolution, in px.
    pool : a pooling to half the size; the same for all stages.
    """

    def __init__(
        self, in_channels: int, width: int, *, norm: Norm, pool: nn.Module, padding: int = 1
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self._ends: list[int] = []
        n_in = in_channels
        for count, n_out in zip(COUNTS, widths_of(width), strict=True):
            for _ in range(count):
                layers += conv_layers(n_in, n_out, norm=norm, padding=1 if layers else padding)
                n_in = n_out
            self._ends.append(len(layers))
            layers.append(pool)
        self.features = nn.Sequential(*layers)

    def stages(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """The convolutions of each stage, and the pooling after them."""
        start = 0
        for end in self._ends:
            yield self.features[start:end], self.features[end]
            start = end + 1
