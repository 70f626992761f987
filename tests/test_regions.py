"""What is in view, one slice, and what lies inside shapes, in px of any image."""

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_unet.core.errors import ImageError
from napari_unet.layers import image_of
from napari_unet.layers.regions import (
    areas_of_shapes,
    common_box,
    positions,
    relative_box,
    slice_area,
    view_area,
)


@pytest.fixture
def viewer():
    viewer = ViewerModel()
    viewer.canvas.size = (200, 400)  # height, width
    return viewer


def look(viewer, center, zoom):
    viewer.scene.camera.center, viewer.scene.camera.zoom = center, zoom


def limits(box):
    return [(side.start, side.stop) for side in box]


# In view


@pytest.mark.parametrize(
    ("center", "zoom", "expected"),
    [
        ((0, 49.5, 99.5), 10, [(40, 60), (80, 120)]),
        ((0, 49.5, 99.5), 4, [(25, 75), (50, 150)]),
        ((0, 0, 0), 10, [(0, 11), (0, 21)]),
        ((0, 99, 199), 10, [(89, 100), (179, 200)]),
        ((0, 50, 100), 0.1, [(0, 100), (0, 200)]),
        ((0, 50.2, 100.2), 100, [(49, 52), (98, 103)]),  # px that are seen in part count
    ],
)
def test_what_is_on_the_canvas_is_in_view(viewer, center, zoom, expected):
    source = viewer.add_image(np.zeros((100, 200)))
    look(viewer, center, zoom)
    assert limits(view_area(viewer, source, image_of(source)).box) == expected


def test_nothing_in_view_is_said(viewer):
    source = viewer.add_image(np.zeros((100, 200)), name="field")
    look(viewer, (0, 500, 500), 10)
    with pytest.raises(ImageError, match="Nothing of 'field' is in view"):
        view_area(viewer, source, image_of(source))


@pytest.mark.parametrize(
    ("shape", "rgb", "axes", "expected"),
    [
        ((7, 100, 200), False, "zyx", [(4, 5), (40, 60), (80, 120)]),
        ((7, 100, 200), False, "cyx", [(40, 60), (80, 120)]),
        ((7, 100, 200), False, "zxy", [(4, 5), (80, 120), (40, 60)]),
        ((7, 100, 200, 3), True, "zyxc", [(4, 5), (40, 60), (80, 120)]),
        ((100, 200, 3), True, "yxc", [(40, 60), (80, 120)]),
    ],
)
def test_the_view_is_given_in_the_label_axes_of_the_image(viewer, shape, rgb, axes, expected):
    n_leading = len(shape) - rgb - 2
    scale = (*[3] * n_leading, 0.5, 0.25)
    source = viewer.add_image(np.zeros(shape, np.uint8), rgb=rgb, scale=scale, translate=None)
    if n_leading:
        viewer.dims.set_point(0, 12)
    viewer.canvas.size = (200, 200)
    look(viewer, (0, 0.5 * 49.5, 0.25 * 99.5), 20)  # 10 x 10 in the world
    assert limits(view_area(viewer, source, image_of(source, axes)).box) == expected


def test_the_view_of_a_turned_layer_is_the_box_around_it(viewer):
    source = viewer.add_image(np.zeros((300, 300)), rotate=90, translate=(7, 13))
    look(viewer, (0, *source.data_to_world((100, 200))), 10)  # 20 x 40 px of the canvas
    (y0, y1), (x0, x1) = limits(view_area(viewer, source, image_of(source)).box)
    assert 39 <= y1 - y0 <= 42
    assert 19 <= x1 - x0 <= 22
    np.testing.assert_allclose([(y0 + y1 - 1) / 2, (x0 + x1 - 1) / 2], (100, 200), atol=1)


def test_the_view_of_a_level_is_in_its_own_px(viewer):
    levels = [np.zeros((400, 400)), np.zeros((100, 100))]
    source = viewer.add_image(levels, multiscale=True)
    viewer.canvas.size = (200, 200)
    look(viewer, (0, 199.5, 99.5), 1)
    assert limits(view_area(viewer, source, image_of(source)).box) == [(100, 300), (0, 200)]
    coarse = view_area(viewer, source, image_of(source, level=1))
    assert limits(coarse.box) == [(25, 75), (0, 50)]


def test_in_3d_the_whole_volume_is_in_view(viewer):
    source = viewer.add_image(np.zeros((3, 7, 100, 200)))
    viewer.dims.set_point(0, 2)
    viewer.dims.ndisplay = 3
    expected = [(2, 3), (0, 7), (0, 100), (0, 200)]
    assert limits(view_area(viewer, source, image_of(source)).box) == expected


def test_a_slice_along_other_axes_is_in_view(viewer):
    source = viewer.add_image(np.zeros((50, 100, 200)))
    viewer.dims.order = (1, 0, 2)  # rows of the canvas are z
    viewer.dims.set_point(1, 30)
    viewer.canvas.size = (200, 200)
    look(viewer, (0, 24.5, 99.5), 10)
    expected = [(15, 35), (30, 31), (90, 110)]
    assert limits(view_area(viewer, source, image_of(source)).box) == expected


# One slice


