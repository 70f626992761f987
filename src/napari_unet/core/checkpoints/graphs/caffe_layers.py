"""Caffe layers, with those of Freiburg's version of Caffe, as layers of our list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from napari_unet.core.checkpoints.graphs.building import Builder, Weight
from napari_unet.core.checkpoints.graphs.caffe_blobs import Blobs
from napari_unet.core.checkpoints.graphs.caffe_text import Message
from napari_unet.core.errors import ModelFileError
from napari_unet.core.networks.layered import INPUT

__all__ = ["CaffeTranslation"]

LOADING = ("Data", "Loss", "Accuracy", "Silence", "CreateDeformation")
"""What the kinds of layers end in that only training needs, even where the file does not say so."""
SAME = frozenset({"Dropout", "ApplyDeformation", "ValueAugmentation", "Split"})
"""Layers that do nothing at test time."""


class CaffeTranslation:
    """A network definition on its way to a list of layers.

    Attributes
    ----------
    builder : the layers so far.
    """

    def __init__(self, network: Message, blobs: Blobs, input_blob: str = "") -> None:
        self._blobs = blobs
        self._kept = [layer for layer in network.messages("layer") if _is_for_test(layer)]
        if not self._kept:
            raise ModelFileError(
                "The network definition (prototxt) lists no layers in the notation of Caffe since "
                "2014, 'layer { ... }'. Convert it with Caffe's upgrade_net_proto_text."
            )
        first = self._first_weights()
        self.builder = Builder(first.ndim - 2, first.shape[1])
        self._places: dict[str, str] = {}
        for blob in (input_blob, *network.texts("input"), self._read_first()):
            self._places.setdefault(blob, INPUT)

    def run(self) -> str:
        """Translate all layers; the name of the one that gives the scores."""
        place = INPUT
        for layer in self._kept:
            place = self._translated(layer)
            for top in layer.texts("top"):
                self._places[top] = place
        return self._places.get("score", place)

    def _first_weights(self) -> Tensor:
        for layer in self._kept:
            if layer.text("type") == "Convolution":
                weights = self.blob(layer, 0)[0]
                if weights.ndim not in (4, 5):
                    raise self.refusal(layer, "is neither of images (2D) nor of volumes (3D)")
                return weights
        raise ModelFileError("The Caffe network has no convolutions; it is not a U-Net.")

    def _read_first(self) -> str:
        """The picture that the first layer reads."""
        first = next((layer for layer in self._kept if layer.text("type") != "Input"), None)
        return (first.texts("bottom") or [""])[0] if first else ""

    def _translated(self, layer: Message) -> str:
        kind = layer.text("type")
        if kind == "Input":
            return INPUT
        if kind in SAME:
            return self.add(layer, "identity", inputs=self.inputs(layer, 1))
        translate = KINDS.get(kind)
        if translate is None:
            raise self.refusal(layer, f"is of the kind {kind[:40]!r}, which is not known here")
        return translate(self, layer)

    def refusal(self, layer: Message, why: str) -> ModelFileError:
        """The error for a layer that cannot be used."""
        return ModelFileError(f"Layer {layer.text('name')[:80]!r} of this Caffe network {why}.")

    def inputs(self, layer: Message, n: int | None = None) -> list[str]:
        """The layers that give what a layer reads, or the first n of them."""
        bottoms = layer.texts("bottom")[:n]
        missing = [bottom for bottom in bottoms if bottom not in self._places]
        if missing or not bottoms:
            shown = missing[0] if missing else "nothing"
            raise self.refusal(layer, f"reads {shown[:80]!r}, which no layer before it gives")
        return [self._places[bottom] for bottom in bottoms]

    def add(
        self,
        layer: Message,
        op: str,
        values: Mapping[str, Any] | None = None,
        weights: Mapping[str, Weight] | None = None,
        inputs: list[str] | None = None,
    ) -> str:
        """A layer that reads what the layer reads."""
        inputs = self.inputs(layer) if inputs is None else inputs
        return self.builder.add(layer.text("name"), op, inputs, values, weights)

    def blob(self, layer: Message, at: int) -> Weight:
        """One of the weights of a layer."""
        found = self._blobs.get(layer.text("name"), ())
        if at >= len(found):
            raise self.refusal(
                layer,
                "has no weights in the file of weights. Both files must be of the same network; "
                "check that they belong together",
            )
        return found[at]

    def channels(self, layer: Message) -> int:
        """Channels that a layer reads first."""
        return self.builder.channels[self.inputs(layer)[0]]

    def axes(self, settings: Message, name: str, default: int, short: str = "") -> tuple[int, ...]:
        """A setting for each axis: given once, per axis, or as `name_h` and `name_w`."""
        short = short or name
        if f"{short}_h" in settings:
            return tuple(int(settings.number(f"{short}_{axis}", default)) for axis in "hw")
        numbers = tuple(int(n) for n in settings.numbers(name)) or (default,)
        if len(numbers) not in (1, self.builder.dims):
            raise ModelFileError(
                f"The Caffe network has {name} {numbers} for {self.builder.dims}D."
            )
        return numbers if len(numbers) > 1 else numbers * self.builder.dims


def _is_for_test(layer: Message) -> bool:
    """Whether a layer is there when images are segmented."""
    phases = [rule.text("phase", "TEST") for rule in layer.messages("include")]
    is_excluded = any(rule.text("phase") == "TEST" for rule in layer.messages("exclude"))
    is_used = "TEST" in phases or not phases
    return is_used and not is_excluded and not layer.text("type").endswith(LOADING)


def _convolution(op: str) -> Callable[[CaffeTranslation, Message], str]:
    is_transposed = op == "transposed_conv"

    def translate(t: CaffeTranslation, layer: Message) -> str:
        settings, (weight, name) = layer.message("convolution_param"), t.blob(layer, 0)
        groups = int(settings.number("group", 1))
        n_in, n_out = weight.shape[1] * groups, weight.shape[0]
        if is_transposed:
            n_in, n_out = n_out, n_in
        if weight.ndim != t.builder.dims + 2 or n_in != t.channels(layer):
            shape = "x".join(map(str, weight.shape))
            raise t.refusal(layer, f"has weights of {shape}, but gets {t.channels(layer)} channels")
        kernel = t.axes(settings, "kernel_size", 0, "kernel")
        if kernel != tuple(weight.shape[2:]) or int(settings.number("num_output", n_out)) != n_out:
            raise t.refusal(layer, "is described otherwise than its weights are: check the files")
        values = {
            "in_channels": n_in,
            "out_channels": n_out,
            "kernel": kernel,
            "stride": t.axes(settings, "stride", 1),
            "padding": t.axes(settings, "pad", 0) * 2,
            "dilation": t.axes(settings, "dilation", 1),
            "groups": groups,
            "bias": bool(settings.number("bias_term", 1)),
        }
        weights = {"weight": (weight, name)}
        if values["bias"]:
            bias, bias_name = t.blob(layer, 1)
            weights["bias"] = (bias.reshape(-1), bias_name)
        return t.add(layer, op, values, weights)

    return translate


def _pooling(t: CaffeTranslation, layer: Message) -> str:
    settings = layer.message("pooling_param")
    kind = {"MAX": "max", "AVE": "avg", "0": "max", "1": "avg"}.get(settings.text("pool", "MAX"))
    if kind is None:
        raise t.refusal(layer, f"pools by {settings.text('pool')}, which is not known here")
    if settings.number("global_pooling", 0):
        return t.add(layer, f"global_{kind}_pool")
    values = {
        "kernel": t.axes(settings, "kernel_size", 2, "kernel"),
        "stride": t.axes(settings, "stride", 1),
        "padding": t.axes(settings, "pad", 0) * 2,
        "ceil": True,  # Caffe rounds sizes up
    }
    if kind == "avg":
        values["count_include_pad"] = True
    return t.add(layer, f"{kind}_pool", values)


def _relu(t: CaffeTranslation, layer: Message) -> str:
    slope = layer.message("relu_param").number("negative_slope", 0.0)
    return t.add(layer, "leaky_relu", {"slope": slope}) if slope else t.add(layer, "relu")


def _prelu(t: CaffeTranslation, layer: Message) -> str:
    slopes, name = t.blob(layer, 0)
    weights = {"weight": (slopes.reshape(-1), name)}
    return t.add(layer, "prelu", {"channels": slopes.numel()}, weights)


def _concat(t: CaffeTranslation, layer: Message) -> str:
    settings = layer.message("concat_param")
    if int(settings.number("axis", settings.number("concat_dim", 1))) != 1:
        raise t.refusal(layer, "joins pictures side by side, which is not known here")
    return t.add(layer, "concat", {"crop": "first"})  # Freiburg's Caffe cuts to the first


def _crop(t: CaffeTranslation, layer: Message) -> str:
    settings = layer.message("crop_param")
    offset = tuple(int(n) for n in settings.numbers("offset")) or (0,)
    offset = offset if len(offset) > 1 else offset * t.builder.dims
    if int(settings.number("axis", 2)) != 2 or len(offset) != t.builder.dims:
        raise t.refusal(layer, "crops channels, which is not known here")
    return t.add(layer, "crop", {"offset": offset})


def _eltwise(t: CaffeTranslation, layer: Message) -> str:
    settings = layer.message("eltwise_param")
    op = {"SUM": "add", "PROD": "mul", "MAX": "maximum"}.get(settings.text("operation", "SUM"))
    if op is None or any(number != 1 for number in settings.numbers("coeff")):
        raise t.refusal(layer, "combines pictures in a way that is not known here")
    return t.add(layer, op)


def _transformation(t: CaffeTranslation, layer: Message) -> str:
    """(image + offset) * scale, of Freiburg's Caffe."""
    settings, n = layer.message("value_transformation_param"), t.channels(layer)
    parts = []
    for name, default in (("offset", 0.0), ("scale", 1.0)):
        numbers = settings.message(name).numbers("v") or (default,)
        if len(numbers) not in (1, n):
            raise t.refusal(layer, f"has {len(numbers)} numbers ({name}) for {n} channels")
        parts.append(torch.tensor(numbers).expand(n))
    offset, scale = parts
    weights = {"factor": (scale.clone(), ""), "shift": (offset * scale, "")}
    return t.add(layer, "scale_shift", {"channels": n}, weights)


