"""Open arrays, masks as numbers, lazy arrays, and stacks cut into planes and blocks."""

import numpy as np
import pytest

from napari_unet.core.datasets import (
    DatasetSettings,
    as_planes,
    fold_of,
    object_numbers,
    of_arrays,
    split_pairs,
)
from napari_unet.core.datasets.lazy import Lazy, Part, Shelf, Stacked
from napari_unet.core.datasets.naming import natural, runs
from napari_unet.core.errors import ImageError, SettingsError
from napari_unet.core.image import Image, make_image

STACK = np.arange(7 * 5 * 6, dtype=np.uint16).reshape(7, 5, 6)
LABELS = (STACK % 4).astype(np.int64)


# Arrays


def test_arrays_are_taken_as_they_are():
    dataset = of_arrays([(STACK, LABELS), (STACK[0], LABELS[0].tolist())])
    assert dataset.layout == "arrays"
    volume, plane = dataset.pairs
    assert (volume.key, volume.group, volume.split) == ("image 1", "image 1", "")
    assert volume.path is None
    assert np.shares_memory(volume.image.array, STACK)
    np.testing.assert_array_equal(volume.labels, LABELS)
    np.testing.assert_array_equal(plane.labels, LABELS[0])
    assert volume.labels[1, 2:4].shape == (2, 6)


def test_masks_have_the_order_of_their_array():
    ((pair),) = of_arrays([(STACK.T, LABELS.T)], axes="xyz").pairs
    assert pair.labels.shape == pair.image.label_shape == (7, 5, 6)
    np.testing.assert_array_equal(pair.labels, LABELS)
    image = Image(array=STACK.T, axes="xyz", name="tissue")
    ((same),) = of_arrays([(image, LABELS)]).pairs  # of an Image, in its label axes
    np.testing.assert_array_equal(same.labels, LABELS)
    assert same.key == "tissue"


def test_names_that_are_there_twice_get_numbers():
    one, other = (Image(array=STACK[i], axes="yx", name="cells") for i in range(2))
    dataset = of_arrays([(one, LABELS[0]), (other, LABELS[1]), (STACK[2], LABELS[2])])
    assert [pair.key for pair in dataset.pairs] == ["cells 1", "cells 2", "image 3"]


def test_colours_and_channels_need_no_labels_of_their_own():
    colours = np.stack([STACK[0]] * 3, axis=-1)
    planes = STACK[:2]
    dataset = of_arrays([(colours, LABELS[0]), (planes, LABELS[0])])
    assert [pair.image.axes for pair in dataset.pairs] == ["yxc", "cyx"]


def test_arrays_that_do_not_fit():
    with pytest.raises(ImageError, match="has 5 × 6 px, its mask has 5 × 5 px"):
        of_arrays([(STACK[0], LABELS[0][:, :5])])
    with pytest.raises(ImageError, match="no images to learn from"):
        of_arrays([])


def test_time_becomes_pairs_of_one_group():
    dataset = of_arrays([(make_image(STACK, "tyx", "movie"), LABELS)])
    assert [pair.key for pair in dataset.pairs][:2] == ["movie t000", "movie t001"]
    assert {pair.group for pair in dataset.pairs} == {"movie"}
    np.testing.assert_array_equal(dataset.pairs[3].labels, LABELS[3])
    window = (slice(1, 3), slice(2, 4))
    np.testing.assert_array_equal(dataset.pairs[3].image.read((), window)[0], STACK[3][window])
    (single,) = of_arrays([(make_image(STACK[:1], "zyx", "one"), LABELS[:1])]).pairs
    assert (single.key, single.image.axes) == ("one", "yx")


# Stacks


