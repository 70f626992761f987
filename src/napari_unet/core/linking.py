"""Objects of consecutive planes linked to objects through a stack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from napari_unet.core.errors import ImageError, SettingsError

__all__ = ["Linker", "linking"]

Labels: TypeAlias = npt.NDArray[np.integer]
Ids: TypeAlias = npt.NDArray[np.int32]
Counts: TypeAlias = npt.NDArray[np.int64]


def linking(planes: Iterable[Labels], least_overlap: float = 0.25, first: int = 0) -> Iterator[Ids]:
    """The planes `(y, x)` of a stack, in order, with the ids of `Linker`; holds two at a time."""
    linker = Linker(least_overlap, first)
    for plane in planes:
        yield linker.link(plane)


class Linker:
    """Gives objects of consecutive planes one id where they are one object.

    Two objects of neighbouring planes are linked if each overlaps the other best, and by an
    intersection over union of at least `least_overlap`. All others begin a chain of their own,
    with the next free id. An id is never used for two chains, and none is left out.

    `link` takes whole planes. Of planes that are too large for that, `add` takes one window
    after the other, and `finish` says the chain of each object.

    Parameters
    ----------
    least_overlap : in (0, 1].
    first : chains are numbered from `first + 1`.
    before : the chains of the plane `(y, x)` before, int32, to go on from there.

    Attributes
    ----------
    n_found : the last id given out.

    Raises
    ------
    SettingsError
        If `least_overlap` is out of range.
    """

    def __init__(
        self, least_overlap: float = 0.25, first: int = 0, before: Ids | None = None
    ) -> None:
        if not 0 < least_overlap <= 1:
            raise SettingsError(
                f"least_overlap must be above 0 and at most 1, not {least_overlap}."
            )
        self.least_overlap = least_overlap
        self.n_found = first
        self._before = before
        self._counted: list[tuple[Counts, Counts]] = []

    def link(self, labels: Labels) -> Ids:
        """The next plane `(y, x)`, any integer dtype, with the ids of chains, int32.

        Raises
        ------
        ImageError
            If it has not the shape of the plane before.
        """
        if self._before is not None and self._before.shape != labels.shape:
            raise ImageError(
                f"A plane of {labels.shape} px follows one of {self._before.shape} px. Only the "
                f"planes of one stack, all of one size, can be linked."
            )
        if int(labels.max(initial=0)) > labels.size:  # chains are looked up in a table of all ids
            labels = np.unique(np.append(labels, 0), return_inverse=True)[1][:-1].reshape(
                labels.shape
            )
        self.add(labels, self._before)
        self._before = self.finish()[labels]
        return self._before

    def add(self, labels: Labels, before: Labels | None) -> None:
        """Count one window of the next plane.

        Parameters
        ----------
        labels : ids `(y, x)` within the plane, 0 for background.
        before : ids of chains of the same window in the plane before; None in the first plane.
        """
        now = labels.ravel().astype(np.int64)
        pairs = now if before is None else now | before.ravel().astype(np.int64) << 32
        if not pairs.size:
            return
        begins = np.concatenate([[0], np.flatnonzero(pairs[1:] != pairs[:-1]) + 1])
        self._counted.append(_summed(pairs[begins], np.diff(begins, append=pairs.size)))

    def finish(self) -> Ids:
        """End the plane: the chain of each of its ids `(id,)`, with 0 for the background."""
        empty = (np.zeros(0, np.int64), np.zeros(0, np.int64))
        pairs, areas = (np.concatenate(each) for each in zip(empty, *self._counted, strict=True))
        self._counted = []
        pairs, areas = _summed(pairs, areas)
        before, now = pairs >> 32, pairs & (2**32 - 1)
        chains = np.zeros(int(now.max(initial=0)) + 1, np.int32)
        old, new = _best_pairs(before, now, areas, self.least_overlap)
        chains[new] = old
        begun = np.setdiff1d(now, np.append(new, 0))
        chains[begun] = np.arange(self.n_found + 1, self.n_found + 1 + begun.size)
        self.n_found += begun.size
        return chains


def _summed(values: Counts, counts: Counts) -> tuple[Counts, Counts]:
    """The values that occur, ascending, and the sum of the counts of each."""
    found, where = np.unique(values, return_inverse=True)
    sums = np.zeros(found.size, np.int64)
    np.add.at(sums, where, counts)
    return found, sums


def _best_pairs(
    before: Counts, now: Counts, areas: Counts, least_overlap: float
) -> tuple[Counts, Counts]:
    """The pairs of objects that overlap each other best.

    `before`, `now`, `areas`: `(pair,)`, how many px belong to each pair of ids, 0 among them.
    Of equally good pairs the one with the lower ids is better.
    """
    area_before, area_now = _area_of_each(before, areas), _area_of_each(now, areas)
    is_pair = (before > 0) & (now > 0)
    union = (area_before + area_now - areas)[is_pair]
    overlap = areas[is_pair] / union
    order = np.lexsort((now[is_pair], before[is_pair], -overlap))
    order = order[overlap[order] >= least_overlap]
    old, new = before[is_pair][order], now[is_pair][order]
    is_best = np.zeros((2, order.size), bool)
    for ids, best in zip((old, new), is_best, strict=True):
        best[np.unique(ids, return_index=True)[1]] = True
    return old[is_best.all(axis=0)], new[is_best.all(axis=0)]


def _area_of_each(ids: Counts, areas: Counts) -> Counts:
    """The area of the object that each pair belongs to, in px."""
    found, where = np.unique(ids, return_inverse=True)
    sums = np.zeros(found.size, np.int64)
    np.add.at(sums, where, areas)
    return np.asarray(sums[where])
