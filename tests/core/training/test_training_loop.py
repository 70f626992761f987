"""The whole way from masks to a model, and every way in which it can end."""

import csv
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import napari_unet as nu
from napari_unet.core.datasets import of_arrays
from napari_unet.core.errors import SettingsError, TrainingError
from napari_unet.core.model import load_model, save_model
from napari_unet.core.normalization import Normalization
from napari_unet.core.progress import FinishEarly, finish
from napari_unet.core.training import loop, training


def gather(work):
    """All progress, and the result."""
    steps = []
    return finish(work, steps.append), steps


def logged(folder):
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_network_is_trained_and_segments(make_pairs, make_settings, tmp_path):
    pairs = make_pairs(5)
    model, steps = gather(training(pairs, make_settings(steps=6, measure_every=3), name="discs"))
    trained = [step for step in steps if step.done]
    assert [step.done for step in trained if step.message == "Training"][-6:] == [1, 2, 3, 4, 5, 6]
    measured = [step for step in trained if step.score is not None]
    assert [step.done for step in measured] == [3, 6]
    for step in measured:
        assert step.scores["f1"] == step.score and 0 <= step.scores["iou"] <= 1
        assert step.sample.truth.shape == step.sample.predicted.shape == (48, 48)
        assert step.sample.image.shape == (1, 48, 48) and step.sample.image.dtype == np.uint16
    assert all(np.isfinite(step.loss) for step in trained[-6:])

    about = model.description
    assert (about.name, about.dims, about.in_channels) == ("discs", 2, 1)
    assert about.scores["held out"] in [dict(step.scores) for step in measured]
    assert "trained by you on 4 images" in about.source
    entry = model.history[0]
    assert (entry.settings["steps_done"], entry.settings["n_held_out"]) == (6, 1)
    assert entry.scores_after == about.scores["held out"]
    assert "held out" in about.card and "patch_size: 32" in about.card
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())

    result = nu.segment(pairs[0].image, model)
    assert result.labels.shape == (48, 48)
    save_model(model, tmp_path / "mine.safetensors")
    again = load_model(tmp_path / "mine.safetensors", "cpu")
    assert again.id == model.id and again.history == model.history
    np.testing.assert_array_equal(nu.segment(pairs[0].image, again).labels, result.labels)


def test_it_learns(make_pairs, make_settings):
    settings = make_settings(
        width=4, steps=60, batch_size=4, learning_rate=5e-3, measure_every=20, average=0.9
    )
    model, steps = gather(training(make_pairs(5), settings))
    losses = [step.loss for step in steps if step.loss == step.loss]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])
    assert model.description.scores["held out"]["iou"] > 0.7


def test_equal_seeds_give_equal_weights(make_pairs, make_settings):
    pairs, settings = make_pairs(3), make_settings(network="unet-tutorial", steps=3)
    first, second, other = (
        finish(training(pairs, replace(settings, seed=seed))) for seed in (1, 1, 2)
    )
    assert first.id == second.id != other.id


def test_the_global_random_numbers_are_left_alone(make_pairs, make_settings):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    finish(training(make_pairs(3), make_settings(steps=2, network="unet-tutorial")))
    assert torch.equal(torch.random.get_rng_state(), before)


CLOSED_AT = 11


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_run_that_was_closed_goes_on_to_the_very_same_weights(
    optimizer, make_pairs, make_settings, tmp_path
):
    pairs = make_pairs(4)
    settings = make_settings(
        network="unet-tutorial", steps=20, measure_every=4, optimizer=optimizer, separation=10.0
    )  # with dropout
    whole = finish(training(pairs, settings))
    work = training(pairs, settings, folder=tmp_path / "run")
    for progress in work:
        if progress.done == CLOSED_AT and progress.loss == progress.loss:
            break
    work.close()
    rest, steps = gather(training(pairs, settings, folder=tmp_path / "run"))
    assert [s.done for s in steps if s.loss == s.loss] == list(range(CLOSED_AT + 1, 21))
    assert rest.id == whole.id
    assert rest.description.scores == whole.description.scores
    rows = logged(tmp_path / "run")
    assert [int(row["step"]) for row in rows] == list(range(1, 21))
    assert {int(row["step"]) for row in rows if row["score"]} == {4, 8, 12, 16, 20}
    again, steps = gather(training(pairs, settings, folder=tmp_path / "run"))
    assert again.id == whole.id and not [s for s in steps if s.loss == s.loss]


KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
import numpy as np
from napari_unet.core.datasets import of_arrays
from napari_unet.core.training import training, TrainSettings
saved = np.load({data!r})
pairs = of_arrays(list(zip(saved["images"], saved["labels"]))).pairs
settings = TrainSettings(width=2, steps=20, patch_size=32, batch_size=2, measure_every=4)
for progress in training(pairs, settings, folder={folder!r}):
    if progress.done == 11 and progress.loss == progress.loss:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_run_that_was_killed_goes_on_to_the_very_same_weights(
    make_image, make_settings, tmp_path
):
    images, labels = zip(*(make_image(seed) for seed in range(4)), strict=True)
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    pairs = of_arrays(list(zip(images, labels, strict=True))).pairs
    settings = make_settings(steps=20, measure_every=4)
    whole = finish(training(pairs, settings))
    code = KILLED.format(
        here=str(Path(nu.__file__).parents[1]), data=str(tmp_path / "data.npz"),
        folder=str(tmp_path / "run"),
    )  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    ended = subprocess.run([sys.executable, "-c", code], check=False, env=environment)
    assert ended.returncode == -signal.SIGKILL
    rest, steps = gather(training(pairs, settings, folder=tmp_path / "run"))
    assert min(s.done for s in steps if s.loss == s.loss) == 9  # the last state is of step 8
    assert rest.id == whole.id
    rows = logged(tmp_path / "run")
    assert [int(row["step"]) for row in rows] == list(range(1, 21))
    assert not list((tmp_path / "run").glob("*.part"))


def test_other_settings_or_images_cannot_go_on_with_a_run(make_pairs, make_settings, tmp_path):
    finish(training(make_pairs(3), make_settings(steps=2), folder=tmp_path))
    with pytest.raises(TrainingError, match=r"a run with batch_size 2, but now it is 3"):
        finish(training(make_pairs(3), make_settings(steps=2, batch_size=3), folder=tmp_path))
    with pytest.raises(TrainingError, match="with images "):
        finish(training(make_pairs(4), make_settings(steps=2), folder=tmp_path))


def test_the_best_so_far_is_kept_when_it_is_finished_early(make_pairs, make_settings):
    work = training(make_pairs(4), make_settings(steps=50, measure_every=2))
    scores = []
    for progress in work:
        if progress.score is not None:
            scores.append((progress.score, progress.scores["iou"]))
        if progress.done == 5 and progress.loss == progress.loss:
            break
    with pytest.raises(StopIteration) as end:
        work.throw(FinishEarly())
    model = end.value.value
    assert model.history[-1].settings["steps_done"] == 5
    found = model.description.scores["held out"]
    assert (found["f1"], found["iou"]) == max(scores)


def test_finishing_while_images_are_read_says_that_there_is_no_model(make_pairs, make_settings):
    work = training(make_pairs(3), make_settings())
    assert next(work).message == "Looking at the images"
    with pytest.raises(TrainingError, match="before its first step"):
        work.throw(FinishEarly())


@pytest.mark.parametrize("has_folder", [True, False])
def test_ctrl_c(has_folder, make_image, make_settings, tmp_path, monkeypatch):
    given, before = [make_image(seed) for seed in range(3)], signal.getsignal(signal.SIGINT)
    real, steps = loop.draw_batch, []

    def draw_batch(*arguments):
        steps.append(1)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    folder = tmp_path / "run" if has_folder else None
    settings = make_settings(steps=5, measure_every=5)
    with monkeypatch.context() as patched:
        patched.setattr(loop, "draw_batch", draw_batch)
        with pytest.raises(KeyboardInterrupt):
            nu.train(given, settings, folder=folder, device="cpu")
    assert signal.getsignal(signal.SIGINT) is before
    done = []
    nu.train(given, settings, folder=folder, device="cpu", report=done.append)
    first = min(step.done for step in done if step.loss == step.loss)
    assert first == (4 if has_folder else 1)


def test_in_another_thread_ctrl_c_is_left_alone(make_image, make_settings, tmp_path):
    given, before, seen = [make_image(seed) for seed in range(2)], signal.getsignal(2), []

    def report(progress):
        seen.append(signal.getsignal(signal.SIGINT))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(
            nu.train, given, make_settings(steps=1), folder=tmp_path / "a", report=report
        ).result()
    assert seen and set(seen) == {before}


def test_patience_ends_it(make_pairs, make_settings, monkeypatch):
    monkeypatch.setattr(loop.Measurer, "measure", lambda self, network: loop.Measurement(
        scores={"f1": 0.5, "iou": 0.5}
    ))  # fmt: skip
    settings = make_settings(steps=50, measure_every=1, patience=3)
    model, _ = gather(training(make_pairs(3), settings))
    assert model.history[-1].settings["steps_done"] == 4


