"""Pictures of what training would see, made while somebody looks at them.

A part of the session; the work itself is in `previewing.py`. One piece of work runs at a time,
and what was asked for last wins.
"""

from __future__ import annotations

from functools import partial

from qtpy.QtCore import QObject, Signal

from napari_unet.jobs import Job
from napari_unet.previewing import PreviewRequest, Shown, Summary, previewing

__all__ = ["Previews"]

N_KEPT = 8
"""The intensities of so many images are remembered."""


class Previews(QObject):
    """Makes what is asked for, off the main thread.

    Attributes
    ----------
    made : emitted with who asked, and a `Shown`.
    failed : emitted with who asked, and a sentence.
    """

    made = Signal(object, object)
    failed = Signal(object, str)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._job: Job | None = None
        self._running: tuple[int, PreviewRequest] | None = None
        self._waiting: dict[int, PreviewRequest] = {}
        self._summaries: dict[str, Summary] = {}

    def ask(self, asker: int, request: PreviewRequest | None) -> None:
        """Make a preview; what the same one has asked for and waits for is dropped.

        One that is being made is finished if it shows the same image, so that something moves
        while a slider is dragged; else it is dropped, too.

        Parameters
        ----------
        asker : a number that tells apart who asks.
        request : None for nothing any more.
        """
        self._waiting.pop(asker, None)
        if request is not None:
            self._waiting[asker] = request
        if self._job is None:
            self._start_next()
        elif (
            self._running is not None
            and self._running[0] == asker
            and not _is_alike(request, self._running[1])
        ):
            self._job.stop()

    def is_busy(self, asker: int) -> bool:
        """Whether something that was asked for is still to come."""
        is_running = self._running is not None and self._running[0] == asker
        return asker in self._waiting or is_running

    def _start_next(self) -> None:
        if not self._waiting:
            return
        asker = next(iter(self._waiting))
        request = self._waiting.pop(asker)
        while len(self._summaries) > N_KEPT:
            del self._summaries[next(iter(self._summaries))]
        # Urgent, since training may keep all threads of the pool.
        job = Job(partial(previewing, request, self._summaries), parent=self, urgent=True)
        self._job, self._running = job, (asker, request)
        job.returned.connect(partial(self._on_returned, asker))
        job.failed.connect(partial(self._on_failed, asker))
        job.ended.connect(self._on_ended)
        job.start()

    def _on_returned(self, asker: int, shown: Shown) -> None:
        self._running = None
        self.made.emit(asker, shown)

    def _on_failed(self, asker: int, sentence: str) -> None:
        self._running = None
        self.failed.emit(asker, sentence)

    def _on_ended(self) -> None:
        job, self._job, self._running = self._job, None, None
        if job is not None:
            job.deleteLater()
        self._start_next()


def _is_alike(one: PreviewRequest | None, other: PreviewRequest) -> bool:
    return one is not None and one.image is other.image and one.model is other.model
