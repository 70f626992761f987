"""Keras layers with weights, which are turned round to torch's order of axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from napari_unet.core.checkpoints.graphs.building import Weight
from napari_unet.core.checkpoints.graphs.keras_config import Node
from napari_unet.core.checkpoints.graphs.keras_translation import Kinds, Translation

__all__ = ["WEIGHTED"]


def _turned(kernel: Tensor) -> Tensor:
    """`([z,] y, x, a, b)` to `(b, a, [z,] y, x)`."""
    return kernel.permute(-1, -2, *range(kernel.ndim - 2)).contiguous()


def _conv_values(t: Translation, node: Node, weight: Tensor) -> dict[str, Any]:
    padding = str(node.config.get("padding", "valid"))
    if padding not in ("same", "valid"):
        raise t.refusal(node, f"has the padding {padding!r}, which is not known here")
    if weight.ndim != t.builder.dims + 2:
        raise t.refusal(node, f"has weights of shape {tuple(weight.shape)}, which do not fit")
    return {
        "kernel": tuple(weight.shape[2:]),
        "stride": t.axes(node, "strides"),
        "dilation": t.axes(node, "dilation_rate"),
        "padding": "same" if padding == "same" else 0,
    }


def _conv(t: Translation, node: Node) -> str:
    stored = t.stored(node, "kernel")
    kernel, name = stored["kernel"]
    return t.activated(node, _convolved(t, node, (_turned(kernel), name), stored.get("bias"), None))


def _convolved(
    t: Translation, node: Node, weight: Weight, bias: Weight | None, place: str | None
) -> str:
    n_out, n_in = weight[0].shape[:2]
    place = t.inputs(node)[0] if place is None else place
    n_before = t.builder.channels[place]
    if n_in == 0 or n_before % n_in:
        raise t.refusal(node, f"takes {n_in} channels, but gets {n_before}")
    values = _conv_values(t, node, weight[0])
    values |= {"in_channels": n_before, "out_channels": n_out, "groups": n_before // n_in}
    values["bias"] = bias is not None
    weights = {"weight": weight, **({"bias": bias} if bias else {})}
    return t.add(node, "conv", values, weights, place)


def _depthwise_weight(kernel: Tensor) -> Tensor:
    """`([z,] y, x, in, m)` to `(in m, 1, [z,] y, x)`."""
    turned = kernel.permute(-2, -1, *range(kernel.ndim - 2))
    return turned.reshape(-1, 1, *kernel.shape[:-2]).contiguous()


def _depthwise(t: Translation, node: Node) -> str:
    stored = t.stored(node, "kernel")
    kernel, name = stored["kernel"]
    weight = (_depthwise_weight(kernel), name)
    return t.activated(node, _convolved(t, node, weight, stored.get("bias"), None))


def _separable(t: Translation, node: Node) -> str:
    stored = t.stored(node, "depthwise_kernel", "pointwise_kernel")
    (depth, depth_name), (point, point_name) = (
        stored[f"{part}wise_kernel"] for part in ("depth", "point")
    )
    place = _convolved(t, node, (_depthwise_weight(depth), depth_name), None, None)
    bias, weight = stored.get("bias"), _turned(point)
    values = {
        "in_channels": weight.shape[1],
        "out_channels": weight.shape[0],
        "kernel": tuple(weight.shape[2:]),
        "bias": bias is not None,
    }
    weights = {"weight": (weight, point_name), **({"bias": bias} if bias else {})}
    return t.activated(node, t.add(node, "conv", values, weights, place))


def _transposed(t: Translation, node: Node) -> str:
    stored = t.stored(node, "kernel")
    kernel, name = stored["kernel"]
    weight, bias = _turned(kernel), stored.get("bias")  # (y, x, out, in) to (in, out, y, x)
    values = _conv_values(t, node, weight)
    values |= {"in_channels": weight.shape[0], "out_channels": weight.shape[1]}
    values["bias"] = bias is not None
    values["padding"] = _cut(t, node, values)
    weights = {"weight": (weight, name), **({"bias": bias} if bias else {})}
    return t.activated(node, t.add(node, "transposed_conv", values, weights))


def _cut(t: Translation, node: Node, values: Mapping[str, Any]) -> Any:
    """What a transposed convolution cuts off: TensorFlow's rules for its size, then half of it."""
    more = node.config.get("output_padding")
    if values["padding"] == 0 and more is None:
        # NOTE: n px become n * stride px at least, also where the kernel is smaller than that.
        steps = zip(values["kernel"], values["stride"], strict=True)
        return (*[0] * t.builder.dims, *(min(k - s, 0) for k, s in steps))
    if more is None:
        return "same"
    before, after = [], []
    for k, extra in zip(values["kernel"], t.axes(node, "output_padding"), strict=True):
        total = (2 * (k // 2) if values["padding"] == "same" else 0) - extra
        before.append(max(total, 0) // 2)
        after.append(total - max(total, 0) // 2)
    return (*before, *after)


def _dense(t: Translation, node: Node) -> str:
    stored = t.stored(node, "kernel")
    kernel, name = stored["kernel"]
    dims, bias = t.builder.dims, stored.get("bias")
    weight = kernel.T.reshape(kernel.shape[1], kernel.shape[0], *[1] * dims)
    values = {
        "in_channels": kernel.shape[0],
        "out_channels": kernel.shape[1],
        "kernel": (1,) * dims,
        "bias": bias is not None,
    }
    weights = {"weight": (weight.contiguous(), name), **({"bias": bias} if bias else {})}
    return t.activated(node, t.add(node, "conv", values, weights))


def _affine(t: Translation, node: Node, n_channels: int) -> dict[str, Weight]:
    stored = t.stored(node)
    ones, zeros = torch.ones(n_channels), torch.zeros(n_channels)
    return {"weight": stored.get("gamma", (ones, "")), "bias": stored.get("beta", (zeros, ""))}


def _batch_norm(t: Translation, node: Node) -> str:
    t.channel_axis(node)
    stored = t.stored(node, "moving_mean", "moving_variance")
    mean, variance = stored["moving_mean"], stored["moving_variance"]
    n = mean[0].numel()
    weights = {
        **_affine(t, node, n),
        "running_mean": mean,
        "running_var": variance,
        "num_batches_tracked": (torch.tensor(0), ""),
    }
    momentum = 1.0 - float(node.config.get("momentum", 0.99))
    values = {"channels": n, "eps": float(node.config.get("epsilon", 1e-3)), "momentum": momentum}
    return t.add(node, "batch_norm", values, weights)


def _norm(op: str) -> Callable[[Translation, Node], str]:
    def translate(t: Translation, node: Node) -> str:
        t.channel_axis(node)
        n = t.builder.channels[t.inputs(node)[0]]
        values = {"channels": n, "eps": float(node.config.get("epsilon", 1e-3))}
        if op == "group_norm":
            groups = int(node.config.get("groups", 32))
            values["groups"] = n if groups == -1 else groups
            if groups == -1 or values["groups"] < 1 or n % groups:
                raise t.refusal(node, f"has {groups} groups for {n} channels, which do not fit")
        return t.add(node, op, values, _affine(t, node, n))

    return translate


def _prelu(t: Translation, node: Node) -> str:
    alpha, name = t.stored(node, "alpha")["alpha"]
    n = alpha.shape[0] if t.first else alpha.shape[-1]
    if alpha.numel() != n:
        raise t.refusal(node, "has a slope of its own for each pixel, so takes images of one size")
    return t.add(node, "prelu", {"channels": n}, {"weight": (alpha.reshape(-1), name)})


def _normalization(t: Translation, node: Node) -> str:
    stored, config = t.weights.of(node.path, node.kind, node.config), node.config
    if "mean" in stored and "variance" in stored:
        mean, variance = stored["mean"][0], stored["variance"][0]
    elif config.get("mean") is not None and config.get("variance") is not None:
        mean, variance = (torch.tensor(config[name]).float() for name in ("mean", "variance"))
    else:
        raise t.refusal(node, "normalises with a mean and a variance that are not in the file")
    mean, deviation = t.per_channel(mean), t.per_channel(variance.sqrt().clamp(min=1e-7))
    if config.get("invert", False):
        raise t.refusal(node, "undoes a normalisation, which is not known here")
    return _scaled(t, node, 1 / deviation, -mean / deviation)


def _scaled(t: Translation, node: Node, factor: Tensor, shift: Tensor) -> str:
    n = t.builder.channels[t.inputs(node)[0]]
    if factor.numel() != n or shift.numel() != n:
        raise t.refusal(node, f"scales {factor.numel()} channels, but gets {n}")
    weights = {"factor": (factor, ""), "shift": (shift, "")}
    return t.add(node, "scale_shift", {"channels": n}, weights)


def _rescaling(t: Translation, node: Node) -> str:
    n = t.builder.channels[t.inputs(node)[0]]
    numbers = (node.config.get(name, default) for name, default in (("scale", 1), ("offset", 0)))
    factor, shift = (torch.tensor(one).reshape(-1).float() for one in numbers)
    return _scaled(t, node, *(one.expand(max(n, one.numel())).clone() for one in (factor, shift)))


WEIGHTED: Kinds = {
    **dict.fromkeys(("Conv2D", "Conv3D", "Convolution2D", "Convolution3D"), _conv),
    **dict.fromkeys(("Conv2DTranspose", "Conv3DTranspose"), _transposed),
    "DepthwiseConv2D": _depthwise,
    "SeparableConv2D": _separable,
    "Dense": _dense,
    **dict.fromkeys(("BatchNormalization", "BatchNormalizationV1"), _batch_norm),
    "LayerNormalization": _norm("layer_norm"),
    "GroupNormalization": _norm("group_norm"),
    "InstanceNormalization": _norm("instance_norm"),
    "PReLU": _prelu,
    "Normalization": _normalization,
    "Rescaling": _rescaling,
}
