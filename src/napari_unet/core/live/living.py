"""Live mode as one piece of work: take what was painted, learn a little, look, again and again.

It knows no thread and no window: messages come through the inbox, and what it finds goes out
with its progress. It yields at least every fifth of a second, so that stopping is quick.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

from napari_unet.core.device import release_memory
from napari_unet.core.errors import TrainingError, UNetLiveError
from napari_unet.core.live.inbox import AlsoOpen, Busy, Forget, Inbox, Looking, Painted
from napari_unet.core.live.learner import Learner
from napari_unet.core.live.outcome import LiveOutcome, outcome_of
from napari_unet.core.live.settings import LiveSettings
from napari_unet.core.live.states import State
from napari_unet.core.live.viewing import PIECE_SIZE, Seen, View, Viewer, pieces_of, rest_of
from napari_unet.core.model import Model
from napari_unet.core.progress import FinishEarly, Work
from napari_unet.core.running import is_out_of_memory

if TYPE_CHECKING:
    from napari_unet.core.live.images import LiveImage
    from napari_unet.core.live.inbox import Message

__all__ = ["SCORE_EVERY", "LiveOutcome", "LiveProgress", "living"]

TRAINING_TIME = 0.1
"""Training goes on for so many seconds (and one step at least) before anything else gets a turn."""
IDLE_TIME = 0.02
LEAST_PIECE = 192
"""Edge of the smallest pieces that a view is predicted in, in px."""
LONG = 0.3
"""A piece that takes so many seconds is too large."""
MOST_OF_OTHERS = 2**24
"""So many px of each other image are looked at."""
NEXT_LOOK = 3
"""Steps from one look to the next at least; the first look comes after the first step."""
SCORE_EVERY = 25
"""Steps from one score to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveProgress:
    """What live mode is doing, and what is new.

    Attributes
    ----------
    done, total : steps since the last stroke, and after how many training rests.
    message : what is going on; or one sentence on what went wrong and what was done about it.
    step : training steps so far.
    loss : on painted pixels, of the newest step; None if none was done.
    score : mean IoU on held-out corrections, where it was just measured.
    temperature : how much too sure of itself the network is, for `uncertain`, where `score` was
        just measured; else None.
    n_corrected : corrected px that are trained on.
    is_settled : whether training rests until the next stroke.
    seen : what the newest weights say of a window, if there is something new.
    states : what can be returned to, oldest first.
    """

    done: int
    total: int
    message: str
    step: int
    loss: float | None = None
    score: float | None = None
    temperature: float | None = None
    n_corrected: int = 0
    is_settled: bool = False
    seen: Seen | None = None
    states: tuple[State, ...] = ()


