"""Small parts of forms, that know nothing of what they are for."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

__all__ = [
    "COLORS",
    "DOCK_WIDTH",
    "LABEL_WIDTH",
    "Fold",
    "Words",
    "combo",
    "give_reason",
    "hint",
    "primary",
    "row",
    "scrolled",
]

LABEL_WIDTH = 84
DOCK_WIDTH = 370
"""At least so many px are needed for all words."""
COLORS = {"info": "#8a93a5", "done": "#35a35f", "error": "#e0564f"}


class Words(QLabel):
    """Text that wraps, and takes just the height it needs.

    NOTE: inside a scroll area Qt does not ask a wrapped label how high it is at its width; it
    would overlap what comes next.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.setWordWrap(True)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)

    def setText(self, text: str | None) -> None:
        """Show another text."""
        super().setText(text)
        self._fit()

    def resizeEvent(self, event: Any) -> None:
        """Take the height that the text needs at this width."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        self.setMinimumHeight(0)  # which `heightForWidth` would count
        height = self.heightForWidth(self.width()) if self.text() else 0
        if height != self.height():
            self.setFixedHeight(max(0, height))


def hint(text: str = "") -> Words:
    """A small line of explanation that wraps."""
    label = Words(text)
    label.setStyleSheet(f"color: {COLORS['info']};")
    return label


def combo(*choices: tuple[str, str]) -> QComboBox:
    """A choice between values, each behind a text; long texts do not make the dock wider."""
    made = QComboBox()
    made.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    for text, value in choices:
        made.addItem(text, value)
    return made


def give_reason(part: QWidget, reason: str, tooltip: str) -> None:
    """Enable a button or a knob if nothing is against it; else let its tooltip say the reason."""
    part.setEnabled(not reason)
    part.setToolTip(reason or tooltip)


def primary(text: str) -> QPushButton:
    """The button of a step that does its main thing."""
    button = QPushButton(text)
    button.setMinimumHeight(34)
    button.setStyleSheet(
        "QPushButton:enabled { background: #2f6fdb; color: white; font-weight: bold; }"
        "QPushButton:enabled:hover { background: #3d82f5; }"
    )
    return button


def row(form: QVBoxLayout, label: str, *widgets: QWidget, tip: str = "") -> QLabel:
    """Add a line to a form: a label of fixed width, which is returned, and what belongs to it."""
    line = QHBoxLayout()
    name = QLabel(label)
    name.setFixedWidth(LABEL_WIDTH)
    name.setToolTip(tip)
    line.addWidget(name)
    for widget in widgets:
        if tip:
            widget.setToolTip(tip)
        line.addWidget(widget, 1 if widget is widgets[0] else 0)
    form.addLayout(line)
    return name


def scrolled(content: QWidget) -> QScrollArea:
    """Something that may be higher than the window, to be scrolled up and down."""
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOn)
    area.setWidget(content)
    return area


class Fold(QWidget):
    """Something under a heading that folds it away."""

    def __init__(self, heading: str, content: QWidget, is_open: bool = True) -> None:
        super().__init__()
        self.content = content
        self.button = QToolButton()
        self.button.setText(heading)
        self.button.setCheckable(True)
        self.button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.button.setToolTip("Fold this away, or unfold it.")
        self.button.toggled.connect(self._on_button_toggled)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.button)
        layout.addWidget(content)
        self.button.setChecked(is_open)
        self._on_button_toggled(is_open)

    def _on_button_toggled(self, is_open: bool) -> None:
        self.button.setArrowType(Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow)
        self.content.setVisible(is_open)