def test_planes_in_blocks():
    settings = DatasetSettings(planes="planes", block=3)
    pairs = of_arrays([(STACK, LABELS)], settings=settings).pairs
    assert [pair.image.axes for pair in pairs] == ["yx"] * 7
    assert [pair.group for pair in pairs] == ["image 1, z 0-2"] * 3 + ["image 1, z 3-6"] * 4
    np.testing.assert_array_equal(pairs[5].labels, LABELS[5])
    np.testing.assert_array_equal(pairs[5].image.samples()[0], STACK[5].ravel())
    train, held = split_pairs(pairs, 0.4, 0)
    assert {len(train), len(held)} == {3, 4}
    assert {pair.group for pair in as_planes(of_arrays([(STACK, LABELS)]).pairs)} == {"image 1"}
    assert as_planes(pairs) == pairs


def test_volumes_in_blocks():
    pairs = of_arrays([(STACK, LABELS)], settings=DatasetSettings(block=2)).pairs
    assert [pair.labels.shape[0] for pair in pairs] == [2, 2, 2, 1]
    assert len({pair.group for pair in pairs}) == 4
    np.testing.assert_array_equal(pairs[3].labels, LABELS[6:])
    np.testing.assert_array_equal(pairs[1].image.samples()[0], STACK[2:4].ravel())
    assert len(fold_of(pairs, 4, 0)[1]) == 1


def test_sections_become_a_volume():
    sections = [(STACK[i], LABELS[i]) for i in range(7)]
    (pair,) = of_arrays(sections, settings=DatasetSettings(planes="volume")).pairs
    assert (pair.key, pair.image.axes) == ("image 1 to image 7", "zyx")
    np.testing.assert_array_equal(pair.labels, LABELS)
    np.testing.assert_array_equal(pair.image.samples()[0], STACK.ravel())
    with pytest.raises(ImageError, match="different sizes"):
        of_arrays(
            [*sections, (STACK[0][:4], LABELS[0][:4])], settings=DatasetSettings(planes="volume")
        )


def test_moments_are_no_sections():
    settings = DatasetSettings(planes="volume")
    movie = of_arrays([(STACK, LABELS)], axes="tyx", settings=settings).pairs
    assert [(pair.image.axes, pair.group) for pair in movie] == [("yx", "image 1")] * 7


def test_sections_in_blocks_are_consecutive():
    sections = [(STACK[i % 7], LABELS[i % 7]) for i in range(12)]
    pairs = of_arrays(sections, settings=DatasetSettings(block=4)).pairs
    assert [pair.key for pair in pairs] == [f"image {i}" for i in range(1, 13)]
    assert [pair.group for pair in pairs][3:9] == (
        ["image 1 to image 4"] + ["image 5 to image 8"] * 4 + ["image 9 to image 12"]
    )


