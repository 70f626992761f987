"""From what the network says of each pixel to classes and to single objects."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi
from skimage.segmentation import watershed

from napari_unet.core.settings import ObjectSettings

__all__ = ["ObjectSettings", "class_probabilities", "classes_of", "objects_of"]

Floats = npt.NDArray[np.floating]
N_LEVELS = 10


def class_probabilities(outputs: Floats, output_class: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Sum the probabilities `(output, ...)` that count towards each class: `(class, ...)`."""
    if len(output_class) == 1:  # a sigmoid network: the rest is background
        foreground = outputs[0].astype(np.float32)
        return np.stack([1 - foreground, foreground])
    sums = np.zeros((max(output_class) + 1, *outputs.shape[1:]), np.float32)
    for output, counted in zip(outputs, output_class, strict=True):
        sums[counted] += output
    return sums


def classes_of(
    outputs: Floats, output_class: tuple[int, ...], threshold: float = 0.5
) -> npt.NDArray[np.uint8]:
    """Class of each pixel `(...)`, uint8: the likeliest class that is not background where
    background is less likely than `1 - threshold`, else 0."""
    probabilities = class_probabilities(outputs, output_class)
    best = probabilities[1:].argmax(axis=0).astype(np.uint8) + np.uint8(1)
    return np.where(probabilities[0] < 1 - threshold, best, np.uint8(0)).astype(np.uint8)


def objects_of(
    outputs: Floats,
    output_class: tuple[int, ...],
    settings: ObjectSettings,
    inside: int | None = None,
) -> npt.NDArray[np.int32]:
    """Single objects from the outputs of a network, by seeded watershed.

    Parameters
    ----------
    outputs : probabilities `(output, [z,] y, x)`.
    output_class : the class that each output counts towards.
    settings : threshold, smallest size, readiness to split.
    inside : the output that marks the inside of objects as opposed to their border, if the
        network has one. Without it the distance to the background takes its place.

    Returns
    -------
    int32 array `([z,] y, x)`
        Object ids from 1 without gaps, 0 for background. Objects never mix classes.
    """
    classes = classes_of(outputs, output_class, settings.threshold)
    found = np.zeros(classes.shape, np.int64)
    for which in range(1, int(classes.max(initial=0)) + 1):
        mine = classes == which
        objects = _split(mine, outputs, settings.split, inside)
        found[mine] = objects[mine] + found.max()
    return _fill_holes(_drop_small(found, settings.min_size))


def _split(
    mask: npt.NDArray[np.bool_], outputs: Floats, split: float, inside: int | None
) -> npt.NDArray[np.integer]:
    """The objects of one class, from 1; all of `mask` belongs to one."""
    if split == 0:
        return np.asarray(ndi.label(mask)[0])
    if inside is None:
        return _split_by_shape(mask, split)
    height = ndi.gaussian_filter(outputs[inside].astype(np.float32), 0.5)
    # NOTE: in few levels, so that seeds share a plain by distance. On the real values one
    # object creeps along the faintest ridge around its neighbour.
    return _flood(np.floor(height * N_LEVELS), height > 0.25 + 0.6 * split, mask)


def _flood(
    height: Floats, seeds: npt.NDArray[np.bool_], mask: npt.NDArray[np.bool_]
) -> npt.NDArray[np.integer]:
    """Let each seed grow downhill over the mask, by watershed."""
    markers, _ = ndi.label(seeds & mask)
    return np.asarray(watershed(-height, _mark_unseeded(markers, mask), mask=mask))


def _split_by_shape(mask: npt.NDArray[np.bool_], split: float) -> npt.NDArray[np.integer]:
    """Cut a mask at its waists, found by the distance to what is outside it.

    Each top of the distance is a hill. A hill that rises less than some px above its saddle
    with a higher one belongs to that one: the same as flooding from h-maxima, but without the
    grayscale reconstruction, which takes five times as long as all the rest.
    """
    if mask.all():  # NOTE: scipy's distance to nothing at all is nonsense.
        return np.ones(mask.shape, np.int32)
    height = ndi.gaussian_filter(ndi.distance_transform_edt(mask).astype(np.float32), 1.0)
    hills = _flood(height, ndi.maximum_filter(height, 3) == height, mask)
    return _merge_hills(hills, height, smallest_rise=3.0 * (1 - split) + 0.25)


