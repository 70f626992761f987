"""What ONNX's operations do to the image that changes its size or the order of its axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from napari_unet.core.checkpoints.graphs import onnx_ops
from napari_unet.core.checkpoints.graphs.onnx_constants import (
    CONSTANTS,
    OPERATIONS,
    Context,
    Operation,
    is_feature,
    op,
    ranges,
)
from napari_unet.core.checkpoints.graphs.onnx_file import Node
from napari_unet.core.checkpoints.graphs.recording import Outcome, View

__all__ = ["OPERATIONS", "Context"]

assert onnx_ops.PLAIN  # imported for what it adds to `OPERATIONS`


# -- sizes and arrangements ------------------------------------------------------------------------


@op("Concat")
def _concat(context: Context, node: Node, *values: Any) -> Any:
    return context.recorder.concatenate(values, int(node.attributes.get("axis", 1)))


@op("Slice")
def _slice(context: Context, node: Node, x: Any, *bounds: Any) -> Any:
    for axis, start, stop, step in ranges(context, node, len(x.shape), bounds):
        end = x.shape[axis] if stop is None else stop
        x = context.recorder.slice(x, axis, start, end, step)
    return x


@op("Split")
def _split(context: Context, node: Node, x: Any, sizes: Any = None) -> tuple[Any, ...]:
    axis = int(node.attributes.get("axis", 0)) % len(x.shape)
    parts = context.setting(node, "split", sizes)
    if parts is None:
        n = -(-x.shape[axis] // len(node.outputs))
        parts = [min(n, x.shape[axis] - i) for i in range(0, x.shape[axis], n)]
    ends = [sum(parts[: i + 1]) for i in range(len(parts))]
    pairs = zip(parts, ends, strict=True)
    return tuple(context.recorder.slice(x, axis, end - size, end) for size, end in pairs)


@op("Pad")
def _pad(
    context: Context, node: Node, x: Any, pads: Any = None, value: Any = None, axes: Any = None
) -> Any:
    amounts = [int(n) for n in context.setting(node, "pads", pads) or []]
    n = len(x.shape)
    chosen = [int(a) % n for a in context.numbers(axes)] if axes is not None else list(range(n))
    before, after = [0] * n, [0] * n
    for i, axis in enumerate(chosen):
        before[axis], after[axis] = amounts[i], amounts[i + len(chosen)]
    modes = {"constant": "zero", "reflect": "reflect", "edge": "replicate"}
    mode = node.attributes.get("mode", "constant")
    if mode not in modes:
        raise context.recorder.refuse(f"it pads in the mode '{mode}'")
    fill = (context.setting(node, "value", value) or [0.0])[0]
    if isinstance(x, View) and x.order is not None:
        order = x.order
        first, last = ([some[order.index(i)] for i in range(n)] for some in (before, after))
        base = context.recorder.pad(x.base, first, last, modes[mode], fill)
        return View(base, tuple(base.shape[i] for i in order), order)
    return context.recorder.pad(x, before, after, modes[mode], fill)


@op("Resize", "Upsample")
def _resize(
    context: Context, node: Node, x: Any, second: Any = None, third: Any = None, sizes: Any = None
) -> Any:
    old = node.op == "Upsample" or context.version < 11
    scales = context.setting(node, "scales", second if old else third)
    target = None if sizes is None else context.numbers(sizes)
    if isinstance(x, View):
        raise context.recorder.refuse("it resizes features whose axes are rearranged")
    axes = node.attributes.get("axes")
    n = len(x.shape)
    places = list(range(n)) if axes is None else [int(a) % n for a in axes]
    factors = _spread(places, scales, [1.0] * n) if scales and target is None else None
    wanted = _spread(places, target, list(x.shape)) if target else None
    if (factors and set(factors[:2]) != {1}) or (wanted and tuple(wanted[:2]) != x.shape[:2]):
        raise context.recorder.refuse("it resizes other axes than those of the image")
    mode, corners = _mode(context, node, x, factors, wanted, old)
    size = None if wanted is None else [int(m) for m in wanted[2:]]
    return context.recorder.resize(x, size, factors and factors[2:], mode, corners)


def _spread(places: Sequence[int], values: Sequence[Any], default: list[Any]) -> list[Any]:
    """Values for some axes as values for all."""
    for place, value in zip(places, values, strict=True):
        default[place] = value
    return default


def _mode(
    context: Context, node: Node, x: Any, factors: Any, sizes: Any, old: bool
) -> tuple[str, bool]:
    """Which of our ways of resizing gives the same, and whether corners correspond."""
    kind = node.attributes.get("mode", "nearest")
    rule = node.attributes.get("coordinate_transformation_mode", "half_pixel")
    rule = "asymmetric" if old else rule
    rounding = "floor" if old else node.attributes.get("nearest_mode", "round_prefer_floor")
    if node.attributes.get("antialias") or node.attributes.get("exclude_outside"):
        raise context.recorder.refuse("it resizes with smoothing")
    ratios = factors or [m / n for m, n in zip(sizes, x.shape, strict=True)]
    whole = all(float(ratio).is_integer() for ratio in ratios)
    if kind == "nearest":
        if rule == "asymmetric" and rounding == "floor":
            return "nearest", False
        centred = rule in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")
        if centred and rounding.startswith("round") and whole:
            return "nearest", False
        if (centred and rounding == "round_prefer_ceil") or rule == "tf_half_pixel_for_nn":
            return "nearest_exact", False
    elif kind in ("linear", "bilinear", "trilinear"):
        if rule in ("half_pixel", "pytorch_half_pixel"):
            return "linear", False
        if rule == "align_corners":
            return "linear", True
        if all(ratio == 1 for ratio in ratios):
            return "linear", False
    raise context.recorder.refuse(f"it resizes by the rule '{kind}, {rule}, {rounding}'")


@op("DepthToSpace")
def _depth_to_space(context: Context, node: Node, x: Any) -> Any:
    order = "crd" if node.attributes.get("mode", "DCR") == "CRD" else "dcr"
    factor = int(node.attributes.get("blocksize", 1))
    x = context.recorder.feature(x)
    return context.recorder.add("pixel_shuffle", x, factor=factor, order=order)


@op("Transpose")
def _transpose(context: Context, node: Node, x: Any) -> Any:
    order = node.attributes.get("perm") or tuple(reversed(range(len(x.shape))))
    if isinstance(x, Outcome):
        return Outcome(context.recorder.permute(x.value, order), x.activation)
    return context.recorder.permute(x, order)


@op("Reshape")
def _reshape(context: Context, node: Node, x: Any, shape: Any) -> Any:
    given = [int(n) for n in context.numbers(shape)]
    sizes = [x.shape[i] if n == 0 else n for i, n in enumerate(given)]
    return context.recorder.reshape(x, sizes)


@op("Flatten")
def _flatten(context: Context, node: Node, x: Any) -> Any:
    axis = int(node.attributes.get("axis", 1))
    return context.recorder.reshape(x, [math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])


@op("Squeeze")
def _squeeze(context: Context, node: Node, x: Any, axes: Any = None) -> Any:
    if isinstance(x, Outcome):
        return x
    n = len(x.shape)
    chosen = [int(a) % n for a in context.setting(node, "axes", axes) or range(n)]
    return context.recorder.reshape(
        x, [m for i, m in enumerate(x.shape) if i not in chosen or m > 1]
    )


@op("Unsqueeze")
def _unsqueeze(context: Context, node: Node, x: Any, axes: Any = None) -> Any:
    shape = list(x.shape)
    chosen = context.setting(node, "axes", axes) or []
    for axis in sorted(int(a) % (len(shape) + len(chosen)) for a in chosen):
        shape.insert(axis, 1)
    return context.recorder.reshape(x, shape)


@op("Expand")
def _expand(context: Context, node: Node, x: Any, shape: Any) -> Any:
    wanted = torch.broadcast_shapes(tuple(x.shape), tuple(context.numbers(shape)))
    if wanted == tuple(x.shape):
        return x
    if wanted[:2] != tuple(x.shape[:2]) or math.prod(x.shape[2:]) != 1:
        raise context.recorder.refuse("it repeats features")
    return context.recorder.resize(x, list(wanted[2:]), None, "nearest", False)


def _reduced(kind: str) -> Operation:
    def called(context: Context, node: Node, x: Any, axes: Any = None) -> Any:
        chosen = [int(a) for a in context.setting(node, "axes", axes) or range(len(x.shape))]
        return context.recorder.reduce(kind, x, chosen, bool(node.attributes.get("keepdims", 1)))

    return called


OPERATIONS["ReduceMean"] = _reduced("mean")
OPERATIONS["ReduceMax"] = _reduced("max")


@op("Gemm")
def _gemm(context: Context, node: Node, x: Any, weight: Tensor, bias: Any = None) -> Any:
    plain = {node.attributes.get(name, 1.0) for name in ("alpha", "beta")} == {1.0}
    if not plain or node.attributes.get("transA"):
        raise context.recorder.refuse("it has a dense layer with factors")
    weight = weight if node.attributes.get("transB") else weight.t().contiguous()
    return context.recorder.linear(x, weight, bias)


@op("MatMul")
def _matmul(context: Context, node: Node, x: Any, weight: Any) -> Any:
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise context.recorder.refuse("it multiplies features by features, as transformers do")
    return context.recorder.linear(x, weight.t().contiguous(), None)


def _either(on_features: Operation | None, on_constants: Operation) -> Operation:
    """One operation for what comes of the image, another for constants."""

    def called(context: Context, node: Node, *inputs: Any) -> Any:
        if not any(is_feature(value) for value in inputs):
            return on_constants(context, node, *inputs)
        if on_features is None:
            raise context.recorder.refuse(f"'{node.op}' is used on values of the image")
        return on_features(context, node, *inputs)

    return called


OPERATIONS.update(
    {_name: _either(OPERATIONS.get(_name), _constant) for _name, _constant in CONSTANTS.items()}
)
