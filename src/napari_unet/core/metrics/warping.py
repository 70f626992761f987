"""Warping error: what is left of the differences when borders may move, but never break.

Jain et al. 2010 (CVPR, 2488): the truth is changed pixel by pixel towards the prediction, but only
at *simple points*, whose change splits, merges, makes or removes nothing. What then still differs
is a difference of topology.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

from napari_unet.core.errors import SettingsError
from napari_unet.core.metrics.overlaps import check_alike

__all__ = ["warped_truth", "warping_error"]

AROUND = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""The 8 neighbours `(y, x)` of a pixel, in the order of the bits that say which are inside."""


def warping_error(
    inside: npt.NDArray[np.floating | np.bool_],
    truth: npt.NDArray[np.integer | np.bool_],
    threshold: float = 0.5,
) -> float:
    """Share of the pixels that still differ when the truth was warped to the prediction.

    The script of the ISBI 2012 challenge counts a connected group of such pixels once, and only
    splits and merges; its figures are smaller and not to be compared with this one.

    Parameters
    ----------
    inside : `([z,] y, x)` bool, or probability of not being border, 0 to 1.
    truth : of the same shape; 0 for border, anything else inside.
    threshold : above which a pixel of `inside` is inside.

    Raises
    ------
    SettingsError
        If the shapes differ, or there are less than two axes.
    """
    check_alike(inside, truth)
    if inside.ndim < 2:
        raise SettingsError(f"Pictures have the axes y and x, but these have {inside.ndim}.")
    if not truth.size:
        return 0.0
    maps = inside.reshape(-1, *inside.shape[-2:])
    truths = truth.reshape(maps.shape)
    n_wrong = sum(
        np.count_nonzero(warped_truth(one, true, threshold) != (one > threshold))
        for one, true in zip(maps, truths, strict=True)
    )
    return n_wrong / truth.size


def warped_truth(
    inside: npt.NDArray[np.floating | np.bool_],
    truth: npt.NDArray[np.integer | np.bool_],
    threshold: float = 0.5,
) -> npt.NDArray[np.bool_]:
    """The truth after every change towards the prediction that keeps its topology.

    The inside is 4-connected, the border 8-connected, and all around the picture is border. The
    surest pixels change first; this is repeated until nothing changes. Another order may end
    elsewhere: the least error over all orders is not known.

    Parameters
    ----------
    inside, truth, threshold : as for `warping_error`, `(y, x)`.

    Returns
    -------
    bool `(y, x)`
    """
    values = np.pad(np.asarray(inside, dtype=np.float64), 1)
    target = np.pad(np.asarray(inside > threshold), 1)
    start = np.pad(np.asarray(truth) > 0, 1)
    width = start.shape[1]
    steps = [y * width + x for y, x in AROUND]
    pixels = bytearray(start.tobytes())  # 0 or 1; far faster than an array for single pixels
    wanted = target.tobytes()
    wrong = np.flatnonzero(start != target)
    order = np.argsort(-np.abs(values.ravel()[wrong] - threshold), kind="stable")
    waiting, simple = wrong[order].tolist(), _simple_points()
    n_before = -1
    while waiting and len(waiting) != n_before:
        n_before = len(waiting)
        for at in waiting:
            around = sum(pixels[at + step] << bit for bit, step in enumerate(steps))
            if simple[around]:
                pixels[at] ^= 1
        waiting = [at for at in waiting if pixels[at] != wanted[at]]
    result = np.frombuffer(bytes(pixels), bool).reshape(start.shape)
    return result[1:-1, 1:-1].copy()


@cache
def _simple_points() -> tuple[bool, ...]:
    """For each set of inside neighbours (bit i for `AROUND[i]`), whether the pixel is simple.

    It is if exactly one 4-connected part of the inside touches it by an edge, and the border
    around it is one 8-connected part (Bertrand and Malandain 1994, in two dimensions).
    """
    return tuple(_is_simple(neighbours) for neighbours in range(256))


def _is_simple(neighbours: int) -> bool:
    inside = np.zeros((3, 3), bool)
    for bit, (y, x) in enumerate(AROUND):
        inside[1 + y, 1 + x] = bool(neighbours >> bit & 1)
    border = ~inside
    border[1, 1] = False
    parts = ndi.label(inside)[0]
    touching = {int(parts[at]) for at in ((0, 1), (1, 0), (1, 2), (2, 1))} - {0}
    return len(touching) == 1 and ndi.label(border, np.ones((3, 3)))[1] == 1
