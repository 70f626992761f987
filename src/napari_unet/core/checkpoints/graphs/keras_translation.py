"""A Keras model on its way to our list of layers: what all kinds of layers have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from napari_unet.core.checkpoints.graphs.building import Builder, Weight
from napari_unet.core.checkpoints.graphs.keras_activations import activation_of
from napari_unet.core.checkpoints.graphs.keras_config import Node, Plan
from napari_unet.core.checkpoints.graphs.keras_weights import Stored, Weights
from napari_unet.core.errors import ModelFileError
from napari_unet.core.networks.layered import INPUT

__all__ = ["Kinds", "Translation"]

NOTHING = frozenset({
    "ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise",
    "SpatialDropout2D", "SpatialDropout3D",
})  # fmt: skip
"""Layers that do something in training only."""
JOINING = {
    "Add": "add", "Average": "average", "Maximum": "maximum", "Minimum": "minimum",
    "Multiply": "mul", "Subtract": "sub", "TrueDivide": "div", "Divide": "div",
}  # fmt: skip


class Translation:
    """A Keras model on its way to a list of layers.

    Attributes
    ----------
    builder : the layers so far.
    weights : of all layers.
    version : of Keras, the first number.
    first : whether channels come before the axes of the image.
    assumed, notes : as in `Graph`.
    """

    def __init__(self, plan: Plan, weights: Weights, version: int, kinds: Kinds) -> None:
        self._kinds = kinds
        self.plan = plan
        self.version = version
        self.assumed: list[str] = []
        self.notes: list[str] = []
        self.weights = weights
        self.first = _is_channels_first(plan)
        shape = plan.shape
        if len(shape) not in (3, 4):
            raise ModelFileError(
                f"This Keras model takes {len(shape) - 1}-dimensional input; networks for images "
                f"(2D) and volumes (3D) can be used."
            )
        n_channels = shape[0] if self.first else shape[-1]
        self.builder = Builder(len(shape) - 1, n_channels or self._channels_of_first())
        self._places: dict[str, str] = {}

    def run(self) -> str:
        """Translate all nodes; the name of the last layer."""
        for node in self.plan.nodes:
            self._places[node.name] = self._translated(node)
        return self._places[self.plan.output]

    def _translated(self, node: Node) -> str:
        if node.kind == "InputLayer":
            return INPUT
        if node.kind in NOTHING:
            return self.add(node, "identity")
        if node.kind in JOINING:
            return self.joined(node, JOINING[node.kind])
        translate = self._kinds.get(node.kind)
        if translate is None:
            raise self.refusal(node, f"is of the kind {node.kind}, which is not known here")
        return translate(self, node)

    def refusal(self, node: Node, why: str) -> ModelFileError:
        """The error for a layer that cannot be used."""
        return ModelFileError(
            f"Layer {node.path[-1]!r} of this Keras model {why}. Export the model as ONNX, or "
            f"rebuild it from ordinary layers."
        )

    def add(
        self,
        node: Node,
        op: str,
        values: Mapping[str, Any] | None = None,
        weights: Mapping[str, Weight] | None = None,
        place: str | None = None,
    ) -> str:
        """A layer that reads what the node reads, or one other place."""
        inputs = [place] if place is not None else self.inputs(node)
        return self.builder.add(node.name, op, inputs, values, weights)

    def inputs(self, node: Node) -> list[str]:
        """The layers that a node reads."""
        return [self._places[name] for name in node.inputs]

    def stored(self, node: Node, *needed: str) -> Stored:
        """The weights of a node."""
        stored = self.weights.of(node.path, node.kind, node.config)
        for name in needed:
            if name not in stored:
                raise ModelFileError(
                    f"The weights {name!r} of layer {node.path[-1]!r} are missing in this Keras "
                    f"file; it is incomplete, or its weights are in another file."
                )
        return stored

    def activated(self, node: Node, place: str) -> str:
        """The activation inside a layer, as a layer behind it."""
        function = activation_of(node.config.get("activation"), self.version)
        if function is None:
            shown = str(node.config.get("activation"))[:60]
            raise self.refusal(node, f"has the activation {shown}, which is not known here")
        op, values = function
        if op == "identity":
            return place
        return self.builder.add(f"{node.name}/activation", op, [place], values)

    def axes(self, node: Node, name: str, default: int = 1) -> tuple[int, ...]:
        """A setting that has a number for each axis, or one for all."""
        value = node.config.get(name, default)
        value = default if value is None else value
        numbers = value if isinstance(value, list | tuple) else [value] * self.builder.dims
        if len(numbers) != self.builder.dims or not all(isinstance(n, int) for n in numbers):
            raise self.refusal(node, f"has {name} = {value}, which does not fit its images")
        return tuple(numbers)

    def channel_axis(self, node: Node) -> None:
        """Check that a layer acts on channels, not on an axis of the image."""
        axis = node.config.get("axis", -1)
        axes = [axis] if isinstance(axis, int) else list(axis or [])
        own = 1 if self.first else self.builder.dims + 1
        if [n % (self.builder.dims + 2) for n in axes] != [own]:
            raise self.refusal(node, f"acts along axis {axis}, which is not that of the channels")

    def per_channel(self, values: Tensor) -> Tensor:
        """Numbers for each channel; one stands for all."""
        return values.reshape(-1).expand(max(values.numel(), self.builder.in_channels)).clone()

    def _channels_of_first(self) -> int:
        for node in self.plan.nodes:
            if node.kind.startswith("Conv"):
                return int(self.stored(node, "kernel")["kernel"][0].shape[-2])
        raise ModelFileError("This Keras model has no convolutions; it is not a U-Net.")

    def joined(self, node: Node, op: str) -> str:
        """A function of several pictures, or of one and a number."""
        numbers = [value for value in node.extra.values() if _is_number(value)]
        if len(node.inputs) == 1 and numbers:
            values = {"value": float(numbers[0]), "reversed": "0" in node.extra}
            return self.add(node, op, values)
        return self.add(node, op)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_channels_first(plan: Plan) -> bool:
    formats = {node.config.get("data_format") for node in plan.nodes} - {None, "default"}
    if len(formats) > 1:
        raise ModelFileError("The layers of this Keras model disagree where the channels are.")
    return formats == {"channels_first"}


Kinds = Mapping[str, Callable[[Translation, Node], str]]
"""Class of a layer to what translates it."""
