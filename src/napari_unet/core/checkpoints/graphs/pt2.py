"""Programs of `torch.export` (.pt2) as lists of layers; their graph is JSON and never run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from napari_unet.core.checkpoints.containers.archive import Archive
from napari_unet.core.checkpoints.containers.pt2 import read_pt2 as read_weights
from napari_unet.core.checkpoints.containers.source import named, shown
from napari_unet.core.checkpoints.graphs import Graph
from napari_unet.core.checkpoints.graphs.aten_numbers import NUMBERS
from napari_unet.core.checkpoints.graphs.merging import Names, followed
from napari_unet.core.checkpoints.graphs.probing import image_shapes
from napari_unet.core.checkpoints.graphs.reading import AnySource, source_of
from napari_unet.core.checkpoints.graphs.recording import Recorder
from napari_unet.core.checkpoints.graphs.torchscript_ops import ATEN, call
from napari_unet.core.errors import ModelFileError

__all__ = ["read_pt2"]

MOST_NODES = 20_000
LARGEST_IMAGE = 4096  # px
CHECKS = ("_assert", "sym_constrain", "_guards")
"""Beginnings of functions that only check sizes."""

assert NUMBERS  # imported for what it adds to `ATEN`


def read_pt2(file: AnySource) -> Graph:
    """Read the network of an exported program: its graph as a list of layers, and its weights.

    Raises
    ------
    ModelFileError
        If the file is damaged, or has a function that no layer can stand for.
    """
    source = source_of(file)
    with named(source.name):
        archive = Archive.of_source(source)
        found = [name for name in archive.names() if name.endswith("models/model.json")]
        if len(found) != 1:
            raise ModelFileError(
                "It holds no program that can be read. Save it again with a newer PyTorch, or "
                "save the weights alone (the state dict)."
            )
        try:
            module = archive.json(found[0])["graph_module"]
            return _read(module["graph"], module["signature"], read_weights(source).tree)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise ModelFileError(
                "Its program is not as torch.export writes it; the file is damaged, or of a "
                "version that is not known here."
            ) from error


def _read(graph: Any, signature: Any, weights: Mapping[str, Tensor]) -> Graph:
    names = Names()
    for name, tensor in weights.items():
        names.know(name, tensor)
    held, images = _inputs(signature, weights)
    if len(images) != 1:
        raise ModelFileError(f"The network has {len(images)} inputs; one image was expected.")
    if len(graph["nodes"]) > MOST_NODES:
        raise ModelFileError(f"It has more than {MOST_NODES} steps, which no network has.")

    def program(recorder: Recorder) -> Any:
        return _follow(recorder, graph, {**held, images[0]: recorder.image})

    return followed(program, _shapes(graph["tensor_values"][images[0]]["sizes"]), names)


def _inputs(signature: Any, weights: Mapping[str, Tensor]) -> tuple[dict[str, Any], list[str]]:
    """Weights by the names they have in the program, and the names of the images."""
    held: dict[str, Any] = {}
    images: list[str] = []
    for one in signature["input_specs"]:
        ((kind, spec),) = one.items()
        if kind == "user_input":
            images += [spec["arg"]["as_tensor"]["name"]] if "as_tensor" in spec["arg"] else []
            continue
        name = next((spec[key] for key in spec if key.endswith("_name")), "")
        if name not in weights:
            raise ModelFileError(f"The weights {shown(name)} are missing, or stored as a pickle.")
        held[spec["arg"]["name"]] = weights[name]
    return held, images


def _shapes(sizes: Sequence[Any]) -> list[Sequence[tuple[int, ...]]]:
    """Shapes of images to follow the program for: of any size, then of the one it was made for."""
    stated = tuple(size.get("as_int") or size["as_expr"]["hint"]["as_int"] for size in sizes)
    if len(stated) not in (4, 5) or not all(0 < n <= LARGEST_IMAGE for n in stated):
        raise ModelFileError("The network takes no images (b, c, y, x) or volumes (b, c, z, y, x).")
    shape = (1, *stated[1:])
    return [image_shapes(len(shape) - 2, shape[1]), [shape]]


def _follow(recorder: Recorder, graph: Any, values: dict[str, Any]) -> Any:
    for node in graph["nodes"]:
        target = str(node["target"])
        recorder.where = shown(str(node.get("name") or target))
        name = _name(target)
        if name.startswith(CHECKS):
            continue
        args = [_value(recorder, one["arg"], values) for one in node["inputs"] if one["kind"] != 2]
        options = {
            one["name"]: _value(recorder, one["arg"], values)
            for one in node["inputs"]
            if one["kind"] == 2 and one["name"] in ("alpha", "rounding_mode", "approximate")
        }
        if name not in ATEN:
            raise recorder.refuse(f"its function '{shown(target)}' is not known here")
        _keep(recorder, node["outputs"], call(recorder, name, args, options), values)
    return [_value(recorder, one, values) for one in graph["outputs"]]


def _name(target: str) -> str:
    """`torch.ops.aten.conv2d.default` and `_operator.add` without all that."""
    if target.startswith("torch.ops.aten."):
        return target.split(".")[3]
    known = {"truediv": "div", "getitem": "__getitem__", "pow": "pow"}
    plain = target.rpartition(".")[2]
    return (
        known.get(plain, plain)
        if target.startswith(("_operator.", "math.", "torch.sym"))
        else target
    )


def _keep(recorder: Recorder, outputs: Sequence[Any], result: Any, values: dict[str, Any]) -> None:
    places: list[Any] = []
    for one in outputs:
        ((kind, place),) = one.items()
        places += place if kind == "as_tensors" else [place]
    results = list(result) if isinstance(result, tuple | list) else [result]
    for place, value in zip(places, results, strict=False):
        if isinstance(place, Mapping) and (name := place.get("name", place.get("as_name"))):
            values[str(name)] = value


def _value(recorder: Recorder, argument: Any, values: Mapping[str, Any]) -> Any:
    """An argument of a call: plain, a value of the program, or a list of them."""
    ((kind, value),) = argument.items()
    if kind in ("as_none", "as_device", "as_layout", "as_memory_format"):
        return None
    if kind in ("as_int", "as_float", "as_bool", "as_string", "as_ints", "as_floats", "as_bools",
                "as_scalar_type"):  # fmt: skip
        return value
    if kind in ("as_tensors", "as_sym_ints", "as_optional_tensors"):
        return [_one(recorder, one, values) for one in value]
    return _one(recorder, value, values)


def _one(recorder: Recorder, value: Any, values: Mapping[str, Any]) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "as_tensor" in value:
        return _one(recorder, value["as_tensor"], values)
    name = value.get("name", value.get("as_name"))
    if name is None:
        return next(iter(value.values()), None) if "as_none" not in value else None
    if name not in values:
        raise recorder.refuse(f"it reads '{shown(name)}', which no step before it gives")
    return values[name]
