"""All scores of one kind in a row, and rows of several images in a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from napari_unet.core.metrics.objects import ObjectScores, scores_over_iou
from napari_unet.core.metrics.partitions import PartitionScores, mean_partition_scores
from napari_unet.core.metrics.pixels import ClassScores, class_scores, pixel_error
from napari_unet.core.metrics.thresholds import best_of, scores_over_thresholds
from napari_unet.core.metrics.tracking import SegScore, seg_score
from napari_unet.core.metrics.warping import warping_error

__all__ = ["ALL", "MEAN", "Kind", "Row", "measured", "table_of"]

Kind = Literal["objects", "classes", "membranes"]
ALL, MEAN = "all together", "mean of images"

_Array: TypeAlias = npt.NDArray[Any]


class Row(Protocol):
    """All scores of one image; two rows added are those of both images together."""

    def values(self) -> dict[str, float]:
        """Name and value of each score; NaN where there is nothing to say."""

    def __add__(self, other: Any) -> Row:
        """The scores of both images together."""


def measured(kind: Kind, predicted: _Array, truth: _Array) -> Row:
    """Compare one image with its truth.

    Parameters
    ----------
    kind : "objects" or "classes" for label images, "membranes" for probabilities of being inside.
    predicted, truth : of one shape; for "membranes" `([z,] y, x)`, the truth 0 on membranes.

    Raises
    ------
    SettingsError
        If they do not fit each other or the kind.
    """
    measures = {"objects": _objects, "classes": _classes, "membranes": _membranes}
    return measures[kind](predicted, truth)


def table_of(rows: Mapping[str, Row]) -> list[dict[str, float | str]]:
    """A line for each image, and for several their sum and their mean, with the same columns."""
    lines = {name: row.values() for name, row in rows.items()}
    columns = list(dict.fromkeys(column for line in lines.values() for column in line))
    if len(rows) > 1:
        first, *others = rows.values()
        for other in others:
            first = first + other
        mean = {column: _mean(lines.values(), column) for column in columns}
        lines |= {ALL: first.values(), MEAN: mean}
    return [
        {"image": name, **{column: line.get(column, math.nan) for column in columns}}
        for name, line in lines.items()
    ]


def _mean(lines: Any, column: str) -> float:
    values = [line[column] for line in lines if not math.isnan(line.get(column, math.nan))]
    return float(np.mean(values)) if values else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class _Objects:
    by_iou: Mapping[float, ObjectScores]
    seg: SegScore
    pixels: ClassScores

    def values(self) -> dict[str, float]:
        half = self.by_iou[0.5]
        return {
            "true": half.n_true_positive + half.n_false_negative,
            "found": half.n_true_positive + half.n_false_positive,
            "f1": half.f1,
            "precision": half.precision,
            "recall": half.recall,
            "mean_ap": float(np.mean([one.average_precision for one in self.by_iou.values()])),
            "panoptic": half.panoptic_quality,
            "seg": self.seg.seg if self.seg.n_objects else math.nan,
            "pixel_iou": float(self.pixels.iou[1]),
        }

    def __add__(self, other: _Objects) -> _Objects:
        return _Objects(
            by_iou={iou: one + other.by_iou[iou] for iou, one in self.by_iou.items()},
            seg=self.seg + other.seg,
            pixels=self.pixels + other.pixels,
        )


def _objects(predicted: _Array, truth: _Array) -> Row:
    return _Objects(
        by_iou=scores_over_iou(predicted, truth),
        seg=seg_score(predicted, truth),
        pixels=class_scores(predicted > 0, truth > 0, 2, ignore=None),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Classes:
    scores: ClassScores

    def values(self) -> dict[str, float]:
        values = {
            "accuracy": self.scores.accuracy,
            "mean_iou": self.scores.mean("iou"),
            "mean_dice": self.scores.mean("dice"),
            "mean_precision": self.scores.mean("precision"),
            "mean_recall": self.scores.mean("recall"),
        }
        each = {f"iou_{number}": float(iou) for number, iou in enumerate(self.scores.iou)}
        return {**values, **each}

    def __add__(self, other: _Classes) -> _Classes:
        return _Classes(scores=self.scores + other.scores)


def _classes(predicted: _Array, truth: _Array) -> Row:
    return _Classes(scores=class_scores(predicted, truth))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Membranes:
    """Of each slice: scores by threshold, with thinned borders and without, and other errors."""

    thin: Sequence[Mapping[float, PartitionScores]]
    thick: Sequence[Mapping[float, PartitionScores]]
    pixel: Sequence[float]
    warping: Sequence[float]

    def values(self) -> dict[str, float]:
        thin, thick = _mean_of_slices(self.thin), _mean_of_slices(self.thick)
        rand = best_of(thin, "v_rand")
        return {
            "v_rand": rand.value,
            "at": rand.threshold,
            "split": rand.scores.v_rand_split,
            "merge": rand.scores.v_rand_merge,
            "v_info": best_of(thin, "v_info").value,
            "rand_error": best_of(thick, "rand_error").value,
            "pixel_error": float(np.mean(self.pixel)),
            "warping": float(np.mean(self.warping)),
        }

    def __add__(self, other: _Membranes) -> _Membranes:
        return _Membranes(
            thin=[*self.thin, *other.thin],
            thick=[*self.thick, *other.thick],
            pixel=[*self.pixel, *other.pixel],
            warping=[*self.warping, *other.warping],
        )


def _mean_of_slices(
    slices: Sequence[Mapping[float, PartitionScores]],
) -> dict[float, PartitionScores]:
    return {at: mean_partition_scores(one[at] for one in slices) for at in slices[0]}


def _membranes(inside: _Array, truth: _Array) -> Row:
    shape = (-1, *truth.shape[-2:])
    slices = list(zip(inside.reshape(shape), truth.reshape(shape) > 0, strict=True))
    return _Membranes(
        thin=[scores_over_thresholds(one, true) for one, true in slices],
        thick=[scores_over_thresholds(one, true, thin=False) for one, true in slices],
        pixel=[pixel_error(one, true) for one, true in slices],
        warping=[warping_error(one, true) for one, true in slices],
    )
