"""Results lie exactly on their image, what a person painted is never overwritten."""

import dask.array as da
import numpy as np
import pytest
import zarr
from napari.components import ViewerModel
from napari.layers import Labels

from napari_unet.core.errors import ImageError
from napari_unet.core.regions import Region
from napari_unet.core.segmentation import SegmentProgress
from napari_unet.layers import Area, CorrectionsLayer, ResultLayer, color_of, image_of, stage_of
from napari_unet.layers.painting import box_of_shape
from napari_unet.layers.reading import axes_of, focus_of

TRANSFORMS = [
    {},
    {"scale": (0.5, 0.25), "translate": (10, -3)},
    {"rotate": 30},
    {"shear": [0.4]},
    {"scale": (2, 3), "translate": (7, 5), "rotate": -70, "shear": [0.2]},
    {"affine": [[1.2, 0.3, 5], [-0.1, 0.8, 2], [0, 0, 1]]},
    {"shear": [[1, 0], [0.3, 1]]},
]


def embedded(transform, n_leading):
    """The same transform of `(y, x)` in a space of more dimensions."""
    n = n_leading + 2
    inner = (slice(n_leading, n), slice(n_leading, n))
    embedded = {}
    for name, value in transform.items():
        if name in ("scale", "translate"):
            filler = 1 if name == "scale" else 0
            embedded[name] = (*[filler] * n_leading, *value)
            continue
        matrix = np.eye(n + 1 if name == "affine" else n)
        if name == "affine":
            value = np.array(value)
            matrix[inner] = value[:2, :2]
            matrix[n_leading:n, -1] = value[:2, -1]
        elif name == "rotate":
            angle = np.radians(value)
            matrix[inner] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        else:
            value = np.array(value, dtype=float)
            matrix[inner] = value if value.ndim == 2 else [[1, value[0]], [0, 1]]
        embedded[name] = matrix
    return embedded


def same_place(source, result, kept, n_points=5):
    """Pixels of a result lie where those of its image do; `kept` are the axes it has."""
    generator = np.random.default_rng(0)
    for _ in range(n_points):
        point = generator.uniform(0, 20, source.ndim)
        for axis in set(range(source.ndim)) - set(kept):
            point[axis] = 0
        expected = np.asarray(source.data_to_world(point))[list(kept)]
        found = result.data_to_world(point[list(kept)])
        np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    ("shape", "rgb", "leading", "kept"),
    [
        ((24, 30), False, "", (0, 1)),
        ((24, 30, 3), True, "", (0, 1)),
        ((4, 24, 30), False, "z", (0, 1, 2)),
        ((4, 24, 30), False, "t", (0, 1, 2)),
        ((2, 24, 30), False, "c", (1, 2)),
        ((5, 2, 24, 30), False, "tc", (0, 2, 3)),
        ((2, 5, 24, 30), False, "cz", (1, 2, 3)),
        ((4, 24, 30, 3), True, "z", (0, 1, 2)),
    ],
)
def test_a_result_lies_exactly_on_its_image(transform, shape, rgb, leading, kept):
    viewer = ViewerModel()
    ndim = len(shape) - rgb
    names = (*("t", "u", "v", "w")[: ndim - 2], "y", "x")
    units = (*("s", "s", "s", "s")[: ndim - 2], "um", "um")
    source = viewer.add_image(
        np.zeros(shape, np.uint8), rgb=rgb, axis_labels=names, units=units,
        **embedded(transform, ndim - 2),
    )  # fmt: skip
    image = image_of(source, leading)
    result = ResultLayer(viewer, source, image, "result").layer
    assert result.data.shape == image.label_shape
    same_place(source, result, kept)
    assert result.axis_labels == tuple(names[i] for i in kept)
    assert [str(unit) for unit in result.units] == [str(source.units[i]) for i in kept]
    corrections = CorrectionsLayer(
        viewer, source, image, np.zeros(image.label_shape, np.uint8), ("background", "cell")
    )
    same_place(source, corrections.layer, kept)


def test_a_multiscale_image_gives_a_result_of_its_full_size():
    viewer = ViewerModel()
    levels = [np.zeros((64, 80), np.uint8), np.zeros((32, 40), np.uint8)]
    source = viewer.add_image(levels, multiscale=True, scale=(0.5, 0.5))
    image = image_of(source)
    assert image.array is source.data[0]
    result = ResultLayer(viewer, source, image, "result").layer
    assert result.data.shape == (64, 80)
    assert not result.multiscale
    same_place(source, result, (0, 1))


