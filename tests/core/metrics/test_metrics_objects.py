"""Scores of objects beyond F1 and AP: precision, recall, panoptic quality, SEG."""

import numpy as np
import pytest
import torch

from napari_unet.core.errors import SettingsError
from napari_unet.core.metrics import (
    AP_THRESHOLDS,
    ObjectScores,
    SegScore,
    mean_average_precision,
    object_scores,
    scores_over_iou,
    seg_score,
)

# true objects of 4, 2 and 1 px; the first two are found with an IoU of 3/4 and 2/3
TRUTH = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 5]])
SAID = np.array([[7, 7, 7, 0, 0, 9, 9, 9, 0]])


def blobs(seed, shape=(40, 40), n=12):
    """Discs that may cover each other, and the same shaken."""
    generator = np.random.default_rng(seed)
    y, x = np.indices(shape)
    truth, said = np.zeros((2, *shape), np.uint16)
    for number, (a, b) in enumerate(generator.integers(3, 37, (n, 2)), start=1):
        truth[np.hypot(y - a, x - b) < 5] = number
        a, b, r = a + generator.integers(-2, 3), b + generator.integers(-2, 3), 5 + number % 3 - 1
        said[np.hypot(y - a, x - b) < r] = n + 1 - number
    return said, truth


def test_by_hand():
    scores = object_scores(SAID, TRUTH)
    assert scores.precision == 1
    assert scores.recall == pytest.approx(2 / 3)
    assert scores.mean_matched_iou == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert scores.panoptic_quality == pytest.approx((3 / 4 + 2 / 3) / (2 + 1 / 2))
    assert scores.panoptic_quality == pytest.approx(scores.f1 * scores.mean_matched_iou)
    over = scores_over_iou(SAID, TRUTH)
    assert tuple(over) == AP_THRESHOLDS
    assert [over[t].n_true_positive for t in AP_THRESHOLDS] == [2, 2, 2, 2, 1, 1, 0, 0, 0, 0]
    # TP / (TP + FP + FN): 2/3 four times, 1/4 twice, 0
    assert mean_average_precision(SAID, TRUTH) == pytest.approx((4 * 2 / 3 + 2 / 4) / 10)


def test_nothing_to_find_or_nothing_found():
    empty, one = np.zeros((2, 2), int), np.ones((2, 2), int)
    for name in ("f1", "precision", "recall", "average_precision", "panoptic_quality"):
        assert getattr(object_scores(empty, empty), name) == 1
    invented, missed = object_scores(one, empty), object_scores(empty, one)
    assert (invented.precision, invented.recall, invented.panoptic_quality) == (0, 1, 0)
    assert (missed.precision, missed.recall, missed.panoptic_quality) == (1, 0, 0)
    assert missed.mean_matched_iou == 0


def test_sum_over_images():
    both = object_scores(SAID, TRUTH) + object_scores(TRUTH, TRUTH)
    assert both == ObjectScores(
        n_true_positive=5, n_false_positive=0, n_false_negative=1, matched_iou=3 / 4 + 2 / 3 + 3
    )


def test_the_most_matches_come_before_the_best_ones():
    truth = np.array([[1] * 6 + [2] * 6])
    said = np.array([[1] * 2 + [2] * 8 + [3] * 2])
    # IoU: object 2 (8 px) shares 4 px with each true one, 4/10; 1 and 3 share 2 px, 2/6
    scores = object_scores(said, truth, 0.3)
    assert scores.n_true_positive == 2
    assert scores.matched_iou == pytest.approx(4 / 10 + 2 / 6)


@pytest.mark.parametrize("seed", range(4))
def test_panoptic_quality_against_monai(seed):
    from monai.metrics.panoptic_quality import compute_panoptic_quality

    said, truth = blobs(seed)
    above_half = float(np.nextafter(0.5, 1))  # MONAI does not take an IoU of just 0.5
    found = object_scores(said, truth, above_half).panoptic_quality
    expected = compute_panoptic_quality(
        torch.from_numpy(said.astype(int)), torch.from_numpy(truth.astype(int)), "pq", remap=True
    )
    assert 0.2 < found < 1
    assert found == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("threshold", [0, -0.5, 1.1, float("nan")])
def test_threshold(threshold):
    with pytest.raises(SettingsError, match="threshold must be above 0 and at most 1"):
        object_scores(SAID, TRUTH, threshold)


def test_seg_by_hand():
    truth = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4]])
    said = np.array([[0, 6, 6, 6, 6, 6, 8, 8, 0, 0, 0, 8, 8, 8, 8]])
    # 1: 6 covers 3 of 4 px, 3 / (4 + 5 - 3) = 1/2
    # 2: 6 and 8 cover 2 of 4 px each, and none more than half: 0
    # 3: missed: 0
    # 4: 8 covers all, 4 / 6
    scores = seg_score(said, truth)
    assert scores.n_objects == 4
    assert scores.seg == pytest.approx((1 / 2 + 4 / 6) / 4)


def test_seg_needs_more_than_half():
    truth = np.array([[1, 1, 1, 1]])
    assert seg_score(np.array([[5, 5, 0, 0]]), truth).seg == 0
    assert seg_score(np.array([[5, 5, 5, 0]]), truth).seg == 3 / 4


def test_seg_of_merged_objects_counts_for_each():
    truth = np.array([[1, 1, 2, 2, 2]])
    assert seg_score(np.ones((1, 5), int), truth).seg == pytest.approx((2 / 5 + 3 / 5) / 2)


def test_seg_takes_partial_truth_and_no_truth():
    truth = np.array([[1, 1, 0, 0]])
    assert seg_score(np.array([[1, 1, 2, 3]]), truth).seg == 1  # what was not drawn does not count
    nothing = seg_score(np.array([[1, 1, 2, 3]]), 0 * truth)
    assert (nothing.seg, nothing.n_objects) == (1, 0)
    assert seg_score(0 * truth, truth) == SegScore(total=0, n_objects=1)
    both = nothing + seg_score(0 * truth, truth)
    assert both.seg == 0 and both.n_objects == 1


def slow_seg(said, truth):
    """Object by object, as it is written down."""
    scores = []
    for number in set(truth.ravel().tolist()) - {0}:
        mine, score = truth == number, 0.0
        for other in set(said[mine].tolist()) - {0}:
            theirs = said == other
            if (mine & theirs).sum() > 0.5 * mine.sum():
                score = (mine & theirs).sum() / (mine | theirs).sum()
        scores.append(score)
    return np.mean(scores)


@pytest.mark.parametrize("seed", range(6))
def test_seg_against_loops(seed):
    said, truth = blobs(seed)
    assert seg_score(said, truth).seg == pytest.approx(slow_seg(said, truth))
