"""What all docks share: the link to the session, the status at the foot, small parts of forms."""

from __future__ import annotations

import time
from functools import partial
from typing import Any
from weakref import WeakSet

from napari.utils.notifications import show_error
from qtpy.compat import isalive
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QAbstractButton,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_unet.core.errors import UNetLiveError
from napari_unet.core.settings import SegmentSettings
from napari_unet.layers import Stage, stage_of
from napari_unet.session import Session, session_of

__all__ = ["Status", "Step", "Words", "give_reason", "hint", "time_left"]

COLORS = {"info": "#8a93a5", "done": "#35a35f", "error": "#e0564f"}

_STATUSES: WeakSet[Status] = WeakSet()


def link(viewer: Any) -> tuple[Session, Stage]:
    """The session and the stage of a viewer, joined once so that each knows the other's news."""
    session, stage = session_of(viewer), stage_of(viewer)
    if stage.on_layers_changed is None:
        stage.on_layers_changed = partial(_on_layers_changed, session, stage)
        session.trial_changed.connect(partial(_show_trial, session, stage))
        session.trial_settled.connect(partial(_settle_trial, session, stage))
        session.said.connect(partial(_notify, session))
    return session, stage


def _notify(session: Session, kind: str, sentence: str) -> None:
    """Show an error as napari shows its own, if no dock is open that would show it."""
    if kind == "error" and not any(status.shows(session) for status in _STATUSES):
        show_error(sentence)


def _on_layers_changed(session: Session, stage: Stage) -> None:
    session.journal.keep_only(stage.shown_corrections())
    session.layers_changed.emit()


def _show_trial(session: Session, stage: Stage) -> None:
    """Show what the model on trial makes of the image, beside what was there."""
    if session.trial is None or stage.source is None:
        return
    try:
        image = stage.image()
    except UNetLiveError:
        return
    assert image is not None
    target = stage.target(on_trial=True)
    settings = session.prediction.settings if session.prediction else SegmentSettings()
    target.describe(model=session.trial.after.title, model_id=session.trial.after.id)
    if session.segment(image, target, settings, stage.focus()):
        stage.show_before(False)


def _settle_trial(session: Session, stage: Stage, kept: bool) -> None:
    stage.settle_trial(kept)
    if kept and session.prediction is not None and stage.result is not None:
        session.prediction.target = stage.result


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
        height = self.heightForWidth(self.width()) if self.text() else 0
        if height != self.height():
            self.setFixedHeight(max(0, height))


def hint(text: str = "") -> Words:
    """A small line of explanation that wraps."""
    label = Words(text)
    label.setStyleSheet(f"color: {COLORS['info']};")
    return label


def give_reason(button: QAbstractButton, reason: str, tooltip: str) -> None:
    """Enable a button if there is no reason against it; else let its tooltip say the reason."""
    button.setEnabled(not reason)
    button.setToolTip(reason or tooltip)


def primary(text: str) -> QPushButton:
    """The button of a step that does its main thing."""
    button = QPushButton(text)
    button.setMinimumHeight(34)
    button.setStyleSheet(
        "QPushButton:enabled { background: #2f6fdb; color: white; font-weight: bold; }"
        "QPushButton:enabled:hover { background: #3d82f5; }"
    )
    return button


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
        busy = self._session.is_busy
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
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        words = [message or self._session.busy]
        if self._session.is_stopping:
            words = ["Cancelling"]
        elif total:
            so_far = time.monotonic() - self._session.started_at
            words += [f"{done} of {total}", time_left(so_far, done, total)]
        self.bar.setFormat("  ·  ".join(word for word in words if word))


class Step(QWidget):
    """A dock for one step of the job: a layout to fill, and the status at its foot if alone."""

    def __init__(self, napari_viewer: Any, alone: bool = True) -> None:
        super().__init__()
        self.session, self.stage = link(napari_viewer)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        self.form = QVBoxLayout()
        self.form.setContentsMargins(9, 6, 9, 6)
        self.form.setSpacing(6)
        outer.addLayout(self.form)
        if alone:
            self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Preferred)
            outer.addStretch(1)
            outer.addWidget(Status(self.session))

    def row(self, label: str, *widgets: QWidget, tip: str = "") -> QLabel:
        """Add a line: a label of fixed width, which is returned, and what belongs to it."""
        row = QHBoxLayout()
        name = QLabel(label)
        name.setFixedWidth(84)
        name.setToolTip(tip)
        row.addWidget(name)
        for widget in widgets:
            if tip:
                widget.setToolTip(tip)
            row.addWidget(widget, 1 if widget is widgets[0] else 0)
        self.form.addLayout(row)
        return name
