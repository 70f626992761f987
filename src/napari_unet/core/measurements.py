"""Size, place and brightness of each object, added up band by band: never a whole big image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_unet.core.errors import ImageError
from napari_unet.core.image import Image, Window
from napari_unet.core.progress import Progress, Work, finish

__all__ = ["Measurements", "measure", "measuring"]

BAND_SIZE = 2**20
"""About this many px are read and added up at once."""

PENDING = 2**18
"""Sums of parts are added up once there are more of them than this, and than objects."""

WIDEST_RANGE = 4
"""Labels that spread over more numbers than so many times their px are sorted, not counted."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measurements:
    """The objects of one plane or volume, ordered by their labels.

    Attributes
    ----------
    labels : `(n,)` int64, the number of each object.
    sizes : `(n,)` int64, in px.
    classes : `(n,)` int64, the class of most of its px; 0 if not known.
    centroids : `(n, d)` float64, mean position along ([z,] y, x), in px from the centre of
        the first one.
    lowest, highest : `(n, d)` int64, the first and the last px along each axis.
    sums, minima, maxima : `(n, c)` float64, of the raw values of each channel.
    """

    labels: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]
    centroids: npt.NDArray[np.float64]
    lowest: npt.NDArray[np.int64]
    highest: npt.NDArray[np.int64]
    sums: npt.NDArray[np.float64]
    minima: npt.NDArray[np.float64]
    maxima: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def means(self) -> npt.NDArray[np.float64]:
        """`(n, c)`, the mean raw value of each channel."""
        return np.asarray(self.sums / self.sizes[:, np.newaxis])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Parts:
    """Sums over parts of objects; several rows may belong to one object."""

    labels: npt.NDArray[np.int64]  # (n,)
    sizes: npt.NDArray[np.int64]  # (n,)
    votes: npt.NDArray[np.int64]  # (n, class): px of each class
    moments: npt.NDArray[np.float64]  # (n, d): sums of positions
    lowest: npt.NDArray[np.int64]  # (n, d)
    highest: npt.NDArray[np.int64]  # (n, d)
    sums: npt.NDArray[np.float64]  # (n, c)
    minima: npt.NDArray[np.float64]  # (n, c)
    maxima: npt.NDArray[np.float64]  # (n, c)


def measuring(
    labels: Any,
    image: Image,
    index: tuple[int, ...] = (),
    *,
    classes: Any = None,
    n_classes: int = 1,
) -> Work[Progress, Measurements]:
    """Measure the objects of one plane or volume, as work that goes band by band.

    Parameters
    ----------
    labels : whole numbers `(..., [z,] y, x)`, 0 for background; with the label axes of the
        image. Numpy, zarr or any other array that can be sliced.
    image : its channels are measured.
    index : position along the label axes before ([z,] y, x): which plane or volume.
    classes : the class of each px, of the same shape, if it is known.
    n_classes : classes are numbers below this.

    Raises
    ------
    ImageError
        If labels and image differ in shape.
    """
    _check_shapes(labels, image)
    shape = image.label_shape[len(index) :]
    bands = list(_bands(shape))
    pending: list[_Parts] = []
    n_kept = 0
    for done, window in enumerate(bands, start=1):
        found = np.asarray(labels[(*index, *window)])
        if found.any():
            named = None if classes is None else np.asarray(classes[(*index, *window)])
            values = image.read(index, window)
            pending.append(_parts_of(found, values, named, n_classes, window))
        if sum(len(parts.labels) for parts in pending) > max(PENDING, 2 * n_kept):
            pending = [_joined(pending)]
            n_kept = len(pending[0].labels)
        yield Progress(done=done, total=len(bands), message="Measuring")
    if not pending:
        return _measurements(_no_parts(len(shape), image.n_channels, n_classes))
    return _measurements(_joined(pending))


def measure(labels: Any, image: Image, index: tuple[int, ...] = ()) -> Measurements:
    """Run `measuring` to its end."""
    return finish(measuring(labels, image, index))


def _check_shapes(labels: Any, image: Image) -> None:
    if tuple(labels.shape) != image.label_shape:
        raise ImageError(
            f"The labels have the shape {tuple(labels.shape)}, but {image.name!r} is "
            f"{image.label_shape} without its channels. Give the labels of this image."
        )


