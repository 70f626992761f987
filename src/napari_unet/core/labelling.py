"""Objects of an image of any size, band by band: the same as `objects_of` finds on the whole.

Rows (planes, in a volume) are read once, and kept until every part that began in them has
ended. A part that has ended is cut into objects, which are numbered and their holes filled: all
that lies in its holes has ended before. Parts are as in `core.instances`.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from napari_unet.core.instances import (
    Evidence,
    evidence_of,
    final_numbers,
    last_places,
    reach_of,
)
from napari_unet.core.parts import BLOCK_PIXELS, Band, Parts, Rows, Window, blocks_of
from napari_unet.core.settings import ObjectSettings
from napari_unet.core.splitting import cut, holes_of

__all__ = ["labelling"]

Ids: TypeAlias = npt.NDArray[np.int32]

WINDOW_COST = 20_000
"""What it costs to begin with another window, in px of a window."""

_NONE = np.zeros(1, np.intp)


def labelling(
    outputs: Any,
    output_class: tuple[int, ...],
    settings: ObjectSettings,
    inside: int | None = None,
    *,
    index: tuple[int, ...] = (),
    band_pixels: int = 2**22,
    first: int = 0,
) -> Generator[tuple[Window, Ids], None, int]:
    """Find objects band by band along the first spatial axis.

    Parameters
    ----------
    outputs : probabilities `(output, ..., [z,] y, x)`: numpy, a memory map or zarr. Read in
        windows of whole rows, each row once and in order.
    output_class, settings, inside : as in `objects_of`.
    index : where the plane or volume lies on the axes of `outputs` between the first one and
        the spatial ones.
    band_pixels : about how many px to read at a time; rows in which open parts lie come on top.
    first : objects are numbered from `first + 1`.

    Yields
    ------
    `(window, labels)` : slices of `([z,] y, x)` and their ids, int32. One after the other the
        windows fill the image; put together, the labels are those of `objects_of`.

    Returns
    -------
    int
        The last number given out; `first` if nothing was found.
    """
    source = _Source(outputs, index, output_class, settings, inside)
    shape = source.shape
    rows, parts, n_found = Rows(shape), Parts(len(shape)), first
    for start, evidence in source.bands(band_pixels):
        stop = start + len(evidence.classes)
        is_last = stop == shape[0]
        rows.add(Band(start, parts.add(evidence.classes, start), evidence.rises))
        parts.join(*rows.seam())
        ended = parts.end(np.zeros(0, np.int32) if is_last else rows.bands[-1].slots[-1])
        # NOTE: the objects of a part that is too small are so, too.
        large = ended[parts.table["area"][ended] >= settings.min_size]
        n_found = _find(rows, parts, large, settings, n_found)
        # One row before the first open part, since windows begin one px before their parts.
        done = stop if is_last else max(0, parts.first_open_row(stop) - 1)
        yield from rows.release(done)
        parts.forget(done)
    return n_found


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the evidence comes from; see `labelling`."""

    outputs: Any
    index: tuple[int, ...]
    output_class: tuple[int, ...]
    settings: ObjectSettings
    inside: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.outputs.shape[1 + len(self.index) :])

    def bands(self, band_pixels: int) -> Iterator[tuple[int, Evidence]]:
        """The first row and the evidence of one band after the other, none of them empty."""
        reach, n_rows = reach_of(self.settings, self.inside), self.shape[0]
        start, low = 0, 0  # the first row that is not done, and the first one in `held`
        held: npt.NDArray[np.floating] | None = None
        for rows in self._reads(band_pixels):
            read = np.asarray(self.outputs[(slice(None), *self.index, rows)])
            held = read if held is None else np.concatenate([held, read], axis=1)
            stop = n_rows if rows.stop == n_rows else rows.stop - reach
            if stop > start:
                yield start, self._evidence(held, slice(start - low, stop - low))
                start = stop
            kept = max(low, start - reach)
            held, low = held[:, kept - low :] if kept < rows.stop else None, kept

    def _reads(self, band_pixels: int) -> Iterator[slice]:
        """Rows to read, in whole chunks if the outputs have chunks that are small enough."""
        n_rows = max(1, band_pixels // max(1, math.prod(self.shape[1:])))
        chunks = getattr(self.outputs, "chunks", None)
        chunk = chunks[1 + len(self.index)] if chunks else 1
        n_rows -= n_rows % chunk if n_rows > chunk else 0
        for start in range(0, self.shape[0], n_rows):
            yield slice(start, min(start + n_rows, self.shape[0]))

    def _evidence(self, held: npt.NDArray[np.floating], rows: slice) -> Evidence:
        """The evidence of `rows` of what is held, block by block."""
        reach = reach_of(self.settings, self.inside)
        found = []
        for block in blocks_of((rows.stop - rows.start, *held.shape[2:]), least=2 * reach + 1):
            start, stop = rows.start + block.start, rows.start + block.stop
            low = max(0, start - reach)
            found.append(
                evidence_of(
                    held[:, low : stop + reach], self.output_class, self.settings, self.inside,
                    slice(start - low, stop - low),
                )
            )  # fmt: skip
        rises = [each.rises for each in found if each.rises is not None]
        return Evidence(
            classes=np.concatenate([each.classes for each in found]),
            rises=np.concatenate(rises) if rises else None,
        )


def _find(rows: Rows, parts: Parts, ended: Ids, settings: ObjectSettings, n_found: int) -> int:
    """Label the parts that `ended`, given in their order; the last number given out."""
    if not ended.size:
        return n_found
    groups = _groups(parts, ended, rows.shape)
    numbers = _cut_groups(rows, parts, ended, groups, settings, n_found)
    for group in groups:
        _settle(rows, group.window, numbers, settings.fill_holes)
    return max(n_found, int(numbers.max()))


def _cut_groups(
    rows: Rows,
    parts: Parts,
    ended: Ids,
    groups: list[_Group],
    settings: ObjectSettings,
    n_found: int,
) -> Ids:
    """Write objects as -1, -2, ... to the labels, and return the final number of each."""
    rank_of = parts.ranks(ended)
    kinds = np.append(np.uint8(0), parts.table["kind"][ended])
    group_of = np.zeros(ended.size + 1, np.int32)
    for number, group in enumerate(groups, start=1):
        group_of[group.members] = number
    ranks, lasts, areas, n_cut = [_NONE], [_NONE], [_NONE], 0
    for number, group in enumerate(groups, start=1):
        rank = rank_of[rows.read("slots", group.window)]
        rank[group_of[rank] != number] = 0
        objects = cut(kinds[rank], rows.read("rises", group.window), settings.split)
        lasts.append(last_places(objects)[1:])
        ranks.append(rank.ravel()[lasts[-1]])
        areas.append(np.bincount(objects.ravel())[1:])
        rows.write(group.window, -(objects + np.int32(n_cut)), where=objects > 0)
        n_cut += lasts[-1].size
    rank, last, area = (np.concatenate(arrays) for arrays in (ranks, lasts, areas))
    return final_numbers(rank, last, area, settings.min_size, n_found)


def _settle(rows: Rows, window: Window, numbers: Ids, fill_holes: bool) -> None:
    """Give objects their final numbers, and fill holes if asked."""
    labels = rows.read("labels", window).copy()
    cut_now = labels < 0
    labels[cut_now] = numbers[-labels[cut_now]]
    if fill_holes:
        # A part that may go on looks like a gap here, but one that reaches the window's border.
        at, owners = holes_of(labels)
        labels.ravel()[at] = owners
    rows.write(window, labels)


@dataclass(frozen=True, slots=True)
class _Group:
    """Parts, by rank from 1, that are worked on together, and the window they are seen in."""

    members: npt.NDArray[np.intp]
    window: Window


def _groups(parts: Parts, ended: Ids, shape: tuple[int, ...]) -> list[_Group]:
    """Small neighbours together, large and lonely parts each in a window of its own, unless
    their windows overlap too much. It changes nothing but the time that it takes."""
    low, high = parts.table["low"][ended], parts.table["high"][ended]
    size = round(BLOCK_PIXELS ** (1 / len(shape)))
    block = low // size
    block[(high - low > size // 2).any(axis=1)] = -1  # large ones
    _, block_of = np.unique(block, axis=0, return_inverse=True)
    order = np.argsort(block_of.ravel(), kind="stable")
    ends = np.flatnonzero(np.diff(block_of.ravel()[order])) + 1
    groups = [
        group for together in np.split(order, ends) for group in _by_cost(together, low, high)
    ]
    return [_Group(group + 1, _around(low[group], high[group], shape)) for group in groups]


def _by_cost(
    together: npt.NDArray[np.intp], low: npt.NDArray[np.int64], high: npt.NDArray[np.int64]
) -> list[npt.NDArray[np.intp]]:
    """Parts together, or one by one if that is less work; a large window must save a lot, since
    it takes memory."""
    alone = (np.prod(high[together] - low[together] + 2, axis=1) + WINDOW_COST).sum()
    window = np.prod(high[together].max(axis=0) - low[together].min(axis=0) + 2)
    worth = 1 if window <= 4 * BLOCK_PIXELS else 4
    return list(together[:, None]) if alone < worth * window + WINDOW_COST else [together]


def _around(
    low: npt.NDArray[np.int64], high: npt.NDArray[np.int64], shape: tuple[int, ...]
) -> Window:
    """The window with all of some parts, and one px more where the image goes on."""
    start = np.maximum(low.min(axis=0) - 1, 0).tolist()
    stop = np.minimum(high.max(axis=0) + 1, shape).tolist()
    return tuple(slice(*ends) for ends in zip(start, stop, strict=True))
