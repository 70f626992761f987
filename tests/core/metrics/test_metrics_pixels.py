"""Scores of classes, by hand and against MONAI."""

import numpy as np
import pytest
import torch

from napari_unet.core.corrections import IGNORE
from napari_unet.core.errors import SettingsError
from napari_unet.core.metrics import ClassScores, class_scores, pixel_dice, pixel_error, pixel_iou

TRUTH = np.array([[0, 0, 0, 1, 1], [1, 1, 2, 2, IGNORE]], np.uint8)
SAID = np.array([[0, 0, 1, 1, 1], [1, 0, 2, 1, 2]], np.uint8)
# Without the ignored one:      said 0  1  2
#                     true 0         2  1  0
#                          1         1  3  0
#                          2         0  1  1


def same(found, expected):
    return np.allclose(found, expected, rtol=0, atol=1e-12, equal_nan=True)


def test_by_hand():
    scores = class_scores(SAID, TRUTH)
    assert scores.confusion.tolist() == [[2, 1, 0], [1, 3, 0], [0, 1, 1]]
    assert scores.n_pixels == 9
    assert same(scores.iou, [2 / 4, 3 / 6, 1 / 2])
    assert same(scores.dice, [4 / 6, 6 / 9, 2 / 3])
    assert same(scores.precision, [2 / 3, 3 / 5, 1 / 1])
    assert same(scores.recall, [2 / 3, 3 / 4, 1 / 2])
    assert scores.accuracy == pytest.approx(6 / 9)
    assert scores.mean("iou") == pytest.approx(1 / 2)
    assert scores.mean("precision") == pytest.approx((2 / 3 + 3 / 5 + 1) / 3)
    assert scores.mean("recall", with_background=False) == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_classes_that_do_not_occur():
    truth, said = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 2])
    scores = class_scores(said, truth, n_classes=4)
    assert same(scores.iou, [2 / 3, 0, 0, np.nan])
    assert same(scores.precision, [2 / 3, 0, 0, np.nan])  # class 1: never said, but there
    assert same(scores.recall, [1, 0, 0, np.nan])  # class 2: said, but not there
    assert scores.mean("iou") == pytest.approx(2 / 9)


def test_nothing_known():
    scores = class_scores(np.zeros((2, 2), int), np.full((2, 2), IGNORE), n_classes=2)
    assert scores.n_pixels == 0
    assert np.isnan([scores.accuracy, scores.mean("dice"), *scores.iou]).all()


def test_sum_over_images_is_the_score_of_all_pixels():
    generator = np.random.default_rng(0)
    truths, said = generator.integers(0, 4, (2, 2, 8, 9))
    truths[0][truths[0] == 3] = 0  # an image that lacks the last class
    said[0][said[0] == 3] = 0
    parts = [class_scores(one, true) for one, true in zip(said, truths, strict=True)]
    assert len(parts[0].confusion) == 3
    for both in (parts[0] + parts[1], parts[1] + parts[0]):
        assert np.array_equal(both.confusion, class_scores(said, truths).confusion)


def test_against_monai():
    from monai.metrics import compute_dice, compute_iou

    generator = np.random.default_rng(1)
    truth, said = generator.integers(0, 4, (2, 3, 12, 13))
    hot = [
        torch.nn.functional.one_hot(torch.from_numpy(one), 4).movedim(-1, 0)[None]
        for one in (said, truth)
    ]
    scores = class_scores(said, truth)
    assert np.allclose(scores.iou, compute_iou(*hot)[0], atol=1e-6)
    assert np.allclose(scores.dice, compute_dice(*hot)[0], atol=1e-6)


def test_masks_agree_with_their_class():
    generator = np.random.default_rng(2)
    truth, said = generator.random((2, 9, 9)) > 0.4
    scores = class_scores(said, truth)
    assert scores.iou[1] == pytest.approx(pixel_iou(said, truth))
    assert scores.dice[1] == pytest.approx(pixel_dice(said, truth))
    assert 1 - scores.accuracy == pytest.approx(pixel_error(said, truth))


def test_255_counts_as_a_class_if_wished():
    assert class_scores(SAID, TRUTH, ignore=None).n_pixels == 10
    with pytest.raises(SettingsError, match="truth holds the class 255, but classes are 0 to 2"):
        class_scores(SAID, TRUTH, n_classes=3, ignore=None)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (SAID + 1, "prediction holds the class 3"),
        (SAID.astype(int) - 1, "prediction holds the class -1"),
        (SAID.astype(float), "whole numbers, not float64"),
    ],
)
def test_no_classes(said, message):
    with pytest.raises(SettingsError, match=message):
        class_scores(said, TRUTH, n_classes=3)


def test_unknown_measure():
    with pytest.raises(SettingsError, match="iou, dice, precision, recall, not 'f1'"):
        ClassScores(confusion=np.ones((2, 2), int)).mean("f1")


def test_pixel_error_by_hand():
    truth = np.array([[True, True, False, False]])
    assert pixel_error(np.array([[True, False, True, False]]), truth) == 2 / 4
    probabilities = np.array([[0.9, 0.5, 0.2, 0.0]], np.float32)
    assert pixel_error(probabilities, truth) == pytest.approx((0.01 + 0.25 + 0.04) / 4)
    assert pixel_error(np.zeros((0, 3)), np.zeros((0, 3), bool)) == 0
    with pytest.raises(SettingsError, match="from 0 to 255"):
        pixel_error(np.array([0, 255]), np.array([False, True]))
