"""Text from files, shown just as it is: plain, never rich, and never wider than there is room.

A file must not be able to put pictures, links or words of its own making into the window.
"""

from __future__ import annotations

from html import escape
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QStyle, QStyleOptionComboBox, QStylePainter

from napari_unet.opening import plain
from napari_unet.widgets.parts import Words

__all__ = ["DIM", "Choice", "PlainWords", "safe_tip"]

DIM = "#7b8394"
"""Of words that matter less: legible on the dark and on the light ground of napari."""
LONGEST_WORD = 16
"""Letters after which a word may be broken."""


def safe_tip(text: str) -> str:
    """A tooltip, which Qt would take for HTML if it looked like that, with just these words."""
    return f"<span>{escape(plain(text, 1000))}</span>" if text else ""


def _breakable(text: str) -> str:
    """The text with places where a long word, such as the name of a file, may be broken."""
    pieces = (
        "\u200b".join(word[at : at + LONGEST_WORD] for at in range(0, len(word), LONGEST_WORD))
        for word in text.split(" ")
    )
    return " ".join(pieces)


class PlainWords(Words):
    """Words from a file: always plain text, and never wider than there is room."""

    def __init__(self, text: str = "", style: str = "") -> None:
        super().__init__()
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setMinimumWidth(1)
        self.setStyleSheet(style)
        self.setText(text)

    def setText(self, text: str | None) -> None:
        """Show another text, on as many lines as it needs."""
        super().setText(_breakable(plain(text or "")))


class Choice(QComboBox):
    """Options whose texts may be long; nothing is chosen by scrolling past."""

    def __init__(self) -> None:
        super().__init__()
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(8)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def wheelEvent(self, event: Any) -> None:
        """Let the dock scroll."""
        event.ignore()

    def showPopup(self) -> None:
        """Show the options in full, if the screen is wide enough."""
        view = self.view()
        if view is not None:
            texts = (self.itemText(at) for at in range(self.count()))
            widest = max(map(self.fontMetrics().horizontalAdvance, texts), default=0)
            view.setMinimumWidth(min(widest + 40, 620))
        super().showPopup()

    def paintEvent(self, event: Any) -> None:
        """Draw with an ellipsis what does not fit."""
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        style = self.style()
        assert style is not None
        edit = QStyle.SubControl.SC_ComboBoxEditField
        room = style.subControlRect(QStyle.ComplexControl.CC_ComboBox, option, edit, self)
        option.currentText = self.fontMetrics().elidedText(
            option.currentText, Qt.TextElideMode.ElideRight, room.width() - 4
        )
        painter = QStylePainter(self)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)
