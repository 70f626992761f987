"""Fine-tuning learns from paint alone, forgets little, and changes nothing but a copy."""

import copy
import json
import math
import time
from dataclasses import asdict, replace

import dask.array as da
import numpy as np
import pytest
import torch
from torch import nn

from napari_unet.core import finetuning
from napari_unet.core.annotator import draw_strokes, next_strokes
from napari_unet.core.corrections import hold_out
from napari_unet.core.device import choose_device
from napari_unet.core.engine.facts import general_facts
from napari_unet.core.errors import CorrectionsError, ModelFileError, TrainingError
from napari_unet.core.finetuning import fine_tune, fine_tuning, training_image
from napari_unet.core.image import make_image
from napari_unet.core.model import Description, Model, load_model, save_model, weights_id
from napari_unet.core.networks import UNet, UNetConfig
from napari_unet.core.progress import FinishEarly, finish
from napari_unet.core.rehearsal import rehearsal_images
from napari_unet.core.scoring import whole_picture_classes
from napari_unet.core.segmentation import segment
from napari_unet.core.settings import AugmentationSettings, FineTuneSettings
from napari_unet.core.simulation import SimulationSettings, simulate

QUICK = FineTuneSettings(steps=6, patch_size=32, batch_size=2)
BARE = FineTuneSettings(steps=6, patch_size=32, batch_size=2, memory=0)  # no rehearsal
STILL = AugmentationSettings(
    elastic_sigma=0, rotation=0, scale=1, flips=False, brightness=0, contrast=0, gamma=1, noise=0
)


def random_model(config=None, seed=0, **about):
    """A model with random weights, and batch normalisation that has seen something."""
    config = config or UNetConfig(widths=(4, 8))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNet(config).eval().requires_grad_(False)
    n = config.out_channels
    names = ("background", *(f"class {i}" for i in range(1, max(2, n))))
    description = Description(
        name="random", dims=config.dims, in_channels=config.in_channels, class_names=names,
        outputs=names[-n:], output_class=tuple(range(n)) if n > 1 else (1,),
        activation="softmax" if n > 1 else "sigmoid", **about,
    )  # fmt: skip
    return Model(
        network=network, architecture="unet", config=config, description=description,
        device=choose_device("cpu"), id=weights_id(network),
    )  # fmt: skip


def small_rehearsal_images(model):
    """Pieces of the pictures to remember by, to save time."""
    return [picture[:, 100:180, 100:180].clone() for picture in rehearsal_images(model)]


@pytest.fixture(autouse=True, scope="module")
def small_rehearsal():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetuning, "rehearsal_images", small_rehearsal_images)
        yield


@pytest.fixture
def model():
    return random_model()


