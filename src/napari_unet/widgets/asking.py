"""Questions that must be answered before a model can be opened: which one, and whether to trust it.

The dialogs do not wait: they are opened, and what is clicked in them goes on with the work.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_unet.opening import Question, plain
from napari_unet.session import Session
from napari_unet.widgets.plainly import DIM

__all__ = ["ChoiceDialog", "TrustDialog", "ask"]

WIDTH = 520
_ASKED: WeakKeyDictionary[Session, Question] = WeakKeyDictionary()
"""The question that was asked last: several docks hear of it, one asks it."""


def ask(question: Question, session: Session, parent: QWidget) -> QDialog | None:
    """Open the dialog of a question, unless another dock has; what is answered opens the model."""
    if _ASKED.get(session) is question:
        return None
    _ASKED[session] = question
    kind = ChoiceDialog if question.kind == "choice" else TrustDialog
    dialog = kind(question, session, parent)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.open()
    return dialog


def _text(text: str, style: str = "") -> QLabel:
    """A paragraph that wraps, and that shows what comes from a file just as it is."""
    label = QLabel(text)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setStyleSheet(style)
    return label


class ChoiceDialog(QDialog):
    """A list of the models of one file."""

    def __init__(self, question: Question, session: Session, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle("Which model?")
        self.setMinimumWidth(WIDTH)
        self._question, self._session = question, session
        name = plain(Path(question.source).name, 80)
        self.models = QListWidget()
        for option in question.options:
            self.models.addItem(plain(option))
        self.models.setCurrentRow(0)
        self.buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Open | QDialogButtonBox.StandardButton.Cancel
        )
        layout = QVBoxLayout(self)
        layout.addWidget(_text(f"{name} holds {len(question.options)} models. Open which one?"))
        layout.addWidget(self.models)
        layout.addWidget(self.buttons)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        self.models.itemDoubleClicked.connect(self.accept)
        self.accepted.connect(self._on_accepted)

    def _on_accepted(self) -> None:
        at = self.models.currentRow()
        if at >= 0:
            asked = self._question
            self._session.open_model(asked.source, choose=asked.options[at], trust=asked.trust)


class TrustDialog(QDialog):
    """Says what would run, of which file, and what that means. The way out is the default."""

    def __init__(self, question: Question, session: Session, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle("Run the program in this file?")
        self.setMinimumWidth(WIDTH)
        self.sha256 = QLineEdit(question.sha256)
        self.sha256.setReadOnly(True)
        self.sha256.setCursorPosition(0)
        self.refuse_button = QPushButton("Do not run")
        self.run_button = QPushButton("Run it, I trust this file")
        layout = QVBoxLayout(self)
        layout.setSpacing(10)
        for text, style in _trust_texts(question):
            layout.addWidget(_text(text, style))
        layout.addWidget(_text("Its fingerprint (SHA-256), to compare with that of its author:"))
        layout.addWidget(self.sha256)
        layout.addLayout(self._buttons())
        self.refuse_button.clicked.connect(self.reject)
        self.run_button.clicked.connect(self.accept)
        self.accepted.connect(partial(_run, session, question))
        self.refuse_button.setFocus()

    def _buttons(self) -> QHBoxLayout:
        line = QHBoxLayout()
        line.addWidget(self.run_button)
        line.addStretch(1)
        line.addWidget(self.refuse_button)
        self.run_button.setAutoDefault(False)
        self.refuse_button.setDefault(True)
        return line


def _trust_texts(question: Question) -> list[tuple[str, str]]:
    name = plain(Path(question.source).name, 80)
    return [
        (f"{name} can only be opened by running a program that it carries.", "font-weight: bold;"),
        (
            "A program can do all that you can do on this computer: read, change, delete and send "
            "your files. Run it only if you know who made this file, and trust them. If in doubt, "
            "ask them for the weights alone (a state dict), or for an ONNX file.",
            "",
        ),
        (f"What would run: {plain(question.program)}.", ""),
        (f"Why: {plain(question.reason or question.sentence, 700)}", f"color: {DIM};"),
    ]


def _run(session: Session, question: Question) -> None:
    session.open_model(question.source, choose=question.choose, trust=question.sha256)