def test_a_lazy_layer_stays_lazy():
    lazy = da.zeros((4, 50, 60), chunks=(1, 50, 60), dtype=np.uint16)
    source = ViewerModel().add_image(lazy, contrast_limits=(0, 1))
    assert image_of(source).array is lazy


@pytest.mark.parametrize(
    ("shape", "labels", "leading", "axes"),
    [
        ((9, 9), None, "", "yx"),
        ((3, 9, 9), None, "", "zyx"),
        ((2, 3, 9, 9), None, "", "tzyx"),
        ((2, 2, 3, 9, 9), None, "", "tczyx"),
        ((3, 9, 9), ("t", "y", "x"), "", "tyx"),
        ((3, 9, 9), ("Channel", "Y", "X"), "", "cyx"),
        ((3, 2, 9, 9), ("time", "c", "y", "x"), "", "tcyx"),
        ((3, 9, 9), ("depth", "y", "x"), "", "zyx"),
        ((3, 9, 9), ("t", "y", "x"), "c", "cyx"),
        ((3, 9, 9), ("t", "y", "x"), "tz", "tyx"),
    ],
)
def test_axes_come_from_the_user_then_from_labels_then_from_habit(shape, labels, leading, axes):
    source = ViewerModel().add_image(np.zeros(shape), axis_labels=labels)
    assert axes_of(source, leading) == axes


def test_axes_of_rgb_have_their_channels_last():
    source = ViewerModel().add_image(np.zeros((4, 9, 9, 3), np.uint8), rgb=True)
    assert axes_of(source) == "zyxc"
    assert image_of(source).n_channels == 3


def test_an_image_that_cannot_be_used_is_refused_with_a_sentence():
    source = ViewerModel().add_image(
        np.zeros((2, 9, 9, 3), np.uint8), rgb=True, axis_labels=("c", "y", "x")
    )
    with pytest.raises(ImageError, match="none of them twice"):
        image_of(source)


# What the user looks at


@pytest.mark.parametrize(
    ("shape", "rgb", "leading", "center", "focus"),
    [
        ((100, 200), False, "", (0, 30, 40), (60.0, 160.0)),
        ((100, 200, 3), True, "", (0, 30, 40), (60.0, 160.0)),
        ((7, 100, 200), False, "z", (0, 30, 40), (4.0, 60.0, 160.0)),
        ((7, 100, 200), False, "c", (0, 30, 40), (60.0, 160.0)),
    ],
)
def test_the_focus_is_the_middle_of_the_canvas(shape, rgb, leading, center, focus):
    viewer = ViewerModel()
    n_leading = len(shape) - rgb - 2
    scale = (*[3] * n_leading, 0.5, 0.25)
    source = viewer.add_image(np.zeros(shape, np.uint8), rgb=rgb, scale=scale)
    if n_leading:
        viewer.dims.set_point(0, 12)
    viewer.scene.camera.center = center
    np.testing.assert_allclose(focus_of(viewer, source, image_of(source, leading)), focus)


def test_the_focus_of_a_plane_beside_a_stack():
    viewer = ViewerModel()
    plane = viewer.add_image(np.zeros((100, 200)))
    viewer.add_image(np.zeros((7, 100, 200)))
    viewer.scene.camera.center = (0, 30, 40)
    assert focus_of(viewer, plane, image_of(plane)) == (30.0, 40.0)


# What is written


def progress(labels, index=(), corner=None):
    corner = corner or (0,) * labels.ndim
    window = tuple(slice(c, c + n) for c, n in zip(corner, labels.shape, strict=True))
    return SegmentProgress(
        done=1, total=1, message="", region=Region(index=index, window=window), labels=labels
    )


@pytest.fixture
def viewer():
    return ViewerModel()


@pytest.fixture
def result(viewer):
    source = viewer.add_image(np.zeros((60, 80)), name="field")
    return ResultLayer(viewer, source, image_of(source), "field segmentation")


