"""Ctrl+C while a network is trained: the step ends first, so that no work is lost."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from types import FrameType

from napari_unet.core.model import Model
from napari_unet.core.progress import FinishEarly, Work
from napari_unet.core.training.progress import TrainProgress

__all__ = ["Stopped", "finish_or_stop"]


class Stopped(KeyboardInterrupt):
    """A run was stopped with Ctrl+C, and its folder holds all that is needed to go on.

    Attributes
    ----------
    step : the last one that is done.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}; the same call goes on")
        self.step = step


class _CtrlC:
    """The handler of SIGINT: the first waits for the end of a step, the second does not."""

    def __init__(self) -> None:
        self.asked = False
        self.waits = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not self.waits:
            raise KeyboardInterrupt
        self.asked = True


def finish_or_stop(
    work: Work[TrainProgress, Model],
    report: Callable[[TrainProgress], object] | None = None,
    *,
    is_kept: bool,
    end_early: Callable[[int], object] | None = None,
) -> Model:
    """Run a training to its end; Ctrl+C ends it after the step that is being done.

    Before the first step, and pressed a second time, Ctrl+C ends it at once. So it does in other
    threads than the main one, which no signal reaches.

    Parameters
    ----------
    work : from `training`.
    report : called with each progress.
    is_kept : whether the training has a folder. Then it is closed, which keeps its state;
        without one the best model so far is returned.
    end_early : called with the last step before the best model so far is returned.

    Raises
    ------
    Stopped
        After Ctrl+C, where there is a folder.
    KeyboardInterrupt
        After Ctrl+C before the first step, or pressed twice.
    """
    with closing(work), _deferred() as ctrl_c:
        try:
            while True:
                progress = next(work)
                ctrl_c.waits = progress.message.startswith("Training")
                if report is not None:
                    report(progress)
                if not ctrl_c.asked:
                    continue
                if is_kept:
                    work.close()  # which keeps the state
                    raise Stopped(progress.done)
                if progress.loss != progress.loss:  # before the first step
                    raise KeyboardInterrupt
                if end_early is not None:
                    end_early(progress.done)
                work.throw(FinishEarly())
        except StopIteration as end:
            model: Model = end.value
            return model


@contextmanager
def _deferred() -> Iterator[_CtrlC]:
    """SIGINT is only noted meanwhile, where that can be done."""
    ctrl_c, before = _CtrlC(), signal.getsignal(signal.SIGINT)
    try:
        if callable(before):  # else it is to be ignored
            signal.signal(signal.SIGINT, ctrl_c)
    except ValueError:  # another thread than the main one, which no signal reaches
        before = None
    try:
        yield ctrl_c
    finally:
        if callable(before):
            signal.signal(signal.SIGINT, before)
