"""From probabilities to objects."""

import time

import numpy as np
import pytest
import scipy.ndimage as ndi
from skimage.morphology import reconstruction

from napari_unet.core.errors import SettingsError
from napari_unet.core.instances import (
    ObjectSettings,
    class_probabilities,
    classes_of,
    evidence_of,
    objects_of,
    reach_of,
)
from napari_unet.core.metrics import object_scores
from napari_unet.core.simulation import SimulationSettings, simulate

PLAIN = (0, 1)  # background, object
BORDERS = (0, 1, 1)  # background, inside of an object, its border


def disc(shape, center, radius):
    places = np.indices(shape) - np.reshape(center, (-1, *[1] * len(shape)))
    return (places**2).sum(axis=0) <= radius**2


def plain(mask, high=0.9):
    """Outputs (background, object) that say `mask`."""
    foreground = np.where(mask, high, 1 - high).astype(np.float32)
    return np.stack([1 - foreground, foreground])


def with_borders(labels):
    """Outputs (background, inside, border) that say `labels`."""
    inside = np.zeros(labels.shape, bool)
    for index in range(1, labels.max() + 1):
        inside |= ndi.binary_erosion(np.pad(labels == index, 1), iterations=2)[
            (slice(1, -1),) * labels.ndim
        ]
    sure = np.stack([labels == 0, inside, (labels > 0) & ~inside])
    return np.where(sure, 0.9, 0.05).astype(np.float32)


def exactly(**settings):
    return ObjectSettings(**{"min_size": 0, **settings})


def is_gapless(labels):
    return np.array_equal(np.union1d(labels, 0), np.arange(labels.max() + 1))


TWO = disc((60, 80), (30, 28), 13) | disc((60, 80), (30, 50), 13)  # they overlap by a neck


# Pixels to classes


def test_class_probabilities_are_sums():
    outputs = np.random.default_rng(0).dirichlet(np.ones(4), (5, 6)).transpose(2, 0, 1)
    found = class_probabilities(outputs.astype(np.float16), (0, 2, 1, 2))
    assert found.dtype == np.float32
    expected = [outputs[0], outputs[2], outputs[1] + outputs[3]]
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_sigmoid_output_leaves_the_rest_to_the_background():
    outputs = np.array([[[0.2, 0.7]]], np.float32)
    found = class_probabilities(outputs, (1,))
    np.testing.assert_allclose(found, [[[0.8, 0.3]], [[0.2, 0.7]]])
    np.testing.assert_array_equal(classes_of(outputs, (1,)), [[0, 1]])


def test_the_threshold_asks_for_not_being_background():
    outputs = np.array([0.45, 0.3, 0.25], np.float32).reshape(3, 1, 1)
    assert classes_of(outputs, (0, 1, 2), threshold=0.5).item() == 1
    assert classes_of(outputs, (0, 1, 2), threshold=0.6).item() == 0
    assert classes_of(outputs, (0, 2, 1), threshold=0.5).item() == 2
    assert classes_of(outputs, (0, 1, 1), threshold=0.5).dtype == np.uint8


@pytest.mark.parametrize("output_class", [(0, 1, 1), (0, 1, 2)])
def test_a_higher_threshold_never_adds_foreground(output_class):
    outputs = np.random.default_rng(1).dirichlet(np.ones(3), (30, 30)).transpose(2, 0, 1)
    before = None
    for threshold in (0.1, 0.3, 0.5, 0.7, 0.9):
        classes = classes_of(outputs, output_class, threshold)
        objects = objects_of(outputs, output_class, exactly(threshold=threshold))
        assert (objects > 0)[classes > 0].all()  # and holes are filled besides
        if before is not None:
            assert not ((classes > 0) & ~before).any()
            assert (classes > 0).sum() < before.sum()
        before = classes > 0


# Classes to objects


def test_objects_apart_are_found_exactly():
    mask = disc((50, 90), (20, 20), 8) | disc((50, 90), (30, 60), 12)
    for split in (0.0, 0.5, 1.0):
        objects = objects_of(plain(mask), PLAIN, exactly(split=split))
        assert objects.dtype == np.int32
        assert objects.max() == 2
        np.testing.assert_array_equal(objects > 0, mask)
        assert len(np.unique(objects[disc((50, 90), (20, 20), 8)])) == 1


def test_touching_discs_are_split_at_their_neck():
    objects = objects_of(plain(TWO), PLAIN, exactly(split=0.5))
    assert objects.max() == 2
    np.testing.assert_array_equal(objects > 0, TWO)
    left, right = objects[30, 20], objects[30, 60]
    assert left != right
    y, x = np.nonzero(TWO)
    expected = np.where(x < 39, left, right)
    assert (objects[y, x] == expected)[np.abs(x - 39) > 1].all()


