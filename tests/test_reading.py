"""From napari's layers to images: axes, pixel sizes, levels, and where a result lies."""

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel

from napari_unet.core.errors import ImageError
from napari_unet.layers.reading import (
    axes_of,
    focus_of,
    image_of,
    level_for,
    pixel_size_of,
    placement,
)

UM2 = ("um", "um")
ROTATED = [[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]]


@pytest.fixture
def viewer():
    return ViewerModel()


def add(viewer, shape, dtype=np.uint8, **about):
    return viewer.add_image(np.zeros(shape, dtype), **about)


def pyramid(*shapes):
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, shape).astype(np.uint8) for shape in shapes]


# Axes


@pytest.mark.parametrize(
    ("labels", "axes"),
    [
        (("y", "x"), "yx"),
        (("x", "y"), "xy"),
        (("X", " Y "), "xy"),
        (("row", "column"), "yx"),
        (("cols", "rows"), "xy"),
        (("i", "j"), "yx"),
        (("i", "y"), "xy"),
        (("z", "x"), "yx"),
        (("t", "x"), "yx"),
        (("y", "y"), "yx"),
        (("x", "y", "z"), "xyz"),
        (("y", "x", "z"), "yxz"),
        (("y", "x", "c"), "yxc"),
        (("y", "x", "i"), "yxz"),
        (("y", "channel", "x"), "ycx"),
        (("frame", "y", "x"), "tyx"),
        (("plane", "y", "x"), "zyx"),
        (("ch", "j", "i"), "cyx"),
        (("t", "z", "x"), "tyx"),
        (("x", "z", "t"), "zyx"),
        (("z", "z", "y", "x"), "tzyx"),
        (("c", "i", "y", "x"), "czyx"),
        (("i", "z", "y", "x"), "tzyx"),
        (("z", "i", "y", "x"), "ztyx"),
        (("i", "t", "y", "x"), "ztyx"),
        (("x", "y", "z", "t"), "xyzt"),
        (("z", "t", "c", "y", "x"), "ztcyx"),
        (("i", "j", "k", "l", "m"), "tczyx"),
        (("i", "j", "c", "l", "m"), "tzcyx"),
        (("i", "j", "k", "l", "m", "n"), "utczyx"),
        (("h", "i", "j", "k", "l", "m", "n"), "uvtczyx"),
    ],
)
def test_axes_from_labels(viewer, labels, axes):
    source = add(viewer, range(3, 3 + len(labels)), axis_labels=labels)
    assert axes_of(source) == axes
    assert image_of(source).axes == axes


@pytest.mark.parametrize(
    ("units", "axes"),
    [
        (("pixel", "pixel", "pixel"), "zyx"),
        (("s", "um", "um"), "tyx"),
        (("hour", "pixel", "pixel"), "tyx"),
        (("um", "um", "um"), "zyx"),
        (("um", "um", "ms"), "yxt"),
        (("um", "ms"), "yx"),
        (("mm", "pixel", "um", "um"), "ztyx"),
        (("pixel", "nm", "um", "um"), "tzyx"),
        (("um", "um", "um", "um"), "tzyx"),
        (("nm", "s", "um", "um"), "ztyx"),
        (("pixel", "s", "um", "um"), "ztyx"),
        (("s", "pixel", "um", "um", "um"), "tczyx"),
        (("s", "um", "pixel", "um", "um"), "tzcyx"),
        (("s", "s", "um", "um"), "tzyx"),
    ],
)
def test_axes_from_units(viewer, units, axes):
    source = add(viewer, range(3, 3 + len(units)), units=units)
    assert axes_of(source) == axes


def test_labels_are_asked_before_units_and_units_before_habit(viewer):
    shape, units = (3, 4, 9, 9), ("um", "s", "um", "um")
    assert axes_of(add(viewer, shape)) == "tzyx"
    assert axes_of(add(viewer, shape, units=units)) == "ztyx"
    labels = ("t", "c", "y", "x")
    assert axes_of(add(viewer, shape, units=units, axis_labels=labels)) == "tcyx"
    assert axes_of(add(viewer, shape, units=units, axis_labels=("c", "i", "y", "x"))) == "ctyx"


