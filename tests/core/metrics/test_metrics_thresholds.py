"""Probability maps at their best threshold, and thinned borders."""

import numpy as np
import pytest

from napari_unet.core.errors import SettingsError
from napari_unet.core.metrics import (
    THRESHOLDS,
    best_of,
    best_over_thresholds,
    best_pixel_error,
    partition_scores,
    scores_over_thresholds,
    segments_of,
    warping_error,
)


def two_rooms(width_of_wall, n_rows=6, n_columns=11):
    """A picture cut in two by a wall in its middle, True inside."""
    inside = np.ones((n_rows, n_columns), bool)
    first = (n_columns - width_of_wall) // 2
    inside[:, first : first + width_of_wall] = False
    return inside


def test_segments_touch_by_edges_only():
    inside = np.array([[1, 0, 1], [0, 1, 1], [1, 0, 0]], bool)
    assert segments_of(inside).tolist() == [[1, 0, 2], [0, 2, 2], [3, 0, 0]]


def test_thinning_leaves_a_line_in_the_middle():
    expected = segments_of(two_rooms(1))
    for width in (1, 3, 5, 9):
        assert np.array_equal(segments_of(two_rooms(width), thin=True), expected)
    assert segments_of(two_rooms(5)).sum() < expected.sum()


def test_thinning_joins_nothing_and_loses_nothing():
    generator = np.random.default_rng(0)
    inside = generator.random((40, 50)) < 0.05
    plain, thin = segments_of(inside), segments_of(inside, thin=True)
    assert np.array_equal(thin[inside], plain[inside])
    for axis in (0, 1):  # no two segments touch by an edge
        a, b = np.moveaxis(thin, axis, 0)[:-1], np.moveaxis(thin, axis, 0)[1:]
        assert not ((a > 0) & (b > 0) & (a != b)).any()
    assert (thin == 0).sum() < (plain == 0).sum() / 2


def test_pictures_of_one_kind():
    assert not segments_of(np.zeros((4, 5), bool), thin=True).any()
    assert (segments_of(np.ones((4, 5), bool), thin=True) == 1).all()


def rooms_with_a_weak_wall():
    """A wall of 0.25 in rooms of 0.85, with specks of 0.65: best cut between 0.3 and 0.6."""
    inside = np.where(two_rooms(1), 0.85, 0.25).astype(np.float32)
    inside[2:4, 1:3] = 0.65
    return inside


def test_best_threshold_by_hand():
    inside, truth = rooms_with_a_weak_wall(), two_rooms(1)
    # Not above 0.25: one segment with the wall, 60 px of two rooms of 30:
    #   sum p^2 = 2 * 30^2, sum s^2 = 60^2, sum t^2 = 2 * 30^2
    # 0.3 to 0.6: perfect. From 0.7 on 4 px of the first room stand alone, unless thinned:
    #   sum p^2 = sum s^2 = 26^2 + 30^2 + 4, sum t^2 = 2 * 30^2
    # From 0.9 on nothing is inside, 60 segments of 1 px: sum p^2 = sum s^2 = 60
    scores = scores_over_thresholds(inside, truth, thin=False)
    assert tuple(scores) == THRESHOLDS == (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    merged, holes, lost = 1800 / ((3600 + 1800) / 2), 1580 / ((1580 + 1800) / 2), 60 / (1860 / 2)
    expected = [merged] * 3 + [1] * 4 + [holes] * 2 + [lost]
    assert [one.v_rand for one in scores.values()] == pytest.approx(expected)
    best = best_over_thresholds(inside, truth, thin=False)
    assert (best.threshold, best.value, best.scores.v_info) == (0.3, 1, 1)
    assert best_of(scores, "rand_error").value == 0
    thinned = scores_over_thresholds(inside, truth)
    assert thinned[0.7].v_rand == 1  # the room closes round the speck


def test_thinning_forgives_the_width_of_the_border():
    truth = two_rooms(1)
    inside = np.where(two_rooms(5), 0.9, 0.1)
    # 60 px inside, of which 2 * 12 are border in the prediction: rooms of 18 px instead of 30
    thick = best_over_thresholds(inside, truth, thin=False, thresholds=[0.5])
    assert thick.value == pytest.approx(2 * 672 / (672 + 1800))  # 2 * 18^2 + 24
    assert best_over_thresholds(inside, truth, thresholds=[0.5]).value == 1


def test_slices_share_the_threshold_and_are_averaged():
    first, truth = rooms_with_a_weak_wall(), two_rooms(1)
    second = np.where(truth, 0.95, 0.75)  # its wall is gone below 0.8
    stack, truths = np.stack([first, second]), np.stack([truth, truth])
    scores = scores_over_thresholds(stack, truths, thin=False)
    for threshold, score in scores.items():
        each = [partition_scores(segments_of(one > threshold), segments_of(truth)) for one in stack]
        assert score.v_rand == pytest.approx((each[0].v_rand + each[1].v_rand) / 2)
    best = best_of(scores, "v_rand")
    assert best.threshold == 0.8 and best.value < 1


def test_truth_as_ids_or_as_mask():
    inside, truth = rooms_with_a_weak_wall(), two_rooms(1)
    ids = (segments_of(truth) * 40).astype(np.uint8)
    assert scores_over_thresholds(inside, ids) == scores_over_thresholds(inside, truth)


def test_pixel_error_at_its_best():
    inside, truth = rooms_with_a_weak_wall(), two_rooms(1)
    inside[0, 0] = 0.1
    # 0.3: 59 of 60 px inside found, none invented: F = 118 / 119; 0.2 and below invent 6
    threshold, error = best_pixel_error(inside, truth)
    assert (threshold, error) == (0.3, pytest.approx(1 / 119))


def test_wrong_use():
    inside, truth = rooms_with_a_weak_wall(), two_rooms(1)
    with pytest.raises(SettingsError, match=r"\(6, 11\).*\(5, 11\)"):
        best_over_thresholds(inside, truth[1:])
    with pytest.raises(SettingsError, match="no pixels"):
        best_over_thresholds(inside[:0], truth[:0])
    with pytest.raises(SettingsError, match="thresholds is empty"):
        best_over_thresholds(inside, truth, thresholds=())
    with pytest.raises(SettingsError, match="not 'rand'"):
        best_over_thresholds(inside, truth, "rand", thresholds=[0.5])
    with pytest.raises(SettingsError, match="have 1"):
        best_pixel_error(inside[0], truth[0])


def test_just_the_threshold_is_border():
    truth = two_rooms(1)
    inside = np.where(truth, 0.75, 0.5)
    assert best_over_thresholds(inside, truth, thin=False, thresholds=[0.5]).value == 1
    assert best_pixel_error(inside, truth, thresholds=[0.5]) == (0.5, 0)
    assert warping_error(inside, truth, threshold=0.5) == 0
