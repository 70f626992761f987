"""How well two ways to cut a picture into segments agree: V_rand, V_info and their parts.

After Arganda-Carreras et al. 2015 (Frontiers in Neuroanatomy 9, 142), the measures of the ISBI
2012 challenge on membranes in electron microscopy. All are *foreground-restricted*: pixels that are
0 in the truth (membrane, border, outside) do not count. A pixel that counts but is 0 in the
prediction is a segment of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from napari_unet.core.metrics.overlaps import Labels, overlaps_of

__all__ = ["PartitionScores", "mean_partition_scores", "partition_scores"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionScores:
    """Agreement of a segmentation S with the truth T; all but the last four are best at 1.

    Attributes
    ----------
    n_pixels : pixels that counted; with none all scores are perfect.
    v_rand_split : probability that two pixels are in one segment of S, given that they are in one
        of T. Low where true segments were split.
    v_rand_merge : the other way round. Low where true segments were merged.
    v_rand : harmonic mean of the two, `sum p_ij^2 / (sum s_i^2 / 2 + sum t_j^2 / 2)`.
    v_info_split : `I(S; T) / H(S)`, low where true segments were split.
    v_info_merge : `I(S; T) / H(T)`, low where true segments were merged.
    v_info : harmonic mean of the two, `I(S; T) / (H(S) / 2 + H(T) / 2)`.
    rand_error : 1 - F-score over all pairs of two different pixels ("adapted Rand error").
    rand_disagreement : share of these pairs on which S and T disagree (1 - index of Rand 1971).
    vi_split, vi_merge : the two parts of the variation of information (Meilă 2003), H(S | T) and
        H(T | S) in bits.
    """

    n_pixels: int
    v_rand_split: float
    v_rand_merge: float
    v_rand: float
    v_info_split: float
    v_info_merge: float
    v_info: float
    rand_error: float
    rand_disagreement: float
    vi_split: float
    vi_merge: float

    @property
    def variation_of_information(self) -> float:
        """H(S | T) + H(T | S) in bits; 0 is perfect."""
        return self.vi_split + self.vi_merge


def partition_scores(predicted: Labels, truth: Labels) -> PartitionScores:
    """Compare two partitions of the pixels that are not 0 in the truth.

    Parameters
    ----------
    predicted, truth : ids of segments, 0 for border, one shape.

    Raises
    ------
    SettingsError
        If the shapes differ, or ids are negative or no whole numbers.
    """
    overlaps = overlaps_of(predicted, truth)
    inside = overlaps.truth > 0
    shared = overlaps.shared[inside].astype(np.float64)
    segment = overlaps.predicted[inside]
    sizes = np.bincount(segment, shared, overlaps.n_predicted + 1).astype(np.float64)
    n_alone, ours = float(sizes[0]), sizes[1:]  # each px of border in S is a segment of 1 px
    counts = _Counts(
        both=shared[segment > 0],
        ours=ours[ours > 0],
        truth=overlaps.truth_area[1:].astype(np.float64),
        n_alone=n_alone,
        n_pixels=float(shared.sum()),
    )
    return counts.scores()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Counts:
    """Sizes of the segments of S and T and of their intersections, in px of the foreground."""

    both: npt.NDArray[np.float64]
    ours: npt.NDArray[np.float64]
    truth: npt.NDArray[np.float64]
    n_alone: float
    n_pixels: float

    def scores(self) -> PartitionScores:
        both = float((self.both**2).sum()) + self.n_alone
        ours = float((self.ours**2).sum()) + self.n_alone
        truth = float((self.truth**2).sum())
        n = self.n_pixels  # pairs of different pixels are those of any two without the n equal ones
        h_ours, h_truth = self._entropy(self.ours, self.n_alone), self._entropy(self.truth, 0)
        h_both = self._entropy(self.both, self.n_alone)
        shared = max(0.0, h_ours + h_truth - h_both)  # mutual information
        return PartitionScores(
            n_pixels=int(n),
            v_rand_split=_share(both, truth),
            v_rand_merge=_share(both, ours),
            v_rand=_share(2 * both, ours + truth),
            v_info_split=_share(shared, h_ours),
            v_info_merge=_share(shared, h_truth),
            v_info=_share(2 * shared, h_ours + h_truth),
            rand_error=1 - _share(2 * (both - n), ours + truth - 2 * n),
            rand_disagreement=(ours + truth - 2 * both) / max(1.0, n * (n - 1)),
            vi_split=max(0.0, h_both - h_truth),
            vi_merge=max(0.0, h_both - h_ours),
        )

    def _entropy(self, sizes: npt.NDArray[np.float64], n_alone: float) -> float:
        """Of segments of these sizes and `n_alone` segments of 1 px, in bits."""
        if self.n_pixels == 0:
            return 0.0
        inside = float((sizes * np.log2(sizes / self.n_pixels)).sum())
        return n_alone / self.n_pixels * math.log2(self.n_pixels) - inside / self.n_pixels


def _share(part: float, whole: float) -> float:
    """1 where there is nothing to be right or wrong about."""
    return min(1.0, part / whole) if whole > 0 else 1.0


def mean_partition_scores(scores: Iterable[PartitionScores]) -> PartitionScores:
    """Mean over the slices of a stack, as in the challenge; slices without truth do not count."""
    counted = [one for one in scores if one.n_pixels]
    if not counted:
        nothing = np.zeros((1, 1), np.uint8)
        return partition_scores(nothing, nothing)
    names = [field.name for field in fields(PartitionScores) if field.name != "n_pixels"]
    means = {name: float(np.mean([getattr(one, name) for one in counted])) for name in names}
    return PartitionScores(n_pixels=sum(one.n_pixels for one in counted), **means)