def _merge_hills(
    hills: npt.NDArray[np.integer], height: Floats, smallest_rise: float
) -> npt.NDArray[np.integer]:
    """Join each hill that rises too little above a saddle to the higher one beyond it."""
    n_hills = int(hills.max(initial=0))
    top = np.zeros(n_hills + 1, np.float32)
    np.maximum.at(top, hills.ravel(), height.ravel())
    owner = np.arange(n_hills + 1)

    def owner_of(hill: int) -> int:
        while owner[hill] != hill:
            owner[hill] = owner[owner[hill]]
            hill = int(owner[hill])
        return hill

    for saddle, first, second in _saddles(hills, height):
        low, high = sorted((owner_of(first), owner_of(second)), key=lambda hill: float(top[hill]))
        if low != high and top[low] - saddle < smallest_rise:
            owner[low] = high
    owners = np.array([owner_of(hill) for hill in range(n_hills + 1)])
    return np.asarray(owners[hills])


def _saddles(hills: npt.NDArray[np.integer], height: Floats) -> list[tuple[float, int, int]]:
    """The height of the pass between each two hills that touch, the highest first."""
    heights, pairs = [], []
    for axis in range(hills.ndim):
        first = np.moveaxis(hills, axis, 0)[:-1]
        second = np.moveaxis(hills, axis, 0)[1:]
        at = np.nonzero((first != second) & (first > 0) & (second > 0))
        along = np.moveaxis(height, axis, 0)
        heights.append(np.minimum(along[:-1][at], along[1:][at]))
        pairs.append(np.sort([first[at], second[at]], axis=0))
    passes, borders = np.concatenate(heights), np.concatenate(pairs, axis=1)  # (n,), (2, n)
    order = np.argsort(-passes, kind="stable")
    _, found = np.unique(borders[:, order], axis=1, return_index=True)
    kept = order[np.sort(found)]
    return list(zip(passes[kept].tolist(), *borders[:, kept].tolist(), strict=True))


def _mark_unseeded(
    markers: npt.NDArray[np.integer], mask: npt.NDArray[np.bool_]
) -> npt.NDArray[np.integer]:
    """Give each connected part of the mask that has no seed a seed of its own."""
    parts, n_parts = ndi.label(mask)
    seeded = np.zeros(n_parts + 1, bool)
    seeded[np.unique(parts[markers > 0])] = True
    seeded[0] = True
    lonely = ~seeded[parts]
    return np.where(lonely, parts + markers.max(), markers)


def _drop_small(found: npt.NDArray[np.integer], min_size: int) -> npt.NDArray[np.int32]:
    """Remove small objects and number the rest from 1 without gaps."""
    areas = np.bincount(found.ravel())
    kept = areas >= min_size
    kept[0] = False
    kept &= areas > 0
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    return np.asarray(numbers[found], np.int32)


def _fill_holes(found: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Give each hole that lies within a single object, away from the image border, to it."""
    gaps, n_gaps = ndi.label(found == 0)
    if n_gaps < 2:
        return found
    lowest = np.full(n_gaps + 1, np.iinfo(np.int32).max, np.int32)
    highest = np.zeros(n_gaps + 1, np.int32)
    for axis in range(found.ndim):
        for step in (1, -1):  # each pixel of a gap with its neighbour on either side
            here = np.moveaxis(gaps, axis, 0)[::step][:-1].ravel()
            there = np.moveaxis(found, axis, 0)[::step][1:].ravel()
            at = (here > 0) & (there > 0)
            np.minimum.at(lowest, here[at], there[at])
            np.maximum.at(highest, here[at], there[at])
        for edge in (0, -1):
            touches_border = np.take(gaps, edge, axis=axis).ravel()
            lowest[touches_border] = -1
    owner = np.where(lowest == highest, highest, 0)
    owner[0] = 0
    return np.where(gaps > 0, owner[gaps], found).astype(np.int32)
