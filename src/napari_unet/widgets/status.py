"""The foot of a dock: the last sentence, and progress with Cancel while something runs."""

from __future__ import annotations

import time
from typing import Any
from weakref import WeakSet

from qtpy.compat import isalive
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from napari_unet.session import Session
from napari_unet.widgets.parts import COLORS, Words

__all__ = ["Status", "is_read", "time_left"]

BAR_STEPS = 1000
COUNTED = 9999
"""Progress of more steps than these is told in per cent."""


_STATUSES: WeakSet[Status] = WeakSet()


def is_read(session: Session) -> bool:
    """Whether a dock is open that shows what a session says."""
    return any(status.shows(session) for status in _STATUSES)


def time_left(seconds_so_far: float, done: int, total: int) -> str:
    """How long it will still take, in words; nothing while that cannot be told."""
    if done < 1 or total < 1 or seconds_so_far < 0.5:
        return ""
    seconds = seconds_so_far * (total - done) / done
    if seconds < 60:
        return f"{seconds:.0f} s left"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min left"
    return f"{seconds / 3600:.1f} h left"


class Status(QWidget):
    """The foot of a dock: the last sentence, and progress with Cancel while something runs."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        _STATUSES.add(self)
        self._progress: tuple[int, int, str] = (0, 0, "")
        self.sentence = Words()
        self.sentence.setTextFormat(Qt.TextFormat.PlainText)  # file names are in it
        self.bar = QProgressBar()
        self.bar.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.cancel_button = QPushButton("Cancel")
        row = QHBoxLayout()
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.bar)
        row.addWidget(self.cancel_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(9, 4, 9, 6)
        layout.addLayout(row)
        layout.addWidget(self.sentence)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)

        self._clock = QTimer(self)
        self._clock.setInterval(250)
        self._clock.timeout.connect(self._show_progress)
        self.cancel_button.clicked.connect(session.cancel)
        session.said.connect(self._on_session_said)
        session.progressed.connect(self._on_session_progressed)
        session.job_changed.connect(self._refresh)
        self._on_session_said(*session.message)
        self._refresh()

    def shows(self, session: Session) -> bool:
        """Whether somebody can read here what `session` says."""
        is_alive: bool = isalive(self)  # type: ignore[no-untyped-call]
        return is_alive and self._session is session and self.isVisible()

    def showEvent(self, event: Any) -> None:
        """Let the session hear of the window being closed."""
        super().showEvent(event)
        window = self.window()
        if window is not None:
            window.removeEventFilter(self._session)
            window.installEventFilter(self._session)

    def _refresh(self) -> None:
        busy = self._session.is_busy and not self._session.lives.is_on  # whose panel says all
        if busy and not self._clock.isActive():
            self._progress = (0, 0, "")
            self._clock.start()
        elif not busy:
            self._clock.stop()
        self.bar.setVisible(busy)
        self.cancel_button.setVisible(busy)
        self.cancel_button.setEnabled(not self._session.is_stopping)
        self.cancel_button.setToolTip("Stop now. What was done so far is kept.")
        if busy:
            self._show_progress()

    def _on_session_said(self, kind: str, sentence: str) -> None:
        self.sentence.setText(sentence)
        self.sentence.setStyleSheet(f"color: {COLORS[kind]};")

    def _on_session_progressed(self, progress: Any) -> None:
        self._progress = (progress.done, progress.total, progress.message)

    def _show_progress(self) -> None:
        done, total, message = self._progress
        self.bar.setRange(0, BAR_STEPS if total else 0)
        self.bar.setValue(BAR_STEPS * done // max(1, total))  # NOTE: Qt counts to 2**31
        words = [message or self._session.busy]
        if self._session.is_stopping:
            words = ["Cancelling"]
        elif total:
            so_far = time.monotonic() - self._session.started_at
            share = f"{done} of {total}" if total <= COUNTED else f"{done / total:.0%}"
            words += [share, time_left(so_far, done, total)]
        self.bar.setFormat("  ·  ".join(word for word in words if word))
