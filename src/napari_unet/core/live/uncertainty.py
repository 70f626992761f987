"""Where a network is in doubt, as a map that means something, and where to look next.

The doubt of a pixel is one minus the distance between its two likeliest classes, with the
temperature of `calibration.py` if it is known. The rim of an object is always a bit doubtful, and
nobody gains from looking at it: doubt counts where it covers an area.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from napari_unet.core.errors import SettingsError
from napari_unet.core.instances import class_probabilities
from napari_unet.core.live.calibration import chances_of, check_temperature, tempered

__all__ = [
    "Place",
    "Plane",
    "disagreement",
    "mask_of",
    "ranked",
    "regions",
    "uncertain",
]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Window: TypeAlias = tuple[slice, slice]

CERTAIN = 0.1
"""Doubt up to this is none: over a wide background it would add up."""

BORDER = 2
"""Edge, in px, of the squares that must be in doubt throughout: sharp rims are thinner than that.

Tried on two new kinds after 0 to 40 strokes: of the wrong pixels of the worst window, the one that
was chosen held 69 % with each pixel by itself, 70 % with squares of 2 px and 66 % with 4 px (by
chance 24 %); with a temperature of 2, which is about right there, 71, 75 and 71 %.
"""

BORDER_SHARE = 0.1
"""What the doubt of rims counts nevertheless, for images with nothing but thin structures."""


def uncertain(
    outputs: Floats, output_class: tuple[int, ...], temperature: float = 1.0
) -> npt.NDArray[np.float32]:
    """How much in doubt a network is about the class of each pixel.

    Parameters
    ----------
    outputs : probabilities `(output, ...)` of the outputs of a network, of any kind.
    output_class : the class that each output counts towards, as in `Description`.
    temperature : from `temperature`; above 1 for a network that is too sure of itself.

    Returns
    -------
    float32 array `(...)`
        One minus the margin between the two likeliest classes: 0 certain, 1 undecided.
    """
    return _doubt(chances_of(class_probabilities(outputs, output_class)), temperature)


def _doubt(chances: npt.NDArray[np.float32], temperature: float) -> npt.NDArray[np.float32]:
    """One minus the margin of the two largest of `(class, ...)`; they need not sum to one."""
    check_temperature(temperature)
    chances = chances if temperature == 1 else chances ** np.float32(1 / temperature)
    first = np.maximum(chances[0], chances[1])
    second = np.minimum(chances[0], chances[1])
    for one in chances[2:]:
        second = np.maximum(second, np.minimum(first, one))
        first = np.maximum(first, one)
    total = chances.sum(axis=0) if len(chances) > 2 else first + second
    return np.asarray(1 - (first - second) / total, np.float32)


def disagreement(views: Sequence[Floats]) -> npt.NDArray[np.float32]:
    """How much the answers to several views of one image differ (mirrored, turned back again).

    Parameters
    ----------
    views : class probabilities `(class, ...)` of each view, in the same places.

    Returns
    -------
    float32 array `(...)`
        The Jensen-Shannon divergence, 0 (all say the same) to 1 (each is sure of another class).
    """
    if len(views) < 2:
        raise SettingsError(f"Views can differ from two on, but there are {len(views)}.")
    each = [tempered(view, 1.0) for view in views]
    mean = np.stack(each).mean(axis=0)  # (class, ...)
    spread = _entropy(mean) - np.stack([_entropy(one) for one in each]).mean(axis=0)
    most = np.log(min(len(each), len(each[0])))
    return np.asarray(np.clip(spread / most, 0, 1), np.float32)


def _entropy(chances: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(-(chances * np.log(chances)).sum(axis=0), np.float32)


# ---- where to look next


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Somewhere that is worth a look.

    Attributes
    ----------
    window : `(y, x)` in px.
    score : share of the window that is in doubt, 0 to 1.
    key : of the image.
    index : position along the axes before `(y, x)`.
    """

    window: Window
    score: float
    key: str = ""
    index: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plane:
    """One plane of one of several images.

    Attributes
    ----------
    key, index : which.
    uncertainty : `(y, x)`, from `uncertain`.
    looked_at : as in `regions`.
    """

    uncertainty: Floats
    key: str = ""
    index: tuple[int, ...] = ()
    looked_at: npt.NDArray[np.bool_] | Sequence[Window] | None = None


