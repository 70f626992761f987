"""A simulated person who paints short strokes on the worst errors that can be seen.

For the demonstration, tests and benchmarks: it knows the truth only where it paints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

__all__ = ["Stroke", "draw_strokes", "next_strokes"]


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
) -> list[Stroke]:
    """Paint the worst errors first, one stroke of each class at least.

    Parameters
    ----------
    predicted, truth : class of each pixel `(y, x)`, 0 for background.
    corrections : what has been painted before, `(y, x)`; 0 untouched.
    n_strokes : how many to paint; fewer if there are no errors left.
    seed : of length, width and direction.
    """
    generator = np.random.default_rng(seed)
    painted = corrections.copy()
    strokes: list[Stroke] = []
    for _ in range(n_strokes):
        stroke = _worst(predicted, truth, painted, generator)
        if stroke is None:
            break
        draw_strokes(painted, [stroke])
        strokes.append(stroke)
    return strokes


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


def _worst(
    predicted: npt.NDArray[np.integer],
    truth: npt.NDArray[np.integer],
    painted: npt.NDArray[np.uint8],
    generator: np.random.Generator,
) -> Stroke | None:
    """A stroke through the middle of the largest error; a class never painted goes first."""
    near_paint = ndi.binary_dilation(painted > 0, iterations=6)
    classes = [int(value) for value in np.unique(truth)]
    for value in (value for value in classes if not (painted == value + 1).any()):
        mine = truth == value
        error = mine & (predicted != truth) & ~near_paint
        if not error.any():
            error = mine & ~near_paint
        if error.any():
            return _through(error, mine, value, generator)
    error = (predicted != truth) & ~near_paint
    if not error.any():
        return None
    depth = ndi.distance_transform_edt(error)
    value = int(truth[np.unravel_index(int(depth.argmax()), depth.shape)])
    return _through(error & (truth == value), truth == value, value, generator)


def _through(
    error: npt.NDArray[np.bool_],
    mine: npt.NDArray[np.bool_],
    value: int,
    generator: np.random.Generator,
) -> Stroke:
    """A straight stroke of up to 30 px from the deepest point of `error`, inside `mine`."""
    depth = ndi.distance_transform_edt(np.pad(error, 1))[1:-1, 1:-1]
    start = np.array(np.unravel_index(int(depth.argmax()), depth.shape))
    room = ndi.distance_transform_edt(np.pad(mine, 1))[1:-1, 1:-1]
    width = int(np.clip(2 * room[tuple(start)] - 2, 1, generator.integers(3, 10)))
    angle = generator.uniform(0, 2 * np.pi)
    length = int(generator.integers(8, 31))
    points = []
    for sign in (1, -1):
        direction = sign * np.array([np.sin(angle), np.cos(angle)])
        for i in range(length // 2):
            point = np.round(start + i * direction).astype(np.intp)
            if (point < 0).any() or (point >= mine.shape).any():
                break
            if room[tuple(point)] <= width / 2:
                break
            points.append(point)
    return Stroke(value=value + 1, points=np.array(points or [start]), width=width)
