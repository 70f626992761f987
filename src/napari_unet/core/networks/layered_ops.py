"""What the layers of a layer list do, each with its values: the table `OPS` has them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_unet.core.networks.layered_windows import (
    avg_pool,
    build_conv,
    build_transposed,
    concat,
    crop,
    max_pool,
    pad,
    pixel_shuffle,
    resize,
    run_conv,
    run_transposed,
)

__all__ = ["OPS", "LayerOp", "Value"]

Value = bool | int | float | str | None | tuple[bool | int | float | str | None, ...]
Values = Mapping[str, Any]
Build = Callable[[Values, int], nn.Module]
Run = Callable[[Any, Values, Sequence[Tensor]], Tensor]

ANY_NUMBER = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOp:
    """One kind of layer.

    Attributes
    ----------
    run : computes it from its module, its values and its inputs.
    build : makes the module that holds its weights; by default there are none.
    n_inputs : the least and the largest number of inputs.
    """

    run: Run
    build: Build = lambda _values, _dims: nn.Identity()
    n_inputs: tuple[int, int] = (1, 1)


class ChannelNorm(nn.Module):
    """Mean 0 and variance 1 over the channels of each px; then a factor and a shift each."""

    def __init__(self, n_channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(n_channels))
        self.bias = nn.Parameter(torch.zeros(n_channels))

    def forward(self, image: Tensor) -> Tensor:
        """`(b, c, ...)` to the same shape."""
        centred = image - image.mean(dim=1, keepdim=True)
        scaled = centred * torch.rsqrt((centred * centred).mean(dim=1, keepdim=True) + self.eps)
        return scaled * _per_channel(self.weight, image) + _per_channel(self.bias, image)


class ScaleShift(nn.Module):
    """`image * factor + shift` with a fixed `factor` and `shift` for each channel."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.register_buffer("factor", torch.ones(n_channels))
        self.register_buffer("shift", torch.zeros(n_channels))

    def forward(self, image: Tensor) -> Tensor:
        """`(b, c, ...)` to the same shape."""
        factor, shift = self.get_buffer("factor"), self.get_buffer("shift")
        return image * _per_channel(factor, image) + _per_channel(shift, image)