def easy_case(seed=0, size=96):
    """Bright boxes on dark noise, and strokes on some of them: an image and corrections."""
    generator = np.random.default_rng(seed)
    truth = np.zeros((size, size), np.uint8)
    for _ in range(size // 8):
        y, x = generator.integers(0, size - 12, 2)
        truth[y : y + 12, x : x + 12] = 1
    image = (truth * 500.0 + generator.normal(300, 40, truth.shape)).astype(np.float32)
    corrections = np.zeros_like(truth)
    lines = np.arange(4, size, 12)
    corrections[lines] = truth[lines] + 1
    return image, corrections


def steps_of(model, settings, cases=None, axes=None):
    """A finished run: the progress of its steps (the start left out) and the new model."""
    progress = []
    cases = [easy_case()] if cases is None else cases
    tuned = fine_tune(model, cases, settings, axes, progress.append)
    return progress[1:], tuned


def work_on(model, settings, case=None):
    image, corrections = case or easy_case()
    return fine_tuning(model, [training_image(make_image(image), corrections)], settings)


# --- only paint counts -------------------------------------------------------------------------


def test_untouched_pixels_count_for_nothing(tiny_model):
    """Its network sees 2 px far: what lies further from paint has exactly no gradient."""
    image, _ = easy_case(size=64)
    corrections = np.zeros((64, 64), np.uint8)
    corrections[5:10, 5:25], corrections[12:17, 5:25] = 1, 2
    far = np.ones((64, 64), bool)
    far[:22, :30] = False
    other = image.copy()
    other[far] = np.random.default_rng(1).permutation(image[far])  # the same quantiles
    settings = replace(BARE, augmentation=STILL, held_out=0)
    tuned = fine_tune(tiny_model, [(image, corrections)], settings)
    assert tuned.id != tiny_model.id
    assert fine_tune(tiny_model, [(other, corrections)], settings).id == tuned.id
    near = image.copy()
    near[7, 7] += 100
    assert fine_tune(tiny_model, [(near, corrections)], settings).id != tuned.id


def test_with_memory_untouched_pixels_hold_the_model(tiny_model):
    image, corrections = easy_case(size=64)
    ids = {
        fine_tune(tiny_model, [(image, corrections)], replace(QUICK, memory=memory)).id
        for memory in (0, 0.5, 1)
    }
    assert len(ids) == 3


def test_held_out_paint_is_never_trained_on(model):
    image, corrections = easy_case(size=128)
    gathered = training_image(make_image(image), corrections)
    (held,) = hold_out([(gathered.key, block) for block in gathered.blocks], 0.2)
    painted = (corrections > 0) & held
    assert painted.sum() > 20
    wrong = corrections.copy()
    wrong[painted] = 3 - wrong[painted]  # background for object and the other way round
    tuned, misled = (fine_tune(model, [(image, painted)], BARE) for painted in (corrections, wrong))
    assert misled.id == tuned.id
    assert misled.history[0].scores_after["iou"] != tuned.history[0].scores_after["iou"]
    wrong = corrections.copy()
    trained = (corrections > 0) & ~held
    wrong[trained] = 3 - wrong[trained]
    assert fine_tune(model, [(image, wrong)], BARE).id != tuned.id


# --- a copy and a value ------------------------------------------------------------------------


def test_the_old_model_stays_as_it_was_bit_by_bit(model):
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    tuned = fine_tune(model, [easy_case()], QUICK)
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model.history == ()
    assert not model.network.training
    assert not any(p.requires_grad or p.grad is not None for p in model.network.parameters())
    assert tuned.network is not model.network
    assert not tuned.network.training
    assert not any(p.requires_grad for p in tuned.network.parameters())


def test_the_new_model_differs_but_for_batch_statistics(model):
    tuned = fine_tune(model, [easy_case()], QUICK)
    old, new = model.network.state_dict(), tuned.network.state_dict()
    for name, value in old.items():
        is_statistic = "running" in name or "num_batches" in name
        assert torch.equal(new[name], value) == is_statistic, name


def test_images_and_corrections_stay_as_they_were(model):
    image, corrections = easy_case()
    before = image.copy(), corrections.copy()
    fine_tune(model, [(image, corrections)], QUICK)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(corrections, before[1])


def test_the_seed_decides_and_nothing_else_does(model):
    torch.manual_seed(1)
    first = fine_tune(model, [easy_case()], QUICK)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    again = fine_tune(model, [easy_case()], QUICK)
    assert torch.equal(torch.random.get_rng_state(), state)
    other = fine_tune(model, [easy_case()], replace(QUICK, seed=1))
    assert first.id == again.id == weights_id(again.network)
    assert other.id != first.id
    assert first.history[0].scores_after == again.history[0].scores_after


def test_closed_in_the_middle_nothing_has_changed(model, monkeypatch):
    released = []
    monkeypatch.setattr(finetuning, "release_memory", released.append)
    work = work_on(model, QUICK)
    for _ in range(3):
        next(work)
    assert released == []
    work.close()
    assert released == [torch.device("cpu")]
    assert weights_id(model.network) == model.id
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    image = torch.zeros(1, 1, 8, 8, requires_grad=True)
    model.network(image).sum().backward()  # the old network is usable as ever
    assert image.grad is not None


# --- stopping early ----------------------------------------------------------------------------


def stop_after(work, n_steps):
    """Run `n_steps` steps and ask for what there is."""
    while next(work).done < n_steps:
        pass
    try:
        work.throw(FinishEarly)
    except StopIteration as end:
        return end.value
    raise AssertionError("the work went on")


def test_stopped_early_it_returns_what_there_is(model):
    tuned = stop_after(work_on(model, QUICK), 3)
    assert tuned.id == weights_id(tuned.network) != model.id
    assert tuned.history[0].settings["steps_done"] == 3
    assert tuned.history[0].settings["steps"] == QUICK.steps
    assert stop_after(work_on(model, QUICK), 3).id == tuned.id


class ScriptedScorer:
    """Gives the scores it was told to, and remembers the weights it was asked about."""

    def __init__(self, ious):
        self.ious = iter(ious)
        self.asked = []

    def score(self, network, with_memory=True):
        self.asked.append(weights_id(network))
        iou = next(self.ious)
        return {} if iou is None else {"iou": iou}


@pytest.mark.parametrize(
    ("ious", "best"),
    [
        ([0.2, 0.4, 0.9, 0.5, 0.9], 2),
        ([0.2, 0.3, 0.5, 0.9, 0.9], 3),
        ([0.2, 0.7, 0.5, 0.7, 0.7], 3),  # of equal ones, the one that learned more
        ([0.9, 0.5, 0.4, 0.3, 0.5], 1),  # never better than before: still the best of them
        ([0.9, 0.0, 0.0, 0.0, 0.0], 3),
        ([None, None, None, None, None], 3),  # nothing to score on: the last one
    ],
)
@pytest.mark.parametrize("is_early", [True, False])
def test_the_best_so_far_is_returned(model, monkeypatch, ious, best, is_early):
    scorer = ScriptedScorer(ious)
    monkeypatch.setattr(finetuning, "Scorer", lambda *args: scorer)
    steps = 40 if is_early else 30
    work = work_on(model, replace(BARE, steps=steps))
    tuned = stop_after(work, 30) if is_early else finish(work)
    assert tuned.id == scorer.asked[best]
    assert len(scorer.asked) == 5
    assert scorer.asked[4] == tuned.id, "the score after must be that of what is returned"
    expected = {} if ious[4] is None else {"iou": ious[4]}
    assert tuned.history[0].scores_after == expected


# --- learning ----------------------------------------------------------------------------------


LEARN = FineTuneSettings(steps=80, patch_size=48, batch_size=2, learning_rate=1e-2, memory=0)


def test_the_loss_goes_down_on_an_easy_task():
    steps, tuned = steps_of(random_model(UNetConfig(widths=(8, 8))), LEARN)
    losses = [step.loss for step in steps]
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])
    entry = tuned.history[0]
    assert entry.scores_before["iou"] < 0.6
    assert entry.scores_after["iou"] > 0.9


