"""The demonstration: napari open on a sample, or the whole loop walked through off screen.

Off screen a simulated person clicks the very buttons of the docks, paints strokes on the worst
errors, and decides; what a person would have seen is written down: pictures of the window after
each step, the label image, the corrections, the new model, and the scores before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from napari_unet.core.annotator import next_strokes
from napari_unet.core.errors import UNetLiveError
from napari_unet.core.simulation import Simulated, SimulationSettings, simulate

__all__ = ["run"]

N_STROKES = 12
STEPS = 120
PATIENCE = 900
"""Seconds after which a step that does not end is given up."""


def run(arguments: argparse.Namespace) -> int:
    """Open napari on a sample; with `arguments.offscreen` walk through the loop instead."""
    if sys.platform.startswith("linux") and not _has_display():
        raise UNetLiveError(
            "napari needs a screen, and there is none. Start it in a desktop session, or run "
            "'python3 start.py offscreen', which brings a virtual one."
        )
    if arguments.offscreen:
        return _walk_through(arguments.out or Path("demo-output"))
    return _open_window()


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open_window() -> int:
    import napari

    from napari_unet.samples import simulated_nuclei

    viewer = napari.Viewer(title="U-Net Live")
    for data, options, kind in simulated_nuclei():
        viewer.add_layer(napari.layers.Layer.create(data, options, kind))
    viewer.layers.selection.active = viewer.layers[0]
    _add_dock(viewer)
    napari.run()
    return 0


def _add_dock(viewer: Any) -> Any:
    from napari_unet.widgets.live import LiveWidget

    dock = LiveWidget(viewer)
    viewer.window.add_dock_widget(dock, name="U-Net Live", area="right")
    viewer.reset_view()
    return dock


def _walk_through(folder: Path) -> int:
    """Load, segment, correct, fine-tune, keep, as a person would; write what they would see."""
    import napari

    from napari_unet.core.model import save_model
    from napari_unet.session import session_of

    folder.mkdir(parents=True, exist_ok=True)
    # A project of its own: the demonstration must not mix with anybody's work.
    os.environ["NAPARI_UNET_PROJECTS"] = str((folder / f"projects-{int(time.time())}").absolute())
    field = simulate(SimulationSettings(kind="rings"), seed=3)
    viewer = napari.Viewer(title="U-Net Live")
    viewer.window.resize(1500, 1050)
    viewer.add_image(field.image, name="cells")
    dock = _add_dock(viewer)
    session = session_of(viewer)
    walk = _Walk(viewer, folder)

    walk.until(lambda: session.model is not None and not session.is_busy, "opening the model")
    walk.shoot("1-opened")
    dock.segment.button.click()
    walk.until(lambda: not session.is_busy, "segmenting")
    walk.shoot("2-segmented")
    before = walk.labels()

    dock.correct.start_button.click()
    painted = walk.paint(before, field)
    walk.until(lambda: not session.journal.is_pending, "saving the strokes")
    walk.shoot("3-corrected")

    dock.finetune.steps.setValue(STEPS)
    dock.finetune.button.click()
    walk.until(lambda: len(session.training_curve) > STEPS // 2, "training")
    walk.shoot("4-training")
    walk.until(lambda: session.trial is not None and not session.is_busy, "training")
    walk.shoot("5-before-and-after")
    dock.finetune.keep_button.click()
    walk.until(lambda: not session.is_busy, "keeping the model")
    dock.segment.button.click()
    walk.until(lambda: not session.is_busy, "segmenting again")
    walk.shoot("6-segmented-again")

    assert session.model is not None
    save_model(session.model, folder / "model.safetensors")
    after = walk.labels()
    _write_results(folder, field, painted, before, after)
    viewer.close()
    return 0


class _Walk:
    """A simulated person in front of a viewer."""

    def __init__(self, viewer: Any, folder: Path) -> None:
        self.viewer = viewer
        self.folder = folder

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Let the window live until `condition` holds."""
        from qtpy.QtWidgets import QApplication

        from napari_unet.session import session_of

        end = time.monotonic() + PATIENCE
        while not condition():
            QApplication.processEvents()
            time.sleep(0.01)
            kind, sentence = session_of(self.viewer).message
            if kind == "error":
                raise UNetLiveError(f"The demonstration failed while {what}: {sentence}")
            if time.monotonic() > end:
                raise UNetLiveError(
                    f"The demonstration was given up: {what} took over {PATIENCE} s."
                )

    def shoot(self, name: str) -> None:
        """Write a picture of the whole window."""
        settled = time.monotonic() + 0.6
        self.until(lambda: time.monotonic() > settled, "drawing the window")
        path = self.folder / f"{name}.png"
        self.viewer.screenshot(str(path), canvas_only=False, flash=False)
        print(f"wrote {path}", flush=True)

    def labels(self) -> np.ndarray[Any, Any]:
        """A copy of the segmentation shown now."""
        from napari_unet.layers import stage_of

        result = stage_of(self.viewer).result
        assert result is not None
        return np.array(result.layer.data)

    def paint(self, labels: np.ndarray[Any, Any], field: Simulated) -> np.ndarray[Any, Any]:
        """Paint strokes on the worst errors with the brush; returns what is painted."""
        from napari_unet.layers import stage_of

        corrections = stage_of(self.viewer).corrections()
        assert corrections is not None
        layer = corrections.layer
        predicted, truth = (labels > 0).astype(np.uint8), (field.labels > 0).astype(np.uint8)
        for stroke in next_strokes(predicted, truth, layer.data, N_STROKES):
            layer.brush_size = stroke.width
            for point in stroke.points:
                layer.paint(tuple(point), stroke.value)
        return np.array(layer.data)


def _write_results(
    folder: Path,
    field: Simulated,
    painted: np.ndarray[Any, Any],
    before: np.ndarray[Any, Any],
    after: np.ndarray[Any, Any],
) -> None:
    """Label images and scores; pixels that were painted do not count in the pixel score."""
    import tifffile

    from napari_unet.core.metrics import object_scores, pixel_iou

    untouched = painted == 0
    scores = {
        name: {
            "pixel_iou_where_nothing_was_painted": round(
                pixel_iou(labels[untouched] > 0, field.labels[untouched] > 0), 4
            ),
            "object_f1": round(object_scores(labels, field.labels).f1, 4),
        }
        for name, labels in (("before", before), ("after", after))
    }
    scores["painted"] = {"share_of_pixels": round(float((~untouched).mean()), 4)}
    (folder / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    images = {"image": field.image, "truth": field.labels.astype(np.uint16), "labels": after}
    for name, image in {**images, "corrections": painted}.items():
        tifffile.imwrite(folder / f"{name}.tif", image, compression="zlib")
    print(json.dumps(scores, indent=2))
