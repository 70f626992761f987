"""What ONNX's operations do to the image, as layers.

https://onnx.ai/onnx/operators describes them. Each function takes where it is called, the node
with its attributes, and the node's inputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from napari_unet.core.checkpoints.graphs.onnx_constants import (
    OPERATIONS,
    Context,
    Operation,
    op,
)
from napari_unet.core.checkpoints.graphs.onnx_file import Node
from napari_unet.core.checkpoints.graphs.recording import Feature, Outcome, View

__all__ = ["PLAIN"]


def _dims(x: Any) -> int:
    return len(x.shape) - 2


def _ints(node: Node, name: str, default: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(n) for n in node.attributes.get(name) or default)


def _borders(context: Context, node: Node, n: int) -> Any:
    """Padding as layers take it: amounts, or a rule."""
    rule = node.attributes.get("auto_pad", "NOTSET")
    rules = {"SAME_UPPER": "same", "SAME_LOWER": "same_lower", "VALID": 0}
    if rule in rules:
        return rules[rule]
    return _ints(node, "pads", (0,) * (2 * n))


@op("Conv")
def _conv(context: Context, node: Node, x: Any, weight: Tensor, bias: Any = None) -> Any:
    n = _dims(x)
    return context.recorder.conv(
        x,
        weight,
        bias,
        groups=int(node.attributes.get("group", 1)),
        stride=_ints(node, "strides", (1,) * n),
        padding=_borders(context, node, n),
        dilation=_ints(node, "dilations", (1,) * n),
    )


@op("ConvTranspose")
def _conv_transpose(context: Context, node: Node, x: Any, weight: Tensor, bias: Any = None) -> Any:
    n = _dims(x)
    if node.attributes.get("output_shape"):
        raise context.recorder.refuse("it enlarges to a fixed size")
    return context.recorder.conv(
        x,
        weight,
        bias,
        groups=int(node.attributes.get("group", 1)),
        transposed=True,
        stride=_ints(node, "strides", (1,) * n),
        padding=_borders(context, node, n),
        output_padding=_ints(node, "output_padding", (0,) * n),
        dilation=_ints(node, "dilations", (1,) * n),
    )


def _pool(context: Context, node: Node, x: Any, kind: str, **values: Any) -> Feature:
    n = _dims(x)
    return context.recorder.add(
        f"{kind}_pool",
        context.recorder.feature(x),
        kernel=_ints(node, "kernel_shape", ()),
        stride=_ints(node, "strides", (1,) * n),
        padding=_borders(context, node, n),
        ceil=bool(node.attributes.get("ceil_mode", 0)),
        **values,
    )


@op("MaxPool")
def _max_pool(context: Context, node: Node, x: Any) -> Any:
    return _pool(context, node, x, "max", dilation=_ints(node, "dilations", (1,) * _dims(x)))


@op("AveragePool")
def _average_pool(context: Context, node: Node, x: Any) -> Any:
    include = bool(node.attributes.get("count_include_pad", 0))
    if set(_ints(node, "dilations", (1,))) != {1} or (include and node.attributes.get("ceil_mode")):
        raise context.recorder.refuse("it has an average pooling with unusual settings")
    return _pool(context, node, x, "avg", count_include_pad=include)


@op("GlobalAveragePool")
def _global_average(context: Context, node: Node, x: Any) -> Any:
    return context.recorder.add("global_avg_pool", context.recorder.feature(x))


@op("GlobalMaxPool")
def _global_max(context: Context, node: Node, x: Any) -> Any:
    return context.recorder.add("global_max_pool", context.recorder.feature(x))


# -- normalisation ---------------------------------------------------------------------------------


def _eps(node: Node) -> float:
    return float(node.attributes.get("epsilon", 1e-5))


@op("BatchNormalization")
def _batch_norm(
    context: Context, node: Node, x: Any, weight: Any, bias: Any, mean: Any, variance: Any
) -> Any:
    weights = {"running_mean": mean, "running_var": variance}
    return context.recorder.norm("batch_norm", x, weight, bias, eps=_eps(node), weights=weights)


@op("InstanceNormalization")
def _instance_norm(context: Context, node: Node, x: Any, weight: Tensor, bias: Tensor) -> Any:
    plain = bool((weight == 1).all()) and not bool(bias.any())
    if isinstance(x, View) and x.order is None and plain and x.base.shape[1] % x.shape[1] == 0:
        # Groups of channels were laid side by side to be one channel each.
        values = {"eps": _eps(node), "groups": int(x.shape[1])}
        base = context.recorder.norm("group_norm", x.base, None, None, **values)
        return View(base, x.shape)
    held = (None, None) if plain else (weight, bias)
    return context.recorder.norm("instance_norm", x, *held, eps=_eps(node))


@op("GroupNormalization")
def _group_norm(context: Context, node: Node, x: Any, weight: Tensor, bias: Tensor) -> Any:
    groups = int(node.attributes.get("num_groups", 1))
    if weight.numel() == groups != x.shape[1]:  # one number per group, in version 18
        times = x.shape[1] // groups
        weight, bias = weight.repeat_interleave(times), bias.repeat_interleave(times)
    values = {"eps": _eps(node), "groups": groups}
    return context.recorder.norm("group_norm", x, weight, bias, **values)


@op("LayerNormalization")
def _layer_norm(context: Context, node: Node, x: Any, weight: Tensor, bias: Any = None) -> Any:
    axis = int(node.attributes.get("axis", -1)) % len(x.shape)
    if axis != len(x.shape) - 1 or not isinstance(x, View) or not x.order or x.order[-1] != 1:
        raise context.recorder.refuse("it normalises over other axes than the channels")
    base = context.recorder.norm("layer_norm", x.base, weight, bias, eps=_eps(node))
    return View(base, x.shape, x.order)


# -- functions of each number ----------------------------------------------------------------------

PLAIN: Mapping[str, str] = {
    "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Softplus": "softplus",
    "Softsign": "softsign", "HardSwish": "hard_swish", "Mish": "mish", "Neg": "neg", "Abs": "abs",
    "Exp": "exp", "Log": "log", "Sqrt": "sqrt",
}  # fmt: skip


def _plain(layer: str) -> Operation:
    def called(context: Context, node: Node, x: Any) -> Any:
        return context.recorder.pointwise(layer, x)

    return called


OPERATIONS.update({_name: _plain(_layer) for _name, _layer in PLAIN.items()})


def _with(layer: str, **names: tuple[str, float]) -> Operation:
    """A function with settings; of each its name here, its name in ONNX and its default."""

    def called(context: Context, node: Node, x: Any) -> Any:
        known = {
            ours: float(node.attributes.get(theirs, default))
            for ours, (theirs, default) in names.items()
        }
        return context.recorder.pointwise(layer, x, **known)

    return called


OPERATIONS["LeakyRelu"] = _with("leaky_relu", slope=("alpha", 0.01))
OPERATIONS["Elu"] = _with("elu", alpha=("alpha", 1.0))
OPERATIONS["HardSigmoid"] = _with("hard_sigmoid", slope=("alpha", 0.2), shift=("beta", 0.5))


@op("Selu")
def _selu(context: Context, node: Node, x: Any) -> Any:
    usual = {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}
    for name, value in usual.items():
        if not math.isclose(node.attributes.get(name, value), value, rel_tol=1e-5):
            raise context.recorder.refuse("it has a SELU with unusual factors")
    return context.recorder.pointwise("selu", x)


@op("PRelu")
def _prelu(context: Context, node: Node, x: Any, slope: Tensor) -> Any:
    weights = {"weight": slope.reshape(-1)}
    x = context.recorder.feature(x)
    if slope.numel() not in (1, x.shape[1]):
        raise context.recorder.refuse("it has a PReLU with other than one slope per channel")
    return context.recorder.add("prelu", x, channels=slope.numel(), weights=weights)


@op("Gelu")
def _gelu(context: Context, node: Node, x: Any) -> Any:
    kind = node.attributes.get("approximate", "none")
    return context.recorder.pointwise("gelu", x, approximate=kind)


@op("Clip")
def _clip(context: Context, node: Node, x: Any, low: Any = None, high: Any = None) -> Any:
    least, most = context.setting(node, "min", low), context.setting(node, "max", high)
    if least is None and most is None:
        return x
    ends = {"min": least, "max": most}
    bounds = {name: float(end[0]) if end else None for name, end in ends.items()}
    return context.recorder.pointwise("clip", x, **bounds)


def _is_channels(x: Any, axis: int) -> bool:
    axis %= len(x.shape)
    order = x.order if isinstance(x, View) else None
    return (order[axis] if order else axis) == 1


@op("Softmax", "LogSoftmax")
def _softmax(context: Context, node: Node, x: Any) -> Any:
    axis = int(node.attributes.get("axis", -1 if context.version >= 13 else 1)) % len(x.shape)
    over_all = context.version < 13 and axis != len(x.shape) - 1
    if over_all or not _is_channels(x, axis):
        raise context.recorder.refuse("it has a softmax over another axis than the channels")
    if node.op == "LogSoftmax":
        return Outcome(x, "softmax")
    return context.recorder.pointwise("softmax", x)


@op("ArgMax")
def _argmax(context: Context, node: Node, x: Any) -> Any:
    if isinstance(x, Outcome):
        return x
    if not _is_channels(x, int(node.attributes.get("axis", 0))):
        raise context.recorder.refuse("it takes the largest value along another axis than channels")
    return Outcome(x, "softmax")


def _binary(layer: str) -> Operation:
    def called(context: Context, node: Node, *values: Any) -> Any:
        result = values[0]
        for other in values[1:]:
            result = context.recorder.binary(layer, result, other)
        return result

    return called


for _name, _layer in (
    ("Add", "add"), ("Sub", "sub"), ("Mul", "mul"), ("Div", "div"), ("Max", "maximum"),
    ("Min", "minimum"), ("Sum", "add"),
):  # fmt: skip
    OPERATIONS[_name] = _binary(_layer)


@op("Pow")
def _pow(context: Context, node: Node, x: Any, exponent: Any) -> Any:
    return context.recorder.pointwise("pow", x, value=float(context.numbers(exponent)[0]))


@op("Reciprocal")
def _reciprocal(context: Context, node: Node, x: Any) -> Any:
    return context.recorder.binary("div", 1.0, x)


@op("Identity", "Dropout", "Cast", "CastLike")
def _same(context: Context, node: Node, x: Any, *_: Any) -> Any:
    if node.op == "Cast" and not isinstance(x, Outcome) and node.attributes.get("to") not in (
        1, 10, 11, 16
    ):  # fmt: skip
        raise context.recorder.refuse("it rounds values of the image")
    return x
