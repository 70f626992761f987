"""What training sees: the user's own image, varied as the settings of the form say."""

from __future__ import annotations

import html
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_unet.core.corrections import IGNORE
from napari_unet.core.errors import UNetLiveError
from napari_unet.core.settings import FineTuneSettings
from napari_unet.layers import Stage, color_of
from napari_unet.previewing import PreviewRequest, Shown
from napari_unet.session import Session
from napari_unet.widgets.parts import hint
from napari_unet.widgets.sheet import Sheet, in_colors

if TYPE_CHECKING:
    from napari_unet.core.image import Image

__all__ = ["TrainingPreview"]

ASK_MS = 150
"""A preview is made this often while something changes."""
WATCH_MS = 400
"""How often the sliders and the view are looked at; also how long work goes unmentioned."""
GRID = 16
"""Px between the lines of the grid."""
N_SEEDS = 2**31
HARD = "\u00a0"
"""A space at which no line ends."""


class TrainingPreview(QWidget):
    """Pictures as training would be shown them; nothing is made while it is not in view.

    Parameters
    ----------
    session, stage : the model, and the image with what is painted on it.
    settings : says what the form says now.
    """

    def __init__(
        self, session: Session, stage: Stage, settings: Callable[[], FineTuneSettings]
    ) -> None:
        super().__init__()
        self._session, self._stage, self._settings = session, stage, settings
        self._seed = 0
        self._asked_at = 0.0
        self._looked_at: tuple[Any, ...] = ()
        self._problem = ""
        self.shown: Shown | None = None
        self.words = hint()
        self.legend = hint()
        self.words.setTextFormat(Qt.TextFormat.PlainText)  # names of files are in them
        self.legend.setTextFormat(Qt.TextFormat.RichText)
        self.sheet = Sheet()
        self.grid_box = QCheckBox("Grid")
        self.state = hint()
        self.draws_button = QPushButton("Other draws")
        self._clock = QTimer(self)
        self._clock.setSingleShot(True)
        self._clock.timeout.connect(self._ask)
        self._watch = QTimer(self)
        self._watch.timeout.connect(self._on_watch_timeout)
        self._build()
        self._connect()

    def _build(self) -> None:
        form = QVBoxLayout(self)
        form.setContentsMargins(0, 4, 0, 4)
        form.setSpacing(4)
        for part in (self.words, self.sheet, self.legend):
            form.addWidget(part)
        last = QHBoxLayout()
        last.addWidget(self.grid_box)
        last.addWidget(self.state, 1)
        last.addWidget(self.draws_button)
        form.addLayout(last)
        self.grid_box.setToolTip("Draw lines that were straight, to see how pictures are bent.")
        self.draws_button.setToolTip("Vary the same place by chance again.")

    def _connect(self) -> None:
        session = self._session
        for signal in (
            session.layers_changed, session.image_changed, session.corrections_changed,
            session.model_changed, session.project_changed, session.predictions.segmented,
            self.grid_box.toggled,
        ):  # fmt: skip
            signal.connect(self.ask_soon)
        self.draws_button.clicked.connect(self._on_draws_clicked)
        session.previews.made.connect(self._on_previews_made)
        session.previews.failed.connect(self._on_previews_failed)

    # ---- asking

    def ask_soon(self) -> None:
        """Something has changed that the pictures depend on."""
        if self.isVisible() and not self._clock.isActive():
            self._clock.start(ASK_MS)

    def showEvent(self, event: Any) -> None:
        """Begin to follow what is chosen."""
        super().showEvent(event)
        self._watch.start(WATCH_MS)
        self._clock.start(0)

    def hideEvent(self, event: Any) -> None:
        """Make nothing that nobody sees."""
        super().hideEvent(event)
        self._watch.stop()
        self._clock.stop()
        self._session.previews.ask(id(self), None)

    def _ask(self) -> None:
        self._asked_at = time.monotonic()
        self._problem, request = "", None
        try:
            request = self._request()
        except UNetLiveError as error:
            self._problem = str(error)
        if request is None or (
            self.shown is not None and self.shown.request.image is not request.image
        ):
            self.shown = None
        self._session.previews.ask(id(self), request)
        self._refresh()

    def _request(self) -> PreviewRequest | None:
        """What to ask for; None, with the problem, if nothing can be shown."""
        model, image = self._session.model, self._stage.image()
        if model is None:
            self._problem = "Open a model first: the pictures are made as it wants them."
            return None
        if image is None:
            self._problem = "Open an image first."
            return None
        layer, key = self._stage.corrections(), self._stage.key
        current = self._session.predictions.current
        self._looked_at = self._stage.focus(image)
        return PreviewRequest(
            model=model,
            image=image,
            key=key,
            focus=self._looked_at,
            corrections=None if layer is None else layer.array(),
            is_painted=bool(self._session.journal.counts(key)),
            labels=self._labels(image),
            what="objects" if current is None else current.settings.what,
            settings=self._settings(),
            seed=self._seed,
            spacing=GRID if self.grid_box.isChecked() else 0,
            draw=in_colors,
        )

    def _labels(self, image: Image) -> Any:
        """The shown segmentation of the chosen image at its full size, or None."""
        result = self._stage.result
        if result is None or not result.is_shown or result.source is not self._stage.source:
            return None
        return result.labels if result.image.label_shape == image.label_shape else None

    def _on_draws_clicked(self) -> None:
        self._seed = (self._seed + 1) % N_SEEDS
        self._ask()

    def _on_watch_timeout(self) -> None:
        """Follow the sliders and the camera: what they tell cannot be listened to safely."""
        # NOTE: signals of napari reach a widget that is gone, and then raise.
        try:
            image = self._stage.image()
        except UNetLiveError:
            return
        here = () if image is None else self._stage.focus(image)
        if here != self._looked_at:
            self._looked_at = here
            self.ask_soon()
        is_late = time.monotonic() - self._asked_at > WATCH_MS / 1000
        is_busy = self._session.previews.is_busy(id(self))
        self.state.setText("Working…" if is_busy and is_late else "")

    # ---- showing

    def _on_previews_made(self, asker: object, shown: Shown) -> None:
        if asker == id(self):
            self.shown, self._problem = shown, ""
            self.sheet.show_pictures(shown.drawn)
            self._refresh()

    def _on_previews_failed(self, asker: object, sentence: str) -> None:
        if asker == id(self):
            self.shown, self._problem = None, sentence
            self._refresh()

    def _refresh(self) -> None:
        is_busy = self._session.previews.is_busy(id(self))
        if not is_busy:
            self.state.setText("")
        shown = self.shown
        wait = "Preparing the pictures…" if is_busy else ""
        self.words.setText(self._problem or (wait if shown is None else _in_words(shown)))
        self.legend.setText("" if shown is None else _legend(shown))
        self.legend.setVisible(bool(self.legend.text()))
        for part in (self.sheet, self.grid_box, self.draws_button):
            part.setVisible(shown is not None)


def _in_words(shown: Shown) -> str:
    """What the pictures show."""
    place = (*shown.index, *shown.center)
    axes = shown.request.image.label_axes
    where = ", ".join(f"{axis}{HARD}{at}" for axis, at in zip(axes, place, strict=True))
    size = f"{HARD}×{HARD}".join(map(str, shown.size)) + f"{HARD}px"
    if shown.source == "painted":
        return f"Your corrections around {where}, in patches of {size}."
    if shown.source == "segmented":
        what = "Nothing is painted yet: the segmentation stands in for it"
    else:
        what = "Nothing is painted or segmented yet: only the image is shown"
    return f"{what}, around {where}, in patches of {size}."


def _legend(shown: Shown) -> str:
    """Colours and names of the classes in the pictures (HTML)."""
    values = np.unique(np.concatenate([picture.target.ravel() for picture in shown.pictures]))
    if shown.source == "segmented":  # of which there are outlines of objects only
        values = values[values > 0]
    names = shown.request.model.description.class_names
    parts = []
    for value in values[values != IGNORE].tolist():
        name = names[value] if value < len(names) else f"class {value}"
        parts.append(f"<span style='color:{color_of(value + 1)}'>■</span> {html.escape(name)}")
    return " &nbsp; ".join(parts)
