"""The Correct dock: brushes by key and by button, counts, boxes, masks, projects."""

import numpy as np
import pytest
from napari.layers import Labels
from napari.utils.shortcuts import default_shortcuts
from qtpy.QtCore import QPoint, Qt

from napari_unet.core.model import save_model
from napari_unet.layers import color_of, stage_of
from napari_unet.project import Project, default_project
from napari_unet.widgets.correct import ERASER_KEY, KEYS, CorrectWidget
from napari_unet.widgets.live import LiveWidget


@pytest.fixture
def live(dock, viewer, squares):
    viewer.add_image(squares, name="squares")
    return dock(LiveWidget)


@pytest.fixture
def painting(live, click, viewer):
    """The dock with the corrections layer that its button made."""
    click(live.correct.start_button)
    return live.correct, stage_of(viewer).corrections().layer


def test_the_button_says_why_it_is_disabled(dock, viewer, session, idle, squares):
    widget = dock(CorrectWidget)
    assert not widget.start_button.isEnabled()
    assert widget.start_button.toolTip() == widget.reason.text() == "Open a model first."
    session.open_first_model()
    idle(session)
    assert widget.start_button.toolTip() == widget.reason.text() == "Open an image first."
    layer = viewer.add_image(squares)
    assert widget.start_button.isEnabled()
    assert widget.reason.isHidden()
    assert widget.box_button.toolTip() == "Click Paint corrections first."
    assert not widget.box_button.isEnabled()
    assert not widget.mask_button.isEnabled()
    assert not widget.brush_size.isEnabled()
    viewer.layers.remove(layer)
    assert not widget.start_button.isEnabled()


