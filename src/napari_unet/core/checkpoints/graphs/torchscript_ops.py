"""What PyTorch's functions do to the image, as layers: for TorchScript and for exported programs.

Each function of `ATEN` takes the recorder and the arguments that PyTorch's function of that name
takes. Those that take the image, or what came of it, record a layer; on plain numbers and on
constants they compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from napari_unet.core.checkpoints.graphs.recording import Feature, Outcome, Recorder, View

__all__ = ["ATEN", "Function", "call", "dims_of", "is_feature", "pairs", "per_axis", "register"]

Function = Callable[..., Any]
ATEN: dict[str, Function] = {}


def is_feature(value: Any) -> bool:
    """Whether a value comes of the image."""
    return isinstance(value, Feature | View | Outcome)


def call(recorder: Recorder, name: str, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """What a function of PyTorch gives; raises `ModelFileError` if it is not known here."""
    if name not in ATEN:
        raise recorder.refuse(f"its function '{name}' is not known here")
    try:
        result = ATEN[name](recorder, *args, **named)
        if name.endswith("_") and not name.endswith("__") and args:
            recorder.overwrite(args[0], result)
        return result
    except (TypeError, ValueError, IndexError, AttributeError, KeyError, RuntimeError) as error:
        raise recorder.refuse(f"its function '{name}' is called in an unknown way") from error


def register(*names: str) -> Callable[[Function], Function]:
    """Add a function to `ATEN` by its names."""

    def registered(function: Function) -> Function:
        ATEN.update(dict.fromkeys(names, function))
        return function

    return registered


def per_axis(value: Any, n: int) -> tuple[int, ...]:
    """One number per axis."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return tuple(int(one) for one in (values * n if len(values) == 1 else values))


def dims_of(x: Any) -> int:
    """How many axes of an image there are besides batch and channels."""
    return len(x.shape) - 2


def pairs(padding: Any, n: int) -> tuple[int, ...]:
    """The same padding before and behind each axis."""
    return per_axis(padding, n) * 2


# -- convolutions ----------------------------------------------------------------------------------


