"""ONNX files as lists of layers: nothing of onnx or onnxruntime is needed.

The nodes are followed one by one for images of several sizes. What they compute of sizes
("half of the third number of the shape of that") is computed as they say; what they do to the
image is written down as layers. A node that is not known here is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from napari_unet.core.checkpoints.containers.source import named, shown, size_text
from napari_unet.core.checkpoints.graphs import Graph
from napari_unet.core.checkpoints.graphs.merging import Names, followed
from napari_unet.core.checkpoints.graphs.onnx_file import (
    Beside,
    Declared,
    Node,
    OnnxGraph,
    OnnxModel,
    model_of,
)
from napari_unet.core.checkpoints.graphs.onnx_sizes import OPERATIONS, Context
from napari_unet.core.checkpoints.graphs.probing import image_shapes
from napari_unet.core.checkpoints.graphs.reading import AnySource, source_of
from napari_unet.core.checkpoints.graphs.recording import Recorder
from napari_unet.core.checkpoints.graphs.wire import WireError
from napari_unet.core.errors import ModelFileError

__all__ = ["read_onnx"]

MAX_BYTES = 2 << 30  # more cannot be one message
MOST_CANDIDATES = 64
LARGEST_IMAGE = 4096  # px
MOST_CHANNELS = 8  # that an axis of channels at the end has


def read_onnx(file: AnySource) -> Graph:
    """Read the network of an ONNX file: its nodes as a list of layers, and its weights.

    Raises
    ------
    ModelFileError
        If the file is damaged, needs other files, or has a node that no layer can stand for.
    """
    source = source_of(file)
    with named(source.name):
        if source.size > MAX_BYTES:
            raise ModelFileError(f"It is {size_text(source.size)} large, which no ONNX file is.")
        with source.open() as opened:
            model = _model(opened.read(), source.beside)
        image = _image(model.graph)
        names = Names()
        for name, tensor in model.graph.tensors.items():
            names.know(name, tensor)
        last = _channels_last(image)

        def program(recorder: Recorder) -> Any:
            return _follow(recorder, model, image.name, last)

        return followed(program, _shapes(model.graph, image, last), names)


def _model(content: bytes, beside: Beside) -> OnnxModel:
    try:
        return model_of(content, beside)
    except WireError as error:
        raise ModelFileError(str(error)) from error


def _image(graph: OnnxGraph) -> Declared:
    """The one input that is no weight."""
    inputs = [one for one in graph.inputs if one.name not in graph.tensors]
    if len(inputs) != 1:
        raise ModelFileError(
            f"The network has {len(inputs)} inputs "
            f"({', '.join(shown(one.name) for one in inputs[:5])}); one image was expected."
        )
    if inputs[0].shape is not None and len(inputs[0].shape) not in (4, 5):
        raise ModelFileError(
            f"The network takes an input of {len(inputs[0].shape)} axes; images have 4 (batch, "
            "channel, y, x) and volumes 5."
        )
    return inputs[0]


def _channels_last(image: Declared) -> bool:
    """Whether the image comes with its channels behind the pixels, as TensorFlow has them."""
    if image.shape is None or image.shape[-1] is None:
        return False
    after_batch = image.shape[1]
    return image.shape[-1] <= MOST_CHANNELS and (after_batch is None or after_batch > MOST_CHANNELS)


def _follow(recorder: Recorder, model: OnnxModel, image: str, last: bool) -> Any:
    """What the network gives for the image of a recorder."""
    value: Any = recorder.image
    if last:
        n = len(recorder.image_shape)
        value = recorder.permute(value, (0, *range(2, n), 1))
    values: dict[str, Any] = {**model.graph.tensors, image: value}
    _evaluate(Context(recorder, model.version), model.graph, values)
    return tuple(values[name] for name in model.graph.outputs if name in values)


def _evaluate(context: Context, graph: OnnxGraph, values: dict[str, Any]) -> None:
    """Compute the nodes of a graph one after the other."""
    for node in graph.nodes:
        context.recorder.where = f"{shown(node.op)} '{shown(node.name)}'"
        if node.op == "If" and not node.domain:
            results = _branch(context, node, values)
        else:
            results = _result(
                context, node, [_input(context, name, values) for name in node.inputs]
            )
        for name, result in zip(node.outputs, results, strict=False):
            if name in values:
                raise context.recorder.refuse("two nodes give the same value; the file is damaged")
            values[name] = result


def _input(context: Context, name: str, values: Mapping[str, Any]) -> Any:
    if name and name not in values:
        raise context.recorder.refuse(f"it reads '{shown(name)}', which no node before it gives")
    return values[name] if name else None


def _result(context: Context, node: Node, inputs: Sequence[Any]) -> tuple[Any, ...]:
    if node.domain or node.op not in OPERATIONS:
        whose = f" of '{shown(node.domain)}'" if node.domain else ""
        raise context.recorder.refuse(f"the operation '{shown(node.op)}'{whose} is not known here")
    try:
        result = OPERATIONS[node.op](context, node, *inputs)
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        raise context.recorder.refuse(f"'{shown(node.op)}' is used in an unknown way") from error
    return result if isinstance(result, tuple) else (result,)


def _branch(context: Context, node: Node, values: Mapping[str, Any]) -> tuple[Any, ...]:
    """One of two subgraphs, where a constant or a size tells which."""
    condition = context.numbers(_input(context, node.inputs[0], values))
    graph = node.attributes.get("then_branch" if bool(condition[0]) else "else_branch")
    if not isinstance(graph, OnnxGraph):
        raise context.recorder.refuse("a branch of the program is missing; the file is damaged")
    inner = {**values, **graph.tensors}
    _evaluate(context, graph, inner)
    return tuple(_input(context, name, inner) for name in graph.outputs)


def _shapes(graph: OnnxGraph, image: Declared, last: bool) -> list[Sequence[tuple[int, ...]]]:
    """Shapes `(1, c, [z,] y, x)` of images to try; the first that fit are those it is for."""
    kernels = [t for t in graph.tensors.values() if t.ndim in (4, 5) and t.is_floating_point()]
    kernels += [
        one
        for node in graph.nodes
        for one in node.attributes.values()
        if node.op == "Constant" and hasattr(one, "ndim") and one.ndim in (4, 5)
    ]
    if not kernels:
        raise ModelFileError("It holds no convolutions for images or volumes; it is no U-Net.")
    declared = image.shape or (None,) * kernels[0].ndim
    shape = (declared[0], declared[-1], *declared[1:-1]) if last else declared
    dims = len(shape) - 2
    found = dict.fromkeys(t.shape[1] for t in kernels if t.ndim == dims + 2)
    channels = [shape[1]] if shape[1] else list(found)[:MOST_CANDIDATES]
    options: list[Sequence[tuple[int, ...]]] = [image_shapes(dims, n) for n in channels]
    sizes = [n for n in shape[2:] if n and n <= LARGEST_IMAGE]
    if len(sizes) == dims:
        options += [[(1, n, *sizes)] for n in channels]
    return options
