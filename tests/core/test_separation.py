"""The separation map against the formula, with a distance transform of the image per object."""

import numpy as np
import pytest
import scipy.ndimage as ndi

from napari_unet.core import separation
from napari_unet.core.errors import ImageError, SettingsError
from napari_unet.core.separation import pixel_weights, separation_map, touching_lines


def by_formula(labels, w_0=10.0, sigma=5.0, spacing=None):
    """Everywhere, float64; the slow way."""
    numbers = np.unique(labels[labels > 0])
    if len(numbers) < 2:
        return np.zeros(labels.shape)
    each = [ndi.distance_transform_edt(labels != n, sampling=spacing) for n in numbers]
    first, second = np.sort(each, axis=0)[:2]
    return w_0 * np.exp(-((first + second) ** 2) / (2 * sigma**2))


def balls(shape, n, seed=0, radii=(3, 9)):
    """Object ids `shape`: balls anywhere, also across the border; later ones are cut by earlier."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    grid = np.ogrid[tuple(slice(0, size) for size in shape)]
    for number in range(1, n + 1):
        center, radius = [rng.integers(0, size) for size in shape], rng.uniform(*radii)
        squares = sum((g - c) ** 2 for g, c in zip(grid, center, strict=True))
        labels[(squares <= radius**2) & (labels == 0)] = number
    return labels


def assert_is_formula(found, expected, w_0=10.0):
    assert found.dtype == np.float32
    counts = expected >= 1e-5 * w_0
    np.testing.assert_allclose(found[counts], expected[counts], rtol=1e-5)
    assert (found[~counts] <= 1.001e-5 * w_0).all()
    assert (found >= 0).all()


CASES = [
    ((90, 110), 25, None),
    ((300, 250), 12, None),  # far apart
    ((90, 110), 25, (0.5, 0.7)),
    ((24, 40, 50), 20, None),
    ((24, 40, 50), 20, (3.0, 1.0, 1.0)),
    ((1, 60, 50), 8, None),
]


@pytest.mark.parametrize(("shape", "n", "spacing"), CASES)
@pytest.mark.parametrize("tile", [None, 17])
def test_it_is_the_formula(shape, n, spacing, tile, monkeypatch):
    if tile:
        monkeypatch.setattr(separation, "TILE_SIZE", {2: 2 * tile, 3: tile})
    labels = balls(shape, n)
    expected = by_formula(labels, spacing=spacing)
    assert (expected >= 1e-4).any()
    found = separation_map(labels, spacing=spacing, is_everywhere=True)
    assert_is_formula(found, expected)


@pytest.mark.parametrize(("w_0", "sigma"), [(10.0, 5.0), (1.0, 2.0), (5.0, 0.3), (10.0, 60.0)])
def test_other_weights_and_reaches(w_0, sigma):
    """60 px reach further than 16-bit numbers."""
    labels = balls((80, 70), 9, radii=(2, 6))
    found = separation_map(labels, w_0, sigma, is_everywhere=True)
    assert_is_formula(found, by_formula(labels, w_0, sigma), w_0)


@pytest.mark.parametrize("shape", [(90, 110), (24, 40, 50)])
def test_within_objects_it_is_nothing_but_where_they_touch(shape):
    labels = balls(shape, 25)
    found, expected = separation_map(labels), by_formula(labels)
    lines = touching_lines(labels)
    assert lines.any()
    assert (found[(labels > 0) & ~lines] == 0).all()
    where = (labels == 0) | lines
    assert_is_formula(found[where], expected[where])
    np.testing.assert_allclose(found[lines], 10 * np.exp(-1 / 50), rtol=1e-6)


def test_by_hand():
    """A gap of three px: its middle is 2 px from both, its rims 1 and 3 px."""
    labels = np.zeros((1, 7), np.uint8)
    labels[0, :2], labels[0, 5:] = 1, 2
    expected = 10 * np.exp(-(np.array([4, 4, 4]) ** 2) / 50)
    found = separation_map(labels)
    np.testing.assert_allclose(found, [[0, 0, *expected, 0, 0]], rtol=1e-6)


def test_the_third_object_does_not_matter():
    labels = np.zeros((9, 30), np.int32)
    labels[:, 3], labels[:, 8], labels[:, 20] = 1, 2, 3
    two = np.where(labels == 3, 0, labels)
    np.testing.assert_array_equal(separation_map(labels)[:, 4:8], separation_map(two)[:, 4:8])


def test_objects_in_parts_and_around_one_another():
    labels = np.zeros((40, 40), np.int32)
    labels[5:35, 5:35] = 1
    labels[9:31, 9:31] = 0
    labels[18:22, 18:22] = 2
    labels[0, 0] = labels[39, 39] = 3
    found = separation_map(labels, is_everywhere=True)
    assert_is_formula(found, by_formula(labels))


@pytest.mark.parametrize("numbers", [(), (1,), (7,)])
@pytest.mark.parametrize("shape", [(20, 20), (5, 20, 20)])
def test_fewer_than_two_objects_are_not_separated(numbers, shape):
    labels = np.zeros(shape, np.int32)
    for number in numbers:
        labels[..., 4:9, 4:9] = number
    assert (separation_map(labels) == 0).all()
    assert separation_map(labels).shape == shape


@pytest.mark.parametrize("shape", [(0, 5), (1, 1)])
def test_tiny_images(shape):
    assert separation_map(np.ones(shape, np.uint16)).shape == shape


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int64, np.uint64])
def test_the_kind_of_numbers_does_not_matter(kind):
    labels = balls((50, 60), 9)
    np.testing.assert_array_equal(separation_map(labels.astype(kind)), separation_map(labels))


@pytest.mark.parametrize("has_background", [True, False])
def test_huge_numbers_and_gaps_between_them(has_background):
    labels = balls((50, 60), 9)
    if not has_background:
        labels = np.where(labels == 0, 10, labels)
    huge = np.where(labels > 0, labels.astype(np.int64) * 10**9, 0)
    expected = separation_map(labels, is_everywhere=True)
    np.testing.assert_array_equal(separation_map(huge, is_everywhere=True), expected)
    huge[(labels == 0)] = -1  # not an object either
    np.testing.assert_array_equal(separation_map(huge, is_everywhere=True), expected)


def test_labels_stay_as_they_are():
    labels = balls((50, 60), 9)
    kept = labels.copy()
    pixel_weights(labels, balanced=True)
    np.testing.assert_array_equal(labels, kept)


def test_touching_lines_by_hand():
    labels = np.array([[1, 1, 2, 0], [1, 0, 2, 3], [4, 0, 0, 0]])
    expected = np.array([[0, 1, 1, 0], [1, 0, 1, 1], [1, 0, 0, 0]], bool)
    np.testing.assert_array_equal(touching_lines(labels), expected)


def test_weights_are_one_and_the_map():
    labels = balls((50, 60), 9)
    np.testing.assert_allclose(pixel_weights(labels), 1 + separation_map(labels))


def test_balanced_weights_let_background_and_objects_count_alike():
    labels = balls((80, 90), 6)
    found = pixel_weights(labels, w_0=0, balanced=True)
    inside = (labels > 0) & ~touching_lines(labels)
    assert found.mean() == pytest.approx(1, rel=1e-5)
    assert found[inside].sum() == pytest.approx(found[~inside].sum(), rel=1e-5)
    both = pixel_weights(labels, balanced=True)
    np.testing.assert_allclose(both, found + separation_map(labels), rtol=1e-6)


@pytest.mark.parametrize("value", [0, 1])
def test_balance_of_a_single_kind_is_one(value):
    assert (pixel_weights(np.full((6, 7), value), balanced=True) == 1).all()


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"sigma": 0.0}, "separation_sigma"),
        ({"sigma": float("nan")}, "separation_sigma"),
        ({"w_0": -1.0}, "separation"),
        ({"spacing": (1.0,)}, "spacing"),
        ({"spacing": (1.0, 0.0)}, "spacing"),
    ],
)
def test_settings_without_sense_are_refused(wish, field):
    with pytest.raises(SettingsError, match=field):
        separation_map(np.zeros((4, 4), int), **wish)


def test_labels_that_are_none_are_refused():
    with pytest.raises(ImageError, match="whole numbers"):
        separation_map(np.zeros((4, 4)))
    with pytest.raises(ImageError, match="1 axes"):
        separation_map(np.zeros(4, int))
