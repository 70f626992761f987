"""SEG, the segmentation measure of the Cell Tracking Challenge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_unet.core.metrics.overlaps import Labels, overlaps_of

__all__ = ["SegScore", "seg_score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegScore:
    """SEG of one image or of several; sums over images.

    Attributes
    ----------
    total : sum of the Jaccard indices of all true objects.
    n_objects : number of true objects.
    """

    total: float
    n_objects: int

    @property
    def seg(self) -> float:
        """Mean Jaccard index over all true objects, 0 to 1; 1 if there are none."""
        return self.total / self.n_objects if self.n_objects else 1.0

    def __add__(self, other: SegScore) -> SegScore:
        return SegScore(total=self.total + other.total, n_objects=self.n_objects + other.n_objects)


def seg_score(predicted: Labels, truth: Labels) -> SegScore:
    """SEG after Maška et al. 2014 (Bioinformatics 30, 1609).

    A true object R is matched with the predicted object S that covers more than half of it,
    `|R ∩ S| > 0.5 |R|`; there is at most one. Its score is their IoU (Jaccard index), or 0 if there
    is none. Predicted objects that match nothing are not punished, so the truth may be partial: in
    images where only some cells were drawn, only those count.

    Parameters
    ----------
    predicted, truth : object ids, 0 for background, one shape.

    Raises
    ------
    SettingsError
        If the shapes differ, or ids are negative or no whole numbers.
    """
    overlaps = overlaps_of(predicted, truth)
    is_pair = (overlaps.truth > 0) & (overlaps.predicted > 0)
    covered = 2 * overlaps.shared > overlaps.truth_area[overlaps.truth]
    return SegScore(
        total=float(np.sum(overlaps.iou[is_pair & covered])), n_objects=overlaps.n_truth
    )
