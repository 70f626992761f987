"""Where the weights of each layer are: Caffe's binary `.caffemodel`, and `.caffemodel.h5`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from napari_unet.core.checkpoints.containers.source import Source
from napari_unet.core.checkpoints.graphs import wire as pb
from napari_unet.core.checkpoints.graphs.hdf5 import Hdf5
from napari_unet.core.checkpoints.graphs.reading import AnySource, source_of
from napari_unet.core.errors import ModelFileError

__all__ = ["Blobs", "binary_blobs", "hdf5_blobs"]

Blobs = Mapping[str, Sequence[tuple[Tensor, str]]]
"""Layer to its weights, each with what it is called in the file."""

MOST_AXES = 6
LARGEST = 1 << 33


def hdf5_blobs(file: Hdf5) -> Blobs:
    """`/data/<layer>/0` (weights), `1` (biases) ...

    Raises
    ------
    ModelFileError
        If the file holds none.
    """
    found: dict[str, list[tuple[Tensor, str]]] = {}
    for layer in file.children("data"):
        group = f"data/{layer}"
        names = sorted(name for name in file.children(group) if name.isdecimal())
        places = [f"{group}/{name}" for name in names]
        if places:
            found[layer] = [(file.tensor(place), place) for place in places]
    if not found:
        raise ModelFileError(
            f"{file.name} holds no weights of Caffe. (A file named .solverstate.h5 is the state of "
            f"a training; the weights are in the file named .caffemodel.h5.)"
        )
    return found


def binary_blobs(given: AnySource) -> Blobs:
    """All layers with weights of a binary `.caffemodel`, in old and new notation.

    Raises
    ------
    ModelFileError
        If it is damaged, or is none.
    """
    source = source_of(given)
    name = source.name
    network = pb.fields(_bytes(source))
    found: dict[str, list[tuple[Tensor, str]]] = {}
    for number, name_field, blob_field in ((100, 1, 7), (2, 4, 6)):  # the second is of 2013
        for message in pb.messages(network, number):
            layer = pb.fields(message)
            title = pb.text(layer, name_field)
            blobs = pb.messages(layer, blob_field)
            if blobs:
                found[title] = [
                    (_blob(blob, title), f"{title}[{at}]") for at, blob in enumerate(blobs)
                ]
    if not found:
        raise ModelFileError(
            f"{name} is not a Caffe model with weights: no layer in it has any. Ask for the file "
            f"named .caffemodel."
        )
    return found


def _bytes(source: Source) -> bytes:
    if source.size > LARGEST:
        raise ModelFileError(f"{source.name} is too large for a Caffe model: refused.")
    return source.head(LARGEST)


def _blob(message: memoryview, layer: str) -> Tensor:
    """Numbers with their shape, in the order of C."""
    blob = pb.fields(message)
    shape = [
        size for part in pb.messages(blob, 7) for size in pb.integers(pb.fields(part), 1)
    ]  # of newer files; older ones have four numbers instead
    if not shape and any(axis in blob for axis in (1, 2, 3, 4)):
        shape = [pb.first(blob, axis, 1) for axis in (1, 2, 3, 4)]
    single, double = pb.floats(blob, 5), pb.doubles(blob, 8)
    values = np.frombuffer(double, "<f8") if double else np.frombuffer(single, "<f4")
    if not 0 <= len(shape) <= MOST_AXES or min(shape, default=1) < 0:
        raise ModelFileError(f"The weights of layer {layer!r} have no sensible shape: refused.")
    if math.prod(shape) != values.size:
        raise ModelFileError(
            f"Layer {layer!r} says it has {math.prod(shape)} weights, but the file holds "
            f"{values.size}; it is damaged."
        )
    return torch.from_numpy(values.astype(np.float32).reshape(shape))
