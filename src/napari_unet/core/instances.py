"""From what the network says of each pixel to classes and to single objects.

Everything after the classes is local to a *part*: a connected part of one class, across edges,
not corners. What becomes of one hangs on its own pixels and on the outputs at most `reach_of`
px away. So an image gives the same objects whole (`objects_of`) and band by band
(`core.labelling`). Objects are numbered by the last pixel, in raster order, of their part, and
within it by their own: whoever reads row after row can number a part as soon as it ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

from napari_unet.core.settings import ObjectSettings
from napari_unet.core.splitting import N_LEVELS, cut, holes_of

__all__ = [
    "Evidence",
    "ObjectSettings",
    "class_probabilities",
    "classes_of",
    "evidence_of",
    "final_numbers",
    "last_places",
    "objects_of",
    "reach_of",
]

Floats = npt.NDArray[np.floating]
Ids = npt.NDArray[np.int32]
Places = npt.NDArray[np.intp]

INSIDE_SIGMA = 0.5
GAUSSIAN_REACH = 4.0
"""A Gaussian is cut off at this many times its sigma."""


def class_probabilities(outputs: Floats, output_class: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Sum the probabilities `(output, ...)` that count towards each class: `(class, ...)`.

    Outputs of class -1 do not count. Where none stands for the background, each output was found
    by itself, and what none of them claims is background.
    """
    sums = np.zeros((max(output_class) + 1, *outputs.shape[1:]), np.float32)
    for output, counted in zip(outputs, output_class, strict=True):
        if counted >= 0:
            sums[counted] += output
    if 0 not in output_class:
        sums[0] = 1 - sums[1:].max(axis=0)
    return sums


def classes_of(
    outputs: Floats, output_class: tuple[int, ...], threshold: float = 0.5
) -> npt.NDArray[np.uint8]:
    """Class of each pixel `(...)`, uint8: the likeliest class that is not background where
    background is less likely than `1 - threshold`, else 0."""
    probabilities = class_probabilities(outputs, output_class)
    foreground = probabilities[0] < 1 - threshold
    if len(probabilities) == 2:
        return np.asarray(foreground, np.uint8)
    best = probabilities[1:].argmax(axis=0).astype(np.uint8) + np.uint8(1)
    return np.where(foreground, best, np.uint8(0)).astype(np.uint8)


def objects_of(
    outputs: Floats,
    output_class: tuple[int, ...],
    settings: ObjectSettings,
    inside: int | None = None,
) -> Ids:
    """Single objects from the outputs of a network.

    Parameters
    ----------
    outputs : probabilities `(output, [z,] y, x)`.
    output_class : the class that each output counts towards.
    settings : threshold, smoothing, smallest size, readiness to split, holes.
    inside : the output that marks the inside of objects as opposed to their border, if the
        network has one: objects grow from there. Without it they are cut at their waists.
        `~i` for an output `i` that marks the borders.

    Returns
    -------
    int32 array `([z,] y, x)`
        Object ids from 1 without gaps, 0 for background, numbered as the module says. Objects
        never mix classes.
    """
    evidence = evidence_of(outputs, output_class, settings, inside)
    if not evidence.classes.any():
        return np.zeros(evidence.classes.shape, np.int32)
    found = cut(evidence.classes, evidence.rises, settings.split)
    parts = cut(evidence.classes, None, split=0)
    last = last_places(found)
    ranks = last_places(parts)[parts.ravel()[last]]
    objects = final_numbers(ranks, last, np.bincount(found.ravel()), settings.min_size)[found]
    if settings.fill_holes:
        at, owners = holes_of(objects)
        objects.ravel()[at] = owners
    return objects


def final_numbers(
    ranks: npt.NDArray[np.integer],
    last: npt.NDArray[np.integer],
    areas: npt.NDArray[np.integer],
    min_size: int,
    first: int = 0,
) -> Ids:
    """The number of each object `(object,)`, from `first + 1`; 0 for too small ones and for the
    background, which is the first in all arrays.

    Parameters
    ----------
    ranks : the order of the parts that the objects belong to.
    last : place of the last pixel of each object, comparable within a part.
    areas : in px.
    """
    order = np.lexsort((last[1:], ranks[1:])) + 1
    kept = order[areas[order] >= min_size]
    numbers = np.zeros(last.size, np.int32)
    numbers[kept] = np.arange(first + 1, first + 1 + kept.size)
    return numbers


def last_places(ids: npt.NDArray[np.integer]) -> Places:
    """Where in the raveled array each id, from 0 on, is seen last; all ids must occur."""
    last = np.zeros(int(ids.max(initial=0)) + 1, np.intp)
    places = np.flatnonzero(ids)
    last[ids.ravel()[places]] = places  # of several values for one place numpy keeps the last
    return last


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is kept of the outputs, one byte each, to make objects from.

    Attributes
    ----------
    classes : uint8 `([z,] y, x)`, 0 for background.
    rises : uint8 `([z,] y, x)`: twice the level of the inside, 0 to `N_LEVELS`, plus 1 where
        an object may start. None if the network has no such output.
    """

    classes: npt.NDArray[np.uint8]
    rises: npt.NDArray[np.uint8] | None


def reach_of(settings: ObjectSettings, inside: int | None) -> int:
    """How far, in px, the outputs around a pixel have a say in its evidence."""
    sigmas = (settings.smoothing, INSIDE_SIGMA if _needs_inside(settings, inside) else 0)
    return sum(int(GAUSSIAN_REACH * sigma + 0.5) for sigma in sigmas)


def _needs_inside(settings: ObjectSettings, inside: int | None) -> bool:
    return inside is not None and settings.split > 0


def evidence_of(
    outputs: Floats,
    output_class: tuple[int, ...],
    settings: ObjectSettings,
    inside: int | None = None,
    rows: slice = slice(None),
) -> Evidence:
    """What the outputs `(output, [z,] y, x)` say of each pixel in `rows` of the first spatial
    axis; `reach_of` more rows must be there on either side, or the border of the image."""
    if settings.smoothing > 0:
        outputs = np.stack([_blurred(output, settings.smoothing) for output in outputs])
    classes = classes_of(outputs[:, rows], output_class, settings.threshold)
    if inside is None or not _needs_inside(settings, inside):
        return Evidence(classes=classes, rises=None)
    marks = outputs[inside] if inside >= 0 else 1 - outputs[~inside]
    height = _blurred(marks, INSIDE_SIGMA)[rows]
    # NOTE: in few levels, so that starts share a plain by distance. On the real values one
    # object creeps along the faintest ridge around its neighbour.
    rises = np.clip(height * N_LEVELS, 0, N_LEVELS).astype(np.uint8)
    rises *= 2
    rises += height > 0.25 + 0.6 * settings.split
    return Evidence(classes=classes, rises=rises)


def _blurred(output: Floats, sigma: float) -> npt.NDArray[np.float32]:
    single = output.astype(np.float32)
    return np.asarray(ndi.gaussian_filter(single, sigma, truncate=GAUSSIAN_REACH), np.float32)
