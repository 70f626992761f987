"""The loop of live mode: strokes join it, what is in view is shown, and it comes to rest."""

import gc
from itertools import islice

import numpy as np
import pytest
import torch

from napari_unet.core.errors import TrainingError
from napari_unet.core.image import make_image
from napari_unet.core.live import batches as batches_module
from napari_unet.core.live import learner as learner_module
from napari_unet.core.live import living as living_module
from napari_unet.core.live import viewing as viewing_module
from napari_unet.core.live.images import live_image, painted_blocks
from napari_unet.core.live.inbox import AlsoOpen, Busy, Forget, GoBack, Inbox, Looking, Painted
from napari_unet.core.live.living import living
from napari_unet.core.live.settings import LiveSettings
from napari_unet.core.progress import FinishEarly

QUICK = LiveSettings(patch_size=32, batch_size=2, settle=12, learning_rate=3e-3)
ALL = (slice(0, 96), slice(0, 96))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(batches_module, "rehearsal_images", lambda model: [])
    monkeypatch.setattr("napari_unet.core.live.outcome.rehearsal_images", lambda model: [])
    monkeypatch.setattr(living_module, "TRAINING_TIME", 0.0)  # one step at a time
    monkeypatch.setattr(living_module, "IDLE_TIME", 0.0)


@pytest.fixture
def case():
    truth = np.zeros((96, 96), np.uint8)
    truth[4:40, 6:60] = truth[60:90, 30:80] = 1
    noise = np.random.default_rng(0).normal(0, 20, truth.shape)
    corrections = np.zeros_like(truth)
    corrections[8:11], corrections[70:73] = truth[8:11] + 1, truth[70:73] + 1
    image = live_image(make_image((900 - 600.0 * truth + noise).astype(np.float32)))
    return image, corrections


def ended(work):
    with pytest.raises(StopIteration) as end:
        work.throw(FinishEarly())
    return end.value.value


def stroke(case):
    image, corrections = case
    return Painted(image=image, blocks=painted_blocks(corrections))


def looking(case, window=ALL):
    return Looking(image=case[0], index=(), window=window)


def test_it_waits_for_strokes(tiny_model, case):
    inbox = Inbox()
    work = living(tiny_model, inbox, QUICK)
    progress = list(islice(work, 5))
    assert all(one.loss is None and one.seen is None for one in progress)
    assert progress[-1].message == "Waiting for strokes"
    outcome = ended(work)
    assert outcome.model is tiny_model
    assert outcome.n_steps == 0


def test_a_stroke_joins_and_the_view_follows(tiny_model, case):
    inbox = Inbox()
    work = living(tiny_model, inbox, QUICK)
    inbox.put(looking(case))
    first = [one.seen for one in islice(work, 3) if one.seen]
    assert [one.version for one in first] == [0]  # once, as nothing changes
    np.testing.assert_array_equal(first[0].window, ALL)
    inbox.put(stroke(case))
    progress = list(islice(work, 10))
    steps = [one.step for one in progress if one.seen]
    assert steps[0] == 1  # right after the first step
    assert min(np.diff(steps)) >= living_module.NEXT_LOOK
    assert progress[-1].n_corrected > 0
    shown = [one.seen for one in progress if one.seen]
    assert np.abs(shown[-1].outputs - first[0].outputs).max() > 1e-3
    assert shown[-1].outputs.shape == (2, 96, 96)
    outcome = ended(work)
    assert outcome.model.id != tiny_model.id
    assert outcome.n_steps == outcome.model.history[-1].settings["steps_done"]


def test_a_stroke_comes_before_the_rest_of_an_old_view(tiny_model, case, monkeypatch):
    monkeypatch.setattr(
        living_module, "pieces_of", lambda view, size: viewing_module.pieces_of(view, 32)
    )
    inbox = Inbox()
    work = living(tiny_model, inbox, QUICK)
    inbox.put(looking(case))
    next(work), next(work)
    assert next(work).seen is not None  # the first of nine pieces
    inbox.put(stroke(case))
    progress = list(islice(work, 12))
    assert progress[0].step == 1  # at once
    assert all(one.seen.version == 1 for one in progress[1:10])  # then all of the view


def test_it_comes_to_rest_then_shows_the_rest_and_wakes(tiny_model, case):
    inbox = Inbox()
    work = living(tiny_model, inbox, QUICK)
    inbox.put(stroke(case))
    inbox.put(looking(case, (slice(0, 30), slice(0, 30))))
    progress = list(islice(work, 60))
    assert progress[-1].is_settled
    assert progress[-1].step == QUICK.settle
    assert progress[-1].seen is None
    rest = [one.seen for one in progress if one.seen and not one.seen.is_view]
    assert [one.window for one in rest] == [ALL]
    assert rest[0].version == max(one.seen.version for one in progress if one.seen)
    assert len(progress[-1].states) == 2  # the model before, and where it came to rest
    image, corrections = case
    corrections[50:52] = 1
    inbox.put(Painted(image=image, blocks=painted_blocks(corrections)))
    assert max(one.step for one in islice(work, 5)) > QUICK.settle


