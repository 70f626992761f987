"""The Segment dock: what it takes, why it refuses, and that knobs act without the network."""

import time

import dask.array as da
import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt

from napari_unet.core.model import save_model
from napari_unet.core.settings import FineTuneSettings
from napari_unet.layers import stage_of
from napari_unet.preferences import remember_model
from napari_unet.widgets.live import LiveWidget
from napari_unet.widgets.segment import SegmentWidget


class Slowly:
    """An array that takes its time to be read."""

    def __init__(self, array, seconds=0.02):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype
        self.ndim, self.seconds = array.ndim, seconds

    def __getitem__(self, selection):
        time.sleep(self.seconds)
        return self._array[selection]


@pytest.fixture
def n_runs(monkeypatch):
    """How often a network has run on an image, in a list of one number."""
    from napari_unet.core import segmentation

    count, predict = [0], segmentation.predict

    def counting(*arguments, **more):
        count[0] += 1
        return predict(*arguments, **more)

    monkeypatch.setattr(segmentation, "predict", counting)
    return count


def type_axes(widget, axes):
    """Type letters as a person does."""
    widget.axes.setEditText(axes)
    widget.axes.lineEdit().editingFinished.emit()


def choose(combo, text):
    """Choose an entry as a person does."""
    at = combo.findText(text)
    assert at >= 0, [combo.itemText(i) for i in range(combo.count())]
    combo.setCurrentIndex(at)
    combo.activated.emit(at)


def refuses(widget, words):
    """The button is off; its tooltip and the line beneath say why."""
    assert not widget.button.isEnabled()
    assert words in widget.button.toolTip()
    assert words in widget.reason.text()
    assert not widget.reason.isHidden()
    return True


def accepts(widget):
    assert widget.button.isEnabled(), widget.reason.text()
    assert widget.reason.isHidden()
    assert widget.button.toolTip() == "Run the network on the image."
    return True


def test_the_button_says_why_it_is_disabled(dock, viewer, session, idle, squares, click):
    widget = dock(SegmentWidget)
    assert refuses(widget, "Open a model first")
    session.open_first_model()
    assert refuses(widget, "Opening the model is running")
    idle(session)
    assert refuses(widget, "Open an image first")
    layer = viewer.add_image(squares)
    assert accepts(widget)
    click(widget.button)
    assert refuses(widget, "Segmenting is running")
    idle(session)
    assert accepts(widget)
    viewer.layers.remove(layer)
    assert refuses(widget, "Open an image first")
    viewer.add_image(np.zeros((5, 64, 64), np.uint8), name="five")
    choose(widget.axes, "cyx")
    assert refuses(widget, "'five' has 5 channels")
    type_axes(widget, "tyx")
    assert accepts(widget)


def test_an_image_that_cannot_be_used_is_refused_in_every_step(dock, viewer, click):
    live = dock(LiveWidget)
    viewer.add_image(np.zeros((2, 9, 9, 3), np.uint8), rgb=True, axis_labels=("c", "y", "x"))
    assert refuses(live.segment, "none of them twice")
    assert not live.correct.start_button.isEnabled()
    assert "none of them twice" in live.correct.reason.text()
    viewer.add_image(np.zeros((40, 40), np.uint8), name="good")
    choose(live.segment.image, "good")
    assert accepts(live.segment)
    assert live.correct.start_button.isEnabled()


def test_on_trial_the_button_waits_for_the_decision(dock, viewer, session, squares, idle):
    live = dock(LiveWidget)
    viewer.add_image(squares)
    live.correct.start()
    layer = stage_of(viewer).corrections().layer
    layer.paint((8, 8), 2)
    layer.paint((1, 1), 1)
    idle(session)
    session.fine_tune(FineTuneSettings(steps=2, patch_size=32, batch_size=1))
    idle(session)
    assert refuses(live.segment, "Keep or Go back")
    session.go_back()
    assert accepts(live.segment)