def _scale(t: CaffeTranslation, layer: Message) -> str:
    n = t.channels(layer)
    factor, name = t.blob(layer, 0)
    weights = {"factor": (factor.reshape(-1), name), "shift": (torch.zeros(n), "")}
    if layer.message("scale_param").number("bias_term", 0):
        shift, shift_name = t.blob(layer, 1)
        weights["shift"] = (shift.reshape(-1), shift_name)
    if len(layer.texts("bottom")) != 1 or factor.numel() != n:
        raise t.refusal(layer, "scales in a way that is not known here")
    return t.add(layer, "scale_shift", {"channels": n}, weights)


def _batch_norm(t: CaffeTranslation, layer: Message) -> str:
    (mean, mean_name), (variance, variance_name) = t.blob(layer, 0), t.blob(layer, 1)
    total = float(t.blob(layer, 2)[0].reshape(-1)[0])  # both are sums, of this weight
    share, n = (1 / total if total else 0.0), mean.numel()
    weights = {
        "running_mean": (mean.reshape(-1) * share, mean_name),
        "running_var": (variance.reshape(-1) * share, variance_name),
        "num_batches_tracked": (torch.tensor(0), ""),
    }
    eps = layer.message("batch_norm_param").number("eps", 1e-5)
    return t.add(layer, "batch_norm", {"channels": n, "eps": eps, "affine": False}, weights)


