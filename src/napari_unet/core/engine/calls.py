"""What single calls of torch mean: each kind of layer, read off the arguments of its call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from napari_unet.core.engine.geometry import SAME, Axis, Enlarge, Spread, Window
from napari_unet.core.engine.graph import UnsupportedError, WholeImageError, exact
from napari_unet.core.engine.ops import (
    Affine,
    Convolution,
    Crop,
    Join,
    Op,
    Pointwise,
    Pooling,
    Resize,
    Transposed,
)

__all__ = [
    "NOTHING",
    "POINTWISE",
    "READERS",
    "WHOLE_IMAGE",
    "Call",
    "channels",
    "pointwise",
    "tensors_in",
]

POINTWISE = frozenset({
    "_prelu_kernel", "abs", "add", "celu", "clamp", "clamp_max", "clamp_min", "div", "elu", "exp",
    "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log", "log_sigmoid_forward",
    "maximum", "minimum", "mish", "mul", "neg", "pow", "relu", "relu6", "rsqrt", "rsub", "selu",
    "sigmoid", "silu", "softplus", "sqrt", "square", "sub", "tanh", "threshold",
})  # fmt: skip
"""Functions that act on each px, and at most on its channels, alone."""
NOTHING = frozenset({
    "_to_copy", "alias", "clone", "contiguous", "detach", "dropout", "lift_fresh",
})  # fmt: skip
WHOLE_IMAGE = frozenset({
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "_fft_r2c",
    "_scaled_dot_product_flash_attention_for_cpu", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "addmm", "bmm", "linear", "matmul", "mm",
    "native_group_norm", "native_layer_norm", "scaled_dot_product_attention",
})  # fmt: skip
"""Functions whose result at one px depends on all others."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """One call of torch: what was called, with what, and what came out."""

    name: str
    func: Any
    args: Sequence[Any]
    kwargs: dict[str, Any]
    out: Any

    @property
    def dims(self) -> int:
        """Number of spatial axes of the first argument."""
        return int(self.args[0].ndim) - 2

    @property
    def first(self) -> Tensor:
        """What came out, the first of several."""
        first: Tensor = self.out[0] if isinstance(self.out, tuple | list) else self.out
        return first

    def arg(self, at: int, default: Any = None) -> Any:
        """An argument by its place, if it was given."""
        return self.args[at] if len(self.args) > at else default

    def per_axis(self, at: int, default: Any) -> tuple[int, ...]:
        """An argument that has a number for each axis, or one for all."""
        values = self.arg(at, default)
        values = [values] if isinstance(values, int) else list(values or default)
        return tuple(values) if len(values) == self.dims else tuple(values * self.dims)


def tensors_in(args: Any) -> list[Tensor]:
    """All tensors among the arguments of a call, also those in lists and dictionaries."""
    found: list[Tensor] = []
    for arg in args:
        if isinstance(arg, Tensor):
            found.append(arg)
        elif isinstance(arg, list | tuple):
            found += tensors_in(arg)
        elif isinstance(arg, Mapping):
            found += tensors_in(arg.values())
    return found


def _convolution(call: Call) -> Op:
    weight, bias = call.args[1].detach(), call.args[2]
    stride, padding, dilation = (call.per_axis(at, [1]) for at in (3, 4, 5))
    bias = None if bias is None else bias.detach()
    if call.args[6]:
        return _transposed(call, weight, bias, stride, padding, dilation)
    axes = tuple(
        Window(extent=d * (k - 1) + 1, step=s, before=p, after=p)
        for k, s, p, d in zip(weight.shape[2:], stride, padding, dilation, strict=True)
    )
    return Convolution(
        axes=axes, weight=weight, bias=bias, dilation=dilation, groups=int(call.args[8])
    )


def _transposed(
    call: Call,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Op:
    more = call.per_axis(7, [0])
    if max(dilation) > 1 or any(m > p for m, p in zip(more, padding, strict=True)):
        raise UnsupportedError("a transposed convolution is dilated or padded in a rare way")
    axes = tuple(
        Spread(extent=int(k), step=s, before=p, after=p - m)
        for k, s, p, m in zip(weight.shape[2:], stride, padding, more, strict=True)
    )
    return Transposed(axes=axes, weight=weight, bias=bias, groups=int(call.args[8]))


def _batch_norm(call: Call) -> Op:
    weight, bias, mean, variance, is_training = call.args[1:6]
    if is_training or mean is None:
        raise WholeImageError("an instance normalisation uses statistics of the whole image")
    factor = torch.rsqrt(exact(variance) + call.args[7])
    factor = factor if weight is None else factor * exact(weight)
    shift = -exact(mean) * factor
    shift = shift if bias is None else shift + exact(bias)
    return Affine(axes=(SAME,) * call.dims, factor=factor.to(mean), shift=shift.to(mean))


def _batch_norm_of_inference(call: Call) -> Op:
    """The same, from a function that has no argument for training."""
    args = (*call.args[:5], False, *call.args[5:])
    return _batch_norm(Call(name=call.name, func=call.func, args=args, kwargs={}, out=call.out))


def _max_pooling(call: Call) -> Op:
    kernel = call.per_axis(1, [2])
    stride = call.per_axis(2, kernel) if call.arg(2) else kernel
    padding = call.per_axis(3, [0])
    if max(call.per_axis(4, [1])) > 1 or call.arg(5, False):
        raise UnsupportedError("a pooling is dilated or rounds sizes up")
    axes = tuple(
        Window(extent=k, step=s, before=p, after=p)
        for k, s, p in zip(kernel, stride, padding, strict=True)
    )
    return Pooling(axes=axes, kind="max")


def _mean_pooling(call: Call) -> Op:
    kernel = call.per_axis(1, [2])
    stride = call.per_axis(2, kernel) if call.arg(2) else kernel
    if max(call.per_axis(3, [0])) > 0 or call.arg(4, False):
        raise UnsupportedError("a pooling of means is padded or rounds sizes up")
    axes = tuple(Window(extent=k, step=s) for k, s in zip(kernel, stride, strict=True))
    return Pooling(axes=axes, kind="mean")


def _resizing(kind: Any) -> Callable[[Call], Op]:
    def read(call: Call) -> Op:
        corners = kind == "linear" and bool(call.arg(2, call.kwargs.get("align_corners", False)))
        axes: list[Axis] = []
        for before, after in zip(call.args[0].shape[2:], call.out.shape[2:], strict=True):
            if after % before:
                raise UnsupportedError(f"a layer resizes {before} px to {after}")
            axes.append(Enlarge(factor=after // before, kind="corners" if corners else kind))
        return Resize(axes=tuple(axes))

    return read


def _joining(call: Call) -> Op:
    if call.arg(1, call.kwargs.get("dim", 0)) not in (1, 1 - call.out.ndim):
        raise UnsupportedError("a layer joins pieces of the image")
    return Join(axes=(SAME,) * (call.out.ndim - 2))


def _slicing(call: Call) -> Op:
    image, dim = call.args[0], call.arg(1, 0) % call.out.ndim
    size = int(image.shape[dim])
    start, stop, _ = slice(call.arg(2), call.arg(3)).indices(size)
    if call.arg(4, 1) != 1 or (dim == 0 and (start, stop) != (0, size)):
        raise UnsupportedError("a layer leaves out pixels")
    if dim == 1:
        return channels(image, start, stop)
    axes = [SAME] * call.dims
    if dim > 1:
        axes[dim - 2] = Window(before=-start, after=stop - size)
    return Crop(axes=tuple(axes))


def _padding(call: Call) -> Op:
    amounts = [*call.args[1], *[0] * (2 * call.dims)]
    if any(amounts[2 * call.dims :]):
        raise UnsupportedError("a layer pads channels")
    axes = [
        Window(before=amounts[2 * i], after=amounts[2 * i + 1]) for i in range(call.dims)
    ]  # the last axis comes first
    return Crop(axes=tuple(reversed(axes)), fill=float(call.arg(2) or 0))


def channels(image: Tensor, start: int, stop: int) -> Op:
    """Some of the channels of an image."""

    def function(pieces: Sequence[Tensor]) -> Tensor:
        return pieces[0][:, start:stop]

    return Pointwise(axes=(SAME,) * (image.ndim - 2), name="channels", function=function)


def _reducing(call: Call) -> Op:
    """A mean or the like: over the channels of each px, or over the image."""
    dims = call.arg(1)
    dims = [dims] if isinstance(dims, int) else dims
    if not dims or any(dim % call.args[0].ndim > 1 for dim in dims):
        raise WholeImageError(f"a layer ({call.name}) uses statistics of the whole image")
    if call.first.ndim != call.args[0].ndim or 0 in dims:
        raise UnsupportedError(f"a layer ({call.name}) drops an axis")
    return pointwise(call, lambda tensor: tensor is call.args[0])


def _softmax(call: Call) -> Op:
    if call.args[1] not in (1, 1 - call.args[0].ndim):
        raise WholeImageError("a softmax over pixels uses the whole image")
    return pointwise(call, lambda tensor: tensor is call.args[0])


def _shuffling(call: Call) -> Op:
    factor = int(call.args[1])

    def function(pieces: Sequence[Tensor]) -> Tensor:
        return torch.pixel_shuffle(pieces[0], factor)

    axes = (Enlarge(factor=factor),) * call.dims
    return Pointwise(axes=axes, name="pixel shuffle", function=function)


def pointwise(call: Call, is_followed: Callable[[Tensor], bool]) -> Op:
    """The call as a function of its inputs; what it does in place is done on a copy."""
    shape, ndim = call.first.shape[2:], call.first.ndim
    for tensor in tensors_in(call.args):
        if is_followed(tensor) and tensor.shape[2:] != shape:
            raise UnsupportedError(f"a layer ({call.name}) combines images of different size")
        if not is_followed(tensor) and set(tensor.shape[max(0, tensor.ndim - ndim + 2) :]) - {1}:
            raise UnsupportedError(f"a layer ({call.name}) adds a picture of its own")
    overload = getattr(getattr(torch.ops.aten, call.name), call.func._overloadname)
    followed = [isinstance(a, Tensor) and is_followed(a) for a in call.args]
    args, kwargs = list(call.args), dict(call.kwargs)
    for at, is_input in enumerate(followed):
        if is_input:
            args[at] = None  # let the pictures of the trial run go

    def function(pieces: Sequence[Tensor]) -> Tensor:
        rest = iter(pieces)
        given = [
            next(rest) if is_input else _like(arg, pieces[0])
            for arg, is_input in zip(args, followed, strict=True)
        ]
        result = overload(*given, **kwargs)
        return result[0] if isinstance(result, tuple) else result  # type: ignore[no-any-return]

    return Pointwise(axes=(SAME,) * len(shape), name=call.name, function=function)


def _like(value: Any, piece: Tensor) -> Any:
    """A constant in the type of the piece it meets."""
    return value.to(piece.dtype) if isinstance(value, Tensor) and value.ndim > 0 else value


READERS: dict[str, Callable[[Call], Op]] = {
    "convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "cudnn_batch_norm": _batch_norm,
    "miopen_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm_of_inference,
    "max_pool2d_with_indices": _max_pooling,
    "max_pool3d_with_indices": _max_pooling,
    "avg_pool2d": _mean_pooling,
    "avg_pool3d": _mean_pooling,
    "upsample_nearest2d": _resizing("block"),
    "upsample_nearest3d": _resizing("block"),
    "_upsample_nearest_exact2d": _resizing("block"),
    "_upsample_nearest_exact3d": _resizing("block"),
    "upsample_bilinear2d": _resizing("linear"),
    "upsample_trilinear3d": _resizing("linear"),
    "cat": _joining,
    "slice": _slicing,
    "constant_pad_nd": _padding,
    "_softmax": _softmax,
    "_log_softmax": _softmax,
    "pixel_shuffle": _shuffling,
    **dict.fromkeys(("amax", "amin", "max", "mean", "min", "sum", "var"), _reducing),
}
