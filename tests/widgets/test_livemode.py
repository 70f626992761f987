"""Live mode in the U-Net Live dock: on and off, strokes, the view, keep, go back, and what if."""

import numpy as np
import pytest
from qtpy.QtCore import QEvent

from napari_unet.layers import stage_of
from napari_unet.widgets.live import LiveWidget


@pytest.fixture(autouse=True)
def small_patches(monkeypatch):
    """Patches of 32 px, and rest after a few steps."""
    from napari_unet.core.live import living

    settings = living.LiveSettings
    monkeypatch.setattr(
        living, "LiveSettings",
        lambda: settings(patch_size=32, batch_size=2, settle=12, memory=0.0),
    )  # fmt: skip


@pytest.fixture
def dim(squares):
    """Squares so dim that the tiny model finds none of them, but for one."""
    pixels = (squares * 0.3).astype(np.uint8)
    pixels[4:12, 4:12] = 200
    return pixels


@pytest.fixture
def live(dock, viewer, dim):
    viewer.add_image(dim, name="dim squares")
    return dock(LiveWidget)


@pytest.fixture
def stage(viewer):
    return stage_of(viewer)


@pytest.fixture
def on(live, session, stage, qtbot):
    """Live mode, with what the model from before makes of the view on stage."""
    live.livemode.switch.setChecked(True)
    assert session.lives.is_on, session.message
    qtbot.waitUntil(lambda: stage.trial.labels.any(), timeout=20_000)
    return live.livemode


@pytest.fixture
def paint(stage):
    """Paints a stroke as the brush does."""

    def paint(position, value):
        stage.corrections().layer.paint(position, value)

    return paint


@pytest.fixture
def learned(on, paint, session, qtbot):
    """Live mode that has learned from two strokes and rests."""
    paint((24, 24), 2)
    paint((16, 40), 1)
    qtbot.waitUntil(lambda: session.lives.n_steps >= 12, timeout=20_000)
    return on


def off(session):
    return lambda: not session.lives.is_on and not session.is_busy


def test_the_switch_says_why_it_is_disabled(live, viewer, session):
    assert live.livemode.switch.isEnabled()
    assert live.livemode.panel.isHidden()
    viewer.layers.clear()
    assert not live.livemode.switch.isEnabled()
    assert live.livemode.reason.text() == "Open an image first."


def test_it_opens_the_corrections_and_shows_the_view(on, stage, session):
    assert stage.corrections().in_hand == 1
    assert not on.panel.isHidden()
    assert set(np.unique(stage.trial.labels)) == {0, 1}  # the one bright square
    assert np.array_equal(stage.result.labels, stage.trial.labels)  # is what was before
    assert not stage.result.layer.visible
    assert stage.trial.layer.visible
    assert session.model.history == ()


def test_other_steps_say_that_it_runs(on, live):
    for button in (live.finetune.button, live.segment.button):
        assert not button.isEnabled()
        assert button.toolTip() == "Live mode is running."


def test_strokes_are_learned_from(learned, session, stage, qtbot):
    lives = session.lives
    assert lives.n_strokes == 2
    qtbot.waitUntil(lambda: lives.is_settled and lives.is_up_to_date, timeout=20_000)
    assert "Resting after 2 strokes · view up to date" in learned.doing.text()
    assert lives.curve[-1].step == lives.n_steps


def test_keep_makes_a_round_and_segments_anew(learned, session, stage, idle, click, qtbot):
    before = session.model
    click(learned.keep_button)
    qtbot.waitUntil(lambda: session.predictions.current is not None, timeout=20_000)
    idle(session)
    assert not session.lives.is_on
    assert session.model.history[-1].parent == before.id
    assert session.predictions.current.model is session.model
    assert [kept.round.id for kept in session.rounds] == [session.model.id]
    assert stage.trial is None
    assert stage.result.layer.visible


def test_go_back_brings_model_and_result_back(live, session, stage, idle, click, qtbot, paint):
    live.segment.segment()
    idle(session)
    labels, prediction = stage.result.labels.copy(), session.predictions.current
    before, n_layers = session.model, len(stage.viewer.layers)
    live.livemode.switch.setChecked(True)
    assert np.array_equal(stage.trial.labels, labels)
    paint((24, 24), 2)
    paint((16, 40), 1)
    qtbot.waitUntil(lambda: session.lives.n_steps >= 12, timeout=20_000)
    click(live.livemode.back_button)
    qtbot.waitUntil(off(session), timeout=20_000)
    assert session.model is before
    assert session.predictions.current is prediction
    assert stage.trial is None
    assert np.array_equal(stage.result.labels, labels)
    assert stage.result.layer.visible
    assert len(stage.viewer.layers) == n_layers + 1  # the corrections stay
    assert len(session.rounds) == 1  # and the round, for whoever thinks again


