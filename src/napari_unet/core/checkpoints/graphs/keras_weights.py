"""Where the weights of each layer are in a Keras file: in the old layout, or that of Keras 3."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from napari_unet.core.checkpoints.graphs.hdf5 import Hdf5
from napari_unet.core.errors import ModelFileError

__all__ = ["LegacyWeights", "NamedWeights", "Order", "Stored", "variables_of", "weights_in"]

Stored = Mapping[str, tuple[Tensor, str]]
"""Variable ("kernel", "bias", "gamma" ...) to its numbers and its path in the file."""
Order = Mapping[tuple[str, ...], Sequence[tuple[str, str]]]
"""For each model, by its path, its layers as (class, name)."""

LISTS = ("layers", "_layer_checkpoint_dependencies")


class Weights(Protocol):
    """Weights of a layer by the names of the models around it and its own."""

    def of(self, path: tuple[str, ...], kind: str, config: Mapping[str, Any]) -> Stored:
        """All variables of a layer; empty if it has none."""


def variables_of(kind: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the variables of a layer, in the order in which Keras 3 numbers them."""
    if "Norm" in kind and kind != "Normalization":
        scaled = (("gamma", "scale"), ("beta", "center"))
        names = tuple(name for name, used in scaled if config.get(used, True))
        return (*names, "moving_mean", "moving_variance") if kind.startswith("Batch") else names
    if kind == "Normalization":
        return "mean", "variance", "count"
    if kind == "PReLU":
        return ("alpha",)
    if kind.startswith("Separable"):
        return "depthwise_kernel", "pointwise_kernel", "bias"
    return "kernel", "bias"


class LegacyWeights:
    """`model_weights/<layer>/<layer>/kernel:0`: model files, and weights files before Keras 3."""

    def __init__(self, file: Hdf5) -> None:
        self._file = file
        self._root = "model_weights" if file.has("model_weights") else ""
        self.layers = _texts(file, self._root, "layer_names")

    def of(self, path: tuple[str, ...], kind: str, config: Mapping[str, Any]) -> Stored:
        """All variables of a layer."""
        found: dict[str, tuple[Tensor, str]] = {}
        group = f"{self._root}/{path[0]}".strip("/")
        if not self._file.has(group):
            return found
        for name in _texts(self._file, group, "weight_names"):
            *around, variable = name.split("/")
            is_own = len(path) == 1 or (around and around[-1] == path[-1])
            if is_own:
                place = f"{group}/{name}"
                known = re.sub(r":\d+$", "", variable)
                known = (
                    "kernel" if known in ("depthwise_kernel",) and kind[:5] == "Depth" else known
                )
                found[known] = (self._file.tensor(place), place)
        return found


def _texts(file: Hdf5, path: str, name: str) -> tuple[str, ...]:
    """A list of texts in an attribute; long ones are spread over `name0`, `name1` ..."""
    stored = file.attribute(path, name)
    if stored is None:
        stored, n = (), 0
        while (part := file.attribute(path, f"{name}{n}")) is not None:
            stored, n = (*stored, *(part if isinstance(part, tuple) else (part,))), n + 1
    stored = stored if isinstance(stored, tuple) else (stored,)
    return tuple(str(one) for one in stored)


class NamedWeights:
    """`layers/conv2d_1/vars/0`: the weights of Keras 3, also inside a `.keras` file."""

    def __init__(self, file: Hdf5, order: Order) -> None:
        self._file = file
        self._order = order
        self._groups: dict[str, dict[str, str]] = {}

    def of(self, path: tuple[str, ...], kind: str, config: Mapping[str, Any]) -> Stored:
        """All variables of a layer."""
        group = ""
        around: tuple[str, ...] = ()
        for name in path:
            found = self._layers(group, around).get(name)
            if found is None:
                return {}
            group, around = found, (*around, name)
        places = self._file.tensors(f"{group}/vars")
        names = variables_of(kind, config)
        stored = {}
        for at in sorted(places, key=_number):
            if _number(at) < len(names):
                name = names[_number(at)]
                stored[name] = (self._file.tensor(places[at]), places[at])
        return stored

    def _layers(self, group: str, around: tuple[str, ...]) -> dict[str, str]:
        """The groups of the layers of a model, by name of the layer."""
        if group not in self._groups:
            held = [f"{group}/{part}".strip("/") for part in LISTS]
            held = [part for part in held if self._file.children(part)]
            self._groups[group] = self._named(held[0], around) if held else {}
        return self._groups[group]

    def _named(self, held: str, around: tuple[str, ...]) -> dict[str, str]:
        groups = [f"{held}/{child}" for child in self._file.children(held)]
        names = [
            self._file.attribute(f"{one}/vars", "name") if self._file.has(f"{one}/vars") else None
            for one in groups
        ]
        if all(names):
            return dict(zip(map(str, names), groups, strict=True))
        by_child = {one.rsplit("/", 1)[1]: one for one in groups}
        layers = self._order.get(around, ())
        if all(name in by_child for kind, name in layers if kind != "InputLayer"):
            return by_child
        return _counted(layers, by_child)


def _counted(layers: Sequence[tuple[str, str]], by_child: Mapping[str, str]) -> dict[str, str]:
    """Groups that are called after classes, numbered in the order of the layers."""
    counts: dict[str, int] = {}
    found = {}
    for kind, name in layers:
        base = _snake(kind.rsplit(">", 1)[-1])
        n = counts.get(base, 0)
        counts[base] = n + 1
        child = f"{base}_{n}" if n else base
        if child in by_child:
            found[name] = by_child[child]
    return found


def _snake(kind: str) -> str:
    """ "Conv2DTranspose" to "conv2d_transpose", as Keras does."""
    kind = re.sub(r"\W+", "", kind)
    kind = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", kind).lower()


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 6 else 10**6


def weights_in(file: Hdf5, order: Order) -> Weights:
    """The weights of a file, in whichever layout they are.

    Raises
    ------
    ModelFileError
        If it is in neither.
    """
    if any(file.children(part) for part in LISTS):
        return NamedWeights(file, order)
    legacy = LegacyWeights(file)
    if legacy.layers:
        return legacy
    raise ModelFileError(
        f"{file.name} is an HDF5 file, but holds no weights as Keras or Freiburg's U-Net write "
        f"them. If it holds images, open it as an image."
    )