def test_a_sigmoid_network_learns_too():
    _, tuned = steps_of(random_model(UNetConfig(widths=(8, 8), out_channels=1)), LEARN)
    assert tuned.history[0].scores_after["iou"] > 0.9
    image, corrections = easy_case()
    classes = segment(image, tuned).classes
    painted = corrections > 0
    assert (classes[painted] == corrections[painted] - 1).mean() > 0.9


def test_outputs_that_share_a_class_learn_together():
    model = random_model(UNetConfig(widths=(8, 8), out_channels=3))
    model = model.described(class_names=("background", "object"), output_class=(0, 1, 1), inside=2)
    _, tuned = steps_of(model, LEARN)
    assert tuned.history[0].scores_after["iou"] > 0.85


@pytest.fixture(scope="module")
def field():
    """Simulated nuclei, bright on dark, and their classes `(y, x)`."""
    simulated = simulate(SimulationSettings(size=160, n_nuclei=12), seed=5)
    return simulated.image, (simulated.labels > 0).astype(np.uint8)


@pytest.fixture(scope="module")
def fluorescence_model(field):
    """A tiny network that has learned bright nuclei and nothing else."""
    image, truth = field
    settings = FineTuneSettings(
        steps=80, patch_size=64, batch_size=4, learning_rate=1e-2, memory=0, held_out=0
    )
    return fine_tune(random_model(UNetConfig(widths=(8, 16, 16))), [(image, truth + 1)], settings)


def iou(found, truth, where):
    return np.count_nonzero((found & truth)[where]) / np.count_nonzero((found | truth)[where])


def test_a_few_strokes_teach_a_new_kind_of_image(field, fluorescence_model):
    """Nuclei that are dark on bright; scored on pixels that were never painted."""
    image, truth = field[0].max() - field[0], field[1]
    corrections = np.zeros_like(truth)
    settings = FineTuneSettings(steps=50, patch_size=64, learning_rate=5e-3)
    model = fluorescence_model
    for _ in range(3):
        classes = segment(image, model).classes
        draw_strokes(corrections, next_strokes(classes, truth, corrections, 12))
        model = fine_tune(model, [(image, corrections)], settings)
    unpainted = corrections == 0
    assert unpainted.mean() > 0.85
    before, after = (
        iou(segment(image, which).classes > 0, truth > 0, unpainted)
        for which in (fluorescence_model, model)
    )
    assert after > before + 0.3