@pytest.mark.parametrize(
    ("shape", "rgb", "said", "axes"),
    [
        ((3, 9, 9), False, "xyz", "xyz"),
        ((3, 9, 9), False, " CYX", "cyx"),
        ((3, 9, 9), False, "c", "cyx"),
        ((3, 9, 9), False, "cz", "tyx"),  # letters for another layer: this one's labels
        ((3, 9, 9), False, "zzz", "tyx"),
        ((3, 4, 9, 9), False, "pq", "pqyx"),
        ((9, 9), False, "xy", "xy"),
        ((9, 9, 3), True, "xy", "xyc"),
        ((9, 9, 3), True, "xyc", "xyc"),
        ((5, 9, 9, 3), True, "z", "zyxc"),
        ((5, 9, 9, 3), True, "yxt", "yxtc"),
    ],
)
def test_the_user_knows_best(viewer, shape, rgb, said, axes):
    ndim = len(shape) - rgb
    labels = ("q", "t", "y", "x")[-ndim:]
    source = add(viewer, shape, rgb=rgb, axis_labels=labels)
    assert axes_of(source, said) == axes
    assert image_of(source, said).axes == axes


def test_rgb_and_many_axes_find_letters_for_all(viewer):
    assert axes_of(add(viewer, (2, 2, 2, 9, 9, 3), rgb=True)) == "utzyxc"


@pytest.mark.parametrize(
    ("shape", "rgb", "said", "sentence"),
    [
        ((3, 9, 9), False, "yx", "3 dimensions"),
        ((3, 9, 9), False, "tzyx", "name 4"),
        ((3, 9, 9), False, "yxx", "none of them twice"),
        ((3, 9, 9), False, "yx1", "lower-case letters"),
        ((9, 9, 3), True, "cyx", "shown in colours"),
        ((9, 9, 3), True, "yxz", "shown in colours"),
    ],
)
def test_axes_that_do_not_fit_are_refused_with_a_sentence(viewer, shape, rgb, said, sentence):
    source = add(viewer, shape, rgb=rgb, name="field")
    with pytest.raises(ImageError, match=sentence):
        image_of(source, said)


def test_an_image_of_another_order_is_a_view(viewer):
    lazy = da.zeros((6, 50, 60), chunks=(1, 50, 60), dtype=np.uint16)
    source = viewer.add_image(lazy, contrast_limits=(0, 1))
    image = image_of(source, "xyz")
    assert image.array is lazy
    assert image.label_shape == (60, 50, 6)


# Pixel sizes


@pytest.mark.parametrize(
    ("about", "sizes"),
    [
        ({}, {}),
        ({"scale": (2, 0.5, 0.5)}, {}),
        ({"scale": (2, 0.5, 0.25), "units": "um"}, {"z": 2, "y": 0.5, "x": 0.25}),
        (
            {"scale": (2, 500, 0.25), "units": ("mm", "nm", "um")},
            {"z": 2000, "y": 0.5, "x": 0.25},
        ),
        ({"scale": (30, 0.5, 0.5), "units": ("s", "um", "um")}, {"y": 0.5, "x": 0.5}),
        ({"scale": (3, 0.5, 0.5), "units": ("pixel", "um", "um")}, {"y": 0.5, "x": 0.5}),
        ({"scale": (3, -0.5, 0.5), "units": "um"}, {"z": 3, "y": 0.5, "x": 0.5}),
        (
            {"scale": (3, 0.5, 0.5), "units": "um", "affine": np.diag([1, 2, 4, 1])},
            {"z": 3, "y": 1, "x": 2},
        ),
        (
            {"scale": (3, 0.5, 0.25), "units": "um", "rotate": 30, "translate": (5, 6, 7)},
            {"z": 3, "y": 0.5, "x": 0.25},
        ),
    ],
)
def test_pixel_sizes_come_from_scale_and_units(viewer, about, sizes):
    source = add(viewer, (4, 9, 9), **about)
    assert image_of(source).pixel_size == pytest.approx(sizes, rel=1e-12)


def test_pixel_sizes_follow_the_axes(viewer):
    source = add(viewer, (4, 9, 9), scale=(0.25, 0.5, 3), units="um")
    assert image_of(source, "xyz").pixel_size == {"x": 0.25, "y": 0.5, "z": 3}
    assert image_of(source, "cyx").pixel_size == {"y": 0.5, "x": 3}
    colours = add(viewer, (9, 9, 3), rgb=True, scale=(0.5, 0.25), units="um")
    assert image_of(colours).pixel_size == {"y": 0.5, "x": 0.25}


# Levels


@pytest.fixture
def layered(viewer):
    levels = pyramid((4, 64, 80), (4, 32, 40), (4, 16, 20), (4, 4, 5))
    return viewer.add_image(levels, multiscale=True, scale=(2, 0.25, 0.25), units="um")


@pytest.mark.parametrize(
    ("wanted", "level"),
    [
        (None, 0),
        (0.1, 0),
        (0.25, 0),
        (0.44, 0),
        (0.46, 1),
        (0.5, 1),
        (0.9, 1),
        (0.92, 2),
        (3.6, 2),
        (4.0, 3),
        (100.0, 3),
        ((0.5, 0.25), 0),
        ((0.5, 0.5), 1),
        ((2.0, 1.0, 1.0), 2),
        (float("nan"), 0),
    ],
)
def test_the_level_that_is_just_fine_enough(layered, wanted, level):
    assert level_for(layered, wanted) == level