def test_regions_are_written_where_they_belong(result):
    result.write(progress(np.full((10, 20), 3, np.int32), corner=(5, 7)))
    expected = np.zeros((60, 80), int)
    expected[5:15, 7:27] = 3
    np.testing.assert_array_equal(result.layer.data, expected)


def test_planes_of_a_stack_are_written_where_they_belong(viewer):
    source = viewer.add_image(np.zeros((3, 2, 20, 30)))
    result = ResultLayer(viewer, source, image_of(source), "result")
    result.write(progress(np.full((4, 5), 9, np.int32), index=(2, 1), corner=(6, 7)))
    assert np.argwhere(result.layer.data).min(axis=0).tolist() == [2, 1, 6, 7]
    assert np.argwhere(result.layer.data).max(axis=0).tolist() == [2, 1, 9, 11]


@pytest.mark.parametrize(("what", "dtype"), [("classes", np.uint8), ("objects", np.uint16)])
def test_a_layer_starts_with_the_smallest_type_that_fits(result, what, dtype):
    result.begin(what)
    result.write(progress(np.full((10, 20), 3, np.int32)))
    assert result.layer.data.dtype == dtype


def test_a_layer_gets_wider_when_it_must_and_keeps_everything_else(result):
    result.begin("classes")
    result.write(progress(np.full((10, 10), 255, np.int64)))
    result.layer.selected_label = 200
    result.layer.mode = "pick"
    color = result.layer.get_color(7)
    for value, dtype in ((256, np.uint16), (65535, np.uint16), (65536, np.uint32)):
        result.write(progress(np.full((10, 10), value, np.int64), corner=(20, 20)))
        assert result.layer.data.dtype == dtype
        assert result.layer.data[5, 5] == 255
        assert result.layer.data[25, 25] == value
        assert result.layer.selected_label == 200
        np.testing.assert_array_equal(result.layer.get_color(7), color)
        assert result.layer.mode == "pick"
    result.finished()
    result.layer.undo()
    assert result.layer.data[25, 25] == 65536


def test_what_was_there_stays_until_something_else_comes(result):
    result.begin("objects")
    result.write(progress(np.ones((60, 80), np.int32)))
    result.finished()
    result.begin("objects")
    assert (result.layer.data == 1).all()
    result.write(progress(np.full((10, 10), 2, np.int32)))
    assert (result.layer.data[10:] == 1).all()
    assert (result.layer.data[:10, :10] == 2).all()


# Parts of an image


def test_only_the_chosen_part_is_written_and_its_objects_get_new_numbers(result):
    result.begin("objects")
    before = np.arange(4800, dtype=np.int32).reshape(60, 80) % 50
    result.write(progress(before))
    area = Area(box=(slice(10, 20), slice(30, 50)))
    result.begin("objects", [area])
    result.write(progress(np.full((60, 80), 3, np.int32)))
    expected = before.copy()
    expected[10:20, 30:50] = 49 + 3
    np.testing.assert_array_equal(result.layer.data, expected)
    result.begin("objects", [area])  # again: numbers do not climb for ever
    result.write(progress(np.full((60, 80), 2, np.int32)))
    expected[10:20, 30:50] = 49 + 2
    np.testing.assert_array_equal(result.layer.data, expected)


def test_outside_a_shape_nothing_is_written(result):
    result.begin("classes")
    result.write(progress(np.ones((60, 80), np.int32)))
    inside = np.zeros((10, 20), bool)
    inside[2:5, 3:9] = True
    result.begin("classes", [Area(box=(slice(10, 20), slice(30, 50)), inside=inside)])
    result.write(progress(np.full((8, 40), 2, np.int32), corner=(7, 20)))
    expected = np.ones((60, 80), int)
    expected[12:15, 33:39] = 2
    np.testing.assert_array_equal(result.layer.data, expected)


def test_parts_in_other_slices_are_not_written(viewer):
    source = viewer.add_image(np.zeros((3, 20, 30)))
    result = ResultLayer(viewer, source, image_of(source), "result")
    result.begin("objects", [Area(box=(slice(1, 2), slice(0, 20), slice(0, 30)))])
    for z in range(3):
        result.write(progress(np.full((20, 30), 4, np.int32), index=(z,)))
    assert [int(plane.max()) for plane in result.layer.data] == [0, 4, 0]