def test_time_ends_it(make_pairs, make_settings):
    settings = make_settings(steps=10**6, minutes=0.5 / 60)
    model, steps = gather(training(make_pairs(3), settings))
    assert 0 < model.history[-1].settings["steps_done"] < 1000
    assert steps[-1].score is not None
    assert steps[-1].total == steps[-1].done


def test_one_image_leaves_nothing_to_measure(make_pairs, make_settings):
    model, steps = gather(training(make_pairs(1), make_settings(steps=2)))
    assert all(step.score is None for step in steps)
    assert any("no image is left to measure on" in step.message for step in steps)
    assert model.description.scores == {}
    assert "not known how good" in model.description.card


def test_it_goes_on_from_a_model_which_stays_as_it_is(make_pairs, make_settings):
    pairs, settings = make_pairs(3), make_settings(steps=2, split="rim")
    start = finish(training(pairs, settings))
    weights = {k: v.clone() for k, v in start.network.state_dict().items()}
    after = finish(training(pairs, settings, start=start))
    assert all(torch.equal(v, weights[k]) for k, v in start.network.state_dict().items())
    assert after.id != start.id
    assert [entry.parent for entry in after.history] == ["", start.id]
    assert after.history[-1].scores_before
    assert (after.config, after.description.outputs) == (start.config, start.description.outputs)


def test_of_a_start_its_own_network_is_recorded(make_pairs, make_settings):
    pairs = make_pairs(3)
    start = finish(training(pairs, make_settings(steps=1)))
    asked = make_settings(steps=1, network="segnet-basic", width=8)
    used = finish(training(pairs, asked, start=start)).history[-1].settings
    assert (used["network"], used["width"]) == ("unet", None)


@pytest.mark.parametrize(
    ("changes", "outputs", "output_class", "inside"),
    [
        ({}, ("background", "object"), (0, 1), None),
        ({"split": "rim"}, ("background", "rim", "inside"), (0, 1, 1), 2),
        ({"split": "none", "outputs": "sigmoid"}, ("object",), (1,), None),
        ({"split": "rim", "outputs": "sigmoid", "loss": "focal"}, ("rim", "inside"), (1, 1), 1),
        ({"what": "classes"}, ("background", "a", "b"), (0, 1, 2), None),
        ({"what": "classes", "outputs": "sigmoid", "loss": "tversky"}, ("a", "b"), (1, 2), None),
    ],
)  # fmt: skip
def test_outputs(changes, outputs, output_class, inside, make_image, make_settings):
    given = [make_image(seed) for seed in range(3)]
    names = None
    if "what" in changes:
        given = [(image, np.minimum(labels, 2)) for image, labels in given]
        names = ["a", "b"]
    settings = make_settings(steps=2, class_weights="balanced", **changes)
    model = nu.train(given, settings, class_names=names, device="cpu")
    about = model.description
    assert (about.outputs, about.output_class, about.inside) == (outputs, output_class, inside)
    assert nu.segment(given[0][0], model).labels.shape == (48, 48)
    again = nu.train(given, settings, start=model, device="cpu")
    assert again.description.outputs == outputs


def test_unpadded_networks_and_weights(make_pairs, make_settings):
    settings = make_settings(
        network="unet-2015", steps=2, separation=10.0, class_weights="balanced"
    )
    model = finish(training(make_pairs(3), settings))
    assert model.architecture == "unet_2015"


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [(None, Normalization()), ("zscore", Normalization(kind="zscore", clip=None))],
)
def test_how_intensities_become_input(chosen, expected, make_pairs, make_settings):
    settings = make_settings(normalization=chosen, steps=1)
    assert finish(training(make_pairs(2), settings)).description.normalization == expected


def test_networks_without_batch_norm_ask_for_another_input(make_pairs, make_settings):
    model = finish(training(make_pairs(2), make_settings(network="unet-2015", steps=1)))
    assert model.description.normalization.kind == "zscore"


def test_dropout_can_be_chosen(make_pairs, make_settings):
    def shares(dropout):
        settings = make_settings(network="unet-tutorial", network_dropout=dropout, steps=1)
        network = finish(training(make_pairs(2), settings)).network
        return {layer.p for layer in network.modules() if isinstance(layer, torch.nn.Dropout)}

    assert shares(None) == {0.1, 0.2, 0.3}
    assert shares(0.0) == {0.0}


def test_volumes(make_image, make_settings):
    given = []
    for seed in range(3):
        image, labels = make_image(seed)
        given.append((np.stack([image] * 8), np.stack([labels] * 8)))
    settings = make_settings(dims=3, steps=2, separation=5.0)
    model = nu.train(given, settings, device="cpu")
    assert model.description.dims == 3
    assert nu.segment(given[0][0], model).labels.shape == (8, 48, 48)


