"""The simulated person paints errors, paints them right, and stops when there are none."""

import numpy as np
import pytest

from napari_unet.core.annotator import Stroke, draw_strokes, next_strokes, worst_view
from napari_unet.core.simulation import SimulationSettings, simulate


@pytest.fixture(scope="module")
def truth():
    """Classes `(y, x)`: nuclei, a third of them of a second class."""
    settings = SimulationSettings(size=200, n_nuclei=20)
    labels = simulate(settings, seed=2).labels
    return np.where(labels % 3 == 1, 2, labels > 0).astype(np.uint8)


def painted_by(strokes, shape):
    corrections = np.zeros(shape, np.uint8)
    draw_strokes(corrections, strokes)
    return corrections


@pytest.mark.parametrize("seed", range(10))
def test_strokes_are_never_wrong(truth, seed):
    generator = np.random.default_rng(seed)
    predicted = generator.permutation(truth.ravel()).reshape(truth.shape)
    corrections = np.zeros(truth.shape, np.uint8)
    for _ in range(4):
        strokes = next_strokes(predicted, truth, corrections, 5, seed)
        draw_strokes(corrections, strokes)
    painted = corrections > 0
    assert painted.any()
    np.testing.assert_array_equal(corrections[painted], truth[painted] + 1)


def test_each_class_gets_a_stroke_first(truth):
    strokes = next_strokes(np.zeros_like(truth), truth, np.zeros_like(truth), 3)
    assert sorted(stroke.value for stroke in strokes) == [1, 2, 3]


def test_a_perfect_result_needs_one_stroke_of_each_class_and_no_more(truth):
    strokes = next_strokes(truth, truth, np.zeros_like(truth), 20)
    assert sorted(stroke.value for stroke in strokes) == [1, 2, 3]
    corrections = painted_by(strokes, truth.shape)
    assert next_strokes(truth, truth, corrections, 20) == []


def test_later_strokes_go_where_the_result_is_wrong(truth):
    predicted = truth.copy()
    predicted[:80] = 0
    corrections = painted_by(next_strokes(predicted, truth, np.zeros_like(truth), 3), truth.shape)
    later = next_strokes(predicted, truth, corrections, 4, seed=1)
    assert later
    for stroke in later:
        start = tuple(stroke.points[0])
        assert predicted[start] != truth[start]


def test_the_largest_error_goes_first():
    truth = np.zeros((60, 60), np.uint8)
    truth[5:25, 5:25] = truth[40:46, 40:46] = 1
    corrections = np.zeros_like(truth)
    corrections[0, 59], corrections[59, 0] = 1, 2  # both classes are painted somewhere
    (stroke,) = next_strokes(np.zeros_like(truth), truth, corrections, 1)
    assert stroke.value == 2
    assert (stroke.points < 25).all()


def test_a_picture_that_is_all_wrong():
    truth = np.ones((30, 40), np.uint8)
    (stroke,) = next_strokes(np.zeros_like(truth), truth, np.zeros_like(truth), 1)
    assert stroke.value == 2
    painted = painted_by([stroke], truth.shape)
    (later, *_) = next_strokes(np.zeros_like(truth), truth, painted, 1)
    assert painted[tuple(later.points[0])] == 0


def test_nothing_is_painted_twice_in_one_place(truth):
    corrections = np.zeros_like(truth)
    strokes = next_strokes(1 - np.minimum(truth, 1), truth, corrections, 15)
    assert not corrections.any(), "next_strokes must not paint by itself"
    masks = [painted_by([stroke], truth.shape) > 0 for stroke in strokes]
    starts = [tuple(stroke.points[0]) for stroke in strokes]
    for i, start in enumerate(starts):
        assert not any(mask[start] for mask in masks[:i])


def test_the_seed_decides(truth):
    def paint(seed):
        strokes = next_strokes(np.zeros_like(truth), truth, np.zeros_like(truth), 6, seed)
        return painted_by(strokes, truth.shape)

    np.testing.assert_array_equal(paint(3), paint(3))
    assert (paint(3) != paint(4)).any()