def test_what_a_person_painted_is_never_written_over(result):
    result.write(progress(np.ones((60, 80), np.int32)))
    result.layer.paint((30, 30), 7)
    painted = result.layer.data.copy()
    result.write(progress(np.full((60, 80), 5, np.int32)))
    result.finished()
    np.testing.assert_array_equal(result.layer.data, painted)
    result.layer.undo()
    assert (result.layer.data == 1).all()


def test_undo_after_a_segmentation_brings_nothing_stale(result):
    result.layer.mode = "paint"
    result.write(progress(np.ones((60, 80), np.int32)))
    result.finished()
    result.layer.undo()
    assert (result.layer.data == 1).all()
    assert result.layer.mode == "paint"
    assert result.layer.editable


def test_a_removed_result_is_written_to_no_more(viewer, result):
    viewer.layers.remove(result.layer)
    result.write(progress(np.ones((60, 80), np.int32)))
    result.finished()
    assert not result.layer.data.any()
    assert not result.is_usable
    assert not result.is_shown


def test_a_result_whose_viewer_is_gone_is_written_to_no_more(viewer, result):
    viewer.layers.clear()
    result._viewer = lambda: None
    result.write(progress(np.ones((60, 80), np.int32)))
    assert not result.layer.data.any()


# On the canvas


def canvas(viewer):
    return viewer.screenshot(canvas_only=True, flash=False)


@pytest.fixture
def shown(make_napari_viewer, qtbot):
    """Makes a viewer that is really drawn, with an image, and a result on it."""

    def show(shape=(60, 80), axes="", place="", **options):
        viewer = make_napari_viewer(show=True)
        source = viewer.add_image(np.zeros(shape, np.uint8), name="field", visible=False, **options)
        result = ResultLayer(viewer, source, image_of(source, axes), "result", place)
        qtbot.wait(150)  # until the window has its final size
        return viewer, result

    return show


@pytest.mark.parametrize("how", ["plain", "transposed", "contours", "beside a stack", "32 bits"])
def test_a_part_that_is_redrawn_looks_as_if_all_were(shown, qtbot, how):
    viewer, result = shown()
    if how == "beside a stack":
        viewer.add_image(np.zeros((3, 60, 80), np.uint8), visible=False)
    if how == "32 bits":
        result.layer.data = result.layer.data.astype(np.int32)
    if how == "contours":
        result.layer.contour = 1
    if how == "transposed":
        viewer.dims.transpose()
    qtbot.wait(100)
    blank = canvas(viewer)
    labels = np.zeros((20, 30), np.int32)
    labels[2:18, 4:12], labels[5:10, 15:28] = 1, 2
    result.write(progress(labels, corner=(25, 40)))
    np.testing.assert_array_equal(canvas(viewer), blank)  # not yet
    result.redraw()
    part = canvas(viewer)
    result.layer.refresh()
    np.testing.assert_array_equal(part, canvas(viewer))
    assert (part != blank).any()


def test_a_part_is_redrawn_without_the_rest(shown, monkeypatch):
    """A refresh of a large layer takes up to 460 ms; it must not be needed for each tile."""
    viewer, result = shown()
    blank, n_refreshed = canvas(viewer), []
    monkeypatch.setattr(Labels, "refresh", lambda *_, **__: n_refreshed.append(1))
    result.write(progress(np.ones((20, 30), np.int32), corner=(25, 40)))
    result.redraw()
    assert n_refreshed == []
    assert (canvas(viewer) != blank).any()


def test_planes_appear_while_they_are_looked_at(shown, monkeypatch):
    viewer, result = shown((4, 40, 50), scale=(2, 1, 1))
    viewer.dims.set_point(0, 4)  # plane 2
    blank = canvas(viewer)
    monkeypatch.setattr(Labels, "refresh", None)  # only the part is drawn
    result.write(progress(np.ones((20, 30), np.int32), index=(1,), corner=(5, 5)))
    result.redraw()
    np.testing.assert_array_equal(canvas(viewer), blank)
    result.write(progress(np.ones((20, 30), np.int32), index=(2,), corner=(5, 5)))
    result.redraw()
    assert (canvas(viewer) != blank).any()


