"""The switch "Learn while I paint", and what it shows while it is on."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QSizePolicy, QVBoxLayout, QWidget
from superqt import QToggleSwitch
from superqt.utils import signals_blocked

from napari_unet.core.errors import UNetLiveError
from napari_unet.core.image import Image
from napari_unet.core.settings import SegmentSettings
from napari_unet.layers import ResultLayer
from napari_unet.layers.watching import Watcher
from napari_unet.layers.windows import WindowLayer
from napari_unet.scenes import Scene, name_of
from napari_unet.widgets.common import Step, segment
from napari_unet.widgets.livecurves import LiveCurves
from napari_unet.widgets.parts import Words, combo, give_reason, hint, primary, row

__all__ = ["LiveModeWidget"]

NEXT_KEY, BEFORE_KEY = "N", "B"
DRAW_S = 1.0
"""The curves are drawn no more often than this."""
NO_VERDICT = "Paint each class in several places: a part of that is held out to score on."
STATES_TIP = "Show what the model had learned then, and go on from there with the next stroke."
TIP = "The model learns from every stroke at once, and shows what it has learned where you look."


class LiveModeWidget(Step):
    """One switch; while it is on: what it does, whether it helps, and how to end it.

    Parameters
    ----------
    open_corrections : adds the layer to paint on.
    settings : how labels are to be made.
    """

    def __init__(
        self,
        napari_viewer: Any,
        open_corrections: Callable[[], object],
        settings: Callable[[], SegmentSettings] = SegmentSettings,
        alone: bool = True,
    ) -> None:
        super().__init__(napari_viewer, alone)
        self._open_corrections, self._settings = open_corrections, settings
        self._drawn_at = 0.0
        self.switch = QToggleSwitch("Learn while I paint")
        self.reason = hint()
        self.doing = Words()
        self.verdict = Words()
        self.curves = LiveCurves()
        self.painted = hint()
        self.next_button = QPushButton(f"Next uncertain place ({NEXT_KEY})")
        self.before_button = QPushButton(f"Before ({BEFORE_KEY})")
        self.before_button.setCheckable(True)
        self.states = combo()
        self.states.setPlaceholderText("a state from before")
        self.states_line = QWidget()
        self.keep_button = primary("Keep")
        self.back_button = QPushButton("Go back")
        self.back_button.setMinimumHeight(34)
        self.panel = QWidget()
        self._build()
        self._connect()
        self._refresh()

    def _build(self) -> None:
        font = self.switch.font()
        font.setBold(True)
        self.switch.setFont(font)
        self.form.addWidget(self.switch)
        self.form.addWidget(self.reason)
        inner = QVBoxLayout(self.panel)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.setSpacing(6)
        for part in (self.doing, self.verdict, self.curves, self.painted):
            inner.addWidget(part)
        choice = QVBoxLayout(self.states_line)
        choice.setContentsMargins(0, 0, 0, 0)
        row(choice, "Return to", self.states, tip=STATES_TIP)
        inner.addLayout(_beside(self.next_button, self.before_button))
        inner.addWidget(self.states_line)
        inner.addLayout(_beside(self.keep_button, self.back_button))
        self.panel.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.form.addWidget(self.panel)

    def _connect(self) -> None:
        session, lives = self.session, self.session.lives
        self.switch.toggled.connect(self._on_switch_toggled)
        self.next_button.clicked.connect(lives.next_place)
        self.before_button.toggled.connect(lives.show_before)
        self.states.activated.connect(self._on_states_activated)
        self.keep_button.clicked.connect(partial(lives.leave, True))
        self.back_button.clicked.connect(partial(lives.leave, False))
        lives.moved.connect(self._set_scene)
        lives.progressed.connect(self._on_lives_progressed)
        lives.ended.connect(self._on_lives_ended)
        for signal in (
            lives.changed, session.job_changed, session.model_changed, session.trial_changed,
            session.image_changed, session.layers_changed, session.corrections_changed,
        ):  # fmt: skip
            signal.connect(self._refresh)

    # ---- on and off

    def _on_switch_toggled(self, is_on: bool) -> None:
        if is_on:
            self.start()
        else:
            self.session.lives.leave(None)
        self._refresh()

    def start(self) -> bool:
        """Learn from now on; returns whether it was started."""
        if self.session.lives.is_on or self._why_not():
            return False
        try:
            scene = self._scene()
        except (UNetLiveError, MemoryError) as error:
            self.session.say("error", str(error) or "There is no memory for the result.")
            return False
        if scene is None:
            return False
        if not self.session.lives.start(scene, self._new_scene):
            scene.watching.stop()
            self.stage.settle_trial(False)
            return False
        self._set_scene()
        return True

    def _set_scene(self) -> None:
        """The brush paints on the image on stage, and the keys are those of live mode."""
        scene = self.session.lives.scene
        assert scene is not None
        keys = {NEXT_KEY: self._on_next_key, BEFORE_KEY: self._on_before_key}
        scene.watching.bind_keys(keys)
        self.stage.show_before(False)
        self.stage.activate_corrections()

    def _new_scene(self) -> Scene | None:
        """Another image was chosen, and live mode is to go on with it."""
        if self._why_no_image():
            return None
        self.stage.change_scene()
        return self._scene()

    def _scene(self) -> Scene | None:
        """What live mode will be about: the chosen image, and a layer for what is learned."""
        if self.stage.corrections() is None:
            self._open_corrections()
        stage, model = self.stage, self.session.model
        image, corrections = stage.image(), stage.corrections()
        if image is None or corrections is None or model is None or stage.source is None:
            return None
        settings = self._settings()
        target, before = self._layers(image, settings)
        return Scene(
            image=image, key=stage.key, settings=settings, target=target, before=before,
            watching=Watcher(stage, image, corrections, target),
        )  # fmt: skip

    def _layers(self, image: Image, settings: SegmentSettings) -> tuple[Any, ResultLayer | None]:
        """Where the newest result goes, and that of the model from before if it has none yet."""
        stage, model = self.stage, self.session.model
        assert model is not None and stage.source is not None
        if self._is_big(image):
            name = f"{stage.source.name} segmentation in view"
            return WindowLayer(stage.viewer, stage.source, image, name), None
        there = stage.result
        has_result = there is not None and there.fits(stage.source, image)
        before = None if has_result else stage.target(image)
        if before is not None:
            before.describe(model=model.title, model_id=model.id, settings=repr(settings))
        target = stage.target(image, on_trial=True)
        if has_result and there is not None:
            target.take_over(there)
        target.describe(model=f"{model.title}, live", model_id="", settings=repr(settings))
        return target, before

    def _is_big(self, image: Image) -> bool:
        """Whether a result of the size of the image would not fit into the memory."""
        key, settings = self.stage.key, self._settings()
        return self.session.predictions.folder_for(image, key, settings) is not None

    def _on_next_key(self) -> None:
        self.session.lives.next_place()

    def _on_before_key(self) -> None:
        self.session.lives.show_before(not self.session.lives.shows_before)

    def _on_states_activated(self, at: int) -> None:
        self.session.lives.go_back_to(self.session.lives.states[at])
        self.states.setCurrentIndex(-1)

    def _on_lives_ended(self, kept: bool | None) -> None:
        """After Keep the whole image is segmented as usual, by the model that was kept."""
        if kept and self.stage.source is not None and not self.session.is_busy:
            QTimer.singleShot(0, self._segment_again)

    def _segment_again(self) -> None:
        before = self.session.predictions.current

        def same_areas(image: Image) -> tuple[Any, ...]:
            if before is not None and before.image is image:
                return before.areas
            return self.stage.areas(image, "view") if self._is_big(image) else ()

        try:
            segment(self.session, self.stage, self._settings(), areas=same_areas)
        except UNetLiveError as error:
            self.session.say("error", str(error))

    # ---- show

    def _why_not(self) -> str:
        """Why it cannot be switched on; nothing if it can."""
        session = self.session
        if session.is_busy:
            return f"{session.busy} is running."
        if session.model is None:
            return "Open a model first."
        if session.trial is not None:
            return "Decide on the trained model first: Keep or Go back."
        return self._why_no_image()

    def _why_no_image(self) -> str:
        if self.stage.source is None:
            return "Open an image first."
        try:
            self.stage.image()
        except UNetLiveError as error:
            return str(error)
        return ""

    def _refresh(self) -> None:
        lives = self.session.lives
        reason = "" if lives.is_on else self._why_not()
        give_reason(self.switch, reason, TIP)
        with signals_blocked(self.switch):
            self.switch.setChecked(lives.is_on)
        self.reason.setText(reason or TIP)
        self.reason.setVisible(not lives.is_on)
        self.panel.setVisible(lives.is_on)
        if not lives.is_on:
            return
        ending = "Live mode is ending." if lives.is_leaving else ""
        for part, tip in (
            (self.switch, "End live mode; then keep what was learned, or go back."),
            (self.next_button, "Go to where the model is most in doubt."),
            (self.before_button, "Show the result of the model from before, or the newest one."),
            (self.states, STATES_TIP),
            (self.keep_button, "End live mode and go on with what was learned."),
            (self.back_button, "End live mode and stay with the model from before."),
        ):
            give_reason(part, ending, tip)
        with signals_blocked(self.before_button):
            self.before_button.setChecked(lives.shows_before)
        self.doing.setText(self._sentence())
        self.verdict.setText(lives.verdict or NO_VERDICT)
        self._show_states()
        self._show_painted()

    def _sentence(self) -> str:
        lives = self.session.lives
        if lives.is_leaving:
            return "Ending: the newest state is being kept as a round."
        n = lives.n_strokes
        strokes = f"{n} stroke{'' if n == 1 else 's'}"
        if not lives.n_steps:
            return f"{lives.message or 'Getting ready'}. Paint where it is wrong."
        view = "view up to date" if lives.is_up_to_date else "view follows"
        if lives.is_settled:
            return f"Resting after {strokes} · {view}. Paint where it is wrong."
        return f"Learning from {strokes} · {view}"

    def _show_states(self) -> None:
        names = [name_of(state) for state in self.session.lives.states]
        self.states_line.setVisible(len(names) > 1)
        if names == [self.states.itemText(i) for i in range(self.states.count())]:
            return  # an open list stays open
        with signals_blocked(self.states):
            self.states.clear()
            self.states.addItems(names)
            self.states.setCurrentIndex(-1)

    def _show_painted(self) -> None:
        saved = self.session.saved
        here, others = saved.get(self.stage.key, 0), sum(n > 0 for n in saved.values()) - 1
        rest = ""
        if others > 0:
            total = self.session.n_corrected
            rest = f" ({total:,} px in {others + 1} images of the project)"
        self.painted.setText(f"{here:,} px corrected in this image{rest}.")

    def _on_lives_progressed(self, _: Any) -> None:
        now = time.monotonic()
        if now - self._drawn_at > DRAW_S and self.isVisible():
            self._drawn_at = now
            self.curves.show_curve(self.session.lives.curve, self.stage.key)
            self._refresh()


def _beside(left: QWidget, right: QWidget) -> QHBoxLayout:
    """Two equally wide parts of a form."""
    line = QHBoxLayout()
    line.addWidget(left, 1)
    line.addWidget(right, 1)
    return line
