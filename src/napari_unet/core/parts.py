"""The connected parts of an image that is read band by band."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["BLOCK_PIXELS", "Parts", "blocks_of"]

Slots: TypeAlias = npt.NDArray[np.int32]

BLOCK_PIXELS = 2**18
"""What takes much memory for each pixel is done on blocks of about this many."""

FREE, OPEN, ENDED = 0, 1, 2
_FAR = np.iinfo(np.int64).max


def blocks_of(shape: tuple[int, ...], least: int = 1) -> Iterator[slice]:
    """Rows of the first axis, in blocks of about `BLOCK_PIXELS` and at least `least` rows."""
    n_rows = max(least, BLOCK_PIXELS // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], n_rows):
        yield slice(start, min(start + n_rows, shape[0]))


def _runs(
    ids: npt.NDArray[np.int32],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Runs of one id along the last axis of `([z,] y, x)`, but those of 0: where each begins in
    the raveled array, the place beyond its end, and its id. Ten times fewer than pixels."""
    flat = ids.ravel()
    begins = np.ones(flat.size + 1, bool)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:-1])
    begins[:: ids.shape[-1]] = True
    first = np.flatnonzero(begins)
    found = flat[first[:-1]]
    return first[:-1][found > 0], first[1:][found > 0], found[found > 0]


class Parts:
    """A table of parts: connected pixels of one class, across edges.

    A pixel carries the number of a slot, 0 for background. A part has one slot for each piece
    in which it was met; the one that is its own root knows its whole extent. Slots are given
    out again once the rows of their part are gone, so the table stays as small as what is held.

    Attributes
    ----------
    table : structured array `(slot,)`: `state`, `kind` (the class), `root`, and of each root
        `area` in px, `last` (place of its last pixel in the raveled image), `low` and `high`
        (the box around it, `high` is the first place beyond).
    """

    def __init__(self, n_axes: int) -> None:
        row = [("state", "u1"), ("kind", "u1"), ("root", "i4"), ("area", "i8"), ("last", "i8")]
        box = [("low", "i8", (n_axes,)), ("high", "i8", (n_axes,))]
        self.table: npt.NDArray[Any] = np.zeros(1, np.dtype([*row, *box]))
        self.table["state"], self.table["high"] = ENDED, _FAR

    def add(self, classes: npt.NDArray[np.uint8], start: int) -> Slots:
        """The slots `([z,] y, x)` of the next band, which begins with row `start`."""
        slots = np.zeros(classes.shape, np.int32)
        for kind in range(1, int(classes.max(initial=0)) + 1):
            ids, n_ids = ndi.label(classes == kind)
            taken = np.append(np.int32(0), self._take(n_ids, kind))
            self._measure(ids, taken, start)
            for block in blocks_of(classes.shape):
                slots[block] += taken[ids[block]]
        return slots

    def _take(self, n_slots: int, kind: int) -> Slots:
        """As many free slots, opened; the table grows if there are too few."""
        missing = n_slots - np.count_nonzero(self.table["state"] == FREE)
        if missing > 0:
            more = np.zeros(max(int(missing), self.table.size // 2), self.table.dtype)
            self.table = np.concatenate([self.table, more])
        taken = np.flatnonzero(self.table["state"] == FREE)[:n_slots].astype(np.int32)
        self.table["state"][taken], self.table["kind"][taken] = OPEN, kind
        self.table["root"][taken] = taken
        return taken

    def _measure(self, ids: npt.NDArray[np.int32], taken: Slots, start: int) -> None:
        """Note area, last pixel and box of each of `ids`, whose slots are `taken[id]`."""
        shape, n_ids = ids.shape, taken.size
        area, last = np.zeros((2, n_ids), np.int64)
        low, high = np.full((len(shape), n_ids), _FAR), np.zeros((len(shape), n_ids), np.int64)
        for block in blocks_of(shape):
            first, beyond, found = _runs(ids[block])
            area += np.bincount(found, beyond - first, minlength=n_ids).astype(np.int64)
            row = start + block.start
            last[found] = beyond - 1 + row * math.prod(shape[1:])
            starts = np.unravel_index(first, ids[block].shape)
            for axis, at in enumerate((starts[0] + row, *starts[1:])):
                length = beyond - first if axis == len(shape) - 1 else 1
                np.minimum.at(low[axis], found, at)
                np.maximum.at(high[axis], found, at + length)
        rows = taken[1:]
        self.table["area"][rows], self.table["last"][rows] = area[1:], last[1:]
        self.table["low"][rows], self.table["high"][rows] = low[:, 1:].T, high[:, 1:].T

    def join(self, above: Slots, below: Slots) -> None:
        """Make one part of any two whose pixels touch across two rows `([y,] x)`."""
        kind, root = self.table["kind"], self.table["root"]
        touch = (above > 0) & (below > 0) & (kind[above] == kind[below])
        first, second = root[above[touch]], root[below[touch]]
        nodes = np.union1d(first, second)
        ends = np.searchsorted(nodes, first), np.searchsorted(nodes, second)
        links = coo_array((np.ones(first.size, bool), ends), shape=(nodes.size, nodes.size))
        n_groups, group = connected_components(links, directed=False)
        heads = np.zeros(n_groups, np.int32)
        heads[group[::-1]] = nodes[::-1]
        self._unite(nodes, heads[group])

    def _unite(self, slots: Slots, heads: Slots) -> None:
        """Let each head, itself a slot, stand for its slots and know what they know."""
        slots, heads = slots[slots != heads], heads[slots != heads]
        table = self.table
        np.add.at(table["area"], heads, table["area"][slots])
        for name, update in (("last", np.maximum), ("high", np.maximum), ("low", np.minimum)):
            update.at(table[name], heads, table[name][slots])
        head_of = np.arange(table.size, dtype=np.int32)
        head_of[slots] = heads
        table["root"] = head_of[table["root"]]

    def end(self, last_row: Slots) -> Slots:
        """End the parts without a pixel in `last_row`; their roots, by their last pixel."""
        roots = self._open()
        going_on = np.zeros(self.table.size, bool)
        going_on[self.table["root"][last_row]] = True
        ended = roots[~going_on[roots]]
        self.table["state"][ended] = ENDED
        return np.asarray(ended[np.argsort(self.table["last"][ended])], np.int32)

    def _open(self) -> npt.NDArray[np.intp]:
        """The roots of the parts that may go on."""
        is_root = self.table["root"] == np.arange(self.table.size)
        return np.flatnonzero(is_root & (self.table["state"] == OPEN))

    def first_open_row(self, otherwise: int) -> int:
        """The row in which the first of the parts that may go on begins."""
        return int(self.table["low"][self._open(), 0].min(initial=otherwise))

    def ranks(self, ended: Slots) -> npt.NDArray[np.int32]:
        """Of each slot, the place of its part among the `ended` roots from 1 on, else 0."""
        rank = np.zeros(self.table.size, np.int32)
        rank[ended] = np.arange(1, ended.size + 1)
        return np.asarray(rank[self.table["root"]])

    def forget(self, row: int) -> None:
        """Free the slots of parts that ended before `row`."""
        state, root = self.table["state"], self.table["root"]
        gone = (state[root] == ENDED) & (self.table["high"][root, 0] <= row) & (state != FREE)
        self.table["state"][gone] = FREE