def test_it_makes_a_layer_with_the_brush_in_hand(painting, viewer):
    widget, layer = painting
    assert viewer.layers.selection.active is layer
    assert viewer.layers[-1] is layer
    assert layer.name == "squares corrections"
    assert layer.data.shape == (64, 64)
    assert not layer.data.any()
    assert layer.mode == "paint"
    assert widget.start_button.isHidden()
    assert widget.brush_buttons[layer.selected_label].isChecked()
    for value in (1, 2):
        wanted = np.array([int(color_of(value)[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        np.testing.assert_allclose(layer.get_color(value)[:3], wanted, atol=0.01)


def test_brushes_are_taken_by_button(painting, click):
    widget, layer = painting
    assert "background" in widget.brush_buttons[1].text()
    assert "object" in widget.brush_buttons[2].text()
    assert "eraser" in widget.brush_buttons[0].text()
    click(widget.brush_buttons[2])
    assert (layer.mode, layer.selected_label) == ("paint", 2)
    click(widget.brush_buttons[0])
    assert layer.mode == "erase"
    click(widget.brush_buttons[1])
    assert (layer.mode, layer.selected_label) == ("paint", 1)
    checked = [value for value, button in widget.brush_buttons.items() if button.isChecked()]
    assert checked == [1]


def test_a_brush_is_back_on_the_corrections_from_any_layer(painting, click, viewer):
    widget, layer = painting
    viewer.layers.selection.active = viewer.layers[0]
    click(widget.brush_buttons[2])
    assert viewer.layers.selection.active is layer


def press(qtbot, viewer, key):
    """Press a key over the canvas."""
    qtbot.keyClick(viewer.window._qt_viewer.canvas.native, key)


def test_brushes_are_taken_by_key(shown, qtbot):
    viewer, live, _ = shown
    widget, layer = live.correct, stage_of(viewer).corrections().layer
    for key, mode, value in (("S", "paint", 2), ("W", "erase", 0), ("A", "paint", 1)):
        press(qtbot, viewer, key)
        assert str(layer.mode) == mode
        assert widget.brush_buttons[value].isChecked()
        if value:
            assert layer.selected_label == value
    for value, button in widget.brush_buttons.items():
        assert f"({KEYS[value - 1] if value else ERASER_KEY})" in button.text()
    mine = viewer.add_labels(np.zeros((64, 64), int), name="mine")
    mine.mode = "pan_zoom"
    press(qtbot, viewer, "S")  # another layer does not answer to them
    assert mine.mode == "pan_zoom"
    assert layer.selected_label == 1
    press(qtbot, viewer, "P")  # and napari's own keys are as they were
    assert mine.mode == "paint"


def test_the_keys_take_nothing_away_from_napari(painting):
    """On the corrections, napari's own keys for labels and for the window stay as they are."""
    _, layer = painting
    foreign = (
        "points", "shapes", "vectors", "tracks", "surface", "image", "vertex", "add_", "direct",
        "select_mode", "select_all", "plane", "contrast",
    )  # fmt: skip
    taken = {
        str(key).upper()
        for name, keys in default_shortcuts.items()
        if not any(word in name for word in foreign)
        for key in keys
    }
    assert {"P", "E", "F", "M", "V"} <= taken
    assert not {key for key in (*KEYS, ERASER_KEY) if key in taken}
    ours = {str(key).upper() for key in layer.keymap}
    assert ours == {"A", "S", ERASER_KEY}
    assert not ours & {str(key).upper() for key in Labels.class_keymap}


def test_classes_beyond_the_keys_can_still_be_painted(
    dock, viewer, session, idle, make_tiny_model, tmp_path, squares, click
):
    save_model(make_tiny_model("many", n_classes=9), tmp_path / "many.safetensors")
    viewer.add_image(squares)
    live = dock(LiveWidget)
    session.open_model(tmp_path / "many.safetensors")
    idle(session)
    click(live.correct.start_button)
    assert sorted(live.correct.brush_buttons) == list(range(10))
    click(live.correct.brush_buttons[9])
    assert stage_of(viewer).corrections().layer.selected_label == 9


def test_another_model_brings_its_own_brushes(
    painting, viewer, session, idle, make_tiny_model, tmp_path, live
):
    """A model with other classes: what is painted stays, the names follow the open layer."""
    widget, layer = painting
    layer.paint((8, 8), 2)
    save_model(make_tiny_model("many", n_classes=4), tmp_path / "many.safetensors")
    session.open_model(tmp_path / "many.safetensors")
    idle(session)
    assert layer.data.any()
    assert sorted(widget.brush_buttons) == [0, 1, 2]


def test_the_brush_size(painting):
    widget, layer = painting
    widget.brush_size.setValue(17)
    assert layer.brush_size == 17


def test_pixels_and_regions_are_in_view(painting, idle, session):
    widget, layer = painting
    layer.brush_size = 1
    layer.paint((8, 8), 2)
    layer.paint((20, 20), 2)
    layer.paint((40, 40), 1)
    idle(session)
    assert "background: <b>1</b> px in 1 region<" in widget.counts.text()
    assert "object: <b>2</b> px in 2 regions" in widget.counts.text()
    layer.undo()
    idle(session)
    assert "background: <b>0</b> px" in widget.counts.text()


def test_strokes_are_offered_back_when_the_image_is_opened_again(
    painting, viewer, session, idle, squares, click, live
):
    widget, layer = painting
    layer.paint((8, 8), 2)
    layer.paint((30, 2), 1)
    painted = layer.data.copy()
    viewer.layers.clear()  # at once: nothing was saved yet
    idle(session)
    viewer.add_image(squares.copy(), name="the same, from another file")
    n_painted = np.count_nonzero(painted)
    assert f"({n_painted:,} px)" in widget.start_button.text()
    click(widget.start_button)
    np.testing.assert_array_equal(stage_of(viewer).corrections().layer.data, painted)
    assert f"{n_painted:,} px of saved corrections are back" in session.message[1]
    viewer.add_image(np.flip(squares).copy() // 2, name="another one")
    live.segment.image.setCurrentIndex(1)
    live.segment.image.activated.emit(1)
    assert widget.start_button.text() == "Paint corrections"


def test_painting_on_a_stack(dock, viewer, session, squares, idle, click):
    viewer.add_image(np.stack([squares] * 5), name="stack")
    live = dock(LiveWidget)
    click(live.correct.start_button)
    layer = stage_of(viewer).corrections().layer
    viewer.dims.set_point(0, 3)
    layer.paint((3, 20, 20), 2)
    idle(session)
    restored = default_project().restore(stage_of(viewer).key, (5, 64, 64))
    np.testing.assert_array_equal(restored, layer.data)
    assert restored[3].any()


# This region is right


@pytest.fixture
def shown(make_napari_viewer, qtbot, idle, squares):
    """A window that is really drawn, with a segmented image and corrections."""
    from napari_unet.session import session_of

    viewer = make_napari_viewer(show=True)
    viewer.add_image(squares, name="squares", scale=(0.5, 0.5), translate=(10, 20))
    live = LiveWidget(viewer)
    viewer.window.add_dock_widget(live, name="U-Net Live", area="right")
    session = session_of(viewer)
    idle(session)
    live.segment.segment()
    idle(session)
    live.correct.start()
    viewer.reset_view()
    qtbot.wait(150)
    yield viewer, live, session
    idle(session)


def drag(qtbot, viewer, layer, start, end):
    """Drag the mouse over the canvas between two positions `(y, x)` in px of a layer."""
    canvas = viewer.window._qt_viewer.canvas
    native = canvas.native

    def on_screen(position):
        y, x = layer.data_to_world(position)
        shown = canvas.view.scene.transform.map((x, y, 0, 1))
        return QPoint(round(shown[0] / shown[3]), round(shown[1] / shown[3]))

    points = [on_screen(np.array(start) + (np.array(end) - start) * t) for t in (0, 0.3, 0.6, 1)]
    left = Qt.MouseButton.LeftButton
    qtbot.mouseMove(native, points[0])
    qtbot.mousePress(native, left, pos=points[0])
    for point in points[1:]:
        qtbot.mouseMove(native, point)
        qtbot.wait(10)
    qtbot.mouseRelease(native, left, pos=points[-1])
    qtbot.wait(20)


def test_what_is_in_a_drawn_box_is_taken_as_right(shown, qtbot, click, idle):
    viewer, live, session = shown
    layer = stage_of(viewer).corrections().layer
    layer.brush_size = 1
    layer.paint((6, 6), 1)  # painted by hand: it stays
    n_layers = len(viewer.layers)
    click(live.correct.box_button)
    assert len(viewer.layers) == n_layers + 1
    drag(qtbot, viewer, layer, (1.5, 1.5), (30.5, 14.5))
    assert len(viewer.layers) == n_layers
    assert viewer.layers.selection.active is layer
    expected = np.zeros((64, 64), np.uint8)
    expected[1:31, 1:15] = 1
    expected[4:12, 4:12] = expected[20:28, 4:12] = 2
    expected[6, 6] = 1
    differs = np.argwhere(layer.data != expected)
    # The mouse is as exact as the screen: the outermost row and column may go either way.
    inside = np.zeros((64, 64), bool)
    inside[3:29, 3:13] = True
    assert not inside[tuple(differs.T)].any(), differs
    assert len(differs) < 120
    assert "px as right" in session.message[1]
    idle(session)
    restored = default_project().restore(stage_of(viewer).key, (64, 64))
    np.testing.assert_array_equal(restored, layer.data)
    layer.undo()
    assert np.count_nonzero(layer.data) == 1
    idle(session)
    restored = default_project().restore(stage_of(viewer).key, (64, 64))
    assert np.count_nonzero(restored) == 1


def test_a_click_without_a_box_takes_nothing(shown, qtbot, click, idle):
    viewer, live, session = shown
    layer = stage_of(viewer).corrections().layer
    n_layers = len(viewer.layers)
    click(live.correct.box_button)
    drag(qtbot, viewer, layer, (-20, -20), (-19, -19))
    assert len(viewer.layers) == n_layers
    assert not layer.data.any()
    assert "No box" in session.message[1]


def test_a_second_click_on_the_button_leaves_one_layer_to_draw_on(shown, click):
    viewer, live, _ = shown
    n_layers = len(viewer.layers)
    click(live.correct.box_button)
    click(live.correct.box_button)
    assert len(viewer.layers) == n_layers + 1
    stage_of(viewer).remove_box()


def test_a_box_needs_a_result(painting, live, session, idle, click, viewer):
    widget, _ = painting
    assert widget.box_button.toolTip() == "Segment the image first."
    assert not widget.box_button.isEnabled()
    click(live.segment.button)
    idle(session)
    assert widget.box_button.isEnabled()
    viewer.layers.remove("squares segmentation")
    assert not widget.box_button.isEnabled()


def test_layers_deleted_while_a_box_is_drawn_do_no_harm(shown, click, viewer=None):
    viewer, live, session = shown
    click(live.correct.box_button)
    stage = stage_of(viewer)
    viewer.layers.remove(stage.corrections().layer)
    live.correct._on_box_drawn(((), (0, 5), (0, 5)))
    assert "No box" in session.message[1]
    assert [layer.name for layer in viewer.layers] == ["squares", "squares segmentation"]


# Masks and projects


def test_an_existing_mask_is_taken_over(painting, viewer, squares, click, idle, session):
    widget, layer = painting
    assert not widget.mask_button.isEnabled()
    mask = np.zeros((64, 64), int)
    mask[10:20, 10:20], mask[10:20, 20:30] = 7, 9
    viewer.add_labels(mask, name="truth")
    viewer.add_labels(np.zeros((5, 5), int), name="too small")
    assert widget.mask_layer.count() == 1
    layer.brush_size = 1
    layer.paint((15, 15), 1)
    click(widget.mask_button)
    expected = np.where(mask > 0, 2, 1)
    expected[10:20, 19] = 1  # the border between two objects that touch
    expected[15, 15] = 1
    np.testing.assert_array_equal(layer.data, expected)
    assert "'truth' as right" in session.message[1]
    idle(session)
    restored = default_project().restore(stage_of(viewer).key, (64, 64))
    np.testing.assert_array_equal(restored, expected)
    layer.undo()
    assert np.count_nonzero(layer.data) == 1
    viewer.layers.remove("truth")
    assert not widget.mask_button.isEnabled()
    assert "No labels layer" in widget.mask_button.toolTip()


def test_the_chosen_mask_stays_chosen(painting, viewer):
    widget, _ = painting
    for name in ("one", "two", "three"):
        viewer.add_labels(np.zeros((64, 64), int), name=name)
    widget.mask_layer.setCurrentIndex(1)
    viewer.add_labels(np.zeros((64, 64), int), name="four")
    assert widget.mask_layer.currentText() == "two"


def test_another_project_takes_the_open_strokes_along(
    painting, viewer, session, idle, click, tmp_path, monkeypatch
):
    widget, layer = painting
    layer.paint((8, 8), 2)
    folder = tmp_path / "paper 2"
    monkeypatch.setattr(
        "napari_unet.widgets.correct.QFileDialog.getExistingDirectory", lambda *_: ""
    )
    click(widget.project_button)
    assert session.project.folder == default_project().folder
    monkeypatch.setattr(
        "napari_unet.widgets.correct.QFileDialog.getExistingDirectory", lambda *_: str(folder)
    )
    click(widget.project_button)
    assert widget.project_name.toolTip() == str(folder)
    layer.paint((40, 40), 2)
    idle(session)
    restored = Project.open(folder).restore(stage_of(viewer).key, (64, 64))
    np.testing.assert_array_equal(restored, layer.data)


def test_a_project_that_cannot_be_read_leaves_a_sentence(live, session, click, monkeypatch, viewer):
    def fail(*_):
        from napari_unet.core.errors import ProjectError

        raise ProjectError("The drive is away. Plug it in.")

    monkeypatch.setattr(Project, "restore", fail)
    click(live.correct.start_button)
    assert session.message == ("error", "The drive is away. Plug it in.")
    assert len(viewer.layers) == 1
    assert live.correct.start_button.isEnabled()


def test_a_full_disk_is_said_in_the_dock(painting, live, session, monkeypatch, qtbot, idle):
    from napari_unet import disk, journal

    monkeypatch.setattr(journal, "RETRY_MS", 100)
    _, layer = painting
    with monkeypatch.context() as patch:

        def fail(*_):
            raise OSError(28, "No space left on device")

        patch.setattr(disk, "_write_whole", fail)
        layer.paint((8, 8), 2)
        qtbot.waitUntil(lambda: "No space left" in live.status.sentence.text())
    idle(session)
    assert default_project().restore(layer_key(live), (64, 64)).any()


def layer_key(live):
    return live.correct.stage.key
