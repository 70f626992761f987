"""The dock that trains on the corrections, shows what was gained, and keeps every round."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QHeaderView,
    QPushButton,
    QSpinBox,
    QTreeWidget,
    QTreeWidgetItem,
)
from superqt import QLabeledDoubleSlider

from napari_unet.core.settings import FineTuneSettings
from napari_unet.preferences import preference
from napari_unet.widgets.augmentation import AugmentationForm
from napari_unet.widgets.common import Step
from napari_unet.widgets.curves import Curves
from napari_unet.widgets.parts import Fold, Words, give_reason, hint, primary
from napari_unet.widgets.preview import TrainingPreview

__all__ = ["FineTuneWidget"]

STEPS = "Training steps. More learn more, and take longer."
MEMORY = "How strongly the model is held to what it knows."
MEASURES = {
    "iou": "held-out corrections, IoU",
    "accuracy": "held-out pixels right",
    "memory": "same answer on other pictures",
}


class FineTuneWidget(Step):
    """Train a copy of the model, compare before and after, keep it or go back."""

    def __init__(self, napari_viewer: Any, alone: bool = True) -> None:
        super().__init__(napari_viewer, alone)
        defaults = FineTuneSettings()
        self._drawn_at = 0.0
        self.summary = Words()
        self.steps = QSpinBox()
        self.steps.setRange(10, 100_000)
        self.steps.setSingleStep(50)
        self.steps.setValue(int(preference("general", "training_steps", defaults.steps)))
        self.memory = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        self.memory.setRange(0, 1)
        self.memory.setValue(defaults.memory)
        self.augmentation = AugmentationForm(defaults.augmentation)
        self.preview = TrainingPreview(self.session, self.stage, self.settings)
        self.button = primary("Fine-tune")
        self.stop_button = QPushButton("Stop and keep the best so far")
        self.reason = hint()
        self.curves = Curves()
        self.comparison = Words()
        self.before_box = QCheckBox("Show the result before training")
        self.keep_button = primary("Keep")
        self.back_button = QPushButton("Go back")
        self.back_button.setMinimumHeight(34)
        self.history = QTreeWidget()
        self.return_button = QPushButton("Use this round")
        self._build()
        self._connect()
        self._refresh_history()

    def _build(self) -> None:
        self.form.addWidget(self.summary)
        self.row("Steps", self.steps)
        self.row("Memory", self.memory)
        self.form.addWidget(Fold("Augmentation", self.augmentation, is_open=False))
        self.preview_fold = Fold("What training sees", self.preview, is_open=False)
        self.form.addWidget(self.preview_fold)
        self.form.addWidget(self.button)
        self.form.addWidget(self.stop_button)
        self.form.addWidget(self.reason)
        self.form.addWidget(self.curves)
        self.form.addWidget(self.comparison)
        self.form.addWidget(self.before_box)
        decision = QHBoxLayout()
        decision.addWidget(self.keep_button)
        decision.addWidget(self.back_button)
        self.form.addLayout(decision)
        self.history.setHeaderLabels(["Round", "From", "Score", "When"])
        self.history.setRootIsDecorated(False)
        self.history.setFixedHeight(110)
        header = self.history.header()
        assert header is not None
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.form.addWidget(self.history)
        self.form.addWidget(self.return_button)
        self.stop_button.setToolTip("End training after this step; the best network is kept.")
        self.before_box.setToolTip("Switch between the result before and after training.")

    def _connect(self) -> None:
        self.augmentation.changed.connect(self.preview.ask_soon)
        self.button.clicked.connect(self.fine_tune)
        self.stop_button.clicked.connect(self.session.finish_early)
        self.before_box.toggled.connect(self.stage.show_before)
        self.keep_button.clicked.connect(self.session.keep)
        self.back_button.clicked.connect(self.session.go_back)
        self.return_button.clicked.connect(self._on_return_clicked)
        self.history.itemSelectionChanged.connect(self._refresh)
        self.session.progressed.connect(self._on_session_progressed)
        self.session.rounds_changed.connect(self._refresh_history)
        self.session.model_changed.connect(self._refresh_history)
        for signal in (
            self.session.job_changed, self.session.model_changed, self.session.trial_changed,
            self.session.corrections_changed, self.session.project_changed,
        ):  # fmt: skip
            signal.connect(self._refresh)

    def settings(self) -> FineTuneSettings:
        """What the form says."""
        return FineTuneSettings(
            steps=self.steps.value(),
            memory=round(float(self.memory.value()), 3),
            augmentation=self.augmentation.settings(),
        )

    def fine_tune(self) -> None:
        """Start training on all corrections of the project."""
        if not self._why_not():
            self.session.fine_tune(self.settings())

    def _why_not(self) -> str:
        """Why Fine-tune cannot be clicked; nothing if it can."""
        if self.session.is_busy:
            return f"{self.session.busy} is running."
        if self.session.model is None:
            return "Open a model first."
        if self.session.trial is not None:
            return "Decide on the trained model first: Keep or Go back."
        if not self.session.n_corrected:
            return "Paint a few corrections first."
        return ""

    def _refresh(self) -> None:
        session = self.session
        reason = self._why_not()
        give_reason(self.button, reason, "Train a copy of the model on all corrections.")
        training = session.is_busy and session.busy == "Training"
        self.button.setVisible(not training)
        self.stop_button.setVisible(training)
        self.reason.setText(reason)
        self.reason.setVisible(bool(reason) and not training)
        wait = f"{session.busy} is running." if session.is_busy else ""
        for part, tip in ((self.steps, STEPS), (self.memory, MEMORY)):
            give_reason(part, wait, tip)
        self.augmentation.explain(wait)
        n_corrected, n_images = session.n_corrected, sum(n > 0 for n in session.saved.values())
        plural = "" if n_images == 1 else "s"
        self.summary.setText(
            f"Learns from {n_corrected:,} corrected px in {n_images} image{plural}."
        )
        self.summary.setVisible(bool(n_corrected))
        self.curves.setVisible(bool(session.training_curve) or training)
        self._show_comparison()
        self.return_button.setVisible(bool(session.rounds))
        self.history.setVisible(bool(session.rounds))
        no_choice = "" if self.history.selectedItems() else "Choose a round in the list."
        busy = f"{session.busy} is running." if session.is_busy else ""
        on_trial = "Decide on the trained model first." if session.trial is not None else ""
        give_reason(self.return_button, busy or on_trial or no_choice, "Go on from this round.")

    def _show_comparison(self) -> None:
        trial = self.session.trial
        busy = f"{self.session.busy} is running." if self.session.is_busy else ""
        for part in (self.comparison, self.before_box, self.keep_button, self.back_button):
            part.setVisible(trial is not None)
        give_reason(self.keep_button, busy, "Go on with the trained model.")
        give_reason(self.back_button, busy, "Stay with the model from before training.")
        if trial is None:
            self.before_box.setChecked(False)
            return
        self.comparison.setText(_comparison(trial.after.history[-1]))

    def _refresh_history(self) -> None:
        self.history.clear()
        model = self.session.model
        names = {kept.round.id: f"{i}" for i, kept in enumerate(self.session.rounds, start=1)}
        for i, kept in enumerate(self.session.rounds, start=1):
            entry = kept.round
            current = model is not None and entry.id == model.id
            score = entry.scores_after.get("iou")
            item = QTreeWidgetItem([
                f"{i} ◀ in use" if current else f"{i}",
                names.get(entry.parent, "start"),
                f"{score:.2f}" if score is not None else "–",
                _local_time(entry.created),
            ])  # fmt: skip
            item.setData(0, Qt.ItemDataRole.UserRole, kept)
            item.setToolTip(0, f"{entry.n_corrected:,} px, {entry.seconds:.0f} s, {entry.settings}")
            self.history.addTopLevelItem(item)
        self._refresh()

    def _on_session_progressed(self, progress: Any) -> None:
        """Draw the curves, a few times a second at the most."""
        now = time.monotonic()
        is_last = progress.done == progress.total
        if hasattr(progress, "loss") and (is_last or now - self._drawn_at > 0.25):
            self._drawn_at = now
            self.curves.show_curve(self.session.training_curve)

    def _on_return_clicked(self) -> None:
        chosen = self.history.selectedItems()
        if chosen:
            self.session.return_to(chosen[0].data(0, Qt.ItemDataRole.UserRole))


def _comparison(entry: Any) -> str:
    """Before and after as a small table (HTML), and a word on what it means."""
    rows = "".join(
        f"<tr><td>{words}</td><td align=right>&nbsp;{_share(entry.scores_before, name)}</td>"
        f"<td align=right>&nbsp;<b>{_share(entry.scores_after, name)}</b></td></tr>"
        for name, words in MEASURES.items()
        if name in entry.scores_after
    )
    note = ""
    if "iou" not in entry.scores_after:
        note = (
            "<br><i>Too few corrections to hold some out for a score: "
            "judge by the layers, and paint in more places.</i>"
        )
    head = "<tr><td></td><td align=right>&nbsp;before</td><td align=right>&nbsp;after</td></tr>"
    return f"<table width='100%'>{head}{rows}</table>{note}"


def _share(scores: Any, name: str) -> str:
    return f"{scores[name]:.0%}" if name in scores else "–"


def _local_time(created: str) -> str:
    """ISO 8601 in UTC to the user's own time."""
    return datetime.fromisoformat(created).astimezone().strftime("%Y-%m-%d %H:%M")
