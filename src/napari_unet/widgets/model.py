"""The dock in which a model is chosen, and that says in plain words what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtWidgets import (
    QComboBox,
    QDialog,
    QFileDialog,
    QHBoxLayout,
    QPushButton,
    QStyle,
    QVBoxLayout,
)
from superqt.utils import signals_blocked

from napari_unet.core.errors import UNetLiveError
from napari_unet.opening import ENDINGS, FORMATS, named_ending, plain
from napari_unet.preferences import recent_models, remember_model
from napari_unet.widgets.about import AboutText
from napari_unet.widgets.asking import ask
from napari_unet.widgets.card import Card
from napari_unet.widgets.common import Step
from napari_unet.widgets.parts import Fold, give_reason, hint
from napari_unet.widgets.plainly import PlainWords, safe_tip

__all__ = ["ModelWidget"]

HEADING = "What I understood"
FILES = f"Models ({' '.join(f'*{ending}' for ending in ENDINGS)});;All files (*)"
DEVICES = (
    ("Automatic", "auto"),
    ("Processor", "cpu"),
    ("NVIDIA GPU", "cuda"),
    ("Apple GPU", "mps"),
)


class ModelWidget(Step):
    """Choose, open or drop a model; read what was understood of it, and change what was assumed."""

    def __init__(self, napari_viewer: Any, alone: bool = True) -> None:
        super().__init__(napari_viewer, alone)
        self._shown = ""
        self._opened_by_itself = False
        self.choice = QComboBox()
        self.choice.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.open_button = QPushButton("Open…")
        self.folder_button = QPushButton()
        style = self.style()
        assert style is not None
        self.folder_button.setIcon(style.standardIcon(QStyle.StandardPixmap.SP_DirOpenIcon))
        self.words = PlainWords()
        self.card = Card()
        self.fold = Fold(HEADING, self.card, is_open=False)
        self.about_button = QPushButton("About…")
        self.save_button = QPushButton("Save as…")
        self.device = QComboBox()
        self.device.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        for text, name in DEVICES:
            self.device.addItem(text, name)
        self.device_words = hint()
        self.setAcceptDrops(True)
        self._build()
        self._connect()
        self._on_session_model_changed()
        if self.session.model is None and not self.session.is_busy:
            self.session.open_first_model()

    def _build(self) -> None:
        self.row("Model", self.choice, tip="Built-in and recent models.")
        buttons = QHBoxLayout()
        for button in (self.open_button, self.folder_button, self.save_button, self.about_button):
            buttons.addWidget(button, 0 if button is self.folder_button else 1)
        self.form.addLayout(buttons)
        self.form.addWidget(self.words)
        self.form.addWidget(self.fold)
        self.row("Runs on", self.device)
        self.form.addWidget(self.device_words)

    def _connect(self) -> None:
        session = self.session
        self.choice.activated.connect(self._on_choice_activated)
        self.open_button.clicked.connect(self._on_open_clicked)
        self.folder_button.clicked.connect(self._on_folder_clicked)
        self.about_button.clicked.connect(self._on_about_clicked)
        self.save_button.clicked.connect(self._on_save_clicked)
        self.device.activated.connect(self._on_device_activated)
        self.card.changed.connect(self._on_card_changed)
        self.card.refused.connect(self._on_card_refused)
        self.card.guess_button.clicked.connect(self.guess)
        session.model_changed.connect(self._on_session_model_changed)
        session.job_changed.connect(self._on_session_job_changed)
        session.layers_changed.connect(self._on_session_image_changed)
        session.image_changed.connect(self._on_session_image_changed)
        session.asked.connect(self._on_session_asked)
        session.predictions.segmented.connect(self._on_predictions_segmented)

    def dragEnterEvent(self, event: Any) -> None:
        """Take files and folders."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        """Open what was dropped."""
        path = event.mimeData().urls()[0].toLocalFile()
        if path:
            self.open_file(path)
        else:
            self.session.say(
                "error",
                "Only files on this computer can be opened. Download the model, then drop the "
                "file.",
            )

    def open_file(self, path: str) -> None:
        """Open a model file, or the folder of a package, in the background."""
        if self.session.open_model(Path(path)):
            remember_model(Path(path))

    def guess(self) -> None:
        """Work out from the chosen image how intensities have to be prepared."""
        model = self.session.model
        if model is None or self.session.is_busy or self._why_no_guess():
            return
        try:
            about = model.description
            image = self.stage.image_for(about.pixel_size, about.dims)
        except UNetLiveError as error:
            self.session.say("error", str(error))
            return
        self.session.guess_intensities(image)

    def _guess_by_itself(self) -> None:
        """Ask the image once for each model that is opened, when nothing else runs."""
        session = self.session
        is_open = session.explained.can_guess and not session.was_guessed
        if not is_open or session.is_busy or session.predictions.is_at_work:
            return
        lines = session.explained.lines
        if any(line.name == "normalization" and line.state == "assumed" for line in lines):
            self.guess()

    def _why_no_guess(self) -> str:
        """Why no image can be asked about the intensities; nothing if one can."""
        session = self.session
        if session.model is None or self.stage.source is None:
            return "Open an image first."
        if session.trial is not None:
            return "Decide on the trained model first: Keep or Go back."
        from napari_unet.core.segmentation import check_image

        try:
            image = self.stage.image()
            assert image is not None
            check_image(image, session.model)
        except UNetLiveError as error:
            return str(error)
        return ""

    def _fill_choice(self) -> None:
        with signals_blocked(self.choice):
            self.choice.clear()
            self.choice.addItem("nuclei (built in)", "nuclei")
            for path in recent_models():
                self.choice.addItem(path.name, str(path))
                self.choice.setItemData(self.choice.count() - 1, safe_tip(str(path)), 3)

    def _refresh(self) -> None:
        model, busy = self.session.model, self.session.is_busy
        wait = f"{self.session.busy} is running." if busy else ""
        give_reason(self.choice, wait, "Built-in and recent models.")
        give_reason(self.open_button, wait, "Open a model file. It can also be dropped here.")
        give_reason(self.folder_button, wait, "Open a model that is a folder, such as of nnU-Net.")
        give_reason(self.device, wait, "Where the network computes.")
        no_model = "" if model is not None else "Open a model first."
        give_reason(self.save_button, wait or no_model, "Save the model in one of four formats.")
        no_card = no_model
        if model is not None and not model.description.card:
            no_card = "The file of this model says nothing more about it."
        tip = "About this model: data, licence, training and measured scores."
        give_reason(self.about_button, no_card, tip)
        self.fold.setVisible(model is not None)
        if model is None:
            self.words.setText("Opening the model…" if busy else "No model is open.")
            self.device_words.setText("")
            return
        no_guess = self._why_no_guess() if self.session.explained.can_guess else ""
        self.card.give_reasons(wait, safe_tip(no_guess))
        self.words.setText(_in_plain_words(model))
        self.device_words.setText(f"Uses the {model.device.label}: {model.device.reason}.")

    def _show_card(self) -> None:
        """Show the lines; the card of a model that has just been opened opens if need be."""
        self.card.show_explained(self.session.explained)
        n_assumed, model = self.card.n_assumed, self.session.model
        self.fold.button.setText(f"{HEADING}  ·  {n_assumed} assumed" if n_assumed else HEADING)
        if model is not None and self._shown != self.session.source:
            self._shown = self.session.source
            self._opened_by_itself = bool(n_assumed) and not model.history
            self.fold.button.setChecked(self._opened_by_itself)

    def _on_session_model_changed(self) -> None:
        self._fill_choice()
        model = self.session.model
        if model is not None:
            at = 0 if model.description.name == "nuclei" and not model.history else -1
            with signals_blocked(self.choice):
                if at < 0:
                    self.choice.insertItem(0, plain(model.title, 80))
                    at = 0
                self.choice.setCurrentIndex(at)
        self._show_card()
        self._refresh()

    def _on_session_job_changed(self) -> None:
        self._on_session_model_changed()  # whatever was clicked, show what is so
        self._guess_by_itself()

    def _on_session_image_changed(self) -> None:
        self._refresh()
        self._guess_by_itself()

    def _on_predictions_segmented(self) -> None:
        """Make room once for the knobs, if it was not the user who has opened the card."""
        if self._opened_by_itself:
            self._opened_by_itself = False
            self.fold.button.setChecked(False)

    def _on_session_asked(self, question: Any) -> None:
        ask(question, self.session, self)

    def _on_card_changed(self, name: str, value: Any) -> None:
        if not self.session.change_model(name, value):
            self._show_card()

    def _on_card_refused(self, sentence: str) -> None:
        self.session.say("error", sentence)

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

    def _on_folder_clicked(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Open the folder of a model")
        if path:
            self.open_file(path)

    def _on_save_clicked(self) -> None:
        model = self.session.model
        if model is None:
            return
        name = "".join(one if one.isalnum() or one in " -_" else "_" for one in model.title)
        chosen, kind = QFileDialog.getSaveFileName(
            self, "Save the model", f"{name[:80]}.safetensors", ";;".join(FORMATS)
        )
        if not chosen:
            return
        path = named_ending(Path(chosen), kind)
        if path != Path(chosen) and path.exists():  # the dialog has not asked about that one
            self.session.say(
                "error",
                f"{path} is there already. Save again, and type its full name to replace it.",
            )
            return
        self.session.save_model_as(path)

    def _on_device_activated(self, at: int) -> None:
        self.session.choose_device(self.device.itemData(at))

    def _on_about_clicked(self) -> None:
        model = self.session.model
        if model is None:
            return
        dialog = QDialog(self)
        dialog.setWindowTitle(f"About {plain(model.title, 80)}")
        dialog.resize(560, 640)
        QVBoxLayout(dialog).addWidget(AboutText(model.description.card))
        dialog.open()


def _in_plain_words(model: Any) -> str:
    """What a model finds, and in what, in a few words."""
    about, rounds = model.description, len(model.history)
    what = "2D images, slice by slice" if about.dims == 2 else "3D volumes"
    taught = "Not fine-tuned yet."
    if rounds:
        taught = f"{rounds} round{'s' if rounds > 1 else ''} of fine-tuning."
    return f"{model.title} finds {about.segments} in {what}. {taught}"