@pytest.mark.parametrize("ndisplay", [2, 3])
def test_this_slice_is_that_of_the_sliders(viewer, ndisplay):
    source = viewer.add_image(np.zeros((5, 7, 30, 40)), scale=(1, 2, 1, 1))
    viewer.dims.set_point([0, 1], [3, 8])
    viewer.dims.ndisplay = ndisplay
    expected = [(3, 4), (4, 5), (0, 30), (0, 40)]
    assert limits(slice_area(viewer, source, image_of(source)).box) == expected


def test_the_slice_of_a_plane_is_all_of_it(viewer):
    source = viewer.add_image(np.zeros((30, 40)))
    assert limits(slice_area(viewer, source, image_of(source)).box) == [(0, 30), (0, 40)]


# Shapes


SQUARE = np.array([[10, 20], [10, 39], [29, 39], [29, 20]], dtype=float)


def test_a_rectangle_is_a_box_all_of_which_counts(viewer):
    source = viewer.add_image(np.zeros((100, 200)))
    shapes = viewer.add_shapes([SQUARE], shape_type="rectangle")
    (area,) = areas_of_shapes(shapes, source, image_of(source))
    assert limits(area.box) == [(10, 30), (20, 40)]
    assert area.inside.all()


def test_of_an_ellipse_only_the_inside_counts(viewer):
    source = viewer.add_image(np.zeros((100, 200)))
    shapes = viewer.add_shapes([SQUARE], shape_type="ellipse")
    (area,) = areas_of_shapes(shapes, source, image_of(source))
    y, x = np.mgrid[:20, :20]
    disk = np.hypot(y - 9.5, x - 9.5)
    assert area.inside[disk < 9].all()
    assert not area.inside[disk > 10].any()


def test_a_polygon_beyond_the_border_is_cut_off(viewer):
    source = viewer.add_image(np.zeros((100, 200)), scale=(0.5, 0.5), translate=(1, 2))
    shapes = viewer.add_shapes([[[-9, -9], [6, -9], [6, 7]]], shape_type="polygon")
    (area,) = areas_of_shapes(shapes, source, image_of(source))
    assert [side.start for side in area.box] == [0, 0]
    corner = source.world_to_data((6, 7))
    np.testing.assert_allclose([side.stop - 1 for side in area.box], corner, atol=1)
    assert area.inside[-1, 0]
    assert not area.inside[0, -1]


def test_shapes_count_in_the_slice_they_were_drawn_in(viewer):
    source = viewer.add_image(np.zeros((7, 100, 200)))
    drawn = np.insert(SQUARE, 0, 3, axis=1)
    shapes = viewer.add_shapes([drawn, np.add(drawn, (2, 0, 0))], shape_type="rectangle")
    areas = areas_of_shapes(shapes, source, image_of(source))
    assert sorted(limits(area.box)[0] for area in areas) == [(3, 4), (5, 6)]


def test_flat_shapes_count_in_every_slice(viewer):
    source = viewer.add_image(np.zeros((7, 100, 200)))
    shapes = viewer.add_shapes([SQUARE], shape_type="rectangle")
    (area,) = areas_of_shapes(shapes, source, image_of(source))
    assert limits(area.box) == [(0, 7), (10, 30), (20, 40)]
    assert area.inside.shape == (20, 20)


def test_shapes_that_overlap_become_one_area(viewer):
    source = viewer.add_image(np.zeros((100, 200)))
    data = [SQUARE, np.add(SQUARE, (60, 0)), np.add(SQUARE, (5, 10))]
    shapes = viewer.add_shapes(data, shape_type="rectangle")
    areas = areas_of_shapes(shapes, source, image_of(source))
    assert sorted(limits(area.box) for area in areas) == [
        [(10, 35), (20, 50)], [(70, 90), (20, 40)],
    ]  # fmt: skip
    (both,) = [area for area in areas if area.box[0].start == 10]
    expected = np.zeros((25, 30), bool)
    expected[:20, :20] = expected[5:, 10:] = True
    np.testing.assert_array_equal(both.inside, expected)


@pytest.mark.parametrize("kind", ["line", "path"])
def test_lines_have_no_inside(viewer, kind):
    source = viewer.add_image(np.zeros((100, 200)), name="field")
    shapes = viewer.add_shapes([SQUARE[:2]], shape_type=kind, name="lines")
    with pytest.raises(ImageError, match="'lines' has no shape that lies on 'field'"):
        areas_of_shapes(shapes, source, image_of(source))


def test_shapes_beside_the_image_are_refused(viewer):
    source = viewer.add_image(np.zeros((100, 200)))
    shapes = viewer.add_shapes([SQUARE + 500], shape_type="rectangle")
    with pytest.raises(ImageError, match="Draw a rectangle"):
        areas_of_shapes(shapes, source, image_of(source))


# Boxes


def test_boxes_in_common():
    one, other = (slice(0, 5), slice(3, 9)), (slice(2, 8), slice(0, 4))
    assert common_box(one, other) == (slice(2, 5), slice(3, 4))
    assert common_box(one, (slice(5, 8), slice(0, 4))) is None
    assert relative_box((slice(2, 5), slice(3, 4)), one) == (slice(2, 5), slice(0, 1))


def test_positions_of_the_colours_are_left_out(viewer):
    source = viewer.add_image(np.zeros((2, 30, 40, 3), np.uint8), rgb=True, scale=(1, 2, 4))
    found = positions(source, image_of(source), np.array([[1.0, 10.0, 20.0]]))
    np.testing.assert_allclose(found, [[1, 5, 5]])
