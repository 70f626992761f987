"""Live mode for Python, as its documentation says."""

from dataclasses import replace

import numpy as np
import pytest

import napari_unet as nu
from napari_unet.core.errors import CorrectionsError, SettingsError
from napari_unet.core.live import batches as batches_module

QUICK = nu.LiveSettings(patch_size=32, batch_size=2, settle=30, learning_rate=5e-3)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(batches_module, "rehearsal_images", lambda model: [])


@pytest.fixture
def case():
    """Dark boxes on a bright ground, which the tiny model takes for the opposite."""
    truth = np.zeros((96, 128), np.uint8)
    truth[4:40, 6:60] = truth[60:90, 30:80] = truth[10:50, 80:120] = 1
    noise = np.random.default_rng(0).normal(0, 20, truth.shape)
    corrections = np.zeros_like(truth)
    corrections[8:11], corrections[70:73] = truth[8:11] + 1, truth[70:73] + 1
    return (900 - 600.0 * truth + noise).astype(np.float32), truth, corrections


def test_paint_learn_look(tiny_model, case):
    image, truth, corrections = case
    live = nu.LiveSession(tiny_model, QUICK)
    key = live.add_image(image)
    assert live.add_image(image) == key
    before = live.look(key)
    assert before.classes.shape == before.labels.shape == image.shape
    assert before.probabilities.shape == (2, *image.shape)
    wrong = (before.classes != truth).mean()
    live.paint(key, corrections)
    assert live.learn(steps=7) == 7
    assert live.learn() == 23  # until it has settled
    assert live.is_settled
    assert live.learn(seconds=60) == 0
    assert (live.look(key).classes != truth).mean() < wrong
    assert live.model.id != tiny_model.id
    assert len(live.model.history) == 1
    assert live.n_steps == 30
    same = nu.segment(image, live.model).classes == live.look(key).classes
    assert same.mean() > 0.97  # the one in 16 bits, the other not


def test_a_window_is_painted(tiny_model, case):
    image, _, corrections = case
    settings = replace(QUICK, held_out=0)
    sessions = [nu.LiveSession(tiny_model, settings) for _ in range(2)]
    keys = [live.add_image(image) for live in sessions]
    sessions[0].paint(keys[0], corrections)
    window = (slice(8, 11), slice(0, 128))
    sessions[1].paint(keys[1], corrections[70:73], (slice(70, 73), slice(None)))
    sessions[1].paint(keys[1], corrections[window], window)
    painted = [
        {
            value: len(places)
            for p in live._learner.paint.all()
            for value, places in p.places.items()
        }
        for live in sessions
    ]
    assert painted[0] == painted[1]
    sessions[1].paint(keys[1], np.zeros_like(corrections))  # all undone
    assert sessions[1].is_settled


def test_a_window_to_look_at(tiny_model, case):
    live = nu.LiveSession(tiny_model, QUICK)
    key = live.add_image(case[0])
    window = (slice(10, 30), slice(100, 128))
    part = live.look(key, window)
    np.testing.assert_allclose(
        part.outputs, live.look(key).outputs[(slice(None), *window)], atol=1e-3
    )
    assert part.window == window


def test_states(tiny_model, case):
    image, _, corrections = case
    live = nu.LiveSession(tiny_model, QUICK)
    key = live.add_image(image)
    live.paint(key, corrections)
    live.learn(steps=5)
    state = live.keep()
    there = live.model.id
    live.learn(steps=5)
    assert live.model.id != there
    live.go_back(state)
    assert live.model.id == there
    live.go_back(0)
    assert live.model.network is not tiny_model.network
    before = nu.LiveSession(tiny_model)
    before.add_image(image)
    np.testing.assert_array_equal(live.look(key).outputs, before.look(key).outputs)
    assert [one.number for one in live.states] == [0, 1]


def test_next_goes_to_another_place_each_time(tiny_model):
    stack = np.full((2, 64, 64), 100.0, np.float32)
    stack[:, :4, :4] = 1000
    stack[1, 32:, 32:] = 550  # just half-way: the tiny model cannot decide
    live = nu.LiveSession(tiny_model, QUICK)
    key = live.add_image(stack)
    place = live.next(key, size=32)
    assert (place.key, place.index, place.window) == (key, (1,), (slice(32, 64), slice(32, 64)))
    after = live.next(key, size=32)
    assert after is None or after.window != place.window or after.index != place.index
    assert live.look(place.key, place.window, place.index).classes.shape == (32, 32)


def test_what_does_not_fit(tiny_model, case):
    image, _, corrections = case
    live = nu.LiveSession(tiny_model, QUICK)
    key = live.add_image(image)
    with pytest.raises(CorrectionsError, match="shape"):
        live.paint(key, corrections[:50])
    with pytest.raises(CorrectionsError, match="value 6"):
        live.paint(key, corrections * 3)
    with pytest.raises(SettingsError, match="no image"):
        live.look("nowhere")
    with pytest.raises(SettingsError, match="index"):
        live.look(key, index=(1,))
    assert live.learn() == 0


def test_scores(tiny_model, case):
    image, truth, _ = case
    live = nu.LiveSession(tiny_model, QUICK)
    key = live.add_image(np.tile(image, (2, 2)))
    assert live.scores() == {"iou": None, "trend": ()}
    live.paint(key, np.tile(truth + 1, (2, 2)).astype(np.uint8))
    live.learn()
    scores = live.scores()
    assert 0 <= scores["iou"] <= 1
    assert scores["trend"][0][0] == 25
