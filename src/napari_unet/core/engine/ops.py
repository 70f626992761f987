"""The kinds of layers that can be evaluated window by window, and what each of them computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_unet.core.engine.geometry import Axis

__all__ = [
    "Affine",
    "Convolution",
    "Crop",
    "Join",
    "Op",
    "Pointwise",
    "Pooling",
    "Resize",
    "Transposed",
    "cast",
]

Axes: TypeAlias = tuple[Axis, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Convolution:
    """Convolution without padding, with an optional ReLU behind it.

    Attributes
    ----------
    axes : its geometry, in which the padding is.
    weight, bias : `(out, in / groups, [z,] y, x)` and `(out)` or None.
    dilation, groups : as in torch.
    relu : whether a ReLU follows; whoever evaluates the layer applies it.
    """

    axes: Axes
    weight: Tensor
    bias: Tensor | None
    dilation: tuple[int, ...]
    groups: int = 1
    relu: bool = False
    fill: float = 0.0

    def compute(self, piece: Tensor) -> Tensor:
        """`(1, in, [z,] y, x)` to `(1, out, [z,] y, x)`."""
        convolve = F.conv2d if piece.ndim == 4 else F.conv3d
        stride = [axis.step for axis in self.axes]  # type: ignore[union-attr]
        return convolve(piece, self.weight, self.bias, stride, 0, self.dilation, self.groups)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Transposed:
    """Transposed convolution that gives all that its input adds to; attributes as above."""

    axes: Axes
    weight: Tensor
    bias: Tensor | None
    groups: int = 1
    relu: bool = False
    fill: float = 0.0

    def compute(self, piece: Tensor) -> Tensor:
        """`(1, in, [z,] y, x)` to `(1, out, [z,] y, x)`."""
        convolve = F.conv_transpose2d if piece.ndim == 4 else F.conv_transpose3d
        stride = [axis.step for axis in self.axes]  # type: ignore[union-attr]
        return convolve(piece, self.weight, self.bias, stride, 0, 0, self.groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling:
    """The largest value or the mean of each window."""

    axes: Axes
    kind: Literal["max", "mean"]
    fill: float = float("-inf")

    def compute(self, piece: Tensor) -> Tensor:
        """`(1, c, [z,] y, x)` to `(1, c, [z,] y, x)`."""
        kernel = [axis.extent for axis in self.axes]  # type: ignore[union-attr]
        stride = [axis.step for axis in self.axes]  # type: ignore[union-attr]
        if self.kind == "max":
            return (F.max_pool2d if piece.ndim == 4 else F.max_pool3d)(piece, kernel, stride)
        return (F.avg_pool2d if piece.ndim == 4 else F.avg_pool3d)(piece, kernel, stride)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """Enlargement by `Enlarge` axes of one kind."""

    axes: Axes
    fill: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pointwise:
    """A function of the px at one place, of one or several inputs of equal size."""

    axes: Axes
    name: str
    function: Callable[[Sequence[Tensor]], Tensor]
    fill: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Affine:
    """A factor and a shift for each channel, both `(c)`: batch normalisation at inference."""

    axes: Axes
    factor: Tensor
    shift: Tensor
    fill: float = 0.0

    def compute(self, piece: Tensor) -> Tensor:
        """`(1, c, [z,] y, x)` to the same."""
        shape = (1, -1, *[1] * (piece.ndim - 2))
        return torch.addcmul(self.shift.view(shape), piece, self.factor.view(shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Inputs of equal size, one behind the other along the channels."""

    axes: Axes
    fill: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """The input as it is, without some px at the borders, or with zeros added there."""

    axes: Axes
    fill: float = 0.0


Op: TypeAlias = Affine | Convolution | Transposed | Pooling | Resize | Pointwise | Join | Crop


def cast(op: Op, dtype: torch.dtype) -> Op:
    """The same layer with weights of another type, laid out as the arithmetic likes them."""
    if isinstance(op, Affine):
        return replace(op, factor=op.factor.to(dtype), shift=op.shift.to(dtype))
    if not isinstance(op, Convolution | Transposed):
        return op
    layout = torch.channels_last if op.weight.ndim == 4 else torch.channels_last_3d
    return replace(
        op,
        weight=op.weight.to(dtype).contiguous(memory_format=layout),
        bias=None if op.bias is None else op.bias.to(dtype),
    )
