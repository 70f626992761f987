"""Measuring the images that live mode may look at: the one on stage at once, others in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_unet.jobs import Job
from napari_unet.learning import measuring

if TYPE_CHECKING:
    from napari_unet.core.image import Image
    from napari_unet.core.live.images import LiveImage

__all__ = ["Survey"]


class Survey(QObject):
    """What is known of open images; each is measured once.

    Attributes
    ----------
    measured : emitted with the `LiveImage` of the image that was asked for.
    failed : emitted with a sentence if that cannot be read.
    others_changed : emitted when `others` are others now.
    others : key to further images that are open and can be read.
    """

    measured = Signal(object)
    failed = Signal(str)
    others_changed = Signal()

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._job: Job | None = None
        self.forget()

    def forget(self) -> None:
        """Start anew; what is being measured is not waited for."""
        self._wanted: Image | None = None
        self._open: Sequence[Image] = ()
        self._tried: dict[int, Image] = {}  # NOTE: kept, so that no other image gets its id
        self._known: dict[int, LiveImage] = {}
        self.others: Mapping[str, LiveImage] = {}

    def measure(self, image: Image, key: str) -> None:
        """Measure the image on stage now; `measured` or `failed` follows."""
        self._wanted = image
        self._start(image, key)

    def look_around(self, images: Sequence[Image]) -> None:
        """These are open as well: measure the new ones, one after another."""
        self._open = images
        known = [self._known[id(image)] for image in images if id(image) in self._known]
        others = {found.key: found for found in known}
        if others != self.others:
            self.others = others
            self.others_changed.emit()
        new = next((image for image in images if id(image) not in self._tried), None)
        if new is not None and self._job is None:
            self._start(new, None)

    def _start(self, image: Image, key: str | None) -> None:
        job = Job(partial(measuring, image, key), parent=self, urgent=True)
        job.returned.connect(self._on_job_returned)
        job.failed.connect(partial(self._on_job_failed, image))
        job.ended.connect(partial(self._on_job_ended, job))
        self._tried[id(image)], self._job = image, job
        job.start()

    def _on_job_returned(self, found: LiveImage) -> None:
        assert found.image is not None
        if id(found.image) in self._tried:  # else it is of before `forget`
            self._known[id(found.image)] = found
        if found.image is self._wanted:
            self.measured.emit(found)

    def _on_job_failed(self, image: Image, sentence: str) -> None:
        """Others that cannot be read are left alone; nobody asked for them."""
        if image is self._wanted:
            self.failed.emit(sentence)

    def _on_job_ended(self, job: Job) -> None:
        job.deleteLater()
        if job is self._job:
            self._job = None
            self.look_around(self._open)