def test_other_images_are_looked_at_last_and_only_if_they_can_be(tiny_model, case):
    others = [
        live_image(make_image(np.full(shape, 7, np.float32), axes))
        for shape, axes in (((2, 80, 90), "zyx"), ((3, 40, 40), "cyx"))
    ]
    inbox = Inbox()
    work = living(tiny_model, inbox, QUICK)
    inbox.put(looking(case, (slice(0, 30), slice(0, 30))))
    inbox.put(AlsoOpen(images=(case[0], *others)))
    progress = list(islice(work, 60))
    seen = [one.seen for one in progress if one.seen]
    mine, other = case[0].key, others[0].key
    assert [(one.key, one.index) for one in seen] == [
        (mine, ()), (mine, ()), (other, (0,)), (other, (1,))
    ]  # fmt: skip
    assert [one.is_view for one in seen] == [True, False, False, False]
    assert seen[-1].shape == (80, 90)
    assert progress[-1].message == "Waiting for strokes"  # nobody asked about the colours
    inbox.put(AlsoOpen(images=()))
    inbox.put(stroke(case))
    assert {one.seen.key for one in islice(work, 60) if one.seen} == {mine}


def test_it_pauses_while_the_mouse_is_pressed(tiny_model, case):
    inbox = Inbox()
    work = living(tiny_model, inbox, QUICK)
    inbox.put(stroke(case))
    inbox.put(looking(case))
    list(islice(work, 4))
    inbox.put(Busy(is_busy=True))
    paused = list(islice(work, 5))
    assert len({one.step for one in paused}) == 1
    assert not any(one.seen for one in paused)
    assert "Paused" in paused[0].message
    inbox.put(Busy(is_busy=False))
    assert list(islice(work, 4))[-1].step > paused[0].step


def test_another_view_is_shown_at_once(tiny_model, case):
    inbox = Inbox()
    work = living(tiny_model, inbox, QUICK)
    inbox.put(looking(case))
    list(islice(work, 4))
    inbox.put(looking(case, (slice(10, 30), slice(40, 60))))
    assert next(work).seen.outputs.shape == (2, 20, 20)
    inbox.put(Looking(image=None))
    assert not any(one.seen for one in islice(work, 3))
    inbox.put(looking(case))
    inbox.put(Forget(key=case[0].key))
    assert not any(one.seen for one in islice(work, 3))


def test_going_back(tiny_model, case):
    inbox = Inbox()
    work = living(tiny_model, inbox, QUICK)
    inbox.put(looking(case))
    first = next(one.seen for one in work if one.seen)
    inbox.put(stroke(case))
    list(islice(work, 6))
    inbox.put(GoBack(state=0))
    after = next(work)
    assert after.is_settled
    np.testing.assert_array_equal(after.seen.outputs, first.outputs)
    assert ended(work).best_step == 0


def test_a_failure_is_told_in_a_sentence(tiny_model, case, monkeypatch):
    def failing(self, batch):
        raise RuntimeError("the shapes do not fit\nand much more")

    monkeypatch.setattr(learner_module.Learner, "_learn", failing)
    inbox = Inbox()
    inbox.put(stroke(case))
    work = living(tiny_model, inbox, QUICK)
    with pytest.raises(TrainingError, match=r"\(the shapes do not fit\)"):
        list(islice(work, 5))


def test_strokes_that_do_not_fit_are_told_of_and_the_others_learned(tiny_model, case):
    inbox = Inbox()
    work = living(tiny_model, inbox, QUICK)
    image, corrections = case
    inbox.put(Painted(image=image, blocks=painted_blocks(corrections * 4)))
    list(islice(work, 3))
    assert "painted class (8)" in next(work).message
    inbox.put(stroke(case))
    progress = list(islice(work, 4))
    assert progress[-1].message == "Learning"
    assert progress[-1].step > 0


def test_an_image_that_does_not_fit_is_not_looked_at(tiny_model):
    inbox = Inbox()
    work = living(tiny_model, inbox, QUICK)
    image = live_image(make_image(np.zeros((2, 96, 96), np.float32), "cyx"))
    inbox.put(Looking(image=image, index=(), window=ALL))
    progress = list(islice(work, 4))
    assert "2 channels" in progress[-1].message
    assert not any(one.seen for one in progress)


def test_a_view_that_needs_too_much_memory_is_predicted_in_smaller_pieces(tiny_model, monkeypatch):
    outputs, sizes = living_module.Viewer.outputs, []

    def failing(self, network, view, device):
        sizes.append(view.window[1].stop - view.window[1].start)
        if sizes[-1] > 200:
            raise torch.OutOfMemoryError("out of memory")
        return outputs(self, network, view, device)

    monkeypatch.setattr(living_module.Viewer, "outputs", failing)
    image = live_image(make_image(np.random.default_rng(0).random((20, 700), np.float32)))
    inbox = Inbox()
    inbox.put(Looking(image=image, index=(), window=(slice(0, 20), slice(0, 700))))
    seen = [one.seen for one in islice(living(tiny_model, inbox, QUICK), 12) if one.seen]
    assert sizes[0] == 700
    assert max(sizes[-4:]) <= 192
    assert sum(one.outputs.shape[-1] for one in seen) == 700


def test_memory_stays_level(tiny_model, case):
    """Strokes come and go for a while: no list grows with time."""
    inbox = Inbox()
    work = living(tiny_model, inbox, QUICK)
    image, corrections = case

    def tensors():
        gc.collect()
        return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())

    counts = []
    for turn in range(12):
        corrections[20 + turn % 4, 10:40] = turn % 3
        inbox.put(Painted(image=image, blocks=painted_blocks(corrections)))
        inbox.put(looking(case, (slice(0, 20 + turn % 5), slice(0, 40))))
        list(islice(work, 6))
        counts.append(tensors())
    assert max(counts[8:]) <= max(counts[4:8]) + 5
