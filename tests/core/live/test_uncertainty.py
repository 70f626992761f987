"""Doubt as a number that means something, and the places where there is most of it."""

import numpy as np
import pytest

from napari_unet.core.errors import SettingsError
from napari_unet.core.live.uncertainty import (
    Place,
    Plane,
    disagreement,
    mask_of,
    ranked,
    regions,
    uncertain,
)


def of_two(foreground):
    """Class probabilities `(class, ...)` of background and object."""
    foreground = np.asarray(foreground, np.float32)
    return np.stack([1 - foreground, foreground])


# Doubt


def test_doubt_is_one_minus_the_margin():
    found = uncertain(of_two([0.5, 0.9, 0.25, 0.0, 1.0]), (0, 1))
    np.testing.assert_allclose(found, [1.0, 0.2, 0.5, 0.0, 0.0], atol=3e-4)
    assert found.dtype == np.float32
    three = np.array([[0.6, 0.2, 1 / 3], [0.1, 0.7, 1 / 3], [0.3, 0.1, 1 / 3]])
    np.testing.assert_allclose(uncertain(three, (0, 1, 2)), [0.7, 0.5, 1.0], atol=1e-5)


def test_outputs_that_count_towards_one_class_are_no_doubt():
    outputs = np.array([[0.02], [0.49], [0.49]])  # background, rim, core
    np.testing.assert_allclose(uncertain(outputs, (0, 1, 1)), [0.04], atol=1e-5)
    np.testing.assert_allclose(uncertain(outputs, (0, 1, 2)), [1.0], atol=1e-5)


def test_outputs_that_are_each_by_themselves():
    one = np.array([[0.5, 0.99, 0.01]])
    np.testing.assert_allclose(uncertain(one, (1,)), [1.0, 0.02, 0.02], atol=1e-5)
    both = np.array([[0.9], [0.9]])  # two classes claim the pixel
    assert uncertain(both, (1, 2))[0] == pytest.approx(1.0)
    neither = np.array([[0.05], [0.05]])  # the background 0.95, so 1 - (0.95 - 0.05) / 1.05
    assert uncertain(neither, (1, 2))[0] == pytest.approx(1 - 0.9 / 1.05, abs=1e-5)


def test_doubt_of_half_precision_is_finite_and_in_range():
    outputs = np.random.default_rng(0).random((3, 20, 30)).astype(np.float16)
    outputs[:, :5] = 0
    outputs[0, 5:9] = 1
    for heat in (0.5, 1.0, 8.0):
        found = uncertain(outputs, (0, 1, 2), heat)
        assert found.shape == (20, 30)
        assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1


def test_heat_raises_doubt_and_keeps_its_order():
    foreground = np.linspace(0.02, 0.49, 40)
    cold, hot = (uncertain(of_two(foreground), (0, 1), heat) for heat in (1.0, 3.0))
    assert (hot > cold).all()
    assert (np.diff(hot) > 0).all()
    ninety = uncertain(of_two([0.9]), (0, 1), 2.0)  # odds of 9 become odds of 3
    assert ninety[0] == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("heat", [0, -1, float("inf"), float("nan")])
def test_a_temperature_must_be_one(heat):
    with pytest.raises(SettingsError, match="temperature"):
        uncertain(of_two([0.5]), (0, 1), heat)


# Disagreement


def test_views_that_say_the_same_do_not_disagree():
    views = [of_two([0.3, 0.9])] * 4
    np.testing.assert_allclose(disagreement(views), 0, atol=1e-6)


def test_views_that_are_sure_of_different_classes_disagree_wholly():
    views = [of_two([0.0, 0.0]), of_two([1.0, 0.5])]
    whole, half = disagreement(views)
    assert whole == pytest.approx(1, abs=5e-3)
    assert 0.2 < half < 0.5
    with pytest.raises(SettingsError, match="two"):
        disagreement(views[:1])


# Where to look


