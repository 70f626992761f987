"""The Fine-tune dock: when it can start, what it shows meanwhile, keep, go back, return."""

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_unet.core.settings import FineTuneSettings
from napari_unet.layers import stage_of
from napari_unet.widgets.finetune import FineTuneWidget
from napari_unet.widgets.live import LiveWidget


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """Patches of 32 px, and as many steps as the form says."""
    settings = FineTuneWidget.settings

    def smaller(self):
        chosen = settings(self)
        return FineTuneSettings(
            steps=chosen.steps, memory=chosen.memory, augmentation=chosen.augmentation,
            patch_size=32, batch_size=2,
        )  # fmt: skip

    monkeypatch.setattr(FineTuneWidget, "settings", smaller)


@pytest.fixture
def live(dock, viewer, squares):
    viewer.add_image(squares, name="squares")
    return dock(LiveWidget)


@pytest.fixture
def painted(live, viewer, session, idle):
    """A segmented image with strokes of both classes."""
    live.segment.segment()
    idle(session)
    live.correct.start()
    layer = stage_of(viewer).corrections().layer
    for position, value in (((8, 8), 2), ((24, 24), 2), ((1, 16), 1), ((16, 40), 1)):
        layer.paint(position, value)
    idle(session)
    live.finetune.steps.setValue(12)
    return live.finetune


@pytest.fixture
def trial(painted, session, idle, click):
    """The moment of the decision."""
    click(painted.button)
    idle(session)
    assert session.trial is not None, session.message
    return painted


def why_not(widget):
    assert not widget.button.isEnabled()
    assert not widget.reason.isHidden()
    assert widget.reason.text() == widget.button.toolTip()
    return widget.reason.text()


def test_the_button_says_why_it_is_disabled(dock, viewer, session, idle, squares):
    viewer.add_image(squares)
    widget = dock(FineTuneWidget)
    assert why_not(widget) == "Open a model first."
    session.open_first_model()
    assert why_not(widget) == "Opening the model is running."
    idle(session)
    assert why_not(widget) == "Paint a few corrections first."
    assert widget.summary.isHidden()


def test_strokes_make_the_button_ready(painted):
    assert painted.button.isEnabled()
    assert painted.reason.isHidden()
    assert painted.button.toolTip() == "Train a copy of the model on all corrections."
    assert "in 1 image." in painted.summary.text()


def test_corrections_of_earlier_days_are_enough(painted, viewer, session, idle, dock):
    viewer.layers.clear()
    idle(session)
    assert painted.button.isEnabled()
    assert "in 1 image." in painted.summary.text()


def test_while_training_there_are_curves_and_a_stop_button(
    painted, session, idle, click, qtbot, live
):
    painted.steps.setValue(100_000)
    assert painted.curves.isHidden()
    assert painted.stop_button.isHidden()
    click(painted.button)
    assert painted.button.isHidden()
    assert not painted.stop_button.isHidden()
    assert not painted.curves.isHidden()
    assert not painted.steps.isEnabled()
    qtbot.waitUntil(lambda: len(session.training_curve) > 5, timeout=10_000)

    def drawn():  # a few times a second at the most
        steps, losses = painted.curves._loss.getData()
        return steps is not None and len(steps) >= 4 and np.isfinite(losses).all()

    qtbot.waitUntil(drawn, timeout=10_000)
    click(painted.stop_button)
    idle(session)
    assert session.trial is not None
    assert painted.stop_button.isHidden()
    assert not painted.curves.isHidden()


def test_before_and_after_as_figures_and_as_a_layer(trial, viewer, session, qtbot):
    for part in (trial.comparison, trial.before_box, trial.keep_button, trial.back_button):
        assert not part.isHidden()
    assert trial.keep_button.isEnabled()
    assert trial.back_button.isEnabled()
    text = trial.comparison.text()
    assert "before" in text
    assert "after" in text
    scores = session.trial.after.history[-1].scores_after
    assert scores["memory"] > 0
    assert f"{scores['memory']:.0%}" in text
    before, after = viewer.layers["squares segmentation"], stage_of(viewer).trial.layer
    assert (before.visible, after.visible) == (False, True)
    trial.before_box.click()
    assert (before.visible, after.visible) == (True, False)
    trial.before_box.click()
    assert (before.visible, after.visible) == (False, True)
    assert why_not(trial) == "Decide on the trained model first: Keep or Go back."


def test_keep(trial, viewer, session, idle, click, live):
    after = session.trial.after
    shown = stage_of(viewer).trial.layer.data.copy()
    click(trial.keep_button)
    idle(session)
    assert session.model is after
    for part in (trial.comparison, trial.before_box, trial.keep_button, trial.back_button):
        assert part.isHidden()
    names = [layer.name for layer in viewer.layers]
    assert names == ["squares", "squares segmentation", "squares corrections"]
    np.testing.assert_array_equal(viewer.layers["squares segmentation"].data, shown)
    assert viewer.layers["squares segmentation"].visible
    assert "round 1" in live.model.words.text() + live.model.choice.currentText()
    live.segment.min_size.setValue(400)  # the knobs act on the new result
    idle(session)
    assert not viewer.layers["squares segmentation"].data.any()


