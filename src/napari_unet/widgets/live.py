"""U-Net Live: the steps of the job in one dock, from the model to the fine-tuned model."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QPoint, QTimer
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

from napari_unet.widgets.common import link
from napari_unet.widgets.correct import CorrectWidget
from napari_unet.widgets.finetune import FineTuneWidget
from napari_unet.widgets.livemode import LiveModeWidget
from napari_unet.widgets.model import ModelWidget
from napari_unet.widgets.parts import DOCK_WIDTH, Fold, scrolled
from napari_unet.widgets.segment import SegmentWidget
from napari_unet.widgets.status import Status

__all__ = ["LiveWidget"]


class LiveWidget(QWidget):
    """All steps in one dock, with one status line at the foot."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        session, _ = link(napari_viewer)
        self.model = ModelWidget(napari_viewer, alone=False)
        self.segment = SegmentWidget(napari_viewer, alone=False)
        self.correct = CorrectWidget(napari_viewer, alone=False)
        self.livemode = LiveModeWidget(
            napari_viewer, self.correct.start, self.segment.settings, alone=False
        )
        self.finetune = FineTuneWidget(napari_viewer, alone=False)
        self.status = Status(session)
        steps = QWidget()
        inner = QVBoxLayout(steps)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.setSpacing(4)
        for heading, step in (
            ("1  Model", self.model),
            ("2  Segment", self.segment),
            ("3  Correct", self.correct),
            ("4  Learn live", self.livemode),
            ("5  Fine-tune", self.finetune),
        ):
            section = Fold(heading, step)
            section.button.setStyleSheet("QToolButton { font-weight: bold; text-align: left; }")
            inner.addWidget(section)
        inner.addStretch(1)
        self._scroll = scrolled(steps)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._scroll, 1)
        layout.addWidget(self.status)
        self.setMinimumWidth(
            max(DOCK_WIDTH, steps.minimumSizeHint().width() + 24)
        )  # and the scroll bar
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        self._session = session
        self._brought_into_view = ""
        self._was_live = False
        session.job_changed.connect(self._on_session_job_changed)
        session.trial_changed.connect(self._on_session_job_changed)
        session.lives.changed.connect(self._on_lives_changed)

    def _on_lives_changed(self) -> None:
        """Bring the panel of live mode into view when it is switched on."""
        is_live = self._session.lives.is_on
        if is_live and not self._was_live:
            for delay in (200, 1000):
                QTimer.singleShot(delay, self._show_live_mode)
        self._was_live = is_live

    def _show_live_mode(self) -> None:
        self._show_to_the_foot_of(self.livemode)

    def _on_session_job_changed(self) -> None:
        """Bring the curves into view when training starts, and Keep and Go back when it ends."""
        state = "trial" if self._session.trial is not None else self._session.busy
        if state != self._brought_into_view and state in ("trial", "Training"):
            for delay in (200, 1000):  # the layout may take its time to make room
                QTimer.singleShot(delay, self._show_fine_tune)
        self._brought_into_view = state

    def _show_fine_tune(self) -> None:
        step = self.finetune
        shown = step.keep_button if self._session.trial is not None else step.curves
        self._show_to_the_foot_of(shown)

    def _show_to_the_foot_of(self, shown: QWidget) -> None:
        steps = self._scroll.widget()
        assert steps is not None
        # NOTE: `ensureWidgetVisible` is content with the first pixel of a graphics view.
        bottom = shown.mapTo(steps, QPoint(0, shown.height()))
        self._scroll.ensureVisible(0, bottom.y(), 0, 8)
