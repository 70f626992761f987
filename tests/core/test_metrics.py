"""The scores, by hand and against brute force."""

from itertools import permutations

import numpy as np
import pytest

from napari_unet.core.metrics import (
    AP_THRESHOLDS,
    ObjectScores,
    mean_average_precision,
    object_scores,
    pixel_dice,
    pixel_iou,
)


def counts(scores):
    return scores.n_true_positive, scores.n_false_positive, scores.n_false_negative


def brute_force_counts(predicted, truth, threshold):
    """The most one-to-one matches, found by trying every assignment."""
    true_ids = [i for i in np.unique(truth) if i]
    said_ids = [i for i in np.unique(predicted) if i]
    iou = {
        (t, p): ((truth == t) & (predicted == p)).sum() / ((truth == t) | (predicted == p)).sum()
        for t in true_ids
        for p in said_ids
    }
    few, many = sorted((true_ids, said_ids), key=len)
    is_truth_few = few is true_ids
    best = 0
    for chosen in permutations(many, len(few)):
        pairs = zip(few, chosen, strict=True) if is_truth_few else zip(chosen, few, strict=True)
        best = max(best, sum(iou[pair] >= threshold for pair in pairs))
    return best, len(said_ids) - best, len(true_ids) - best


def random_labels(seed, n_objects, shape=(9, 9)):
    """Overlapping rectangles, ids with gaps."""
    generator = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    for index in range(n_objects):
        y, x = generator.integers(0, 7, 2)
        height, width = generator.integers(2, 6, 2)
        labels[y : y + height, x : x + width] = 3 * index + 2
    return labels


def test_pixel_scores_by_hand():
    predicted = np.array([[1, 1, 0, 0]], bool)
    truth = np.array([[1, 0, 1, 1]], bool)
    assert pixel_iou(predicted, truth) == 1 / 4
    assert pixel_dice(predicted, truth) == 2 / 5
    assert type(pixel_iou(predicted, truth)) is type(pixel_dice(predicted, truth)) is float


def test_pixel_scores_of_empty_masks():
    empty, full = np.zeros((3, 3), bool), np.ones((3, 3), bool)
    for score in (pixel_iou, pixel_dice):
        assert score(empty, empty) == 1
        assert score(full, full) == 1
        assert score(empty, full) == score(full, empty) == 0


def test_f1_and_average_precision_by_hand():
    scores = ObjectScores(n_true_positive=3, n_false_positive=1, n_false_negative=2)
    assert scores.f1 == pytest.approx(6 / 9)
    assert scores.average_precision == pytest.approx(3 / 6)
    twice = scores + scores
    assert counts(twice) == (6, 2, 4)
    nothing = ObjectScores(n_true_positive=0, n_false_positive=0, n_false_negative=0)
    assert nothing.f1 == nothing.average_precision == 1
    missed = ObjectScores(n_true_positive=0, n_false_positive=0, n_false_negative=1)
    assert missed.f1 == missed.average_precision == 0


def test_objects_by_hand():
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 5]])
    predicted = np.array([[7, 7, 7, 0, 0, 9, 9, 9, 0]])  # IoU 3/4, 2/3, and one missed
    assert counts(object_scores(predicted, truth, 0.5)) == (2, 0, 1)
    assert counts(object_scores(predicted, truth, 0.7)) == (1, 1, 2)
    assert counts(object_scores(predicted, truth, 0.75)) == (1, 1, 2)  # just reached
    assert counts(object_scores(predicted, truth, 0.8)) == (0, 2, 3)


def test_mean_average_precision_by_hand():
    truth = np.array([[1, 1, 1, 1, 0, 0]])
    predicted = np.array([[1, 1, 1, 0, 0, 0]])  # IoU 0.75: a match at 6 of 10 thresholds
    assert mean_average_precision(predicted, truth) == pytest.approx(0.6)
    assert AP_THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.8])
def test_objects_against_brute_force(seed, threshold):
    truth = random_labels(seed, n_objects=1 + seed % 5)
    predicted = random_labels(seed + 100, n_objects=1 + seed % 4)
    if seed % 2:  # something near the truth, as real predictions are
        predicted = np.where(truth > 0, np.roll(truth, 1, axis=seed % 2), 0)
    expected = brute_force_counts(predicted, truth, threshold)
    assert counts(object_scores(predicted, truth, threshold)) == expected


def test_matches_are_one_to_one_below_one_half():
    """One prediction over two truths counts once, and the best choice is made for all."""
    truth = np.array([[1, 1, 2, 2, 2, 3]])
    predicted = np.array([[4, 4, 4, 4, 5, 5]])
    assert counts(object_scores(predicted, truth, 0.2)) == (2, 0, 1)
    assert counts(object_scores(predicted, truth, 0.2)) == brute_force_counts(predicted, truth, 0.2)


def test_many_matches_go_before_good_ones():
    truth = np.array([[2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]])
    predicted = np.array([[8, 8, 8, 8, 8, 8, 8, 8, 8, 9, 9, 9]])
    # IoU of 1 with 8: 7/12, more than 1 with 9 (3/10) and 2 with 8 (2/9) together.
    assert counts(object_scores(predicted, truth, 0.2)) == (2, 0, 0)
    assert counts(object_scores(predicted, truth, 0.4)) == (1, 1, 1)


@pytest.mark.parametrize("seed", range(5))
def test_names_of_objects_do_not_matter(seed):
    truth, predicted = random_labels(seed, 4), random_labels(seed + 1, 4)
    renamed = np.where(truth > 0, 1000 - truth, 0)
    assert object_scores(predicted, renamed, 0.3) == object_scores(predicted, truth, 0.3)
    assert mean_average_precision(truth, renamed) == 1


def test_empty_pictures():
    empty, some = np.zeros((9, 9), int), random_labels(0, 2)
    n_some = len(np.unique(some)) - 1
    assert counts(object_scores(empty, empty)) == (0, 0, 0)
    assert counts(object_scores(some, empty)) == (0, n_some, 0)
    assert counts(object_scores(empty, some)) == (0, 0, n_some)
    assert mean_average_precision(empty, empty) == 1
    assert mean_average_precision(some, empty) == mean_average_precision(empty, some) == 0


def test_no_background_at_all():
    full, halves = np.ones((2, 4), int), np.array([[1, 1, 2, 2]] * 2)
    assert counts(object_scores(full, full)) == (1, 0, 0)
    assert counts(object_scores(halves, full, 0.5)) == (1, 1, 0)
    assert counts(object_scores(full, halves, 0.5)) == (1, 0, 1)


def test_volumes():
    truth = np.zeros((3, 6, 6), np.uint16)
    truth[:, 1:3, 1:3], truth[:, 4:, 4:] = 1, 2
    predicted = truth.copy()
    predicted[2, 1:3, 1:3] = 0
    assert counts(object_scores(predicted, truth, 0.6)) == (2, 0, 0)
    assert counts(object_scores(predicted, truth, 0.7)) == (1, 1, 1)