def test_no_splitting_keeps_what_is_connected():
    assert objects_of(plain(TWO), PLAIN, exactly(split=0)).max() == 1
    assert objects_of(with_borders(TWO * 1), BORDERS, exactly(split=0), inside=1).max() == 1


def test_more_splitting_never_gives_fewer_objects():
    labels = simulate(SimulationSettings(size=256, n_nuclei=30, radius=11, touching=0.8)).labels
    numbers = [
        objects_of(plain(labels > 0), PLAIN, exactly(split=split)).max()
        for split in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert numbers == sorted(numbers)
    assert numbers[0] < numbers[-1]


@pytest.mark.parametrize("split", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_hills_are_merged_as_h_maxima_say(split, seed):
    """As many objects as there are h-maxima of the distance, one in each object."""
    labels = simulate(SimulationSettings(size=256, n_nuclei=40, radius=10, touching=0.8), seed)
    foreground = labels.labels > 0
    height = ndi.gaussian_filter(ndi.distance_transform_edt(foreground).astype(np.float32), 1.0)
    rise = np.float32(3.0 * (1 - split) + 0.25)
    cross = ndi.generate_binary_structure(2, 1)
    risen = height - reconstruction(height - rise, height, method="dilation", footprint=cross)
    tops, n_tops = ndi.label((risen >= rise * 0.999) & foreground, structure=np.ones((3, 3)))
    parts, n_parts = ndi.label(foreground)
    n_lonely = n_parts - len(np.unique(parts[tops > 0]))
    objects = objects_of(plain(foreground), PLAIN, exactly(split=split))
    assert abs(int(objects.max()) - (n_tops + n_lonely)) <= 1
    assert len(np.unique(objects[tops > 0])) >= n_tops - 1


def test_the_inside_output_splits_where_no_shape_could():
    labels = np.zeros((40, 60), np.int32)
    labels[10:30, 5:30], labels[10:30, 30:55] = 1, 2  # one bar, no neck
    assert objects_of(plain(labels > 0), PLAIN, exactly()).max() == 1
    objects = objects_of(with_borders(labels), BORDERS, exactly(), inside=1)
    np.testing.assert_array_equal(objects > 0, labels > 0)
    assert objects.max() == 2
    assert object_scores(objects, labels, 0.95).f1 == 1


def test_objects_without_any_inside_are_kept():
    labels = np.zeros((30, 30), np.int32)
    labels[3:6, 3:9], labels[15:27, 15:27] = 1, 2  # too thin for an inside, and a square
    objects = objects_of(with_borders(labels), BORDERS, exactly(), inside=1)
    np.testing.assert_array_equal(objects > 0, labels > 0)
    assert objects.max() == 2


def test_small_objects_are_dropped_and_ids_stay_gapless():
    mask = np.zeros((20, 60), bool)
    for i, width in enumerate((1, 5, 2, 8, 4)):
        mask[5, 12 * i : 12 * i + width] = True
    for min_size, expected in ((0, 5), (2, 4), (4, 3), (5, 2), (9, 0)):
        objects = objects_of(plain(mask), PLAIN, ObjectSettings(min_size=min_size, split=0))
        assert objects.max() == expected
        assert is_gapless(objects)
        sizes = np.bincount(objects.ravel())[1:]
        assert (sizes >= min_size).all()


def test_classes_are_not_mixed():
    one = disc((60, 80), (30, 28), 13)
    outputs = np.full((3, 60, 80), 0.05, np.float32)
    outputs[1][one], outputs[2][TWO & ~one], outputs[0][~TWO] = 0.9, 0.9, 0.9
    for split in (0.0, 0.5):
        objects = objects_of(outputs, (0, 1, 2), exactly(split=split))
        classes = classes_of(outputs, (0, 1, 2))
        assert objects.max() == 2
        for index in (1, 2):
            assert len(np.unique(classes[objects == index])) == 1


def test_an_object_cut_in_two_by_another_class_is_two_objects():
    mask = disc((50, 50), (25, 25), 18)
    stripe = mask & (np.abs(np.arange(50) - 25) <= 2)
    outputs = np.full((3, 50, 50), 0.05, np.float32)
    outputs[0][~mask], outputs[1][mask & ~stripe], outputs[2][stripe] = 0.9, 0.9, 0.9
    for split in (0.0, 0.3):
        objects = objects_of(outputs, (0, 1, 2), exactly(split=split))
        assert objects.max() == 3
        assert is_gapless(objects)
        assert all(ndi.label(objects == index)[1] == 1 for index in (1, 2, 3))


@pytest.mark.parametrize("has_inside", [False, True])
def test_every_object_is_in_one_piece(has_inside):
    outputs = np.random.default_rng(2).random((3, 64, 64)).astype(np.float32)
    outputs = ndi.gaussian_filter(outputs, (0, 1.5, 1.5))
    outputs /= outputs.sum(axis=0)
    for output_class in (BORDERS, (0, 1, 2)):
        objects = objects_of(
            outputs, output_class, exactly(split=0.8), inside=1 if has_inside else None
        )
        np.testing.assert_array_equal(objects > 0, classes_of(outputs, output_class) > 0)
        assert is_gapless(objects)
        assert all(
            ndi.label(objects == index)[1] == 1 for index in range(1, int(objects.max()) + 1)
        )


def test_volumes():
    shape = (24, 40, 60)
    mask = disc(shape, (12, 20, 20), 9) | disc(shape, (12, 20, 36), 9)
    assert objects_of(plain(mask), PLAIN, exactly(split=0)).max() == 1
    objects = objects_of(plain(mask), PLAIN, exactly(split=0.5))
    assert objects.shape == shape
    assert objects.max() == 2
    assert objects[12, 20, 14] != objects[12, 20, 42]
    labels = np.where(mask, np.where(np.arange(60) < 28, 1, 2), 0)
    objects = objects_of(with_borders(labels), BORDERS, exactly(), inside=1)
    assert object_scores(objects, labels, 0.9).f1 == 1


def test_a_sigmoid_network():
    outputs = plain(TWO)[1:]
    np.testing.assert_array_equal(
        objects_of(outputs, (1,), exactly()), objects_of(plain(TWO), PLAIN, exactly())
    )


def test_half_precision():
    np.testing.assert_array_equal(
        objects_of(with_borders(TWO * 1).astype(np.float16), BORDERS, exactly(), inside=1),
        objects_of(with_borders(TWO * 1), BORDERS, exactly(), inside=1),
    )


@pytest.mark.parametrize("inside", [None, 1])
@pytest.mark.parametrize("split", [0.0, 0.5, 1.0])
def test_nothing_and_everything(inside, split):
    empty = with_borders(np.zeros((12, 13), np.int32))
    objects = objects_of(empty, BORDERS, exactly(split=split), inside=inside)
    assert objects.max() == 0
    assert objects.dtype == np.int32
    full = np.full((3, 12, 13), 0.01, np.float32)
    full[1] = 0.98
    objects = objects_of(full, BORDERS, exactly(split=split), inside=inside)
    np.testing.assert_array_equal(objects, 1)


def test_touching_simulated_nuclei_are_told_apart():
    labels = simulate(SimulationSettings(size=300, n_nuclei=40, touching=0.6)).labels
    by_border = objects_of(with_borders(labels), BORDERS, exactly(), inside=1)
    by_shape = objects_of(plain(labels > 0), PLAIN, exactly())
    unsplit = objects_of(plain(labels > 0), PLAIN, exactly(split=0))
    assert object_scores(by_border, labels, 0.9).f1 == 1
    assert object_scores(by_shape, labels).f1 > 0.85 > object_scores(unsplit, labels).f1


@pytest.mark.parametrize("inside", [None, 1])
def test_it_keeps_up_with_a_slider(inside):
    labels = simulate(SimulationSettings(size=1024, n_nuclei=300, touching=0.5)).labels
    outputs = np.stack([labels == 0, labels > 0, np.zeros_like(labels)]).astype(np.float32)
    started = time.process_time()
    assert objects_of(outputs, BORDERS, ObjectSettings(), inside=inside).max() > 100
    assert time.process_time() - started < 0.6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threshold", 0.0),
        ("threshold", 1.0),
        ("min_size", -1),
        ("split", -0.1),
        ("split", 1.1),
        ("smoothing", -0.1),
        ("smoothing", float("inf")),
        ("smoothing", float("nan")),
        ("fill_holes", 1),
        ("link", None),
    ],
)
def test_wrong_settings_are_named(name, value):
    with pytest.raises(SettingsError, match=name):
        ObjectSettings(**{name: value})