def test_the_z_of_a_level_counts_for_volumes(viewer):
    levels = pyramid((8, 64, 64), (4, 32, 32), (2, 16, 16))
    source = viewer.add_image(levels, multiscale=True, scale=(1, 0.25, 0.25), units="um")
    assert level_for(source, (1.0, 1.0, 1.0)) == 2
    assert level_for(source, (1.0, 1.0, 1.0), dims=3) == 0
    assert level_for(source, (2.0, 1.0, 1.0), dims=3) == 1
    assert level_for(source, 4.0, dims=3) == 2


def test_without_pixel_sizes_or_levels_the_finest_is_chosen(viewer):
    unknown = viewer.add_image(pyramid((64, 64), (32, 32)), multiscale=True, scale=(0.25, 0.25))
    assert level_for(unknown, 1.0) == 0
    single = add(viewer, (64, 64), scale=(0.25, 0.25), units="um")
    assert level_for(single, 1.0) == 0


def test_levels_of_another_order(viewer):
    levels = pyramid((64, 80, 4), (32, 40, 4), (16, 20, 4))
    about = {"scale": (0.25, 0.25, 9), "units": "um", "rgb": False}
    source = viewer.add_image(levels, multiscale=True, **about)
    assert level_for(source, 1.0, "xyz") == 2
    assert level_for(source, 1.0) == 0  # read as z, y, x: x is 9 µm
    image = image_of(source, "xyz", level=2)
    assert image.label_shape == (4, 20, 16)
    assert image.pixel_size == {"x": 1.0, "y": 1.0, "z": 9.0}


def test_the_image_of_a_level(layered):
    image = image_of(layered, level=1)
    assert image.array is layered.data[1]
    assert image.pixel_size == {"z": 2.0, "y": 0.5, "x": 0.5}
    assert pixel_size_of(layered, "zyx", 3) == {"z": 2.0, "y": 4.0, "x": 4.0}


