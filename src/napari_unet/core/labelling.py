"""Objects of an image of any size, band by band: the same as `objects_of` finds on the whole.

Rows (planes, in a volume) are read once, and what is foreground in them is kept until every part
that began in them has ended. A part that has ended is cut into objects, which are numbered and
their holes filled: all that lies in its holes has ended before. Parts are as in `core.instances`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from napari_unet.core.bands import Bands
from napari_unet.core.instances import Evidence, final_numbers, last_places
from napari_unet.core.parts import BLOCK_PIXELS, Parts
from napari_unet.core.rows import Pixels, Rows, Window
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
    outputs : probabilities `(output, ..., [z,] y, x)`: numpy, a memory map or zarr. Read row
        after row, each once and in order; by whole chunks if there are any, of whose rows all
        that fit into `bands.LARGEST_BAND` are read together.
    output_class, settings, inside : as in `objects_of`.
    index : where the plane or volume lies on the axes of `outputs` between the first one and
        the spatial ones.
    band_pixels : about how many px to read at a time. The evidence of a row of chunks comes on top,
        and about 9 bytes for each px of the foreground in rows in which open parts lie.
    first : objects are numbered from `first + 1`.

    Yields
    ------
    `(window, labels)` : slices of `([z,] y, x)` and their ids, int32. One after the other the
        windows fill the image, as wide as it is unless rows of chunks are large; put together,
        the labels are those of `objects_of`.

    Returns
    -------
    int
        The last number given out; `first` if nothing was found.
    """
    source = Bands(outputs, index, output_class, settings, inside, band_pixels)
    shape = source.shape
    rows, parts, n_found = Rows(shape), Parts(len(shape)), first
    last_row = np.zeros((0, *shape[1:]), np.int32)
    for start, evidence in source:
        stop = start + len(evidence.classes)
        last_row = _add(rows, parts, last_row, start, evidence, source.n_rows)
        del evidence  # as large as the band
        is_last = stop == shape[0]
        ended = parts.end(last_row[:0] if is_last else last_row)
        # NOTE: the objects of a part that is too small are so, too.
        large = ended[parts.table["area"][ended] >= settings.min_size]
        n_found = _find(rows, parts, large, settings, n_found)
        # One row before the first open part, since windows begin one px before their parts.
        done = stop if is_last else max(0, parts.first_open_row(stop) - 1)
        for edge in source.edges(rows.start, done):
            yield from rows.release(edge)
        parts.forget(rows.start)
    return n_found


def _add(
    rows: Rows, parts: Parts, last_row: Ids, start: int, evidence: Evidence, n_rows: int
) -> Ids:
    """Take over the evidence of rows that begin with `start`, `n_rows` at a time, and return the
    slots of the last one; given those of the row before, of which there may be none."""
    pieces = []
    for low in range(0, len(evidence.classes), n_rows):
        part = slice(low, low + n_rows)
        slots = parts.add(evidence.classes[part], start + low)
        parts.join(last_row, slots[: len(last_row)])
        last_row = slots[-1:].copy()
        rises = None if evidence.rises is None else evidence.rises[part]
        pieces.append(Pixels.of(slots, rises))
    rows.add(start, Pixels.joined(pieces))
    return last_row


def _find(rows: Rows, parts: Parts, ended: Ids, settings: ObjectSettings, n_found: int) -> int:
    """Label the parts that `ended`, given in their order; the last number given out."""
    if not ended.size:
        return n_found
    groups = _groups(parts, ended, rows.shape)
    numbers = _cut_groups(rows, parts, ended, groups, settings, n_found)
    rows.number(numbers, n_found, min(group.window[0].start for group in groups))
    for group in groups if settings.fill_holes else ():
        # A part that may go on looks like a gap here, but one that reaches the window's border.
        rows.fill(group.window, *holes_of(rows.labels(group.window)))
    return max(n_found, int(numbers.max()))


def _cut_groups(
    rows: Rows,
    parts: Parts,
    ended: Ids,
    groups: list[_Group],
    settings: ObjectSettings,
    n_found: int,
) -> Ids:
    """Label objects from `n_found + 1` on, and return the final number of each."""
    rank_of = parts.ranks(ended)
    kinds = np.append(np.uint8(0), parts.table["kind"][ended])
    group_of = np.zeros(ended.size + 1, np.int32)
    for number, group in enumerate(groups, start=1):
        group_of[group.members] = number
    ranks: list[npt.NDArray[Any]] = [_NONE]
    lasts, areas, n_cut = [_NONE], [_NONE], 0
    for number, group in enumerate(groups, start=1):
        view = rows.view(group.window)
        seen = view.ranks(rank_of, group_of, number)
        objects = cut(kinds[seen], view.rises(), settings.split)
        lasts.append(last_places(objects)[1:])
        ranks.append(seen.ravel()[lasts[-1]])
        areas.append(np.bincount(objects.ravel())[1:])
        view.write(objects, n_found + n_cut)
        n_cut += lasts[-1].size
    rank, last, area = (np.concatenate(arrays) for arrays in (ranks, lasts, areas))
    return final_numbers(rank, last, area, settings.min_size, n_found)


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