def test_a_hole_inside_one_object_is_filled_but_a_gap_between_two_is_not():
    foreground = np.zeros((20, 40), bool)
    foreground[2:18, 2:38] = True
    foreground[8:11, 5:8] = False  # a hole in the left half
    foreground[0:12, 30:34] = False  # a bay that is open at the image border
    outputs = np.stack([~foreground, foreground]).astype(np.float32)
    found = objects_of(outputs, (0, 1), ObjectSettings(min_size=0, split=0))
    assert found[8:11, 5:8].tolist() == [[1, 1, 1]] * 3
    assert not found[0:12, 30:34].any()

    left, right = np.zeros((12, 20), bool), np.zeros((12, 20), bool)
    left[1:11, 1:10], right[1:11, 10:19] = True, True
    left[4:7, 8:10], right[4:7, 10:12] = False, False  # a hole that both objects share
    classes = left.astype(np.uint8) + 2 * right.astype(np.uint8)
    outputs = np.stack([classes == value for value in range(3)]).astype(np.float32)
    found = objects_of(outputs, (0, 1, 2), ObjectSettings(min_size=0, split=0))
    assert found.max() == 2
    assert not found[4:7, 8:12].any()


def test_holes_are_left_open_if_asked():
    mask = disc((40, 40), (20, 20), 12) & ~disc((40, 40), (20, 20), 4)
    filled = objects_of(plain(mask), PLAIN, exactly(split=0))
    left = objects_of(plain(mask), PLAIN, exactly(split=0, fill_holes=False))
    np.testing.assert_array_equal(filled, disc((40, 40), (20, 20), 12))
    np.testing.assert_array_equal(left, mask)


