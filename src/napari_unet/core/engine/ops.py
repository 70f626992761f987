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
    planes : the weights `(out, in / groups, y, x)` of each plane of a kernel in 3D, from `cast`.
    """

    axes: Axes
    weight: Tensor
    bias: Tensor | None
    dilation: tuple[int, ...]
    groups: int = 1
    relu: bool = False
    fill: float = 0.0
    planes: tuple[Tensor, ...] = ()

    def compute(self, piece: Tensor) -> Tensor:
        """`(1, in, [z,] y, x)` to `(1, out, [z,] y, x)`."""
        stride = [axis.step for axis in self.axes]  # type: ignore[union-attr]
        if self.planes and piece.device.type == "cpu":
            return self._by_planes(piece, stride)
        convolve = F.conv2d if piece.ndim == 4 else F.conv3d
        return convolve(piece, self.weight, self.bias, stride, 0, self.dilation, self.groups)

    def _by_planes(self, piece: Tensor, stride: Sequence[int]) -> Tensor:
        """A 3D convolution as the sum of 2D ones, one for each plane of the kernel.

        NOTE: on the processor oneDNN is at most 15 % faster in 3D, and for some shapes of float32
        pieces up to twelve times slower; nobody knows beforehand for which.
        """
        slices = piece[0].movedim(1, 0)  # (z, in, y, x)
        extent = self.dilation[0] * (len(self.planes) - 1) + 1
        last = (int(piece.shape[2]) - extent) // stride[0] * stride[0] + 1
        total: Tensor | None = None
        for at, plane in enumerate(self.planes):
            start = at * self.dilation[0]
            bias = self.bias if total is None else None
            part = F.conv2d(
                slices[start : start + last : stride[0]], plane, bias, stride[1:], 0,
                self.dilation[1:], self.groups,
            )  # fmt: skip
            total = part if total is None else total.add_(part)
        assert total is not None
        return total.movedim(0, 1)[None]  # (1, out, z, y, x)


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
    weight = op.weight.to(dtype).contiguous(memory_format=layout)
    bias = None if op.bias is None else op.bias.to(dtype)
    if isinstance(op, Transposed):
        return replace(op, weight=weight, bias=bias)
    planes: tuple[Tensor, ...] = ()
    if weight.ndim == 5 and dtype == torch.float32:
        planes = tuple(
            plane.contiguous(memory_format=torch.channels_last) for plane in weight.unbind(2)
        )
    return replace(op, weight=weight, bias=bias, planes=planes)