def test_memory_keeps_the_old_answers(field, fluorescence_model):
    image, truth = field[0].max() - field[0], field[1]
    corrections = np.zeros_like(truth)
    corrections[20:140:10] = 1  # nothing here is a nucleus, they say
    kept = {}
    for memory in (0, 1):
        settings = FineTuneSettings(
            steps=30, patch_size=64, batch_size=2, learning_rate=4e-3, memory=memory
        )
        tuned = fine_tune(fluorescence_model, [(image, corrections)], settings)
        fit = general_facts(fluorescence_model.network, 1, 2).fit
        old, new = (
            torch.stack([
                whole_picture_classes(which.network, picture, fit, which.description)
                for picture in small_rehearsal_images(fluorescence_model)
            ])
            for which in (fluorescence_model, tuned)
        )  # fmt: skip
        both, either = ((old == 1) & (new == 1)).sum(), ((old == 1) | (new == 1)).sum()
        kept[memory] = float(both / either)
        same = float((old == new).float().mean())
        assert tuned.history[-1].scores_after["memory"] == pytest.approx(same, abs=1e-3)
        assert tuned.history[-1].scores_before["memory"] == 1
    assert kept[1] > kept[0] + 0.1, kept


# --- images of all kinds -----------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["yx", "cyx", "yxc", "tyx", "zyx", "tzcyx"])
def test_any_axes(axes):
    sizes = {"t": 2, "z": 2, "c": 2, "y": 60, "x": 50}
    generator = np.random.default_rng(0)
    image = generator.integers(0, 4000, [sizes[axis] for axis in axes]).astype(np.uint16)
    corrections = np.zeros([sizes[axis] for axis in axes if axis != "c"], np.uint8)
    corrections[..., 10:14, :], corrections[..., 30:34, :] = 1, 2
    model = random_model(UNetConfig(widths=(4, 8), in_channels=2 if "c" in axes else 1))
    tuned = fine_tune(model, [(image, corrections)], QUICK, axes)
    held_too = np.count_nonzero(corrections)
    assert 0 < tuned.history[0].n_corrected <= held_too
    lazy = fine_tune(model, [(da.from_array(image, chunks=20), corrections)], QUICK, axes)
    assert lazy.id == tuned.id


def test_a_stroke_in_a_stack_teaches_its_own_plane(tiny_model):
    image, _ = easy_case(size=64)
    stack = np.stack([image, image.max() - image])
    corrections = np.zeros(stack.shape, np.uint8)
    corrections[1, 10:20, 10:50], corrections[1, 30:40, 10:50] = 1, 2
    settings = replace(BARE, held_out=0, augmentation=STILL)
    tuned = fine_tune(tiny_model, [(stack, corrections)], settings, "tyx")
    gathered = training_image(make_image(stack, "tyx"), corrections)
    assert [block.index for block in gathered.blocks] == [(1,)]
    np.testing.assert_array_equal(gathered.blocks[0].image[0], stack[1])
    shuffled = stack.copy()
    shuffled[0] = np.random.default_rng(0).permutation(stack[0].ravel()).reshape(64, 64)
    assert fine_tune(tiny_model, [(shuffled, corrections)], settings, "tyx").id == tuned.id
    shuffled = stack.copy()
    shuffled[1] = np.random.default_rng(0).permutation(stack[1].ravel()).reshape(64, 64)
    assert fine_tune(tiny_model, [(shuffled, corrections)], settings, "tyx").id != tuned.id


def test_several_images_teach_together(model):
    first, second = easy_case(0), easy_case(1, size=64)
    settings = replace(QUICK, held_out=0)
    alone = [fine_tune(model, [case], settings) for case in (first, second)]
    both = fine_tune(model, [first, second], settings)
    counts = [np.count_nonzero(corrections) for _, corrections in (first, second)]
    assert [tuned.history[0].n_corrected for tuned in alone] == counts
    assert both.history[0].n_corrected == sum(counts)
    assert len({tuned.id for tuned in (*alone, both)}) == 3


