"""Runs a piece of `Work` on a Qt worker thread. The only file that starts one.

`Job` is what the rest of the plugin sees: progress, a result or an error sentence, and an end
that always comes. Beneath it is napari's own generator worker, so that napari's activity bar
and its question on closing the window know of the job.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Generator
from typing import Any

from napari.qt.threading import GeneratorWorker, create_worker
from qtpy.QtCore import QObject, QThreadPool, Signal

from napari_unet.core.errors import UNetLiveError
from napari_unet.core.progress import FinishEarly, Work

__all__ = ["Job"]


def _thread_pool() -> QThreadPool:
    pool = QThreadPool.globalInstance()
    assert pool is not None
    return pool


class _WorkError(Exception):
    """Stands in for whatever went wrong: a `RuntimeError` would be lost on its way."""


class _WorkRunner(GeneratorWorker):
    """A generator worker that closes its generator, in its own thread, whatever happens.

    NOTE: superqt's worker takes a `RuntimeError` (out of memory is one) for a closed window
    and then emits neither `errored` nor `finished`; and after `quit()` it leaves the generator
    to the garbage collector. It keeps the generator in the private `_gen`; a test guards that.
    """

    finish_requested = False
    finishes_on_quit = False

    def quit(self) -> None:
        """Stop; the work that has something to keep is asked for its result instead."""
        if self.finishes_on_quit:
            self.finish_requested = True
        else:
            super().quit()

    def work(self) -> Any:
        with contextlib.closing(self._gen):
            try:
                return self._drain()
            except StopIteration as end:
                return end.value
            except UNetLiveError:
                raise
            except FinishEarly:
                raise _WorkError(
                    "It was stopped before there was a result. Nothing was changed."
                ) from None
            except Exception as error:
                raise _WorkError(_sentence(error)) from error

    def _drain(self) -> Any:
        has_begun = False
        while not self.abort_requested:
            if self.finish_requested and has_begun:
                self.finish_requested = False
                self.yielded.emit(self._gen.throw(FinishEarly()))
            else:
                self.yielded.emit(next(self._gen))
                has_begun = True
        self.aborted.emit()
        return None


def _sentence(error: Exception) -> str:
    """An error nobody foresaw, in one sentence, with the place for a report."""
    where = traceback.extract_tb(error.__traceback__)
    place = f"{where[-1].name}, line {where[-1].lineno}" if where else "unknown place"
    text = str(error).strip().splitlines()
    said = text[0] if text else "no message"
    return (
        f"Something unforeseen went wrong ({type(error).__name__}: {said}; in {place}). "
        f"Nothing was changed. Please report this sentence."
    )


class Job(QObject):
    """A piece of work on a worker thread. Signals arrive on the main thread.

    Parameters
    ----------
    make_work : makes the work; called on the worker thread.
    urgent : get a thread of its own at once, even if all are taken by others.
    keeps : whether the work returns what it has so far when napari ends it: from its list of
        tasks, or because a window closed that it took for that of the work.

    Attributes
    ----------
    progressed : emitted with each value that the work yields.
    returned : emitted with the result, unless the job was stopped.
    failed : emitted with a sentence for the user, unless the job was stopped.
    ended : emitted last and always, once.
    """

    progressed = Signal(object)
    returned = Signal(object)
    failed = Signal(str)
    ended = Signal()

    def __init__(
        self,
        make_work: Callable[[], Work[Any, Any]],
        parent: QObject | None = None,
        urgent: bool = False,
        keeps: bool = False,
    ) -> None:
        super().__init__(parent)
        self.is_running = True
        self.is_stopped = False
        self._is_urgent = urgent
        self._worker = self._make_worker(make_work)
        self._worker.finishes_on_quit = keeps

    def start(self) -> None:
        """Hand the work to the thread pool; connect the signals before."""
        if self._is_urgent:
            _thread_pool().releaseThread()  # one more than the pool would allow, until the end
        self._worker.start()

    def stop(self) -> None:
        """Stop at the next yield and drop the result; `ended` still comes."""
        self.is_stopped = True
        self._worker.finishes_on_quit = False
        self._worker.quit()

    def finish_early(self) -> None:
        """Ask the work to return the best result so far at its next yield."""
        self._worker.finish_requested = True

    def _make_worker(self, make_work: Callable[[], Work[Any, Any]]) -> _WorkRunner:
        # NOTE: napari's list of tasks keeps each worker, and what its function refers to, for as
        # long as the window is open. So the work is handed over, and let go of when it begins.
        self._waiting = waiting = [make_work]

        def body() -> Generator[Any, None, Any]:
            return (yield from waiting.pop()())

        worker: _WorkRunner = create_worker(
            body, _start_thread=False, _worker_class=_WorkRunner, _ignore_errors=True
        )
        worker.yielded.connect(self._on_worker_yielded)
        worker.returned.connect(self._on_worker_returned)
        worker.errored.connect(self._on_worker_errored)
        worker.finished.connect(self._on_worker_finished)
        self.destroyed.connect(worker.quit)  # with the session of a closed viewer
        return worker

    def _on_worker_yielded(self, progress: object) -> None:
        if not self.is_stopped:
            self.progressed.emit(progress)

    def _on_worker_returned(self, result: object) -> None:
        if not self.is_stopped:
            self.returned.emit(result)

    def _on_worker_errored(self, error: Exception) -> None:
        if not self.is_stopped:
            self.failed.emit(str(error))

    def _on_worker_finished(self) -> None:
        self.is_running = False
        self._waiting.clear()
        if self._is_urgent:
            _thread_pool().reserveThread()
        self.ended.emit()