LEVELS = {
    "halved": ((64, 80), (32, 40), (16, 20)),
    "odd": ((65, 81), (33, 41), (11, 13)),
    "one way": ((64, 80), (64, 40), (32, 10)),
}
PLACES = {
    "plain": {},
    "scaled": {"scale": (0.5, 0.25), "translate": (10, -3)},
    "rotated": {"scale": (2, 3), "translate": (7, 5), "rotate": ROTATED},
    "sheared": {"scale": (2, 3), "rotate": ROTATED, "shear": [0.3]},
    "lower shear": {"scale": (2, 3), "shear": [[1, 0], [0.3, 1]]},
    "affine": {"scale": (2, 3), "affine": [[1.2, 0.3, 5], [-0.1, 0.8, 2], [0, 0, 1]]},
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("shapes", LEVELS.values(), ids=LEVELS)
def test_a_px_of_a_level_spans_its_px_of_the_finest(viewer, shapes, place):
    source = viewer.add_image(pyramid(*shapes), multiscale=True, units="um", **place)
    for level, shape in enumerate(shapes):
        image = image_of(source, level=level)
        result = viewer.add_labels(np.zeros(shape, np.uint8), **placement(source, image))
        factors = np.divide(shapes[0], shape)
        for corner in ((-0.5, -0.5), (2.5, 1.5), np.array(shape) - 0.5):
            on_finest = (np.array(corner) + 0.5) * factors - 0.5
            expected = source.data_to_world(on_finest)
            np.testing.assert_allclose(result.data_to_world(corner), expected, atol=1e-9)
        again = placement(source, image, level)
        np.testing.assert_array_equal(again["translate"], result.translate)


def test_the_finest_level_lies_where_its_layer_does(layered):
    place = placement(layered, image_of(layered))
    np.testing.assert_array_equal(place["scale"], layered.scale)
    np.testing.assert_array_equal(place["translate"], layered.translate)


@pytest.mark.parametrize(
    ("shapes", "rgb", "axes", "kept"),
    [
        (((2, 5, 64, 80), (2, 5, 32, 20)), False, "czyx", (1, 2, 3)),
        (((5, 64, 80, 2), (5, 32, 20, 2)), False, "zyxc", (0, 1, 2)),
        (((64, 80, 5), (32, 20, 3)), False, "xyz", (0, 1, 2)),
        (((4, 64, 80, 3), (2, 32, 20, 3)), True, "z", (0, 1, 2)),
    ],
)
def test_levels_with_channels_and_other_orders(viewer, shapes, rgb, axes, kept):
    ndim = len(shapes[0]) - rgb
    place = {"scale": np.arange(2, 2 + ndim), "translate": np.arange(ndim)}
    source = viewer.add_image(pyramid(*shapes), multiscale=True, rgb=rgb, **place)
    image = image_of(source, axes, level=1)
    labels = image.to_layer_order(np.zeros(image.label_shape, np.uint8))
    result = viewer.add_labels(labels, **placement(source, image))
    factors = np.divide(shapes[0], shapes[1])[:ndim]
    for point in np.random.default_rng(0).uniform(0, 2, (3, ndim)):
        expected = source.data_to_world((point + 0.5) * factors - 0.5)
        found = result.data_to_world(point[list(kept)])
        np.testing.assert_allclose(found, np.asarray(expected)[list(kept)], atol=1e-9)


@pytest.mark.parametrize("shapes", [((64, 80), (32, 20)), ((65, 81), (33, 11))])
def test_a_result_is_drawn_just_where_its_level_is(make_napari_viewer, qtbot, shapes):
    viewer = make_napari_viewer(show=True)
    levels = pyramid(*shapes)
    place = {"scale": (2, 1.5), "translate": (7, 5), "contrast_limits": (0, 255)}
    source = viewer.add_image(levels, multiscale=True, interpolation2d="nearest", **place)
    source.locked_data_level = 1
    qtbot.wait(150)  # until the window has its final size
    drawn = viewer.screenshot(canvas_only=True, flash=False)
    image = image_of(source, level=1)
    viewer.add_image(image.array, contrast_limits=(0, 255), **placement(source, image))
    source.visible = False
    qtbot.wait(50)
    found = viewer.screenshot(canvas_only=True, flash=False)
    assert len(np.unique(found)) > 50
    np.testing.assert_array_equal(found, drawn)


# Places


@pytest.mark.parametrize(
    ("shape", "axes"), [((30, 20), "xy"), ((30, 20, 5), "xyz"), ((30, 3, 5, 20), "xczy")]
)
def test_labels_of_another_order_lie_on_the_layer(viewer, shape, axes):
    names, scale = tuple(axes), np.arange(2, 2 + len(axes))
    source = add(viewer, shape, axis_labels=names, scale=scale, translate=scale)
    image = image_of(source)
    labels = np.zeros(image.label_shape, np.uint8)
    result = viewer.add_labels(image.to_layer_order(labels), **placement(source, image))
    assert np.shares_memory(result.data, labels)
    assert result.axis_labels == tuple(axis for axis in names if axis != "c")
    assert result.data.shape == tuple(n for n, axis in zip(shape, axes, strict=True) if axis != "c")
    point = np.arange(len(axes)) / 4
    kept = [i for i, axis in enumerate(axes) if axis != "c"]
    np.testing.assert_allclose(
        result.data_to_world(point[kept]), np.asarray(source.data_to_world(point))[kept]
    )
    assert image.to_label_order(result.data).shape == image.label_shape


def test_the_focus_is_in_the_label_axes(viewer):
    source = add(viewer, (100, 200, 7), scale=(0.5, 0.25, 3))
    viewer.dims.order = (2, 0, 1)
    viewer.dims.set_point(2, 12)
    viewer.scene.camera.center = (0, 30, 40)
    assert focus_of(viewer, source, image_of(source, "yxz")) == (4.0, 60.0, 160.0)
    assert focus_of(viewer, source, image_of(source, "xyz")) == (4.0, 160.0, 60.0)
    assert focus_of(viewer, source, image_of(source, "yxc")) == (60.0, 160.0)


def test_the_focus_in_px_of_a_level(viewer):
    levels = pyramid((100, 200), (50, 50), (25, 50))
    source = viewer.add_image(levels, multiscale=True, scale=(0.5, 0.25))
    viewer.scene.camera.center = (0, 30, 40)
    assert focus_of(viewer, source, image_of(source)) == (60.0, 160.0)
    assert focus_of(viewer, source, image_of(source, level=1)) == (29.75, 39.625)
    assert focus_of(viewer, source, image_of(source, level=2), level=2) == (14.625, 39.625)


# Values


@pytest.mark.parametrize(
    "dtype", ["?", "u1", "i1", ">u2", "i4", "u4", "u8", "i8", "f2", ">f4", "f8"]
)
def test_layers_of_every_number_type(viewer, dtype):
    array = (np.arange(48).reshape(6, 8) % 2).astype(dtype)
    image = image_of(viewer.add_image(array))
    read = image.read((), (slice(0, 6), slice(0, 8)))
    assert read.dtype == image.array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(read[0], array)