def test_an_image_where_nothing_is_painted_adds_nothing(model):
    image, corrections = easy_case()
    blank = (image + 5, np.zeros_like(corrections))
    tuned = fine_tune(model, [(image, corrections)], QUICK)
    assert fine_tune(model, [(image, corrections), blank], QUICK).id == tuned.id


@pytest.mark.parametrize("container", [da.from_array, np.ndarray.tolist, np.ndarray.astype])
def test_corrections_in_any_container(model, container):
    image, corrections = easy_case()
    arguments = (np.int64,) if container is np.ndarray.astype else ()
    given = container(corrections, *arguments)
    expected = fine_tune(model, [(image, corrections)], QUICK)
    assert fine_tune(model, [(image, given)], QUICK).id == expected.id


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (300, 5)])
def test_images_smaller_than_a_patch(model, shape):
    image = np.random.default_rng(0).random(shape)
    tuned = fine_tune(model, [(image, np.ones(shape, np.uint8))], QUICK)
    assert tuned.id != model.id


@pytest.mark.parametrize(("asked", "used"), [(16, 16), (17, 20), (50, 52)])
def test_patches_are_made_to_fit_the_network(asked, used):
    model = random_model(UNetConfig(widths=(2, 4, 4)))  # stride 4
    tuned = fine_tune(model, [easy_case()], replace(QUICK, patch_size=asked))
    assert tuned.history[0].settings["patch_size"] == used


def test_batches_of_one_patch(model):
    tuned = fine_tune(model, [easy_case()], replace(QUICK, batch_size=1, memory=1))
    assert tuned.id != model.id


# --- progress and history ----------------------------------------------------------------------


def test_every_step_is_reported(model):
    progress = []
    fine_tune(model, [easy_case()], replace(QUICK, steps=20), report=progress.append)
    assert [p.done for p in progress] == list(range(21))
    assert {p.total for p in progress} == {20}
    assert math.isnan(progress[0].loss)
    assert all(p.loss > 0 for p in progress[1:])
    scored = {p.done: p.score for p in progress if p.score is not None}
    assert list(scored) == [0, 10, 20]
    assert all(0 <= score <= 1 for score in scored.values())


def test_the_round_tells_what_was_done(model):
    start = time.time()
    image, corrections = easy_case()
    tuned = fine_tune(model, [(image, corrections)], QUICK)
    (entry,) = tuned.history
    assert (entry.id, entry.parent, entry.name) == (tuned.id, model.id, "round 1")
    assert entry.settings == {**asdict(QUICK), "steps_done": QUICK.steps}
    assert entry.created.endswith("+00:00")
    assert entry.created >= time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(start))
    assert 0 <= entry.seconds <= time.time() - start + 0.1
    assert entry.scores_before.keys() == entry.scores_after.keys() == {"iou", "accuracy", "memory"}
    gathered = training_image(make_image(image), corrections)
    (held,) = hold_out([(gathered.key, block) for block in gathered.blocks])
    assert entry.n_corrected == np.count_nonzero(corrections[~held]) > 0
    json.dumps(asdict(entry))


def test_rounds_make_a_chain_that_survives_saving(model, tmp_path):
    first = fine_tune(model, [easy_case()], QUICK)
    second = fine_tune(first, [easy_case()], replace(QUICK, seed=1))
    assert [entry.name for entry in second.history] == ["round 1", "round 2"]
    assert second.history[1].parent == second.history[0].id == first.id
    assert second.description == model.description
    save_model(second, tmp_path / "tuned")
    opened = load_model(tmp_path / "tuned.safetensors", "cpu")
    assert opened.history == second.history
    assert opened.id == second.id


def test_scores_of_rounds_can_be_compared(model):
    """What was the score after one round is the score before the next one."""
    first = fine_tune(model, [easy_case()], QUICK)
    second = fine_tune(first, [easy_case()], QUICK)
    for measure in ("iou", "accuracy"):
        after, before = first.history[0].scores_after, second.history[1].scores_before
        assert before[measure] == after[measure]


# --- what cannot be ----------------------------------------------------------------------------