def test_each_state_can_be_returned_to(learned, session, click, idle, qtbot):
    lives = session.lives
    assert learned.states_line.isHidden() or len(lives.states) > 1
    qtbot.waitUntil(lambda: len(lives.states) == 2 and lives.is_settled, timeout=20_000)
    names = [learned.states.itemText(i) for i in range(learned.states.count())]
    assert names[0] == "the model from before"
    assert names[1].startswith("state 1 (step ")
    assert not learned.states_line.isHidden()
    before = session.model
    learned.states.activated.emit(0)
    assert session.message == ("info", "Back at the model from before. Paint on, or end with Keep.")
    qtbot.wait(300)
    assert lives.is_settled
    click(learned.keep_button)
    qtbot.waitUntil(off(session), timeout=20_000)
    idle(session)
    assert session.model.id == before.id  # its weights, not those that were learned


def test_the_switch_leaves_the_decision_to_the_user(learned, live, session, qtbot, idle):
    learned.switch.setChecked(False)
    qtbot.waitUntil(lambda: not session.lives.is_on and session.trial is not None, timeout=20_000)
    idle(session)
    assert not live.finetune.keep_button.isHidden()
    session.go_back()


def test_going_without_a_stroke_changes_nothing(on, session, stage, click, qtbot):
    before = session.model
    click(on.keep_button)
    qtbot.waitUntil(off(session), timeout=20_000)
    assert session.model is before
    assert session.rounds == ()
    assert "Nothing was learned" in session.message[1]
    assert stage.trial is None


def test_before_is_one_key_away(learned, session, stage, click):
    click(learned.before_button)
    assert stage.result.layer.visible
    assert not stage.trial.layer.visible
    learned._on_before_key()
    assert not learned.before_button.isChecked()
    assert stage.trial.layer.visible


@pytest.mark.parametrize("which", ["corrections", "result", "image"])
def test_a_removed_layer_ends_it_and_loses_nothing(learned, session, stage, qtbot, idle, which):
    layer = {
        "corrections": stage.corrections().layer, "result": stage.trial.layer,
        "image": stage.source,
    }[which]  # fmt: skip
    stage.viewer.layers.remove(layer)
    assert session.lives.is_leaving
    qtbot.waitUntil(lambda: not session.lives.is_on, timeout=20_000)
    idle(session)
    assert session.trial is not None
    assert len(session.rounds) == 1
    assert sum(session.saved.values()) > 0
    session.go_back()


def test_a_stroke_that_is_undone_is_taken_out(on, paint, session, stage, qtbot):
    paint((24, 24), 2)
    counts = []
    session.lives.heard.connect(lambda live: counts.append(live.n_corrected))
    qtbot.waitUntil(lambda: max(counts, default=0) > 0, timeout=20_000)
    stage.corrections().layer.undo()
    qtbot.waitUntil(lambda: counts[-1] == 0, timeout=20_000)


def test_an_error_leaves_everything_as_it_was(live, session, stage, qtbot, monkeypatch):
    from napari_unet.core.errors import TrainingError
    from napari_unet.core.live import living

    def broken(*args):
        raise TrainingError("The memory is full.")
        yield

    monkeypatch.setattr(living, "living", broken)
    live.livemode.switch.setChecked(True)
    qtbot.waitUntil(off(session), timeout=20_000)
    assert session.message == ("error", "The memory is full.")
    assert stage.trial is None
    assert not live.livemode.switch.isChecked()


def choose(session, stage, layer):
    stage.choose(layer)
    session.image_changed.emit()


@pytest.fixture
def other(viewer, dim):
    """Another image of the same kind, beneath the first one."""
    layer = viewer.add_image(dim.T[::-1].copy(), name="other")
    viewer.layers.move(len(viewer.layers) - 1, 0)
    return layer