def test_a_hole_with_a_dropped_object_is_filled_and_one_with_a_kept_object_is_not():
    around, speck = disc((40, 40), (20, 20), 12), disc((40, 40), (20, 20), 2)
    mask = around & ~disc((40, 40), (20, 20), 5) | speck
    dropped = objects_of(plain(mask), PLAIN, ObjectSettings(split=0, min_size=25))
    np.testing.assert_array_equal(dropped, around)
    kept = objects_of(plain(mask), PLAIN, exactly(split=0))
    np.testing.assert_array_equal(kept > 0, mask)
    assert kept[20, 20] == 1  # it ends before the ring does
    assert kept[20, 9] == 2


def test_smoothing_is_a_gaussian_on_the_probabilities():
    outputs = np.random.default_rng(3).dirichlet(np.ones(3), (40, 50)).transpose(2, 0, 1)
    for output_class, inside in ((BORDERS, 1), ((0, 1, 2), None)):
        smooth = np.stack([ndi.gaussian_filter(o.astype(np.float32), 1.7) for o in outputs])
        np.testing.assert_array_equal(
            objects_of(outputs, output_class, exactly(smoothing=1.7), inside),
            objects_of(smooth, output_class, exactly(), inside),
        )


@pytest.mark.parametrize("smoothing", [0.0, 1.3, 2.0])
@pytest.mark.parametrize("inside", [None, 1])
def test_outputs_further_away_than_the_reach_have_no_say(smoothing, inside):
    settings = ObjectSettings(smoothing=smoothing)
    outputs = np.random.default_rng(4).dirichlet(np.ones(3), (60, 20)).transpose(2, 0, 1)
    whole = evidence_of(outputs, BORDERS, settings, inside)
    reach = reach_of(settings, inside)
    assert reach == int(4 * smoothing + 0.5) + (0 if inside is None else 2)
    part = evidence_of(
        outputs[:, 30 - reach : 35 + reach], BORDERS, settings, inside, slice(reach, reach + 5)
    )
    np.testing.assert_array_equal(part.classes, whole.classes[30:35])
    assert (part.rises is None) == (inside is None)
    if inside is not None:
        np.testing.assert_array_equal(part.rises, whole.rises[30:35])


def test_a_border_that_counts_as_background_still_tells_objects_apart():
    labels = np.zeros((40, 60), np.int32)
    labels[10:30, 5:30], labels[10:30, 30:55] = 1, 2
    outputs = with_borders(labels)
    objects = objects_of(outputs, (0, 1, 0), exactly(), inside=1)
    np.testing.assert_array_equal(objects > 0, outputs[1] > 0.5)
    assert objects.max() == 2


@pytest.mark.parametrize("inside", [None, 1])
def test_objects_are_numbered_by_the_ends_of_their_parts_and_then_their_own(inside):
    labels = simulate(SimulationSettings(size=200, n_nuclei=40, touching=0.8)).labels
    objects = objects_of(with_borders(labels), BORDERS, exactly(fill_holes=False), inside)
    parts, _ = ndi.label(objects > 0)
    ends = {}
    for index in range(1, int(objects.max()) + 1):
        part = parts[objects == index][0]
        ends[index] = tuple(np.flatnonzero(each)[-1] for each in (parts == part, objects == index))
    assert len({part for part, _ in ends.values()}) < len(ends)
    assert sorted(ends, key=ends.get) == list(ends)
