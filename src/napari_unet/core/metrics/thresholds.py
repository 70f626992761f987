"""Scores of a probability map at the threshold that suits it best, as the ISBI 2012 challenge does.

The map is cut at each threshold into inside and border; the 4-connected parts of the inside are
the segments. What is said to be best at one threshold is the mean over the slices of a stack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi
from skimage.segmentation import watershed

from napari_unet.core.errors import SettingsError
from napari_unet.core.metrics.overlaps import check_alike
from napari_unet.core.metrics.partitions import (
    PartitionScores,
    mean_partition_scores,
    partition_scores,
)
from napari_unet.core.metrics.pixels import pixel_dice

__all__ = [
    "THRESHOLDS",
    "Best",
    "PartitionMeasure",
    "best_of",
    "best_over_thresholds",
    "best_pixel_error",
    "scores_over_thresholds",
    "segments_of",
]

THRESHOLDS = tuple(np.arange(0, 1, 0.1).round(1).tolist())
"""Those of the challenge; a pixel is inside where its probability is *above* the threshold."""

PartitionMeasure = Literal["v_rand", "v_info", "rand_error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best value of a measure, and at which threshold it was reached.

    Attributes
    ----------
    threshold : the lowest one with this value.
    value : of the measure.
    scores : all that was measured there, mean over the slices.
    """

    threshold: float
    value: float
    scores: PartitionScores


def segments_of(inside: npt.NDArray[np.bool_], *, thin: bool = False) -> npt.NDArray[np.int32]:
    """Number the 4-connected parts of a mask.

    Parameters
    ----------
    inside : `(y, x)` bool.
    thin : let the parts grow evenly into the border until a line of 1 px is left between them (a
        watershed of the mask with dams), so that the width of the border does not count.

    Returns
    -------
    int32 `(y, x)`
        0 for border. A picture without any inside stays border, thinned or not.
    """
    segments, n_segments = ndi.label(inside)
    if thin and n_segments:
        flat = np.zeros(segments.shape, np.uint8)  # the nearest part wins
        segments = watershed(flat, segments, connectivity=1, watershed_line=True)
    return np.asarray(segments, dtype=np.int32)


def scores_over_thresholds(
    inside: npt.NDArray[np.floating],
    truth: npt.NDArray[np.integer | np.bool_],
    *,
    thin: bool = True,
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[float, PartitionScores]:
    """Scores at each threshold, mean over the slices.

    Parameters
    ----------
    inside : `([z,] y, x)`, probability of *not* being border, 0 to 1. Of a map of membranes, give
        1 minus it.
    truth : of the same shape; bool, True inside (cut into its 4-connected parts, slice by slice),
        or ids of segments, 0 for border.
    thin : thin the predicted border to a line of 1 px first, as for the challenge's final V_rand
        and V_info. Its Rand error of 2012 was measured without.

    Raises
    ------
    SettingsError
        If the shapes differ, there are less than two axes or no pixels, or no threshold is given.
    """
    maps, truths = _slices(inside, truth, thresholds)
    if truths.dtype == bool:
        truths = np.stack([segments_of(one) for one in truths])
    scores: dict[float, PartitionScores] = {}
    for threshold in thresholds:
        found = (segments_of(one > threshold, thin=thin) for one in maps)
        each = (partition_scores(one, true) for one, true in zip(found, truths, strict=True))
        scores[threshold] = mean_partition_scores(each)
    return scores


def best_over_thresholds(
    inside: npt.NDArray[np.floating],
    truth: npt.NDArray[np.integer | np.bool_],
    measure: PartitionMeasure = "v_rand",
    *,
    thin: bool = True,
    thresholds: Sequence[float] = THRESHOLDS,
) -> Best:
    """The highest "v_rand" or "v_info", or the lowest "rand_error", over the thresholds.

    Parameters and errors are those of `scores_over_thresholds`, from which `best_of` finds several
    at once.
    """
    return best_of(scores_over_thresholds(inside, truth, thin=thin, thresholds=thresholds), measure)


def best_of(scores: Mapping[float, PartitionScores], measure: PartitionMeasure) -> Best:
    """The best value of a measure among scores by threshold.

    Raises
    ------
    SettingsError
        If there is no such measure.
    """
    if measure not in get_args(PartitionMeasure):
        raise SettingsError(
            f"measure must be one of {', '.join(get_args(PartitionMeasure))}, not {measure!r}."
        )
    sign = -1 if measure == "rand_error" else 1
    threshold = max(scores, key=lambda one: (sign * getattr(scores[one], measure), -one))
    found = scores[threshold]
    return Best(threshold=threshold, value=getattr(found, measure), scores=found)


def best_pixel_error(
    inside: npt.NDArray[np.floating],
    truth: npt.NDArray[np.integer | np.bool_],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> tuple[float, float]:
    """Threshold and value of the lowest 1 - F-score of the inside pixels, all slices together.

    The pixel error in the form of the challenge's tables; `pixel_error` is the mean squared one.
    Parameters and errors are those of `scores_over_thresholds`.
    """
    _slices(inside, truth, thresholds)
    errors = {one: 1 - pixel_dice(inside > one, truth > 0) for one in thresholds}
    threshold = min(errors, key=lambda one: (errors[one], one))
    return threshold, errors[threshold]


def _slices(
    inside: npt.NDArray[np.floating],
    truth: npt.NDArray[np.integer | np.bool_],
    thresholds: Sequence[float],
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.integer | np.bool_]]:
    """Both as `(slice, y, x)`."""
    check_alike(inside, truth)
    if inside.ndim < 2:
        raise SettingsError(f"Pictures have the axes y and x, but these have {inside.ndim}.")
    if not truth.size:
        raise SettingsError(f"The pictures of the shape {truth.shape} have no pixels to compare.")
    if not len(thresholds):
        raise SettingsError("thresholds is empty; give at least one, such as 0.5.")
    shape = (-1, *inside.shape[-2:])
    return inside.reshape(shape), truth.reshape(shape)