class Supervised(nn.Module):
    """Two outputs, of which one is only there in training."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1)

    def forward(self, image):
        return self.last(image)

    def all_logits(self, image):
        return [self.first(image), self.last(image)]


def test_all_outputs_of_a_network_are_held_against_the_truth(
    make_pairs, make_settings, monkeypatch
):
    made = []
    unet = loop.subject_of

    def subject_of(request):
        subject = yield from unet(request)
        made.append(Supervised())
        return replace(subject, network=made[-1])

    monkeypatch.setattr(loop, "subject_of", subject_of)
    settings = make_settings(steps=1, width=2, average=0.0)
    state = {}
    monkeypatch.setattr(loop, "finished", lambda found, *_: state.setdefault("found", found))
    before = {k: v.clone() for k, v in Supervised().state_dict().items()}
    found = finish(training(make_pairs(3), settings))
    assert set(before) == {"first.weight", "first.bias", "last.weight", "last.bias"}
    for name, parameter in found.network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


# What cannot be trained


def test_nothing_marked(make_image, make_settings):
    given = [(image, labels * 0) for image, labels in map(make_image, range(3))]
    with pytest.raises(TrainingError, match="nothing is marked"):
        nu.train(given, make_settings())


def test_no_images(make_settings):
    with pytest.raises(TrainingError, match="no images to learn from"):
        finish(training([], make_settings()))


def test_objects_taken_for_classes(make_image, make_settings):
    given = [(image, labels.astype(np.uint16) * 50) for image, labels in map(make_image, range(3))]
    with pytest.raises(TrainingError, match="what='objects'"):
        nu.train(given, make_settings(what="classes"))


def test_a_network_that_is_not_known(make_pairs, make_settings):
    with pytest.raises(SettingsError, match="no network 'u-net'"):
        finish(training(make_pairs(3), make_settings(network="u-net")))


def test_a_network_that_gives_images(make_pairs, make_settings):
    with pytest.raises(TrainingError, match="gives images"):
        finish(training(make_pairs(3), make_settings(network="pix2pix")))


def test_a_start_with_other_classes(make_image, make_settings):
    given = [make_image(seed) for seed in range(3)]
    start = nu.train(given, make_settings(steps=1))
    with pytest.raises(TrainingError, match="4 classes with the background"):
        nu.train(given, make_settings(what="classes"), start=start)
    with pytest.raises(TrainingError, match="Set dims to 2"):
        nu.train(given, make_settings(dims=3), start=start)


def test_a_loss_that_is_no_number_is_an_error(make_pairs, make_settings, monkeypatch):
    monkeypatch.setattr(loop, "loss_of", lambda logits, *_: logits[0].sum() * float("nan"))
    with pytest.raises(TrainingError, match="at step 1 the loss was no number"):
        finish(training(make_pairs(3), make_settings()))


def test_a_step_that_goes_wrong_is_not_kept(make_pairs, make_settings, monkeypatch, tmp_path):
    pairs, settings = make_pairs(3), make_settings(steps=6, measure_every=2)
    whole = finish(training(pairs, settings))
    real, calls = loop.loss_of, []

    def astray_once(*arguments):
        calls.append(1)
        return real(*arguments) * (float("nan") if len(calls) == 4 else 1)

    monkeypatch.setattr(loop, "loss_of", astray_once)
    with pytest.raises(TrainingError, match="at step 4"):
        finish(training(pairs, settings, folder=tmp_path))
    assert finish(training(pairs, settings, folder=tmp_path)).id == whole.id


def test_no_runtime_error_leaves_it(make_pairs, make_settings, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory\nat 0x7f")

    monkeypatch.setattr(loop, "draw_batch", fail)
    with pytest.raises(TrainingError, match=r"^Training stopped \(out of memory\)\. Choose"):
        finish(training(make_pairs(3), make_settings()))


def test_a_run_that_goes_wrong_leaves_the_last_good_state(
    make_pairs, make_settings, monkeypatch, tmp_path
):
    pairs, settings = make_pairs(3), make_settings(steps=6, measure_every=2)
    whole = finish(training(pairs, settings))
    real, calls = loop.draw_batch, []

    def fail_once(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("the device is gone")
        return real(*arguments)

    monkeypatch.setattr(loop, "draw_batch", fail_once)
    with pytest.raises(TrainingError, match="the device is gone"):
        finish(training(pairs, settings, folder=tmp_path))
    assert finish(training(pairs, settings, folder=tmp_path)).id == whole.id
