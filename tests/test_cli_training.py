"""`napari-unet train`: a folder of images and masks in, a model out."""

import csv
import os
import signal

import numpy as np
import pytest
import tifffile

from napari_unet import cli
from napari_unet.cli import training as command
from napari_unet.cli.training_options import HELPS
from napari_unet.core.errors import ModelFileError, TrainingError
from napari_unet.core.model import load_model
from napari_unet.core.settings import AugmentationSettings
from napari_unet.core.training.settings import TrainSettings

QUICK = ["--width", "2", "--steps", "4", "--measure-every", "2", "--patch-size", "16",
         "--batch-size", "2", "--device", "cpu"]  # fmt: skip


@pytest.fixture
def data(tmp_path):
    """A folder with images and masks."""
    folder = tmp_path / "data"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for i in range(4):
        random = np.random.default_rng(i)
        labels = np.zeros((40, 40), np.uint16)
        labels[5:15, 5:15], labels[20:35, 20:30] = 1, 2
        image = (labels > 0) * 500 + random.integers(0, 50, labels.shape)
        tifffile.imwrite(folder / "images" / f"{i}.tif", image.astype(np.uint16))
        tifffile.imwrite(folder / "masks" / f"{i}.tif", labels)
    return folder


def run(*arguments):
    return cli.main(["train", *map(str, arguments)])


