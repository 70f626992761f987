"""The rows of an image that are held while objects are found: of each band only the pixels that
are not background, since a volume has tens of planes that wait for the parts in them to end."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Pixels", "Rows", "View", "Window"]

Ids: TypeAlias = npt.NDArray[np.int32]
Places: TypeAlias = npt.NDArray[np.intp]
Window: TypeAlias = tuple[slice, ...]

RELEASED_PIXELS = 2**22
"""Labels are given out in windows of about this many px."""
ALIGNED = 64
"""Parts of rows begin at multiples of this, where chunks of a store may begin, too."""

_NOWHERE = np.zeros(0, np.int32)


@dataclass(slots=True)
class Pixels:
    """Some pixels of an array `([z,] y, x)`, in raster order; all others are 0.

    Attributes
    ----------
    shape : of the array.
    places : `(pixel,)`, where they are in the raveled array, ascending.
    values : arrays `(pixel,)` by name: "rises" is evidence, and "marks" the slot of a part until it
        has a label, and then the label, below 0.
    """

    shape: tuple[int, ...]
    places: npt.NDArray[np.signedinteger]
    values: dict[str, npt.NDArray[Any]]

    @classmethod
    def of(cls, slots: Ids, rises: npt.NDArray[np.uint8] | None) -> Pixels:
        """The foreground of rows: slots of its parts, and evidence if there is any."""
        places = np.flatnonzero(slots)
        values: dict[str, npt.NDArray[Any]] = {"marks": slots.ravel()[places]}
        if rises is not None:
            values["rises"] = rises.ravel()[places]
        return cls(slots.shape, places.astype(_place_type(slots.shape)), values)

    @classmethod
    def joined(cls, pieces: Sequence[Pixels]) -> Pixels:
        """Rows that follow one another as one array."""
        if len(pieces) == 1:
            return pieces[0]
        shape = (sum(piece.shape[0] for piece in pieces), *pieces[0].shape[1:])
        places, row = [], 0
        for piece in pieces:
            places.append(piece.places.astype(_place_type(shape)))
            places[-1] += row * math.prod(shape[1:])
            row += piece.shape[0]
        values = {
            name: np.concatenate([piece.values[name] for piece in pieces])
            for name in pieces[0].values
        }
        return cls(shape, np.concatenate(places), values)

    def inside(self, window: Window) -> tuple[Places, Places]:
        """Which of the pixels lie in a window, and where in the raveled window."""
        if not self.places.size:
            return np.zeros(0, np.intp), np.zeros(0, np.intp)
        lines = np.zeros(1, np.intp)
        for part, length in zip(window[:-1], self.shape[:-1], strict=True):
            lines = (lines[:, None] * length + np.arange(part.start, part.stop)).ravel()
        begins = lines * self.shape[-1] + window[-1].start
        width = window[-1].stop - window[-1].start
        # NOTE: of one type, else numpy copies all places to compare them.
        first, beyond = (
            np.searchsorted(self.places, edges.astype(self.places.dtype))
            for edges in (begins, begins + width)
        )
        counts = beyond - first
        before = np.cumsum(counts) - counts
        chosen = np.arange(counts.sum())
        chosen += np.repeat(first - before, counts)
        where = np.repeat(np.arange(lines.size) * width - begins, counts)
        where += self.places[chosen]
        return chosen, where

    def below(self, n_rows: int) -> Pixels:
        """What is left without the first rows, in memory of its own."""
        gone = self.places.dtype.type(n_rows * math.prod(self.shape[1:]))
        at = int(np.searchsorted(self.places, gone))
        values = {name: values[at:].copy() for name, values in self.values.items()}
        return Pixels((self.shape[0] - n_rows, *self.shape[1:]), self.places[at:] - gone, values)

    def insert(self, places: npt.NDArray[np.integer], labels: Ids) -> None:
        """Add pixels, in their order, that are not there yet; they have nothing but labels."""
        at = np.searchsorted(self.places, places.astype(self.places.dtype))
        self.places = np.insert(self.places, at, places)
        self.values["marks"] = np.insert(self.values["marks"], at, -labels)

    @property
    def n_bytes(self) -> int:
        """Memory that they take."""
        return self.places.nbytes + sum(values.nbytes for values in self.values.values())


def _place_type(shape: tuple[int, ...]) -> type[np.signedinteger]:
    """The smaller of two types, if it can count all pixels of an array."""
    return np.int32 if math.prod(shape) <= np.iinfo(np.int32).max else np.int64


@dataclass(slots=True)
class _Band:
    """Rows that are held.

    Attributes
    ----------
    start : the first of them.
    foreground : parts, and objects as far as they are known.
    holes : pixels without a label that were filled; these labels go before those of the foreground.
    """

    start: int
    foreground: Pixels
    holes: Pixels

    @property
    def stop(self) -> int:
        return self.start + self.foreground.shape[0]

    def below(self, row: int) -> _Band:
        """What is left from a row of the image on."""
        n_rows = row - self.start
        return _Band(row, self.foreground.below(n_rows), self.holes.below(n_rows))


@dataclass(frozen=True, slots=True)
class View:
    """The foreground in a window of the rows that are held.

    Attributes
    ----------
    shape : of the window.
    found : of each band the pixels, the rows of the window that lie in it, which of the pixels
        are seen, and where in these rows, raveled.
    """

    shape: tuple[int, ...]
    found: list[tuple[Pixels, slice, Places, Places]]

    def ranks(self, rank_of: Ids, group_of: Ids, group: int) -> Ids:
        """`rank_of[slot]` of each pixel of the foreground, 0 for all others and for ranks that
        are not in a group."""
        seen = np.zeros(self.shape, np.int32)
        for pixels, rows, chosen, where in self.found:
            ranks = rank_of[np.maximum(pixels.values["marks"][chosen], 0)]
            ranks[group_of[ranks] != group] = 0
            seen[rows].ravel()[where] = ranks
        return seen

    def rises(self) -> npt.NDArray[np.uint8] | None:
        """Evidence of each pixel of the foreground, 0 for all others; None if there is none."""
        seen = np.zeros(self.shape, np.uint8)
        for pixels, rows, chosen, where in self.found:
            if "rises" not in pixels.values:
                return None
            seen[rows].ravel()[where] = pixels.values["rises"][chosen]
        return seen

    def write(self, objects: Ids, after: int) -> None:
        """Label objects: `i` becomes `after + i`. Nothing changes where there is none."""
        for pixels, rows, chosen, where in self.found:
            found = objects[rows].ravel()[where]
            is_object = found > 0
            pixels.values["marks"][chosen[is_object]] = -(found[is_object] + np.int32(after))


class Rows:
    """The bands that are held, read and written through windows of the image.

    Attributes
    ----------
    start : the first row that was not released.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.start = 0
        self.bands: list[_Band] = []

    @property
    def n_bytes(self) -> int:
        """Memory that all pixels take that are held."""
        return sum(band.foreground.n_bytes + band.holes.n_bytes for band in self.bands)

    def add(self, start: int, pixels: Pixels) -> None:
        """Hold rows that begin where the last ones end."""
        nowhere = _NOWHERE.astype(pixels.places.dtype)
        holes = Pixels(pixels.shape, nowhere, {"marks": _NOWHERE})
        self.bands.append(_Band(start, pixels, holes))

    def view(self, window: Window) -> View:
        """The foreground in a window, until rows are added or released."""
        found = [
            (band.foreground, rows, *band.foreground.inside(inner))
            for band, inner, rows in self._within(window)
        ]
        return View(tuple(part.stop - part.start for part in window), found)

    def labels(self, window: Window) -> Ids:
        """The labels in a window as far as they are known, else 0."""
        labels = np.zeros([part.stop - part.start for part in window], np.int32)
        for band, inner, rows in self._within(window):
            # The filled ones last: among them are pixels of objects that were too small.
            for pixels in (band.foreground, band.holes):
                chosen, where = pixels.inside(inner)
                labels[rows].ravel()[where] = -np.minimum(pixels.values["marks"][chosen], 0)
        return labels

    def fill(self, window: Window, places: npt.NDArray[np.integer], labels: Ids) -> None:
        """Set labels at places of the raveled window, in their order, that have none so far."""
        if not places.size:
            return
        where = np.unravel_index(places, [part.stop - part.start for part in window])
        for band, inner, rows in self._within(window):
            low, high = np.searchsorted(where[0], (rows.start, rows.stop))
            moves = (inner[0].start - rows.start, *(part.start for part in inner[1:]))
            there = [at[low:high] + move for at, move in zip(where, moves, strict=True)]
            at = np.ravel_multi_index(there, band.foreground.shape)
            band.holes.insert(at, labels[low:high])

    def number(self, numbers: Ids, first: int, row: int) -> None:
        """Replace labels above `first` in rows from `row` on: `first + i` by `numbers[i]`, none if
        that is 0."""
        for band in self.bands[self._at(row) :]:
            marks = band.foreground.values["marks"]
            where = np.flatnonzero(marks < -first)
            marks[where] = -numbers[-marks[where] - first]

    def release(self, row: int) -> Iterator[tuple[Window, Ids]]:
        """Give out the labels of all rows before `row`, in windows of all of these rows, and let
        them go."""
        if row <= self.start:
            return
        rows = slice(self.start, row)
        for part in _parts_of((row - self.start, *self.shape[1:])):
            window = (rows, part, *(slice(0, length) for length in self.shape[2:]))
            yield window, self.labels(window)
        self.start = row
        self.bands = [band for band in self.bands if band.stop > row]
        if self.bands and self.bands[0].start < row:
            self.bands[0] = self.bands[0].below(row)

    def _at(self, row: int) -> int:
        """Which band a row is in."""
        return bisect.bisect_right(self.bands, row, key=lambda band: band.start) - 1

    def _within(self, window: Window) -> Iterator[tuple[_Band, Window, slice]]:
        """Each band that a window meets, where in the band, and in which rows of the window."""
        for band in self.bands[self._at(window[0].start) :]:
            start = max(window[0].start, band.start)
            stop = min(window[0].stop, band.stop)
            if stop <= start:
                return
            inner = (slice(start - band.start, stop - band.start), *window[1:])
            yield band, inner, slice(start - window[0].start, stop - window[0].start)


def _parts_of(shape: tuple[int, ...]) -> Iterator[slice]:
    """Parts of the second axis, so that windows of all rows are no larger than is handy."""
    length = max(1, RELEASED_PIXELS // max(1, math.prod(shape) // max(1, shape[1])))
    length -= length % ALIGNED if length > ALIGNED else 0
    for start in range(0, max(1, shape[1]), length):
        yield slice(start, min(start + length, shape[1]))
