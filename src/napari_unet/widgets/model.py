"""The dock in which a model is chosen, and that says in plain words what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtWidgets import (
    QComboBox,
    QDialog,
    QFileDialog,
    QPushButton,
    QTextBrowser,
    QVBoxLayout,
)
from superqt.utils import signals_blocked

from napari_unet.preferences import recent_models, remember_model
from napari_unet.widgets.common import Step
from napari_unet.widgets.parts import Words, give_reason, hint

__all__ = ["ModelWidget"]

FILES = "Models (*.safetensors *.pt *.pth);;All files (*)"
DEVICES = (
    ("Automatic", "auto"),
    ("Processor", "cpu"),
    ("NVIDIA GPU", "cuda"),
    ("Apple GPU", "mps"),
)


class ModelWidget(Step):
    """Choose, open or drop a model; read what it finds, what it takes and where it comes from."""

    def __init__(self, napari_viewer: Any, alone: bool = True) -> None:
        super().__init__(napari_viewer, alone)
        self.choice = QComboBox()
        self.choice.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.open_button = QPushButton("Open…")
        self.words = Words()
        self.card_button = QPushButton("About…")
        self.device = QComboBox()
        for text, name in DEVICES:
            self.device.addItem(text, name)
        self.device_words = hint()

        self.row("Model", self.choice, self.open_button, tip="Built-in and recent models.")
        self.form.addWidget(self.words)
        self.row("Runs on", self.device, self.card_button)
        self.form.addWidget(self.device_words)
        self.setAcceptDrops(True)

        self.choice.activated.connect(self._on_choice_activated)
        self.open_button.clicked.connect(self._on_open_clicked)
        self.card_button.clicked.connect(self._on_card_clicked)
        self.device.activated.connect(self._on_device_activated)
        self.session.model_changed.connect(self._on_session_model_changed)
        self.session.job_changed.connect(self._on_session_model_changed)
        self._on_session_model_changed()
        if self.session.model is None and not self.session.is_busy:
            self.session.open_first_model()

    def dragEnterEvent(self, event: Any) -> None:
        """Take files."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        """Open the dropped file."""
        self.open_file(event.mimeData().urls()[0].toLocalFile())

    def open_file(self, path: str) -> None:
        """Open a model file in the background."""
        if self.session.open_model(Path(path)):
            remember_model(Path(path))

    def _fill_choice(self) -> None:
        with signals_blocked(self.choice):
            self.choice.clear()
            self.choice.addItem("nuclei (built in)", "nuclei")
            for path in recent_models():
                self.choice.addItem(path.name, str(path))
                self.choice.setItemData(self.choice.count() - 1, str(path), 3)  # tooltip

    def _refresh(self) -> None:
        model, busy = self.session.model, self.session.is_busy
        wait = f"{self.session.busy} is running." if busy else ""
        give_reason(self.choice, wait, "Built-in and recent models.")
        give_reason(self.open_button, wait, "Open a model file. It can also be dropped here.")
        give_reason(self.device, wait, "Where the network computes.")
        no_card = "" if model is not None else "Open a model first."
        if model is not None and not model.description.card:
            no_card = "The file of this model says nothing more about it."
        tip = "About this model: data, licence, training and measured scores."
        give_reason(self.card_button, no_card, tip)
        if model is None:
            self.words.setText("Opening the model…" if busy else "No model is open.")
            self.device_words.setText("")
            return
        self.words.setText(_in_plain_words(model))
        self.device_words.setText(f"Uses the {model.device.label}: {model.device.reason}.")

    def _on_session_model_changed(self) -> None:
        self._fill_choice()
        model = self.session.model
        if model is not None:
            at = 0 if model.description.name == "nuclei" and not model.history else -1
            with signals_blocked(self.choice):
                if at < 0:
                    self.choice.insertItem(0, model.title)
                    at = 0
                self.choice.setCurrentIndex(at)
        self._refresh()

    def _on_choice_activated(self, at: int) -> None:
        source = self.choice.itemData(at)
        if source == "nuclei":
            self.session.open_model("nuclei")
        elif source:
            self.open_file(source)

    def _on_open_clicked(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a model", "", FILES)
        if path:
            self.open_file(path)

    def _on_device_activated(self, at: int) -> None:
        self.session.choose_device(self.device.itemData(at))

    def _on_card_clicked(self) -> None:
        model = self.session.model
        if model is None:
            return
        dialog = QDialog(self)
        dialog.setWindowTitle(f"About {model.title}")
        dialog.resize(560, 640)
        text = QTextBrowser()
        text.setOpenExternalLinks(True)
        text.setMarkdown(model.description.card)
        QVBoxLayout(dialog).addWidget(text)
        dialog.open()


def _in_plain_words(model: Any) -> str:
    """What a model finds, takes and tells apart, in a few sentences (HTML)."""
    about = model.description
    what = "2D images, slice by slice" if about.dims == 2 else "3D volumes"
    rounds = len(model.history)
    taught = "not fine-tuned yet"
    if rounds:
        taught = f"{rounds} round{'s' if rounds > 1 else ''} of fine-tuning"
    assumed = ""
    if about.assumed:
        assumed = f"<br><i>Assumed, since the file does not say: {', '.join(about.assumed)}.</i>"
    return (
        f"<b>{model.title}</b> finds {about.segments} in {what}.<br>"
        f"Takes {about.channels}. Tells apart: {', '.join(about.class_names)}.<br>"
        f"From: {about.source} ({about.licence}); {taught}.{assumed}"
    )
