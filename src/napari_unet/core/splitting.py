"""Parts cut into objects. Nothing here crosses from one part to another, or hangs on where in an
image a part lies: what is close to equal is decided by the order of its own pixels."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

__all__ = ["N_LEVELS", "cut", "holes_of"]

Floats: TypeAlias = npt.NDArray[np.floating]
Mask: TypeAlias = npt.NDArray[np.bool_]
Ids: TypeAlias = npt.NDArray[np.int32]
Places: TypeAlias = npt.NDArray[np.intp]

N_LEVELS = 10
"""Levels of the inside of objects; between two of them the way is flat."""


def cut(classes: npt.NDArray[np.uint8], rises: npt.NDArray[np.uint8] | None, split: float) -> Ids:
    """Cut the parts of each class into objects.

    A window of an image must hold each of its parts whole, and one px more on every side where
    the image goes on. Each part is then cut as it is in the whole image.

    Parameters
    ----------
    classes : `([z,] y, x)`, 0 for what is not looked at.
    rises : as in `Evidence`: objects grow from where it says; None to cut at waists.
    split : 0 (every part is one object) to 1.

    Returns
    -------
    int32 array `([z,] y, x)`
        Ids from 1 without gaps; each object is connected.
    """
    found, n_found = np.zeros(classes.shape, np.int32), 0
    for which in range(1, int(classes.max(initial=0)) + 1):
        mask = classes == which
        if split == 0:
            objects = ndi.label(mask)[0]
        else:
            objects = _cut_at_waists(mask, split) if rises is None else _grow(mask, rises)
        np.add(objects, n_found, out=found, where=mask)
        n_found = max(n_found, int(found.max(initial=0)))
    return found


def _grow(mask: Mask, rises: npt.NDArray[np.uint8]) -> Ids:
    """Let every start grow over the mask, down level by level, all at one pace: a watershed.

    NOTE: not that of scikit-image, which lets a heap decide between starts on one level, and so
    the rest of the image.
    """
    level = np.pad(np.where(mask, (rises >> 1) + 1, 0).astype(np.uint8), 1)
    starts, n_starts = ndi.label(mask & ((rises & 1) > 0))
    found = np.pad(starts.astype(np.int32), 1)
    waiting = np.flatnonzero(found)
    for lowest in range(N_LEVELS + 1, 0, -1):
        waiting = _flood(found, level, waiting, lowest)
    grown = _unpadded(found)
    alone = mask & (grown == 0)  # parts without a start
    if alone.any():
        grown = np.where(alone, ndi.label(alone)[0] + n_starts, grown).astype(np.int32)
    return grown


def _flood(found: Ids, level: npt.NDArray[np.uint8], edge: Places, lowest: int) -> Places:
    """Grow objects step by step from `edge` over all free pixels of `lowest` and above.

    `found`, which is written to, and `level` are padded by one px. Returns the pixels that
    touch free ones further down. Where two objects come to a pixel in one step, the order of
    the directions decides, nothing else.
    """
    flat, height, steps = found.ravel(), level.ravel(), _steps(found.shape)
    waiting = []
    while edge.size:
        reached, stays = [], np.zeros(edge.size, bool)
        for step in steps:
            there = edge + step
            heights = height[there]
            free = (flat[there] == 0) & (heights > 0)
            now = free & (heights >= lowest)
            stays |= free ^ now
            flat[there[now]] = flat[edge[now]]
            reached.append(there[now])
        waiting.append(edge[stays])
        edge = np.concatenate(reached)
    return np.concatenate([np.zeros(0, np.intp), *waiting])


def _cut_at_waists(mask: Mask, split: float) -> Ids:
    """Cut a mask at its waists, found by the distance to what is outside it.

    Each top of the distance is a hill, of all from where the steepest way leads up to it. A
    hill that rises less than some px above its saddle with a higher one belongs to that one:
    much the same as flooding from h-maxima, at a fifth of the time.
    """
    if mask.all():  # NOTE: scipy's distance to nothing at all is nonsense.
        return np.ones(mask.shape, np.int32)
    height = _smooth_within(_depth(mask), mask)
    hills, tops = _hills(height)
    return _merge_hills(hills, tops, height, smallest_rise=3.0 * (1 - split) + 0.25)


def _depth(mask: Mask) -> npt.NDArray[np.float32]:
    """Distance to the nearest pixel outside, in px, in half the memory that scipy takes."""
    nearest = ndi.distance_transform_edt(mask, return_distances=False, return_indices=True)
    squared = np.zeros(mask.shape, np.int64)  # exact: of two as near ones scipy takes any
    for axis, (place, length) in enumerate(zip(nearest, mask.shape, strict=True)):
        place -= np.arange(length, dtype=np.int32).reshape(-1, *[1] * (mask.ndim - axis - 1))
        squared += np.square(place, dtype=np.int64)
    return np.sqrt(squared.astype(np.float32))


def _smooth_within(height: npt.NDArray[np.float32], mask: Mask) -> npt.NDArray[np.float32]:
    """A Gaussian of sigma 1 that flows from pixel to pixel through the mask only: two steps of
    variance 1/2 along each axis. What leaves the mask is lost."""
    for axis in (*range(mask.ndim), *range(mask.ndim)):
        height = ndi.correlate1d(height, (0.25, 0.5, 0.25), axis)
        height *= mask
    return height


def _hills(height: npt.NDArray[np.float32]) -> tuple[Ids, npt.NDArray[np.float32]]:
    """For each pixel above 0 the top to which the steepest way leads, from 1 in raster order;
    and the height of each top, with a 0 before. Of equal neighbours the first one is higher."""
    padded = np.pad(height, 1)
    flat = padded.ravel()
    places = np.flatnonzero(flat)
    highest, best = np.zeros(places.size, np.float32), places
    for step in sorted((0, *_steps(padded.shape))):
        heights = flat[places + step]
        higher = heights > highest
        highest, best = np.where(higher, heights, highest), np.where(higher, places + step, best)
    rank = np.zeros(flat.size, np.int32)
    rank[places] = np.arange(places.size)
    up = rank[best]
    while not np.array_equal(up, further := up[up]):
        up = further
    is_top = up == np.arange(up.size)
    hills = np.zeros(padded.shape, np.int32)
    hills.ravel()[places] = np.cumsum(is_top, dtype=np.int32)[up]
    return _unpadded(hills), np.concatenate([np.zeros(1, np.float32), flat[places[is_top]]])


def _merge_hills(
    hills: Ids, tops: npt.NDArray[np.float32], height: Floats, smallest_rise: float
) -> Ids:
    """Join each hill that rises too little above a saddle to the higher one beyond it."""
    owner, top = list(range(tops.size)), tops.tolist()

    def owner_of(hill: int) -> int:
        while owner[hill] != hill:
            owner[hill] = owner[owner[hill]]
            hill = owner[hill]
        return hill

    for saddle, first, second in _saddles(hills, height):
        low, high = sorted((owner_of(first), owner_of(second)), key=top.__getitem__)
        if low != high and top[low] - saddle < smallest_rise:
            owner[low] = high
    owners = np.array([owner_of(hill) for hill in range(tops.size)])
    numbers = np.cumsum(owners == np.arange(owners.size), dtype=np.int32) - 1  # 0 stays 0
    return np.asarray(numbers[owners][hills])


def _saddles(hills: Ids, height: Floats) -> list[tuple[float, int, int]]:
    """The height of the pass between each two hills that touch, the highest first."""
    heights, pairs = [], []
    for axis in range(hills.ndim):
        along, level = np.moveaxis(hills, axis, 0), np.moveaxis(height, axis, 0)
        first, second = along[:-1], along[1:]
        at = np.nonzero((first != second) & (first > 0) & (second > 0))
        heights.append(np.minimum(level[:-1][at], level[1:][at]))
        pairs.append(np.sort([first[at], second[at]], axis=0))
    passes, borders = np.concatenate(heights), np.concatenate(pairs, axis=1)  # (n,), (2, n)
    order = np.argsort(-passes, kind="stable")
    low, high = borders[:, order].astype(np.int64)
    _, found = np.unique(low * (int(hills.max(initial=0)) + 1) + high, return_index=True)
    kept = order[np.sort(found)]
    return list(zip(passes[kept].tolist(), *borders[:, kept].tolist(), strict=True))


def holes_of(objects: Ids) -> tuple[Places, Ids]:
    """The pixels of holes, as places in the raveled array, and the object each belongs to.

    A hole is a connected gap, away from the border of the array, in touch with one object only.
    """
    gaps, n_gaps = ndi.label(objects == 0)
    if not n_gaps:
        return np.zeros(0, np.intp), np.zeros(0, np.int32)
    closed = np.ones(n_gaps + 1, bool)
    closed[0] = False
    for axis in range(objects.ndim):
        for edge in (0, -1):
            closed[np.take(gaps, edge, axis=axis).ravel()] = False
    if not closed.any():
        return np.zeros(0, np.intp), np.zeros(0, np.int32)
    at = np.flatnonzero(closed[gaps])
    gap = gaps.ravel()[at]
    lowest = np.full(n_gaps + 1, np.iinfo(np.int32).max, np.int32)
    highest = np.full(n_gaps + 1, np.iinfo(np.int32).min, np.int32)
    for step in _steps(objects.shape):  # never off the array: closed gaps keep off its border
        beside = objects.ravel()[at + step]
        touches = beside != 0
        np.minimum.at(lowest, gap[touches], beside[touches])
        np.maximum.at(highest, gap[touches], beside[touches])
    owned = (lowest == highest)[gap]
    return at[owned], lowest[gap[owned]]


def _steps(shape: tuple[int, ...]) -> list[int]:
    """From a pixel to its neighbours across edges, as steps in the raveled array, ascending."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return sorted([-stride for stride in strides] + strides)


def _unpadded(padded: Ids) -> Ids:
    return np.asarray(padded[(slice(1, -1),) * padded.ndim])
