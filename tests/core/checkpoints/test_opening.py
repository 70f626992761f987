"""Files of all families, from the path to a model that segments, learns, and is saved again."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_unet.core.checkpoints import answers
from napari_unet.core.checkpoints.card import card_of, changed
from napari_unet.core.checkpoints.saving import write_plain
from napari_unet.core.errors import ChoiceNeeded, ModelFileError, TrainingError, TrustNeeded
from napari_unet.core.finetuning import fine_tune
from napari_unet.core.model import load_model, save_model
from napari_unet.core.progress import finish
from napari_unet.core.segmentation import segment
from napari_unet.core.settings import FineTuneSettings, SegmentSettings
from napari_unet.project import Project
from napari_unet.rounds import training

FIXTURES = Path(__file__).parents[2] / "fixtures" / "checkpoints"
FILES = sorted(path for path in FIXTURES.rglob("*.pt") if path.with_suffix(".npz").exists())
NAMES = [f"{path.parent.name}-{path.stem}" for path in FILES]


CANNOT_TELL = {
    "jvanvugt-same_average": {"padding": "same", "pooling": "average"},
    "jvanvugt-same_norm": {"padding": "same"},
    "jvanvugt-same_upsample": {"padding": "same"},
    "leejunhyun-r2_t3": {"steps": 3},
    "pytorch_3dunet-residual3d_cbe_1.3.9": {"nonlinearity": "elu"},
}
"""What a user has to say of a file that does not say it itself."""


def opened(path):
    model = load_model(path, "cpu")
    for name, value in CANNOT_TELL.get(f"{path.parent.name}-{path.stem}", {}).items():
        model = changed(model, name, value)
    return model


def first_of_each():
    """One file of each family."""
    found = {}
    for path in FILES:
        found.setdefault(path.parent.name, path)
    return list(found.values())


def example_of(path):
    with np.load(path.with_suffix(".npz")) as kept:
        return torch.from_numpy(kept["input"]), torch.from_numpy(kept["output"])


def outcome(model, image):
    with torch.inference_mode():
        return model.network(image)


def image_for(model, size=48):
    shape = (model.config.in_channels, *([16, 40, 40] if model.config.dims == 3 else [size, size]))
    return np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)


def test_there_are_files_of_many_families():
    assert len({path.parent.name for path in FILES}) >= 8


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_file_gives_what_its_original_gave(path):
    model = opened(path)
    image, expected = example_of(path)
    if image.ndim > model.config.dims + 2:  # a network for planes that was kept as one for volumes
        image, expected = image[:, :, 0], expected[:, :, 0]
    found = outcome(model, image)
    if float(expected.min()) >= 0 and float(expected.max()) <= 1:  # it ends in an activation
        activated = (
            found.softmax(1) if model.description.activation == "softmax" else found.sigmoid()
        )
        found = min((found, activated), key=lambda one: float((one - expected).abs().max()))
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-5


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_it_survives_our_own_format_and_its_own(path, tmp_path):
    model = opened(path)
    image, _ = example_of(path)
    image = image[:, :, 0] if image.ndim > model.config.dims + 2 else image
    save_model(model, tmp_path / "own.safetensors")
    again = load_model(tmp_path / "own.safetensors", "cpu")
    assert again.description == model.description
    assert again.config == model.config
    assert again.origin == model.origin
    assert torch.equal(outcome(again, image), outcome(model, image))

    write_plain(again, tmp_path / "plain.pt")
    plain = load_model(tmp_path / "plain.pt", "cpu")
    assert plain.architecture == model.architecture
    kept = torch.load(tmp_path / "plain.pt", weights_only=True)
    before = torch.load(path, weights_only=False)
    while not any(isinstance(value, torch.Tensor) for value in before.values()):
        before = next(value for name, value in before.items() if "state" in name)
    assert {name for name in before if isinstance(before[name], torch.Tensor)} == set(kept)
    for name, value in kept.items():
        assert value.shape == before[name].shape, name
        assert torch.equal(value.float(), before[name].float()), name


@pytest.mark.parametrize("path", first_of_each(), ids=lambda path: path.parent.name)
def test_it_segments_and_learns(path):
    model = load_model(path, "cpu")
    image = image_for(model)
    axes = "czyx"[:1] + "zyx"[-model.config.dims :]
    result = segment(image, model, SegmentSettings(what="classes", precision="full"), axes=axes)
    assert result.labels.shape == image.shape[1:]
    if model.config.dims == 3:
        return
    corrections = np.zeros(image.shape[1:], np.uint8)
    corrections[4:12, 4:12], corrections[24:32, 24:32] = 1, 2
    settings = FineTuneSettings(steps=3, patch_size=32, batch_size=2, learning_rate=1e-3)
    tuned = fine_tune(model, [(image, corrections)], settings, axes=axes)
    assert tuned.id != model.id
    assert len(tuned.history) == 1
    assert tuned.origin == model.origin


def test_what_was_assumed_can_be_changed_and_is_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv("NAPARI_UNET_ANSWERS", str(tmp_path))
    path = FIXTURES / "jvanvugt" / "valid.pt"
    model = load_model(path, "cpu")
    line = next(line for line in card_of(model) if line.name == "padding")
    assert line.state == "assumed"
    other = next(option.value for option in line.options if option.value != line.value)
    same = changed(model, "padding", other)
    assert same.config.padding == other
    assert next(line for line in card_of(same) if line.name == "padding").state == "chosen"

    assert model.origin is not None
    answers.remember(model.origin.sha256, {"padding": other, "normalization": "zscore"})
    again = load_model(path, "cpu")
    assert again.config.padding == other
    assert again.description.normalization.kind == "zscore"
    assert set(again.description.chosen) == {"padding", "normalization"}
    save_model(again, tmp_path / "own.safetensors")
    assert load_model(tmp_path / "own.safetensors", "cpu").config.padding == other


def test_answers_that_make_no_sense_any_more_are_left_out(monkeypatch, tmp_path):
    monkeypatch.setenv("NAPARI_UNET_ANSWERS", str(tmp_path))
    path = FIXTURES / "jvanvugt" / "valid.pt"
    model = load_model(path, "cpu")
    assert model.origin is not None
    (tmp_path / f"{model.origin.sha256[:32]}.json").write_text(
        json.dumps({"padding": 7, "no such thing": 1, "normalization": "weird"})
    )
    again = load_model(path, "cpu")
    assert again.config == model.config
    assert again.description.chosen == ()


def test_a_zip_of_several_models_asks_which(tmp_path):
    import zipfile

    archive = tmp_path / "folds.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("valid", "same_norm"):
            file.write(FIXTURES / "jvanvugt" / f"{name}.pt", f"{name}.pt")
    with pytest.raises(ChoiceNeeded) as caught:
        load_model(archive, "cpu")
    assert caught.value.options == ("valid.pt", "same_norm.pt")
    assert load_model(archive, "cpu", choose="same_norm.pt").architecture == "jvanvugt"


def test_a_missing_tensor_is_named(tmp_path):
    weights = torch.load(FIXTURES / "milesial" / "d_transposed.pt", weights_only=True)
    name = "up2.conv.double_conv.3.weight"
    torch.save({key: value for key, value in weights.items() if key != name}, tmp_path / "m.pth")
    with pytest.raises(ModelFileError, match=name.replace(".", r"\.")):
        load_model(tmp_path / "m.pth", "cpu")


def test_numbers_that_are_none_are_refused(tmp_path):
    weights = torch.load(FIXTURES / "milesial" / "d_transposed.pt", weights_only=True)
    weights["up1.up.weight"][0, 0, 0, 0] = float("nan")
    torch.save(weights, tmp_path / "m.pth")
    with pytest.raises(ModelFileError, match=r"1 of the \d+ tensors .* invalid numbers"):
        load_model(tmp_path / "m.pth", "cpu")


def test_a_part_of_another_network_is_not_passed_over(tmp_path):
    weights = torch.load(FIXTURES / "milesial" / "d_transposed.pt", weights_only=True)
    extra = {f"second.{i}.weight": torch.zeros(2, 2, 3, 3) for i in range(3)}
    torch.save({**weights, **extra}, tmp_path / "m.pth")
    with pytest.raises(ModelFileError, match="another, larger network"):
        load_model(tmp_path / "m.pth", "cpu")


def test_a_few_numbers_more_are_named_and_ignored(tmp_path):
    weights = torch.load(FIXTURES / "milesial" / "d_transposed.pt", weights_only=True)
    torch.save({**weights, "loss.pos_weight": torch.ones(1)}, tmp_path / "m.pth")
    notes = load_model(tmp_path / "m.pth", "cpu").description.notes
    assert any("loss.pos_weight" in note for note in notes)


def test_an_untrained_network_is_told_from_a_trained_one(tmp_path):
    weights = torch.load(FIXTURES / "milesial" / "d_transposed.pt", weights_only=True)
    new = {
        name: torch.zeros_like(value) if name.endswith("running_mean") else value
        for name, value in weights.items()
    }
    torch.save(new, tmp_path / "m.pth")
    notes = load_model(tmp_path / "m.pth", "cpu").description.notes
    assert any("untrained" in note for note in notes)


# ---- what a stranger tripped over


def two_networks(tmp_path):
    """A zip file with one file in it that holds two networks."""
    import zipfile

    valid, same = (
        torch.load(FIXTURES / "jvanvugt" / f"{name}.pt", weights_only=True)
        for name in ("valid", "same_norm")
    )
    torch.save({"netA": valid, "netB": same}, tmp_path / "two.pt")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as file:
        file.write(tmp_path / "two.pt", "two.pt")
    return tmp_path / "two.zip"


def test_a_choice_within_a_file_within_an_archive(tmp_path):
    archive = two_networks(tmp_path)
    with pytest.raises(ChoiceNeeded) as caught:
        load_model(archive, "cpu")
    first, second = caught.value.options
    assert (
        load_model(archive, "cpu", choose=first).id
        == load_model(FIXTURES / "jvanvugt" / "valid.pt", "cpu").id
    )
    assert load_model(archive, "cpu", choose=second).id != load_model(archive, choose=first).id


@pytest.mark.parametrize("about", [{"author": "me"}, "my notes", {"normalization": "zscore"}])
def test_what_others_call_about_is_not_ours(about, tmp_path):
    weights = torch.load(FIXTURES / "milesial" / "d_transposed.pt", weights_only=True)
    torch.save({"state_dict": weights, "about": about}, tmp_path / "inside.pth")
    torch.save(weights, tmp_path / "beside.pth")
    (tmp_path / "config.json").write_text(json.dumps({"model": {"name": "x"}, "about": about}))
    plain = load_model(FIXTURES / "milesial" / "d_transposed.pt", "cpu")
    for name in ("inside.pth", "beside.pth"):
        opened = load_model(tmp_path / name, "cpu")
        assert opened.description.normalization == plain.description.normalization


def test_changed_there_and_back_the_classes_are_those_of_the_file(tmp_path, make_tiny_model):
    named = make_tiny_model(n_classes=3).described(
        class_names=("background", "cell"), output_class=(0, 1, 1), outputs=("a", "b", "c")
    )
    save_model(named, tmp_path / "named.zip")
    before = load_model(tmp_path / "named.zip", "cpu")
    assert before.origin is not None
    for value in ("sigmoid", "softmax"):
        answers.remember(before.origin.sha256, {"activation": value})
    again = load_model(tmp_path / "named.zip", "cpu")
    assert again.description.class_names == ("background", "cell")
    assert again.description.output_class == (0, 1, 1)
    same = changed(before, "activation", "softmax")
    assert same.description.output_class == (0, 1, 1)


def test_a_change_that_cannot_work_is_not_made():
    model = load_model(FIXTURES / "jvanvugt" / "valid.pt", "cpu")
    with pytest.raises(ModelFileError):
        changed(model, "padding", "no such padding")


def test_numbers_are_shown_as_numbers():
    model = load_model(FIXTURES / "leejunhyun" / "r2.pt", "cpu")
    line = next(line for line in card_of(model) if line.name == "steps")
    assert {option.text for option in line.options} >= {"1", "2", "3"}


def test_folders_of_equal_sizes_are_told_apart(tmp_path):
    for name, fixture in (("a", "d_transposed"), ("b", "d_transposed")):
        (tmp_path / name).mkdir()
        weights = torch.load(FIXTURES / "milesial" / f"{fixture}.pt", weights_only=True)
        if name == "b":
            weights["outc.conv.bias"] += 1
        torch.save(weights, tmp_path / name / "model.pt")
    first, second = (load_model(tmp_path / name, "cpu") for name in "ab")
    assert first.origin is not None and second.origin is not None
    assert first.origin.sha256 != second.origin.sha256


def test_synchronised_batch_norm_is_batch_norm(tmp_path):
    from torch import nn

    from napari_unet.core.networks import UNet, UNetConfig

    network = UNet(UNetConfig(dims=3, widths=(2, 4)))
    torch.save(nn.SyncBatchNorm.convert_sync_batchnorm(network), tmp_path / "whole.pth")
    assert load_model(tmp_path / "whole.pth", "cpu").config.dims == 3


class Strange(torch.nn.Module):
    """Decides by what it sees, so that no list of layers can stand for it."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, image):
        """`(b, 1, y, x)` to `(b, 2, y, x)`."""
        found = self.conv(image)
        if bool(found.mean() > 0):
            return found * 2
        return found