class _Gaze:
    """What is in view, and which parts of it are to be predicted anew."""

    def __init__(self, dims: int) -> None:
        self.view: View | None = None
        self.is_busy = False
        self.piece_size = PIECE_SIZE if dims == 2 else LEAST_PIECE
        self._others: tuple[LiveImage, ...] = ()
        self._pending: Iterator[View] = iter(())
        self._rest: Iterator[View] = iter(())
        self._version = -1
        self._rest_version = -1

    def take(self, messages: list[Message]) -> None:
        """Look elsewhere, pause, or leave what was begun before a stroke."""
        for message in messages:
            if isinstance(message, Busy):
                self.is_busy = message.is_busy
            elif isinstance(message, Looking):
                self.view = None
                if message.image is not None and message.image.image is not None:
                    self.view = View(
                        image=message.image, index=message.index, window=message.window
                    )
                self._pending, self._version, self._rest_version = iter(()), -1, -1
            elif isinstance(message, AlsoOpen):
                self._others, self._rest_version = message.images, -1
            elif isinstance(message, Painted):
                self._pending = iter(())  # what is old by now would only delay the first step
            elif isinstance(message, Forget) and self._shows(message.key):
                self.view = None

    def _shows(self, key: str) -> bool:
        return self.view is not None and self.view.image.key == key

    def is_due(self, learner: Learner) -> bool:
        """Whether it is worth looking again: soon after a stroke, later less and less often."""
        if self.view is None:
            return False
        if self._version < 0 or learner.is_settled:
            return self._version != learner.version
        since, new = learner.steps_since, learner.version - self._version
        if since <= new:  # nothing was seen of the newest stroke yet
            return since > 0
        return new >= max(NEXT_LOOK, since // 4)

    def next(self, learner: Learner) -> View | None:
        """The next piece to predict, if any."""
        piece = next(self._pending, None)
        if piece is None and self.view is not None and self.is_due(learner):
            self._pending, self._version = pieces_of(self.view, self.piece_size), learner.version
            piece = next(self._pending, None)
        return piece

    def look_again(self, piece_size: int) -> None:
        """Begin anew with what is in view, in smaller pieces."""
        self.piece_size = max(LEAST_PIECE, piece_size)
        self._pending, self._version, self._rest_version = iter(()), -1, -1

    def took(self, seconds: float) -> None:
        """From the next look on, pieces are of a size that does not take long."""
        if seconds > LONG and self.piece_size > LEAST_PIECE:
            self.piece_size = max(LEAST_PIECE, self.piece_size // 2)
        elif seconds < LONG / 8 and self.piece_size < PIECE_SIZE:
            self.piece_size = min(PIECE_SIZE, 2 * self.piece_size)

    def next_of_rest(self, learner: Learner) -> View | None:
        """The next piece of the rest of the image, if any."""
        if self.view is None or self.view.image.image is None:
            return None
        if self._rest_version != learner.version:
            mine = rest_of(self.view, self.view.image.image, self.piece_size)
            self._rest = chain(mine, self._of_others())
            self._rest_version = learner.version
        piece = next(self._rest, None)
        while piece is not None and self.is_in_view(piece):
            piece = next(self._rest, None)
        return piece

    def is_in_view(self, piece: View) -> bool:
        """Whether a piece is a part of what is in view."""
        return (
            self.view is not None
            and self._shows(piece.image.key)
            and piece.index == self.view.index
            and _is_inside(piece.window, self.view.window)
        )

    def drop(self, image: LiveImage) -> None:
        """Look at an image no more: it cannot be read, or the model does not take it."""
        if self._shows(image.key):
            self.view = None
        self._others = tuple(one for one in self._others if one is not image)

    def _of_others(self) -> Iterator[View]:
        """As much of other images as tells whether they are in doubt."""
        for other in self._others:
            if other.image is None or self._shows(other.key):
                continue
            *leading, height, width = other.image.label_shape
            whole = (slice(0, height), slice(0, width))
            first = View(image=other, index=(0,) * len(leading), window=whole)
            n_pieces = MOST_OF_OTHERS // self.piece_size**2
            for piece in islice(rest_of(first, other.image, self.piece_size), n_pieces):
                if other not in self._others:  # it was dropped
                    break
                yield piece


def living(
    model: Model, inbox: Inbox, settings: LiveSettings | None = None
) -> Work[LiveProgress, LiveOutcome]:
    """Learn from what the inbox brings, and show what is in view, until `FinishEarly`.

    Parameters
    ----------
    model : where to start; it is not changed.
    inbox : messages from the window; whoever runs this work puts them there at any time.
    settings : None for the defaults.

    Raises
    ------
    TrainingError
        If the model cannot be trained, or training cannot go on. Nothing that was painted is lost.
    """
    try:
        return (yield from _live(model, inbox, settings or LiveSettings()))
    except UNetLiveError:
        raise
    except (RuntimeError, MemoryError) as error:  # NOTE: Qt's workers lose RuntimeErrors
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise TrainingError(
            f"Live mode stopped ({reason}). The model is unchanged, and all strokes are still "
            f"there. Choose smaller patches, or another device."
        ) from error
    finally:
        release_memory(model.device.torch_device)


def _live(model: Model, inbox: Inbox, settings: LiveSettings) -> Work[LiveProgress, LiveOutcome]:
    yield LiveProgress(done=0, total=settings.settle, message="Getting ready", step=0)
    started = time.monotonic()
    learner, viewer, gaze = Learner(model, settings), Viewer(model), _Gaze(model.config.dims)
    scored, has_rested = 0, True
    try:
        while True:
            messages = inbox.take()
            _taken(learner, messages)
            gaze.take(messages)
            loss = score = seen = None
            if gaze.is_busy:
                time.sleep(IDLE_TIME)
            elif (piece := gaze.next(learner)) is not None:
                seen = _seen(learner, viewer, piece, gaze)
            elif not learner.is_settled:
                loss, has_rested = _trained(learner, gaze), False
                if learner.n_steps - scored >= SCORE_EVERY:
                    score, scored = learner.score(), learner.n_steps
            elif not has_rested:
                score, has_rested = learner.rest(), True
            elif (piece := gaze.next_of_rest(learner)) is not None:
                seen = _seen(learner, viewer, piece, gaze)
            elif not learner.prepare():
                time.sleep(IDLE_TIME)
            heat = None if score is None else learner.temperature()
            yield _progress(learner, loss, score, heat, seen, gaze.is_busy)
    except FinishEarly:
        pass
    return outcome_of(learner, started)


def _trained(learner: Learner, gaze: _Gaze) -> float | None:
    """Learn for a tenth of a second, or until it is worth looking; the last loss."""
    end, loss = time.monotonic() + TRAINING_TIME, None
    while True:
        loss = learner.step()
        if loss is None or gaze.is_due(learner) or time.monotonic() >= end:
            return loss


def _taken(learner: Learner, messages: list[Message]) -> None:
    """Take in messages one by one: strokes that do not fit are told of, and the others learned."""
    for message in messages:
        try:
            learner.take([message])
        except UNetLiveError as error:
            learner.message = str(error)


def _seen(learner: Learner, viewer: Viewer, piece: View, gaze: _Gaze) -> Seen | None:
    """What the newest weights say of a piece; None if that failed, and something is done about it.

    An image that cannot be read, or that the model does not take, is not looked at any more.
    """
    start = time.monotonic()
    try:
        outputs = viewer.outputs(learner.network, piece, learner.device)
    except UNetLiveError as error:
        if gaze.is_in_view(piece):
            learner.message = str(error)
        gaze.drop(piece.image)
        return None
    except (RuntimeError, MemoryError) as error:
        viewer.forget()
        if not (is_out_of_memory(error) and gaze.piece_size > LEAST_PIECE):
            learner.make_do(error)
        release_memory(learner.device)
        gaze.look_again(gaze.piece_size // 2)
        return None
    gaze.took(time.monotonic() - start)
    return Seen(
        key=piece.image.key, index=piece.index, window=piece.window, outputs=outputs,
        version=learner.version, shape=_plane_of(piece.image), n_steps=learner.n_steps,
        is_view=gaze.is_in_view(piece),
    )  # fmt: skip


def _plane_of(image: LiveImage) -> tuple[int, int]:
    assert image.image is not None
    height, width = image.image.label_shape[-2:]
    return height, width


def _is_inside(window: tuple[slice, slice], outer: tuple[slice, slice]) -> bool:
    sides = zip(window, outer, strict=True)
    return all(whole.start <= part.start and part.stop <= whole.stop for part, whole in sides)


def _progress(
    learner: Learner, loss: float | None, score: float | None, heat: float | None,
    seen: Seen | None, is_busy: bool,
) -> LiveProgress:  # fmt: skip
    total = learner.settings.settle
    doing = "Waiting for strokes" if learner.paint.n_blocks == 0 else "Settled"
    if is_busy:
        doing = "Paused while you paint"
    elif not learner.is_settled:
        doing = "Learning"
    return LiveProgress(
        done=min(learner.steps_since, total), total=total, message=learner.message or doing,
        step=learner.n_steps, loss=loss, score=score, temperature=heat,
        n_corrected=learner.paint.n_trained, is_settled=learner.is_settled, seen=seen,
        states=learner.states,
    )  # fmt: skip