def _power(t: CaffeTranslation, layer: Message) -> str:
    settings, n = layer.message("power_param"), t.channels(layer)
    if settings.number("power", 1.0) != 1.0:
        raise t.refusal(layer, "raises to a power, which is not known here")
    factor = torch.full((n,), settings.number("scale", 1.0))
    shift = torch.full((n,), settings.number("shift", 0.0))
    weights = {"factor": (factor, ""), "shift": (shift, "")}
    return t.add(layer, "scale_shift", {"channels": n}, weights)


def _elu(t: CaffeTranslation, layer: Message) -> str:
    return t.add(layer, "elu", {"alpha": layer.message("elu_param").number("alpha", 1.0)})


def _simple(op: str) -> Callable[[CaffeTranslation, Message], str]:
    return lambda t, layer: t.add(layer, op)


KINDS: dict[str, Callable[[CaffeTranslation, Message], str]] = {
    "BatchNorm": _batch_norm,
    "Concat": _concat,
    "Convolution": _convolution("conv"),
    "Crop": _crop,
    "Deconvolution": _convolution("transposed_conv"),
    "ELU": _elu,
    "Eltwise": _eltwise,
    "PReLU": _prelu,
    "Pooling": _pooling,
    "Power": _power,
    "ReLU": _relu,
    "Scale": _scale,
    "Sigmoid": _simple("sigmoid"),
    "Softmax": _simple("softmax"),
    "TanH": _simple("tanh"),
    "ValueTransformation": _transformation,
}
