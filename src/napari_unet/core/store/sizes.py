"""How big things are in a store: levels, chunks, types, bytes."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_unet.core.errors import SettingsError

__all__ = [
    "DEFAULT_CHUNK",
    "checked_dtype",
    "label_dtype",
    "level_chunk",
    "level_shapes",
    "needed_bytes",
]

DEFAULT_CHUNK = {2: (256, 1024), 3: (16, 64, 256)}
"""`(y, x)` or `(z, y, x)` in px, by the number of dimensions of the network.

Low, since finished rows are gathered in memory until they fill a row of chunks.
"""

COARSEST_SIZE = 1024
"""There are levels until a plane is no larger than this, in px."""

LABEL_DTYPES = ("uint8", "uint16", "uint32")


def label_dtype(
    what: Literal["objects", "classes"], n_classes: int, *, few_objects: bool = False
) -> np.dtype[Any]:
    """The smallest unsigned type that holds all labels.

    Parameters
    ----------
    what, n_classes : classes count from 0 to `n_classes` - 1.
    few_objects : objects are no more than 65,535, and get the type that napari draws fastest.
    """
    if what == "objects":
        return np.dtype(np.uint16 if few_objects else np.uint32)
    return np.min_scalar_type(max(0, n_classes - 1))


def checked_dtype(labels_dtype: npt.DTypeLike) -> np.dtype[Any]:
    """The type of labels; raises `SettingsError` unless it is one that napari and others take."""
    dtype = np.dtype(labels_dtype)
    if dtype.name not in LABEL_DTYPES:
        raise SettingsError(f"labels_dtype must be one of {LABEL_DTYPES}, not {dtype.name}.")
    return dtype


def level_shapes(label_shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes of the labels and of their coarser levels: y and x are halved, rounded up."""
    shapes = [label_shape]
    while max(shapes[-1][-2:]) > COARSEST_SIZE:
        *others, height, width = shapes[-1]
        shapes.append((*others, -(-height // 2), -(-width // 2)))
    return shapes


def level_chunk(shape: tuple[int, ...], chunk: tuple[int, ...], level: int) -> tuple[int, ...]:
    """Size of a chunk along each axis of a level, in px.

    The chunks of planes get lower from level to level, so that a row of chunks is one on every
    level and can be written without reading what is there. Volumes are written slab by slab
    along z, which is the same on all levels.
    """
    if len(chunk) == 2:
        chunk = (max(1, chunk[0] >> level), chunk[1])
    whole = (1,) * (len(shape) - len(chunk)) + chunk
    return tuple(min(part, size) for part, size in zip(whole, shape, strict=True))


def needed_bytes(
    label_shape: tuple[int, ...],
    n_outputs: int,
    labels_dtype: npt.DTypeLike,
    *,
    keep_outputs: bool = True,
) -> int:
    """Room on the disk that a store needs at most, in bytes, as if nothing could be compressed.

    Labels often take a tenth of it or less, the probabilities of a network a half.
    """
    labels = sum(math.prod(shape) for shape in level_shapes(label_shape))
    outputs = n_outputs * math.prod(label_shape) if keep_outputs else 0
    return labels * np.dtype(labels_dtype).itemsize + outputs * np.dtype(np.float16).itemsize