@pytest.fixture
def program(tmp_path):
    """A file that only its own program can open."""
    path = tmp_path / "program.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(Strange()), path)
    return path


def test_a_program_runs_only_if_it_is_trusted(program):
    with pytest.raises(TrustNeeded) as caught:
        load_model(program, "cpu")
    assert "torch.jit.load" in caught.value.program
    assert caught.value.reason
    assert caught.value.reason in str(caught.value)
    with pytest.raises(TrustNeeded):
        load_model(program, "cpu", trust="0" * 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load_model(program, "cpu", trust=caught.value.sha256)
    assert model.config.in_channels == 1
    image = np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8)
    assert segment(image, model, SegmentSettings(what="classes")).labels.shape == (40, 40)


def test_a_program_cannot_be_kept_nor_trained_in_a_project(program, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load_model(program, "cpu", trust=True)
    with pytest.raises(ModelFileError, match="only its own file can run"):
        save_model(model, tmp_path / "own.safetensors")
    work = training(model, Project.create(tmp_path / "project"), FineTuneSettings())
    with pytest.raises(TrainingError, match="only its own file can run"):
        finish(work)


def test_what_is_said_of_a_program_is_remembered(program):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load_model(program, "cpu", trust=True)
        assert model.origin is not None
        answers.remember(model.origin.sha256, {"normalization": "zscore"})
        again = load_model(program, "cpu", trust=True)
    assert again.description.normalization.kind == "zscore"
    assert again.description.chosen == ("normalization",)
