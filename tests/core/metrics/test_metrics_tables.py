"""Rows of all scores, their sum and their mean."""

import math

import numpy as np
import pytest

from napari_unet.core.metrics import (
    best_over_thresholds,
    mean_average_precision,
    object_scores,
    seg_score,
    warping_error,
)
from napari_unet.core.metrics.tables import ALL, MEAN, measured, table_of

TRUTH = np.array([[1, 1, 1, 1, 0, 2, 2, 0, 5]])
SAID = np.array([[7, 7, 7, 0, 0, 9, 9, 9, 0]])


def test_objects_in_a_row():
    row = measured("objects", SAID, TRUTH).values()
    scores = object_scores(SAID, TRUTH)
    assert (row["true"], row["found"], row["f1"]) == (3, 2, scores.f1)
    assert row["panoptic"] == scores.panoptic_quality
    assert row["mean_ap"] == pytest.approx(mean_average_precision(SAID, TRUTH))
    assert row["seg"] == seg_score(SAID, TRUTH).seg
    assert row["pixel_iou"] == 5 / 8


def test_sum_and_mean():
    nothing = 0 * TRUTH
    rows = {"a": (SAID, TRUTH), "b": (TRUTH, TRUTH), "c": (nothing, nothing)}
    table = table_of({name: measured("objects", *pair) for name, pair in rows.items()})
    assert [line["image"] for line in table] == ["a", "b", "c", ALL, MEAN]
    assert len({tuple(line) for line in table}) == 1
    alike, mean = table[-2:]
    assert alike["true"] == 6 and alike["f1"] == 10 / 11
    assert mean["f1"] == pytest.approx((4 / 5 + 1 + 1) / 3)
    assert math.isnan(table[2]["seg"])  # nothing to find says nothing of SEG
    assert mean["seg"] == pytest.approx((seg_score(SAID, TRUTH).seg + 1) / 2)


def test_one_image_needs_no_sum():
    assert len(table_of({"a": measured("classes", TRUTH, TRUTH)})) == 1


def test_membranes_share_the_threshold():
    truth = np.ones((1, 6, 11), bool)
    truth[:, :, 5] = False
    low, high = np.where(truth, 0.85, 0.25), np.where(truth, 0.95, 0.75)
    rows = {"low": measured("membranes", low, truth), "high": measured("membranes", high, truth)}
    first, second, both, _ = table_of(rows)
    assert (first["at"], second["at"], both["at"]) == (0.3, 0.8, 0.8)
    best = best_over_thresholds(np.concatenate([low, high]), np.concatenate([truth, truth]))
    assert both["v_rand"] == pytest.approx(best.value)
    assert both["warping"] == pytest.approx(warping_error(high, truth) / 2)
    with pytest.raises(KeyError):
        measured("films", truth, truth)