def test_a_brush_is_round_and_stays_inside():
    corrections = np.zeros((7, 9), np.uint8)
    draw_strokes(corrections, [Stroke(value=3, points=np.array([[3, 4]]), width=3)])
    expected = np.zeros((7, 9), np.uint8)
    expected[2:5, 3:6] = 3  # the corners are 1.41 px away, the radius is 1.5 px
    np.testing.assert_array_equal(corrections, expected)
    draw_strokes(corrections, [Stroke(value=2, points=np.array([[0, 0]]), width=1)])
    assert corrections[0, 0] == 2
    assert np.count_nonzero(corrections == 2) == 1
    draw_strokes(corrections, [Stroke(value=1, points=np.array([[6, 8]]), width=4)])
    assert corrections[6, 8] == corrections[4, 8] == corrections[6, 6] == 1
    assert corrections[4, 6] == 0


def test_strokes_are_as_wide_as_brushes_that_people_use(truth):
    strokes = next_strokes(np.zeros_like(truth), truth, np.zeros_like(truth), 12)
    assert len(strokes) == 12
    assert {stroke.width for stroke in strokes} <= set(range(3, 10))
    assert len({stroke.width for stroke in strokes}) > 2


def test_what_is_too_thin_for_a_brush_is_not_painted():
    truth = np.zeros((40, 40), np.uint8)
    truth[10:12] = 1  # 2 px: no stroke of 3 px stays inside
    corrections = np.zeros_like(truth)
    corrections[39, 0] = 1
    assert next_strokes(np.zeros_like(truth), truth, corrections, 3) == []
    truth[10:13] = 1
    strokes = next_strokes(np.zeros_like(truth), truth, corrections, 3)
    assert strokes
    painted = painted_by(strokes, truth.shape)
    assert (painted[10:13] > 0).any()
    np.testing.assert_array_equal(painted[painted > 0], truth[painted > 0] + 1)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_not_in_view_is_neither_seen_nor_painted(truth, seed):
    view = (slice(40, 110), slice(100, 180))
    unknown = np.zeros_like(truth)
    strokes = next_strokes(1 - np.minimum(truth, 1), truth, unknown, 8, seed, view)
    assert strokes
    painted = painted_by(strokes, truth.shape)
    inside = np.zeros(truth.shape, bool)
    inside[view] = True
    assert not painted[~inside].any()
    np.testing.assert_array_equal(painted[painted > 0], truth[painted > 0] + 1)
    elsewhere = truth.copy()
    elsewhere[~inside] = 0  # what lies outside changes nothing
    again = next_strokes(1 - np.minimum(truth, 1), elsewhere, unknown, 8, seed, view)
    np.testing.assert_array_equal(painted, painted_by(again, truth.shape))


def test_a_class_painted_outside_the_view_need_not_be_painted_again():
    truth = np.zeros((60, 60), np.uint8)
    truth[:, 30:] = 1
    corrections = np.zeros_like(truth)
    corrections[0, 0], corrections[0, 59] = 1, 2
    view = (slice(20, 60), slice(10, 50))
    assert next_strokes(truth, truth, corrections, 5, view=view) == []
    corrections[0, 59] = 0
    (stroke,) = next_strokes(truth, truth, corrections, 5, view=view)
    assert stroke.value == 2


def test_the_worst_view_has_most_wrong_pixels_that_can_be_painted():
    truth = np.zeros((90, 120), np.uint8)
    truth[60:72, 90:102] = 1  # 144 px
    truth[10:18, 10:18] = 1  # 64 px
    truth[::2, 40:60] = 1  # 900 px, but lines of 1 px
    nothing = np.zeros_like(truth)
    window = worst_view(nothing, truth, nothing, 30)
    assert [part.stop - part.start for part in window] == [30, 30]
    assert truth[60:72, 90:102].sum() == truth[window].sum() == 144
    corrections = nothing.copy()
    corrections[62:70, 92:100] = 2  # painted: now the other one is worst
    window = worst_view(nothing, truth, corrections, 30)
    assert truth[window][:18, :18].any() and window[0].start <= 10 and window[1].start <= 10


def test_a_view_is_no_larger_than_the_image():
    truth = np.ones((20, 30), np.uint8)
    window = worst_view(np.zeros_like(truth), truth, np.zeros_like(truth), 256)
    assert window == (slice(0, 20), slice(0, 30))
