"""What PyTorch's functions do to the image that changes its size or the order of its axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from napari_unet.core.checkpoints.graphs.recording import Recorder
from napari_unet.core.checkpoints.graphs.torchscript_ops import (
    ATEN,
    Function,
    dims_of,
    is_feature,
    pairs,
    per_axis,
    register,
)

__all__ = ["ATEN"]

END = 2**63 - 1


# -- windows ---------------------------------------------------------------------------------------


@register("max_pool2d", "max_pool3d")
def _max_pool(
    recorder: Recorder,
    x: Any,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    n = dims_of(x)
    return recorder.add(
        "max_pool",
        recorder.feature(x),
        kernel=per_axis(kernel, n),
        stride=per_axis(stride or kernel, n),
        padding=pairs(padding, n),
        dilation=per_axis(dilation, n),
        ceil=bool(ceil_mode),
    )


@register("max_pool2d_with_indices", "max_pool3d_with_indices")
def _max_pool_indices(recorder: Recorder, x: Any, *args: Any, **named: Any) -> Any:
    return _max_pool(recorder, x, *args, **named), None


@register("avg_pool2d", "avg_pool3d")
def _avg_pool(
    recorder: Recorder,
    x: Any,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Any:
    n = dims_of(x)
    if divisor_override is not None or (ceil_mode and any(per_axis(padding, n))):
        raise recorder.refuse("it has an average pooling with unusual settings")
    return recorder.add(
        "avg_pool",
        recorder.feature(x),
        kernel=per_axis(kernel, n),
        stride=per_axis(stride or kernel, n),
        padding=pairs(padding, n),
        ceil=bool(ceil_mode),
        count_include_pad=bool(count_include_pad) and not ceil_mode,
    )


def _adaptive(kind: str) -> Function:
    def function(recorder: Recorder, x: Any, size: Any) -> Any:
        x, n = recorder.feature(x), dims_of(x)
        here = x.shape[2:]
        sizes = size if isinstance(size, list | tuple) else [size] * n
        wanted = tuple(m if s is None else int(s) for s, m in zip(sizes, here, strict=True))
        if set(wanted) == {1}:
            return recorder.add(f"global_{kind}_pool", x)
        if wanted == here:
            return x
        if any(m % s for s, m in zip(wanted, here, strict=True)):
            raise recorder.refuse("it pools to a fixed size that does not divide the image")
        kernel = tuple(m // s for s, m in zip(wanted, here, strict=True))
        return recorder.add(f"{kind}_pool", x, kernel=kernel, stride=kernel)

    return function


for _n in (2, 3):
    ATEN[f"adaptive_avg_pool{_n}d"] = ATEN[f"_adaptive_avg_pool{_n}d"] = _adaptive("avg")
    ATEN[f"adaptive_max_pool{_n}d"] = _adaptive("max")


def _upsample(mode: str) -> Function:
    def function(recorder: Recorder, x: Any, size: Any, *rest: Any, **named: Any) -> Any:
        corners = bool(rest[0]) if mode == "linear" else False
        scales = [*(rest[1:] if mode == "linear" else rest), *named.values()]
        if len(scales) == 1 and isinstance(scales[0], list | tuple):
            scales = list(scales[0])
        known = bool(scales) and all(isinstance(s, int | float) for s in scales)
        if size is not None and known:
            known = all(float(s).is_integer() for s in scales) and all(
                n == m * s for n, m, s in zip(size, x.shape[2:], scales, strict=True)
            )
        return recorder.resize(x, None if known else size, scales if known else None, mode, corners)

    return function


for _n, _linear_name in ((2, "bilinear"), (3, "trilinear")):
    ATEN[f"upsample_nearest{_n}d"] = _upsample("nearest")
    ATEN[f"_upsample_nearest_exact{_n}d"] = _upsample("nearest_exact")
    ATEN[f"upsample_{_linear_name}{_n}d"] = _upsample("linear")


def _padded(recorder: Recorder, x: Any, amounts: Sequence[int], mode: str, value: float) -> Any:
    """PyTorch gives amounts from the last axis to the first."""
    n = len(x.shape)
    before, after = [0] * n, [0] * n
    for i, (first, last) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
        before[n - 1 - i], after[n - 1 - i] = int(first), int(last)
    return recorder.pad(x, before, after, mode, value)


@register("pad")
def _pad(
    recorder: Recorder, x: Any, amounts: Any, mode: str = "constant", value: Any = None
) -> Any:
    known = {"constant": "zero", "reflect": "reflect", "replicate": "replicate"}
    if mode not in known:
        raise recorder.refuse(f"it pads in the mode '{mode}'")
    return _padded(recorder, x, amounts, known[mode], float(value or 0))


@register("constant_pad_nd")
def _constant_pad(recorder: Recorder, x: Any, amounts: Any, value: Any = 0) -> Any:
    return _padded(recorder, x, amounts, "zero", float(value or 0))


@register("reflection_pad2d", "reflection_pad3d")
def _reflection_pad(recorder: Recorder, x: Any, amounts: Any) -> Any:
    return _padded(recorder, x, amounts, "reflect", 0)


@register("replication_pad2d", "replication_pad3d")
def _replication_pad(recorder: Recorder, x: Any, amounts: Any) -> Any:
    return _padded(recorder, x, amounts, "replicate", 0)


@register("pixel_shuffle")
def _pixel_shuffle(recorder: Recorder, x: Any, factor: int) -> Any:
    return recorder.add("pixel_shuffle", recorder.feature(x), factor=int(factor), order="crd")


# -- several, and parts ----------------------------------------------------------------------------


@register("cat", "concat", "concatenate")
def _cat(recorder: Recorder, values: Sequence[Any], axis: int = 0) -> Any:
    if not any(is_feature(value) for value in values):
        return torch.cat(list(values), axis)
    return recorder.concatenate(values, axis)


@register("slice")
def _slice(
    recorder: Recorder, x: Any, first: Any = None, start: Any = None, end: Any = None, step: Any = 1
) -> Any:
    if isinstance(x, list | tuple | str):  # of a list: without axis
        step = 1 if end is None else end
        return x[first:start:step]
    axis, begin, stop = first or 0, start or 0, END if end is None else end
    if isinstance(x, Tensor):
        return x[(slice(None),) * axis + (slice(begin, stop, step),)]
    return recorder.slice(x, axis, begin, stop, step)


@register("narrow")
def _narrow(recorder: Recorder, x: Any, axis: int, start: int, length: int) -> Any:
    start = int(start)
    return recorder.slice(x, axis, start, (start % x.shape[axis]) + int(length))


@register("split", "split_with_sizes", "unsafe_split")
def _split(recorder: Recorder, x: Any, sizes: Any, axis: int = 0) -> list[Any]:
    n = x.shape[axis]
    if not isinstance(sizes, list | tuple):
        sizes = [min(int(sizes), n - i) for i in range(0, n, max(1, int(sizes)))]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    parts = zip(sizes, ends, strict=True)
    return [recorder.slice(x, axis, end - size, end) for size, end in parts]


@register("chunk", "unsafe_chunk")
def _chunk(recorder: Recorder, x: Any, n: int, axis: int = 0) -> list[Any]:
    parts: list[Any] = _split(recorder, x, -(-x.shape[axis] // n), axis)
    return parts


# -- other arrangements ----------------------------------------------------------------------------


@register("view", "reshape", "_unsafe_view")
def _view(recorder: Recorder, x: Any, shape: Sequence[Any]) -> Any:
    sizes = [int(n) for n in shape]
    return x.reshape(sizes) if isinstance(x, Tensor) else recorder.reshape(x, sizes)


@register("flatten")
def _flatten(recorder: Recorder, x: Any, start: int = 0, end: int = -1) -> Any:
    n = len(x.shape)
    start, end = start % n, end % n
    middle = math.prod(x.shape[start : end + 1])
    return _view(recorder, x, [*x.shape[:start], middle, *x.shape[end + 1 :]])


@register("unsqueeze")
def _unsqueeze(recorder: Recorder, x: Any, axis: int) -> Any:
    if not is_feature(x):
        return torch.as_tensor(x).unsqueeze(axis)
    shape = list(x.shape)
    shape.insert(axis % (len(shape) + 1), 1)
    return recorder.reshape(x, shape)


@register("squeeze")
def _squeeze(recorder: Recorder, x: Any, axes: Any = None) -> Any:
    if not is_feature(x):
        return torch.as_tensor(x).squeeze() if axes is None else torch.as_tensor(x).squeeze(axes)
    n = len(x.shape)
    chosen = range(n) if axes is None else [a % n for a in per_axis(axes, 1)]
    return recorder.reshape(x, [m for i, m in enumerate(x.shape) if m != 1 or i not in chosen])


@register("permute")
def _permute(recorder: Recorder, x: Any, order: Sequence[int]) -> Any:
    axes = [a % len(x.shape) for a in order]
    return x.permute(axes) if isinstance(x, Tensor) else recorder.permute(x, axes)


@register("transpose")
def _transpose(recorder: Recorder, x: Any, one: int, other: int) -> Any:
    order = list(range(len(x.shape)))
    order[one], order[other] = order[other], order[one]
    return _permute(recorder, x, order)


@register("t")
def _t(recorder: Recorder, x: Tensor) -> Tensor:
    return x.t()


@register("expand")
def _expand(recorder: Recorder, x: Any, shape: Sequence[int], implicit: bool = False) -> Any:
    if not is_feature(x):
        raise recorder.refuse("it repeats constants over the image")
    wanted = tuple(m if int(n) == -1 else int(n) for n, m in zip(shape, x.shape, strict=True))
    if wanted == x.shape:
        return x
    if wanted[:2] != x.shape[:2] or math.prod(x.shape[2:]) != 1:
        raise recorder.refuse("it repeats features")
    return recorder.resize(x, wanted[2:], None, "nearest", False)


@register("expand_as")
def _expand_as(recorder: Recorder, x: Any, other: Any) -> Any:
    return _expand(recorder, x, other.shape)


@register("mean")
def _mean(
    recorder: Recorder, x: Any, axes: Any = None, keep: bool = False, dtype: Any = None
) -> Any:
    axes = () if axes is None else axes
    return recorder.reduce("mean", x, per_axis(axes, 1), keep)


@register("amax")
def _amax(recorder: Recorder, x: Any, axes: Any = (), keep: bool = False) -> Any:
    return recorder.reduce("max", x, per_axis(axes, 1), keep)


def _same(recorder: Recorder, x: Any, *_args: Any, **_named: Any) -> Any:
    return x


for _name in (
    "dropout", "dropout_", "feature_dropout", "feature_dropout_", "alpha_dropout", "contiguous",
    "clone", "detach", "detach_", "to", "_to_copy", "type_as", "float", "alias", "lift_fresh_copy",
    "lift_fresh", "cpu", "requires_grad_", "NumToTensor", "ScalarImplicit", "item", "scalar_tensor",
    "data", "_local_scalar_dense", "list", "unchecked_unwrap_optional", "feature_alpha_dropout",
    "unchecked_cast",
):  # fmt: skip
    ATEN[_name] = _same
