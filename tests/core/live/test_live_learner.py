"""The network in training: what it learns from, when it rests, and what happens if it fails."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_unet.core.device import Device
from napari_unet.core.errors import TrainingError
from napari_unet.core.image import make_image
from napari_unet.core.live import batches as batches_module
from napari_unet.core.live import learner as learner_module
from napari_unet.core.live.images import live_image, painted_blocks
from napari_unet.core.live.inbox import Forget, GoBack, Painted
from napari_unet.core.live.learner import Learner
from napari_unet.core.live.objective import BRAKE, LIGHTLY, MOST_DIVERGENCE, PULL, loss_of
from napari_unet.core.live.outcome import outcome_of
from napari_unet.core.live.scores import Exam
from napari_unet.core.live.settings import LiveSettings
from napari_unet.core.live.states import States
from napari_unet.core.losses import output_probabilities
from napari_unet.core.model import weights_id
from napari_unet.core.rehearsal import rehearsal_images

QUICK = LiveSettings(patch_size=32, batch_size=2, settle=8, held_out=0, learning_rate=5e-3)


@pytest.fixture(autouse=True)
def small_rehearsal(monkeypatch):
    """Pieces of the pictures to remember by, to save time."""

    def small(model):
        return [picture[:, 100:164, 100:164].clone() for picture in rehearsal_images(model)[:1]]

    monkeypatch.setattr(batches_module, "rehearsal_images", small)


def inverted_case(size=96):
    """Dark boxes on a bright ground, which the tiny model takes for the opposite; truth; image."""
    truth = np.zeros((size, size), np.uint8)
    for y in range(4, size - 16, 24):
        truth[y : y + 14, 6:30] = truth[y : y + 14, 50:80] = 1
    noise = np.random.default_rng(0).normal(0, 20, truth.shape)
    return (900 - 600.0 * truth + noise).astype(np.float32), truth


def painted(truth, rows=(8, 11), image=None):
    corrections = np.zeros_like(truth)
    for y in rows:
        corrections[y : y + 3] = truth[y : y + 3] + 1
    return corrections


def message(image, corrections):
    live = live_image(make_image(image))
    return Painted(image=live, blocks=painted_blocks(corrections))


def taught(model, settings=QUICK, **options):
    learner = Learner(model, settings)
    image, truth = inverted_case()
    learner.take([message(image, painted(truth, **options))])
    return learner


def steps_of(learner, n):
    return [learner.step() for _ in range(n)]


def test_without_strokes_there_is_nothing_to_learn(tiny_model):
    learner = Learner(tiny_model, QUICK)
    assert learner.is_settled
    assert learner.step() is None
    assert (learner.n_steps, learner.score()) == (0, None)
    assert weights_id(learner.network) == tiny_model.id


def test_it_learns_and_comes_to_rest(tiny_model):
    learner = taught(tiny_model, replace(QUICK, settle=60))
    losses = steps_of(learner, 60)
    assert np.mean(losses[-9:]) < 0.8 * np.mean(losses[:9])
    learner = taught(tiny_model)
    losses = steps_of(learner, QUICK.settle)
    assert all(np.isfinite(losses))
    assert learner.is_settled
    before = weights_id(learner.network)
    assert steps_of(learner, 5) == [None] * 5
    assert weights_id(learner.network) == before


def test_the_model_is_not_changed_and_batch_statistics_stay(make_tiny_model):
    model = make_tiny_model()
    network = torch.nn.Sequential(copy.deepcopy(model.network), torch.nn.BatchNorm2d(2)).eval()
    before = copy.deepcopy(network.state_dict())
    learner = taught(model)
    learner._network = network.requires_grad_(True)
    learner._shown = copy.deepcopy(network)
    learner._optimizer = torch.optim.AdamW(network.parameters())
    steps_of(learner, 2)
    after = learner._network.state_dict()
    assert torch.equal(after["1.running_mean"], before["1.running_mean"])
    assert torch.equal(after["1.running_var"], before["1.running_var"])
    assert weights_id(model.network) == model.id


def test_the_seed_decides(tiny_model):
    ids = []
    for seed in (0, 0, 1):
        settings = LiveSettings(patch_size=32, batch_size=2, settle=8, seed=seed)
        learner = taught(tiny_model, settings)
        steps_of(learner, 3)
        ids.append(weights_id(learner.network))
    assert ids[0] == ids[1] != ids[2]


def test_a_stroke_wakes_it_and_an_undo_does(tiny_model):
    learner = taught(tiny_model)
    steps_of(learner, QUICK.settle)
    image, truth = inverted_case()
    assert learner.take([message(image, painted(truth, rows=(8, 11, 32)))])
    assert not learner.is_settled
    assert learner.steps_since == 0
    assert learner.step() is not None
    (block,) = painted_blocks(painted(truth))
    live = live_image(make_image(image))
    block.corrections[...] = 0
    learner.take([Painted(image=live, blocks=(block,))])
    assert learner.is_settled  # nothing is painted any more
    assert learner.step() is None


def test_strokes_stay_when_their_image_goes_unless_they_are_to_go_too(tiny_model):
    learner = taught(tiny_model)
    image, _ = inverted_case()
    key = live_image(make_image(image)).key
    assert not learner.take([Forget(key=key)])
    assert learner.paint.n_blocks == 1
    assert learner.take([Forget(key=key, strokes=True)])
    assert learner.paint.n_blocks == 0


def test_untouched_pixels_hold_to_what_was_shown_before_the_newest_stroke(tiny_model, monkeypatch):
    asked = []

    def answer_on(network, image, about):
        asked.append((network, len(image)))
        return real(network, image, about)

    real = learner_module.answer_on
    monkeypatch.setattr(learner_module, "answer_on", answer_on)
    learner = taught(tiny_model, replace(QUICK, memory=0.5, settle=40))
    learner.step()
    assert asked == []  # the first step shows soon
    steps_of(learner, 9)
    assert {(network, n) for network, n in asked} == {(learner._before, 1)}
    assert weights_id(learner._before) == tiny_model.id
    shown = weights_id(learner.network)
    image, truth = inverted_case()
    learner.take([message(image, painted(truth, rows=(8, 11, 34)))])
    steps_of(learner, 3)
    assert weights_id(learner._before) == shown
    assert weights_id(learner.network) != shown
    assert weights_id(learner.old) == tiny_model.id


def test_the_first_steps_show_the_newest_stroke_for_certain(tiny_model, monkeypatch):
    """Even if all strokes are replayed alike."""
    image, truth = inverted_case(600)
    learner = Learner(tiny_model, replace(QUICK, batch_size=1, replay=1.0, memory=0.0))
    rows = (8, 40, 72, 104, 136)
    learner.take([message(image, painted(truth, rows=rows))])
    learner.take([message(image, painted(truth, rows=(*rows, 580)))])
    drawn: list[list[int]] = []

    def cut(piece, center, shape):
        drawn[-1].append(round(float(center[0])) + piece.start[0])
        return real(piece, center, shape)

    real = batches_module.cut
    monkeypatch.setattr(batches_module, "cut", cut)
    for since in range(60):
        drawn.append([])
        learner._batches.draw(since, since, learner.old, learner.device)
    shows_newest = [any(row > 500 for row in rows) for rows in drawn]
    assert all(shows_newest[: batches_module.FOCUS])
    assert not all(shows_newest[batches_module.FOCUS :])


def test_the_very_first_step_is_half_as_long(tiny_model):
    learner = taught(tiny_model, replace(QUICK, memory=0.0))
    rates = []
    for _ in range(2):
        learner.step()
        rates.append(learner._optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(QUICK.learning_rate / 2)
    assert rates[1] > rates[0]


def test_what_is_shown_moves_on_without_a_jump_once_some_was_learned(tiny_model):
    learner = taught(tiny_model, replace(QUICK, memory=0.0, settle=60))

    def share():
        """How much of the way to the newest weights was made by a step."""
        before = [value.clone() for value in learner.network.parameters()]
        learner.step()
        after, newest = learner.network.parameters(), learner._network.parameters()
        way = [(a - b, n - b) for a, b, n in zip(after, before, newest, strict=True)]
        moved, all_of_it = (torch.cat([x.flatten() for x in one]) for one in zip(*way, strict=True))
        return ((moved @ all_of_it) / (all_of_it @ all_of_it)).item()

    assert share() == pytest.approx(1.0, abs=1e-3)  # the very first step shows at once
    steps_of(learner, 20)
    image, truth = inverted_case()
    learner.take([message(image, painted(truth, rows=(8, 11, 34)))])
    assert share() == pytest.approx(learner_module.AT_ONCE, abs=1e-3)


def test_untouched_pixels_hold_to_the_old_answer(tiny_model):
    """The more memory, the closer the answer stays where nobody painted."""
    image, truth = inverted_case()
    only_objects = np.where(painted(truth) == 2, 2, 0).astype(np.uint8)
    moved = []
    for memory in (0.0, 1.0):
        settings = LiveSettings(
            patch_size=32, batch_size=2, settle=40, held_out=0, learning_rate=5e-3, memory=memory
        )
        learner = Learner(tiny_model, settings)
        learner.take([message(image, only_objects)])
        steps_of(learner, 40)
        picture = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            old = tiny_model.network(picture).softmax(dim=1)
            moved.append((learner.network(picture).softmax(dim=1) - old).abs().mean().item())
    assert moved[1] < 0.9 * moved[0]


def test_held_out_pixels_have_no_gradient():
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    target = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    target[0, 0], target[0, 1] = 1, 254
    about = type("About", (), {"output_class": (0, 1), "outcome": "softmax"})
    answer = torch.full((1, 2, 4, 4), 0.5)
    answer[:, 0] = 0.9
    painted, held = loss_of(logits, target, answer, torch.tensor([False]), about, 0.5)
    (painted + held).backward()
    moved = logits.grad.abs().sum(dim=1)[0]
    assert (moved[0] > 0).all()
    assert (moved[1] == 0).all()
    assert (moved[2:] > 0).all()


@pytest.mark.parametrize(("outcome", "n"), [("softmax", 3), ("sigmoid", 1), ("inverted", 2)])
def test_the_pull_is_nothing_at_the_old_answer_and_bounded(outcome, n):
    generator = torch.Generator().manual_seed(0)
    logits = 30 * torch.randn(1, n, 8, 8, generator=generator)  # sure of all it says
    target = torch.full((1, 8, 8), 255, dtype=torch.uint8)
    about = type("About", (), {"output_class": tuple(range(1, n + 1)), "outcome": outcome})
    if outcome == "softmax":
        about.output_class = tuple(range(n))
    old = output_probabilities(logits, outcome)

    def pull(now):
        return loss_of(now, target, old, torch.tensor([False]), about, 1.0)[1].item()

    lightly = loss_of(-logits, target, old, torch.tensor([False]), about, 1.0, lightly=True)[1]
    assert lightly.item() == pytest.approx(LIGHTLY * pull(-logits))
    assert pull(logits) == pytest.approx(0, abs=0.02 * PULL)
    assert pull(0.02 * logits) > 3 * pull(logits)
    assert pull(0.02 * logits) < pull(-logits) <= PULL * (1 + BRAKE * MOST_DIVERGENCE)


# --- states


def test_states_can_be_returned_to(tiny_model):
    learner = taught(tiny_model)
    steps_of(learner, 3)
    state = learner.keep()
    there = weights_id(learner.network)
    steps_of(learner, 3)
    assert weights_id(learner.network) != there
    learner.take([GoBack(state=state.number)])
    assert weights_id(learner.network) == there
    assert (learner.weights_step, learner.n_steps) == (3, 6)
    assert learner.is_settled  # it stays there until the next stroke
    learner.go_back(0)
    assert weights_id(learner.network) == tiny_model.id
    with pytest.raises(TrainingError, match="0, 1"):
        learner.go_back(7)


def test_a_chosen_state_stays_even_if_another_one_scores_better(tiny_model, monkeypatch):
    learner = taught(tiny_model)
    scores = iter((0.9, 0.2, 0.2, 0.2, 0.2))
    monkeypatch.setattr(Exam, "score", lambda *_: next(scores))
    steps_of(learner, 2)
    learner.score()
    learner.go_back(0)
    learner.prefer_best()
    assert weights_id(learner.network) == tiny_model.id


def test_states_take_bounded_memory():
    states = States()
    for step in range(60):
        states.keep({"a": torch.full((3,), float(step))}, step=step, score=None, n=step)
    listed = states.listed()
    assert len(listed) <= 24
    assert listed[0].number == 0  # the first one is never lost
    assert listed[-1].number == 59
    assert states.weights(59)["a"][0] == 59
    assert states.weights(5) is None


class Scripted:
    """An exam whose scores are known beforehand."""

    def __init__(self, *scores):
        self.scores = iter(scores)

    def score(self, network, device):
        return next(self.scores)


def test_the_best_state_since_the_last_stroke_is_kept(tiny_model):
    learner = taught(tiny_model)
    steps_of(learner, 2)
    learner._standing._exam = Scripted(0.9, 0.5)
    assert learner.score() == 0.9
    best = weights_id(learner.network)
    steps_of(learner, 2)
    assert weights_id(learner.network) != best
    assert learner.rest() == 0.9
    assert weights_id(learner.network) == best
    assert learner.weights_step == 2
    assert learner.states[-1].score == 0.9


@pytest.mark.parametrize(("again", "is_kept"), [(0.55, True), (0.7, False)])
def test_a_state_that_has_not_seen_the_newest_stroke_must_be_much_better(
    tiny_model, again, is_kept
):
    learner = taught(tiny_model)
    steps_of(learner, 2)
    learner._standing._exam = Scripted(0.9)
    learner.score()
    before = weights_id(learner.network)
    image, truth = inverted_case()
    learner.take([message(image, painted(truth, rows=(8, 11, 32)))])
    steps_of(learner, 2)
    newest = weights_id(learner.network)
    learner._standing._examined = lambda: Scripted(again, 0.5)  # the old one sits it again
    learner.rest()
    assert weights_id(learner.network) == (newest if is_kept else before)


# --- when something goes wrong


def test_memory_runs_out(tiny_model, monkeypatch):
    learner = taught(tiny_model, LiveSettings(patch_size=64, batch_size=2, settle=8))
    learn, asked = learner._learn, []

    def failing(batch):
        asked.append(batch.image.shape[-1])
        if batch.image.shape[-1] > 32:
            raise torch.OutOfMemoryError("out of memory")
        return learn(batch)

    monkeypatch.setattr(learner, "_learn", failing)
    assert learner.step() is None
    assert "patches of 32 px" in learner.message
    assert learner.step() is not None
    assert asked == [64, 32]


def test_an_error_that_nothing_helps_against_is_raised(tiny_model, monkeypatch):
    learner = taught(tiny_model)

    def failing(batch):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(learner, "_learn", failing)
    with pytest.raises(RuntimeError, match="shapes"):
        learner.step()


def test_the_device_is_lost(tiny_model, monkeypatch):
    learner = taught(tiny_model)
    steps_of(learner, 2)
    state = learner.keep()
    there = weights_id(learner.network)
    learner._spare = copy.deepcopy(tiny_model.network)
    steps_of(learner, 2)
    learn = learner._learn

    def failing(batch):
        if learner.device.type != "cpu":
            raise RuntimeError("CUDA error: the launch failed\nand more")
        return learn(batch)

    monkeypatch.setattr(learner, "_learn", failing)
    learner.device = torch.device("meta")
    assert learner.step() is None
    assert "CUDA error: the launch failed" in learner.message
    assert "processor" in learner.message
    assert learner.device.type == "cpu"
    assert (weights_id(learner.network), learner.weights_step) == (there, state.step)
    assert learner.step() is not None


def test_what_was_learned_outlives_the_device(tiny_model):
    lost = replace(tiny_model, device=Device(name="meta", label="", reason=""))
    learner = taught(lost)
    while learner.n_steps < 2:
        learner.step()
    outcome = outcome_of(learner, 0.0)
    assert outcome.after["memory"] > 0
    assert outcome.model.device.name == "cpu"
    assert all(weights.device.type == "cpu" for weights in outcome.model.network.parameters())


def test_a_loss_that_is_no_number(tiny_model):
    learner = taught(tiny_model)
    steps_of(learner, 2)
    learner.keep()
    good = weights_id(learner.network)
    with torch.no_grad():
        next(learner._network.parameters()).fill_(float("nan"))
    assert learner.step() is None
    assert "no number" in learner.message
    assert weights_id(learner.network) == good
    assert learner.step() is not None
    for _ in range(2):
        with torch.no_grad():
            next(learner._network.parameters()).fill_(float("nan"))
        learner.step()
    with torch.no_grad():
        next(learner._network.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="again and again"):
        learner.step()


def test_a_program_cannot_be_trained(tiny_model):
    from napari_unet.core.checkpoints.native import PROGRAM

    with pytest.raises(TrainingError, match="is a program"):
        Learner(replace(tiny_model, architecture=PROGRAM))


# --- what is left behind


def test_the_outcome_tells_what_was_done(tiny_model, monkeypatch):
    monkeypatch.setattr("napari_unet.core.live.outcome.rehearsal_images", lambda model: [])
    learner = taught(tiny_model)
    assert outcome_of(learner, 0.0).model is tiny_model
    steps_of(learner, 4)
    outcome = outcome_of(learner, 0.0)
    assert outcome.n_steps == outcome.best_step == 4
    entry = outcome.model.history[-1]
    assert (entry.parent, entry.id) == (tiny_model.id, outcome.model.id)
    assert entry.settings["live"]
    assert entry.settings["steps_done"] == 4
    assert entry.n_corrected == learner.paint.n_trained
    assert not any(weights.requires_grad for weights in outcome.model.network.parameters())
    assert outcome.model.network is not learner.network
