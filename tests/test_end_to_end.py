"""What a person does, in a real viewer with the built-in model: every step by a click."""

import numpy as np
import pytest
from napari.layers import Layer
from qtpy.QtCore import Qt

from napari_unet.core.annotator import next_strokes
from napari_unet.core.simulation import SimulationSettings, simulate
from napari_unet.layers import stage_of
from napari_unet.project import default_project
from napari_unet.samples import stained_tissue
from napari_unet.session import session_of
from napari_unet.widgets.live import LiveWidget


class Person:
    """Somebody in front of a viewer with the dock, who can only click and paint."""

    def __init__(self, viewer, qtbot):
        self.viewer, self.qtbot = viewer, qtbot
        self.dock = LiveWidget(viewer)
        viewer.window.add_dock_widget(self.dock, name="U-Net Live", area="right")
        self.session = session_of(viewer)
        self.wait()
        assert self.session.model.description.name == "nuclei"

    def wait(self):
        self.qtbot.waitUntil(lambda: not self.session.is_busy, timeout=60_000)
        self.qtbot.waitUntil(lambda: not self.session.journal.is_pending, timeout=5000)
        self.qtbot.wait(20)  # parts that are new come into view
        assert self.session.message[0] != "error", self.session.message

    def click(self, button):
        assert button.isVisible(), button.text()
        assert button.isEnabled(), button.toolTip()
        self.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
        self.wait()

    @property
    def result(self):
        """What is found now, class of each pixel `(y, x)`."""
        return (stage_of(self.viewer).result.layer.data > 0).astype(np.uint8)

    @property
    def corrections(self):
        return stage_of(self.viewer).corrections().layer

    def paint(self, strokes):
        for stroke in strokes:
            self.click(self.dock.correct.brush_buttons[stroke.value])
            self.corrections.brush_size = stroke.width
            with self.corrections.block_history():
                for point in stroke.points:
                    self.corrections.paint(tuple(point), stroke.value)
        self.wait()

    def fine_tune(self, n_steps):
        self.dock.finetune.steps.setValue(n_steps)
        self.click(self.dock.finetune.button)
        assert self.session.trial is not None


@pytest.fixture
def person(make_napari_viewer, qtbot):
    viewer = make_napari_viewer(show=True)
    return Person(viewer, qtbot)


def test_open_segment_paint_fine_tune_keep_segment_on_real_tissue(person):
    """On a quarter of the image, for time."""
    data, options, kind = stained_tissue()[0]
    person.viewer.add_layer(Layer.create(data[:256, :256], options, kind))
    person.click(person.dock.segment.button)
    first = person.result
    assert 0.02 < first.mean() < 0.9
    person.click(person.dock.correct.start_button)
    truth = np.roll(first, 3, axis=0)  # somebody who sees the nuclei a little lower
    person.paint(next_strokes(first, truth, person.corrections.data, 4))
    painted = person.corrections.data.copy()
    assert set(np.unique(painted)) == {0, 1, 2}
    before = person.session.model
    person.fine_tune(10)
    assert person.session.model is before
    person.click(person.dock.finetune.keep_button)
    assert person.session.model.history[-1].n_corrected > 0
    assert person.session.model.history[-1].parent == before.id
    person.click(person.dock.segment.button)
    assert person.result.shape == first.shape
    key = stage_of(person.viewer).key
    np.testing.assert_array_equal(default_project().restore(key, first.shape), painted)
    names = [layer.name for layer in person.viewer.layers]
    assert names[1:] == [f"{names[0]} segmentation", f"{names[0]} corrections"]


def iou(found, truth, where):
    found, truth = found[where] > 0, truth[where] > 0
    return (found & truth).sum() / (found | truth).sum()


def test_a_few_strokes_make_a_model_better_where_nobody_painted(person):
    """Phase contrast with halos, of which the built-in model has seen nothing."""
    field = simulate(SimulationSettings(kind="rings", size=256, n_nuclei=22), seed=3)
    truth = (field.labels > 0).astype(np.uint8)
    person.viewer.add_image(field.image, name="rings")
    person.click(person.dock.segment.button)
    before = person.result
    person.click(person.dock.correct.start_button)
    person.paint(next_strokes(before, truth, person.corrections.data, 10))
    unpainted = person.corrections.data == 0
    assert unpainted.mean() > 0.9
    person.fine_tune(50)
    person.click(person.dock.finetune.keep_button)
    person.click(person.dock.segment.button)
    gain = iou(person.result, truth, unpainted) - iou(before, truth, unpainted)
    assert gain > 0.03, gain