def test_the_most_doubtful_windows_come_first():
    doubt = np.zeros((40, 60), np.float32)
    doubt[0:10, 0:10] = 0.4
    doubt[20:30, 30:40] = 1.0
    found = regions(doubt, None, 10, border=1)
    assert [place.window for place in found[:2]] == [
        (slice(20, 30), slice(30, 40)),
        (slice(0, 10), slice(0, 10)),
    ]
    assert len(found) == 2
    assert found[0].score == pytest.approx(1.0)
    assert found[1].score == pytest.approx((0.4 - 0.1) / 0.9)
    assert regions(doubt, None, 10, n=1, border=1) == found[:1]


def test_a_certain_background_is_no_place_to_look_at():
    assert regions(np.full((64, 64), 0.08, np.float32), None, 16) == []
    assert regions(np.zeros((0, 20), np.float32), None, 16) == []


def test_windows_do_not_overlap_and_stay_inside():
    doubt = np.random.default_rng(0).random((203, 157)).astype(np.float32)
    found = regions(doubt, None, (32, 48), n=100, border=4)
    assert len(found) > 8
    covered = np.zeros(doubt.shape, int)
    for place in found:
        assert [part.stop - part.start for part in place.window] == [32, 48]
        assert place.window[0].start >= 0 and place.window[0].stop <= 203
        assert place.window[1].start >= 0 and place.window[1].stop <= 157
        covered[place.window] += 1
    assert covered.max() == 1
    scores = [place.score for place in found]
    assert scores == sorted(scores, reverse=True)


def test_a_window_is_no_larger_than_the_image():
    doubt = np.ones((20, 30), np.float32)
    (place,) = regions(doubt, None, 256)
    assert place.window == (slice(0, 20), slice(0, 30))


def test_what_was_looked_at_does_not_count():
    doubt = np.zeros((40, 60), np.float32)
    doubt[0:10, 0:10] = 0.4
    doubt[20:30, 30:40] = 1.0
    seen = [(slice(20, 30), slice(30, 40))]
    for looked_at in (seen, mask_of(seen, doubt.shape)):
        (place,) = regions(doubt, looked_at, 10, border=1)
        assert place.window == (slice(0, 10), slice(0, 10))
    everything = np.ones(doubt.shape, bool)
    assert regions(doubt, everything, 10, border=1) == []
    assert doubt.max() == 1, "the map must not be written to"


def test_rims_of_objects_do_not_outweigh_an_area_of_doubt():
    doubt = np.zeros((64, 128), np.float32)
    doubt[8:56:6, 4:60] = 1.0  # many thin rims: 448 px
    doubt[20:36, 80:96] = 0.8  # one object that may be one: 256 px
    (first, *_) = regions(doubt, None, 64)
    assert first.window[1].start >= 32 and first.window[1].stop >= 96
    (by_pixels, *_) = regions(doubt, None, 64, border=1)
    assert by_pixels.window[1] == slice(0, 64)


def test_where_there_is_nothing_but_rims_they_count():
    doubt = np.zeros((64, 128), np.float32)
    doubt[::8, 90:100] = 1.0
    (first, *_) = regions(doubt, None, 64)
    assert first.window[1].start <= 90 and first.window[1].stop >= 100
    assert 0 < first.score < 0.1


def test_places_are_ranked_over_slices_and_images():
    def plane(key, index, value, looked_at=None):
        doubt = np.zeros((32, 32), np.float32)
        doubt[:16, :16] = value
        return Plane(uncertainty=doubt, key=key, index=index, looked_at=looked_at)

    planes = (
        plane(*each)
        for each in (
            ("a", (0,), 0.5),
            ("a", (1,), 0.9),
            ("b", (), 0.7),
            ("b", (1,), 1.0, [(slice(0, 32), slice(0, 32))]),
        )
    )
    found = ranked(planes, 16, n=2)
    assert [(place.key, place.index) for place in found] == [("a", (1,)), ("b", ())]
    assert found[0] == Place(
        window=(slice(0, 16), slice(0, 16)), score=found[0].score, key="a", index=(1,)
    )
    assert ranked([], 16) == []


def test_sizes_must_be_sizes():
    with pytest.raises(SettingsError, match="size"):
        regions(np.ones((8, 8)), None, 0)
