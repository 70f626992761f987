"""The layer list of a Keras model, from the JSON of Keras 2 and of Keras 3, as one flat list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from napari_unet.core.errors import ModelFileError

__all__ = ["Node", "Plan", "plan_of"]

MODELS = frozenset({"Functional", "Model", "Sequential", "Network"})
MOST_NODES = 5_000
DEEPEST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One call of one layer.

    Attributes
    ----------
    name : unlike that of any other call.
    kind : class of the layer, such as "Conv2D".
    path : names of the models around it and of the layer itself: where its weights are.
    config : its settings.
    inputs : names of other nodes, in order.
    extra : other arguments of the call: numbers by name, or by place as "0", "1" ...
    """

    name: str
    kind: str
    path: tuple[str, ...]
    config: Mapping[str, Any]
    inputs: tuple[str, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All calls in an order in which they can be evaluated.

    Attributes
    ----------
    nodes : the calls; the first is the input.
    output : name of the node that gives the result.
    shape : shape of the input without the batch axis; None where any size will do.
    order : layers of each model around them, by its path, as (class, name) in the file's order.
    """

    nodes: tuple[Node, ...]
    output: str
    shape: tuple[int | None, ...]
    order: Mapping[tuple[str, ...], tuple[tuple[str, str], ...]]


@dataclass(slots=True)
class _Flat:
    """What was found so far."""

    nodes: dict[str, Node] = field(default_factory=dict)
    order: dict[tuple[str, ...], tuple[tuple[str, str], ...]] = field(default_factory=dict)
    shapes: list[tuple[int | None, ...]] = field(default_factory=list)

    def add(self, node: Node) -> str:
        """Keep a node under a name of its own."""
        name, n = node.name, 2
        while name in self.nodes:
            name, n = f"{node.name}_call{n}", n + 1
        if len(self.nodes) >= MOST_NODES:
            raise ModelFileError("The Keras model lists too many layers: refused.")
        self.nodes[name] = Node(
            name=name,
            kind=node.kind,
            path=node.path,
            config=node.config,
            inputs=node.inputs,
            extra=node.extra,
        )
        return name


def plan_of(config: Any) -> Plan:
    """Read `model_config`.

    Raises
    ------
    ModelFileError
        If it is damaged, has several inputs or outputs, or is written as Python code.
    """
    flat = _Flat()
    try:
        output = _model(flat, config, (), None, 0)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ModelFileError(
            f"The list of layers of this Keras model is damaged or of an unknown kind "
            f"({type(error).__name__}: {str(error)[:80]}). Save the model again, or "
            f"export it as ONNX."
        ) from error
    if not flat.shapes:
        raise ModelFileError(
            "This Keras model does not say what image it takes. Build it before saving, by running "
            "it once."
        )
    return Plan(
        nodes=tuple(flat.nodes.values()), output=output, shape=flat.shapes[0], order=flat.order
    )


def _model(
    flat: _Flat, entry: Mapping[str, Any], path: tuple[str, ...], given: str | None, depth: int
) -> str:
    """Add the layers of a model; the name of its output."""
    kind, config = str(entry["class_name"]).rsplit(">", 1)[-1], entry["config"]
    if depth > DEEPEST:
        raise ModelFileError("The models in this Keras model are nested too deeply: refused.")
    if kind not in MODELS or not (isinstance(config, list) or "layers" in config):
        raise ModelFileError(
            f"This Keras model is a class of its own ({kind}), written in Python. Only models "
            f"that list their layers can be opened. Export it as ONNX."
        )
    layers = config if isinstance(config, list) else config["layers"]
    if len(layers) > MOST_NODES:
        raise ModelFileError("The Keras model lists too many layers: refused.")
    flat.order[path] = tuple((str(one["class_name"]), _name(one)) for one in layers)
    if kind == "Sequential":
        return _sequential(flat, layers, config, path, given, depth)
    return _functional(flat, config, path, given, depth)


def _name(layer: Mapping[str, Any]) -> str:
    return str(layer.get("name") or layer["config"]["name"])


def _sequential(
    flat: _Flat,
    layers: Sequence[Mapping[str, Any]],
    config: Any,
    path: tuple[str, ...],
    given: str | None,
    depth: int,
) -> str:
    place = given
    for layer in layers:
        if layer["class_name"] == "InputLayer" and given is not None:
            continue
        if place is None and layer["class_name"] != "InputLayer":
            shape = layer["config"].get("batch_input_shape") or config.get("build_input_shape")
            place = _input(flat, "input", shape)
        place = _call(flat, layer, path, (place,) if place else (), {}, depth)
    if place is None:
        raise ModelFileError("The Keras model has no layers.")
    return place


def _input(flat: _Flat, name: str, shape: Sequence[Any] | None) -> str:
    if shape is None:
        raise ModelFileError("This Keras model does not say what image it takes.")
    if shape and isinstance(shape[0], list | tuple):
        raise ModelFileError("This Keras model takes several images; networks of one can be used.")
    flat.shapes.append(tuple(None if n is None else int(n) for n in shape[1:]))
    return flat.add(Node(name=name, kind="InputLayer", path=(name,), config={}, inputs=()))


def _call(
    flat: _Flat,
    layer: Mapping[str, Any],
    path: tuple[str, ...],
    inputs: tuple[str, ...],
    extra: Mapping[str, Any],
    depth: int,
) -> str:
    """Add one call of a layer, or of a model as a layer; the name of its output."""
    kind, name = str(layer["class_name"]).rsplit(">", 1)[-1], _name(layer)
    config = layer["config"]
    if kind == "InputLayer":
        return _input(flat, name, config.get("batch_shape") or config.get("batch_input_shape"))
    if kind in MODELS:
        if len(inputs) != 1:
            raise ModelFileError(f"The model {name!r} in this Keras model has several inputs.")
        return _model(flat, layer, (*path, name), inputs[0], depth + 1)
    return flat.add(
        Node(
            name="/".join((*path, name)),
            kind=kind,
            path=(*path, name),
            config=config,
            inputs=inputs,
            extra=extra,
        )
    )


def _functional(
    flat: _Flat, config: Any, path: tuple[str, ...], given: str | None, depth: int
) -> str:
    inputs, outputs = _ends(config["input_layers"]), _ends(config["output_layers"])
    if len(inputs) != 1 or len(outputs) != 1:
        names = ", ".join(name for name, _ in (*inputs, *outputs))
        raise ModelFileError(
            f"This Keras model has {len(inputs)} inputs and {len(outputs)} outputs ({names}); "
            f"networks of one each can be used. (StarDist's have the outputs 'prob' and 'dist': "
            f"use the StarDist plugin for them.)"
        )
    known: dict[tuple[str, int], str] = {}
    waiting = []
    for layer in config["layers"]:
        if (
            layer["class_name"] == "InputLayer"
            and given is not None
            and _name(layer) == inputs[0][0]
        ):
            known[_name(layer), 0] = given
            continue
        nodes = layer.get("inbound_nodes") or [[]]
        waiting += [(layer, at, *_arguments(node)) for at, node in enumerate(nodes)]
    while waiting:
        later = []
        for layer, at, sources, extra in waiting:
            if all(source in known for source in sources):
                places = tuple(known[source] for source in sources)
                known[_name(layer), at] = _call(flat, layer, path, places, extra, depth)
            else:
                later.append((layer, at, sources, extra))
        if len(later) == len(waiting):
            raise ModelFileError("The layers of this Keras model refer to layers that are missing.")
        waiting = later
    return known[outputs[0]]


def _ends(stored: Any) -> list[tuple[str, int]]:
    """`["x", 0, 0]`, or a list of such, or a dictionary of such."""
    if isinstance(stored, Mapping):
        stored = list(stored.values())
    if stored and isinstance(stored[0], str):
        stored = [stored]
    return [(str(one[0]), int(one[1])) for one in stored]


def _arguments(node: Any) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """The layers a call reads, and its other arguments."""
    sources: list[tuple[str, int]] = []
    extra: dict[str, Any] = {}
    if isinstance(node, Mapping):  # Keras 3
        for at, argument in enumerate(node.get("args", ())):
            found = list(_tensors(argument, 0))
            sources += found
            if not found:
                extra[str(at)] = argument
        for name, argument in node.get("kwargs", {}).items():
            found = list(_tensors(argument, 0))
            sources += found
            if not found and argument is not None:
                extra[str(name)] = argument
        return sources, extra
    if node and isinstance(node[0], str):  # a function of TensorFlow as a layer
        node = [node]
    for entry in node:
        sources.append((str(entry[0]), int(entry[1])))
        for name, argument in (entry[3] if len(entry) > 3 else {}).items():
            if isinstance(argument, list) and len(argument) == 3 and isinstance(argument[0], str):
                sources.append((argument[0], int(argument[1])))
            elif argument is not None:
                extra[str(name)] = argument
    return sources, extra


def _tensors(argument: Any, depth: int) -> Iterable[tuple[str, int]]:
    if isinstance(argument, Mapping) and argument.get("class_name") == "__keras_tensor__":
        name, node, _ = argument["config"]["keras_history"]
        yield str(name), int(node)
    elif isinstance(argument, list) and depth < DEEPEST:
        for one in argument:
            yield from _tensors(one, depth + 1)
