"""What the outputs of a network say of each pixel, band by band, read from wherever they are.

Probabilities that are stored in chunks are read by whole chunks: all rows of a chunk (planes, in a
volume) at once, in strips across, of which only the evidence stays, a byte or two a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from napari_unet.core.instances import Evidence, evidence_of, reach_of
from napari_unet.core.parts import BLOCK_PIXELS, blocks_of
from napari_unet.core.settings import ObjectSettings

__all__ = ["Bands"]

Floats: TypeAlias = npt.NDArray[np.floating]

LARGEST_BAND = 2**27
"""Chunks whose rows have more px than this are read in several bands, and so several times."""
DEPTH = 16
"""Large planes without chunks are worked on by so many at once: what ends in them is looked for in
all planes that are held, which are about as many."""


@dataclass(frozen=True, slots=True)
class Bands:
    """Bands of evidence; see `labelling`."""

    outputs: Any
    index: tuple[int, ...]
    output_class: tuple[int, ...]
    settings: ObjectSettings
    inside: int | None
    band_pixels: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the image, `([z,] y, x)`."""
        return tuple(self.outputs.shape[1 + len(self.index) :])

    @property
    def n_rows(self) -> int:
        """Rows that have about `band_pixels`."""
        return max(1, self.band_pixels // max(1, math.prod(self.shape[1:])))

    @property
    def height(self) -> int:
        """Rows to read at a time: whole chunks, or large parts of one."""
        row, chunk = max(1, math.prod(self.shape[1:])), self._chunk(0)
        if chunk == 1 and len(self.shape) > 2 and row > BLOCK_PIXELS:
            chunk = DEPTH
        if self.n_rows >= chunk:
            return self.n_rows - self.n_rows % chunk
        n_parts = -(-chunk * row // max(LARGEST_BAND, self.n_rows * row))
        return -(-chunk // n_parts)

    def _chunk(self, axis: int) -> int:
        """The size of a chunk along a spatial axis; 1 if there are none."""
        chunks = getattr(self.outputs, "chunks", None)
        return int(chunks[1 + len(self.index) + axis]) if chunks else 1

    def edges(self, start: int, row: int) -> Iterator[int]:
        """Rows up to which the rows from `start` to `row` are best given out, one after the other:
        whole chunks, so that what is stored like the outputs is written once."""
        height, n_rows = self.height, self.shape[0]
        yield from range(start - start % height + height, row, height)
        if row % height == 0 or row == n_rows or self._chunk(0) == 1:
            yield row

    def __iter__(self) -> Iterator[tuple[int, Evidence]]:
        """The first row and the evidence of one band after the other, none of them empty."""
        reach, n_rows, height = self._reach, self.shape[0], self.height
        start, low = 0, 0  # the first row that is not done, and the first one in `held`
        held: Floats | None = None  # rows that were read and are needed again
        for row in range(0, n_rows, height):
            read = slice(row, min(row + height, n_rows))
            stop = n_rows if read.stop == n_rows else max(start, read.stop - reach)
            kept = max(low, stop - reach)
            strips = self._strips(read, held)
            held = self._room(read.stop - kept)
            wanted = slice(start - low, stop - low)
            if stop > start:
                # NOTE: no name for it here, so that whoever gets it can let it go.
                yield start, self._evidence(strips, wanted, held)
            else:
                self._evidence(strips, wanted, held)  # for what is held
            start, low = stop, kept

    @property
    def _reach(self) -> int:
        return reach_of(self.settings, self.inside)

    def _room(self, n_rows: int) -> Floats | None:
        """Room for rows that are needed again."""
        if not self._reach:
            return None
        shape = (self.outputs.shape[0], n_rows, *self.shape[1:])
        return np.empty(shape, self.outputs.dtype)

    def _strips(self, rows: slice, held: Floats | None) -> Iterator[tuple[slice, Floats]]:
        """Outputs `(output, rows, strip, ...)` of the rows that are held and of those to read,
        strip by strip along the second axis."""
        row = math.prod(self.shape[2:]) * (rows.stop - rows.start)
        across, chunk = max(1, self.band_pixels // max(1, row)), self._chunk(1)
        across = max(chunk, across - across % chunk)
        for start in range(0, max(1, self.shape[1]), across):
            part = slice(start, min(start + across, self.shape[1]))
            read = np.asarray(self.outputs[(slice(None), *self.index, rows, part)])
            yield part, read if held is None else np.concatenate([held[:, :, part], read], axis=1)

    def _evidence(
        self, strips: Iterator[tuple[slice, Floats]], rows: slice, kept: Floats | None
    ) -> Evidence:
        """The evidence of `rows` of the strips, the last rows of which are written to `kept`."""
        reach, width = self._reach, self.shape[1]
        classes = np.zeros((rows.stop - rows.start, *self.shape[1:]), np.uint8)
        rises: npt.NDArray[np.uint8] | None = None
        start, low = 0, 0  # as for rows
        held: Floats | None = None
        for part, read in strips:
            if kept is not None:
                kept[:, :, part] = read[:, read.shape[1] - kept.shape[1] :]
            held = read if held is None else np.concatenate([held, read], axis=2)
            stop = width if part.stop == width else max(start, part.stop - reach)
            found = self._of_strip(
                held[:, :, : stop + reach - low], rows, slice(start - low, stop - low)
            )
            classes[:, start:stop] = found.classes
            if found.rises is not None:
                rises = np.zeros_like(classes) if rises is None else rises
                rises[:, start:stop] = found.rises
            left = max(low, stop - reach)
            held = held[:, :, left - low :].copy() if left < part.stop else None
            start, low = stop, left
        return Evidence(classes=classes, rises=rises)

    def _of_strip(self, outputs: Floats, rows: slice, across: slice) -> Evidence:
        """The evidence of some rows of a strip, and of a part across, block by block."""
        reach, found = self._reach, []
        shape = (rows.stop - rows.start, *outputs.shape[2:])
        for block in blocks_of(shape, least=2 * reach + 1):
            start, stop = rows.start + block.start, rows.start + block.stop
            low = max(0, start - reach)
            seen = outputs[:, low : stop + reach]
            inner = slice(start - low, stop - low)
            found.append(evidence_of(seen, self.output_class, self.settings, self.inside, inner))
        rises = [one.rises[:, across] for one in found if one.rises is not None]
        empty = np.zeros((0, across.stop - across.start, *shape[2:]), np.uint8)
        return Evidence(
            classes=np.concatenate([empty, *(one.classes[:, across] for one in found)]),
            rises=np.concatenate([empty, *rises]) if rises else None,
        )