def test_it_follows_to_another_image_and_back(
    learned, other, paint, session, stage, viewer, qtbot, idle, click
):
    lives, first, before = session.lives, stage.source, session.model
    mine = {
        "corrections": stage.corrections().layer, "result": stage.result, "trial": stage.trial
    }  # fmt: skip
    labels, n_steps = mine["trial"].labels.copy(), lives.n_steps
    choose(session, stage, other)
    assert lives.is_on
    assert session.message[1] == "Live mode goes on with other."
    assert stage.corrections().layer is viewer.layers.selection.active
    assert not mine["corrections"].visible
    assert not mine["trial"].layer.visible
    qtbot.waitUntil(lambda: stage.trial.labels.any(), timeout=20_000)
    shown = mine["trial"].labels
    assert np.array_equal(shown, labels)  # what is seen of the other is shown there
    paint((40, 24), 2)
    paint((20, 8), 1)
    qtbot.waitUntil(lambda: lives.n_steps > n_steps + 3, timeout=20_000)
    on_other = stage.trial
    choose(session, stage, first)
    assert stage.trial is mine["trial"]
    assert stage.result is mine["result"]
    assert mine["corrections"].visible
    assert not on_other.layer.visible
    paint((56, 8), 1)
    qtbot.waitUntil(lambda: lives.is_settled and lives.is_up_to_date, timeout=20_000)
    found = on_other.labels.copy()
    click(learned.keep_button)
    qtbot.waitUntil(off(session), timeout=20_000)
    idle(session)
    assert session.model.history[-1].parent == before.id
    kept = [layer for layer in viewer.layers if layer.name == "other segmentation"]
    assert np.array_equal(kept[0].data, found)
    assert not kept[0].visible
    assert on_other.layer not in viewer.layers
    assert len(session.saved) == 2


def test_go_back_takes_away_what_is_shown_of_both(
    learned, other, session, stage, viewer, qtbot, click
):
    choose(session, stage, other)
    qtbot.waitUntil(lambda: stage.trial.labels.any(), timeout=20_000)
    click(learned.back_button)
    qtbot.waitUntil(off(session), timeout=20_000)
    assert not [layer for layer in viewer.layers if "after" in layer.name]
    assert stage.trial is None
    assert stage.result.layer.visible
    assert stage.result.source is other


def test_an_image_that_cannot_be_used_ends_it_and_loses_nothing(
    learned, other, session, stage, qtbot, idle
):
    stage.choose(other, "yxx")
    session.image_changed.emit()
    assert session.message[1] == "Another image was chosen. Ending live mode."
    qtbot.waitUntil(lambda: not session.lives.is_on, timeout=20_000)
    idle(session)
    assert session.trial is not None
    session.go_back()


def test_an_image_without_room_for_its_result_ends_it_with_the_reason(
    learned, other, session, stage, qtbot, idle, monkeypatch
):
    def full(*args, **kwargs):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(stage, "target", full)
        choose(session, stage, other)
    assert session.message[1] == "There is no memory for the result. Ending live mode."
    qtbot.waitUntil(lambda: not session.lives.is_on, timeout=20_000)
    idle(session)
    assert len(session.rounds) == 1
    session.go_back()
    assert [layer for layer in stage.viewer.layers if "after" in layer.name] == []
    assert learned.switch.isEnabled()


def test_next_goes_to_another_image_that_is_in_doubt(
    on, other, session, stage, viewer, qtbot, click
):
    unsure = np.zeros_like(other.data)
    unsure[8:40, 8:40], unsure[50:60, 50:60] = 100, 200  # half of the range
    other.data = unsure
    channel = viewer.add_image(other.data + 1, name="a channel", blending="additive")
    lives = session.lives
    first = stage.source
    qtbot.waitUntil(lambda: len(lives._survey.others) == 1, timeout=20_000)
    for _ in range(60):
        click(on.next_button)
        qtbot.wait(100)
        if stage.source is not first:
            break
    assert stage.source is other
    assert "in doubt here, in other" in session.message[1]
    assert other.visible
    assert not first.visible
    assert channel.visible
    qtbot.waitUntil(lambda: stage.trial.labels.any(), timeout=20_000)


def test_a_worker_that_napari_ends_leaves_the_decision_to_the_user(learned, session, qtbot, idle):
    session._job._worker.quit()
    qtbot.waitUntil(lambda: session.trial is not None, timeout=20_000)
    idle(session)
    assert not session.lives.is_on
    assert len(session.rounds) == 1
    session.go_back()


def test_cancel_asks_what_to_do_with_what_was_learned(learned, session, qtbot, idle):
    session.cancel()
    qtbot.waitUntil(lambda: session.trial is not None, timeout=20_000)
    idle(session)
    session.go_back()


def test_it_follows_camera_and_sliders(dock, viewer, session, stage, dim, qtbot):
    viewer.add_image(np.stack([dim, dim, dim]), name="stack")
    live = dock(LiveWidget)
    live.livemode.switch.setChecked(True)
    viewer.dims.set_point(0, 2)
    first = (slice(4, 12), slice(4, 12))
    qtbot.waitUntil(lambda: bool(stage.trial.labels[(2, *first)].all()), timeout=20_000)
    qtbot.waitUntil(lambda: bool(stage.trial.labels[(0, *first)].all()), timeout=20_000)  # the rest
    assert len(np.unique(stage.trial.labels)) == 4  # each slice has an object of its own
    viewer.dims.set_point(0, 1)
    stage.corrections().layer.paint((1, 24, 24), 2)
    stage.corrections().layer.paint((1, 16, 40), 1)
    qtbot.waitUntil(lambda: session.lives.n_steps >= 12, timeout=20_000)