def names(combo):
    return [combo.itemText(i) for i in range(combo.count())]


def test_the_list_of_images_follows_the_layers(dock, viewer, session, squares, idle, click):
    widget = dock(LiveWidget).segment
    assert names(widget.image) == []
    first = viewer.add_image(squares, name="first")
    viewer.add_image(squares, name="second")
    viewer.add_labels(np.zeros((64, 64), np.uint8))
    assert names(widget.image) == ["first", "second"]
    assert widget.image.currentText() == "first"
    first.name = "renamed"
    assert names(widget.image) == ["renamed", "second"]
    choose(widget.image, "second")
    click(widget.button)
    idle(session)
    assert "second segmentation" in [layer.name for layer in viewer.layers]
    viewer.layers.remove("second")
    assert widget.image.currentText() == "renamed"
    viewer.layers.clear()
    assert names(widget.image) == []


def test_a_click_fills_a_layer_that_lies_on_the_image(dock, viewer, session, squares, idle, click):
    widget = dock(LiveWidget).segment
    viewer.add_image(
        squares, name="squares", scale=(0.5, 0.25), translate=(3, 4), units=("um", "um")
    )
    click(widget.button)
    idle(session)
    result = viewer.layers["squares segmentation"]
    np.testing.assert_array_equal(result.data > 0, squares > 0)
    assert result.data.max() == 16
    np.testing.assert_allclose(result.scale, (0.5, 0.25))
    np.testing.assert_allclose(result.translate, (3, 4))
    assert [str(unit) for unit in result.units] == ["micrometer", "micrometer"]
    about = result.metadata["napari-unet-live"]
    assert about["model_id"] == session.model.id
    assert "threshold" in about["settings"]


def in_color(squares):
    return np.repeat(squares[..., None], 3, axis=-1), {"rgb": True}


def a_stack(squares):
    return np.stack([squares, 0 * squares, squares.T]), {}


def a_lazy_series(squares):
    return da.from_array(np.stack([squares, squares]), chunks=(1, 64, 64)), {
        "axis_labels": ("t", "y", "x"), "contrast_limits": (0, 255),
    }  # fmt: skip


def multiscale(squares):
    return [squares, squares[::2, ::2]], {"multiscale": True}


def sixteen_bits(squares):
    return (squares * 200.0 + 1000).astype(np.uint16), {}


def real_numbers(squares):
    return squares / 255 - 0.5, {}


@pytest.mark.parametrize(
    "make", [in_color, a_stack, a_lazy_series, multiscale, sixteen_bits, real_numbers]
)
def test_every_kind_of_image_is_segmented(
    dock, viewer, session, squares, idle, click, make, make_tiny_model, tmp_path
):
    widget = dock(LiveWidget).segment
    array, options = make(squares)
    if make is in_color:
        save_model(make_tiny_model("rgb", in_channels=3), tmp_path / "rgb.safetensors")
        session.open_model(tmp_path / "rgb.safetensors")
        idle(session)
    viewer.add_image(array, name="image", **options)
    click(widget.button)
    idle(session)
    assert session.message[0] == "done", session.message
    found = np.asarray(viewer.layers["image segmentation"].data) > 0
    expected = np.asarray(array[0] if isinstance(array, list) else array)
    expected = expected[..., 0] if options.get("rgb") else expected
    np.testing.assert_array_equal(found, expected > expected.min())


def test_channels_first_are_chosen_and_leave_the_result(
    dock, viewer, session, squares, idle, click, make_tiny_model, tmp_path
):
    widget = dock(LiveWidget).segment
    save_model(make_tiny_model("two", in_channels=2), tmp_path / "two.safetensors")
    session.open_model(tmp_path / "two.safetensors")
    idle(session)
    viewer.add_image(np.stack([squares, squares.T]), name="two channels")
    assert widget.button.isEnabled()  # slices of one channel, shown to both
    choose(widget.axes, "cyx")
    click(widget.button)
    idle(session)
    result = viewer.layers["two channels segmentation"]
    assert result.data.shape == (64, 64)
    np.testing.assert_array_equal(result.data > 0, squares > 0)


