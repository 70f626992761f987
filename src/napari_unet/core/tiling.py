"""Into which windows an image is cut, and in which order. Integers only, no torch.

The windows fill what is wanted without gap or overlap, and begin and end on multiples of what the
network works in, so that as little as possible is computed twice around them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt

__all__ = [
    "Window",
    "around",
    "cut",
    "mirrored",
    "n_pixels",
    "nearest_first",
    "padded_size",
    "without",
]

Window = tuple[slice, ...]


def n_pixels(window: Window) -> int:
    """Number of px in a window."""
    return int(np.prod([part.stop - part.start for part in window], dtype=np.int64))


def padded_size(size: int, stride: int) -> int:
    """The smallest multiple of `stride` that is not below `size`, in px."""
    return -(-size // stride) * stride


def cut(window: Window, block: Sequence[int], stride: Sequence[int]) -> list[Window]:
    """Cut a window into blocks of one grid.

    Parameters
    ----------
    window : what to fill, `([z,] y, x)` in px.
    block : size of a block per axis in px, rounded up to multiples of `stride`.
    stride : per axis, in px; blocks begin on multiples of it.
    """
    by_axis = []
    for part, size, step in zip(window, block, stride, strict=True):
        size = padded_size(size, step)
        first = part.start // size * size if part.stop - part.start > size else part.start
        edges = [part.start, *range(first + size, part.stop, size), part.stop]
        by_axis.append([slice(a, b) for a, b in pairwise(edges) if a < b])
    return list(product(*by_axis))


def without(window: Window, hole: Window) -> list[Window]:
    """What is left of a window when another one is taken out; pieces do not overlap."""
    left = []
    inner = [
        slice(max(w.start, h.start), min(w.stop, h.stop)) for w, h in zip(window, hole, strict=True)
    ]
    if any(part.start >= part.stop for part in inner):
        return [window]
    rest = list(window)
    for axis, part in enumerate(inner):
        for side in (slice(rest[axis].start, part.start), slice(part.stop, rest[axis].stop)):
            if side.start < side.stop:
                left.append((*rest[:axis], side, *rest[axis + 1 :]))
        rest[axis] = part
    return left


def around(
    focus: Sequence[float], window: Window, size: Sequence[int], stride: Sequence[int]
) -> Window:
    """A window of about `size` px around `focus`, inside `window`, on multiples of `stride`."""
    found = []
    for at, part, n, step in zip(focus, window, size, stride, strict=True):
        start = min(max(int(at) - n // 2, part.start), max(part.start, part.stop - n))
        stop = min(part.stop, padded_size(start + n, step))
        start = max(part.start, start // step * step)
        found.append(slice(start, stop))
    return tuple(found)


def mirrored(read: slice, size: int) -> npt.NDArray[np.intp]:
    """Which pixel of an axis of `size` px stands at each place of `read`.

    Beyond its ends the image is mirrored at its last pixel, as often as needed.
    """
    period = max(1, 2 * (size - 1))
    places: npt.NDArray[np.intp] = np.arange(read.start, read.stop, dtype=np.intp) % period
    return np.where(places < size, places, period - places)


def nearest_first(windows: Iterable[Window], focus: Sequence[float] | None) -> list[Window]:
    """Sort windows by their distance from `focus`, `([z,] y, x)` in px.

    The window that holds the focus is the first. None leaves the order as it is.
    """
    if focus is None:
        return list(windows)

    def distance(window: Window) -> tuple[float, float]:
        to_edge = to_middle = 0.0
        for at, part in zip(focus, window, strict=True):
            to_edge += max(part.start - at, 0, at - (part.stop - 1)) ** 2
            to_middle += (at - (part.start + part.stop - 1) / 2) ** 2
        return to_edge, to_middle

    return sorted(windows, key=distance)
