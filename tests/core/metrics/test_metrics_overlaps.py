"""Counting shared pixels: any whole-number type, any layout, any ids."""

import numpy as np
import pytest
from skimage.metrics import contingency_table

from napari_unet.core.errors import SettingsError
from napari_unet.core.metrics import (
    class_scores,
    mean_average_precision,
    object_scores,
    partition_scores,
    pixel_dice,
    pixel_error,
    pixel_iou,
    seg_score,
    warping_error,
)
from napari_unet.core.metrics import overlaps as module
from napari_unet.core.metrics.overlaps import overlaps_of

OF_OBJECTS = (object_scores, mean_average_precision, seg_score, partition_scores)


def two_pictures(seed=0, shape=(20, 30)):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 6, shape), generator.integers(0, 5, shape)


def table_of(overlaps):
    table = np.zeros((overlaps.n_truth + 1, overlaps.n_predicted + 1), int)
    table[overlaps.truth, overlaps.predicted] = overlaps.shared
    return table


def test_by_hand():
    truth = np.array([[0, 7, 7, 7], [0, 0, 3, 3]])
    predicted = np.array([[9, 9, 9, 0], [0, 0, 0, 4]])
    # numbers by id: truth 3 -> 1, 7 -> 2; predicted 4 -> 1, 9 -> 2
    overlaps = overlaps_of(predicted, truth)
    assert table_of(overlaps).tolist() == [[2, 0, 1], [1, 1, 0], [1, 0, 2]]
    assert overlaps.truth_area.tolist() == [3, 2, 3]
    assert overlaps.predicted_area.tolist() == [4, 1, 3]
    iou = dict(zip(zip(overlaps.truth, overlaps.predicted, strict=True), overlaps.iou, strict=True))
    assert iou[1, 1] == 1 / 2 and iou[2, 2] == 2 / 4


@pytest.mark.parametrize("largest_counted", [2**24, 2])
def test_against_skimage(monkeypatch, largest_counted):
    """Both ways to count: directly, and by sorting."""
    monkeypatch.setattr(module, "MAX_DIRECT", largest_counted)
    predicted, truth = two_pictures(shape=(4, 5))
    found = table_of(overlaps_of(predicted * 3, truth * 1000))
    expected = contingency_table(truth, predicted).toarray()
    occurs = expected.any(axis=1)[:, None] & expected.any(axis=0)
    assert np.array_equal(found.ravel(), expected[occurs])


@pytest.mark.parametrize("dtype", [bool, "u1", "i1", "u2", ">i2", "i4", "u4", "i8", "u8"])
def test_any_type_and_layout(dtype):
    predicted, truth = two_pictures()
    expected = table_of(overlaps_of(predicted.astype(dtype), truth.astype(dtype)))
    wide = np.zeros((40, 60), dtype)
    wide[::2, ::2] = truth
    strided = overlaps_of(np.asfortranarray(predicted.astype(dtype)), wide[::2, ::2])
    assert np.array_equal(table_of(strided), expected)
    assert np.array_equal(strided.truth_area, np.bincount(truth.astype(dtype).ravel()))


def test_huge_ids_and_no_background():
    truth = np.array([2**63 + 5, 2**63 + 5, 2**63 + 6], np.uint64)
    overlaps = overlaps_of(np.array([1, 1, 2]), truth)
    assert overlaps.truth_area.tolist() == [0, 2, 1]
    assert object_scores(np.array([1, 1, 2]), truth).f1 == 1


def test_empty_pictures():
    nothing = np.zeros((0, 4), np.uint16)
    overlaps = overlaps_of(nothing, nothing)
    assert (overlaps.n_truth, overlaps.n_predicted, len(overlaps.shared)) == (0, 0, 0)
    assert object_scores(nothing, nothing).f1 == seg_score(nothing, nothing).seg == 1


@pytest.mark.parametrize(
    "score",
    [*OF_OBJECTS, class_scores, pixel_iou, pixel_dice, pixel_error, warping_error],
)
def test_other_shapes(score):
    with pytest.raises(SettingsError, match=r"\(3, 4\).*\(4, 3\)"):
        score(np.zeros((3, 4), bool), np.zeros((4, 3), bool))


@pytest.mark.parametrize("score", OF_OBJECTS)
def test_no_objects(score):
    labels = np.ones((3, 4), int)
    with pytest.raises(SettingsError, match="prediction holds values of the type float64"):
        score(labels.astype(float), labels)
    with pytest.raises(SettingsError, match=r"truth holds the object id -2"):
        score(labels, labels - 3)