@pytest.mark.parametrize("axes", ["xyz", "zxy", "yzx"])
def test_parts_of_an_image_whose_axes_have_another_order_appear_where_they_are(shown, axes, qtbot):
    viewer, result = shown((20, 30, 40), axes=axes)
    image = result.image
    viewer.dims.set_point(0, 7)
    blank = canvas(viewer)
    labels = np.zeros(image.label_shape[-2:], np.int32)
    labels[2:9, 3:17] = 5
    for z in range(image.label_shape[0]):
        result.write(progress(labels, index=(z,)))
    np.testing.assert_array_equal(result.labels, np.stack([labels] * image.label_shape[0]))
    assert result.layer.data.shape == (20, 30, 40)
    result.redraw()
    part = canvas(viewer)
    assert (part != blank).any()
    result.layer.refresh()
    np.testing.assert_array_equal(part, canvas(viewer))


@pytest.fixture
def levels(tmp_path):
    """Arrays on disk, from full size to coarse, that somebody else fills."""
    return [
        zarr.create_array(
            str(tmp_path / str(i)), shape=(2048 >> i, 2048 >> i), chunks=(256, 256), dtype="uint32"
        )
        for i in range(2)
    ]


def test_a_result_on_disk_is_shown_while_it_fills(shown, levels, tmp_path):
    viewer, result = shown((2048, 2048), place=str(tmp_path))
    assert result.is_on_disk
    assert not result.labels.any()
    blank = canvas(viewer)
    result.begin("objects")
    result.show_levels(levels)
    viewer.reset_view()
    for i, level in enumerate(levels):
        level[: 1024 >> i] = 70000
    result.write(progress(np.full((1024, 2048), 70000)))
    result.redraw()
    assert (canvas(viewer) != blank).any()
    result.finished()
    assert result.is_usable
    assert result.fits(result.source, result.image, str(tmp_path))
    assert not result.fits(result.source, result.image)
    result.begin("classes")  # their files will be others
    assert not np.asarray(result.labels[:10, :10]).any()


def test_a_result_on_disk_takes_over_that_of_a_trial(viewer, levels, tmp_path):
    source = viewer.add_image(np.zeros((2048, 2048), np.uint8))
    results = [
        ResultLayer(viewer, source, image_of(source), "result", str(tmp_path / name))
        for name in ("before", "after")
    ]
    results[1].show_levels(levels)
    levels[0][:] = 7
    results[0].take_over(results[1])
    assert results[0].labels[5, 5] == 7
    assert results[0].fits(source, image_of(source), str(tmp_path / "after"))


def test_results_show_in_3d_too(shown, qtbot):
    viewer, result = shown((4, 40, 50))
    viewer.dims.ndisplay = 3
    qtbot.wait(100)
    blank = canvas(viewer)
    result.write(progress(np.ones((30, 40), np.int32), index=(2,), corner=(5, 5)))
    result.redraw()
    part = canvas(viewer)
    assert (part != blank).any()
    result.finished()
    np.testing.assert_array_equal(canvas(viewer), part)


# The stage


@pytest.fixture
def stage(viewer):
    viewer.add_image(np.random.default_rng(0).random((60, 80)), name="field")
    return stage_of(viewer)


def test_there_is_one_stage_per_viewer(viewer, stage):
    from napari.utils._proxies import PublicOnlyProxy

    assert stage_of(viewer) is stage
    assert stage_of(PublicOnlyProxy(viewer)) is stage
    assert stage_of(ViewerModel()) is not stage


def test_the_chosen_image_follows_the_layers(viewer, stage):
    first = viewer.layers[0]
    assert stage.source is first
    second = viewer.add_image(np.zeros((5, 5)), name="second")
    assert stage.source is first
    viewer.layers.remove(first)
    assert stage.source is second
    viewer.layers.clear()
    assert stage.source is None
    assert stage.image() is None
    assert stage.key == ""


def test_the_active_image_is_chosen_first():
    viewer = ViewerModel()
    first = viewer.add_image(np.zeros((5, 5)))
    viewer.add_image(np.zeros((6, 6)))
    viewer.layers.selection.active = first
    assert stage_of(viewer).source is first


def test_the_key_follows_the_data_and_the_axes(stage):
    key = stage.key
    assert stage.image() is stage.image()  # read once
    stage.source.data = stage.source.data + 1
    assert stage.key != key
    stage.source.data = stage.source.data - 1
    assert stage.image().label_shape == (60, 80)


