"""`napari-unet train`: a folder of images and masks in, a model out."""

import csv

import numpy as np
import pytest
import tifffile

from napari_unet import cli
from napari_unet.cli import training as command
from napari_unet.core.errors import TrainingError
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
    changed = set(vars(command)["HELPS"])
    assert changed >= {name for name in TrainSettings.__slots__ if name != "augmentation"}


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
    assert run(data, "--out", tmp_path / "b", "--start", start, *QUICK) == 0
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
    monkeypatch.setattr(datasets, "check", lambda dataset, what: problems)
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
