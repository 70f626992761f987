"""The dock that trains a new network from images and their masks."""

from __future__ import annotations

import time
from html import escape
from pathlib import Path
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QLineEdit,
    QPushButton,
    QWidget,
)
from superqt import QElidingLabel

from napari_unet.core.errors import UNetLiveError
from napari_unet.teaching import Lesson
from napari_unet.widgets.common import Step
from napari_unet.widgets.curves import Curves
from napari_unet.widgets.parts import LABEL_WIDTH, Fold, Words, combo, give_reason, hint, primary
from napari_unet.widgets.pictures import Pictures
from napari_unet.widgets.plainly import safe_tip
from napari_unet.widgets.recipe import Recipe

__all__ = ["TrainWidget"]

LAYERS, FOLDER = "layers", "folder"
MOST_PROBLEMS = 6
DRAW_EVERY = 0.25


class TrainWidget(Step):
    """Choose a network, its data and a time; everything else has a default that works."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, alone=True)
        self.trainings = self.session.trainings
        self._drawn_at = 0.0
        self._folder: Path | None = None
        self.network = combo()
        self.network_words = hint()
        self.data = combo(("layers that are open", LAYERS), ("a folder", FOLDER))
        self.image = combo()
        self.masks = combo()
        self.folder_button = QPushButton("Choose…")
        self.folder_words = QElidingLabel()
        self.folder_words.setElideMode(Qt.TextElideMode.ElideLeft)
        self.what = combo(("one number for each object", "objects"), ("classes", "classes"))
        self.found = Words()
        self.problems = _lines()
        self.name = QLineEdit("my network")
        self.minutes = QDoubleSpinBox()
        self.minutes.setRange(0.1, 100_000)
        self.minutes.setDecimals(1)
        self.minutes.setValue(10)
        self.minutes.setSuffix(" min")
        self.recipe = Recipe()
        self.button = primary("Train")
        self.stop_button = QPushButton("Stop and keep the best so far")
        self.reason = hint()
        self.curves = Curves()
        self.pictures_words = hint()
        self.pictures = Pictures()
        self.outcome = Words()
        self.use_button = primary("Use this network")
        self._build()
        self._connect()
        self.trainings.list_choices()
        self._fill_networks()
        self._fill_layers()
        self._look()
        self._refresh()

    # ---- the form

    def _build(self) -> None:
        self.row("Network", self.network, tip="What kind of network to train.")
        self.form.addWidget(self.network_words)
        self.row("Learn from", self.data, tip="Where the images and their masks are.")
        self.image_name = self.row("Image", self.image, tip="The image to learn from.")
        self.masks_name = self.row("Masks", self.masks, tip="What is right for that image.")
        self.folder_name = self.row("Folder", self.folder_words, self.folder_button)
        self.row("Masks are", self.what, tip="What the numbers in the masks mean.")
        self.form.addWidget(self.found)
        self.form.addWidget(self.problems)
        self.row("Name", self.name, tip="What the new network is called.")
        self.row("Time", self.minutes, tip="Training ends after this time at the latest.")
        self.form.addWidget(Fold("More", self.recipe, is_open=False))
        self.form.addWidget(self.button)
        self.form.addWidget(self.stop_button)
        self.form.addWidget(self.reason)
        self.form.addWidget(self.outcome)
        self.form.addWidget(self.use_button)
        self.form.addWidget(self.curves)
        self.form.addWidget(self.pictures_words)
        self.form.addWidget(self.pictures)
        self.problems.setStyleSheet("color: #e0863c;")
        self.pictures_words.setText("A held-out image: the truth (green), what was found (orange)")

    def _connect(self) -> None:
        self.network.currentIndexChanged.connect(self._on_network_changed)
        self.data.currentIndexChanged.connect(self._look)
        for choice in (self.image, self.masks, self.what):
            choice.currentIndexChanged.connect(self._look)
        self.folder_button.clicked.connect(self._on_folder_clicked)
        self.name.textChanged.connect(self._refresh)
        self.button.clicked.connect(self.train)
        self.stop_button.clicked.connect(self.session.finish_early)
        self.use_button.clicked.connect(self.trainings.use)
        self.trainings.listed.connect(self._fill_networks)
        self.trainings.looked_at.connect(self._refresh)
        self.trainings.progressed.connect(self._on_trainings_progressed)
        self.trainings.taught_changed.connect(self._refresh)
        self.session.layers_changed.connect(self._on_session_layers_changed)
        self.session.job_changed.connect(self._refresh)

    def _fill_networks(self) -> None:
        with QSignalBlocker(self.network):
            self.network.clear()
            for choice in self.trainings.choices:
                self.network.addItem(choice.title, choice)
            names = [choice.name for choice in self.trainings.choices]
            self.network.setCurrentIndex(names.index("unet") if "unet" in names else 0)
        self._on_network_changed()

    def _on_network_changed(self) -> None:
        choice = self.network.currentData()
        if choice is not None:
            self.network_words.setText(choice.summary)
            self.network.setToolTip(choice.paper)
            self.recipe.offer_dims(choice.dims)
            self.recipe.offer_imagenet(choice.takes_imagenet)
        self._refresh()

    # ---- the data

    def _on_session_layers_changed(self) -> None:
        if self._fill_layers():
            self._look()

    def _fill_layers(self) -> bool:
        """Offer the layers that there are now; returns whether others are chosen."""
        before = (self.image.currentData(), self.masks.currentData())
        _offer(self.image, self.stage.images())
        _offer(self.masks, self.stage.drawn_masks())
        return before != (self.image.currentData(), self.masks.currentData())

    def set_folder(self, folder: Path) -> None:
        """Learn from a folder of images and masks."""
        self._folder = folder
        with QSignalBlocker(self.data):
            self.data.setCurrentIndex(self.data.findData(FOLDER))
        self.folder_words.setText(str(folder))
        self.folder_words.setToolTip(safe_tip(str(folder)))
        self._look()

    def _on_folder_clicked(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Open a folder of images and masks")
        if chosen:
            self.set_folder(Path(chosen))

    def _look(self) -> None:
        """Look at what is chosen now."""
        try:
            self.trainings.look_at(self._lesson())
        except UNetLiveError as error:
            self.trainings.look_at(None)
            self.session.say("error", str(error))

    def _lesson(self) -> Lesson | None:
        what = self.what.currentData()
        if self.data.currentData() == FOLDER:
            return None if self._folder is None else Lesson(folder=self._folder, what=what)
        image, masks = self.image.currentData(), self.masks.currentData()
        if image is None or masks is None:
            return None
        return Lesson(layers=(self.stage.with_masks(image, masks),), what=what)

    # ---- training

    def train(self) -> None:
        """Train a new network on what was chosen."""
        if self._why_not():
            return
        try:
            settings = self.recipe.settings(
                network=self.network.currentData().name,
                what=self.what.currentData(),
                minutes=float(self.minutes.value()),
            )
            lesson = self._lesson()  # as the layers are now
        except UNetLiveError as error:
            self.session.say("error", str(error))
            return
        assert lesson is not None
        name = self.name.text().strip()
        self.trainings.train(lesson, settings, name, self.recipe.imagenet)

    def _why_not(self) -> str:
        """Why Train cannot be clicked; nothing if it can."""
        if self.session.is_busy:
            return f"{self.session.busy} is running."
        if self.session.trial is not None:
            return "Decide on the fine-tuned model first: Keep or Go back."
        if self.network.currentData() is None:
            return "The networks are being listed."
        if self.data.currentData() == FOLDER and self._folder is None:
            return "Choose the folder of images and masks."
        if self.data.currentData() == LAYERS and self.masks.currentData() is None:
            return "Open an image and a labels layer with its masks, or choose a folder."
        looked = self.trainings.looked
        if looked is None:
            return "Looking at the images and masks…"
        if not looked.is_usable:
            return "Mend what is wrong with the images and masks, or choose others."
        if not self.name.text().strip():
            return "Give the new network a name."
        return ""

    # ---- what is shown

    def _refresh(self) -> None:
        trainings = self.trainings
        reason, training = self._why_not(), trainings.is_training
        give_reason(self.button, reason, "Train a new network on these images.")
        self.button.setVisible(not training)
        self.stop_button.setVisible(training)
        self._refresh_stop()
        self.reason.setText(reason)
        self.reason.setVisible(bool(reason) and not training)
        parts: list[QWidget] = [
            self.network, self.data, self.image, self.masks, self.what, self.name,
            self.minutes, self.folder_button, self.recipe,
        ]  # fmt: skip
        for part in parts:
            part.setEnabled(not training)
        from_folder = self.data.currentData() == FOLDER
        of_folder: list[QWidget] = [self.folder_words, self.folder_button, self.folder_name]
        of_layers: list[QWidget] = [self.image, self.masks, self.image_name, self.masks_name]
        for part in of_folder:
            part.setVisible(from_folder)
        for part in of_layers:
            part.setVisible(not from_folder)
        self._show_looked()
        self.curves.setVisible(bool(trainings.curve) or training)
        self.pictures_words.setVisible(trainings.sample is not None)
        self.pictures.setVisible(trainings.sample is not None)
        self._show_outcome()

    def _refresh_stop(self) -> None:
        """There is something to keep as soon as the first step is done."""
        has_begun = any(progress.done for progress in self.trainings.curve)
        tip = "End training after this step; the best network is kept."
        give_reason(self.stop_button, "" if has_begun else "Training has not begun yet.", tip)

    def _show_looked(self) -> None:
        looked = self.trainings.looked
        self.found.setText("" if looked is None else _as_table(looked.text))
        problems = () if looked is None else looked.problems
        shown = [f"• {sentence}" for sentence in problems[:MOST_PROBLEMS]]
        if len(problems) > MOST_PROBLEMS:
            shown.append(f"… and {len(problems) - MOST_PROBLEMS} more")
        self.problems.setText("\n".join(shown))
        self.found.setVisible(bool(self.found.text()))
        self.problems.setVisible(bool(shown))

    def _show_outcome(self) -> None:
        taught = self.trainings.taught
        self.outcome.setVisible(taught is not None)
        self.use_button.setVisible(taught is not None)
        wait = f"{self.session.busy} is running." if self.session.is_busy else ""
        give_reason(self.use_button, wait, "Segment with the new network from now on.")
        if taught is not None:
            self.outcome.setText(_in_words(taught))

    def _on_trainings_progressed(self, progress: Any) -> None:
        """Draw curves and pictures, a few times a second at the most."""
        if not self.stop_button.isEnabled():
            self._refresh_stop()
        if progress.sample is not None:
            self.pictures.show_sample(progress.sample)
            self.pictures_words.setVisible(True)
        now = time.monotonic()
        if progress.done == progress.total or now - self._drawn_at > DRAW_EVERY:
            self._drawn_at = now
            self.curves.setVisible(True)
            self.curves.show_curve(self.trainings.curve)


def _offer(field: QComboBox, layers: list[Any]) -> None:
    """Offer these layers; the one that is chosen stays, if it is there."""
    chosen = field.currentData()
    with QSignalBlocker(field):
        field.clear()
        for layer in layers:
            field.addItem(layer.name, layer)
        field.setCurrentIndex(layers.index(chosen) if chosen in layers else len(layers) - 1)


def _lines() -> Words:
    """Several lines of plain text: names of files are in them."""
    words = Words()
    words.setTextFormat(Qt.TextFormat.PlainText)
    return words


def _as_table(text: str) -> str:
    """Lines of a word, two spaces and what there is to it, as a table (HTML)."""
    pairs = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    rows = "".join(
        f"<tr><td width={LABEL_WIDTH}>{escape(word)}</td><td>{escape(''.join(rest))}</td></tr>"
        for word, *rest in pairs
    )
    return f"<table>{rows}</table>"


MEASURES = {"iou": "pixels, IoU", "f1": "objects, F1", "dice": "pixels, Dice"}


def _in_words(taught: Any) -> str:
    """The scores of a new network (HTML)."""
    rows = "".join(
        f"<tr><td>{MEASURES.get(name, name)}</td><td align=right>&nbsp;<b>{value:.2f}</b></td></tr>"
        for name, value in taught.scores.items()
    )
    if not rows:
        return (
            "<i>Nothing was held out to score the new network on: judge by using it, and "
            "learn from several images to have a score.</i>"
        )
    return f"On images it has not learned from:<table width='100%'>{rows}</table>"
