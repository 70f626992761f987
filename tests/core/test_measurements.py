"""Sums over bands are those over the whole image, counted by hand or by scikit-image."""

import numpy as np
import pytest
import zarr
from skimage.measure import regionprops

from napari_unet.core import measurements
from napari_unet.core.errors import ImageError
from napari_unet.core.image import make_image
from napari_unet.core.measurements import measure, measuring
from napari_unet.core.progress import finish


def blobs(shape, n=40, seed=0):
    """Boxes with numbers that overlap, touch borders and are in no order."""
    generator = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    for number in generator.permutation(n) + 1:
        corner = [int(generator.integers(0, size)) for size in shape]
        box = tuple(slice(at, at + int(generator.integers(1, 9))) for at in corner)
        labels[box] = number
    return labels


def check_like_scikit_image(found, labels, values):
    """`values` is `(c, [z,] y, x)`."""
    expected = regionprops(labels, np.moveaxis(values, 0, -1))
    np.testing.assert_array_equal(found.labels, [one.label for one in expected])
    np.testing.assert_array_equal(found.sizes, [one.area for one in expected])
    np.testing.assert_allclose(found.centroids, [one.centroid for one in expected])
    boxes = np.array([one.bbox for one in expected]).reshape(len(expected), 2, -1)
    np.testing.assert_array_equal(found.lowest, boxes[:, 0])
    np.testing.assert_array_equal(found.highest, boxes[:, 1] - 1)
    for name, attribute in (
        ("means", "intensity_mean"), ("minima", "intensity_min"), ("maxima", "intensity_max"),
    ):  # fmt: skip
        np.testing.assert_allclose(
            getattr(found, name), [getattr(one, attribute) for one in expected]
        )
    sums = [values[:, labels == one.label].sum(axis=1, dtype=np.float64) for one in expected]
    np.testing.assert_array_equal(found.sums, sums)


def test_a_tiny_image_counted_by_hand():
    labels = np.array([[0, 5, 5], [2, 0, 5]], np.uint8)
    image = make_image(np.array([[[9, 1, 2], [7, 9, 6]], [[0, 4, 4], [8, 0, 4]]], np.uint16), "cyx")
    found = measure(labels, image)
    assert len(found) == 2
    np.testing.assert_array_equal(found.labels, [2, 5])
    np.testing.assert_array_equal(found.sizes, [1, 3])
    np.testing.assert_array_equal(found.centroids, [[1, 0], [1 / 3, 5 / 3]])
    np.testing.assert_array_equal(found.lowest, [[1, 0], [0, 1]])
    np.testing.assert_array_equal(found.highest, [[1, 0], [1, 2]])
    np.testing.assert_array_equal(found.sums, [[7, 8], [9, 12]])
    np.testing.assert_array_equal(found.means, [[7, 8], [3, 4]])
    np.testing.assert_array_equal(found.minima, [[7, 8], [1, 4]])
    np.testing.assert_array_equal(found.maxima, [[7, 8], [6, 4]])


@pytest.mark.parametrize("band_size", [1, 200, 2**20])
@pytest.mark.parametrize("shape", [(37, 41), (5, 23, 29)])
def test_bands_of_any_height_give_what_the_whole_gives(monkeypatch, band_size, shape):
    monkeypatch.setattr(measurements, "BAND_SIZE", band_size)
    monkeypatch.setattr(measurements, "PENDING", 10)
    labels = blobs(shape)
    values = np.random.default_rng(1).integers(0, 60000, (2, *shape)).astype(np.uint16)
    image = make_image(values, "cyx" if len(shape) == 2 else "czyx")
    check_like_scikit_image(measure(labels, image), labels, values)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32, np.int64])
def test_labels_of_any_whole_type(dtype):
    labels = blobs((30, 30)).astype(dtype)
    image = make_image(np.ones((30, 30), np.float32), "yx")
    found = measure(labels, image)
    np.testing.assert_array_equal(found.labels, np.unique(labels)[1:])
    np.testing.assert_array_equal(found.sums[:, 0], found.sizes)


def test_numbers_far_apart_take_no_room():
    labels = np.zeros((30, 30), np.uint32)
    labels[3:5, 3:5], labels[20, 20] = 7, 4_000_000_000
    found = measure(labels, make_image(np.ones((30, 30)), "yx"))
    np.testing.assert_array_equal(found.labels, [7, 4_000_000_000])
    np.testing.assert_array_equal(found.sizes, [4, 1])


def test_one_plane_of_a_lazy_stack_is_read_and_nothing_else():
    stack = blobs((3, 2, 20, 30))
    values = np.random.default_rng(1).integers(0, 999, (3, 2, 20, 30)) / 8
    lazy = zarr.create_array({}, data=values, chunks=(1, 1, 8, 8))
    lazy_labels = zarr.create_array({}, data=stack, chunks=(1, 1, 8, 8))
    image = make_image(lazy, "tzyx")
    plane = measure(lazy_labels, image, (2, 1))
    check_like_scikit_image(plane, stack[2, 1], values[2, 1][None])
    volume = measure(lazy_labels, image, (1,))
    check_like_scikit_image(volume, stack[1], values[1][None])


def test_an_object_has_the_class_of_most_of_its_pixels():
    labels = np.array([[1, 1, 1, 0], [2, 2, 2, 3]])
    classes = np.array([[1, 2, 2, 0], [0, 0, 1, 0]])  # px without a class do not vote
    image = make_image(np.ones((2, 4)), "yx")
    found = finish(measuring(labels, image, classes=classes, n_classes=3))
    np.testing.assert_array_equal(found.classes, [2, 1, 0])
    np.testing.assert_array_equal(measure(labels, image).classes, [0, 0, 0])


def test_no_objects_make_an_empty_table():
    found = measure(np.zeros((2, 20, 30), int), make_image(np.ones((3, 2, 20, 30)), "czyx"))
    assert len(found) == 0
    assert found.centroids.shape == found.lowest.shape == (0, 3)
    assert found.means.shape == found.maxima.shape == (0, 3)


def test_labels_of_another_image_are_refused():
    with pytest.raises(ImageError, match=r"\(20, 31\), but 'a' is \(20, 30\)"):
        measure(np.zeros((20, 31), int), make_image(np.ones((20, 30)), "yx", name="a"))


def test_progress_goes_to_the_end(monkeypatch):
    monkeypatch.setattr(measurements, "BAND_SIZE", 60)
    image = make_image(np.ones((20, 30)), "yx")
    steps = list(measuring(blobs((20, 30)), image))
    assert [(step.done, step.total) for step in steps] == [(n, 10) for n in range(1, 11)]