def test_axes_are_shown_in_letters_and_in_words(dock, viewer):
    widget = dock(LiveWidget).segment
    assert widget.axes.isHidden()
    assert widget.axes_words.isHidden()
    viewer.add_image(np.zeros((32, 48)), name="plane")
    assert not widget.axes.isHidden()
    assert widget.axes.currentText() == "yx"
    assert widget.axes_words.text() == "32 × 48 px; pixel size unknown"
    viewer.add_image(
        np.zeros((3, 32, 48)), name="stack", scale=(2, 0.5, 0.25), units=("um", "um", "um")
    )
    choose(widget.image, "stack")
    assert widget.axes.currentText() == "zyx"
    words = "3 slices of 32 × 48 px, each 0.5 × 0.25 µm, slices 2 µm apart"
    assert widget.axes_words.text() == words
    assert {"tyx", "cyx", "yxc"} <= set(names(widget.axes))
    viewer.add_image(np.zeros((2, 5, 32, 48)), name="series", axis_labels=("t", "c", "y", "x"))
    choose(widget.image, "series")
    assert widget.axes.currentText() == "tcyx"
    assert widget.axes_words.text().startswith("2 time points, 5 channels of 32 × 48 px")


@pytest.mark.parametrize("wrong", ["zyy", "zy", "zyxc", "abc", "z yx y", "12x", ""])
def test_axes_that_cannot_be_are_refused_with_a_sentence(dock, viewer, session, wrong):
    widget = dock(LiveWidget).segment
    viewer.add_image(np.zeros((3, 32, 32)), name="stack")
    type_axes(widget, wrong)
    assert session.message[0] == "error"
    assert "this image has 3" in session.message[1]
    assert widget.axes.currentText() == "zyx"  # as it was
    assert accepts(widget)


def test_axes_in_another_order_are_segmented_where_they_are(
    dock, viewer, session, squares, idle, click
):
    widget = dock(LiveWidget).segment
    corner = squares.copy()
    corner[:, 20:] = 0
    viewer.add_image(corner.T.copy(), name="turned")
    type_axes(widget, " X Y ")
    assert widget.axes.currentText() == "xy"
    click(widget.button)
    idle(session)
    result = viewer.layers["turned segmentation"]
    np.testing.assert_array_equal(result.data > 0, corner.T > 0)


# Where


def choose_where(widget, where):
    at = widget.where.choice.findData(where)
    assert widget.where.choice.model().item(at).isEnabled()
    widget.where.choice.setCurrentIndex(at)


def reason_of(widget, where):
    """Why a place cannot be chosen; nothing if it can."""
    choice = widget.where.choice
    at = choice.findData(where)
    reason = choice.itemData(at, Qt.ItemDataRole.ToolTipRole)
    assert choice.model().item(at).isEnabled() == (not reason)
    return reason


def test_places_that_are_not_there_say_why(dock, viewer, squares):
    widget = dock(LiveWidget).segment
    viewer.add_image(squares, name="plane")
    assert "only one slice" in reason_of(widget, "slice")
    assert "no layer of shapes" in reason_of(widget, "shapes")
    viewer.add_image(np.stack([squares] * 2), name="stack")
    choose(widget.image, "stack")
    assert not reason_of(widget, "slice")
    choose_where(widget, "slice")
    choose(widget.image, "plane")
    assert widget.where.choice.currentData() == "everywhere"
    shapes = viewer.add_shapes(name="mine")
    assert not reason_of(widget, "shapes")
    choose_where(widget, "shapes")
    assert widget.where.shapes.isHidden()  # there is only one
    viewer.add_shapes(name="others")
    assert not widget.where.shapes.isHidden()
    assert names(widget.where.shapes) == ["mine", "others"]
    assert widget.where.shapes.currentData() is shapes
    viewer.layers.remove("mine")
    viewer.layers.remove("others")
    assert widget.where.choice.currentData() == "everywhere"


