"""What PyTorch's functions do to plain numbers, lists and texts, and arithmetic with the image."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from napari_unet.core.checkpoints.graphs.recording import Recorder
from napari_unet.core.checkpoints.graphs.torchscript_ops import is_feature
from napari_unet.core.checkpoints.graphs.torchscript_sizes import ATEN

__all__ = ["NUMBERS", "plain_number"]

MOST_VALUES = 1 << 24
LARGEST = 1 << 62
LONGEST = 100_000

Function = Callable[..., Any]


def plain_number(value: Any) -> Any:
    """A tensor of one number as that number; anything else as it is."""
    return value.item() if isinstance(value, Tensor) and value.ndim == 0 else value


def _bounded(recorder: Recorder, value: Any) -> Any:
    """A result that is no larger than any that a network needs."""
    too_large = isinstance(value, int) and abs(value) > LARGEST
    if too_large or (isinstance(value, str | list | tuple) and len(value) > LONGEST):
        raise recorder.refuse("it computes something far larger than any network needs")
    if isinstance(value, Tensor) and value.numel() > MOST_VALUES:
        raise recorder.refuse("it computes something far larger than any network needs")
    return value


def _arithmetic(op: str, plain: Callable[[Any, Any], Any]) -> Function:
    """`add` and the like: of features, of constants, of numbers, of lists."""

    def function(recorder: Recorder, left: Any, right: Any, *rest: Any, **named: Any) -> Any:
        alpha = named.get("alpha", rest[0] if rest and op in ("add", "sub") else 1)
        rounding = named.get("rounding_mode")
        if is_feature(left) or is_feature(right):
            if rounding is not None:
                raise recorder.refuse("it rounds values of the image")
            right = right if alpha == 1 else ATEN["mul"](recorder, right, alpha)
            return recorder.binary(op, left, right)
        left, right = plain_number(left), plain_number(right)
        right = right if alpha == 1 else right * alpha
        if rounding == "floor":
            return _bounded(recorder, left // right)
        if rounding == "trunc":
            return _bounded(recorder, math.trunc(left / right))
        return _bounded(recorder, plain(left, right))

    return function


def _multiplied(left: Any, right: Any) -> Any:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, list | str) and len(value) * int(times) > LONGEST:
            raise ValueError("far too long")
    return left * right


for _name, _plain in (
    ("add", operator.add),
    ("sub", operator.sub),
    ("mul", _multiplied),
    ("div", operator.truediv),
):
    ATEN[_name] = ATEN[f"{_name}_"] = _arithmetic(_name, _plain)
for _name, _layer in (("maximum", "maximum"), ("minimum", "minimum")):
    ATEN[_name] = _arithmetic(_layer, max if _name == "maximum" else min)
ATEN["true_divide"] = ATEN["div"]
ATEN["multiply"] = ATEN["mul"]


def _rsub(recorder: Recorder, left: Any, right: Any, alpha: Any = 1) -> Any:
    return ATEN["sub"](recorder, right, left, alpha)


ATEN["rsub"] = _rsub


def _power(recorder: Recorder, base: Any, exponent: Any) -> Any:
    if is_feature(base):
        return recorder.pointwise("pow", base, value=float(exponent))
    if isinstance(base, Tensor):
        return torch.pow(base, exponent)
    return _bounded(recorder, float(base) ** float(exponent))


ATEN["pow"] = ATEN["pow_"] = _power


def _unary(op: str, plain: Function, of_tensors: Function) -> Function:
    def function(recorder: Recorder, x: Any) -> Any:
        if is_feature(x):
            return recorder.pointwise(op, x)
        return of_tensors(x) if isinstance(x, Tensor) else plain(x)

    return function


ATEN["neg"] = _unary("neg", operator.neg, torch.neg)
ATEN["sqrt"] = _unary("sqrt", math.sqrt, torch.sqrt)
ATEN["abs"] = _unary("abs", abs, torch.abs)


def _rsqrt(recorder: Recorder, x: Any) -> Any:
    return ATEN["pow"](recorder, x, -0.5)


ATEN["rsqrt"] = _rsqrt


def _square(recorder: Recorder, x: Any) -> Any:
    return ATEN["mul"](recorder, x, x)


ATEN["square"] = _square


def _number(function: Function) -> Function:
    """A function of plain values only."""

    def called(recorder: Recorder, *args: Any, **named: Any) -> Any:
        if any(is_feature(value) for value in args):
            raise recorder.refuse("it decides or computes by the values of the image")
        return _bounded(recorder, function(*map(plain_number, args), **named))

    return called


def _is(left: Any, right: Any) -> bool:
    return left is right


def _floor_divided(left: Any, right: Any) -> Any:
    return torch.floor_divide(left, right) if isinstance(left, Tensor) else left // right


def _to_int(value: Any) -> int:
    return int(value)


def _range_length(start: int, stop: int, step: int) -> int:
    return len(range(start, stop, step))


def _derived(index: int, start: int, step: int) -> int:
    return start + index * step


def _tensor(value: Any, **_: Any) -> Any:
    return value if isinstance(value, int | float | bool) else torch.tensor(value)


_NUMBERS: Mapping[str, Function] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "floordiv": _floor_divided,
    "floor_divide": _floor_divided,
    "remainder": operator.mod,
    "mod": operator.mod,
    "fmod": math.fmod,
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "trunc": math.trunc,
    "__not__": operator.not_,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__xor__": operator.xor,
    "bitwise_not": operator.not_,
    "Int": _to_int,
    "IntImplicit": _to_int,
    "Float": float,
    "FloatImplicit": float,
    "Bool": bool,
    "__range_length": _range_length,
    "__derive_index": _derived,
    "tensor": _tensor,
    "min": min,
    "max": max,
    "sym_max": max,
    "sym_min": min,
    "sym_float": float,
    "sym_int": _to_int,
    "sym_not": operator.not_,
    "gcd": math.gcd,
    "str": str,
    "ord": ord,
    "abs": abs,
}
for _name, _function in _NUMBERS.items():
    ATEN.setdefault(_name, _number(_function))


def _plainly(function: Function) -> Function:
    """A function that looks at its arguments but not at the numbers in them."""

    def called(recorder: Recorder, *args: Any) -> Any:
        return function(*args)

    return called


def _size(x: Any, axis: Any = None) -> Any:
    return [int(n) for n in x.shape] if axis is None else int(x.shape[axis])


def _length(x: Any) -> int:
    return len(x.shape) and x.shape[0] if hasattr(x, "shape") else len(x)


def _contains(values: Any, value: Any) -> bool:
    return any(value is one or (type(value) is type(one) and value == one) for one in values)


def _appended(values: list[Any], value: Any) -> list[Any]:
    if len(values) > LONGEST:
        raise ValueError("far too long")
    values.append(value)
    return values


def _at(values: Any, index: Any) -> Any:
    return values[plain_number(index)]


def _set(values: Any, index: Any, value: Any) -> Any:
    values[index] = value
    return values


def _reversed(values: list[Any]) -> None:
    values.reverse()


def _formatted(text: str, *values: Any) -> str:
    for value in values:
        text = text.replace("{}", str(value)[:200], 1)
    return text[:1000]


def _zeros(fill: float) -> Function:
    def function(size: Any, *_: Any) -> Tensor:
        if math.prod(int(n) for n in size) > MOST_VALUES:
            raise ValueError("far too large")
        return torch.full([int(n) for n in size], fill)

    return function


NUMBERS: Mapping[str, Function] = {
    "size": _size,
    "sym_size": _size,
    "dim": lambda x: len(x.shape),
    "len": _length,
    "numel": lambda x: math.prod(x.shape),
    "sym_numel": lambda x: math.prod(x.shape),
    "__is__": _is,
    "__isnot__": lambda left, right: left is not right,
    "__contains__": _contains,
    "append": _appended,
    "reverse": _reversed,
    "__getitem__": _at,
    "_set_item": _set,
    "format": _formatted,
    "warn": lambda *_: None,
    "device": lambda *_: "cpu",
    "dtype": lambda *_: 6,
    "is_floating_point": lambda *_: True,
    "is_cuda": lambda *_: False,
    "is_scripting": lambda *_: True,
    "is_tracing": lambda *_: False,
    "zeros": _zeros(0.0),
    "ones": _zeros(1.0),
    "keys": lambda values: list(values),
    "values": lambda values: list(values.values()),
    "items": lambda values: list(values.items()),
    "copy": lambda values: values.copy(),
}
"""Functions that look at shapes, lists and dicts."""
for _name, _function in NUMBERS.items():
    ATEN[_name] = _plainly(_function)