def test_go_back(trial, viewer, session, idle, click):
    before = session.model
    shown = viewer.layers["squares segmentation"].data.copy()
    click(trial.back_button)
    idle(session)
    assert session.model is before
    names = [layer.name for layer in viewer.layers]
    assert names == ["squares", "squares segmentation", "squares corrections"]
    np.testing.assert_array_equal(viewer.layers["squares segmentation"].data, shown)
    assert viewer.layers["squares segmentation"].visible
    assert trial.button.isEnabled()
    assert trial.history.topLevelItemCount() == 1  # it can still be returned to


def rows(history):
    return [
        [history.topLevelItem(i).text(column) for column in range(4)]
        for i in range(history.topLevelItemCount())
    ]


def test_every_round_is_listed_and_one_click_returns_to_it(trial, session, idle, click):
    click(trial.keep_button)
    click(trial.button)
    idle(session)
    click(trial.keep_button)
    idle(session)
    first, second = rows(trial.history)
    assert first[:2] == ["1", "start"]
    assert second[:2] == ["2 ◀ in use", "1"]
    assert not trial.return_button.isEnabled()
    assert trial.return_button.toolTip() == "Choose a round in the list."
    trial.history.topLevelItem(0).setSelected(True)
    click(trial.return_button)
    idle(session)
    assert session.model.id == session.rounds[0].round.id
    assert [row[0] for row in rows(trial.history)] == ["1 ◀ in use", "2"]
    click(trial.button)  # and from there on
    idle(session)
    assert session.rounds[-1].round.parent == session.rounds[0].round.id


def test_a_round_whose_file_is_gone_leaves_a_sentence(trial, session, idle, click):
    click(trial.keep_button)
    idle(session)
    model = session.model
    session.rounds[0].path.unlink()
    trial.history.topLevelItem(0).setSelected(True)
    click(trial.return_button)
    idle(session)
    assert session.model is model
    assert session.message[0] == "error"
    assert "round-0001" in session.message[1]


def test_another_project_has_its_own_rounds(trial, session, idle, click, tmp_path, viewer):
    click(trial.keep_button)
    idle(session)
    assert not trial.history.isHidden()
    viewer.layers.clear()
    session.open_project(tmp_path / "other")
    assert trial.history.topLevelItemCount() == 0
    assert trial.history.isHidden()
    assert why_not(trial) == "Paint a few corrections first."


def test_the_form_says_what_is_trained(painted, session, idle, click):
    painted.steps.setValue(11)
    painted.augmentation.knobs["elastic_sigma"].setValue(3.5)
    painted.memory.setValue(0.25)
    settings = painted.settings()
    assert (settings.steps, settings.memory) == (11, 0.25)
    assert settings.augmentation.elastic_sigma == 3.5
    click(painted.button)
    idle(session)
    used = session.trial.after.history[-1].settings
    assert (used["steps"], used["memory"]) == (11, 0.25)
    assert used["augmentation"]["elastic_sigma"] == 3.5


def test_the_new_fine_tune_dock_shows_a_trial_that_is_under_way(trial, dock):
    again = dock(FineTuneWidget, "again")
    assert not again.keep_button.isHidden()
    assert again.comparison.text() == trial.comparison.text()
    assert rows(again.history) == rows(trial.history)


def test_a_trial_without_an_image_can_be_decided(painted, viewer, session, idle, click):
    viewer.layers.clear()
    idle(session)
    click(painted.button)
    idle(session)
    assert session.trial is not None
    assert painted.keep_button.isEnabled()
    click(painted.keep_button)
    assert session.trial is None


def test_opening_another_model_while_one_is_on_trial(
    trial, session, idle, click, live, make_tiny_model, tmp_path
):
    """Whoever opens a model has decided against the one on trial."""
    from napari_unet.core.model import save_model

    save_model(make_tiny_model("other"), tmp_path / "other.safetensors")
    live.model.open_file(str(tmp_path / "other.safetensors"))
    idle(session)
    assert session.trial is None
    assert trial.keep_button.isHidden()
    assert session.model.description.name == "other"
    assert "other" in session.message[1]
    assert "other" in live.model.words.text()
    assert trial.history.topLevelItemCount() == 1


def test_keys_of_the_keyboard_reach_the_buttons(painted, qtbot, session, idle):
    painted.button.setFocus()
    qtbot.keyClick(painted.button, Qt.Key.Key_Space)
    idle(session)
    assert session.trial is not None
