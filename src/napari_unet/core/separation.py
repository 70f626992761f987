"""Weights that teach a network to keep objects apart (Ronneberger et al. 2015, equation 2).

`w = w_c + w_0 exp(-(d_1 + d_2)^2 / (2 sigma^2))`, with the distances d_1 and d_2 to the nearest and
to the second nearest object. A distance transform of the whole image for each object would take
hours. But what is further away than `CUT` allows weighs nothing: each object needs to be seen only
from its own surroundings, where squared distances spread along one axis after the other. And each
pixel needs to remember only the two least of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

from napari_unet.core.errors import ImageError, SettingsError

__all__ = ["pixel_weights", "separation_map", "touching_lines"]

Floats = npt.NDArray[np.float32]
Labels: TypeAlias = npt.NDArray[np.integer]
Squares: TypeAlias = npt.NDArray[Any]
"""Squared distances; int16 where all of them are small whole numbers, else float32."""

CUT = 1e-5
"""What is less than this share of w_0 may become 0."""

TILE_SIZE = {2: 1024, 3: 128}
"""Edge of the parts that are worked on one at a time, in px: long objects cross many."""


def separation_map(
    labels: Labels,
    w_0: float = 10.0,
    sigma: float = 5.0,
    spacing: Sequence[float] | None = None,
    *,
    is_everywhere: bool = False,
) -> Floats:
    """How much each pixel separates two objects: `w_0 exp(-(d_1 + d_2)^2 / (2 sigma^2))`.

    Distances are those between centres of pixels: 1 px beside an object, 0 within it. Exact in
    float32 wherever the value is at least `w_0 * CUT`; below, it may be 0.

    The paper's formula holds everywhere, but its figure, and the meaning of the term, is the
    background between objects. So it is computed there, and on the line where objects touch, on
    which they are taught as background (`touching_lines`); within objects it is 0.

    Parameters
    ----------
    labels : object ids `([z,] y, x)`; 0 for the background.
    w_0 : the value where two objects meet.
    sigma : how fast it falls with the distance, in px, or in the unit of `spacing`.
    spacing : size of a pixel along each axis, for volumes whose slices are further apart than
        their pixels: `(3, 1, 1)` keeps `sigma` in px of a slice. None for all alike.
    is_everywhere : computed within objects as well, with a distance of 0 to their own object.

    Returns
    -------
    float32 array `([z,] y, x)`
        0 ... `w_0`; 0 everywhere if there are fewer than two objects.

    Raises
    ------
    SettingsError
        If `sigma` or `spacing` is not positive, or `w_0` is negative.
    ImageError
        If `labels` are not whole numbers in two or three axes.
    """
    numbers = _checked(labels, w_0, sigma, spacing)
    sizes = np.ones(numbers.ndim) if spacing is None else np.asarray(spacing, float)
    reach = sigma * float(np.sqrt(-2 * np.log(CUT)))
    found = np.zeros(numbers.shape, np.float32)
    if w_0 == 0:
        return found
    costs = _costs(sizes, reach, numbers.shape)
    for tile in _tiles(numbers.shape):
        first, second = _two_nearest(numbers, tile, costs, reach**2)
        near = second <= reach**2
        sums = np.sqrt(first[near], dtype=np.float32) + np.sqrt(second[near], dtype=np.float32)
        found[tile][near] = w_0 * np.exp(-(sums**2) / np.float32(2 * sigma**2))
    if not is_everywhere:
        found[(numbers > 0) & ~touching_lines(numbers)] = 0
    return found


def touching_lines(labels: Labels) -> npt.NDArray[np.bool_]:
    """Which pixels of objects lie edge to edge with another object, in `labels` `([z,] y, x)`."""
    touching = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        ids, marks = np.moveaxis(labels, axis, 0), np.moveaxis(touching, axis, 0)
        meet = (ids[1:] != ids[:-1]) & (ids[1:] > 0) & (ids[:-1] > 0)
        marks[1:] |= meet
        marks[:-1] |= meet
    return touching


def pixel_weights(
    labels: Labels,
    w_0: float = 10.0,
    sigma: float = 5.0,
    balanced: bool = False,
    spacing: Sequence[float] | None = None,
) -> Floats:
    """How much each pixel `([z,] y, x)` counts in training: `w_c` plus `separation_map`.

    `w_c` is 1, or, if `balanced`, such that background and objects count alike in sum and the mean
    over all pixels is 1. Lines where objects touch are background.
    """
    map_ = separation_map(labels, w_0, sigma, spacing)
    if not balanced:
        return map_ + np.float32(1)
    inside = (labels > 0) & ~touching_lines(labels)
    share = float(inside.mean()) if inside.size else 0.0
    if share in (0.0, 1.0):
        return map_ + np.float32(1)
    return map_ + np.where(inside, np.float32(0.5 / share), np.float32(0.5 / (1 - share)))


def _checked(labels: Labels, w_0: float, sigma: float, spacing: Sequence[float] | None) -> Labels:
    """The object ids, small enough to be counted through."""
    if labels.ndim not in TILE_SIZE:
        raise ImageError(f"A plane or a volume of objects is needed, not {labels.ndim} axes.")
    if not (np.issubdtype(labels.dtype, np.integer) or labels.dtype == bool):
        raise ImageError(
            f"The numbers of objects must be whole numbers, not {labels.dtype}. "
            "Convert the masks first."
        )
    if not sigma > 0 or not w_0 >= 0:
        raise SettingsError(
            f"separation_sigma must be above 0 px and separation 0 or more, "
            f"not {sigma:g} and {w_0:g}."
        )
    if spacing is not None and (len(spacing) != labels.ndim or not min(spacing) > 0):
        raise SettingsError(
            f"spacing must be one positive number for each of {labels.ndim} axes, "
            f"not {tuple(spacing)}."
        )
    if labels.dtype == bool or labels.max(initial=0) < 1_000_000:
        return labels.astype(np.int32)
    values, places = np.unique(np.maximum(labels, 0), return_inverse=True)
    return np.asarray(places + (values[0] > 0), np.int32).reshape(labels.shape)


def _costs(sizes: npt.NDArray[np.float64], reach: float, shape: tuple[int, ...]) -> list[Squares]:
    """Of each axis: the square of 0, 1, 2, ... steps along it, as far as it matters."""
    squares = [
        (np.arange(min(int(reach / size), n - 1) + 1) * size) ** 2
        for size, n in zip(sizes, shape, strict=True)
    ]
    # NOTE: 16 bits are twice as fast; sums over all axes, from a little above the limit, must fit.
    is_small = (sizes == 1).all() and (len(shape) + 1) * (reach + 1) ** 2 < 2**15
    return [each.astype(np.int16 if is_small else np.float32) for each in squares]


def _tiles(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    size = TILE_SIZE[len(shape)]
    yield from product(*[[slice(at, min(at + size, n)) for at in range(0, n, size)] for n in shape])


def _two_nearest(
    labels: Labels, tile: tuple[slice, ...], costs: list[Squares], limit: float
) -> tuple[Squares, Squares]:
    """Squared distances to the two nearest objects in a tile; above `limit` if there are none."""
    far = _far(costs, limit)
    shape = tuple(side.stop - side.start for side in tile)
    first, second = np.full(shape, far, costs[0].dtype), np.full(shape, far, costs[0].dtype)
    around = tuple(
        slice(max(0, side.start - len(cost) + 1), side.stop + len(cost) - 1)
        for side, cost in zip(tile, costs, strict=True)
    )
    window = labels[around]
    for number, box in enumerate(ndi.find_objects(window), start=1):
        if box is None:
            continue
        starts = [b.start + a.start - t.start for b, a, t in zip(box, around, tile, strict=True)]
        squared, place = _spread(window[box] == number, starts, shape, costs, far)
        one, two = first[place], second[place]
        np.minimum(two, np.maximum(one, squared), out=two)
        np.minimum(one, squared, out=one)
    return first, second


def _far(costs: list[Squares], limit: float) -> Any:
    kind = costs[0].dtype.type
    return kind(int(limit) + 1) if kind is np.int16 else kind(np.inf)


def _spread(
    mask: npt.NDArray[np.bool_],
    starts: list[int],
    shape: tuple[int, ...],
    costs: list[Squares],
    far: Any,
) -> tuple[Squares, tuple[slice, ...]]:
    """Squared distances to an object whose box is at `starts`, as far as it reaches in `shape`.

    Exact, since squares add up over the axes: what is least in a row, plus the square of the way
    to the row, is least (Felzenszwalb and Huttenlocher 2012).

    Returns
    -------
    squared distances `([z,] y, x)`, and the part of `shape` that they belong to.
    """
    ends = [
        (max(0, start - len(cost) + 1), min(size, start + n + len(cost) - 1))
        for start, n, cost, size in zip(starts, mask.shape, costs, shape, strict=True)
    ]
    # NOTE: along the rows first, while they are few: other axes add whole rows, which is faster.
    squared = _along_rows(mask, starts[-1], ends[-1], costs[-1], far)
    for axis in reversed(range(len(shape) - 1)):
        squared = _along(squared, axis, starts[axis], ends[axis], costs[axis], far)
    return squared, tuple(slice(low, high) for low, high in ends)


def _along_rows(
    mask: npt.NDArray[np.bool_], start: int, ends: tuple[int, int], cost: Squares, far: Any
) -> Squares:
    """Of each row of an object `(..., x)`, the squared distance to what is on from `ends` on."""
    row = np.arange(ends[0] - start, ends[1] - start, dtype=np.int32)  # 0 where the box begins
    on = np.arange(mask.shape[-1], dtype=np.int32)
    never = np.int32(2**20)
    last = np.maximum.accumulate(np.where(mask, on, -never), axis=-1)
    following = np.minimum.accumulate(np.where(mask, on, never)[..., ::-1], axis=-1)[..., ::-1]
    inside = np.clip(row, 0, mask.shape[-1] - 1)
    steps = np.abs(row - last[..., inside])
    np.minimum(steps, np.abs(following[..., inside] - row), out=steps)
    return np.append(cost, far)[np.minimum(steps, len(cost))]


def _along(
    squared: Squares, axis: int, start: int, ends: tuple[int, int], cost: Squares, far: Any
) -> Squares:
    """Spread squared distances that begin at `start` of an axis over all from `ends` on."""
    low, high = ends
    wider = [high - low if i == axis else size for i, size in enumerate(squared.shape)]
    out = np.full(wider, far, squared.dtype)
    source, room = np.moveaxis(squared, axis, 0), np.moveaxis(out, axis, 0)
    for step, square in enumerate(cost):
        raised = source + square
        for shift in (start + step - low, start - step - low) if step else (start - low,):
            begin, end = max(0, -shift), min(len(source), high - low - shift)
            if begin < end:
                part = room[begin + shift : end + shift]
                np.minimum(part, raised[begin:end], out=part)
    return out