@register("conv2d", "conv3d", "_convolution_mode")
def _conv(
    recorder: Recorder,
    x: Any,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    n = dims_of(x)
    borders: Any = padding
    if padding == "same":  # PyTorch's rule: an odd px more is added behind
        spans = [d * (k - 1) for d, k in zip(per_axis(dilation, n), weight.shape[2:], strict=True)]
        borders = (*(s // 2 for s in spans), *(s - s // 2 for s in spans))
    elif padding != "valid":
        borders = pairs(padding, n)
    return recorder.conv(
        x,
        weight,
        bias,
        groups=groups,
        stride=per_axis(stride, n),
        padding=0 if padding == "valid" else borders,
        dilation=per_axis(dilation, n),
    )


@register("conv_transpose2d", "conv_transpose3d")
def _conv_transpose(
    recorder: Recorder,
    x: Any,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    n = dims_of(x)
    return recorder.conv(
        x,
        weight,
        bias,
        groups=groups,
        transposed=True,
        stride=per_axis(stride, n),
        padding=pairs(padding, n),
        output_padding=per_axis(output_padding, n),
        dilation=per_axis(dilation, n),
    )


@register("_convolution", "convolution")
def _convolution(
    recorder: Recorder,
    x: Any,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    *_: Any,
) -> Any:
    if not transposed:
        return _conv(recorder, x, weight, bias, stride, padding, dilation, groups)
    args = (stride, padding, output_padding, groups, dilation)
    return _conv_transpose(recorder, x, weight, bias, *args)


@register("linear")
def _linear(recorder: Recorder, x: Any, weight: Tensor, bias: Tensor | None = None) -> Any:
    return recorder.linear(x, weight, bias)


@register("addmm")
def _addmm(recorder: Recorder, bias: Tensor, x: Any, weight: Tensor) -> Any:
    return recorder.linear(x, weight.t().contiguous(), bias)


# -- normalisation ---------------------------------------------------------------------------------


@register("batch_norm")
def _batch_norm(
    recorder: Recorder,
    x: Any,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    _cudnn: bool = False,
) -> Any:
    if mean is None or variance is None:
        raise recorder.refuse("it has a batch normalisation without statistics")
    statistics = {"running_mean": mean, "running_var": variance}
    return recorder.norm("batch_norm", x, weight, bias, eps=float(eps), weights=statistics)


@register("_native_batch_norm_legit_no_training")
def _native_batch_norm(recorder: Recorder, x: Any, *args: Any) -> Any:
    *tensors, momentum, eps = args
    return _batch_norm(recorder, x, *tensors, False, momentum, eps), None, None


@register("instance_norm")
def _instance_norm(
    recorder: Recorder,
    x: Any,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    use_input: bool,
    momentum: float,
    eps: float,
    _cudnn: bool = False,
) -> Any:
    if not use_input:
        return _batch_norm(recorder, x, weight, bias, mean, variance, False, momentum, eps)
    return recorder.norm("instance_norm", x, weight, bias, eps=float(eps))


@register("group_norm")
def _group_norm(
    recorder: Recorder,
    x: Any,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn: bool = False,
) -> Any:
    return recorder.norm("group_norm", x, weight, bias, eps=float(eps), groups=int(groups))


@register("native_group_norm")
def _native_group_norm(
    recorder: Recorder, x: Any, weight: Any, bias: Any, *rest: Any
) -> tuple[Any, None, None]:
    *_, groups, eps = rest
    return _group_norm(recorder, x, groups, weight, bias, eps), None, None


@register("layer_norm")
def _layer_norm(
    recorder: Recorder,
    x: Any,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn: bool = False,
) -> Any:
    if len(shape) != 1 or not isinstance(x, View) or x.order is None or x.order[-1] != 1:
        raise recorder.refuse("it has a layer normalisation over other axes than the channels")
    base = recorder.norm("layer_norm", x.base, weight, bias, eps=float(eps))
    return View(base, x.shape, x.order)


# -- functions of each number ----------------------------------------------------------------------

_PLAIN = {
    "relu": "relu", "selu": "selu", "silu": "silu", "mish": "mish", "sigmoid": "sigmoid",
    "tanh": "tanh", "hardswish": "hard_swish", "hardsigmoid": "hard_sigmoid", "exp": "exp",
    "log": "log",
}  # fmt: skip


def _plain(name: str, op: str) -> Function:
    def function(recorder: Recorder, x: Any) -> Any:
        if isinstance(x, Tensor):
            return getattr(torch, name)(x)
        if isinstance(x, int | float):
            return getattr(math, name)(x)
        return recorder.pointwise(op, x)

    return function


for _name, _layer in _PLAIN.items():
    ATEN[_name] = ATEN[f"{_name}_"] = _plain(_name, _layer)


@register("leaky_relu", "leaky_relu_")
def _leaky_relu(recorder: Recorder, x: Any, slope: float = 0.01) -> Any:
    return recorder.pointwise("leaky_relu", x, slope=float(slope))


@register("elu", "elu_")
def _elu(recorder: Recorder, x: Any, alpha: float = 1, scale: float = 1, inner: float = 1) -> Any:
    if (scale, inner) != (1, 1):
        raise recorder.refuse("it has an ELU with factors")
    return recorder.pointwise("elu", x, alpha=float(alpha))


@register("prelu")
def _prelu(recorder: Recorder, x: Any, weight: Tensor) -> Any:
    weights = {"weight": weight.reshape(-1)}
    return recorder.add("prelu", recorder.feature(x), channels=weight.numel(), weights=weights)


@register("gelu")
def _gelu(recorder: Recorder, x: Any, approximate: str = "none") -> Any:
    return recorder.pointwise("gelu", x, approximate=approximate)


@register("softplus")
def _softplus(recorder: Recorder, x: Any, beta: float = 1, threshold: float = 20) -> Any:
    if (beta, threshold) != (1, 20):
        raise recorder.refuse("it has a softplus with factors")
    return recorder.pointwise("softplus", x)


@register("clamp", "clamp_", "clip", "hardtanh", "hardtanh_")
def _clamp(recorder: Recorder, x: Any, min: Any = None, max: Any = None) -> Any:  # noqa: A002
    if not is_feature(x):
        return torch.clamp(torch.as_tensor(x), min, max)
    ends = {"min": None if min is None else float(min), "max": None if max is None else float(max)}
    return recorder.pointwise("clip", x, **ends)


@register("clamp_min", "clamp_min_")
def _clamp_min(recorder: Recorder, x: Any, least: Any) -> Any:
    return _clamp(recorder, x, least, None)


@register("clamp_max", "clamp_max_")
def _clamp_max(recorder: Recorder, x: Any, most: Any) -> Any:
    return _clamp(recorder, x, None, most)


@register("relu6", "relu6_")
def _relu6(recorder: Recorder, x: Any) -> Any:
    return _clamp(recorder, x, 0, 6)


def _channel_axis(recorder: Recorder, x: Any, axis: int) -> bool:
    order = x.order if isinstance(x, View) else None
    axis %= len(x.shape)
    return (order[axis] if order else axis) == 1


@register("softmax", "_softmax")
def _softmax(recorder: Recorder, x: Any, axis: int, _dtype: Any = None) -> Any:
    if not _channel_axis(recorder, x, axis):
        raise recorder.refuse("it has a softmax over another axis than the channels")
    return recorder.pointwise("softmax", x)


@register("log_softmax", "_log_softmax")
def _log_softmax(recorder: Recorder, x: Any, axis: int, _dtype: Any = None) -> Any:
    if not _channel_axis(recorder, x, axis):
        raise recorder.refuse("it has a softmax over another axis than the channels")
    return Outcome(x, "softmax")


@register("log_sigmoid")
def _log_sigmoid(recorder: Recorder, x: Any) -> Any:
    return Outcome(x, "sigmoid")


@register("argmax")
def _argmax(recorder: Recorder, x: Any, axis: Any = None, _keep: bool = False) -> Any:
    if isinstance(x, Outcome):
        return x
    if axis is None or not _channel_axis(recorder, x, axis):
        raise recorder.refuse("it takes the largest value along another axis than the channels")
    return Outcome(x, "softmax")
