"""The one mutable object: what is loaded, what is running, what was found. One per viewer.

Widgets call its methods and listen to its signals; they never talk to each other. It owns the
jobs, so that a closed dock leaves nothing behind; those that segment are those of its
`Predictions`. It knows no layer: results go to a `Target`, strokes come from a `PaintedLayer`,
both made by `napari_unet.layers`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from qtpy.QtCore import QEvent, QObject, Signal

from napari_unet.core.errors import ProjectError, UNetLiveError
from napari_unet.core.settings import FineTuneSettings
from napari_unet.core.volumes import DEPTH
from napari_unet.jobs import Job
from napari_unet.journal import Journal
from napari_unet.lives import Lives
from napari_unet.opening import (
    Explained,
    Opened,
    Question,
    changing,
    explained,
    guessing,
    moving_model,
    opening_model,
    saving,
)
from napari_unet.predictions import Predictions
from napari_unet.preferences import preference
from napari_unet.previews import Previews
from napari_unet.project import Project, default_project
from napari_unet.rounds import Kept, Trial, rounds_of, saved_in, training
from napari_unet.trainings import Trainings

if TYPE_CHECKING:
    from napari_unet.core.model import Model

__all__ = ["Session", "session_of"]


class Session(QObject):
    """State and jobs of one viewer.

    Attributes
    ----------
    model_changed, project_changed, rounds_changed, trial_changed, corrections_changed,
    job_changed : emitted after the state of that name changed.
    layers_changed, image_changed : the layers of the viewer, or the chosen one, are others now.
    trial_settled : emitted with whether the model on trial was kept.
    progressed : emitted with what a running job yields.
    predictions : what was segmented, and the jobs that do it.
    trainings : what is trained from masks.
    previews : what training would see of an open image.
    lives : live mode, in which the model learns while strokes are painted.
    model, source : what segments, and the file or the name it was opened from.
    explained : what the Model step shows of it.
    was_guessed : whether an image was asked about the intensities since the model was opened.
    asked : emitted with a `Question` that must be answered before a model can be opened.
    saved : key of each image of the project to its number of corrected px.
    said : emitted with a kind ("info", "done" or "error") and a sentence for the user.
    """

    model_changed = Signal()
    project_changed = Signal()
    rounds_changed = Signal()
    trial_changed = Signal()
    trial_settled = Signal(bool)
    corrections_changed = Signal()
    job_changed = Signal()
    layers_changed = Signal()
    image_changed = Signal()
    progressed = Signal(object)
    said = Signal(str, str)
    asked = Signal(object)

    def __init__(self, project: Project | None = None) -> None:
        super().__init__()
        self.model: Model | None = None
        self.source = ""
        self.explained = Explained()
        self.was_guessed = False
        self.device = str(preference("general", "device", "auto"))
        self.trial: Trial | None = None
        self.rounds: tuple[Kept, ...] = ()
        self.saved: dict[str, int] = {}
        self.training_curve: list[Any] = []
        self.message = ("info", "")
        self.busy = ""
        self.started_at = 0.0
        self._job: Job | None = None
        self._take_result: Callable[[], None] | None = None
        self.predictions = Predictions(self)
        self.trainings = Trainings(self)
        self.previews = Previews(self)
        self.lives = Lives(self)
        self.journal = Journal(project or self._first_project(), parent=self)
        self.journal.saved.connect(self._on_journal_saved)
        self.journal.failed.connect(self._on_journal_failed)

    def _first_project(self) -> Project:
        """The project of the preferences; the default one if there is none, or it is away."""
        folder = str(preference("general", "project_folder", ""))
        if folder:
            try:
                return open_or_create(Path(folder).expanduser())
            except ProjectError as error:
                self.message = ("error", f"{error} Until then the default project is used.")
        return default_project()

    # ---- what is said

    def say(self, kind: str, sentence: str) -> None:
        """Show a sentence in every dock, until the next one."""
        self.message = (kind, sentence)
        self.said.emit(kind, sentence)

    # ---- jobs: one at a time

    @property
    def is_busy(self) -> bool:
        """Whether a job runs that the user waits for."""
        return self._job is not None

    def start(
        self,
        busy: str,
        make_work: Callable[[], Generator[Any, None, Any]],
        on_returned: Callable[[Any], None],
        on_progressed: Callable[[Any], None] | None = None,
        keeps: bool = False,
    ) -> bool:
        """Run work that the user waits for; says so and returns False if some runs already.

        Parameters
        ----------
        busy : what it is, such as "Segmenting".
        make_work : makes the work; called on the worker thread.
        on_returned : called with its result, when the next job may start.
        on_progressed : called with each value that it yields.
        keeps : whether it has something to keep if napari ends it; see `Job`.
        """
        if self._job is not None:
            self.say("info", f"{self.busy} is still running. Wait for it, or cancel it first.")
            return False
        job = Job(make_work, parent=self, keeps=keeps)
        if on_progressed is not None:
            job.progressed.connect(on_progressed)
        job.progressed.connect(self.progressed)
        job.returned.connect(partial(self._on_job_returned, on_returned))
        job.failed.connect(self._on_job_failed)
        job.ended.connect(self._on_job_ended)
        self._job, self.busy, self.started_at = job, busy, time.monotonic()
        self.job_changed.emit()
        job.start()
        return True

    def cancel(self) -> None:
        """Stop the running job; what it has shown so far stays."""
        if self.lives.is_on and not self.lives.is_leaving:
            self.lives.leave(None)  # what was learned so far becomes a round first
        elif self._job is not None and not self._job.is_stopped:
            self._job.stop()
            self.say("info", f"{self.busy}: cancelled. What was done so far is kept.")
            self.job_changed.emit()

    def finish_early(self) -> None:
        """Stop training and keep the best network so far."""
        if self._job is not None:
            self._job.finish_early()
            self.say("info", "Stopping after this step; the best network so far is kept.")

    @property
    def is_stopping(self) -> bool:
        """Whether the running job has been told to stop."""
        return self._job is not None and self._job.is_stopped

    def _on_job_failed(self, sentence: str) -> None:
        self.say("error", sentence)

    def _on_job_returned(self, on_returned: Callable[[Any], None], result: Any) -> None:
        self._take_result = partial(on_returned, result)

    def _on_job_ended(self) -> None:
        """Free the way first: taking the result may start the next job."""
        job, self._job, self.busy = self._job, None, ""
        take_result, self._take_result = self._take_result, None
        if job is not None:
            job.deleteLater()
        if take_result is not None:
            take_result()
        self.job_changed.emit()

    # ---- model

    def open_model(self, source: str | Path, choose: str | None = None, trust: str = "") -> bool:
        """Open a model in the background; `model_changed` follows, `asked`, or an error sentence.

        Parameters
        ----------
        source : a built-in name or a file.
        choose, trust : answers to the questions that were asked before.
        """
        make_work = partial(opening_model, source, self.device, self.project, choose, trust)
        on_opened = partial(self._on_model_opened, str(source))
        return self.start("Opening the model", make_work, on_opened)

    def open_first_model(self) -> bool:
        """Open the model this project works with, else the built-in one."""
        current = self.project.read_state().get("model")
        known = current is not None and (current == "nuclei" or Path(current).exists())
        return self.open_model(current if known and current else "nuclei")

    def choose_device(self, name: str) -> None:
        """Move the model to another device."""
        self.device = name
        if self.model is not None and not self.is_busy:
            make_work = partial(moving_model, self.model, name)
            self.start("Moving the model", make_work, self._set_model)

    def change_model(self, name: str, value: Any) -> bool:
        """Say what the file of the model does not; remembered for that file, if it is foreign."""
        if self.model is None:
            return False
        make_work = partial(changing, self.model, name, value, self.source)
        return self.start("Changing the model", make_work, self._on_model_changed)

    def guess_intensities(self, image: Any) -> bool:
        """Work out from an image how intensities have to be prepared for the model."""
        if self.model is None:
            return False
        make_work = partial(guessing, self.model, image)
        started = self.start("Working out the intensities", make_work, self._on_guessed)
        self.was_guessed = self.was_guessed or started
        return started

    def save_model_as(self, path: Path) -> bool:
        """Write the model to a file, in the format of its ending."""
        if self.model is None:
            return False
        make_work = partial(saving, self.model, path)
        return self.start("Saving the model", make_work, self._on_model_saved)

    def _on_model_opened(self, source: str, opened: Opened | Question) -> None:
        if isinstance(opened, Question):
            self.say("info", opened.sentence)
            self.asked.emit(opened)
            return
        self.go_back()  # whoever opens a model has decided against the one on trial
        self.saved = opened.saved
        self.source = source
        self.was_guessed = False
        self._set_model(opened.model, opened.explained)
        self.refresh_rounds()
        self.corrections_changed.emit()
        model = opened.model
        self.say("done", f"Model {model.title!r} is ready on the {model.device.label}.")

    def _on_model_changed(self, opened: Opened) -> None:
        self._set_model(opened.model, opened.explained)
        keep = "" if opened.is_remembered else " Save the model to keep it."
        self.say("done", f"Changed. Segment again to see what it does.{keep}")

    def _on_guessed(self, found: Explained) -> None:
        self.explained = found
        self.model_changed.emit()
        if found.proposal is not None:
            self.say("info", found.proposal.sentence())

    def _on_model_saved(self, path: Path) -> None:
        self.say("done", f"The model was saved as {path}.")

    def _set_model(self, model: Model, shown: Explained | None = None) -> None:
        self.model = model
        self.explained = explained(model) if shown is None else shown
        self.journal.depth = DEPTH if model.description.dims == 3 else 0
        self.model_changed.emit()

    # ---- corrections

    @property
    def project(self) -> Project:
        """The folder in which corrections and models are kept."""
        return self.journal.project

    @property
    def n_corrected(self) -> int:
        """Corrected px of all images of the project."""
        return sum(self.saved.values())

    def open_project(self, folder: Path) -> None:
        """Work with the project in `folder` from now on; open corrections come along."""
        try:
            project = open_or_create(folder)
            self.saved = saved_in(project)
            self.journal.move_to(project)
        except UNetLiveError as error:
            self.say("error", str(error))
            return
        self.say("done", f"The project is now {project.folder}.")
        self.project_changed.emit()
        self.refresh_rounds()

    def _on_journal_saved(self, key: str) -> None:
        self.saved[key] = sum(pixels for pixels, _ in self.journal.counts(key).values())
        self.corrections_changed.emit()

    def _on_journal_failed(self, sentence: str) -> None:
        self.say("error", sentence)

    # ---- fine-tune

    def fine_tune(self, settings: FineTuneSettings) -> bool:
        """Train a copy of the model on all corrections of the project."""
        model, project = self.model, self.project
        if model is None:
            self.say("error", "There is no model yet. Open one in the Model step.")
            return False
        self.journal.flush()
        make_work = partial(training, model, project, settings, self.journal.images())
        started = self.start("Training", make_work, self._on_trained, self._on_training_progressed)
        if started:
            self.training_curve = []
        return started

    def _on_training_progressed(self, progress: Any) -> None:
        if hasattr(progress, "loss"):
            self.training_curve.append(progress)

    def _on_trained(self, trial: Trial) -> None:
        self.trial = trial
        self.refresh_rounds()
        self.say("done", "Training is done. Compare before and after, then keep it or go back.")
        self.trial_changed.emit()

    def on_live_ended(self, trial: Trial) -> None:
        """What live mode has learned is on trial until the user decides."""
        self._on_trained(trial)

    def settle_live(self, trial: Trial, keep: bool) -> None:
        """What live mode has learned is a round; go on with it, or stay with the model before."""
        self.trial = trial
        if keep:
            self.keep()
        else:
            self.go_back()
        self.refresh_rounds()

    def keep(self) -> None:
        """Go on with the model fresh from training."""
        if self.trial is not None:
            trial, self.trial = self.trial, None
            self.predictions.settle_trial(True)
            self._remember(trial.path)
            self.source = str(trial.path or "")
            self._set_model(trial.after)
            self.say("done", f"Kept: the model is now {trial.after.title!r}.")
            self.trial_settled.emit(True)
            self.trial_changed.emit()

    def go_back(self) -> None:
        """Stay with the model from before training; the new one stays in the history."""
        if self.trial is not None:
            trial, self.trial = self.trial, None
            self.predictions.settle_trial(False)
            self.say("done", f"Back to {trial.before.title!r}; the round stays in the history.")
            self.trial_settled.emit(False)
            self.trial_changed.emit()

    def return_to(self, kept: Kept) -> bool:
        """Make an earlier round the current model."""
        self._remember(kept.path)
        return self.open_model(kept.path)

    def _remember(self, path: Path | None) -> None:
        """Note in the project which model to start with next time."""
        if path is None:
            return
        try:
            self.project.write_state({**self.project.read_state(), "model": str(path)})
        except UNetLiveError as error:
            self.say("error", str(error))

    def refresh_rounds(self) -> None:
        """Read the project's rounds again; before the first model is open there is no torch."""
        if self.model is None:
            return
        self.rounds = rounds_of(self.project)
        self.rounds_changed.emit()

    # ---- the window

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Save strokes before the window closes; a dock itself never learns of that."""
        if event is not None and event.type() == QEvent.Type.Close:
            self.lives.finish_now()
            self.journal.flush()
        return False


def open_or_create(folder: Path) -> Project:
    """The project in `folder`, made if there is none; raises `ProjectError`."""
    is_project = (folder / "project.json").is_file()
    return Project.open(folder) if is_project else Project.create(folder)


_SESSIONS: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()


def session_of(viewer: Any) -> Session:
    """The session of a viewer, made when it is first asked for."""
    real = getattr(viewer, "__wrapped__", viewer)  # plugins may get a proxy of the viewer
    if real not in _SESSIONS:
        _SESSIONS[real] = Session()
    return _SESSIONS[real]
