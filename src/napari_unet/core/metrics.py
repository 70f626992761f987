"""How well a segmentation agrees with the truth: by pixel and by object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from skimage.metrics import contingency_table

__all__ = ["ObjectScores", "mean_average_precision", "object_scores", "pixel_dice", "pixel_iou"]

Labels = npt.NDArray[np.integer]
AP_THRESHOLDS = tuple(np.arange(0.5, 1.0, 0.05).round(2).tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectScores:
    """Objects found, invented and missed at one threshold of overlap."""

    n_true_positive: int
    n_false_positive: int
    n_false_negative: int

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); 1 if there was nothing to find and nothing was found."""
        total = 2 * self.n_true_positive + self.n_false_positive + self.n_false_negative
        return 2 * self.n_true_positive / total if total else 1.0

    @property
    def average_precision(self) -> float:
        """TP / (TP + FP + FN), as in the Data Science Bowl 2018; 1 if both are empty."""
        total = self.n_true_positive + self.n_false_positive + self.n_false_negative
        return self.n_true_positive / total if total else 1.0

    def __add__(self, other: ObjectScores) -> ObjectScores:
        return ObjectScores(
            n_true_positive=self.n_true_positive + other.n_true_positive,
            n_false_positive=self.n_false_positive + other.n_false_positive,
            n_false_negative=self.n_false_negative + other.n_false_negative,
        )


def pixel_iou(predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Intersection over union of two masks of one shape; 1 if both are empty."""
    union = np.count_nonzero(predicted | truth)
    return float(np.count_nonzero(predicted & truth) / union) if union else 1.0


def pixel_dice(predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Dice coefficient of two masks of one shape; 1 if both are empty."""
    total = np.count_nonzero(predicted) + np.count_nonzero(truth)
    return float(2 * np.count_nonzero(predicted & truth) / total) if total else 1.0


def _overlaps(predicted: Labels, truth: Labels) -> npt.NDArray[np.float64]:
    """IoU of each true object (rows) with each predicted one (columns)."""
    _, truth_index = np.unique(truth, return_inverse=True)
    _, predicted_index = np.unique(predicted, return_inverse=True)
    shift_truth = 0 if (truth == 0).any() else 1
    shift_predicted = 0 if (predicted == 0).any() else 1
    table = contingency_table(
        truth_index.ravel() + shift_truth, predicted_index.ravel() + shift_predicted
    ).toarray()
    areas_truth = table.sum(axis=1, keepdims=True)
    areas_predicted = table.sum(axis=0, keepdims=True)
    union = areas_truth + areas_predicted - table
    with np.errstate(invalid="ignore"):
        iou = np.where(union > 0, table / np.maximum(union, 1), 0.0)
    return np.asarray(iou[1:, 1:], dtype=np.float64)


def _scores_at(overlaps: npt.NDArray[np.float64], threshold: float) -> ObjectScores:
    """One-to-one matches of at least `threshold`, as many as possible."""
    n_truth, n_predicted = overlaps.shape
    matched = overlaps >= threshold
    rows, columns = linear_sum_assignment(-(matched + overlaps / (2 * max(1, min(overlaps.shape)))))
    n_matched = int(matched[rows, columns].sum())
    return ObjectScores(
        n_true_positive=n_matched,
        n_false_positive=n_predicted - n_matched,
        n_false_negative=n_truth - n_matched,
    )


def object_scores(predicted: Labels, truth: Labels, threshold: float = 0.5) -> ObjectScores:
    """Match objects one to one where their IoU is at least `threshold`.

    Parameters
    ----------
    predicted, truth : object ids, 0 for background, one shape.
    threshold : smallest IoU of a match, in (0, 1].
    """
    return _scores_at(_overlaps(predicted, truth), threshold)


def mean_average_precision(predicted: Labels, truth: Labels) -> float:
    """Mean of TP / (TP + FP + FN) over IoU 0.50, 0.55, ..., 0.95 (Data Science Bowl 2018)."""
    overlaps = _overlaps(predicted, truth)
    return float(np.mean([_scores_at(overlaps, t).average_precision for t in AP_THRESHOLDS]))
