"""What is in an ONNX file: nodes, numbers and sizes, read from the bytes by their field numbers.

The numbers of the fields are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_unet.core.checkpoints.containers.source import Source, shown, size_text
from napari_unet.core.checkpoints.graphs.wire import (
    Fields,
    doubles,
    fields,
    first,
    floats,
    integers,
    messages,
    one_float,
    text,
)
from napari_unet.core.errors import ModelFileError

__all__ = ["Beside", "Declared", "Node", "OnnxGraph", "OnnxModel", "model_of"]

MOST_NODES = 20_000
MAX_DIMS = 16
DEEPEST = 8

_TYPES = {1: "f4", 2: "u1", 3: "i1", 5: "i2", 6: "i4", 7: "i8", 9: "?", 10: "f2", 11: "f8"}
"""Types of numbers by their codes in the file, as numpy writes them."""
_BFLOAT16 = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """One operation.

    Attributes
    ----------
    op : such as "Conv".
    domain : whose operation it is; "" is ONNX's own.
    name : for people.
    inputs, outputs : names of values; "" stands for one that is left out.
    attributes : numbers, texts, lists of those, tensors and `OnnxGraph`s.
    """

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What the file says of an input.

    Attributes
    ----------
    name : of the value.
    shape : sizes of its axes, `None` where any size will do; `None` if nothing is said.
    """

    name: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OnnxGraph:
    """Nodes in the order in which they can be computed, and the numbers that they need."""

    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    inputs: tuple[Declared, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OnnxModel:
    """A whole file.

    Attributes
    ----------
    graph : the network.
    version : of ONNX's own operations.
    producer : the program that wrote it.
    metadata : texts by name.
    """

    graph: OnnxGraph
    version: int
    producer: str
    metadata: Mapping[str, str]


Beside = Callable[[str], Source]
"""Gives the file of a name in the folder of the model, or raises `ModelFileError`."""


def model_of(content: bytes, beside: Beside) -> OnnxModel:
    """Read a file.

    Parameters
    ----------
    content : its bytes.
    beside : where the numbers are that it keeps in a file beside it.

    Raises
    ------
    ModelFileError
        If it is damaged, keeps its numbers elsewhere, or has operations of its own.
    """
    found = fields(content)
    graphs = messages(found, 7)
    if len(graphs) != 1:
        raise ModelFileError("This is not an ONNX file, or one that is damaged: it has no network.")
    sets = [fields(one) for one in messages(found, 8)]
    versions = [first(one, 2) for one in sets if text(one, 1) in ("", "ai.onnx")]
    pairs = [fields(one) for one in messages(found, 14)]
    return OnnxModel(
        graph=_graph(graphs[0], 0, beside),
        version=max(versions, default=1),
        producer=text(found, 2),
        metadata={text(one, 1): text(one, 2) for one in pairs},
    )


def _graph(content: memoryview, depth: int, beside: Beside) -> OnnxGraph:
    if depth > DEEPEST:
        raise ModelFileError("The network is nested more deeply than any network. Refused.")
    found = fields(content)
    nodes = messages(found, 1)
    if len(nodes) > MOST_NODES:
        raise ModelFileError(
            f"It lists {len(nodes)} operations; a network has at most {MOST_NODES}."
        )
    if messages(found, 15):
        raise ModelFileError("Its weights are stored as sparse tensors, which cannot be used here.")
    tensors = [_named_tensor(one, beside) for one in messages(found, 5)]
    return OnnxGraph(
        nodes=tuple(_node(one, depth, beside) for one in nodes),
        tensors=dict(tensors),
        inputs=tuple(_declared(one) for one in messages(found, 11)),
        outputs=tuple(text(fields(one), 1) for one in messages(found, 12)),
    )


def _declared(content: memoryview) -> Declared:
    found = fields(content)
    shape: tuple[int | None, ...] | None = None
    for kind in messages(found, 2):
        for tensor in messages(fields(kind), 1):
            for sizes in messages(fields(tensor), 2):
                axes = [fields(axis) for axis in messages(fields(sizes), 1)]
                shape = tuple(first(axis, 1) or None for axis in axes)
    return Declared(name=text(found, 1), shape=shape)


def _texts(found: Fields, number: int) -> tuple[str, ...]:
    return tuple(bytes(one).decode("utf-8", "replace") for one in messages(found, number))


def _node(content: memoryview, depth: int, beside: Beside) -> Node:
    found = fields(content)
    attributes = [_attribute(fields(one), depth, beside) for one in messages(found, 5)]
    return Node(
        op=text(found, 4),
        domain="" if text(found, 7) == "ai.onnx" else text(found, 7),
        name=text(found, 3) or ", ".join(_texts(found, 2)),
        inputs=_texts(found, 1),
        outputs=_texts(found, 2),
        attributes=dict(attributes),
    )


def _attribute(found: Fields, depth: int, beside: Beside) -> tuple[str, Any]:
    name, kind = text(found, 1), first(found, 20)
    if not kind:  # old files leave it out
        kind = next((code for code, number in _FIELDS.items() if number in found), 2)
    if kind == 1:
        return name, one_float(found, 2)
    if kind == 3:
        return name, text(found, 4)
    if kind == 4 and messages(found, 5):
        return name, _named_tensor(messages(found, 5)[-1], beside)[1]
    if kind == 5 and messages(found, 6):
        return name, _graph(messages(found, 6)[-1], depth + 1, beside)
    if kind == 6:
        return name, tuple(np.frombuffer(floats(found, 7), "<f4").tolist())
    if kind == 7:
        return name, tuple(integers(found, 8))
    if kind == 8:
        return name, _texts(found, 9)
    values = integers(found, 3)
    return name, values[-1] if values else 0


_FIELDS = {1: 2, 2: 3, 3: 4, 4: 5, 5: 6, 6: 7, 7: 8, 8: 9}
"""Kinds of attributes, and the field that holds the value of each."""


def _named_tensor(content: memoryview, beside: Beside) -> tuple[str, Tensor]:
    found = fields(content)
    name, shape, code = text(found, 8), integers(found, 1), first(found, 2)
    if code not in _TYPES and code != _BFLOAT16:
        raise ModelFileError(
            f"The numbers of {shown(name)} are of a type that cannot be used here (code {code}); "
            "export the network with ordinary numbers (float32), not quantised."
        )
    if len(shape) > MAX_DIMS or min(shape, default=0) < 0:
        raise ModelFileError(f"The shape of {shown(name)} makes no sense; the file is damaged.")
    is_beside = first(found, 14) or 13 in found
    values = _from_file(found, code, name, beside) if is_beside else _numbers(found, code)
    if math.prod(shape) != values.numel():
        raise ModelFileError(
            f"{shown(name)} should have {math.prod(shape)} numbers but has {values.numel()} "
            f"({size_text(values.nbytes)}); the file is damaged."
        )
    return name, values.reshape(shape)


def _from_file(found: Fields, code: int, name: str, beside: Beside) -> Tensor:
    """All numbers of a tensor that are in a file beside the model, and in no other place."""
    entries = [fields(one) for one in messages(found, 13)]
    told = {text(one, 1): text(one, 2) for one in entries}
    source = beside(told.get("location", ""))
    start, length = (_whole(told.get(key, "0"), name) for key in ("offset", "length"))
    length = length or source.size - start
    if start + length > source.size:
        raise ModelFileError(
            f"The numbers of {shown(name)} should be in {shown(source.name)}, which is too short. "
            "Copy both files again."
        )
    with source.open() as file:
        file.seek(start)
        return _from_bytes(file.read(length), code)


def _whole(value: str, name: str) -> int:
    if not value.isdecimal() or len(value) > 15:
        raise ModelFileError(f"The place of {shown(name)} makes no sense; the file is damaged.")
    return int(value)


def _numbers(found: Fields, code: int) -> Tensor:
    """All numbers of a tensor in a row, float16 and the like as float32."""
    raw = messages(found, 9)
    if raw:
        return _from_bytes(bytes(raw[-1]), code)
    if code == 1:
        return _from_bytes(floats(found, 4), code)
    if code == 11:
        return _from_bytes(doubles(found, 10), code)
    whole = integers(found, 7 if code == 7 else 5)
    if code in (10, _BFLOAT16):  # the bits of each as a number
        bits = np.array([one & 0xFFFF for one in whole], "<u2")
        return _from_bytes(bits.tobytes(), code)
    return torch.tensor(whole, dtype=torch.bool if code == 9 else torch.int64)


def _from_bytes(content: bytes, code: int) -> Tensor:
    size = 2 if code == _BFLOAT16 else np.dtype(_TYPES[code]).itemsize
    if len(content) % size:
        raise ModelFileError(
            "The numbers of a tensor end in the middle of one; the file is damaged."
        )
    if code == _BFLOAT16:
        wide = np.frombuffer(content, "<u2").astype("<u4") << 16
        return torch.from_numpy(wide.view("<f4").copy())
    kind = np.dtype(_TYPES[code]).newbyteorder("<")
    values = np.frombuffer(content, kind)
    wanted = np.float32 if kind.kind == "f" else np.bool_ if kind.kind == "b" else np.int64
    return torch.from_numpy(values.astype(wanted))