def test_a_second_segmentation_takes_the_same_layer_if_it_is_free(viewer, stage):
    first = stage.target(stage.image())
    assert stage.target(stage.image()) is first
    first.layer.paint((5, 5), 3)
    second = stage.target(stage.image())
    assert second is not first
    assert first.layer in viewer.layers
    viewer.layers.remove(second.layer)
    assert stage.target(stage.image()) not in (first, second)


def test_another_image_gets_a_result_of_its_own(viewer, stage):
    first = stage.target(stage.image())
    stage.choose(viewer.add_image(np.zeros((60, 80)), name="other"))
    second = stage.target(stage.image())
    assert second is not first
    assert second.layer.name == "other segmentation"


def test_corrections_stay_on_top_and_active(viewer, stage):
    image = stage.image()
    corrections = stage.add_corrections(np.zeros(image.label_shape, np.uint8), ("background", "a"))
    stage.target(stage.image())
    assert viewer.layers[-1] is corrections.layer
    assert viewer.layers.selection.active is corrections.layer
    assert stage.shown_corrections() == {stage.key}
    viewer.layers.remove(corrections.layer)
    assert stage.corrections() is None
    assert stage.shown_corrections() == set()


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("edited", [True, False])
def test_a_trial_takes_the_place_of_the_result_or_goes(viewer, stage, keep, edited):
    before = stage.target(stage.image())
    before.write(progress(np.ones((60, 80), np.int32)))
    if edited:
        before.layer.paint((5, 5), 3)
    old = before.layer.data.copy()
    trial = stage.target(stage.image(), on_trial=True)
    trial.write(progress(np.full((60, 80), 70000, np.int32)))
    stage.show_before(False)
    assert (before.layer.visible, trial.layer.visible) == (False, True)
    stage.show_before(True)
    assert (before.layer.visible, trial.layer.visible) == (True, False)
    stage.settle_trial(keep)
    assert stage.trial is None
    assert before.layer in viewer.layers
    if not keep or edited:
        np.testing.assert_array_equal(before.layer.data, old)
    if keep:
        assert (stage.result.layer.data == 70000).all()
        assert stage.result.layer in viewer.layers
        assert stage.result.layer.visible
        assert "after" not in stage.result.layer.name
    assert (trial.layer in viewer.layers) == (keep and edited)


def test_settling_survives_removed_layers(viewer, stage):
    before, trial = stage.target(stage.image()), stage.target(stage.image(), on_trial=True)
    viewer.layers.remove(before.layer)
    stage.show_before(True)
    stage.settle_trial(True)
    assert stage.result is trial
    trial = stage.target(stage.image(), on_trial=True)
    viewer.layers.clear()
    stage.settle_trial(True)
    assert stage.trial is None
    stage.settle_trial(False)


def test_probabilities_are_no_image_to_choose(viewer, stage):
    result = stage.target(stage.image())
    stage.show_probabilities(np.zeros((60, 80), np.float32), result)
    stage.show_probabilities(np.ones((60, 80), np.float32), result)
    maps = [layer for layer in viewer.layers if layer.name.endswith("probability")]
    assert len(maps) == 1
    assert stage.images() == [viewer.layers["field"]]
    stage.hide_probabilities()
    assert [layer.name for layer in viewer.layers] == ["field", "field segmentation"]


def test_masks_are_labels_of_the_size_of_the_image(viewer, stage):
    fits = viewer.add_labels(np.zeros((60, 80), np.uint8), name="mask")
    viewer.add_labels(np.zeros((60, 81), np.uint8), name="wrong size")
    stage.add_corrections(np.zeros((60, 80), np.uint8), ("background", "a"))
    assert stage.masks() == [fits]


# Painting


@pytest.fixture
def corrections(stage):
    return stage.add_corrections(np.zeros((60, 80), np.uint8), ("background", "a", "b"))


def test_values_are_taken_where_nothing_is_painted_yet_and_undo_takes_them_back(corrections):
    corrections.layer.brush_size = 1
    corrections.layer.paint((11, 11), 3)
    boxes = []
    corrections.on_changed = boxes.append
    values = np.zeros((4, 4), np.uint8)
    values[1:3, 1:3] = [[2, 2], [2, 1]]
    assert corrections.set_values((), (10, 10), values) == 3
    expected = np.zeros((60, 80), np.uint8)
    expected[11:13, 11:13] = [[3, 2], [2, 1]]
    np.testing.assert_array_equal(corrections.layer.data, expected)
    assert boxes[-1] is not None
    corrections.layer.undo()
    assert np.count_nonzero(corrections.layer.data) == 1
    assert corrections.layer.data[11, 11] == 3
    assert corrections.set_values((), (11, 11), np.ones((1, 1), np.uint8)) == 0