def test_only_this_slice_is_segmented(dock, viewer, session, squares, idle, click, qtbot):
    widget = dock(LiveWidget).segment
    viewer.add_image(np.stack([squares] * 3), name="stack")
    viewer.dims.set_point(0, 1)
    choose_where(widget, "slice")
    click(widget.button)
    idle(session)
    found = viewer.layers["stack segmentation"].data
    np.testing.assert_array_equal(found[1] > 0, squares > 0)
    assert not found[[0, 2]].any()
    viewer.dims.set_point(0, 2)
    click(widget.button)
    idle(session)
    np.testing.assert_array_equal(found[1:] > 0, np.stack([squares] * 2) > 0)
    assert len(np.unique(found[found > 0])) == 32  # numbers of their own


def test_only_what_is_in_view_is_segmented_and_the_rest_stays(
    dock, viewer, session, squares, idle, click
):
    widget = dock(LiveWidget).segment
    viewer.add_image(squares, name="squares")
    click(widget.button)
    idle(session)
    found = viewer.layers["squares segmentation"].data
    before = found.copy()
    viewer.canvas.size = (320, 320)
    viewer.scene.camera.zoom = 10
    viewer.scene.camera.center = (0, 15.5, 15.5)  # 32 x 32 px, from the corner
    choose_where(widget, "view")
    found[:] = np.where(found, found + 100, 0)
    click(widget.button)
    idle(session)
    assert "4 objects in parts of" in session.message[1]
    found = viewer.layers["squares segmentation"].data
    np.testing.assert_array_equal(found[32:], np.where(before, before + 100, 0)[32:])
    assert found[:32, :32].max() > before.max() + 100
    viewer.scene.camera.center = (0, 5000, 5000)
    click(widget.button)
    assert session.message == ("error", "Nothing of 'squares' is in view. Move it into view.")


def test_only_the_inside_of_shapes_is_segmented(dock, viewer, session, squares, idle, click):
    widget = dock(LiveWidget).segment
    viewer.add_image(squares, name="squares", scale=(0.5, 0.5))
    shapes = viewer.add_shapes(name="mine", scale=(0.5, 0.5))
    choose_where(widget, "shapes")
    click(widget.button)
    assert "no shape that lies on 'squares'" in session.message[1]
    shapes.add_rectangles(np.array([[0, 0], [0, 24], [30, 24], [30, 0]]))
    click(widget.button)
    idle(session)
    found = viewer.layers["squares segmentation"].data
    expected = squares.copy()
    expected[31:] = expected[:, 25:] = 0
    np.testing.assert_array_equal(found > 0, expected > 0)


# Knobs


def test_knobs_act_at_once_and_without_the_network(
    dock, viewer, session, squares, idle, click, n_runs
):
    widget = dock(LiveWidget).segment
    viewer.add_image(squares, name="squares")
    click(widget.button)
    idle(session)
    result, n_before = viewer.layers["squares segmentation"], n_runs[0]
    assert n_before > 0
    widget.min_size.setValue(65)
    idle(session)
    assert not result.data.any()
    widget.min_size.setValue(10)
    idle(session)
    assert result.data.max() == 16
    widget.threshold.setValue(0.9)
    widget.split.setValue(0.5)
    idle(session)
    assert session.predictions.current.settings.threshold == 0.9
    assert session.predictions.current.settings.split == 0.5
    choose(widget.what, "classes")
    idle(session)
    assert result.data.max() == 1
    for knob in (widget.min_size, widget.split, widget.advanced.fill_holes, widget.advanced.link):
        assert not knob.isEnabled()
        assert knob.toolTip() == "Only for single objects."
    assert n_runs[0] == n_before


