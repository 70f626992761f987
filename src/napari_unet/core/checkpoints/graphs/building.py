"""A layer list in the making, of whatever format: names, weights, and what belongs outside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from torch import Tensor

from napari_unet.core.checkpoints.graphs import Graph
from napari_unet.core.errors import ModelFileError
from napari_unet.core.networks.layered import INPUT, Layer, LayeredConfig

__all__ = ["Builder", "Weight", "orderly"]

Weight = tuple[Tensor, str]
"""A tensor and what it is called in the file."""


@contextmanager
def orderly() -> Iterator[None]:
    """Whatever nonsense in a list of layers makes Python stumble becomes a sentence.

    Raises
    ------
    ModelFileError
        Instead of other errors.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError) as error:
        raise _nonsense(error) from error
    except (AssertionError, TypeError, ValueError) as error:
        raise _nonsense(error) from error


def _nonsense(error: Exception) -> ModelFileError:
    return ModelFileError(
        f"The list of layers in this file is damaged, or of a kind that is not known here "
        f"({type(error).__name__}: {str(error)[:80]}). Save the model again, or export it as ONNX."
    )


class Builder:
    """Collects layers in order.

    Attributes
    ----------
    dims : 2 or 3.
    in_channels : channels of the input.
    channels : name to channels of each output.
    """

    def __init__(self, dims: int, in_channels: int) -> None:
        self.dims = dims
        self.in_channels = in_channels
        self.channels: dict[str, int] = {INPUT: in_channels}
        self._layers: dict[str, Layer] = {}
        self._weights: dict[str, dict[str, Weight]] = {}

    def add(
        self,
        name: str,
        op: str,
        inputs: Sequence[str],
        values: Mapping[str, Any] | None = None,
        weights: Mapping[str, Weight] | None = None,
    ) -> str:
        """Append a layer; its name, which is changed if there is one of that name."""
        unique, n = name, 2
        while unique in self.channels:
            unique, n = f"{name}_{n}", n + 1
        values = dict(values or {})
        layer = Layer(name=unique, op=op, inputs=tuple(inputs), values=values)
        self.channels[unique] = self._channels(layer)
        self._layers[unique] = layer
        self._weights[unique] = dict(weights or {})
        return unique

    def _channels(self, layer: Layer) -> int:
        before = [self.channels[name] for name in layer.inputs]
        values: Mapping[str, Any] = layer.values
        if "out_channels" in values:
            return int(values["out_channels"])
        if layer.op == "concat":
            return sum(before)
        if layer.op == "channels":
            return int(values["stop"]) - int(values["start"])
        if layer.op == "pixel_shuffle":
            return before[0] // int(values["factor"]) ** 2
        if layer.op in ("channel_mean", "channel_max"):
            return 1
        return max(before, default=1)

    def without_activation(self, output: str) -> tuple[str, str]:
        """The layer before a final sigmoid or softmax, and its name; "" if there is none."""
        while output in self._layers:
            layer = self._layers[output]
            if layer.op in ("sigmoid", "softmax"):
                return layer.inputs[0], layer.op
            if layer.op != "identity":
                break
            output = layer.inputs[0]
        return output, ""

    def without_scaling(self, output: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Take off what shifts and scales the image first of all; its offset and scale per channel.

        What is left reads `(image - offset) / scale` as its input. Both are empty if there is
        nothing to take off.
        """
        factor = torch.ones(self.in_channels, dtype=torch.float64)
        shift = torch.zeros(self.in_channels, dtype=torch.float64)
        n_taken, place = 0, INPUT
        while (found := self._scaling_of(place, output)) is not None:
            layer, more_factor, more_shift = found
            if not bool((more_factor != 0).all()) or layer.name == output:
                break
            factor, shift = factor * more_factor, shift * more_factor + more_shift
            place, n_taken = layer.name, n_taken + 1
            self._layers[layer.name] = Layer(name=layer.name, op="identity", inputs=layer.inputs)
            self._weights[layer.name] = {}
        if n_taken == 0:
            return (), ()
        return tuple(_neat(-shift / factor)), tuple(_neat(1 / factor))

    def _scaling_of(self, place: str, output: str) -> tuple[Layer, Tensor, Tensor] | None:
        """The only reader of a place, if it scales and shifts."""
        kept = self._reachable(output)
        readers = [self._layers[name] for name in kept if place in self._layers[name].inputs]
        if len(readers) != 1 or len(readers[0].inputs) != 1:
            return None
        layer, values = readers[0], cast(Mapping[str, Any], readers[0].values)
        one = torch.ones(self.in_channels, dtype=torch.float64)
        if layer.op == "identity":
            return layer, one, 0 * one
        if layer.op == "scale_shift":
            weights = self._weights[layer.name]
            return layer, weights["factor"][0].double(), weights["shift"][0].double()
        if layer.op not in ("add", "sub", "mul", "div") or values.get("reversed"):
            return None
        value = float(values["value"])
        if layer.op in ("mul", "div"):
            return None if value == 0 else (layer, one * value ** _SIGN[layer.op], 0 * one)
        return layer, one, one * value * _SIGN[layer.op]

    def _reachable(self, output: str) -> list[str]:
        """Names of the layers that the output needs, in order."""
        needed = {output}
        for name in reversed(self._layers):
            if name in needed:
                needed.update(self._layers[name].inputs)
        return [name for name in self._layers if name in needed]

    def graph(
        self,
        output: str,
        about: Mapping[str, Any],
        assumed: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> Graph:
        """The network that ends in a layer; what it does not need is left out."""
        kept, instead = [], {INPUT: INPUT}
        for name in self._reachable(output):
            layer = self._layers[name]
            if layer.op == "identity" and name != output:
                instead[name] = instead[layer.inputs[0]]
                continue
            instead[name] = name
            kept.append(self._rewired(layer, instead))
        if not any(layer.op == "conv" for layer in kept):
            raise ModelFileError(
                "The file holds a network without convolutions that is not a U-Net."
            )
        config = LayeredConfig(
            dims=cast(Literal[2, 3], self.dims),
            in_channels=self.in_channels,
            out_channels=self.channels[output],
            layers=tuple(kept),
        )
        weights = {
            f"layers.{at}.{name}": weight
            for at, layer in enumerate(kept)
            for name, weight in self._weights[layer.name].items()
        }
        return Graph(
            config=config,
            tensors={name: weight[0] for name, weight in weights.items()},
            names={name: (weight[1],) for name, weight in weights.items() if weight[1]},
            about=dict(about),
            assumed=tuple(assumed),
            notes=tuple(notes),
        )

    def _rewired(self, layer: Layer, instead: Mapping[str, str]) -> Layer:
        inputs = tuple(instead[name] for name in layer.inputs)
        return Layer(name=layer.name, op=layer.op, inputs=inputs, values=layer.values)


_SIGN = {"mul": 1, "div": -1, "add": 1, "sub": -1}


def _neat(values: Tensor) -> list[float]:
    """Numbers without the rounding errors of float32 and of division: 255, not 255.00001."""
    found = []
    for value in values.tolist():
        near = round(value, 4)
        found.append(near if abs(near - value) <= 1e-6 * abs(value) else value)
    return [0.0 if value == 0 else value for value in found]
