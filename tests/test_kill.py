"""Killed without warning, in the middle of painting and of training: nothing is lost."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_unet.core.image import make_image
from napari_unet.project import default_project

PAINT = """
import sys, time
import napari
import numpy as np
from qtpy.QtWidgets import QApplication
from napari_unet.core.settings import FineTuneSettings
from napari_unet.layers import stage_of
from napari_unet.session import session_of
from napari_unet.widgets.live import LiveWidget

def live_until(condition):
    while not condition():
        QApplication.processEvents()
        time.sleep(0.005)

viewer = napari.Viewer(show_welcome_screen=False)
viewer.add_image(np.load(sys.argv[1]), name="field")
dock = LiveWidget(viewer)
viewer.window.add_dock_widget(dock, name="U-Net Live", area="right")
session = session_of(viewer)
live_until(lambda: session.model is not None and not session.is_busy)
dock.correct.start_button.click()
layer = stage_of(viewer).corrections().layer
generator = np.random.default_rng(1)
for i in range(20):
    layer.brush_size = int(generator.integers(1, 12))
    layer.paint(tuple(generator.uniform(0, layer.data.shape)), int(generator.integers(1, 3)))
    live_until(lambda end=time.monotonic() + 0.05: time.monotonic() > end)
layer.undo()
painted_at = time.monotonic()
np.save(sys.argv[2], layer.data)
"""

WAIT = """
live_until(lambda: time.monotonic() - painted_at > 2)
"""

TRAIN = """
session.fine_tune(FineTuneSettings(steps=100_000, patch_size=32, batch_size=2))
live_until(lambda: len(session.training_curve) > 5)
assert session.is_busy
"""

END = """
print("ready", flush=True)
live_until(lambda: False)
"""


@pytest.fixture
def field(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4000, (300, 520)).astype(np.uint16)
    np.save(tmp_path / "field.npy", pixels)
    return make_image(pixels, "yx", name="field")


@pytest.fixture
def run_and_kill(qapp, field, tiny_file, tmp_path):
    """Runs a script in a napari of its own until it says "ready", and kills it that instant."""
    default_project().write_state({"model": str(tiny_file)})

    def run(script):
        files = (str(tmp_path / "field.npy"), str(tmp_path / "painted.npy"))
        child = subprocess.Popen(
            [sys.executable, "-c", script, *files], stdout=subprocess.PIPE, text=True
        )
        try:
            assert child.stdout.readline() == "ready\n"
        finally:
            child.kill()  # SIGKILL: nobody gets a chance to tidy up
            child.wait()
            child.stdout.close()
        return np.load(tmp_path / "painted.npy")

    return run


def check(field, painted):
    """Another process finds exactly those pixels, and nothing damaged."""
    project = default_project()
    restored = project.restore(field.fingerprint(), field.label_shape)
    np.testing.assert_array_equal(restored, painted)
    assert set(np.unique(restored)) == {0, 1, 2}
    assert project.damaged == []
    blocks = project.training_images()[0].blocks
    assert sum(np.count_nonzero(block.corrections) for block in blocks) == np.count_nonzero(painted)
    assert project.damaged == []
    return project


def test_killed_two_seconds_after_the_last_stroke(run_and_kill, field):
    check(field, run_and_kill(PAINT + WAIT + END))


def test_killed_in_the_middle_of_training(run_and_kill, field, tiny_file):
    before = tiny_file.read_bytes()
    project = check(field, run_and_kill(PAINT + TRAIN + END))
    assert tiny_file.read_bytes() == before
    assert project.round_paths() == []
    assert project.read_state() == {"model": str(tiny_file)}
    assert list(Path(project.folder, "models").glob("*.safetensors")) == []
