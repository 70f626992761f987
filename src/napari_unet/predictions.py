"""What was segmented in one viewer, and the jobs that make and change it.

A part of the session: it makes segmentations, finds objects again when a knob is turned, and
works out the map of probabilities. What it finds goes to a `Target`, a few times a second at
the most.
"""

from __future__ import annotations

import hashlib
import math
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer, Signal

from napari_unet.core.settings import SegmentSettings
from napari_unet.jobs import Job
from napari_unet.works import (
    OF_NETWORK,
    Adjustment,
    Part,
    Prediction,
    Request,
    StoreOpened,
    Target,
    adjusting,
    mapping,
    segmenting,
)

if TYPE_CHECKING:
    from napari_unet.core.image import Image
    from napari_unet.core.model import Model
    from napari_unet.core.segmentation import SegmentProgress
    from napari_unet.session import Session

__all__ = ["Predictions"]

BIG = 2**28
"""An image of more px than this gets a result on disk."""
ROUTINE = ("Segmenting", "Finding objects")
"""Messages that are shown with the progress and nowhere else."""
REDRAW_MS = 200
"""What was found is drawn no more often than this."""
REST = 4
"""After drawing, the window has this many times as long for other things."""


class Predictions(QObject):
    """The segmentations of one viewer, and the jobs that make and change them.

    Attributes
    ----------
    segmented : emitted when a segmentation is there, or a changed one.
    how_changed : emitted when `how` says something else.
    mapped : emitted with a prediction and its map of probabilities.
    current, on_trial : the last segmentation, and that of the model on trial.
    how : in a sentence how the last segmentation was made, and the whole plan.
    """

    segmented = Signal()
    how_changed = Signal()
    mapped = Signal(object, object)

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._session = session
        self.current: Prediction | None = None
        self.on_trial: Prediction | None = None
        self.how = ("", "")
        self._adjusting: Job | None = None
        self._next_adjustment: Adjustment | None = None
        self._waiting: Request | None = None
        self._mapping: Job | None = None
        self._heard: set[str] = set()
        self._clock = QTimer(self)
        self._clock.setSingleShot(True)
        self._clock.timeout.connect(self._redraw)
        self._undrawn: Target | None = None
        session.job_changed.connect(self._adjust_next)

    @property
    def shown(self) -> Prediction | None:
        """The prediction that the knobs act on."""
        return self.current if self._session.trial is None else self.on_trial

    @property
    def is_at_work(self) -> bool:
        """Whether objects are being found again, or the map is being made."""
        return self._adjusting is not None or self._mapping is not None

    @property
    def why_no_map(self) -> str:
        """Why there can be no map of probabilities; nothing if there can."""
        shown = self.shown
        if shown is None:
            return "Segment the image first."
        if shown.store is not None:
            return "The map of an image as big as this would not fit into the memory."
        return ""

    # ---- segment

    def folder_for(
        self, image: Image, key: str, settings: SegmentSettings, others: tuple[str, ...] = ()
    ) -> Path | None:
        """Where the result of an image too big for the memory is kept; None for others.

        Parameters
        ----------
        image, key : the image, and what tells it from others.
        settings, others : how it will be segmented, and with which further models.
        """
        model = self._model
        if model is None or math.prod(image.label_shape) <= BIG:
            return None
        chosen = [(getattr(settings, n), getattr(SegmentSettings(), n)) for n in OF_NETWORK]
        name = [key, model.id, *(value for value, usual in chosen if value != usual)]
        if others:
            name.append(hashlib.blake2b("\n".join(others).encode(), digest_size=4).hexdigest())
        return self._session.project.folder / "segmentations" / f"{'-'.join(name)}.zarr"

    @property
    def _model(self) -> Model | None:
        """The model that segments: the session's, or the one on trial if there is one."""
        trial = self._session.trial
        return self._session.model if trial is None else trial.after

    def segment(self, request: Request) -> bool:
        """Segment with the model of the session, or with the one on trial if there is one."""
        session = self._session
        if self._adjusting is not None:  # it writes into the same layer or file
            self._waiting = request
            self._adjusting.stop()
            return True
        model = self._model
        if model is None:
            session.say("error", "There is no model yet. Open one in the Model step.")
            return False
        prediction = self._prediction_for(request, model)
        started = session.start(
            "Segmenting",
            partial(segmenting, request, prediction, session.device),
            partial(self._on_segmented, request, prediction),
            partial(self._on_progressed, prediction),
        )
        if started:
            self._heard = set(ROUTINE)
            self._next_adjustment = None
            request.target.begin(request.settings.what, request.areas)
            if session.trial is None:
                self.current = prediction
            else:
                self.on_trial = prediction
        return started

    def _prediction_for(self, request: Request, model: Model) -> Prediction:
        """A new prediction; one of a part of the image joins what there is of the rest."""
        prediction = Prediction(
            image=request.image, target=request.target, models=(model,), others=request.others,
            run_with=request.settings, settings=request.settings, areas=request.areas,
        )  # fmt: skip
        before = self.shown
        if before is not None and request.areas and _can_be_joined(before, prediction):
            prediction.outputs = before.outputs
            kept = [area for area in before.areas if not _is_in_one(area, request.areas)]
            prediction.areas = before.areas and (*kept, *request.areas)
        return prediction

    def _on_progressed(self, prediction: Prediction, progress: Any) -> None:
        if isinstance(progress, StoreOpened):
            prediction.target.show_levels(progress.levels)
            if progress.share:
                done = f"{progress.share:.0%} of it is done already"
                self._session.say("info", f"Segmenting goes on where it stopped: {done}.")
        elif hasattr(progress, "labels"):
            self._listen(progress, len(prediction.models))
            self._show(prediction.target, progress)

    def _listen(self, progress: SegmentProgress, n_models: int) -> None:
        """Take in how it is done, and say what is new, such as that the memory ran out."""
        if progress.plan is not None:
            mean = f" Mean of {n_models} models." if n_models > 1 else ""
            how = (progress.plan.summary + mean, str(progress.plan) + mean)
            if how != self.how:
                self.how = how
                self.how_changed.emit()
        if progress.message not in self._heard:
            self._heard.add(progress.message)
            self._session.say("info", f"{progress.message}.")

    def _on_segmented(self, request: Request, prediction: Prediction, _: Any) -> None:
        self._finish(prediction.target)
        seconds = time.monotonic() - self._session.started_at
        where = f"{'parts of ' if request.areas else ''}{request.image.name!r}"
        self._session.say("done", f"Found {_found(prediction)} in {where} in {seconds:.1f} s.")
        self.segmented.emit()

    # ---- draw, a few times a second

    def _show(self, target: Target, progress: SegmentProgress) -> None:
        """Hand a region on; the first one is drawn at once, later ones when it is time."""
        target.write(progress)
        self._undrawn = target
        if not self._clock.isActive():
            self._redraw()

    def _redraw(self) -> None:
        target, self._undrawn = self._undrawn, None
        if target is None:
            return
        start = time.monotonic()
        target.redraw()
        took = 1000 * (time.monotonic() - start)
        self._clock.start(max(REDRAW_MS, int(REST * took)))

    def _finish(self, target: Target) -> None:
        self._undrawn = None
        self._clock.stop()
        target.finished()

    # ---- adjust

    def adjust(self, asked: Adjustment) -> None:
        """Find objects again with other settings, without running the network."""
        self._next_adjustment = asked
        if self._adjusting is not None:
            self._adjusting.stop()
        else:
            self._adjust_next()

    def _adjust_next(self) -> None:
        prediction, asked = self.shown, self._next_adjustment
        if (
            asked is None or prediction is None or prediction.outputs is None
            or self._session.is_busy or self._adjusting is not None
        ):  # fmt: skip
            return
        self._next_adjustment = None
        prediction.settings = asked.settings
        prediction.target.begin(asked.settings.what, prediction.areas)
        job = Job(partial(adjusting, prediction, asked), parent=self)
        job.progressed.connect(partial(self._on_progressed, prediction))
        job.returned.connect(lambda _: self._on_adjusted(prediction))
        job.failed.connect(self._on_job_failed)
        job.ended.connect(self._on_adjustment_ended)
        self._adjusting = job
        job.start()

    def _on_adjusted(self, prediction: Prediction) -> None:
        self._finish(prediction.target)
        self._session.say("done", f"{_found(prediction)} with these settings.")
        self.segmented.emit()

    def _on_adjustment_ended(self) -> None:
        if self._adjusting is not None:
            self._adjusting.deleteLater()
        self._adjusting = None
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self.segment(waiting)
        self._adjust_next()

    def _on_job_failed(self, sentence: str) -> None:
        self._session.say("error", sentence)

    # ---- the map of probabilities

    def make_map(self) -> None:
        """Work out the probability of not being background; `mapped` follows."""
        prediction = self.shown
        if prediction is None or prediction.outputs is None or self._mapping is not None:
            return
        job = Job(partial(mapping, prediction), parent=self)
        job.returned.connect(partial(self.mapped.emit, prediction))
        job.failed.connect(self._on_job_failed)
        job.ended.connect(self._on_map_ended)
        self._mapping = job
        job.start()

    def _on_map_ended(self) -> None:
        if self._mapping is not None:
            self._mapping.deleteLater()
        self._mapping = None

    # ---- a model on trial

    def settle_trial(self, kept: bool) -> None:
        """The model on trial was kept, or not; then what it found goes too."""
        if kept and self.on_trial is not None:
            self.current = self.on_trial
        self.on_trial = None


def _can_be_joined(before: Prediction, after: Prediction) -> bool:
    """Whether the probabilities of `before` are those that `after` would make."""
    return (
        before.image is after.image
        and before.outputs is not None
        and before.store is None is after.store
        and before.target is after.target
        and before.model.id == after.model.id
        and before.others == after.others
        and all(getattr(before.run_with, n) == getattr(after.run_with, n) for n in OF_NETWORK)
    )


def _is_in_one(area: Part, others: tuple[Part, ...]) -> bool:
    """Whether the box of a part lies inside that of one of the others."""
    return any(
        all(
            mine.start >= its.start and mine.stop <= its.stop
            for mine, its in zip(area.box, other.box, strict=True)
        )
        for other in others
    )


def _found(prediction: Prediction) -> str:
    """What was found, in words."""
    n = prediction.n_found
    if prediction.settings.what == "objects":
        return f"{n:,} object{'' if n == 1 else 's'}"
    return f"{prediction.n_labelled / max(1, prediction.n_looked_at):.1%} of the pixels"
