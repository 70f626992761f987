"""The Segment dock: what it takes, why it refuses, and that knobs act without the network."""

import time

import dask.array as da
import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt

from napari_unet.core.model import save_model
from napari_unet.core.settings import FineTuneSettings
from napari_unet.layers import stage_of
from napari_unet.widgets.live import LiveWidget
from napari_unet.widgets.segment import SegmentWidget


@pytest.fixture
def n_runs(monkeypatch):
    """How often a network has run, in a list of one number."""
    from napari_unet.core.networks import UNet

    count, forward = [0], UNet.forward

    def counting(self, image):
        count[0] += 1
        return forward(self, image)

    monkeypatch.setattr(UNet, "forward", counting)
    return count


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
    choose(widget.leading, "channels")
    assert refuses(widget, "'five' has 5 channels")
    choose(widget.leading, "time points")
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
    choose(widget.leading, "channels")
    click(widget.button)
    idle(session)
    result = viewer.layers["two channels segmentation"]
    assert result.data.shape == (64, 64)
    np.testing.assert_array_equal(result.data > 0, squares > 0)


def test_the_choice_of_axes_is_there_when_there_are_some(dock, viewer):
    widget = dock(LiveWidget).segment
    viewer.add_image(np.zeros((32, 32)), name="plane")
    viewer.add_image(np.zeros((3, 32, 32)), name="stack")
    viewer.add_image(np.zeros((2, 3, 32, 32)), name="series")
    assert widget.leading.isHidden()
    choose(widget.image, "stack")
    assert not widget.leading.isHidden()
    assert names(widget.leading) == ["z slices", "time points", "channels"]
    choose(widget.image, "series")
    assert "time, z" in names(widget.leading)
    choose(widget.image, "plane")
    assert widget.leading.isHidden()


def test_axes_that_the_layer_names_are_shown(dock, viewer):
    widget = dock(LiveWidget).segment
    viewer.add_image(np.zeros((3, 32, 32)), axis_labels=("t", "y", "x"))
    assert widget.leading.currentText() == "time points"


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
    assert session.prediction.settings.threshold == 0.9
    assert session.prediction.settings.split == 0.5
    choose(widget.what, "classes")
    idle(session)
    assert result.data.max() == 1
    assert not widget.min_size.isEnabled()
    assert not widget.split.isEnabled()
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
    widget.tile_size.setValue(64)
    assert widget.settings().tile_size == 64


@pytest.mark.parametrize("size", [1, 8, 15])
def test_a_tile_too_small_cannot_be_chosen(dock, size):
    """A spin box that lets through what the settings refuse would crash the click."""
    widget = dock(LiveWidget).segment
    widget.tile_size.setValue(size)
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
    (layer,) = [one for one in viewer.layers if "probability" in one.name]
    assert layer.name == "first probability"
    np.testing.assert_allclose(layer.translate, (5, 6))


def test_cancel_is_there_while_something_runs(dock, viewer, session, squares, idle, click, qtbot):
    live = dock(LiveWidget)
    assert live.status.cancel_button.isHidden()
    viewer.add_image(np.tile(squares, (16, 16)))
    live.segment.tile_size.setValue(64)
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


def test_progress_says_how_far_it_is(
    dock, viewer, session, squares, idle, click, qtbot, monkeypatch
):
    from napari_unet.core.networks import UNet

    forward = UNet.forward

    def slowly(self, image):
        time.sleep(0.05)
        return forward(self, image)

    monkeypatch.setattr(UNet, "forward", slowly)
    live = dock(LiveWidget)
    viewer.add_image(np.tile(squares, (4, 4)))
    live.segment.tile_size.setValue(16)
    click(live.segment.button)
    qtbot.waitUntil(lambda: "of 256" in live.status.bar.format())
    assert live.status.bar.maximum() == 256
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
