"""Live mode of one viewer: a model that learns while strokes are painted.

A part of the session. It tells the worker what is painted and looked at, hands on what the newest
weights say, and ends in Keep or Go back. It knows no layer: a `Scene` watches those.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer, Signal

from napari_unet.core.errors import UNetLiveError
from napari_unet.learning import Desk, Look, News, OnStage, learning
from napari_unet.scenes import Blocks, Point, Scene, View, is_enough, name_of
from napari_unet.survey import Survey

if TYPE_CHECKING:
    from napari_unet.core.live.images import LiveImage
    from napari_unet.core.live.states import State
    from napari_unet.rounds import Trial
    from napari_unet.session import Session

__all__ = ["LIVE", "Lives"]

LIVE = "Live mode"
"""What the session is busy with meanwhile."""
LOOK_MS = 100
"""The view is told when it has rested for so long."""
UNSURE_MS = 30
REDRAW_MS = 100
"""What was seen is drawn no more often than this."""
REST = 4
"""After drawing, the window has this many times as long for other things."""
PRESSED_MS = 3000
"""A mouse that has neither moved nor been released for so long is not painting."""
PATIENCE = 20
"""A closing window waits at most so many seconds for what was learned to be kept."""
MOST_POINTS = 4000
SOON = 2
"""After so many steps a stroke has been learned from; it came in the midst of the first."""
ROUTINE = ("Getting ready", "Waiting for strokes", "Learning", "Settled", "Paused while you paint")
"""What the worker says all the time; all else is said to the user, such as what went wrong."""


class Lives(QObject):
    """Live mode of one viewer: off, or on with the image on stage.

    Attributes
    ----------
    changed : emitted when it went on or off, a stroke came, or the state that is shown changed.
    moved : emitted when another image came on stage.
    progressed : emitted with `News` that are worth showing, a few times a second.
    heard : emitted with each `LiveProgress`.
    ended : emitted with whether what was learned was kept (None: the user has yet to decide).
    curve : `Point`s so far.
    n_strokes, n_steps : since it was switched on.
    is_up_to_date : whether the newest strokes have been learned from and the view shows it.
    message : what the worker does.
    states : what can be returned to, oldest first; the first is the model from before.
    shows_before : whether the result of the model from before is shown.
    """

    changed = Signal()
    moved = Signal()
    progressed = Signal(object)
    heard = Signal(object)
    ended = Signal(object)

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._session = session
        self.scene: Scene | None = None
        self._new_scene: Callable[[], Scene | None] | None = None
        self._survey = Survey(self)
        self._survey.measured.connect(self._on_measured)
        self._survey.failed.connect(self._on_measuring_failed)
        self._survey.others_changed.connect(self._on_others_changed)
        self._reset()
        self._look_clock = self._clock(LOOK_MS, self._tell_view)
        self._unsure_clock = self._clock(UNSURE_MS, self._tell_changes)
        self._pressed_clock = self._clock(PRESSED_MS, partial(self.press, False))
        self._draw_clock = self._clock(REDRAW_MS, self._redraw)
        for signal in (session.layers_changed, session.image_changed):
            signal.connect(self._check)
        session.job_changed.connect(self._on_session_job_changed)
        session.project_changed.connect(self._on_session_project_changed)

    def _clock(self, delay: int, call: Callable[[], object]) -> QTimer:
        clock = QTimer(self)
        clock.setSingleShot(True)
        clock.setInterval(delay)
        clock.timeout.connect(call)
        return clock

    def _reset(self) -> None:
        self._desk: Desk | None = None
        self._image: LiveImage | None = None
        self._keep: bool | None = None
        self._is_leaving = self._is_pressed = self._is_undrawn = self._is_moving = False
        self._reason = ""
        self._told_view: View | None = None
        self._looked_at: dict[tuple[str, tuple[int, ...]], tuple[tuple[slice, slice], ...]] = {}
        self._survey.forget()
        self.curve: list[Point] = []
        self.states: tuple[State, ...] = ()
        self.n_strokes = self.n_steps = self._due_step = 0
        self.is_settled, self.is_up_to_date, self.shows_before = True, False, False
        self.message = ""

    # ---- on and off

    @property
    def is_on(self) -> bool:
        """Whether live mode is on."""
        return self.scene is not None

    @property
    def is_leaving(self) -> bool:
        """Whether it was told to end and is about to."""
        return self._is_leaving

    def start(self, scene: Scene, new_scene: Callable[[], Scene | None] | None = None) -> bool:
        """Learn from now on; returns whether it was started.

        Parameters
        ----------
        scene : the image on stage.
        new_scene : makes that of another image, when one comes on stage; without it, live mode
            ends then.
        """
        from napari_unet.core.live.inbox import Inbox

        session = self._session
        model = session.model
        if model is None or self.is_on:
            return False
        session.journal.flush()
        desk = Desk(inbox=Inbox(), on_stage=_on_stage(scene))
        make_work = partial(learning, model, session.project, desk)
        if not session.is_busy:  # whoever hears of the job must find live mode on
            self._reset()
            self._desk, self.scene, self._new_scene = desk, scene, new_scene
        if not session.start(LIVE, make_work, self._on_returned, self._on_progressed, keeps=True):
            return False
        self._listen(scene)
        session.say("info", "Paint where it is wrong: the model learns from every stroke.")
        self.changed.emit()
        return True

    def _listen(self, scene: Scene) -> None:
        watching = scene.watching
        watching.on_painted, watching.on_unsure = self._on_painted, self._unsure_clock.start
        watching.on_looked, watching.on_pressed = self._look_clock.start, self.press
        scene.target.begin(scene.settings.what)
        if scene.before is not None:
            scene.before.begin(scene.settings.what)
        self._survey.measure(scene.image, scene.key)
        self._survey.look_around(watching.others())

    def _on_measured(self, image: LiveImage) -> None:
        if self.scene is not None and self.scene.image is image.image:
            self._image = image
            self._put_blocks(self.scene.watching.everything())
            self._tell_view()

    def _on_measuring_failed(self, sentence: str) -> None:
        self._session.say("error", sentence)
        self.leave(None)

    def _on_others_changed(self) -> None:
        from napari_unet.core.live.inbox import AlsoOpen

        self._put(AlsoOpen(images=tuple(self._survey.others.values())))

    def _move(self, why: str) -> str:
        """Go on with the image that was chosen now; nothing, or why that is not possible."""
        old, scene = self.scene, None
        if old is None or self._new_scene is None or not old.watching.has_moved:
            return why
        self._tell_changes()
        self._redraw()
        self.show_before(False)
        self._is_moving = True  # layers come and go meanwhile
        try:
            scene = self._new_scene()
        except (UNetLiveError, MemoryError) as error:
            why = str(error) or "There is no memory for the result."
        finally:
            self._is_moving = False
        if scene is None or self._desk is None:
            return why
        old.watching.stop()
        old.target.finished()
        self.scene, self._image, self._told_view = scene, None, None
        self._desk.on_stage = _on_stage(scene)
        self._put_nothing_in_view()
        self._listen(scene)
        self._session.say("info", f"Live mode goes on with {scene.image.name}.")
        self.moved.emit()
        self.changed.emit()
        return ""

    def leave(self, keep: bool | None, reason: str = "") -> None:
        """End live mode: keep what was learned, go back, or (None) let the user decide then."""
        if not self.is_on or self._is_leaving:
            return
        self._is_leaving, self._keep, self._reason = True, keep, reason
        self.show_before(False)
        self._session.finish_early()
        self._session.say("info", f"{reason} Ending live mode.".strip())
        self.changed.emit()

    def finish_now(self) -> None:
        """End it before the window closes: the worker keeps what it has learned as a round.

        NOTE: a closing viewer stops its workers; nobody would take the result any more.
        """
        desk = self._desk
        if desk is None or not self.is_on:
            return
        self.leave(None)
        end = time.monotonic() + PATIENCE
        while not desk.is_over and time.monotonic() < end:
            time.sleep(0.02)

    def _on_returned(self, trial: Trial) -> None:
        """The worker is done; what was learned is on the disk."""
        keep, session, reason = self._keep, self._session, self._reason
        self._clear()
        if trial.path is None:
            session.trial_settled.emit(False)
            session.say("info", f"{reason} Nothing was learned: the model is as before.".strip())
            keep = False
        elif keep is None:
            session.on_live_ended(trial)
            session.say(
                "info", f"{reason} Live mode is off. Keep what was learned, or go back?".strip()
            )
        else:
            session.settle_live(trial, keep)
        self.ended.emit(keep)
        self.changed.emit()

    def _on_session_job_changed(self) -> None:
        """A worker that failed or was cancelled leaves everything as it was before."""
        if self.is_on and not self._session.is_busy:
            self._clear()
            self._session.trial_settled.emit(False)
            self.ended.emit(False)
            self.changed.emit()

    def _clear(self) -> None:
        if self.scene is not None:
            self._redraw()
            self.scene.watching.stop()
            self.scene.target.finished()
        for clock in (
            self._look_clock, self._unsure_clock, self._pressed_clock, self._draw_clock
        ):  # fmt: skip
            clock.stop()
        self.scene = self._desk = self._image = self._new_scene = None
        self._survey.forget()
        self._is_leaving = False

    def _check(self) -> None:
        """Follow to another image; end it when what it is about is not there any more."""
        if self.scene is None or self._is_moving or self._is_leaving:
            return
        why = self.scene.watching.why_over()
        if why and (why := self._move(why)):
            self.leave(None, why)
        else:
            self._survey.look_around(self.scene.watching.others())

    def _on_session_project_changed(self) -> None:
        self.leave(None, "The project is another one now.")

    # ---- from the window to the worker

    def _put(self, message: Any) -> None:
        if self._desk is not None:
            self._desk.inbox.put(message)

    def _on_painted(self, blocks: Blocks) -> None:
        self._put_blocks(blocks)
        self.n_strokes += 1
        self.is_up_to_date, self._due_step = False, self.n_steps + SOON
        self.changed.emit()

    def _put_blocks(self, blocks: Blocks) -> None:
        """Tell of blocks; before the image is measured they wait: all of them are told then."""
        from napari_unet.core.live.images import PaintedBlock
        from napari_unet.core.live.inbox import Painted

        if self._image is None or not blocks:
            return
        painted = tuple(
            PaintedBlock(index=index, origin=(y, x), corrections=block)
            for (index, y, x), block in blocks.items()
        )
        self._put(Painted(image=self._image, blocks=painted))

    def _tell_changes(self) -> None:
        if self.scene is None or self._image is None:
            return
        changes = self.scene.watching.changes()
        if changes:
            self._on_painted(changes)

    def _tell_view(self) -> None:
        from napari_unet.core.live.inbox import Looking

        if self.scene is None or self._image is None:
            return
        view = self.scene.watching.view()
        if view == self._told_view and view is not None:
            return
        self._told_view = view
        if view is None:
            self._put_nothing_in_view()
        else:
            self._put(Looking(image=self._image, index=view[0], window=view[1]))

    def _put_nothing_in_view(self) -> None:
        from napari_unet.core.live.inbox import Looking

        self._put(Looking(image=None))

    def press(self, is_pressed: bool) -> None:
        """The mouse is pressed, or not any more: the worker rests meanwhile."""
        from napari_unet.core.live.inbox import Busy

        if is_pressed:
            self._pressed_clock.start()
        if is_pressed != self._is_pressed and self.is_on:
            self._is_pressed = is_pressed
            self._put(Busy(is_busy=is_pressed))

    # ---- from the worker to the window

    def _on_progressed(self, news: News) -> None:
        if self.scene is None or not isinstance(news, News):
            return
        if news.shown is not None and news.shown.key == self.scene.key:
            self._show(news.shown)
        if news.places is not None:
            self._go_to(news.places)
        live = news.live
        was = (self.message, self.is_up_to_date, self.is_settled, self.states)
        if live is not None and news.message not in (*ROUTINE, self.message):
            self._session.say("info", news.message)
        self.message = news.message
        if live is not None:
            self.heard.emit(live)
            self.n_steps, self.is_settled, self.states = live.step, live.is_settled, live.states
            if live.seen is not None and live.seen.is_view:
                learned = live.seen.n_steps >= self._due_step or live.is_settled
                self.is_up_to_date = learned and live.seen.n_steps > 0
            if live.loss is not None or live.score is not None:
                self._note(live)
                self.progressed.emit(news)
        if was != (self.message, self.is_up_to_date, self.is_settled, self.states):
            self.changed.emit()

    def _note(self, live: Any) -> None:
        self.curve.append(
            Point(
                step=live.step, loss=live.loss, score=live.score, n_strokes=self.n_strokes,
                n_corrected=dict(self._session.saved),
            )
        )  # fmt: skip
        if len(self.curve) > MOST_POINTS:  # an hour of painting must not fill the memory
            self.curve = [
                point for i, point in enumerate(self.curve) if i % 2 or point.score is not None
            ]

    def _show(self, shown: Any) -> None:
        assert self.scene is not None
        self.scene.target.write(shown)
        if shown.is_untrained and self.scene.before is not None:
            self.scene.before.write(shown)
        self._is_undrawn = True
        if not self._draw_clock.isActive():
            self._redraw()

    def _redraw(self) -> None:
        if not self._is_undrawn or self.scene is None:
            return
        self._is_undrawn = False
        start = time.monotonic()
        self.scene.target.redraw()
        took = 1000 * (time.monotonic() - start)
        self._draw_clock.start(max(REDRAW_MS, int(REST * took)))

    # ---- what the user asks for

    def show_before(self, before: bool) -> None:
        """Show the result of the model from before, or the newest one."""
        if self.scene is not None and before != self.shows_before:
            self.shows_before = before
            self.scene.watching.show_before(before)
            self.changed.emit()

    def go_back_to(self, state: State) -> None:
        """Return to a state of the weights; training rests until the next stroke."""
        from napari_unet.core.live.inbox import GoBack

        self._put(GoBack(state=state.number))
        self._session.say("info", f"Back at {name_of(state)}. Paint on, or end with Keep.")

    def next_place(self) -> None:
        """Go to where the model is most in doubt and nobody has looked yet."""
        if self.scene is None or self._desk is None:
            return
        keys = frozenset({self.scene.key, *self._survey.others})
        self._desk.questions.append(Look(keys=keys, looked_at=dict(self._looked_at)))

    def _go_to(self, places: tuple[Any, ...]) -> None:
        assert self.scene is not None
        others = self._survey.others
        open_now = {self.scene.key, *others}
        place = next((place for place in places if place.key in open_now), None)
        if place is None:
            self._session.say("info", "Nothing more is in doubt in what was looked at so far.")
            return
        at = place.key, place.index
        self._looked_at[at] = (*self._looked_at.get(at, ()), place.window)
        if place.key != self.scene.key:
            image = others[place.key].image
            assert image is not None
            self.scene.watching.choose(image)
            self._session.image_changed.emit()  # live mode follows
            if self.scene.key != place.key:
                return
        self.scene.watching.look_at(place.index, place.window)
        where = f", in {self.scene.image.name}" if len(open_now) > 1 else ""
        self._session.say(
            "info", f"The model is in doubt here{where} ({place.score:.0%} of the place)."
        )

    @property
    def verdict(self) -> str:
        """Whether more strokes help, in a sentence."""
        enough = is_enough(self.curve)
        if enough is None:
            return ""
        if enough:
            return "More strokes here hardly change anything: done?"
        return "More strokes help."


def _on_stage(scene: Scene) -> OnStage:
    return OnStage(key=scene.key, settings=scene.settings, labels=scene.watching.labels)
