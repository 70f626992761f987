"""Keras layers without weights."""

from __future__ import annotations

from collections.abc import Callable

from napari_unet.core.checkpoints.graphs.keras_activations import activation_layer, activation_of
from napari_unet.core.checkpoints.graphs.keras_config import Node
from napari_unet.core.checkpoints.graphs.keras_lambda import divisor_of
from napari_unet.core.checkpoints.graphs.keras_translation import Kinds, Translation
from napari_unet.core.networks.layered import INPUT

__all__ = ["PLAIN"]

FUNCTIONS = {
    "math.add": "add", "math.divide": "div", "math.multiply": "mul", "math.subtract": "sub",
    "math.truediv": "div", "__operators__.add": "add",
}  # fmt: skip
"""TensorFlow's functions of two, which Keras 2 makes a layer of."""


def _activation(t: Translation, node: Node) -> str:
    function = activation_layer(node.kind, node.config, t.version)
    if function is None:
        raise t.refusal(node, f"is a {node.kind} with settings that are not known here")
    if function[0] == "softmax" and node.kind == "Softmax":
        t.channel_axis(node)
    return t.add(node, *function)


def _concatenate(t: Translation, node: Node) -> str:
    t.channel_axis(node)
    return t.add(node, "concat")


def _pooling(op: str) -> Callable[[Translation, Node], str]:
    def translate(t: Translation, node: Node) -> str:
        size = t.axes(node, "pool_size", 2)
        steps = size if node.config.get("strides") is None else t.axes(node, "strides")
        padding = "same" if node.config.get("padding") == "same" else 0
        return t.add(node, op, {"kernel": size, "stride": steps, "padding": padding})

    return translate


def _upsampling(t: Translation, node: Node) -> str:
    mode = {"nearest": "nearest", "bilinear": "linear"}.get(
        str(node.config.get("interpolation", "nearest"))
    )
    if mode is None:
        raise t.refusal(node, f"enlarges by {node.config['interpolation']!r}, not known here")
    return t.add(node, "resize", {"mode": mode, "scale": t.axes(node, "size", 2)})


def _borders(op: str, name: str) -> Callable[[Translation, Node], str]:
    def translate(t: Translation, node: Node) -> str:
        value = node.config[name]
        pairs = value if isinstance(value, list | tuple) else [value] * t.builder.dims
        pairs = [one if isinstance(one, list | tuple) else (one, one) for one in pairs]
        before, after = ([int(pair[at]) for pair in pairs] for at in (0, 1))
        return t.add(node, op, {"amounts": (*before, *after)})

    return translate


def _pooled_whole(op: str) -> Callable[[Translation, Node], str]:
    return lambda t, node: t.add(node, op)


def _reshape(t: Translation, node: Node) -> str:
    """Only what makes a picture of one px of a list of channels, as all of ours are already."""
    n = t.builder.channels[t.inputs(node)[0]]
    shape = list(node.config.get("target_shape", ()))
    ones = [1] * t.builder.dims
    if shape not in ([*ones, n], [n, *ones], [*ones, -1]):
        raise t.refusal(node, f"rearranges its pixels to {shape}, which is not known here")
    return t.add(node, "identity")


def _lambda(t: Translation, node: Node) -> str:
    found = divisor_of(node.config)
    is_first = t.inputs(node) == [INPUT]
    if found is None or not (found[1] or is_first):
        raise t.refusal(node, "is Python code (a Lambda), which is not executed")
    divisor, is_sure = found
    if not is_sure:
        t.assumed.append("normalization")
        t.notes.append(
            f"Layer {node.path[-1]!r} is Python code, which was not executed. It holds the number "
            f"255, so it is taken to divide the image by 255."
        )
    return t.add(node, "div", {"value": divisor})


def _function(t: Translation, node: Node) -> str:
    name = str(node.config.get("function", ""))
    if name in FUNCTIONS:
        return t.joined(node, FUNCTIONS[name])
    if name in ("cast", "identity", "stop_gradient"):
        return t.add(node, "identity")
    function = activation_of(name.removeprefix("nn."), t.version)
    if function is None:
        raise t.refusal(node, f"is the function {name!r} of TensorFlow, which is not known here")
    return t.add(node, *function)


PLAIN: Kinds = {
    **dict.fromkeys(("Activation", "ReLU", "LeakyReLU", "ELU", "Softmax"), _activation),
    "Concatenate": _concatenate,
    **dict.fromkeys(("MaxPooling2D", "MaxPooling3D"), _pooling("max_pool")),
    **dict.fromkeys(("AveragePooling2D", "AveragePooling3D"), _pooling("avg_pool")),
    **dict.fromkeys(("UpSampling2D", "UpSampling3D"), _upsampling),
    **dict.fromkeys(("ZeroPadding2D", "ZeroPadding3D"), _borders("pad", "padding")),
    **dict.fromkeys(("Cropping2D", "Cropping3D"), _borders("crop", "cropping")),
    **dict.fromkeys(
        ("GlobalAveragePooling2D", "GlobalAveragePooling3D"), _pooled_whole("global_avg_pool")
    ),
    **dict.fromkeys(("GlobalMaxPooling2D", "GlobalMaxPooling3D"), _pooled_whole("global_max_pool")),
    "Reshape": _reshape,
    "Lambda": _lambda,
    "TFOpLambda": _function,
}
