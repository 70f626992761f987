"""What all docks share: the link to the session, the start of a segmentation, and a layout."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from napari.utils.notifications import show_error
from qtpy.QtWidgets import QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_unet.core.errors import UNetLiveError
from napari_unet.core.image import Image
from napari_unet.core.settings import SegmentSettings
from napari_unet.layers import Area, Stage, stage_of
from napari_unet.session import Session, session_of
from napari_unet.widgets.parts import DOCK_WIDTH, row, scrolled
from napari_unet.widgets.status import Status, is_read
from napari_unet.works import Request

__all__ = ["Step", "link", "segment"]


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
    if kind == "error" and not is_read(session):
        show_error(sentence)


def _on_layers_changed(session: Session, stage: Stage) -> None:
    session.journal.keep_only(stage.shown_corrections())
    session.layers_changed.emit()


def segment(
    session: Session,
    stage: Stage,
    settings: SegmentSettings,
    *,
    areas: Callable[[Image], tuple[Area, ...]] = lambda image: (),
    others: tuple[str, ...] = (),
    on_trial: bool = False,
) -> bool:
    """Segment the chosen image into a layer that lies on it; returns whether it was started.

    Parameters
    ----------
    session, stage, settings : the model, the image, and how.
    areas : gives the parts of the image to work on; none for everything.
    others : files of further models to average with.
    on_trial : show it beside the result of the model from before training.

    Raises
    ------
    UNetLiveError
        If the image cannot be used, or there is no room for its result.
    """
    model = session.model if session.trial is None else session.trial.after
    assert model is not None
    image = stage.image_for(model.description.pixel_size, model.description.dims)
    parts = areas(image)
    folder = session.predictions.folder_for(image, stage.key, settings, others)
    target = stage.target(image, on_trial, "" if folder is None else str(folder))
    target.describe(model=model.title, model_id=model.id, settings=repr(settings))
    request = Request(
        image=image, settings=settings, target=target, focus=stage.focus(image), areas=parts,
        others=others, folder=folder,
    )  # fmt: skip
    return session.predictions.segment(request)


def _show_trial(session: Session, stage: Stage) -> None:
    """Show what the model on trial makes of the image, beside what was there."""
    if session.trial is None or stage.source is None:
        return
    before = session.predictions.current

    def same_areas(image: Image) -> tuple[Any, ...]:
        return before.areas if before is not None and before.image is image else ()

    settings = before.settings if before is not None else SegmentSettings()
    try:
        started = segment(session, stage, settings, areas=same_areas, on_trial=True)
    except UNetLiveError as error:
        session.say("error", str(error))
        return
    if started:
        stage.show_before(False)


def _settle_trial(session: Session, stage: Stage, kept: bool) -> None:
    stage.settle_trial(kept)
    current = session.predictions.current
    if kept and current is not None and stage.result is not None:
        current.target = stage.result


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
        if alone:
            self._stand_alone(outer)
        else:
            outer.addLayout(self.form)

    def _stand_alone(self, outer: QVBoxLayout) -> None:
        """Scroll what may be higher than the window, above the status."""
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Preferred)
        self.setMinimumWidth(DOCK_WIDTH)
        content = QWidget()
        inner = QVBoxLayout(content)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.addLayout(self.form)
        inner.addStretch(1)
        outer.addWidget(scrolled(content), 1)
        outer.addWidget(Status(self.session))

    def row(self, label: str, *widgets: QWidget, tip: str = "") -> QLabel:
        """Add a line: a label of fixed width, which is returned, and what belongs to it."""
        return row(self.form, label, *widgets, tip=tip)
