"""Objects found, invented and missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from napari_unet.core.errors import SettingsError
from napari_unet.core.metrics.overlaps import Labels, Overlaps, overlaps_of

__all__ = [
    "AP_THRESHOLDS",
    "ObjectScores",
    "mean_average_precision",
    "object_scores",
    "scores_over_iou",
]

AP_THRESHOLDS = tuple(np.arange(0.5, 1.0, 0.05).round(2).tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectScores:
    """Objects found, invented and missed at one threshold of overlap; sums over images.

    Attributes
    ----------
    n_true_positive, n_false_positive, n_false_negative : objects found, invented, missed.
    matched_iou : sum of the IoU of those that were found.
    """

    n_true_positive: int
    n_false_positive: int
    n_false_negative: int
    matched_iou: float = 0.0

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); 1 if there was nothing to find and nothing was found."""
        total = 2 * self.n_true_positive + self.n_false_positive + self.n_false_negative
        return 2 * self.n_true_positive / total if total else 1.0

    @property
    def precision(self) -> float:
        """TP / (TP + FP), share of the found ones that are right; 1 if nothing was found."""
        total = self.n_true_positive + self.n_false_positive
        return self.n_true_positive / total if total else 1.0

    @property
    def recall(self) -> float:
        """TP / (TP + FN), share of the true ones that were found; 1 if there were none."""
        total = self.n_true_positive + self.n_false_negative
        return self.n_true_positive / total if total else 1.0

    @property
    def average_precision(self) -> float:
        """TP / (TP + FP + FN), as in the Data Science Bowl 2018; 1 if both are empty."""
        total = self.n_true_positive + self.n_false_positive + self.n_false_negative
        return self.n_true_positive / total if total else 1.0

    @property
    def mean_matched_iou(self) -> float:
        """Mean IoU of the objects that were found; 0 if there are none."""
        return self.matched_iou / self.n_true_positive if self.n_true_positive else 0.0

    @property
    def panoptic_quality(self) -> float:
        """Sum of IoU / (TP + FP / 2 + FN / 2), Kirillov et al. 2019; 1 if both are empty.

        It is `f1 * mean_matched_iou`, and meant for the threshold of 0.5. The paper asks for an IoU
        above 0.5; here just 0.5 is enough, as for all the other scores.
        """
        total = 2 * self.n_true_positive + self.n_false_positive + self.n_false_negative
        return 2 * self.matched_iou / total if total else 1.0

    def __add__(self, other: ObjectScores) -> ObjectScores:
        return ObjectScores(
            n_true_positive=self.n_true_positive + other.n_true_positive,
            n_false_positive=self.n_false_positive + other.n_false_positive,
            n_false_negative=self.n_false_negative + other.n_false_negative,
            matched_iou=self.matched_iou + other.matched_iou,
        )


def object_scores(predicted: Labels, truth: Labels, threshold: float = 0.5) -> ObjectScores:
    """Match objects one to one where their IoU is at least `threshold`.

    Parameters
    ----------
    predicted, truth : object ids, 0 for background, one shape.
    threshold : smallest IoU of a match, in (0, 1].

    Raises
    ------
    SettingsError
        If the shapes differ, ids are negative or no whole numbers, or the threshold is outside
        (0, 1].
    """
    return _scores_at(overlaps_of(predicted, truth), threshold)


def scores_over_iou(
    predicted: Labels, truth: Labels, thresholds: Sequence[float] = AP_THRESHOLDS
) -> dict[float, ObjectScores]:
    """`object_scores` at each threshold of IoU; parameters and errors are the same."""
    overlaps = overlaps_of(predicted, truth)
    return {threshold: _scores_at(overlaps, threshold) for threshold in thresholds}


def mean_average_precision(predicted: Labels, truth: Labels) -> float:
    """Mean of TP / (TP + FP + FN) over IoU 0.50, 0.55, ..., 0.95 (Data Science Bowl 2018).

    Parameters and errors are those of `object_scores`.
    """
    scores = scores_over_iou(predicted, truth)
    return float(np.mean([one.average_precision for one in scores.values()]))


def _scores_at(overlaps: Overlaps, threshold: float) -> ObjectScores:
    """One-to-one matches of at least `threshold`, as many as possible."""
    if not 0 < threshold <= 1:
        raise SettingsError(f"threshold must be above 0 and at most 1, not {threshold!r}.")
    matched = _matched(overlaps, threshold)
    return ObjectScores(
        n_true_positive=len(matched),
        n_false_positive=overlaps.n_predicted - len(matched),
        n_false_negative=overlaps.n_truth - len(matched),
        matched_iou=float(matched.sum()),
    )


def _matched(overlaps: Overlaps, threshold: float) -> npt.NDArray[np.float64]:
    """IoU of each match."""
    iou = overlaps.iou
    can = (overlaps.truth > 0) & (overlaps.predicted > 0) & (iou >= threshold)
    rows, columns, iou = overlaps.truth[can], overlaps.predicted[can], iou[can]
    # Nearly all objects have one possible partner (above 0.5, every one), and need no assignment.
    alone = (np.bincount(rows)[rows] == 1) & (np.bincount(columns)[columns] == 1)
    if alone.all():
        return iou
    disputed = _assigned(rows[~alone], columns[~alone], iou[~alone])
    return np.concatenate([iou[alone], disputed])


def _assigned(
    rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], iou: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """IoU of as many matches as possible, and among those of the largest sum."""
    _, at_row = np.unique(rows, return_inverse=True)
    _, at_column = np.unique(columns, return_inverse=True)
    table = np.zeros((int(at_row.max()) + 1, int(at_column.max()) + 1))
    table[at_row, at_column] = iou
    gain = (table > 0) + table / (2 * min(table.shape))  # all IoU together count less than a match
    best = linear_sum_assignment(-gain)
    return np.asarray(table[best][table[best] > 0])
