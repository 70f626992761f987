"""The card of a model: what was understood of its file, line by line, and what may be changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import signals_blocked

from napari_unet.core.errors import ModelFileError
from napari_unet.opening import Explained, option_name, plain, typed
from napari_unet.widgets.parts import LABEL_WIDTH, give_reason
from napari_unet.widgets.plainly import DIM, Choice, PlainWords, safe_tip

if TYPE_CHECKING:
    from napari_unet.core.checkpoints.card import Line

__all__ = ["Card"]

MARKS = {
    "file": "from the file",
    "assumed": "assumed",
    "chosen": "your choice",
    "unknown": "not said",
}
CHIP = "color: #17191e; border-radius: 3px; padding: 0px 4px;"
STYLES = {
    "file": f"color: {DIM};",
    "unknown": f"color: {DIM};",
    "assumed": f"background: #e5a53a; {CHIP}",  # dark on amber: legible in either theme
    "chosen": f"background: #58c07f; {CHIP}",
}
WARNING = "border-left: 3px solid #e5a53a; padding-left: 6px;"
SHORT = 16
"""Letters of an option up to which it stands beside its label."""
SHORT_LABEL = 20
"""Letters of a label up to which there is room beside it: those of two lines."""
TIPS = {
    "file": "The file says so.",
    "unknown": "The file does not say.",
    "assumed": "The file does not say; this is the most likely. Change it if you know better.",
    "chosen": "You said so. It goes into what you save.",
}


class _Row:
    """The parts of one line: its label, its mark, and its text or the means to change it."""

    def __init__(self, line: Line, card: Card) -> None:
        self.line, self._card = line, card
        self.label = PlainWords(line.label)
        self.mark = QLabel()
        self.mark.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.mark.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.value: Any = self._made()
        self.show_line(line)

    @property
    def can_change(self) -> bool:
        """Whether the user may change it."""
        return not isinstance(self.value, PlainWords)

    @property
    def is_long(self) -> bool:
        """Whether there is no room for it beside its label."""
        longest = max((len(one.text) for one in self.line.options), default=0)
        has_room = longest <= SHORT and len(self.line.label) <= SHORT_LABEL
        return isinstance(self.value, QComboBox) and not has_room

    def _made(self) -> QWidget:
        line = self.line
        if not line.name or (line.kind == "choice" and len(line.options) < 2):
            return PlainWords()
        if line.kind == "choice":
            choice = Choice()
            for option in line.options:
                choice.addItem(plain(option.text), option.value)
            choice.activated.connect(self._on_choice_activated)
            return choice
        edit = QLineEdit()
        if line.kind == "number":
            edit.setPlaceholderText("not known (in µm)")
        edit.editingFinished.connect(self._on_edit_finished)
        return edit

    def show_line(self, line: Line) -> None:
        """Show what is so now; changes nothing."""
        self.line = line
        self.mark.setText(MARKS[line.state])
        self.mark.setStyleSheet(STYLES[line.state])
        self.mark.setToolTip(TIPS[line.state])
        with signals_blocked(self.value):
            if isinstance(self.value, QComboBox):
                self._show_choice(line)
            elif isinstance(self.value, QLineEdit):
                self.value.setText(self._words(line))
                self.value.setCursorPosition(0)
            else:
                self.value.setText(line.text)
        self.give_reason("")

    def _show_choice(self, line: Line) -> None:
        at = next((i for i, one in enumerate(line.options) if one.value == line.value), -1)
        while self.value.count() > len(line.options):
            self.value.removeItem(self.value.count() - 1)
        if at < 0:  # none of those that may be chosen
            at = self.value.count()
            self.value.addItem(plain(line.text), line.value)
        self.value.setCurrentIndex(at)

    @staticmethod
    def _words(line: Line) -> str:
        if line.kind == "number":
            return "" if line.value is None else f"{line.value:g}"
        return ", ".join(plain(str(one)) for one in line.value)

    def give_reason(self, reason: str) -> None:
        """Let it be changed, unless there is a reason against that."""
        if self.can_change:
            give_reason(self.value, reason, safe_tip(self._tip()))

    def _tip(self) -> str:
        if self.line.kind == "number":
            return "In µm. Images with another pixel size are brought to this one."
        if self.line.kind == "text":
            return "Names with commas between them, that of the background first."
        return self.line.text

    def _on_choice_activated(self, at: int) -> None:
        if at < len(self.line.options):
            self._change(self.line.options[at].value)

    def _on_edit_finished(self) -> None:
        text = self.value.text()
        if text == self._words(self.line):
            return
        try:
            value = typed(self.line, text)
        except ModelFileError as error:
            self.show_line(self.line)
            self._card.refused.emit(str(error))
            return
        self._change(value)

    def _change(self, value: Any) -> None:
        if option_name(value) != option_name(self.line.value):
            self._card.changed.emit(self.line.name, value)
        else:
            self.show_line(self.line)


class Card(QWidget):
    """All lines about a model, with what its own statistics say of the user's image.

    Attributes
    ----------
    changed : emitted with the name of an attribute and the value that the user gave it.
    refused : emitted with a sentence if what was typed cannot be.
    guess_button, use_button : asks the image about the intensities; takes what is proposed.
    """

    changed = Signal(str, object)
    refused = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[_Row] = []
        self.guess_button = QPushButton("Work out from the image")
        self.use_button = QPushButton("Use this")
        self.proposal = PlainWords()
        self.notes = PlainWords(style=f"color: {DIM};")
        self._best: Any = None
        self._lines = QWidget()
        self._guess = QWidget()
        guess = QVBoxLayout(self._guess)
        guess.setContentsMargins(0, 0, 0, 2)
        guess.setSpacing(4)
        guess.addWidget(self.proposal)
        buttons = QHBoxLayout()
        buttons.addWidget(self.guess_button, 2)
        buttons.addWidget(self.use_button, 1)
        guess.addLayout(buttons)
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 4, 0, 2)
        self._layout.setSpacing(6)
        self._layout.addWidget(self._lines)
        self._layout.addWidget(self.notes)
        self.use_button.clicked.connect(self._on_use_clicked)

    @property
    def n_assumed(self) -> int:
        """How many lines the file says nothing about."""
        return sum(row.line.state == "assumed" for row in self.rows)

    def show_explained(self, explained: Explained) -> None:
        """Show what is so now; emits nothing."""
        if [_kind(row.line) for row in self.rows] == [_kind(line) for line in explained.lines]:
            for row, line in zip(self.rows, explained.lines, strict=True):
                row.show_line(line)
        else:
            self._build(explained.lines)
        self._guess.setVisible(explained.can_guess)
        self._show_proposal(explained.proposal)
        self.notes.setText(" ".join(explained.notes))
        self.notes.setVisible(bool(explained.notes))

    def _show_proposal(self, proposal: Any) -> None:
        self._best = None if proposal is None else proposal.best
        self.proposal.setText("" if proposal is None else proposal.sentence())
        is_strange = proposal is not None and proposal.is_strange
        calm = "" if self._best is not None else f"color: {DIM};"
        self.proposal.setStyleSheet(WARNING if is_strange else calm)
        self.proposal.setVisible(proposal is not None)
        self.use_button.setVisible(self._best is not None)

    def _build(self, lines: tuple[Line, ...]) -> None:
        self._guess.setParent(self)
        self._layout.removeWidget(self._lines)
        self._lines.deleteLater()
        self._lines = QWidget()
        self.rows = [_Row(line, self) for line in lines]
        grid = QGridLayout(self._lines)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(8)
        grid.setVerticalSpacing(4)
        grid.setColumnMinimumWidth(0, LABEL_WIDTH)
        grid.setColumnStretch(1, 1)
        for row in self.rows:
            self._add(grid, row)
        if not any(row.line.name == "normalization" for row in self.rows):
            grid.addWidget(self._guess, grid.rowCount(), 0, 1, 3)
        self._layout.insertWidget(0, self._lines)

    def _add(self, grid: QGridLayout, row: _Row) -> None:
        """Put the parts of a line into the grid; what is long stands below its label."""
        at = grid.rowCount()
        across = Qt.AlignmentFlag.AlignVCenter if row.can_change else Qt.AlignmentFlag.AlignTop
        grid.addWidget(row.mark, at, 2, Qt.AlignmentFlag.AlignRight | across)
        if row.is_long:
            grid.addWidget(row.label, at, 0, 1, 2)
            grid.addWidget(row.value, at + 1, 0, 1, 3)
        else:
            grid.addWidget(row.label, at, 0, across)
            grid.addWidget(row.value, at, 1, across if not row.can_change else Qt.AlignmentFlag(0))
        if row.line.name == "normalization":
            grid.addWidget(self._guess, at + 2, 0, 1, 3)

    def give_reasons(self, busy: str, no_guess: str) -> None:
        """Say why nothing can be changed now, or no image be asked; nothing if it can."""
        for row in self.rows:
            row.give_reason(busy)
        tip = "Finds out with which preparation the image looks most like what the network knows."
        give_reason(self.guess_button, busy or no_guess, tip)
        give_reason(self.use_button, busy, "Prepare intensities in the way that fits best.")

    def _on_use_clicked(self) -> None:
        if self._best is not None:
            self.changed.emit("normalization", self._best.value)


def _kind(line: Line) -> tuple[Any, ...]:
    """Lines of one kind are shown with the same parts."""
    return line.label, line.name, line.kind, line.options
