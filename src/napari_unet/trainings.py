"""What is trained from masks in one viewer: what was looked at, the run, and what came of it.

A part of the session; the works themselves are in `teaching.py`.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_unet.jobs import Job
from napari_unet.teaching import Choice, Lesson, Looked, Taught, choices, looking_at, teaching

if TYPE_CHECKING:
    from napari_unet.core.training.settings import TrainSettings
    from napari_unet.session import Session

__all__ = ["TRAINING", "Trainings"]

TRAINING = "Training a network"


class Trainings(QObject):
    """The networks that are trained from masks in one viewer.

    Attributes
    ----------
    listed : emitted when `choices` is known.
    looked_at : emitted when `looked` is another.
    progressed : emitted with each step that is done.
    taught_changed : emitted when `taught` is another.
    choices : the networks to choose from; none before they are listed.
    looked : what was found in the data; None while that is not known.
    is_looking : whether data is being looked at.
    curve : the steps of the run, or of the last one.
    sample : the last pictures that were predicted while it ran.
    taught : what came of the last run, until the user has decided.
    """

    listed = Signal()
    looked_at = Signal()
    progressed = Signal(object)
    taught_changed = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._session = session
        self.choices: tuple[Choice, ...] = ()
        self.looked: Looked | None = None
        self.curve: list[Any] = []
        self.sample: Any = None
        self.taught: Taught | None = None
        self._listing: Job | None = None
        self._looking: Job | None = None
        self._next: Lesson | None = None

    # ---- the networks

    def list_choices(self) -> None:
        """Find out which networks there are; `listed` follows."""
        if self.choices or self._listing is not None:
            return
        self._listing = job = Job(choices, parent=self)
        job.returned.connect(self._on_listed)
        job.failed.connect(partial(self._session.say, "error"))
        job.ended.connect(self._on_listing_ended)
        job.start()

    def _on_listed(self, found: tuple[Choice, ...]) -> None:
        self.choices = found
        self.listed.emit()

    def _on_listing_ended(self) -> None:
        self._listing = None

    # ---- the data

    @property
    def is_looking(self) -> bool:
        """Whether data is being looked at."""
        return self._looking is not None

    def look_at(self, lesson: Lesson | None) -> None:
        """Find out what is in the data; `looked_at` follows. None for no data."""
        self.looked, self._next = None, lesson
        if self._looking is not None:
            self._looking.stop()
        elif lesson is not None:
            self._look_at_next()
        self.looked_at.emit()

    def _look_at_next(self) -> None:
        lesson, self._next = self._next, None
        if lesson is None:
            return
        self._looking = job = Job(partial(looking_at, lesson), parent=self)
        job.returned.connect(self._on_looked)
        job.failed.connect(partial(self._on_failed, lesson))
        job.ended.connect(self._on_looking_ended)
        job.start()

    def _on_looked(self, found: Looked) -> None:
        self.looked = found

    def _on_failed(self, lesson: Lesson, sentence: str) -> None:
        self.looked = Looked(lesson=lesson, problems=(sentence,))

    def _on_looking_ended(self) -> None:
        self._looking = None
        self._look_at_next()
        self.looked_at.emit()

    # ---- the run

    @property
    def is_training(self) -> bool:
        """Whether a network is being trained from masks."""
        return self._session.is_busy and self._session.busy == TRAINING

    def train(
        self, lesson: Lesson, settings: TrainSettings, name: str, imagenet: Path | None = None
    ) -> bool:
        """Train a new network; returns whether it was started.

        Parameters
        ----------
        lesson, settings, name : on what, how, and what it is called.
        imagenet : a file with the weights that its encoder begins with.
        """
        session = self._session
        make_work = partial(
            teaching, lesson, settings, session.project, name, session.device, imagenet
        )
        started = session.start(TRAINING, make_work, self._on_taught, self._on_progressed)
        if started:
            self.curve, self.sample, self.taught = [], None, None
            self.taught_changed.emit()
        return started

    def _on_progressed(self, progress: Any) -> None:
        if not hasattr(progress, "loss"):
            return
        if progress.sample is not None:
            self.sample = progress.sample
        if progress.score is not None or not math.isnan(progress.loss):  # a step of training
            self.curve.append(progress)
            self.progressed.emit(progress)

    def _on_taught(self, taught: Taught) -> None:
        self.taught = taught
        self._session.say(
            "done", f"The network is trained, and kept as {taught.path}. Use it, or train another."
        )
        self.taught_changed.emit()

    def use(self) -> bool:
        """Segment with the new network from now on."""
        taught = self.taught
        if taught is None or not self._session.open_model(taught.path):
            return False
        self.taught = None
        self.taught_changed.emit()
        return True
