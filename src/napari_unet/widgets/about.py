"""What the file of a model says about it, in its own words."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices, QTextDocument
from qtpy.QtWidgets import QTextBrowser

__all__ = ["AboutText"]


class AboutText(QTextBrowser):
    """The card text of a file (Markdown). It can show words and links, and load nothing."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.setOpenLinks(False)
        self.anchorClicked.connect(self._on_anchor_clicked)
        document = self.document()
        assert document is not None
        document.setMarkdown(markdown, QTextDocument.MarkdownFeature.MarkdownNoHTML)

    def loadResource(self, kind: int, name: QUrl) -> Any:
        """Load no picture: its address could be any file or server."""
        return None

    def _on_anchor_clicked(self, link: QUrl) -> None:
        if link.scheme() in ("http", "https"):
            QDesktopServices.openUrl(link)