def regions(
    uncertainty: Floats,
    looked_at: npt.NDArray[np.bool_] | Sequence[Window] | None = None,
    size: int | tuple[int, int] = 256,
    n: int = 10,
    border: int = BORDER,
) -> list[Place]:
    """The windows with most doubt that nobody has looked at, the most doubtful first.

    Parameters
    ----------
    uncertainty : `(y, x)`, 0 to 1, from `uncertain`.
    looked_at : bool `(y, x)`, or windows; doubt there does not count. None for nowhere.
    size : height and width of the windows, in px, or one number for both; smaller where the image
        is.
    n : how many windows at most.
    border : edge in px of the squares that must be in doubt throughout to count fully, so that the
        rims of objects do not; 1 to count each px.

    Returns
    -------
    list of Place
        Windows that do not overlap. Where all is certain there are none.
    """
    height, width = uncertainty.shape
    sides = (size, size) if isinstance(size, int) else size
    if min(*sides, border) < 1:
        raise SettingsError(f"size and border must be at least 1 px, not {size} and {border}.")
    if not height or not width:
        return []
    window = (min(sides[0], height), min(sides[1], width))
    worth = _worth(uncertainty, looked_at, border)
    scores, starts = _window_means(worth, window, uncertainty.shape, border)
    places = []
    for _ in range(n):
        row, column = np.unravel_index(int(scores.argmax()), scores.shape)
        score = float(scores[row, column])
        if score <= 1e-6:
            break
        top, left = int(starts[0][row]), int(starts[1][column])
        part = (slice(top, top + window[0]), slice(left, left + window[1]))
        places.append(Place(window=part, score=min(score, 1.0)))
        rows = np.abs(starts[0] - top) < window[0]
        columns = np.abs(starts[1] - left) < window[1]
        scores[np.ix_(rows, columns)] = 0
    return places


def ranked(planes: Iterable[Plane], size: int | tuple[int, int] = 256, n: int = 10) -> list[Place]:
    """The same over several planes and images: the `n` most doubtful windows of them all.

    Planes are asked for one after another, so that they need not all be in memory.
    """
    found = (
        replace(place, key=plane.key, index=plane.index)
        for plane in planes
        for place in regions(plane.uncertainty, plane.looked_at, size, n)
    )
    return heapq.nlargest(n, found, key=lambda place: place.score)


def mask_of(windows: Iterable[Window], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Where windows cover an image of `shape`, bool `(y, x)`."""
    mask = np.zeros(shape, np.bool_)
    for window in windows:
        mask[window] = True
    return mask


def _worth(
    uncertainty: Floats,
    looked_at: npt.NDArray[np.bool_] | Sequence[Window] | None,
    border: int,
) -> npt.NDArray[np.float32]:
    """What the doubt in each square of `border` px counts, `(square, square)`."""
    doubt: npt.NDArray[np.float32] = np.maximum(uncertainty - CERTAIN, 0, dtype=np.float32)
    doubt /= np.float32(1 - CERTAIN)
    if looked_at is not None:
        seen = looked_at if isinstance(looked_at, np.ndarray) else None
        doubt[mask_of(looked_at, doubt.shape) if seen is None else seen] = 0
    if border == 1:
        return doubt
    squares = _squares(doubt, border)
    thick, plain = squares.min(axis=(1, 3)), squares.mean(axis=(1, 3))
    return np.asarray((1 - BORDER_SHARE) * thick + BORDER_SHARE * plain, np.float32)


def _squares(values: npt.NDArray[np.float32], edge: int) -> npt.NDArray[np.float32]:
    """`(y, x)` to `(square, y, square, x)`; mirrored where the last squares stick out."""
    rows, columns = (-n % edge for n in values.shape)
    if rows or columns:
        values = np.pad(values, ((0, rows), (0, columns)), mode="edge")
    height, width = values.shape
    return values.reshape(height // edge, edge, width // edge, edge)


def _window_means(
    worth: npt.NDArray[np.float32],
    window: tuple[int, int],
    shape: tuple[int, int],
    border: int,
) -> tuple[npt.NDArray[np.float64], tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Mean of the squares in each window, and the first px `(y,)`, `(x,)` of the windows."""
    sums = np.zeros((worth.shape[0] + 1, worth.shape[1] + 1))
    np.cumsum(np.cumsum(worth, axis=0, dtype=np.float64), axis=1, out=sums[1:, 1:])
    n_rows, n_columns = (min(-(-w // border), n) for w, n in zip(window, worth.shape, strict=True))
    totals = sums[n_rows:] - sums[: len(sums) - n_rows]
    totals = totals[:, n_columns:] - totals[:, : totals.shape[1] - n_columns]
    starts = tuple(
        np.minimum(np.arange(count, dtype=np.intp) * border, n - w)
        for count, n, w in zip(totals.shape, shape, window, strict=True)
    )
    return totals / (n_rows * n_columns), (starts[0], starts[1])