def _bands(shape: tuple[int, ...]) -> Iterator[Window]:
    """Windows of whole rows, each in one plane, that cover `([z,] y, x)`."""
    n_rows, width = shape[-2:]
    height = max(1, BAND_SIZE // width)
    for plane in np.ndindex(*shape[:-2]):
        before = tuple(slice(at, at + 1) for at in plane)
        for start in range(0, n_rows, height):
            yield (*before, slice(start, min(start + height, n_rows)), slice(0, width))


def _parts_of(
    found: npt.NDArray[np.integer],
    values: npt.NDArray[Any],
    named: npt.NDArray[np.integer] | None,
    n_classes: int,
    window: Window,
) -> _Parts:
    """The sums over one band: labels `([z,] y, x)`, values `(c, [z,] y, x)`."""
    inside = np.nonzero(found)
    numbers, rows = _ranked(found[inside])
    n = len(numbers)
    places = np.stack(
        [at + part.start for at, part in zip(inside, window, strict=True)], axis=1
    )  # (px, d)
    where: tuple[Any, ...] = (slice(None), *inside)
    measured = values[where].T.astype(np.float64)  # (px, c)
    votes = np.zeros((n, n_classes), np.int64)
    if named is not None:
        voted = rows * n_classes + named[inside]
        votes = np.bincount(voted, minlength=n * n_classes).reshape(n, n_classes)
    return _Parts(
        labels=numbers,
        sizes=np.bincount(rows, minlength=n),
        votes=votes,
        moments=_added(rows, places, n),
        lowest=_extreme(np.minimum, rows, places, n),
        highest=_extreme(np.maximum, rows, places, n),
        sums=_added(rows, measured, n),
        minima=_extreme(np.minimum, rows, measured, n),
        maxima=_extreme(np.maximum, rows, measured, n),
    )


def _ranked(
    found: npt.NDArray[np.integer],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
    """The different numbers in `(px,)`, rising, and which of them each one is."""
    first, last = int(found.min()), int(found.max())
    if last - first > WIDEST_RANGE * found.size:
        numbers, rows = np.unique(found, return_inverse=True)
        return numbers.astype(np.int64), rows.astype(np.intp)
    steps = found.astype(np.int64) - first
    is_there = np.bincount(steps) > 0
    ranks = np.cumsum(is_there) - 1
    return np.flatnonzero(is_there).astype(np.int64) + first, ranks[steps]


def _added(rows: npt.NDArray[np.intp], values: npt.NDArray[Any], n: int) -> npt.NDArray[Any]:
    """Sums `(n, k)` of `(m, k)` by row."""
    columns = [np.bincount(rows, weights=column, minlength=n) for column in values.T]
    return np.stack(columns, axis=1) if columns else np.zeros((n, 0))


def _extreme(
    least: np.ufunc, rows: npt.NDArray[np.intp], values: npt.NDArray[Any], n: int
) -> npt.NDArray[Any]:
    """The least (or greatest) of `(m, k)` by row, `(n, k)`."""
    found = np.empty((n, values.shape[1]), values.dtype)
    found[rows] = values  # any one of each to begin with
    for at in range(values.shape[1]):
        column = np.ascontiguousarray(found[:, at])
        least.at(column, rows, np.ascontiguousarray(values[:, at]))
        found[:, at] = column
    return found


def _joined(parts: Sequence[_Parts]) -> _Parts:
    """One row for each object."""
    every = {
        part.name: np.concatenate([getattr(one, part.name) for one in parts])
        for part in fields(_Parts)
    }
    numbers, rows = _ranked(every["labels"])
    n = len(numbers)
    whole = {name: _added(rows, every[name], n) for name in ("moments", "sums", "votes")}
    lowest = {name: _extreme(np.minimum, rows, every[name], n) for name in ("lowest", "minima")}
    highest = {name: _extreme(np.maximum, rows, every[name], n) for name in ("highest", "maxima")}
    sizes = _added(rows, every["sizes"][:, np.newaxis], n)[:, 0].astype(np.int64)
    whole["votes"] = whole["votes"].astype(np.int64)
    return _Parts(labels=numbers, sizes=sizes, **whole, **lowest, **highest)


def _no_parts(dims: int, n_channels: int, n_classes: int) -> _Parts:
    def none(*shape: int) -> npt.NDArray[Any]:
        return np.zeros((0, *shape), np.int64)

    return _Parts(
        labels=none(), sizes=none(), votes=none(n_classes), moments=none(dims),
        lowest=none(dims), highest=none(dims), sums=none(n_channels), minima=none(n_channels),
        maxima=none(n_channels),
    )  # fmt: skip


def _measurements(parts: _Parts) -> Measurements:
    votes = parts.votes.copy()
    votes[:, :1] = 0  # px that belong to an object but to no class: filled holes
    return Measurements(
        labels=parts.labels,
        sizes=parts.sizes,
        classes=votes.argmax(axis=1),
        centroids=parts.moments / parts.sizes[:, np.newaxis],
        lowest=parts.lowest,
        highest=parts.highest,
        sums=parts.sums,
        minima=parts.minima,
        maxima=parts.maxima,
    )