def test_strokes_of_other_images_of_the_project_count(
    live, session, stage, viewer, dim, qtbot, idle
):
    live.correct.start()
    stage.corrections().layer.paint((24, 24), 2)
    stage.corrections().layer.paint((16, 40), 1)
    idle(session)
    other = viewer.add_image(np.ascontiguousarray(dim[::-1]), name="other")
    viewer.layers.remove("dim squares")
    stage.choose(other)
    session.image_changed.emit()
    live.livemode.switch.setChecked(True)
    qtbot.waitUntil(lambda: session.lives.n_steps >= 12, timeout=20_000)  # without a stroke here
    session.lives.changed.emit()
    assert live.livemode.painted.text().startswith("0 px corrected in this image")


def test_two_viewers_learn_at_once(learned, session, dim, qtbot):
    from napari.components import ViewerModel

    from napari_unet.session import session_of

    second = ViewerModel()
    second.add_image(dim, name="second")
    widget = LiveWidget(second)
    qtbot.addWidget(widget)
    theirs = session_of(second)
    qtbot.waitUntil(lambda: theirs.model is not None and not theirs.is_busy, timeout=20_000)
    widget.livemode.switch.setChecked(True)
    stage_of(second).corrections().layer.paint((24, 24), 2)
    stage_of(second).corrections().layer.paint((16, 40), 1)
    qtbot.waitUntil(lambda: theirs.lives.n_steps >= 12, timeout=20_000)
    assert session.lives.is_on
    widget.livemode.back_button.click()
    qtbot.waitUntil(lambda: not theirs.lives.is_on and not theirs.is_busy, timeout=20_000)
    assert theirs.model.history == ()


def test_the_next_place_is_brought_into_view(learned, session, viewer, qtbot):
    getattr(viewer, "scene", viewer).camera.zoom = 1
    qtbot.waitUntil(lambda: session.lives.is_settled, timeout=20_000)
    session.lives.next_place()
    qtbot.waitUntil(lambda: "in doubt" in session.message[1], timeout=20_000)


def test_of_a_big_image_only_the_view_gets_a_layer(live, session, stage, monkeypatch, qtbot, click):
    monkeypatch.setattr("napari_unet.predictions.BIG", 1000)
    viewer = stage.viewer
    camera = getattr(viewer, "scene", viewer).camera
    camera.center, camera.zoom = (0, 16, 16), 20
    live.livemode.switch.setChecked(True)
    shown = session.lives.scene.target.layer
    qtbot.waitUntil(lambda: bool(shown.data.any()), timeout=20_000)
    assert stage.trial is None
    assert shown.data.shape != (64, 64)
    first = shown.data.shape
    top, left = (int(n) for n in shown.translate)
    assert shown.data[8 - top, 8 - left] > 0  # the bright square lies where it is
    camera.center = (0, 20, 8)
    qtbot.waitUntil(lambda: shown.data.shape != first or tuple(shown.translate) != (top, left))
    live.livemode._on_before_key()
    assert not shown.visible
    click(live.livemode.back_button)
    qtbot.waitUntil(off(session), timeout=20_000)
    assert shown not in viewer.layers


def test_a_closing_window_waits_until_what_was_learned_is_kept(learned, session, qtbot):
    session.eventFilter(None, QEvent(QEvent.Type.Close))
    assert len(session.project.round_paths()) == 1  # before anything else happens
    qtbot.waitUntil(lambda: session.trial is not None, timeout=20_000)  # had it not closed
    session.cancel()
    qtbot.waitUntil(lambda: not session.is_busy, timeout=20_000)
    session.go_back()


def test_its_keys_come_before_those_of_the_layer_while_it_is_on(learned, session, stage, qtbot):
    layer = stage.corrections().layer
    bound = {str(key): call for key, call in layer.keymap.items()}
    bound["B"](layer)
    assert session.lives.shows_before
    assert "N" in bound
    session.lives.leave(False)
    qtbot.waitUntil(off(session), timeout=20_000)
    assert not {"N", "B"} & {str(key) for key in layer.keymap}
    assert "A" in {str(key) for key in layer.keymap}  # the brushes stay


def test_the_foot_of_the_dock_shows_no_progress_of_what_has_no_end(on, live):
    assert live.status.bar.isHidden()
    assert live.status.cancel_button.isHidden()
