"""How well masks and classes agree, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from napari_unet.core.corrections import IGNORE
from napari_unet.core.errors import SettingsError
from napari_unet.core.metrics.overlaps import Labels, check_alike

__all__ = [
    "ClassMeasure",
    "ClassScores",
    "class_scores",
    "pixel_dice",
    "pixel_error",
    "pixel_iou",
]

ClassMeasure = Literal["iou", "dice", "precision", "recall"]


def pixel_iou(predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Intersection over union of two masks of one shape; 1 if both are empty.

    Raises
    ------
    SettingsError
        If the shapes differ.
    """
    check_alike(predicted, truth)
    union = np.count_nonzero(predicted | truth)
    return float(np.count_nonzero(predicted & truth) / union) if union else 1.0


def pixel_dice(predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Dice coefficient of two masks of one shape; 1 if both are empty.

    Raises
    ------
    SettingsError
        If the shapes differ.
    """
    check_alike(predicted, truth)
    total = np.count_nonzero(predicted) + np.count_nonzero(truth)
    return float(2 * np.count_nonzero(predicted & truth) / total) if total else 1.0


def pixel_error(predicted: npt.NDArray[np.generic], truth: npt.NDArray[np.bool_]) -> float:
    """Mean squared difference of a mask or probabilities and a true mask, of one shape.

    Of two masks this is the share of pixels that differ. 0 of an empty picture.

    Parameters
    ----------
    predicted : bool, or probabilities of being inside, 0 to 1.
    truth : bool.

    Raises
    ------
    SettingsError
        If the shapes differ, or values are outside 0 to 1.
    """
    check_alike(predicted, truth)
    if predicted.size == 0:
        return 0.0
    values = np.asarray(predicted, dtype=np.float64)
    if values.min() < 0 or values.max() > 1:
        raise SettingsError(
            f"The prediction holds values from {values.min():g} to {values.max():g}, but masks "
            "and probabilities are between 0 and 1. Divide gray values by their highest one."
        )
    return float(np.mean((values - np.asarray(truth, dtype=bool)) ** 2))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassScores:
    """How often each class was taken for which; sums over images.

    Scores of a class are NaN where it occurs neither in the truth nor in the prediction.
    A class that was never predicted but occurs has a precision of 0; one that was only predicted,
    a recall of 0.

    Attributes
    ----------
    confusion : `(true class, predicted class)` int64, px.
    """

    confusion: npt.NDArray[np.int64]

    @property
    def n_pixels(self) -> int:
        """Pixels that were compared."""
        return int(self.confusion.sum())

    @property
    def iou(self) -> npt.NDArray[np.float64]:
        """TP / (TP + FP + FN) of each class, `(class,)`; Jaccard 1912."""
        return self._divided(self._hits, self._truth + self._predicted - self._hits)

    @property
    def dice(self) -> npt.NDArray[np.float64]:
        """2 TP / (2 TP + FP + FN) of each class, `(class,)`; Dice 1945. The F1 of its pixels."""
        return self._divided(2 * self._hits, self._truth + self._predicted)

    @property
    def precision(self) -> npt.NDArray[np.float64]:
        """TP / (TP + FP) of each class, `(class,)`."""
        return self._divided(self._hits, self._predicted)

    @property
    def recall(self) -> npt.NDArray[np.float64]:
        """TP / (TP + FN) of each class, `(class,)`."""
        return self._divided(self._hits, self._truth)

    @property
    def accuracy(self) -> float:
        """Share of pixels whose class is right; NaN if there were none."""
        return float(self._hits.sum() / self.n_pixels) if self.n_pixels else float("nan")

    def mean(self, measure: ClassMeasure, *, with_background: bool = True) -> float:
        """Mean of a measure over the classes that occur; NaN if none does.

        Raises
        ------
        SettingsError
            If there is no such measure.
        """
        if measure not in get_args(ClassMeasure):
            raise SettingsError(
                f"measure must be one of {', '.join(get_args(ClassMeasure))}, not {measure!r}."
            )
        values = getattr(self, measure)[0 if with_background else 1 :]
        known = values[~np.isnan(values)]
        return float(known.mean()) if known.size else float("nan")

    @property
    def _hits(self) -> npt.NDArray[np.int64]:
        return np.diagonal(self.confusion)

    @property
    def _truth(self) -> npt.NDArray[np.int64]:
        return np.asarray(self.confusion.sum(axis=1))

    @property
    def _predicted(self) -> npt.NDArray[np.int64]:
        return np.asarray(self.confusion.sum(axis=0))

    def _divided(
        self, above: npt.NDArray[np.int64], below: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """0 where there is nothing below but the class occurs, NaN where it does not."""
        scores = np.where(self._truth + self._predicted > 0, 0.0, np.nan)
        return np.asarray(np.divide(above, below, out=scores, where=below > 0))

    def __add__(self, other: ClassScores) -> ClassScores:
        n_classes = max(len(self.confusion), len(other.confusion))
        total = np.zeros((n_classes, n_classes), np.int64)
        for confusion in (self.confusion, other.confusion):
            total[: len(confusion), : len(confusion)] += confusion
        return ClassScores(confusion=total)


def class_scores(
    predicted: Labels,
    truth: Labels,
    n_classes: int | None = None,
    *,
    ignore: int | None = IGNORE,
) -> ClassScores:
    """Compare classes pixel by pixel.

    Parameters
    ----------
    predicted, truth : class of each pixel, from 0; one shape, any whole-number type.
    n_classes : number of classes; None for as many as occur.
    ignore : value of true pixels that do not count; None for none.

    Raises
    ------
    SettingsError
        If the shapes differ, or a pixel that counts has a class that there is not.
    """
    check_alike(predicted, truth)
    known = np.ones(truth.shape, bool) if ignore is None else truth != ignore
    ours = _classes(truth[known], n_classes, "The truth")
    theirs = _classes(predicted[known], n_classes, "The prediction")
    n = n_classes or 1 + max(int(ours.max(initial=0)), int(theirs.max(initial=0)))
    confusion = np.bincount(ours * n + theirs, minlength=n * n).reshape(n, n)  # (truth, predicted)
    return ClassScores(confusion=confusion.astype(np.int64))


def _classes(classes: Labels, n_classes: int | None, whose: str) -> npt.NDArray[np.int64]:
    if classes.dtype.kind not in "biu":
        raise SettingsError(f"{whose} must hold classes as whole numbers, not {classes.dtype}.")
    highest = IGNORE if n_classes is None else n_classes - 1
    lowest, most = int(classes.min(initial=0)), int(classes.max(initial=0))
    if lowest < 0 or most > highest:
        raise SettingsError(
            f"{whose} holds the class {lowest if lowest < 0 else most}, but classes are 0 to "
            f"{highest}. Check that this is no image of object ids or of gray values."
        )
    return classes.astype(np.int64)