@pytest.mark.parametrize(
    ("n", "block", "expected"),
    [
        (10, 0, [(0, 10)]),
        (10, 5, [(0, 5), (5, 10)]),
        (11, 5, [(0, 5), (5, 11)]),
        (13, 5, [(0, 5), (5, 10), (10, 13)]),
        (2, 5, [(0, 2)]),
        (3, 1, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_runs(n, block, expected):
    assert runs(n, block) == expected


def test_natural_order():
    names = ["img10", "img2", "Img1", "2", "10", "a"]
    assert sorted(names, key=natural) == ["2", "10", "a", "Img1", "img2", "img10"]


def test_settings_that_make_no_sense():
    for wrong, name in (
        ({"planes": "slices"}, "planes"), ({"block": -1}, "block"), ({"values": (1, 1)}, "values"),
        ({"values": (0, 1), "threshold": 3}, "threshold"),
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=name):
            DatasetSettings(**wrong)


# Masks


@pytest.mark.parametrize("highest", [255, 65535])
def test_black_and_white_is_0_and_1(highest):
    mask = np.where(LABELS[0] > 1, highest, 0).astype(np.uint16)
    (pair,) = of_arrays([(STACK[0], mask)]).pairs
    np.testing.assert_array_equal(pair.labels, LABELS[0] > 1)
    mask[0, 0] = 7
    (pair,) = of_arrays([(STACK[0], mask)]).pairs
    np.testing.assert_array_equal(pair.labels, mask)


def test_values_are_named_in_any_order():
    settings = DatasetSettings(values=(3, 0, 2))
    (pair,) = of_arrays([(STACK[0], LABELS[0])], settings=settings).pairs
    expected = np.array([1, 255, 2, 0])[LABELS[0]]
    np.testing.assert_array_equal(pair.labels, expected)
    assert pair.labels.dtype == np.uint8


def test_a_threshold_suits_masks_of_any_type():
    settings = DatasetSettings(threshold=127)
    masks = [LABELS[0] > 1, (LABELS[0] > 1) * 200, (LABELS[0] > 1).astype(np.uint8)]
    for mask in masks:
        (pair,) = of_arrays([(STACK[0], mask)], settings=settings).pairs
        np.testing.assert_array_equal(pair.labels, LABELS[0] > 1)


def test_connected_parts_are_objects():
    mask = np.zeros((6, 8), np.uint8)
    mask[:2, :2] = mask[2:4, 2:4] = mask[:, 6] = 1  # two that meet at a corner
    numbers = object_numbers(mask)
    assert numbers.max() == 3
    assert numbers[0, 0] != numbers[2, 2]
    mask[0, 0] = 2
    np.testing.assert_array_equal(object_numbers(mask), mask)
    unknown = mask.astype(int) * (mask < 2)
    unknown[5, 0] = -1
    assert object_numbers(unknown)[5, 0] == -1
    assert object_numbers(np.zeros((2, 2), int)).max() == 0


# Lazy arrays


def lazy_of(array, shelf=None, count=None):
    def read():
        if count is not None:
            count.append(1)
        return array

    return Lazy(array.shape, array.dtype, read, shelf or Shelf())


SELECTIONS = [
    ..., (), 2, -1, slice(None, None, -2), (slice(1, 4), 2), (..., 3), (1, ..., slice(2, 5)),
    (slice(None), slice(1, 3), slice(None, None, 2)), (0, 1, 2), slice(5, 2), slice(-3, None),
    slice(4, None, -1),
]  # fmt: skip


@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
def test_lazy_arrays_are_sliced_like_arrays(selection):
    twice = np.concatenate([STACK, STACK])
    arrays = {
        "lazy": (lazy_of(STACK), STACK),
        "stacked": (Stacked(list(STACK)), STACK),
        "run": (Part(twice, 0, (3, 10)), twice[3:10]),
        "first run": (Part(twice, 0, (0, 7)), STACK),
        "plane": (Part(np.stack([STACK, STACK + 1], axis=1), 1, 1), STACK + 1),
    }
    for name, (array, expected) in arrays.items():
        np.testing.assert_array_equal(array[selection], expected[selection], err_msg=name)
        assert array[selection].dtype == expected.dtype
        assert (array.shape, array.ndim) == (expected.shape, 3)
        np.testing.assert_array_equal(np.asarray(array), expected)


def test_a_copy_of_a_lazy_array_is_one():
    copy = np.array(lazy_of(STACK), dtype=np.float32, copy=True)
    assert copy.dtype == np.float32
    assert not np.shares_memory(np.array(lazy_of(STACK), copy=True), STACK)


def test_the_shelf_keeps_the_last_ones():
    count, shelf = [], Shelf(size=2 * STACK.nbytes, places=3)
    one, two, three = (lazy_of(STACK, shelf, count) for _ in range(3))
    for array in (one, two, one, two, one):
        array[0]
    assert len(count) == 2
    three[0]  # now two is forgotten
    one[0]
    assert len(count) == 3
    two[0]
    assert len(count) == 4
    small = Shelf(size=1)
    for _ in range(3):
        lazy_of(STACK, small, count)[0]
    again = lazy_of(STACK, small, count)
    again[0], again[1]
    assert len(count) == 8  # larger than the shelf, but kept while it is the last
