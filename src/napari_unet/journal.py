"""Never lose a stroke: what is painted reaches the project folder within two seconds.

The journal watches the corrections of every open image. After a stroke it compares the blocks
that may have changed with what was saved last, copies those that did, and hands them to a
worker thread that writes each block as a file of its own, whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QObject, QTimer, Signal

from napari_unet.core.corrections import (
    FULL_SCAN_LIMIT,
    Blocks,
    Box,
    Origin,
    block_at,
    block_origins,
    changed_blocks,
    copy_of_block,
    count_corrections,
    origins_in,
)
from napari_unet.core.errors import UNetLiveError
from napari_unet.core.image import Image
from napari_unet.core.progress import Work, finish
from napari_unet.jobs import Job
from napari_unet.project import Project

__all__ = ["Counts", "Journal", "PaintedLayer"]

DELAY_MS = 300
RETRY_MS = 2000
"""How long to wait after a save that failed."""

Counts = Mapping[int, tuple[int, int]]
"""Painted value to (pixels, connected regions)."""


class PaintedLayer(Protocol):
    """The layer that somebody paints corrections on, as the journal sees it."""

    def array(self) -> npt.NDArray[np.integer] | None:
        """The painted values now, or None if the layer is gone."""

    def fill_in(self, values: npt.NDArray[np.uint8]) -> None:
        """Paint `values`, of the shape of the layer, wherever nothing is painted yet."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Watched:
    """One image with its corrections: what may have changed, and what was saved last."""

    image: Image
    key: str
    layer: PaintedLayer
    class_names: tuple[str, ...]
    saved: Blocks = field(default_factory=dict)
    touched: set[Origin] = field(default_factory=set)
    counts: Counts = field(default_factory=dict)