class Failing(nn.Module):
    """A network that fails when it trains, with the error it is given."""

    def __init__(self, network, error):
        super().__init__()
        self.network = network
        self.error = error

    def forward(self, image):
        """Fails, unless only asked for an answer."""
        if torch.is_grad_enabled():
            raise self.error
        return self.network(image)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("CUDA out of memory.\nmore lines"), r"stopped \(CUDA out of memory\.\)"),
        (RuntimeError(""), r"stopped \(RuntimeError\)"),
        (RuntimeError("\n"), r"stopped \(RuntimeError\)"),
        (torch.OutOfMemoryError("no room"), r"stopped \(no room\)"),
        (NotImplementedError("no such kernel"), r"stopped \(no such kernel\)"),
        (MemoryError(), r"stopped \(MemoryError\)"),
    ],
)
def test_no_runtime_error_gets_out(model, error, sentence):
    failing = replace(model, network=Failing(model.network, error))
    with pytest.raises(TrainingError, match=sentence) as caught:
        fine_tune(failing, [easy_case()], QUICK)
    assert not isinstance(caught.value, RuntimeError)
    assert "The model is unchanged" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_programming_errors_do_get_out(model):
    failing = replace(model, network=Failing(model.network, KeyError("a mistake")))
    with pytest.raises(KeyError):
        fine_tune(failing, [easy_case()], QUICK)


def test_a_loss_that_is_no_number(model):
    broken = replace(model, network=copy.deepcopy(model.network))
    broken.network.head.bias[0] = float("nan")
    with pytest.raises(TrainingError, match="at step 1 the loss was no number any more"):
        fine_tune(broken, [easy_case()], QUICK)


class Steep(nn.Module):
    """A network that computes well but whose gradient is no number."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        """The logits, plus nothing: the slope of a root at zero is infinite."""
        return self.network(image) + torch.sqrt(0 * self.network.head.bias.sum())


@pytest.mark.parametrize("held_out", [0, 0.2])
def test_weights_that_are_no_numbers_are_not_returned(model, held_out):
    steep = replace(model, network=Steep(model.network))
    with pytest.raises(TrainingError, match="some weights are no numbers any more"):
        fine_tune(steep, [easy_case()], replace(BARE, steps=1, held_out=held_out))
    with pytest.raises(TrainingError, match="at step 2 the loss was no number any more"):
        fine_tune(steep, [easy_case()], replace(BARE, steps=2, held_out=held_out))
    assert weights_id(model.network) == model.id


def test_nothing_painted(model):
    image, corrections = easy_case()
    for cases in ([], [(image, np.zeros_like(corrections))]):
        with pytest.raises(CorrectionsError, match="Nothing is painted yet"):
            fine_tune(model, cases, QUICK)


def test_a_class_the_model_does_not_have(model):
    image, corrections = easy_case()
    corrections[0, 0] = 3
    with pytest.raises(CorrectionsError, match="hold the value 3, but the model knows only 2"):
        fine_tune(model, [(image, corrections)], QUICK)
    gathered = training_image(make_image(image), corrections)
    with pytest.raises(CorrectionsError, match=r"painted class \(3\) is not one of the model's 2"):
        finish(fine_tuning(model, [gathered], QUICK))


def test_a_class_the_model_does_not_have_even_if_held_out(model):
    image, corrections = easy_case(size=128)
    gathered = training_image(make_image(image), corrections)
    (held,) = hold_out([(gathered.key, block) for block in gathered.blocks])
    corrections[held & (corrections > 0)] = 3
    gathered = training_image(make_image(image), corrections)
    with pytest.raises(CorrectionsError, match=r"painted class \(3\)"):
        finish(fine_tuning(model, [gathered], QUICK))


def test_an_image_of_other_channels(model):
    image, corrections = easy_case()
    with pytest.raises(CorrectionsError, match=r"with 2 channels, but the model 'random' takes 1"):
        fine_tune(model, [(np.stack([image, image]), corrections)], QUICK, "cyx")


def test_corrections_of_another_image(model):
    image, corrections = easy_case()
    with pytest.raises(CorrectionsError, match="Paint on a layer made for this image"):
        fine_tune(model, [(image, corrections[:-1])], QUICK)
    with pytest.raises(CorrectionsError, match="whole numbers"):
        fine_tune(model, [(image, corrections / 2)], QUICK)


def test_a_model_by_its_path(model, tmp_path):
    save_model(model, tmp_path / "m")
    path = str(tmp_path / "m.safetensors")
    assert fine_tune(path, [easy_case()], QUICK).id == fine_tune(model, [easy_case()], QUICK).id
    with pytest.raises(ModelFileError):
        fine_tune("nowhere", [easy_case()], QUICK)
