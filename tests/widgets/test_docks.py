"""All docks: how they are opened, side by side, closed in the middle of a job."""

import gc
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from napari.utils._proxies import PublicOnlyProxy
from npe2 import PluginManifest
from qtpy.QtCore import QEvent, QThreadPool
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QApplication, QWidget

import napari_unet
from napari_unet.core.settings import FineTuneSettings, SegmentSettings
from napari_unet.layers import stage_of
from napari_unet.project import default_project
from napari_unet.session import session_of
from napari_unet.widgets.common import segment
from napari_unet.widgets.correct import CorrectWidget
from napari_unet.widgets.finetune import FineTuneWidget
from napari_unet.widgets.live import LiveWidget
from napari_unet.widgets.model import ModelWidget
from napari_unet.widgets.parts import Fold
from napari_unet.widgets.segment import SegmentWidget
from napari_unet.works import Adjustment

NAME = "napari-unet-live"
COMMANDS = {
    "U-Net Live": "live",
    "Model": "model",
    "Segment": "segment",
    "Correct": "correct",
    "Fine-tune": "finetune",
}
DOCKS = {
    "U-Net Live": LiveWidget,
    "Model": ModelWidget,
    "Segment": SegmentWidget,
    "Correct": CorrectWidget,
    "Fine-tune": FineTuneWidget,
}
LONG = FineTuneSettings(steps=100_000, patch_size=32, batch_size=2)


@pytest.fixture
def with_plugin(npe2pm):
    npe2pm.register(PluginManifest.from_file(Path(napari_unet.__file__).parent / "napari.yaml"))
    return npe2pm


@pytest.fixture
def viewer(make_napari_viewer):
    """A real one: this is about windows."""
    return make_napari_viewer()


def test_docks_open_from_the_menu_and_by_name(with_plugin, viewer, session, idle):
    """From the menu they get the viewer itself, by name a proxy that hides private names."""
    from napari._app_model import get_app_model

    viewer.add_image(np.zeros((32, 32), np.uint8))
    for title, kind in DOCKS.items():
        _, by_name = viewer.window.add_plugin_dock_widget(NAME, title)
        get_app_model().commands.execute_command(f"{NAME}.{COMMANDS[title]}").result()
        window = viewer.window._qt_window
        docks = window.findChildren(kind)
        found = [dock for dock in docks if not isinstance(dock.parent().parent(), Fold)]
        assert len(found) == 2
        assert by_name in found
        for dock in found:
            assert (getattr(dock, "session", None) or dock._session) is session
        idle(session)
        assert session.message[0] != "error"
        viewer.window.remove_dock_widget("all")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_docks_are_drawn_in_every_theme(make_napari_viewer, qtbot, idle, theme):
    viewer = make_napari_viewer(show=True)
    viewer.theme = theme
    for title, kind in DOCKS.items():
        widget = kind(viewer)
        viewer.window.add_dock_widget(widget, name=title, area="right")
        idle(session_of(viewer))
        qtbot.wait(30)
        picture = widget.grab().toImage()
        assert picture.width() > 100
        shades = {
            picture.pixel(x, y)
            for x in range(0, picture.width(), 2)
            for y in range(0, picture.height(), 10)
        }
        assert len(shades) > 5  # something is drawn
        viewer.window.remove_dock_widget(widget)


def parts_of(widget):
    """The parts that a person can click or choose from; not those inside other parts."""
    from qtpy.QtWidgets import QAbstractButton, QAbstractSlider, QAbstractSpinBox, QComboBox

    kinds = (QAbstractButton, QComboBox, QAbstractSpinBox, QAbstractSlider)
    return [
        part
        for part in widget.findChildren(QWidget)
        if isinstance(part, kinds)
        and not part.objectName().startswith("qt_")
        and "pyqtgraph" not in type(part).__module__
        and "ScrollBar" not in type(part).__name__
        and not isinstance(part.parent(), (*kinds, QAbstractSlider))
    ]


def test_every_control_has_a_tooltip(dock, session, viewer, squares, click):
    viewer.add_image(squares)
    live = dock(LiveWidget)
    click(live.correct.start_button)
    silent = [
        f"{type(part).__name__} {getattr(part, 'text', str)()}"
        for step in (live.model, live.segment, live.correct, live.finetune, live.status)
        for part in parts_of(step)
        if not (part.toolTip() or part.parent().toolTip())
        and part.isEnabledTo(step)
        and not part.isHidden()
        and "Label" not in type(part.parent()).__name__
    ]
    assert silent == []


def test_whatever_is_disabled_says_why(dock, viewer, session, squares, click, idle, slow):
    """Its tooltip is another one than when it can be used."""
    live = dock(LiveWidget)
    steps = (live.model, live.segment, live.correct, live.finetune)
    seen = {}

    def look():
        for step in steps:
            for part in parts_of(step):
                tip = part.toolTip() or part.parent().toolTip()
                seen.setdefault(part, {}).setdefault(part.isEnabled(), set()).add(tip)

    look()
    viewer.add_image(np.tile(squares, (4, 4)))
    look()
    segment(session, stage_of(viewer), SegmentSettings(tile_size=32))
    look()
    idle(session)
    look()
    click(live.correct.start_button)
    look()
    disabled = [part for part, tips in seen.items() if {True, False} <= tips.keys()]
    assert len(disabled) > 10
    unclear = [seen[part] for part in disabled if seen[part][True] & seen[part][False]]
    assert unclear == []