class Journal(QObject):
    """Saves corrections while they are being painted.

    Attributes
    ----------
    saved : emitted after blocks reached the disk, with the key of the image.
    failed : emitted with a sentence when they could not be written; they are tried again.
    depth : how many slices before and behind a painted one are kept, for networks of volumes.
    """

    saved = Signal(str)
    failed = Signal(str)

    def __init__(self, project: Project, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.project = project
        self.depth = 0
        self._watched: dict[str, _Watched] = {}
        self._job: Job | None = None
        self._in_flight: tuple[_Watched, Blocks] | None = None
        # NOTE: one writer at a time, or a save that is under way while `flush` writes would put
        # older strokes over newer ones.
        self._disk = RLock()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._on_timer_timeout)

    def watch(
        self, image: Image, key: str, layer: PaintedLayer, class_names: tuple[str, ...]
    ) -> None:
        """Keep the corrections of `image` from now on; what `layer` holds counts as saved."""
        watched = _Watched(image=image, key=key, layer=layer, class_names=class_names)
        array = layer.array()
        if array is not None:
            watched.saved = {o: copy_of_block(array, o) for o in block_origins(array)}
            watched.counts = count_corrections(watched.saved)
        self._watched[key] = watched

    def keep_only(self, keys: set[str]) -> None:
        """Save what is left of all other images, and let go of them."""
        if not set(self._watched) <= keys:
            self.flush()
            self._watched = {k: w for k, w in self._watched.items() if k in keys or w.touched}

    def touch(self, key: str, boxes: Iterable[Box] | None = None) -> None:
        """Something may have been painted, in `boxes` or, if None, anywhere."""
        watched = self._watched.get(key)
        array = watched.layer.array() if watched else None
        if watched is None or array is None:
            return
        if boxes is not None:
            watched.touched.update(o for box in boxes for o in origins_in(box, array.shape))
        else:
            watched.touched.update(watched.saved)
            if self._in_flight is not None and self._in_flight[0] is watched:
                watched.touched.update(self._in_flight[1])  # undone while it is being saved
            if array.size <= FULL_SCAN_LIMIT:
                watched.touched.update(block_origins(array))
        self._start_timer(DELAY_MS)

    def _start_timer(self, delay: int) -> None:
        """Save in `delay` ms at the latest: stroke upon stroke must not put it off."""
        if not self._timer.isActive():
            self._timer.start(delay)

    def move_to(self, project: Project) -> None:
        """Save into another project from now on; what is open is saved there too.

        Where that project has corrections of an open image, they come into view beside those
        painted here; in the same place the latter stay.

        Raises
        ------
        ProjectError
            If the other project cannot be read; then nothing has changed.
        """
        self.flush()
        there = {}
        for watched in self._watched.values():
            array = watched.layer.array()
            if array is not None:
                there[watched.key] = project.restore(watched.key, array.shape)
        self.project = project
        for watched in self._watched.values():
            watched.saved.clear()
            if watched.key in there:
                watched.layer.fill_in(there[watched.key])
            array = watched.layer.array()
            if array is not None:
                watched.touched.update(block_origins(array))
        self.flush()

    def images(self) -> dict[str, Image]:
        """The images whose corrections are watched, by their keys."""
        return {key: watched.image for key, watched in self._watched.items()}

    def counts(self, key: str) -> Counts:
        """Pixels and regions per painted value of an image, as last saved."""
        return self._watched[key].counts if key in self._watched else {}

    @property
    def is_pending(self) -> bool:
        """Whether a stroke is not on the disk yet."""
        return self._job is not None or any(w.touched for w in self._watched.values())

    def flush(self) -> None:
        """Write everything now, on this thread; for the moment before it is too late."""
        self._timer.stop()
        with self._disk:
            self._take_back()
            for watched in self._watched.values():
                changes = self._take_changes(watched)
                if changes:
                    self._save_now(watched, changes)

    def _take_back(self) -> None:
        """Take what a worker thread was to write; it finds nothing to do."""
        if self._in_flight is not None:
            watched, changes = self._in_flight
            watched.touched.update(changes)
            changes.clear()

    def _save_now(self, watched: _Watched, changes: Blocks) -> None:
        try:
            finish(self._saving(watched, changes))
        except Exception as error:  # such as a lazy image whose file is gone: save the others
            watched.touched.update(changes)
            self.failed.emit(_not_saved(error))
            self._start_timer(RETRY_MS)
        else:
            self.saved.emit(watched.key)

    def _take_changes(self, watched: _Watched) -> Blocks:
        """Copies of the blocks that differ from what was saved last; marks them as saved."""
        array, touched = watched.layer.array(), watched.touched
        changes = {} if array is None else changed_blocks(array, touched, watched.saved)
        touched.clear()
        return changes

    def _saving(self, watched: _Watched, changes: Blocks) -> Work[Any, None]:
        """Write copied blocks, then count what is painted now."""
        blocks = (block_at(watched.image, painted, *origin) for origin, painted in changes.items())
        yield from self.project.save_blocks(
            watched.image, blocks, class_names=watched.class_names, key=watched.key,
            depth=self.depth,
        )  # fmt: skip
        watched.saved.update(changes)
        watched.counts = count_corrections(watched.saved)

    def _saving_in_turn(self, watched: _Watched, changes: Blocks) -> Work[Any, None]:
        with self._disk:
            if changes:  # `flush` may have been faster
                yield from self._saving(watched, changes)

    def _on_timer_timeout(self) -> None:
        if self._job is not None:  # a save is under way; `_on_job_ended` comes back to this
            return
        for watched in self._watched.values():
            changes = self._take_changes(watched)
            if changes:
                self._start(watched, changes)
                return

    def _start(self, watched: _Watched, changes: Blocks) -> None:
        job = Job(lambda: self._saving_in_turn(watched, changes), parent=self, urgent=True)
        job.returned.connect(lambda _: self.saved.emit(watched.key))
        job.failed.connect(lambda sentence: self._on_job_failed(watched, changes, sentence))
        job.ended.connect(self._on_job_ended)
        self._job, self._in_flight = job, (watched, changes)
        job.start()

    def _on_job_failed(self, watched: _Watched, changes: Blocks, sentence: str) -> None:
        watched.touched.update(changes)
        self.failed.emit(sentence)
        self._start_timer(RETRY_MS)

    def _on_job_ended(self) -> None:
        if self._job is not None:
            self._job.deleteLater()
        self._job = self._in_flight = None
        if any(watched.touched for watched in self._watched.values()):
            self._start_timer(DELAY_MS)


def _not_saved(error: Exception) -> str:
    if isinstance(error, UNetLiveError):
        return str(error)
    return f"The corrections could not be saved ({error}). They will be tried again."