def error_of(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1
    return lines[0].partition("error: ")[2]


def test_a_model_is_trained_and_saved(data, tmp_path, capsys):
    out = tmp_path / "new" / "cells"
    assert run(data, "--out", out, *QUICK) == 0
    said = capsys.readouterr()
    assert "4" in said.out.splitlines()[0]  # what is in the data comes first
    assert "cells: 4 steps on 3 images" in said.out and "on 1 held-out image," in said.out
    assert f"Saved {out}.safetensors" in said.out
    steps = [line for line in said.err.splitlines() if "warning" not in line]
    assert [line[:9] for line in steps] == ["step 2 of", "step 4 of"]
    model = load_model(f"{out}.safetensors", "cpu")
    assert model.description.name == "cells"
    for name, value in model.description.scores["held out"].items():
        assert f"{name:<4} {value:.3f}" in said.out


def test_every_setting_has_an_option(data, tmp_path, monkeypatch):
    asked = {}

    def training(pairs, settings, **rest):
        asked.update(settings=settings, **rest)
        raise TrainingError("enough")
        yield

    monkeypatch.setattr("napari_unet.core.training.loop.training", training)
    options = [
        "--network", "unet-2015", "--width", "8", "--dims", "2", "--what", "classes", "--split",
        "none", "--outputs", "sigmoid", "--steps", "7", "--minutes", "1.5", "--patience", "2",
        "--measure-every", "3", "--loss", "tversky", "--gamma", "1", "--alpha", "0.25",
        "--beta", "0.75", "--class-weights", "balanced", "--separation", "9",
        "--separation-sigma", "4", "--optimizer", "sgd", "--learning-rate", "0.5", "--momentum",
        "0.99", "--weight-decay", "0.125", "--schedule", "poly", "--clip", "2", "--patch-size",
        "48", "--batch-size", "1", "--average", "0.5", "--precision", "full", "--held-out",
        "0.5", "--n-folds", "4", "--fold", "1", "--seed", "6", "--elastic-sigma", "3",
        "--elastic-points", "4", "--rotation", "5", "--scale", "1.5", "--no-flips",
        "--brightness", "0.5", "--contrast", "0.5", "--gamma-change", "2", "--noise", "0.5",
        "--blur", "1", "--color", "0.5", "--gray", "0.5", "--invert", "0.5", "--dropout",
        "0.25", "--class-names", "cell, rest", "--name", "mine", "--folder",
        str(tmp_path / "run"),
    ]  # fmt: skip
    assert run(data, "--out", tmp_path / "a", *options) == 1
    vary = AugmentationSettings(
        elastic_sigma=3, elastic_points=4, rotation=5, scale=1.5, flips=False, brightness=0.5,
        contrast=0.5, gamma=2, noise=0.5, blur=1, color=0.5, gray=0.5, invert=0.5, dropout=0.25,
    )  # fmt: skip
    assert asked["settings"] == TrainSettings(
        network="unet-2015", width=8, dims=2, what="classes", split="none", outputs="sigmoid",
        steps=7, minutes=1.5, patience=2, measure_every=3, loss="tversky", gamma=1, alpha=0.25,
        beta=0.75, class_weights="balanced", separation=9, separation_sigma=4, optimizer="sgd",
        learning_rate=0.5, momentum=0.99, weight_decay=0.125, schedule="poly", clip=2,
        patch_size=48, batch_size=1, average=0.5, precision="full", held_out=0.5, n_folds=4, fold=1,
        seed=6, augmentation=vary,
    )  # fmt: skip
    assert asked["class_names"] == ["cell", "rest"]
    assert (asked["name"], asked["folder"], asked["start"]) == ("mine", tmp_path / "run", None)
    assert set(HELPS) >= {name for name in TrainSettings.__slots__ if name != "augmentation"}


def test_without_options_the_defaults_count(data, tmp_path, monkeypatch):
    asked = {}

    def training(pairs, settings, **rest):
        asked.update(settings=settings, **rest)
        raise TrainingError("enough")
        yield

    monkeypatch.setattr("napari_unet.core.training.loop.training", training)
    assert run(data, "--out", tmp_path / "a") == 1
    assert asked["settings"] == TrainSettings()
    assert (asked["name"], asked["class_names"], asked["folder"]) == ("a", None, None)


def test_the_same_command_goes_on_with_a_run(data, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run(data, "--out", tmp_path / "a", "--folder", folder, *QUICK) == 0
    assert run(data, "--out", tmp_path / "b", "--folder", folder, *QUICK) == 0
    first, second = (load_model(tmp_path / f"{name}.safetensors", "cpu") for name in "ab")
    assert first.id == second.id
    with (folder / "log.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 4
    capsys.readouterr()
    assert run(data, "--out", tmp_path / "c", "--folder", folder, *QUICK, "--seed", "1") == 1
    assert "a run with seed 0, but now it is 1" in error_of(capsys)


def test_it_goes_on_from_a_model(data, tmp_path, capsys):
    assert run(data, "--out", tmp_path / "a", *QUICK) == 0
    start = tmp_path / "a.safetensors"
    assert run(data, "--out", tmp_path / "b", "--start", start, *QUICK[2:]) == 0
    assert " -> " in capsys.readouterr().out
    assert len(load_model(tmp_path / "b.safetensors", "cpu").history) == 2


def test_a_file_that_is_there_stays(data, tmp_path, capsys):
    (tmp_path / "a.safetensors").write_text("mine")
    assert run(data, "--out", tmp_path / "a", *QUICK) == 1
    assert "--overwrite" in error_of(capsys)
    assert (tmp_path / "a.safetensors").read_text() == "mine"


def test_fatal_problems_are_named_before_anything_is_trained(data, tmp_path, capsys, monkeypatch):
    from napari_unet.core import datasets

    problems = [
        datasets.Problem(path=None, sentence="It is a little dark."),
        datasets.Problem(path=data / "2.tif", sentence="It cannot be read.", is_fatal=True),
    ]
    monkeypatch.setattr(datasets, "check", lambda dataset, what, dims: problems)
    assert run(data, "--out", tmp_path / "a", *QUICK) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"napari-unet: error: {data / '2.tif'}: It cannot be read.",
        "napari-unet: warning: It is a little dark.",
        "napari-unet: error: 1 problem keeps the data from being used. "
        "Mend or remove the files that are named above.",
    ]


def test_settings_that_make_no_sense_are_wrong_use(data, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        run(data, "--out", tmp_path / "a", "--steps", "0")
    assert end.value.code == 2
    assert "steps must be a whole number" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(data, "--out", tmp_path / "a", "--loss", "l2")
    assert "--loss" in capsys.readouterr().err


def test_help_tells_the_defaults(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--steps N training steps at most (default: 2000)" in said
    assert "--loss {cross-entropy," in said and "as the network's paper says" in said
    assert "--silver" in said and "--flips" in said


def test_a_bar_shows_the_loss_and_the_score(data, tmp_path, capsys, monkeypatch):
    from napari_unet.core.datasets import open_dataset
    from napari_unet.core.training import training

    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    settings = TrainSettings(width=2, steps=2, patch_size=32, batch_size=2)
    model = command._with_bar(training(open_dataset(data).pairs, settings, device="cpu"))
    assert model.history[0].settings["steps_done"] == 2


def interrupted(monkeypatch, at, times=1):
    """Press Ctrl+C in the midst of a step."""
    from napari_unet.core.training import loop

    real, calls = loop.draw_batch, []

    def draw_batch(*arguments):
        calls.append(1)
        for _ in range(times if len(calls) == at else 0):
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(loop, "draw_batch", draw_batch)


def test_ctrl_c_keeps_what_a_run_with_a_folder_has_done(data, tmp_path, capsys, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    arguments = [data, "--folder", tmp_path / "run", *QUICK, "--measure-every", "4"]
    with monkeypatch.context() as patched:
        interrupted(patched, at=3)  # before anything was measured
        assert run(*arguments, "--out", tmp_path / "a") == 130
    assert "Stopped after step 3; the same command goes on." in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "a.safetensors").exists()
    with monkeypatch.context() as patched:
        interrupted(patched, at=2)  # there is only step 4 left to do
        assert run(*arguments, "--out", tmp_path / "a") == 0
    assert run(data, *QUICK, "--measure-every", "4", "--out", tmp_path / "whole") == 0
    ids = {load_model(tmp_path / f"{n}.safetensors", "cpu").id for n in ("a", "whole")}
    assert len(ids) == 1


@pytest.mark.parametrize(("at", "said"), [(3, "best at step 2"), (1, "nothing was measured yet")])
def test_ctrl_c_without_a_folder_saves_the_best(at, said, data, tmp_path, capsys, monkeypatch):
    interrupted(monkeypatch, at=at)
    assert run(data, "--out", tmp_path / "a", *QUICK) == 0
    told = capsys.readouterr()
    assert f"Stopped after step {at}; the best network so far is saved." in told.err
    assert said in told.out
    model = load_model(tmp_path / "a.safetensors", "cpu")
    assert model.history[0].settings["steps_done"] == at


def test_the_second_ctrl_c_ends_it_at_once(data, tmp_path, capsys, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    interrupted(monkeypatch, at=3, times=2)
    assert run(data, "--out", tmp_path / "a", *QUICK) == 130
    assert error_of(capsys) == "stopped."
    assert not (tmp_path / "a.safetensors").exists()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is forbidden here")
def test_a_folder_that_may_not_be_written(data, tmp_path, capsys):
    (tmp_path / "closed").mkdir(mode=0o555)
    assert run(data, "--out", tmp_path / "closed" / "a", *QUICK) == 1
    assert "Choose another place for --out" in error_of(capsys)


def test_a_place_that_cannot_be_written_is_found_before_the_training(
    data, tmp_path, capsys, monkeypatch
):
    def refuse(**where):
        assert where["dir"] == tmp_path
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(command.tempfile, "NamedTemporaryFile", refuse)
    assert run(data, "--out", tmp_path / "a", *QUICK) == 1
    said = capsys.readouterr()
    assert f"Nothing can be written to the folder {tmp_path} (Permission denied)" in said.err
    assert "step 2" not in said.err


@pytest.mark.parametrize("ending", [".zip", ".pth", ".pt"])
def test_the_ending_says_in_which_format(ending, data, tmp_path, capsys):
    out = tmp_path / f"cells{ending}"
    assert run(data, "--out", out, *QUICK) == 0
    assert f"Saved {out}\n" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"data", out.name}
    assert load_model(out, "cpu").architecture == "unet"


def test_other_endings_are_refused(data, tmp_path, capsys, monkeypatch):
    assert run(data, "--out", tmp_path / "cells.h5", *QUICK) == 1
    assert "cells.h5 ends in '.h5', which is no kind of model file" in error_of(capsys)
    monkeypatch.setattr("napari_unet.core.checkpoints.saving.onnx.can_write_onnx", lambda: False)
    assert run(data, "--out", tmp_path / "cells.onnx", *QUICK) == 1
    assert "napari-unet-live[onnx]" in error_of(capsys)
    (tmp_path / "a.safetensors").mkdir()
    assert run(data, "--out", tmp_path / "a", "--overwrite", *QUICK) == 1
    assert "is a folder" in error_of(capsys)


def test_a_model_that_a_format_cannot_hold_is_not_lost(data, tmp_path, capsys, monkeypatch):
    from napari_unet.core.checkpoints import saving

    def refuse(model, path):
        raise ModelFileError("It cannot be.")

    monkeypatch.setattr(saving, "write_plain", refuse)
    assert run(data, "--out", tmp_path / "a.pth", *QUICK) == 0
    said = capsys.readouterr()
    assert "It cannot be. The model was saved as a.pth.safetensors instead." in said.err
    assert load_model(tmp_path / "a.pth.safetensors", "cpu").history


@pytest.mark.parametrize("option", ["--network=unet", "--width=4", "--imagenet=a.pth"])
def test_what_is_for_a_new_network_does_not_go_with_a_start(option, data, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        run(data, "--out", tmp_path / "a", "--start", "nuclei", option)
    assert end.value.code == 2
    assert f"{option.partition('=')[0]} is for a new network" in capsys.readouterr().err


def test_values_that_are_no_numbers(data, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(data, "--out", tmp_path / "a", "--values", "a,b")
    said = capsys.readouterr().err
    assert "such as 0,128,255, not 'a,b'" in said and "_numbers" not in said


def test_what_is_known_of_the_encoder_is_told(data, tmp_path, capsys, monkeypatch):
    from napari_unet.core.training import preparing

    (tmp_path / "weights.pth").write_bytes(b"1234")
    monkeypatch.setattr(
        preparing, "load_encoder_weights", lambda network, path: (f"Filled from {path.name}.",)
    )
    options = ["--imagenet", tmp_path / "weights.pth", "--folder", tmp_path / "run"]
    assert run(data, "--out", tmp_path / "a", *options, *QUICK) == 0
    assert "  Filled from weights.pth." in capsys.readouterr().out
    assert "weights.pth, 4 bytes (" in (tmp_path / "run" / "settings.json").read_text()
    (tmp_path / "weights.pth").write_bytes(b"4321")
    assert run(data, "--out", tmp_path / "b", *options, *QUICK) == 1
    assert "a run with imagenet 'weights.pth, 4 bytes" in error_of(capsys)
