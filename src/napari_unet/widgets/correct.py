"""The dock in which corrections are painted: brushes, counts, and what is taken as right."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QFileDialog,
    QGridLayout,
    QPushButton,
    QSizePolicy,
    QToolButton,
)
from superqt import QElidingLabel, QLabeledSlider
from superqt.utils import signals_blocked

from napari_unet.core.corrections import Box, corrections_from_classes, corrections_from_objects
from napari_unet.core.errors import UNetLiveError
from napari_unet.layers import CorrectionsLayer, color_of
from napari_unet.widgets.common import Step
from napari_unet.widgets.parts import Words, combo, give_reason, hint, primary

__all__ = ["CorrectWidget"]

KEYS = "ASDGHJK"
ERASER_KEY = "W"


class CorrectWidget(Step):
    """Paint what is wrong, and what is right; every stroke is saved at once."""

    def __init__(self, napari_viewer: Any, alone: bool = True) -> None:
        super().__init__(napari_viewer, alone)
        self.start_button = primary("Paint corrections")
        self.reason = hint()
        self.brushes = QGridLayout()
        self.brush_buttons: dict[int, QToolButton] = {}
        self.brush_size = QLabeledSlider(Qt.Orientation.Horizontal)
        self.brush_size.setRange(1, 60)
        self.brush_size.setValue(8)
        self.counts = Words()
        self.box_button = QPushButton("This region is right…")
        self.mask_layer = combo()
        self.mask_button = QPushButton("Use")
        self.project_name = QElidingLabel()
        self.project_button = QPushButton("Change…")
        self._build()
        self._connect()
        self._refresh()

    def _build(self) -> None:
        self.form.addWidget(self.start_button)
        self.form.addWidget(self.reason)
        self.form.addLayout(self.brushes)
        self.row("Brush size", self.brush_size)
        self.form.addWidget(self.counts)
        self.form.addWidget(self.box_button)
        self.row("Mask layer", self.mask_layer, self.mask_button)
        self.row("Project", self.project_name, self.project_button)
        self.project_button.setToolTip("Keep corrections and models in another folder.")

    def _connect(self) -> None:
        self.start_button.clicked.connect(self.start)
        self.brush_size.valueChanged.connect(self._on_brush_size_changed)
        self.box_button.clicked.connect(self._on_box_clicked)
        self.mask_button.clicked.connect(self._on_mask_clicked)
        self.project_button.clicked.connect(self._on_project_clicked)
        for signal in (
            self.session.layers_changed, self.session.image_changed, self.session.model_changed,
            self.session.corrections_changed, self.session.project_changed,
            self.session.predictions.segmented, self.session.job_changed,
        ):  # fmt: skip
            signal.connect(self._refresh)

    # ---- start

    def start(self) -> None:
        """Add the layer for corrections, with those that were saved for this image."""
        if self._why_not():
            return
        image, model = self.stage.image(), self.session.model
        assert image is not None and model is not None
        project, key = self.session.project, self.stage.key
        try:
            values = project.restore(key, image.label_shape)
        except (UNetLiveError, MemoryError) as error:
            self.session.say("error", str(error) or "There is no memory for the corrections.")
            return
        layer = self.stage.add_corrections(values, model.description.class_names)
        journal = self.session.journal
        layer.on_changed = lambda boxes: journal.touch(key, boxes)
        layer.bind_keys(self._keys(layer))
        layer.layer.events.brush_size.connect(self._show_hand)
        layer.layer.events.mode.connect(self._show_hand)
        layer.layer.events.selected_label.connect(self._show_hand)
        journal.watch(image, key, layer, model.description.class_names)
        layer.paint_with(1)
        restored = int(np.count_nonzero(values))
        came = f"{restored:,} px of saved corrections are back. " if restored else ""
        self.session.say("info", f"{came}Paint where the result is wrong, and some that is right.")
        self.session.corrections_changed.emit()

    def _keys(self, layer: CorrectionsLayer) -> list[tuple[str, Any]]:
        """Keys of the brushes, and what each does; napari passes the layer."""
        brushes = zip(range(1, len(layer.class_names) + 1), KEYS, strict=False)
        keys: list[tuple[str, Any]] = [
            (key, partial(_take, layer, value)) for value, key in brushes
        ]
        return [*keys, (ERASER_KEY, partial(_take, layer, 0))]

    def _why_not(self) -> str:
        """Why painting cannot start; nothing if it can."""
        if self.session.model is None:
            return "Open a model first."
        if self.stage.source is None:
            return "Open an image first."
        try:
            self.stage.image()
        except UNetLiveError as error:
            return str(error)
        return ""

    # ---- show

    def _refresh(self) -> None:
        reason = self._why_not()
        layer = None if reason else self.stage.corrections()
        give_reason(self.start_button, reason, "Add a layer to paint on, above the result.")
        self.start_button.setVisible(layer is None)
        self.start_button.setText(self._start_text() if not reason else "Paint corrections")
        self.reason.setText(reason)
        self.reason.setVisible(bool(reason))
        self._fill_brushes(layer)
        self._show_counts(layer)
        self._fill_masks(reason)
        need = "" if layer is not None else "Click Paint corrections first."
        give_reason(self.brush_size, need, "Width of the brush, in px.")
        no_result = "" if self._result_labels() is not None else "Segment the image first."
        give_reason(
            self.box_button, need or no_result, "Draw a box; the result inside it is the truth."
        )
        no_mask = "" if self.mask_layer.count() else "No labels layer has the size of the image."
        tip = "A labels layer of the same size that holds the truth."
        give_reason(self.mask_layer, no_mask, tip)
        give_reason(
            self.mask_button,
            need or no_mask,
            "Take this layer as corrections wherever nothing is painted yet.",
        )
        self.project_name.setText(self.session.project.name)
        self.project_name.setToolTip(str(self.session.project.folder))

    def _start_text(self) -> str:
        n_saved = self.session.saved.get(self.stage.key, 0)
        return f"Bring back saved corrections ({n_saved:,} px)" if n_saved else "Paint corrections"

    def _fill_brushes(self, layer: CorrectionsLayer | None) -> None:
        names = layer.class_names if layer is not None else ()
        wanted = {0, *range(1, len(names) + 1)} if layer is not None else set()
        if wanted != set(self.brush_buttons):
            for button in self.brush_buttons.values():
                button.deleteLater()
            self.brush_buttons.clear()
            for place, value in enumerate([*range(1, len(names) + 1), 0] if wanted else []):
                name, key = ("eraser", ERASER_KEY)
                if value:
                    name, key = names[value - 1], KEYS[value - 1 : value]
                text = f"{name} ({key})" if key else name
                self._add_brush(place, value, text)
        self._show_hand()

    def _add_brush(self, place: int, value: int, text: str) -> None:
        button = QToolButton()
        button.setText(text)
        button.setCheckable(True)
        button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        pixmap = QPixmap(14, 14)
        pixmap.fill(QColor(color_of(value) if value else "#ffffff"))
        button.setIcon(QIcon(pixmap))
        button.setMinimumHeight(28)
        button.setStyleSheet(
            "QToolButton { border: 1px solid #5a6270; border-radius: 3px; padding: 2px; }"
            "QToolButton:checked { border: 2px solid #3d82f5; background: #2f6fdb40; }"
        )
        button.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        button.setToolTip(f"Paint {text}" if value else "Take corrections away again")
        button.clicked.connect(lambda: self._on_brush_clicked(value))
        self.brush_buttons[value] = button
        self.brushes.addWidget(button, place // 3, place % 3)
        widest = max(self.brushes.columnStretch(place % 3), len(text) + 3)
        self.brushes.setColumnStretch(place % 3, widest)

    def _show_hand(self) -> None:
        layer = self.stage.corrections()
        hand = layer.in_hand if layer is not None else None
        if layer is not None:
            with signals_blocked(self.brush_size):
                self.brush_size.setValue(int(layer.layer.brush_size))
        for value, button in self.brush_buttons.items():
            with signals_blocked(button):
                button.setChecked(value == hand)

    def _show_counts(self, layer: CorrectionsLayer | None) -> None:
        if layer is None:
            self.counts.setText("")
            self.counts.setVisible(False)
            return
        counts = self.session.journal.counts(self.stage.key)
        parts = []
        for value, name in enumerate(layer.class_names, start=1):
            pixels, regions = counts.get(value, (0, 0))
            plural = "" if regions == 1 else "s"
            parts.append(f"{name}: <b>{pixels:,}</b> px in {regions} region{plural}")
        self.counts.setText("<br>".join(parts) + "<br><i>Every stroke is saved at once.</i>")
        self.counts.setVisible(True)

    def _fill_masks(self, reason: str) -> None:
        chosen = self.mask_layer.currentData()
        with signals_blocked(self.mask_layer):
            self.mask_layer.clear()
            for layer in [] if reason else self.stage.masks():
                self.mask_layer.addItem(layer.name, layer)
            self.mask_layer.setCurrentIndex(
                max(0, self.mask_layer.findData(chosen)) if chosen else 0
            )

    # ---- actions

    def _on_brush_clicked(self, value: int) -> None:
        layer = self.stage.corrections()
        if layer is not None:
            self.stage.activate_corrections()
            _take(layer, value)
        self._show_hand()

    def _on_brush_size_changed(self, size: int) -> None:
        layer = self.stage.corrections()
        if layer is not None:
            layer.layer.brush_size = size

    def _result_labels(self) -> Any:
        """The labels of the shown result of the chosen image at its full size, or None."""
        trial = self.stage.trial
        is_on_trial = trial is not None and trial.is_shown and trial.layer.visible
        result = trial if is_on_trial else self.stage.result
        if result is None or not result.is_shown or result.source is not self.stage.source:
            return None
        image = self.stage.image()
        if image is None or result.image.label_shape != image.label_shape:
            return None
        return result.labels

    def _on_box_clicked(self) -> None:
        self.stage.draw_box(self._on_box_drawn)
        self.session.say("info", "Drag a box around what is right.")

    def _on_box_drawn(self, box: Box | None) -> None:
        self.stage.remove_box()
        layer, labels = self.stage.corrections(), self._result_labels()
        if box is None or layer is None or labels is None:
            self.session.say("info", "No box was drawn.")
            return
        index, rows, columns = box
        part = np.asarray(labels[(*index, slice(*rows), slice(*columns))])
        n_painted = layer.set_values(index, (rows[0], columns[0]), self._truth(part))
        self.session.say("done", f"Took {n_painted:,} px as right. Ctrl+Z takes them back.")
        layer.paint_with(1)

    def _truth(self, labels: Any) -> Any:
        prediction = self.session.predictions.current
        if prediction is not None and prediction.settings.what == "classes":
            return corrections_from_classes(labels)
        return corrections_from_objects(labels)

    def _on_mask_clicked(self) -> None:
        layer, mask = self.stage.corrections(), self.mask_layer.currentData()
        if layer is None or mask is None:
            return
        n_painted = 0
        truth = layer.image.to_label_order(mask.data)
        for index in np.ndindex(*truth.shape[:-2]):
            plane = np.asarray(truth[index])
            if plane.any():
                n_painted += layer.set_values(index, (0, 0), corrections_from_objects(plane))
        self.session.say("done", f"Took {n_painted:,} px of {mask.name!r} as right.")
        self.stage.activate_corrections()

    def _on_project_clicked(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Project folder")
        if folder:
            self.session.open_project(Path(folder))


def _take(layer: CorrectionsLayer, value: int, *_: Any) -> None:
    """Take a brush, or with 0 the eraser, in hand."""
    if value:
        layer.paint_with(value)
    else:
        layer.erase()
