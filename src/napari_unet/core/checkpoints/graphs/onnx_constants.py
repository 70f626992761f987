"""What ONNX's operations do to constants and to sizes, which are computed at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from napari_unet.core.checkpoints.graphs.onnx_file import Node
from napari_unet.core.checkpoints.graphs.recording import Feature, Outcome, Recorder, View

__all__ = ["CONSTANTS", "OPERATIONS", "Context", "Operation", "is_feature", "op", "ranges"]

MOST_VALUES = 1 << 26


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """Where operations are followed.

    Attributes
    ----------
    recorder : takes down what is done to the image.
    version : of ONNX's operations.
    """

    recorder: Recorder
    version: int

    def numbers(self, value: Any) -> list[Any]:
        """A constant as a list of plain numbers; refuses what comes of the image."""
        if not isinstance(value, Tensor):
            raise self.recorder.refuse("it computes a size or a setting from values of the image")
        return value.reshape(-1).tolist()

    def setting(self, node: Node, name: str, value: Any = None) -> list[Any] | None:
        """Numbers that older files have as an attribute, newer ones as an input."""
        if value is not None:
            return self.numbers(value)
        found = node.attributes.get(name)
        if found is None:
            return None
        return list(found) if isinstance(found, list | tuple) else [found]


Operation = Callable[..., Any]
OPERATIONS: dict[str, Operation] = {}


def op(*names: str) -> Callable[[Operation], Operation]:
    """Register what an operation does: called with a context, the node, and its inputs."""

    def register(function: Operation) -> Operation:
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return register


def is_feature(value: Any) -> bool:
    """Whether a value comes of the image."""
    return isinstance(value, Feature | View | Outcome)


def _bounded(context: Context, shape: Sequence[int]) -> tuple[int, ...]:
    if min(shape, default=0) < 0 or math.prod(shape) > MOST_VALUES:
        raise context.recorder.refuse("it makes a constant far larger than any network needs")
    return tuple(shape)


@op("Constant")
def _constant(context: Context, node: Node) -> Tensor:
    for name, value in node.attributes.items():
        if name == "value" and isinstance(value, Tensor):
            return value
        if name in ("value_float", "value_int", "value_floats", "value_ints"):
            return torch.tensor(value)
    raise context.recorder.refuse("it has a constant that is no number")


@op("ConstantOfShape")
def _constant_of_shape(context: Context, node: Node, shape: Any) -> Tensor:
    value: Tensor = node.attributes.get("value", torch.zeros(1))
    return value.reshape(-1)[0].expand(_bounded(context, context.numbers(shape))).clone()


@op("Shape")
def _shape(context: Context, node: Node, x: Any) -> Tensor:
    first, last = node.attributes.get("start", 0), node.attributes.get("end")
    return torch.tensor([int(n) for n in x.shape][first:last], dtype=torch.int64)


@op("Size")
def _size(context: Context, node: Node, x: Any) -> Tensor:
    return torch.tensor(math.prod(x.shape))


@op("Range")
def _range(context: Context, node: Node, *ends: Any) -> Tensor:
    start, stop, step = (context.numbers(one)[0] for one in ends)
    _bounded(context, [max(0, math.ceil((stop - start) / step))])
    return torch.arange(start, stop, step)


# -- what is computed if all inputs are constants --------------------------------------------------

CONSTANTS: dict[str, Operation] = {}
"""Operations on constants; those of the same name on features are in `onnx_ops`."""


def _only(*names: str) -> Callable[[Operation], Operation]:
    def register(function: Operation) -> Operation:
        CONSTANTS.update(dict.fromkeys(names, function))
        return function

    return register


@_only("Gather")
def _gather(context: Context, node: Node, values: Tensor, index: Tensor) -> Tensor:
    axis = node.attributes.get("axis", 0)
    n = values.shape[axis]
    flat = torch.where(index < 0, index + n, index).reshape(-1)
    picked = values.index_select(axis, flat)
    at = axis % values.ndim
    return picked.reshape((*values.shape[:at], *index.shape, *values.shape[at + 1 :]))


@_only("Concat")
def _concat(context: Context, node: Node, *values: Tensor) -> Tensor:
    return torch.cat(values, node.attributes.get("axis", 0))


@_only("Squeeze")
def _squeeze(context: Context, node: Node, x: Tensor, axes: Any = None) -> Tensor:
    chosen = context.setting(node, "axes", axes)
    return x.squeeze() if chosen is None else x.squeeze(tuple(int(a) for a in chosen))


@_only("Unsqueeze")
def _unsqueeze(context: Context, node: Node, x: Tensor, axes: Any = None) -> Tensor:
    chosen = context.setting(node, "axes", axes) or []
    for axis in sorted(a % (x.ndim + len(chosen)) for a in chosen):
        x = x.unsqueeze(int(axis))
    return x


@_only("Reshape")
def _reshape(context: Context, node: Node, x: Tensor, shape: Tensor) -> Tensor:
    sizes = [x.shape[i] if n == 0 else n for i, n in enumerate(context.numbers(shape))]
    return x.reshape(sizes)


@_only("Flatten")
def _flatten(context: Context, node: Node, x: Tensor) -> Tensor:
    axis = node.attributes.get("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


@_only("Transpose")
def _transpose(context: Context, node: Node, x: Tensor) -> Tensor:
    return x.permute(node.attributes.get("perm") or tuple(reversed(range(x.ndim))))


@_only("Expand")
def _expand(context: Context, node: Node, x: Tensor, shape: Tensor) -> Tensor:
    wanted = torch.broadcast_shapes(x.shape, tuple(context.numbers(shape)))
    return x.expand(_bounded(context, wanted)).clone()


@_only("Tile")
def _tile(context: Context, node: Node, x: Tensor, times: Tensor) -> Tensor:
    counts = context.numbers(times)
    _bounded(context, [math.prod(counts), x.numel()])
    return x.repeat(counts)


@_only("Cast", "CastLike")
def _cast(context: Context, node: Node, x: Tensor, _like: Any = None) -> Tensor:
    to = node.attributes.get("to", 1)
    if to in (1, 10, 11, 16):
        return x.to(torch.float32)
    return x.to(torch.bool) if to == 9 else x.to(torch.int64)


@_only("Slice")
def _slice(context: Context, node: Node, x: Tensor, *bounds: Any) -> Tensor:
    for axis, start, stop, step in ranges(context, node, x.ndim, bounds):
        index = range(*slice(start, stop, step).indices(x.shape[axis]))
        x = x.index_select(axis, torch.tensor(list(index), dtype=torch.int64))
    return x


def ranges(
    context: Context, node: Node, n_axes: int, bounds: Sequence[Any]
) -> list[tuple[int, int, int | None, int]]:
    """Axis, start, stop and step of each range that a "Slice" takes."""
    given = [*bounds, *([None] * (4 - len(bounds)))]
    pairs = zip(("starts", "ends", "axes", "steps"), given, strict=True)
    starts, ends, axes, steps = (context.setting(node, name, one) for name, one in pairs)
    starts, ends = starts or [], ends or []
    axes = axes or list(range(len(starts)))
    found: list[tuple[int, int, int | None, int]] = []
    for axis, start, stop, step in zip(axes, starts, ends, steps or [1] * len(starts), strict=True):
        # Backwards, an end far below zero means "to the first one and including it".
        last = None if step < 0 and stop < -(1 << 31) else int(stop)
        found.append((int(axis) % n_axes, int(start), last, int(step)))
    return found


def _divided(left: Tensor, right: Tensor) -> Tensor:
    whole = not left.is_floating_point() and not right.is_floating_point()
    return torch.div(left, right, rounding_mode="trunc" if whole else None)


def _reduced(function: Callable[..., Tensor]) -> Operation:
    def called(context: Context, node: Node, x: Tensor, axes: Any = None) -> Tensor:
        chosen = context.setting(node, "axes", axes) or list(range(x.ndim))
        keep = bool(node.attributes.get("keepdims", 1))
        for axis in sorted((int(a) % x.ndim for a in chosen), reverse=True):
            x = function(x, dim=axis, keepdim=keep)
        return x

    return called


for _name, _reduce in (
    ("ReduceProd", torch.prod), ("ReduceSum", torch.sum), ("ReduceMax", torch.amax),
    ("ReduceMin", torch.amin), ("ReduceMean", torch.mean),
):  # fmt: skip
    CONSTANTS[_name] = _reduced(_reduce)

_SIMPLE: Mapping[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": _divided,
    "Pow": torch.pow,
    "Mod": torch.remainder,
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Equal": torch.eq,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Not": torch.logical_not,
    "Where": torch.where,
    "Neg": torch.neg,
    "Abs": torch.abs,
    "Sqrt": torch.sqrt,
    "Exp": torch.exp,
    "Log": torch.log,
    "Reciprocal": torch.reciprocal,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Relu": torch.relu,
    "Tanh": torch.tanh,
    "Identity": lambda x: x,
}


def _simple(function: Callable[..., Tensor]) -> Operation:
    def called(context: Context, node: Node, *values: Tensor) -> Tensor:
        _bounded(context, torch.broadcast_shapes(*(value.shape for value in values)))
        return function(*values)

    return called


CONSTANTS.update({_name: _simple(_function) for _name, _function in _SIMPLE.items()})