def test_the_form_starts_with_what_the_model_says(dock, session, idle, make_tiny_model, tmp_path):
    from dataclasses import replace

    widget = dock(LiveWidget).segment
    model = make_tiny_model("other")
    objects = replace(model.description.objects, threshold=0.3, min_size=77, split=0.25)
    save_model(model.described(objects=objects), tmp_path / "other.safetensors")
    session.open_model(tmp_path / "other.safetensors")
    idle(session)
    settings = widget.settings()
    assert (settings.threshold, settings.min_size, settings.split) == (0.3, 77, 0.25)
    assert settings.tile_size is None
    widget.advanced.tile_size.setValue(64)
    assert widget.settings().tile_size == 64


@pytest.mark.parametrize("size", [1, 8, 15])
def test_a_tile_too_small_cannot_be_chosen(dock, size):
    """A spin box that lets through what the settings refuse would crash the click."""
    widget = dock(LiveWidget).segment
    widget.advanced.tile_size.setValue(size)
    assert widget.settings().tile_size in (None, 16)


def tick(qtbot, box):
    """Click on the mark of a check box."""
    where = QPoint(8, box.height() // 2)
    qtbot.mouseClick(box, Qt.MouseButton.LeftButton, pos=where)


def test_the_map_of_probabilities(dock, viewer, session, squares, idle, click, qtbot):
    widget = dock(LiveWidget).segment
    viewer.add_image(squares, name="squares", scale=(2, 2))
    assert not widget.probabilities.isEnabled()
    click(widget.button)
    idle(session)
    tick(qtbot, widget.probabilities)
    idle(session)
    layer = viewer.layers["squares probability"]
    np.testing.assert_allclose(layer.data, squares > 0, atol=0.01)
    np.testing.assert_allclose(layer.scale, (2, 2))
    assert names(widget.image) == ["squares"]
    widget.threshold.setValue(0.7)
    idle(session)
    assert len([one for one in viewer.layers if "probability" in one.name]) == 1
    tick(qtbot, widget.probabilities)
    assert [one for one in viewer.layers if "probability" in one.name] == []


def test_the_map_stays_with_the_image_it_was_made_of(dock, viewer, session, squares, idle, click):
    widget = dock(LiveWidget).segment
    viewer.add_image(squares, name="first", translate=(5, 6))
    viewer.add_image(np.zeros((3, 40, 40), np.uint8), name="second")
    click(widget.button)
    idle(session)
    choose(widget.image, "second")
    widget.probabilities.setChecked(True)
    idle(session)
    (layer,) = [one for one in viewer.layers if "probability" in one.name]
    assert layer.name == "first probability"
    np.testing.assert_allclose(layer.translate, (5, 6))


def test_cancel_is_there_while_something_runs(dock, viewer, session, squares, idle, click, qtbot):
    live = dock(LiveWidget)
    assert live.status.cancel_button.isHidden()
    viewer.add_image(Slowly(np.tile(squares, (8, 8))), contrast_limits=(0, 255))
    live.segment.advanced.tile_size.setValue(16)
    click(live.segment.button)
    assert not live.status.cancel_button.isHidden()
    assert not live.status.bar.isHidden()
    click(live.status.cancel_button)
    assert not live.status.cancel_button.isEnabled()
    assert "Cancelling" in live.status.bar.format()
    idle(session)
    assert live.status.cancel_button.isHidden()
    assert "cancelled" in live.status.sentence.text()
    assert accepts(live.segment)


def test_progress_says_how_far_it_is(dock, viewer, session, squares, idle, click, qtbot):
    live = dock(LiveWidget)
    viewer.add_image(Slowly(np.tile(squares, (8, 8))), contrast_limits=(0, 255), name="slow")
    live.segment.advanced.tile_size.setValue(16)
    click(live.segment.button)
    qtbot.waitUntil(lambda: "%" in live.status.bar.format(), timeout=20_000)
    assert 0 <= live.status.bar.value() < live.status.bar.maximum()
    assert "Segmenting" in live.status.bar.format()
    click(live.status.cancel_button)
    idle(session)


def test_segmenting_while_the_canvas_is_3d(dock, viewer, session, squares, idle, click):
    widget = dock(LiveWidget).segment
    viewer.add_image(np.stack([squares] * 4), name="stack")
    viewer.dims.ndisplay = 3
    click(widget.button)
    idle(session)
    assert session.message[0] == "done"
    assert viewer.layers["stack segmentation"].data.any(axis=(1, 2)).all()


def test_a_result_somebody_painted_in_is_left_alone(dock, viewer, session, squares, idle, click):
    widget = dock(LiveWidget).segment
    viewer.add_image(squares, name="squares")
    click(widget.button)
    idle(session)
    mine = viewer.layers["squares segmentation"]
    mine.paint((0, 0), 99)
    painted = mine.data.copy()
    widget.min_size.setValue(30)
    idle(session)
    click(widget.button)
    idle(session)
    np.testing.assert_array_equal(mine.data, painted)
    assert len(viewer.layers) == 3


# Advanced


def test_the_advanced_settings_start_folded_and_reach_the_work(dock, viewer, squares):
    widget = dock(LiveWidget).segment
    assert widget.advanced.isHidden()
    defaults = widget.settings()
    assert (defaults.precision, defaults.augmentation, defaults.link) == ("auto", "none", False)
    choose(widget.advanced.precision, "full (32 bits)")
    choose(widget.advanced.augmentation, "also mirrored")
    widget.advanced.smoothing.setValue(1.5)
    widget.advanced.fill_holes.setChecked(False)
    viewer.add_image(np.stack([squares] * 2), name="stack")
    widget.advanced.link.setChecked(True)
    chosen = widget.settings()
    assert (chosen.precision, chosen.augmentation) == ("full", "flips")
    assert (chosen.smoothing, chosen.fill_holes, chosen.link) == (1.5, False, True)


def test_objects_are_linked_through_z_only_in_a_stack(dock, viewer, session, squares, idle, click):
    widget = dock(LiveWidget).segment
    link = widget.advanced.link
    viewer.add_image(squares, name="plane")
    assert not link.isEnabled()
    assert link.toolTip() == "This image has no z axis."
    viewer.add_image(np.stack([squares] * 3), name="stack")
    choose(widget.image, "stack")
    assert link.isEnabled()
    click(widget.button)
    idle(session)
    result = viewer.layers["stack segmentation"]
    assert result.data.max() == 48
    link.setChecked(True)
    idle(session)
    assert result.data.max() == 16
    np.testing.assert_array_equal(result.data[0], result.data[2])


def test_knobs_among_the_advanced_act_at_once(dock, viewer, session, squares, idle, click, n_runs):
    widget = dock(LiveWidget).segment
    viewer.add_image(squares, name="squares")
    click(widget.button)
    idle(session)
    n_before = n_runs[0]
    assert n_before
    result = viewer.layers["squares segmentation"].data
    area = np.count_nonzero(result)
    widget.advanced.smoothing.setValue(4)
    idle(session)
    assert np.count_nonzero(result) != area
    assert n_runs[0] == n_before


def test_models_to_average_with(dock, viewer, session, squares, idle, click, tiny_file, tmp_path):
    other = tmp_path / "other.safetensors"
    other.write_bytes(tiny_file.read_bytes())
    remember_model(other)
    widget = dock(LiveWidget).segment
    others = widget.advanced.others
    texts = [others.item(i).text() for i in range(others.count())]
    assert texts == ["nuclei (built in)", "other.safetensors"]  # not the current one
    assert widget.advanced.chosen_others() == ()
    others.item(1).setCheckState(Qt.CheckState.Checked)
    assert widget.advanced.chosen_others() == (str(other),)
    viewer.add_image(squares, name="squares")
    click(widget.button)
    idle(session)
    assert len(session.predictions.current.models) == 2
    session.rounds_changed.emit()  # the list is filled anew
    assert widget.advanced.chosen_others() == (str(other),)


# How it is done, and images that are big


def test_a_line_says_how_it_was_done(dock, viewer, session, squares, idle, click):
    widget = dock(LiveWidget).segment
    assert widget.how.isHidden()
    viewer.add_image(squares, name="squares")
    click(widget.button)
    idle(session)
    assert not widget.how.isHidden()
    assert widget.how.text() == session.predictions.how[0]
    assert widget.how.text().startswith("Exact, ")
    assert "Why: " in widget.how.toolTip()


def test_a_big_image_gets_a_result_on_disk_that_napari_shows(
    dock, viewer, session, squares, idle, click, monkeypatch
):
    monkeypatch.setattr("napari_unet.predictions.BIG", 1000)
    widget = dock(LiveWidget).segment
    pixels = np.tile(squares, (20, 20))
    viewer.add_image(pixels, name="big", scale=(2, 2))
    click(widget.button)
    idle(session)
    result = viewer.layers["big segmentation"]
    assert result.multiscale
    assert [level.shape for level in result.data] == [(1280, 1280), (640, 640)]
    np.testing.assert_array_equal(np.asarray(result.data[0]) > 0, pixels > 0)
    np.testing.assert_allclose(result.scale, (2, 2))
    assert not widget.probabilities.isEnabled()
    assert "would not fit" in widget.probabilities.toolTip()
    choose(widget.what, "classes")
    idle(session)
    assert session.message[0] == "done", session.message
    np.testing.assert_array_equal(np.asarray(result.data[0]), pixels > 0)
    click(widget.button)
    idle(session)
    assert len(viewer.layers) == 2  # the same layer


def test_a_model_that_knows_its_pixel_size_says_what_is_done_about_it(
    dock, viewer, session, squares, idle, click, make_tiny_model, tmp_path
):
    widget = dock(LiveWidget).segment
    save_model(make_tiny_model("half", pixel_size=0.5), tmp_path / "half.safetensors")
    viewer.add_image(squares, name="unknown")
    session.open_model(tmp_path / "half.safetensors")
    idle(session)
    assert widget.axes_words.text() == "64 × 64 px; pixel size unknown"
    assert "pixel size of the image along y and x is unknown" in widget.axes_words.toolTip()
    fine = np.kron(squares, np.ones((2, 2), np.uint8))
    viewer.add_image(fine, name="fine", scale=(0.25, 0.25), units=("um", "um"))
    choose(widget.image, "fine")
    assert "<br>Resampled: the px of the image are 0.25 x 0.25" in widget.axes_words.text()
    click(widget.button)
    idle(session)
    found = viewer.layers["fine segmentation"]
    assert found.data.shape == (128, 128)
    assert found.data.max() == 16


def test_a_level_of_a_pyramid_is_chosen_for_the_model(
    dock, viewer, session, squares, idle, click, make_tiny_model, tmp_path
):
    widget = dock(LiveWidget).segment
    save_model(make_tiny_model("half", pixel_size=0.5), tmp_path / "half.safetensors")
    session.open_model(tmp_path / "half.safetensors")
    idle(session)
    fine = np.kron(squares, np.ones((2, 2), np.uint8))
    viewer.add_image(
        [fine, squares], multiscale=True, name="pyramid", scale=(0.25, 0.25), units=("um", "um")
    )
    click(widget.button)
    idle(session)
    result = viewer.layers["pyramid segmentation"]
    np.testing.assert_array_equal(result.data > 0, squares > 0)
    np.testing.assert_allclose(result.scale, (0.5, 0.5))
    corner = result.data_to_world((0, 0))  # lies on the middle of the four px beneath it
    np.testing.assert_allclose(corner, viewer.layers["pyramid"].data_to_world((0.5, 0.5)))
