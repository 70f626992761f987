"""Which corrections are held out of training while they come in one by one, to score on.

As in `corrections.hold_out`, cells of 32 px are held out together, and which ones follows from
their place. But strokes come one at a time here, and the user waits to see what each one does:
no stroke is held out as a whole, and what was trained on once is never scored on.
"""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from napari_unet.core.corrections import CELL_SHAPE, draw_of

__all__ = ["Holding", "Place"]

CELL_DEPTH, _, CELL_SIZE = CELL_SHAPE
N_NEEDED = 5
"""A class is trained on in so many cells before one of it is held out."""

Cell: TypeAlias = tuple[object, ...]
Mask = npt.NDArray[np.bool_]
Place: TypeAlias = tuple[str, tuple[int, ...], tuple[int, int]]
"""Where a painted block is: key of the image, index, and `(y, x)` in px."""


class Holding:
    """Decides for each cell, once, whether it is trained on or held out.

    Parameters
    ----------
    share : share of the cells to hold out; 0 for none.
    dims : of the network; of volumes, 8 slices are decided on together.
    """

    def __init__(self, share: float, dims: int = 2) -> None:
        self._share, self._dims = share, dims
        self._is_held: dict[Cell, bool] = {}
        self._n_trained: Counter[int] = Counter()
        self._n_held: Counter[int] = Counter()

    def take(self, place: Place, corrections: npt.NDArray[np.uint8], fresh: Mask) -> None:
        """Decide on the cells of what was just painted: the pixels `fresh` of a block."""
        if self._share == 0 or not fresh.any():
            return
        touched: dict[Cell, Counter[int]] = {}
        for y, x in np.unique(np.argwhere(fresh) // CELL_SIZE, axis=0).tolist():
            part = _part(y, x)
            values = corrections[part][fresh[part]]
            touched[self._cell(place, y, x)] = Counter(values.tolist())
        new = [cell for cell in touched if cell not in self._is_held]
        for cell in sorted(new, key=draw_of, reverse=True):
            self._decide(cell, touched[cell], self._is_spare(cell, touched[cell]))
        for value in set().union(*touched.values()):
            mine = [cell for cell in touched if touched[cell][value]]
            if all(self._is_held[cell] for cell in mine):
                most = max(mine, key=lambda cell: touched[cell][value])
                self._n_held.subtract(touched[most].keys())
                self._decide(most, touched[most], is_held=False)

    def _decide(self, cell: Cell, values: Counter[int], is_held: bool) -> None:
        self._is_held[cell] = is_held
        (self._n_held if is_held else self._n_trained).update(values.keys())

    def _is_spare(self, cell: Cell, values: Counter[int]) -> bool:
        if any(self._n_trained[value] < N_NEEDED for value in values):
            return False
        return draw_of(cell) < self._share or any(not self._n_held[value] for value in values)

    def held(self, place: Place, shape: tuple[int, ...]) -> Mask:
        """Which pixels `(y, x)` of the block at a place are held out."""
        mask = np.zeros(shape, bool)
        if self._n_held.total() == 0:
            return mask
        for y in range(-(-shape[0] // CELL_SIZE)):
            for x in range(-(-shape[1] // CELL_SIZE)):
                if self._is_held.get(self._cell(place, y, x)):
                    mask[_part(y, x)] = True
        return mask

    def _cell(self, place: Place, y: int, x: int) -> Cell:
        key, index, (top, left) = place
        if self._dims == 3:
            index = (*index[:-1], index[-1] // CELL_DEPTH)
        return key, index, top // CELL_SIZE + y, left // CELL_SIZE + x


def _part(y: int, x: int) -> tuple[slice, slice]:
    rows, columns = (slice(n * CELL_SIZE, (n + 1) * CELL_SIZE) for n in (y, x))
    return rows, columns