def test_two_docks_of_a_kind_say_the_same(dock, session, viewer, squares, click, idle):
    viewer.add_image(squares, name="squares")
    one, other = dock(LiveWidget, "one"), dock(LiveWidget, "other")
    click(one.segment.button)
    assert not other.segment.button.isEnabled()
    assert "running" in other.segment.reason.text()
    idle(session)
    assert other.segment.button.isEnabled()
    assert "16 objects" in one.status.sentence.text()
    assert other.status.sentence.text() == one.status.sentence.text()
    click(other.correct.start_button)
    assert one.correct.start_button.isHidden()
    click(one.correct.brush_buttons[2])
    assert other.correct.brush_buttons[2].isChecked()
    stage_of(viewer).corrections().layer.paint((20, 20), 2)
    idle(session)
    assert "object: <b>" in one.correct.counts.text() == other.correct.counts.text()
    assert len(viewer.layers) == 3


def start(session, what, squares):
    """Begin a long job; returns how it shows that it goes on."""
    stage = stage_of(session_viewer[session])
    if what == "segmenting":
        segment(session, stage, SegmentSettings(tile_size=32))
        return lambda: stage.result.layer.data.any()
    image = stage.image()
    painted = np.zeros(image.label_shape, np.uint8)
    painted[:, :24], painted[4:12, 4:12] = 1, 2
    corrections = stage.add_corrections(painted * 0, ("background", "object"))
    session.journal.watch(image, stage.key, corrections, ("background", "object"))
    corrections.layer.data[...] = painted
    session.journal.touch(stage.key)
    session.fine_tune(LONG)
    return lambda: len(session.training_curve) > 2


session_viewer = weakref.WeakKeyDictionary()


@pytest.fixture
def slow(tiny_model, monkeypatch):
    """Every tile, and every step of training, takes 20 ms, so that a job lasts a while."""
    from napari_unet.core.image import Image
    from napari_unet.core.networks import UNet

    forward = UNet.forward

    def slowly(self, image):
        time.sleep(0.02)
        return forward(self, image)

    read = Image.read

    def read_slowly(self, index, window):
        time.sleep(0.02)
        return read(self, index, window)

    monkeypatch.setattr(UNet, "forward", slowly)
    monkeypatch.setattr(Image, "read", read_slowly)


@pytest.fixture
def busy(viewer, dock, session, squares, qtbot, slow):
    """A viewer with a dock in the middle of a job."""
    session_viewer[session] = viewer

    def begin(what, kind=LiveWidget):
        viewer.add_image(np.tile(squares, (3, 3)), name="big")
        widget = dock(kind, "busy")
        goes_on = start(session, what, squares)
        qtbot.waitUntil(goes_on, timeout=10_000)
        assert session.is_busy
        return widget

    return begin


JOBS = ["segmenting", "training"]


@pytest.mark.parametrize("what", JOBS)
def test_closing_a_dock_in_the_middle_of_a_job_does_no_harm(busy, viewer, session, idle, what):
    widget = busy(what)
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    QApplication.processEvents()
    assert session.is_busy  # the job is the session's
    if what == "training":
        session.finish_early()
    idle(session)
    assert (session.trial is not None) == (what == "training")
    layer = stage_of(viewer).corrections() and stage_of(viewer).corrections().layer
    if layer:  # the dock had listened to the layer
        layer.mode = "erase"
        layer.selected_label = 2
    again = LiveWidget(viewer)
    viewer.window.add_dock_widget(again, name="again")
    assert again.segment.button.isEnabled() == (what == "segmenting")


@pytest.mark.parametrize("what", JOBS)
@pytest.mark.parametrize("which", ["image", "result or corrections", "all"])
def test_deleting_layers_in_the_middle_of_a_job_does_no_harm(
    busy, viewer, session, idle, click, what, which
):
    live = busy(what)
    stage = stage_of(viewer)
    mine = stage.result if what == "segmenting" else stage.corrections()
    if which == "image":
        viewer.layers.remove(stage.source)
    elif which == "all":
        viewer.layers.clear()
    else:
        viewer.layers.remove(mine.layer)
    if what == "training":
        session.finish_early()
    idle(session)
    assert session.message[0] == "done", session.message
    if what == "training":
        assert session.trial is not None
        assert live.finetune.keep_button.isEnabled()
        click(live.finetune.keep_button)
    else:
        session.predictions.adjust(Adjustment(settings=session.predictions.current.settings))
    idle(session)
    assert session.message[0] == "done", session.message
    if which == "result or corrections":
        click(live.segment.button)
        idle(session)
        assert stage.result.layer in viewer.layers
        assert stage.result.layer.data.any()
    else:
        assert not live.segment.button.isEnabled()
        assert "Open an image first" in live.segment.reason.text()


