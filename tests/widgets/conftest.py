"""A viewer with docks that open a tiny model, and an image that it segments exactly."""

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt

from napari_unet.project import default_project
from napari_unet.session import session_of


@pytest.fixture(autouse=True)
def tiny_is_opened_first(tiny_file):
    """The docks start with the model that the project worked with last; the tiny one here."""
    default_project().write_state({"model": str(tiny_file)})


@pytest.fixture
def squares():
    """Sixteen bright squares of 8 px on a dark ground, `(y, x)` uint8."""
    pixels = np.zeros((64, 64), np.uint8)
    for y in range(4, 64, 16):
        for x in range(4, 64, 16):
            pixels[y : y + 8, x : x + 8] = 200
    return pixels


@pytest.fixture
def viewer():
    """A viewer without a window, which is all that most docks need, and quickly made."""
    return ViewerModel()


@pytest.fixture
def idle(qtbot):
    """Waits until a session has nothing to do."""

    def wait(session, timeout=20_000):
        qtbot.waitUntil(
            lambda: not session.is_busy and not session.predictions.is_at_work, timeout=timeout
        )
        qtbot.waitUntil(lambda: not session.journal.is_pending, timeout=5000)

    return wait


@pytest.fixture
def dock(viewer, idle, qtbot):
    """Makes a dock for the viewer, in its window if it has one, and waits for its model."""

    docks = []  # without a window nothing else keeps them

    def add(kind, name="dock"):
        widget = kind(viewer)
        if hasattr(viewer, "window"):
            viewer.window.add_dock_widget(widget, name=name, area="right")
        else:
            qtbot.addWidget(widget)
            docks.append(widget)
        idle(session_of(viewer))
        return widget

    yield add
    session = session_of(viewer)
    session.cancel()
    idle(session)


@pytest.fixture
def click(qtbot):
    """Clicks a button with the mouse; it must be there and enabled."""

    def press(button):
        assert button.isEnabled(), button.toolTip()
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    return press


@pytest.fixture
def session(viewer):
    return session_of(viewer)
