"""A simulated person who paints short strokes on the worst errors that can be seen.

For the demonstration, tests and benchmarks. It sees what is wrong in its view, as a person does who
knows what the image shows, but nothing of the truth is told to anybody where it does not paint.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

__all__ = ["Stroke", "draw_strokes", "next_strokes", "worst_view"]

Window: TypeAlias = tuple[slice, slice]

THINNEST, WIDEST = 3, 9
"""Widths of the brush, in px."""

ROOM = 2.0
"""How far from anything else, in px, the middle of the thinnest stroke must be."""

APART = 6
"""Nobody paints again within so many px of a stroke."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stroke:
    """A stroke of the brush: the painted value, its points `(n, (y, x))` and its width, in px."""

    value: int
    points: npt.NDArray[np.intp]
    width: int


def next_strokes(
    predicted: npt.NDArray[np.integer],
    truth: npt.NDArray[np.integer],
    corrections: npt.NDArray[np.uint8],
    n_strokes: int,
    seed: int = 0,
    view: Window | None = None,
) -> list[Stroke]:
    """Paint the worst errors first, one stroke of each class at least.

    Strokes are 3 to 9 px wide and up to 30 px long. Errors too thin for that are not painted: they
    are differences of opinion about where a border runs.

    Parameters
    ----------
    predicted, truth : class of each pixel `(y, x)`, 0 for background.
    corrections : what has been painted before, `(y, x)`; 0 untouched.
    n_strokes : how many to paint; fewer if there are no errors left.
    seed : of length, width and direction.
    view : `(y, x)` in px, the part of the image that is on the screen; None for all of it. Neither
        errors nor strokes reach beyond it.
    """
    generator = np.random.default_rng(seed)
    top, left = (0, 0) if view is None else (int(part.start or 0) for part in view)
    seen = (slice(None), slice(None)) if view is None else view
    predicted, truth, painted = predicted[seen], truth[seen], corrections[seen].copy()
    known = {int(value) - 1 for value in np.unique(corrections) if value}
    counts: Counter[int] = Counter()
    strokes: list[Stroke] = []
    for _ in range(n_strokes):
        stroke = _worst(predicted, truth, painted, known, counts, generator)
        if stroke is None:
            break
        draw_strokes(painted, [stroke])
        known.add(stroke.value - 1)
        counts[stroke.value - 1] += 1
        strokes.append(replace(stroke, points=stroke.points + np.array([top, left])))
    return strokes


def worst_view(
    predicted: npt.NDArray[np.integer],
    truth: npt.NDArray[np.integer],
    corrections: npt.NDArray[np.uint8],
    size: int,
) -> Window:
    """The view of `size` px with most wrong pixels that nobody has painted near.

    Nobody knows it who does not know the truth: what strategies are measured against. Errors that
    are too thin to be painted do not count. Other parameters as in `next_strokes`.
    """
    error = ndi.binary_opening((predicted != truth) & ~_near(corrections), np.ones((3, 3)))
    sums = np.pad(error.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    height, width = (min(size, n) for n in error.shape)
    counts = sums[height:, width:] - sums[height:, :-width] - sums[:-height, width:]
    counts = counts + sums[:-height, :-width]
    top, left = (int(at) for at in np.unravel_index(int(counts.argmax()), counts.shape))
    return slice(top, top + height), slice(left, left + width)


def draw_strokes(corrections: npt.NDArray[np.uint8], strokes: list[Stroke]) -> None:
    """Paint strokes into `corrections` `(y, x)`, as a round brush does."""
    height, width = corrections.shape
    for stroke in strokes:
        radius = stroke.width / 2
        reach = int(np.ceil(radius))
        offsets = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
        offsets = offsets[(offsets**2).sum(axis=1) <= radius**2]
        places = (stroke.points[:, None] + offsets[None]).reshape(-1, 2)
        inside = ((places >= 0) & (places < (height, width))).all(axis=1)
        corrections[tuple(places[inside].T)] = stroke.value


def _near(painted: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Where somebody painted, or close to it."""
    return np.asarray(ndi.binary_dilation(painted > 0, iterations=APART), np.bool_)


def _worst(
    predicted: npt.NDArray[np.integer],
    truth: npt.NDArray[np.integer],
    painted: npt.NDArray[np.uint8],
    known: set[int],
    counts: Counter[int],
    generator: np.random.Generator,
) -> Stroke | None:
    """A stroke through the middle of the largest error; a class never painted goes first.

    The more strokes of a class there are among those of this round (`counts`), the larger the next
    error must be: a person who has painted one in a wide error goes on to another one.
    """
    free = ~_near(painted)
    wrong = (predicted != truth) & free
    classes = [int(value) for value in np.unique(truth)]
    room = {value: _depth(truth == value) for value in classes}
    for value in (value for value in classes if value not in known):
        mine = (truth == value) & (room[value] >= ROOM)
        error = mine & wrong if (mine & wrong).any() else mine & free
        if error.any():
            return _through(error, room[value], value, generator)
    worst, largest = None, 0.0
    for value in classes:
        area, error = _largest(wrong & (truth == value), room[value] >= ROOM)
        if area / (1 + counts[value]) > largest:
            worst, largest = (value, error), area / (1 + counts[value])
    if worst is None:
        return None
    value, error = worst
    return _through(error, room[value], value, generator)


def _largest(
    wrong: npt.NDArray[np.bool_], paintable: npt.NDArray[np.bool_]
) -> tuple[int, npt.NDArray[np.bool_]]:
    """Area, in px, of the largest connected error that can be painted, and where it can be."""
    regions, n_regions = ndi.label(wrong, np.ones((3, 3)))
    areas = np.bincount(regions.ravel(), minlength=n_regions + 1)
    areas[np.bincount(regions[paintable], minlength=n_regions + 1) == 0] = 0
    areas[0] = 0
    which = int(areas.argmax())
    return int(areas[which]), (regions == which) & wrong & paintable


def _depth(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """How far it is from each pixel to anything else, in px; the edge of the image is something."""
    return np.asarray(ndi.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1], np.float64)


def _through(
    error: npt.NDArray[np.bool_],
    room: npt.NDArray[np.float64],
    value: int,
    generator: np.random.Generator,
) -> Stroke:
    """A straight stroke of up to 30 px from the deepest point of `error`.

    `room` is how far it is from there to another class: no stroke reaches into one.
    """
    start = np.array(np.unravel_index(int(_depth(error).argmax()), error.shape))
    width = int(
        np.clip(2 * room[tuple(start)] - 1, THINNEST, generator.integers(THINNEST, WIDEST + 1))
    )
    angle = generator.uniform(0, 2 * np.pi)
    length = int(generator.integers(8, 31))
    points = [start]
    for sign in (1, -1):
        direction = sign * np.array([np.sin(angle), np.cos(angle)])
        for i in range(1, length // 2):
            point = np.round(start + i * direction).astype(np.intp)
            if (point < 0).any() or (point >= error.shape).any():
                break
            if room[tuple(point)] <= width / 2:
                break
            points.append(point)
    return Stroke(value=value + 1, points=np.array(points), width=width)