@pytest.mark.parametrize("what", JOBS)
def test_closing_the_viewer_in_the_middle_of_a_job_stops_it(busy, viewer, qtbot, what):
    busy(what)
    viewer.close()
    assert QThreadPool.globalInstance().waitForDone(2000)
    qtbot.wait(30)


@pytest.mark.parametrize("by", ["its cross", "the program"])
def test_closing_the_window_saves_the_last_stroke(make_napari_viewer, squares, idle, by):
    viewer = make_napari_viewer(show=True)
    viewer.add_image(squares)
    live = LiveWidget(viewer)
    viewer.window.add_dock_widget(live, name="U-Net Live", area="right")
    idle(session_of(viewer))
    live.correct.start()
    stage = stage_of(viewer)
    layer, key = stage.corrections().layer, stage.key
    layer.paint((20, 20), 2)
    if by == "the program":
        viewer.close()  # no turn of the event loop in between
    else:
        QApplication.sendEvent(viewer.window._qt_window, QCloseEvent())
    restored = default_project().restore(key, squares.shape)
    np.testing.assert_array_equal(restored, layer.data)
    assert restored.any()


def live_and_die(make_napari_viewer, squares, idle):
    """Do all there is to do in a viewer and close it; returns weak references to its parts."""
    viewer = make_napari_viewer()
    viewer.add_image(squares)
    live = LiveWidget(viewer)
    viewer.window.add_dock_widget(live, name="U-Net Live", area="right")
    session, stage = session_of(viewer), stage_of(viewer)
    idle(session)
    live.segment.segment()
    idle(session)
    live.correct.start()
    corrections = stage.corrections()
    corrections.layer.paint((20, 20), 2)
    corrections.layer.paint((2, 2), 1)
    idle(session)
    session.fine_tune(FineTuneSettings(steps=2, patch_size=32, batch_size=1))
    idle(session)
    session.keep()
    idle(session)
    alive = {
        "viewer": viewer,
        "session": session,
        "stage": stage,
        "model": session.model.network,
        "outputs": session.predictions.current.outputs,
        "corrections": corrections.layer,
    }
    viewer.close()
    return {name: weakref.ref(part) for name, part in alive.items()}


def test_a_closed_viewer_is_freed_with_all_that_belongs_to_it(
    make_napari_viewer, qtbot, squares, idle
):
    alive = live_and_die(make_napari_viewer, squares, idle)
    for _ in range(3):
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        qtbot.wait(20)
        gc.collect()
    assert [name for name, reference in alive.items() if reference() is not None] == []


def test_two_viewers_have_two_sessions(make_napari_viewer, squares, idle, click):
    first, second = make_napari_viewer(), make_napari_viewer()
    docks = []
    for viewer in (first, second):
        viewer.add_image(squares, name="squares")
        docks.append(LiveWidget(viewer))
        viewer.window.add_dock_widget(docks[-1], name="U-Net Live", area="right")
    assert session_of(first) is not session_of(second)
    for viewer in (first, second):
        idle(session_of(viewer))
    click(docks[0].segment.button)
    idle(session_of(first))
    assert len(first.layers) == 2
    assert len(second.layers) == 1
    assert "objects" in docks[0].status.sentence.text()
    assert "objects" not in docks[1].status.sentence.text()


def test_a_proxy_of_the_viewer_is_as_good(make_napari_viewer, squares, idle, click):
    viewer = make_napari_viewer()
    viewer.add_image(squares)
    live = LiveWidget(PublicOnlyProxy(viewer))
    viewer.window.add_dock_widget(live, name="U-Net Live", area="right")
    session = session_of(viewer)
    assert live.model.session is session
    idle(session)
    click(live.segment.button)
    idle(session)
    assert "16 objects" in session.message[1]


def test_a_dock_that_is_closed_at_once_does_no_harm(viewer, qtbot, session, idle):
    live = LiveWidget(viewer)
    viewer.window.add_dock_widget(live, name="short")
    viewer.window.remove_dock_widget(live)
    live.deleteLater()
    del live
    qtbot.wait(20)
    idle(session)
    session.job_changed.emit()
    session.trial_changed.emit()
    qtbot.wait(150)


def test_an_error_is_notified_if_no_dock_is_open_to_show_it(make_napari_viewer, qtbot, monkeypatch):
    from napari_unet.widgets import common

    notified = []
    monkeypatch.setattr(common, "show_error", notified.append)
    viewer = make_napari_viewer(show=True)
    widget = LiveWidget(viewer)
    docked = viewer.window.add_dock_widget(widget, name="U-Net Live", area="right")
    session = session_of(viewer)
    qtbot.waitUntil(lambda: session.model is not None and not session.is_busy, timeout=20_000)
    qtbot.waitUntil(widget.status.isVisible)
    session.say("error", "The disk is full.")
    assert notified == []
    assert widget.status.sentence.text() == "The disk is full."

    viewer.window.remove_dock_widget(docked)
    session.say("info", "Nothing to worry about.")
    session.say("error", "The disk is full again.")
    assert notified == ["The disk is full again."]
