"""Numbers of objects that stay the same while a model learns, and planes kept in tiles.

An image may be far too big to keep anything of its size; what is seen of it is kept in tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_unet.core.regions import Region

__all__ = ["Numbers", "Tiles"]

TILE_SIZE = 512
MOST_KEPT = 2**26
"""So many px are kept; what was used longest ago goes first."""
MOST_COUNTED = 2**27
"""In larger results new objects get numbers above all others, and none is used again."""

Index = tuple[int, ...]
Labels = npt.NDArray[np.integer]
Window = tuple[slice, slice]


class Tiles:
    """Values of the px of planes, kept in tiles; those used longest ago are forgotten.

    Parameters
    ----------
    shape : `(y, x)` of a plane, in px.
    dtype : of the values.
    first : gives the values `(y, x)` of a tile that is not kept; None for zeros.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        first: Callable[[Index, Window], Any] | None = None,
    ) -> None:
        self.shape = shape
        self._dtype, self._first = np.dtype(dtype), first
        self._tiles: dict[tuple[Index, int, int], npt.NDArray[Any]] = {}

    def read(self, index: Index, window: Window) -> npt.NDArray[Any]:
        """A copy of the values `(y, x)` in a window."""
        found = np.empty([part.stop - part.start for part in window], self._dtype)
        for tile, inside, outside in self._parts(index, window):
            found[outside] = tile[inside]
        return found

    def write(self, index: Index, window: Window, values: npt.NDArray[Any]) -> None:
        """Replace the values in a window."""
        for tile, inside, outside in self._parts(index, window):
            tile[inside] = values[outside]

    def hulls(self) -> dict[Index, Window]:
        """For each plane of which there are tiles, the window around them."""
        places: dict[Index, list[tuple[int, int]]] = {}
        for index, row, column in self._tiles:
            places.setdefault(index, []).append((row, column))
        return {index: self._hull(np.array(found)) for index, found in places.items()}

    def _hull(self, places: npt.NDArray[Any]) -> Window:
        low, high = places.min(axis=0) * TILE_SIZE, (places.max(axis=0) + 1) * TILE_SIZE
        rows, columns = (
            slice(int(a), min(int(b), n)) for a, b, n in zip(low, high, self.shape, strict=True)
        )
        return rows, columns

    def _parts(
        self, index: Index, window: Window
    ) -> Iterator[tuple[npt.NDArray[Any], Window, Window]]:
        """Tiles that a window touches, where in them it lies, and they in it."""
        rows, columns = window
        for row in range(rows.start // TILE_SIZE, -(-rows.stop // TILE_SIZE)):
            for column in range(columns.start // TILE_SIZE, -(-columns.stop // TILE_SIZE)):
                sides = [_common(part, at) for part, at in ((rows, row), (columns, column))]
                (inside_y, outside_y), (inside_x, outside_x) = sides
                yield self._tile(index, row, column), (inside_y, inside_x), (outside_y, outside_x)

    def _tile(self, index: Index, row: int, column: int) -> npt.NDArray[Any]:
        key = (index, row, column)
        tile = self._tiles.pop(key, None)
        if tile is None:
            window = self._hull(np.array([(row, column)]))
            shape = [part.stop - part.start for part in window]
            given = np.zeros(shape) if self._first is None else self._first(index, window)
            tile = np.array(given, self._dtype)
        self._tiles[key] = tile  # the newest comes last
        while len(self._tiles) > MOST_KEPT // TILE_SIZE**2:
            del self._tiles[next(iter(self._tiles))]
        return tile


def _common(part: slice, at: int) -> tuple[slice, slice]:
    """Where a part of an axis and a tile overlap: seen from the tile, and from the part."""
    first = at * TILE_SIZE
    start, stop = max(part.start, first), min(part.stop, first + TILE_SIZE)
    return slice(start - first, stop - first), slice(start - part.start, stop - part.start)


class Numbers:
    """Numbers of objects that stay the same while their outlines change.

    An object that goes on across the edge of the window keeps the number that it has there, if half
    of its px at the edge touch that one. Any other one that is found again is the one that it
    overlaps most; a new one may touch a known one across the edge by less. Numbers that are free
    again are used again, so that they stay small: layers of 16 bits are drawn much faster than
    those of 32.

    Parameters
    ----------
    labels : gives the objects as they are numbered now, in the label axes; they are only read.
    """

    def __init__(self, labels: Callable[[], Labels]) -> None:
        now = labels()
        self._known = Tiles(now.shape[-2:], np.int32, lambda index, window: labels()[index][window])
        self._counts = np.zeros(1, np.int64)
        if math.prod(now.shape) > MOST_COUNTED:
            highest = max(int(now[index].max(initial=0)) for index in np.ndindex(now.shape[:-1]))
            self._counts = np.ones(highest + 1, np.int64)
            return
        for index in np.ndindex(*now.shape[:-2]):
            self._count(np.asarray(now[index]), 1)

    def renumbered(self, region: Region, found: Labels) -> Labels:
        """Objects `(y, x)`, from 1 without gaps, found in a region, by lasting numbers."""
        rows, columns = region.window
        around, inner = _with_border((rows, columns), self._known.shape)
        plane = self._known.read(region.index, around)
        old = plane[inner]
        numbers = np.zeros(int(found.max(initial=0)) + 1, np.int32)
        contacts = _contacts(found, plane, *inner)
        _match(numbers, *_pairs(*contacts, least=0.5))
        _match(numbers, *_overlaps(found, old))
        _match(numbers, *_pairs(*contacts))
        self._count(old, -1)
        missing = np.flatnonzero(numbers[1:] == 0) + 1
        numbers[missing] = self._free(missing.size, numbers)
        lasting = numbers[found]
        self._count(lasting, 1)
        self._known.write(region.index, (rows, columns), lasting)
        return lasting.astype(np.min_scalar_type(max(int(numbers.max(initial=0)), 256)))

    def _count(self, labels: Labels, by: int) -> None:
        each = np.bincount(labels.ravel())
        if each.size > self._counts.size:
            self._counts = np.pad(self._counts, (0, each.size - self._counts.size))
        self._counts[: each.size] += by * each

    def _free(self, n: int, taken: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
        """The `n` smallest numbers that no object has."""
        size = max(self._counts.size, int(taken.max(initial=0)) + 1)
        is_free = np.ones(size + n, bool)
        is_free[: self._counts.size] = self._counts <= 0
        is_free[taken] = False
        is_free[0] = False
        return np.flatnonzero(is_free)[:n]


def _with_border(window: Window, shape: tuple[int, ...]) -> tuple[Window, Window]:
    """A window with a px more on each side, inside the plane; and the window seen from there."""
    rows, columns = (
        slice(max(0, part.start - 1), min(n, part.stop + 1))
        for part, n in zip(window, shape, strict=True)
    )
    inner_rows, inner_columns = (
        slice(part.start - outer.start, part.stop - outer.start)
        for part, outer in zip(window, (rows, columns), strict=True)
    )
    return (rows, columns), (inner_rows, inner_columns)


def _overlaps(found: Labels, old: Labels) -> tuple[Labels, Labels]:
    """Pairs of a found object and a known one, those that share most px first."""
    both = (found > 0) & (old > 0)
    return _pairs(found[both], old[both])


def _contacts(found: Labels, plane: Labels, rows: slice, columns: slice) -> tuple[Labels, Labels]:
    """What is found along the edge of the window, and what is known beyond it (0: nothing)."""
    inner: list[Labels] = [np.zeros(0, np.int64)]
    outer: list[Labels] = [np.zeros(0, np.int64)]
    height, width = plane.shape
    for is_there, edge, beyond in (
        (rows.start > 0, found[:1], (slice(rows.start - 1, rows.start), columns)),
        (rows.stop < height, found[-1:], (slice(rows.stop, rows.stop + 1), columns)),
        (columns.start > 0, found[:, :1], (rows, slice(columns.start - 1, columns.start))),
        (columns.stop < width, found[:, -1:], (rows, slice(columns.stop, columns.stop + 1))),
    ):
        if is_there:
            inner.append(edge[edge > 0])
            outer.append(plane[beyond][edge > 0])
    return np.concatenate(inner), np.concatenate(outer)


def _pairs(ours: Labels, theirs: Labels, least: float = 0.0) -> tuple[Labels, Labels]:
    """Pairs of objects, 0 in `theirs` for none, that share most px first.

    Parameters
    ----------
    least : the share of the px of ours that a pair must have.
    """
    if ours.size == 0:
        return ours, theirs
    factor = int(theirs.max()) + 1
    codes, n_shared = np.unique(ours.astype(np.int64) * factor + theirs, return_counts=True)
    enough = codes % factor > 0
    if least:
        enough &= n_shared >= least * np.bincount(ours)[codes // factor]
    codes, n_shared = codes[enough], n_shared[enough]
    codes = codes[np.argsort(-n_shared, kind="stable")]
    return codes // factor, codes % factor


def _match(numbers: npt.NDArray[np.int32], ours: Labels, theirs: Labels) -> None:
    """Give each object, in the order of the pairs, the number of its partner if that is free."""
    taken = set(numbers.tolist())
    for one, other in zip(ours.tolist(), theirs.tolist(), strict=True):
        if numbers[one] == 0 and other not in taken:
            numbers[one] = other
            taken.add(other)
