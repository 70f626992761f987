"""Which window of an image to read, and which part of the result to keep. Integers only.

A network works in blocks of `stride` px, and its output depends on no more than `halo` px around
the block that a pixel is in. So tiles that begin and end on multiples of `stride`, and read
`halo` more than they keep, give exactly the result of the whole image. At the true borders a
tile ends where the image ends, and the network pads there as it would pad the whole image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

__all__ = ["Tile", "mirrored", "nearest_first", "padded_size", "tiles"]

Window = tuple[slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One piece of work; every window is `([z,] y, x)` in px.

    Attributes
    ----------
    read : what the network sees, in the image padded at its far ends to multiples of `stride`.
    keep : the part of the result that this tile fills, inside the image.
    inner : where `keep` lies inside `read`.
    """

    read: Window
    keep: Window
    inner: Window


def padded_size(size: int, stride: int) -> int:
    """The smallest multiple of `stride` that is not below `size`, in px."""
    return -(-size // stride) * stride


def tiles(
    shape: tuple[int, ...], tile_size: int, halo: int, stride: int, within: Window | None = None
) -> list[Tile]:
    """Cut an image into tiles whose `keep` windows fill it without gap or overlap.

    Parameters
    ----------
    shape : `([z,] y, x)` of the image in px.
    tile_size : edge of what a tile keeps, in px, rounded up to a multiple of `stride`.
    halo : how far around a block of `stride` px the input can matter to it, in px, rounded up
        likewise.
    stride : sizes that fit the network are multiples of this, in px.
    within : fill only this window of the image; it starts on multiples of `stride`.
    """
    within = tuple(slice(0, size) for size in shape) if within is None else within
    step, margin = padded_size(tile_size, stride), padded_size(halo, stride)
    by_axis = [
        _pieces(size, part, step, margin, stride) for size, part in zip(shape, within, strict=True)
    ]
    cut = []
    for pieces in product(*by_axis):
        read, keep = zip(*pieces, strict=True)
        inner = tuple(
            slice(k.start - r.start, k.stop - r.start) for r, k in zip(read, keep, strict=True)
        )
        cut.append(Tile(read=read, keep=keep, inner=inner))
    return cut


def _pieces(
    size: int, within: slice, step: int, margin: int, stride: int
) -> list[tuple[slice, slice]]:
    """`(read, keep)` along one axis of `size` px."""
    pieces = []
    for start in range(within.start, within.stop, step):
        stop = min(start + step, within.stop)
        read_stop = min(padded_size(stop, stride) + margin, padded_size(size, stride))
        pieces.append((slice(max(0, start - margin), read_stop), slice(start, stop)))
    return pieces


def mirrored(read: slice, size: int) -> npt.NDArray[np.intp]:
    """Which pixel of an axis of `size` px stands at each place of `read`.

    Past the far end the image is mirrored at its last pixel, as often as needed.
    """
    period = max(1, 2 * (size - 1))
    places: npt.NDArray[np.intp] = np.arange(read.start, read.stop, dtype=np.intp) % period
    return np.where(places < size, places, period - places)


def nearest_first(tiles: Iterable[Tile], focus: Sequence[float] | None) -> list[Tile]:
    """Sort tiles by the distance of what they keep from `focus`, `([z,] y, x)` in px.

    The tile that holds the focus is the first. None leaves the order as it is.
    """
    if focus is None:
        return list(tiles)

    def distance(tile: Tile) -> tuple[float, float]:
        to_edge = to_middle = 0.0
        for at, part in zip(focus, tile.keep, strict=True):
            to_edge += max(part.start - at, 0, at - (part.stop - 1)) ** 2
            to_middle += (at - (part.start + part.stop - 1) / 2) ** 2
        return to_edge, to_middle

    return sorted(tiles, key=distance)