class Constant(nn.Module):
    """Fixed numbers in `value`."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(shape))


def _per_channel(values: Tensor, image: Tensor) -> Tensor:
    """`(c)` to `(1, c, 1, 1, ...)`, to be combined with an image."""
    return values.view(1, -1, *[1] * (image.ndim - 2))


def _folded(function: Callable[[Any, Any], Tensor]) -> Run:
    """A function of two as a layer: of all inputs in turn, or of one input and `value`."""

    def run(_module: Any, values: Values, inputs: Sequence[Tensor]) -> Tensor:
        result = inputs[0]
        others: list[Any] = list(inputs[1:])
        if "value" in values:
            others.append(values["value"])
        for other in others:
            result = function(other, result) if values.get("reversed") else function(result, other)
        return result

    return run


def _average(_module: Any, _values: Values, inputs: Sequence[Tensor]) -> Tensor:
    total = inputs[0]
    for other in inputs[1:]:
        total = total + other
    return total / len(inputs)


def _bounded(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any, Any], Tensor]:
    """`torch.maximum` or the like, of which one argument may be a number."""

    def run(one: Any, other: Any) -> Tensor:
        like = one if isinstance(one, Tensor) else other
        pair = (x if isinstance(x, Tensor) else torch.full_like(like, x) for x in (one, other))
        return function(*pair)

    return run


def _build_batch_norm(values: Values, dims: int) -> nn.Module:
    kind = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
    affine, momentum = values.get("affine", True), values.get("momentum", 0.1)
    return kind(values["channels"], eps=values["eps"], momentum=momentum, affine=affine)


def _build_instance_norm(values: Values, dims: int) -> nn.Module:
    kind = nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d
    return kind(values["channels"], eps=values["eps"], affine=values.get("affine", True))


def _build_group_norm(values: Values, _dims: int) -> nn.Module:
    affine = values.get("affine", True)
    return nn.GroupNorm(values["groups"], values["channels"], eps=values["eps"], affine=affine)


def _module(module: Any, _values: Values, inputs: Sequence[Tensor]) -> Tensor:
    """Whatever the module does by itself."""
    result: Tensor = module(inputs[0])
    return result


def _pointwise(function: Callable[[Tensor], Tensor]) -> LayerOp:
    """A function of one input without settings."""
    return LayerOp(run=lambda _module, _values, inputs: function(inputs[0]))


def _setting(function: Callable[[Tensor, Values], Tensor]) -> LayerOp:
    """A function of one input and its settings."""
    return LayerOp(run=lambda _module, values, inputs: function(inputs[0], values))


def _hard_sigmoid(image: Tensor, values: Values) -> Tensor:
    return torch.clamp(image * values.get("slope", 1 / 6) + values.get("shift", 0.5), 0, 1)


def _channels(image: Tensor, values: Values) -> Tensor:
    start, stop = values["start"], values["stop"]
    return image[:, start:stop]


def _all_pixels(image: Tensor) -> tuple[int, ...]:
    return tuple(range(2, image.ndim))


MANY = (1, ANY_NUMBER)

OPS: dict[str, LayerOp] = {
    # in_channels, out_channels, kernel (per axis), stride=1, padding=0, dilation=1, groups=1,
    # bias=True; weights "weight" (out, in / groups, ...), "bias" (out)
    "conv": LayerOp(run=run_conv, build=build_conv),
    # the same, and output_padding=0: `padding` is cut off from all that the input adds to, and
    # `output_padding` more px are given behind; "same" gives n * stride; "weight" is
    # (in, out / groups, ...)
    "transposed_conv": LayerOp(run=run_transposed, build=build_transposed),
    # channels, eps, affine=True, momentum=0.1; weight, bias, running_mean, running_var (c)
    "batch_norm": LayerOp(run=_module, build=_build_batch_norm),
    # channels, eps, affine=True; weight, bias (c)
    "instance_norm": LayerOp(run=_module, build=_build_instance_norm),
    # channels, groups, eps, affine=True; weight, bias (c)
    "group_norm": LayerOp(run=_module, build=_build_group_norm),
    # channels, eps: over the channels of each px; weight, bias (c)
    "layer_norm": LayerOp(
        run=_module, build=lambda values, _: ChannelNorm(values["channels"], values["eps"])
    ),
    # channels; image * factor + shift, buffers of (c)
    "scale_shift": LayerOp(run=_module, build=lambda values, _: ScaleShift(values["channels"])),
    # shape; the buffer "value", such as (1, c, 1, 1)
    "constant": LayerOp(
        run=lambda module, _values, _inputs: module.value,
        build=lambda values, _: Constant(values["shape"]),
        n_inputs=(0, 0),
    ),
    "identity": _pointwise(lambda image: image),
    "relu": _pointwise(F.relu),
    "selu": _pointwise(F.selu),
    "silu": _pointwise(F.silu),
    "mish": _pointwise(F.mish),
    "sigmoid": _pointwise(torch.sigmoid),
    "tanh": _pointwise(torch.tanh),
    "softplus": _pointwise(F.softplus),
    "softsign": _pointwise(F.softsign),
    "hard_swish": _pointwise(F.hardswish),
    "abs": _pointwise(torch.abs),
    "neg": _pointwise(torch.neg),
    "exp": _pointwise(torch.exp),
    "log": _pointwise(torch.log),
    "sqrt": _pointwise(torch.sqrt),
    "softmax": _pointwise(lambda image: F.softmax(image, dim=1)),
    # slope (alpha)
    "leaky_relu": _setting(lambda image, values: F.leaky_relu(image, values["slope"])),
    "elu": _setting(lambda image, values: F.elu(image, values.get("alpha", 1.0))),
    # approximate = "none" or "tanh"
    "gelu": _setting(
        lambda image, values: F.gelu(image, approximate=values.get("approximate", "none"))
    ),
    # slope=1/6, shift=0.5: slope * image + shift, cut to 0 ... 1
    "hard_sigmoid": _setting(_hard_sigmoid),
    # min, max: either may be None, not both
    "clip": _setting(
        lambda image, values: torch.clamp(image, values.get("min"), values.get("max"))
    ),
    # channels: 1 or as many as there are; weight (channels)
    "prelu": LayerOp(run=_module, build=lambda values, _: nn.PReLU(values["channels"])),
    # kernel, stride=1, padding=0, dilation=1, ceil=False: sizes that do not fit are rounded up;
    # what is outside the image does not count
    "max_pool": LayerOp(run=max_pool),
    # the same without dilation; count_include_pad=False: whether px outside count as zeros
    "avg_pool": LayerOp(run=avg_pool),
    "global_avg_pool": _pointwise(lambda image: image.mean(_all_pixels(image), keepdim=True)),
    "global_max_pool": _pointwise(lambda image: image.amax(_all_pixels(image), keepdim=True)),
    "channel_mean": _pointwise(lambda image: image.mean(1, keepdim=True)),
    "channel_max": _pointwise(lambda image: image.amax(1, keepdim=True)),
    # scale (per axis), or size (per axis), or a second input of the size wanted; mode = "nearest"
    # (pixel i of the result is pixel floor(i / scale)), "nearest_exact" (nearest centre) or
    # "linear" (centres of pixels correspond; align_corners=True: corners do)
    "resize": LayerOp(run=resize, n_inputs=(1, 2)),
    # factor; order = "crd" (torch) or "dcr" (TensorFlow)
    "pixel_shuffle": LayerOp(run=pixel_shuffle),
    # crop = None, "first" or "smallest": cut from the centre to the size of the first or smallest
    "concat": LayerOp(run=concat, n_inputs=MANY),
    # of all inputs in turn, and of `value` if there is one; reversed=False: value - image
    "add": LayerOp(run=_folded(lambda one, other: one + other), n_inputs=MANY),
    "mul": LayerOp(run=_folded(lambda one, other: one * other), n_inputs=MANY),
    "sub": LayerOp(run=_folded(lambda one, other: one - other), n_inputs=MANY),
    "div": LayerOp(run=_folded(lambda one, other: one / other), n_inputs=MANY),
    "pow": LayerOp(run=_folded(lambda one, other: one**other), n_inputs=MANY),
    "maximum": LayerOp(run=_folded(_bounded(torch.maximum)), n_inputs=MANY),
    "minimum": LayerOp(run=_folded(_bounded(torch.minimum)), n_inputs=MANY),
    "average": LayerOp(run=_average, n_inputs=MANY),
    # amounts; mode = "zero" (with value=0), "reflect" or "replicate"
    "pad": LayerOp(run=pad),
    # amounts; or a second input of the size wanted, and offset (per axis; by default centred)
    "crop": LayerOp(run=crop, n_inputs=(1, 2)),
    # start, stop: channels
    "channels": _setting(_channels),
}
"""Name to kind of layer; the values each takes are in the comment before it."""
