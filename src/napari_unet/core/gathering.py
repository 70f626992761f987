"""Rows of a result, joined to pieces that are worth handing out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_unet.core.tiling import Window, n_pixels

__all__ = ["Part", "gathered"]

Part = tuple[Window, npt.NDArray[np.floating[Any]]]
"""A window `([z,] y, x)` and what was found in it, `(output, *window)`."""


def gathered(parts: Iterator[Part], axis: int, least: int, chunk: int) -> Iterator[Part]:
    """Join parts that follow one another.

    Parameters
    ----------
    parts : each begins along `axis` where the one before has ended.
    axis : the axis of the window along which they follow.
    least : pieces are at least this many px, but for the last one.
    chunk : pieces end on multiples of this along `axis`, in px, but for the last one.
    """
    held: list[Part] = []
    for part in parts:
        held.append(part)
        edge = part[0][axis].stop // chunk * chunk
        if sum(n_pixels(window) for window, _ in held) < least or edge <= held[0][0][axis].start:
            continue
        piece, rest = _split(_joined(held, axis), axis, edge)
        held = [] if rest is None else [rest]
        yield piece
    if held:
        yield _joined(held, axis)


def _joined(held: Sequence[Part], axis: int) -> Part:
    if len(held) == 1:
        return held[0]
    found = np.concatenate([found for _, found in held], axis=axis + 1)
    return _with_rows(held[0][0], axis, held[0][0][axis].start, held[-1][0][axis].stop), found


def _split(part: Part, axis: int, edge: int) -> tuple[Part, Part | None]:
    """What is before a row and, if anything is, what is behind it."""
    window, found = part
    start, stop = window[axis].start, window[axis].stop
    if edge >= stop:
        return part, None
    before, behind = np.split(found, [edge - start], axis=axis + 1)
    # NOTE: a copy, so that what is held does not keep all that was handed out alive.
    return (
        (_with_rows(window, axis, start, edge), before),
        (_with_rows(window, axis, edge, stop), behind.copy()),
    )


def _with_rows(window: Window, axis: int, start: int, stop: int) -> Window:
    return (*window[:axis], slice(start, stop), *window[axis + 1 :])