def test_more_values_than_undo_can_hold_are_still_taken_and_told(corrections, monkeypatch):
    monkeypatch.setattr("napari_unet.layers.painting.UNDO_LIMIT", 10)
    told = []
    corrections.on_changed = told.append
    assert corrections.set_values((), (0, 0), np.full((60, 80), 2, np.uint8)) == 4800
    assert (corrections.layer.data == 2).all()
    assert told


def test_the_brush_in_hand(corrections):
    corrections.paint_with(2)
    assert (corrections.layer.mode, corrections.in_hand) == ("paint", 2)
    corrections.erase()
    assert corrections.in_hand == 0
    corrections.layer.mode = "pan_zoom"
    assert corrections.in_hand is None


def test_classes_have_names_and_colours(corrections):
    assert corrections.layer.features["class"].tolist() == ["untouched", "background", "a", "b"]
    colors = [corrections.layer.get_color(value) for value in (1, 2, 3)]
    assert len({tuple(color) for color in colors}) == 3
    assert len({color_of(value) for value in range(1, 8)}) == 7
    assert color_of(8) == color_of(2)  # more classes than colours: they start over
    assert color_of(0).endswith("00")


@pytest.mark.parametrize("scale", [(1, 1), (0.5, 0.25)])
def test_a_drawn_box_in_px_of_the_corrections(viewer, scale):
    source = viewer.add_image(np.zeros((60, 80)), scale=scale, translate=(3, 4))
    painted = np.zeros((60, 80), np.uint8)
    corrections = CorrectionsLayer(viewer, source, image_of(source), painted, ("background", "a"))
    shapes, layer = viewer.add_shapes(), corrections.layer
    assert box_of_shape(shapes, corrections) is None
    corners = [layer.data_to_world(c) for c in ((5.2, 6.7), (5.2, 20.1), (30.5, 20.1), (30.5, 6.7))]
    shapes.add_rectangles(np.array(corners))
    assert box_of_shape(shapes, corrections) == ((), (5, 31), (6, 21))
    outside = [layer.data_to_world(c) for c in ((-9, 70), (-9, 99), (8.5, 99), (8.5, 70))]
    shapes.add_rectangles(np.array(outside))
    assert box_of_shape(shapes, corrections) == ((), (0, 9), (70, 80))
    nowhere = [layer.data_to_world(c) for c in ((-9, -9), (-9, -5), (-5, -5), (-5, -9))]
    shapes.add_rectangles(np.array(nowhere))
    assert box_of_shape(shapes, corrections) is None


def test_corrections_of_axes_in_another_order_are_told_in_label_axes(viewer):
    source = viewer.add_image(np.zeros((20, 30, 4)))  # x, y, z
    image = image_of(source, "xyz")
    values = np.zeros(image.label_shape, np.uint8)  # z, y, x
    corrections = CorrectionsLayer(viewer, source, image, values, ("background", "a"))
    told = []
    corrections.on_changed = told.append
    square = np.full((2, 3), 2, np.uint8)
    assert corrections.set_values((1,), (10, 5), square) == 6
    assert (corrections.array()[1, 10:12, 5:8] == 2).all()
    assert (corrections.layer.data[5:8, 10:12, 1] == 2).all()
    assert np.count_nonzero(values) == 6  # the layer works on this very array
    boxes = {(index, rows, columns) for index, rows, columns in told[-1]}
    assert boxes == {((1,), (10, 12), (5, 8))}
    corrections.fill_in(np.ones(image.label_shape, np.uint8))
    assert np.count_nonzero(values == 1) == values.size - 6
    shapes = viewer.add_shapes(ndim=3)
    shapes.add_rectangles(np.array([[3, 7, 2], [3, 9, 2], [6, 9, 2], [6, 7, 2]], float))
    assert box_of_shape(shapes, corrections) == ((2,), (7, 9), (3, 6))
