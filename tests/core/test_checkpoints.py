"""Models survive saving bit by bit; damaged and hostile files give a sentence and run nothing."""

import json
import os
import pickle
import time
import warnings
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from napari_unet.core import whole_file
from napari_unet.core.checkpoints.native import read_history
from napari_unet.core.device import choose_device
from napari_unet.core.errors import ModelFileError
from napari_unet.core.model import Description, Model, Round, load_model, save_model, weights_id
from napari_unet.core.networks import UNet, UNetConfig
from napari_unet.core.normalization import Normalization
from napari_unet.core.settings import FineTuneSettings, ObjectSettings

CONFIG = UNetConfig(widths=(4, 8), out_channels=3, dropout=0.25)

DESCRIPTION = Description(
    name="all", segments="Zellen, größer als 5 µm", class_names=("background", "cell"),
    outputs=("background", "rim", "core"), output_class=(0, 1, 1), inside=2, channels="DAPI",
    normalization=Normalization(kind="minmax", low=2.0, high=98.5),
    objects=ObjectSettings(threshold=0.4, min_size=7, split=0.25), pixel_size=0.325,
    licence="CC0-1.0", source="a test", card="# Card\n\n* \"quoted\"", assumed=("pixel_size",),
    scores={"spots": {"F1": 0.75, "IoU": 1 / 3}},
)  # fmt: skip

HISTORY = tuple(
    Round(
        id=f"{i + 1:012x}", parent=f"{i:012x}", name=f"round {i + 1}",
        created="2024-01-02T03:04:05+00:00", settings=asdict(FineTuneSettings(seed=i)),
        scores_before={"iou": 0.1 * i}, scores_after={"iou": 0.1 * (i + 1)}, n_corrected=i,
        seconds=1.5,
    )
    for i in range(2)
)  # fmt: skip


def network_of(config, seed=0):
    """A U-Net in which every number is drawn at random."""
    network = UNet(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return network


def model_of(network, description=DESCRIPTION, history=HISTORY):
    return Model(
        network=network, architecture="unet", config=network.config, description=description,
        device=choose_device("cpu"), id=weights_id(network), history=history,
    )  # fmt: skip


@pytest.fixture
def model():
    return model_of(network_of(CONFIG))


@pytest.fixture
def saved(model, tmp_path):
    """A model as a file of this project."""
    path = tmp_path / "saved.safetensors"
    save_model(model, path)
    return path


def assert_same_weights(found, expected):
    found, expected = found.state_dict(), expected.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


def refusal(path):
    """The sentence with which a file is refused."""
    with pytest.raises(ModelFileError) as caught:
        load_model(path, "cpu")
    sentence = str(caught.value)
    assert sentence.endswith((".", ").")), sentence
    return sentence


# --- round trip --------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("upsampling", ["transposed", "linear"])
def test_what_is_saved_comes_back_bit_by_bit(dims, norm, upsampling, tmp_path):
    network = network_of(replace(CONFIG, dims=dims, norm=norm, upsampling=upsampling))
    model = model_of(network, replace(DESCRIPTION, dims=dims))
    save_model(model, tmp_path / "m.safetensors")
    opened = load_model(tmp_path / "m.safetensors", "cpu")
    assert_same_weights(opened.network, network)
    assert opened.config == network.config == opened.network.config
    assert opened.description == model.description
    assert opened.history == HISTORY
    assert (opened.architecture, opened.id) == ("unet", model.id)
    assert not opened.network.training
    assert not any(weights.requires_grad for weights in opened.network.parameters())


def test_what_comes_back_computes_the_same(model, saved):
    image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(load_model(saved, "cpu").network(image), model.network(image))


def test_a_header_that_begins_like_a_pickle(model, tmp_path):
    path = tmp_path / "m.safetensors"
    for length in range(0, 256, 8):  # of the first bytes, which hold the length of the header
        save_model(model.described(card="x" * length), path)
        if path.read_bytes()[:1] == b"\x80":
            break
    assert path.read_bytes()[:1] == b"\x80"
    assert load_model(path, "cpu").history == HISTORY


def test_half_precision_is_rounded_once(model, saved, tmp_path):
    save_model(model, tmp_path / "half.safetensors", half=True)
    opened = load_model(tmp_path / "half.safetensors", "cpu")
    for name, value in model.network.state_dict().items():
        exact = value.half().float() if value.is_floating_point() else value
        assert torch.equal(opened.network.state_dict()[name], exact), name
        assert opened.network.state_dict()[name].dtype == value.dtype
    assert (tmp_path / "half.safetensors").stat().st_size < saved.stat().st_size
    assert opened.description == model.description


def test_half_precision_keeps_what_it_cannot_hold(model, tmp_path):
    variance = model.network.state_dict()["encoder.0.1.running_var"]
    variance[0] = 1e6
    save_model(model, tmp_path / "half.safetensors", half=True)
    opened = load_model(tmp_path / "half.safetensors", "cpu")
    assert torch.equal(opened.network.state_dict()["encoder.0.1.running_var"], variance)


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("m", "m.safetensors"),
        ("m.safetensors", "m.safetensors"),
        ("m.v2", "m.v2.safetensors"),
        ("new/folder/m", "new/folder/m.safetensors"),
    ],
)
def test_the_suffix_and_the_folder_are_made(model, tmp_path, given, written):
    save_model(model, str(tmp_path / given))
    assert load_model(tmp_path / written, "cpu").id == model.id
    files = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {tmp_path / written}


def test_numbers_from_numpy_can_be_saved(model, tmp_path):
    entry = replace(HISTORY[0], settings={"steps": np.int64(5)}, n_corrected=np.int32(3))
    scores = {"spots": {"F1": np.float32(0.5)}}
    odd = replace(model.described(scores=scores), history=(entry,))
    save_model(odd, tmp_path / "m")
    opened = load_model(tmp_path / "m.safetensors", "cpu")
    assert opened.history[0].settings == {"steps": 5}
    assert opened.history[0].n_corrected == 3
    assert opened.description.scores == {"spots": {"F1": 0.5}}


def test_the_history_is_read_from_the_header_alone(saved, tmp_path):
    assert read_history(saved) == HISTORY
    (tmp_path / "broken.safetensors").write_bytes(saved.read_bytes()[:100])
    assert read_history(tmp_path / "broken.safetensors") == ()
    assert read_history(tmp_path / "missing.safetensors") == ()


# --- writing whole or not at all ---------------------------------------------------------------


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_save_leaves_the_old_file(saved, model, monkeypatch, step):
    before = saved.read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_file.os, step, fail)
    other = model.described(name="other")
    with pytest.raises(ModelFileError, match=r"No space left on device.*has room"):
        save_model(other, saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_an_interrupted_save_leaves_the_old_file(saved, model, monkeypatch):
    before = saved.read_bytes()

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(whole_file.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_model(model.described(name="other"), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("place", ["file/m", "folder.safetensors", "x" * 300])
def test_a_place_that_cannot_be_written_gives_a_sentence(model, tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.safetensors").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ModelFileError, match=r"could not be written to .* Choose a folder"):
        save_model(model, tmp_path / place)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
def test_others_may_read_a_model_as_they_may_any_file(saved):
    plain = saved.with_name("plain")
    plain.write_text("plain")
    assert saved.stat().st_mode == plain.stat().st_mode


# --- files that are no models ------------------------------------------------------------------


def test_missing_files_and_folders(tmp_path):
    assert "There is no model file" in refusal(tmp_path / "missing.pth")
    assert "no model file nucleii. Check the path, or use the built-in" in refusal("nucleii")
    assert "holds no model" in refusal(tmp_path)
    assert "No model was named" in refusal("")
    assert "cannot be read" in refusal(tmp_path / ("x" * 300))
    assert "cannot be read" in refusal("nul\0byte")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in refusal(tmp_path / "pipe")


def test_a_file_that_may_not_be_read(saved, monkeypatch):
    def deny(self, *args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert "cannot be read (Permission denied)" in refusal(saved)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\0", "never written completely"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "placeholder"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "is an image (PNG)"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        (bytes(1000), "never written completely"),
    ],
    ids=["empty", "one byte", "HTML", "git-lfs", "PNG", "HDF5", "zeros"],
)
@pytest.mark.parametrize("name", ["m.pth", "m.safetensors", "m"])
def test_other_files_are_refused_whatever_their_name(tmp_path, content, sentence, name):
    (tmp_path / name).write_bytes(content)
    assert sentence in refusal(tmp_path / name)


def test_a_model_opens_whatever_its_name(saved, model, tmp_path):
    saved.rename(tmp_path / "m.pth")
    assert load_model(tmp_path / "m.pth", "cpu").id == model.id


# --- damaged safetensors -----------------------------------------------------------------------


def rewritten(saved, weights=None, **metadata):
    """The file again, with changed header entries (None: left out) or other tensors."""
    with safe_open(str(saved), framework="pt") as file:
        entries = dict(file.metadata()) | metadata
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    entries = {name: value for name, value in entries.items() if value is not None}
    path = saved.with_name("rewritten.safetensors")
    save_file(kept if weights is None else weights, path, metadata=entries)
    return path


def changed_json(saved, part, **changes):
    with safe_open(str(saved), framework="pt") as file:
        values = json.loads(file.metadata()[part]) | changes
    kept = {name: value for name, value in values.items() if value != "left out"}
    return rewritten(saved, **{part: json.dumps(kept)})


def test_a_truncated_file(saved):
    content = saved.read_bytes()
    for n in (9, 100, 2000, len(content) // 2, len(content) - 1):
        saved.write_bytes(content[:n])
        assert "is damaged or incomplete" in refusal(saved)


@pytest.mark.parametrize("name", [None, "other"])
def test_a_file_of_another_project_is_read_by_its_tensors(saved, model, name):
    opened = load_model(rewritten(saved, format=name), "cpu")
    assert opened.id == model.id
    assert "class_names" in opened.description.assumed


def test_bare_tensors_are_no_network(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "bare.safetensors")
    assert "no convolution" in refusal(tmp_path / "bare.safetensors")


def test_a_file_of_a_newer_version(saved):
    assert "newer version of napari-unet-live (format 3" in refusal(rewritten(saved, version="3"))


@pytest.mark.parametrize("part", ["version", "architecture", "config", "description", "history"])
def test_a_header_that_lacks_a_part(saved, part):
    assert f"rewritten.safetensors is damaged ({part!r})" in refusal(
        rewritten(saved, **{part: None})
    )


@pytest.mark.parametrize("part", ["version", "config", "description", "history"])
@pytest.mark.parametrize("value", ["", "x", "[1]", '"text"', "null", "5.5", "[" * 100_000])
def test_a_header_with_nonsense_in_a_part(saved, part, value):
    assert "The description inside rewritten.safetensors is damaged" in refusal(
        rewritten(saved, **{part: value})
    )


def test_an_unknown_architecture(saved):
    assert "'transformer' is not known here; known are unet" in refusal(
        rewritten(saved, architecture="transformer")
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"widths": "left out"},
        {"widths": []},
        {"widths": [4, 0]},
        {"widths": [4, -8]},
        {"widths": [4.0, 8]},
        {"widths": ["4", 8]},
        {"widths": [4] * 17},
        {"dims": 2.0},
        {"dims": 4},
        {"in_channels": 0},
        {"out_channels": True},
        {"dropout": 1.5},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_config_that_makes_no_sense(saved, changes):
    assert "is damaged" in refusal(changed_json(saved, "config", **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "left out"},
        {"name": 5},
        {"card": None},
        {"normalization": {"kind": "magic"}},
        {"activation": "relu"},
        {"objects": {"threshold": "high"}},
        {"objects": {"threshold": 2}},
        {"outputs": 3},
        {"output_class": ["a", "b", "c"]},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_description_that_makes_no_sense(saved, changes):
    assert "is damaged" in refusal(changed_json(saved, "description", **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"dims": 3},
        {"in_channels": 2},
        {"activation": "none", "inverted": True},
        {"inside": 9},
        {"class_names": []},
    ],
    ids=str,
)
def test_a_description_of_something_else(saved, changes):
    assert "is inconsistent" in refusal(changed_json(saved, "description", **changes))


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("head.bias"),
        lambda weights: weights.update(extra=torch.zeros(1)),
        lambda weights: weights.update({"head.bias": torch.zeros(4)}),
        lambda weights: weights.update({"head.weight": torch.zeros(3, 4)}),
    ],
    ids=["missing", "extra", "another size", "another rank"],
)
def test_weights_that_do_not_fit(saved, model, change):
    weights = dict(model.network.state_dict())
    change(weights)
    assert "do not fit the network" in refusal(rewritten(saved, weights))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int32])
def test_weights_of_other_types_become_float32(saved, model, dtype):
    weights = {name: value.to(dtype) for name, value in model.network.state_dict().items()}
    opened = load_model(rewritten(saved, weights), "cpu").network.state_dict()
    for name, value in model.network.state_dict().items():
        assert opened[name].dtype == value.dtype, name
        assert torch.equal(opened[name], value.to(dtype).to(value.dtype))


def peak_memory():
    """In bytes, of this process so far."""
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux


@pytest.mark.parametrize("widths", [[10**6] * 2, [10**9] * 5, [10**12], [10**20, 4]])
def test_a_config_of_giants_takes_no_memory(saved, widths):
    path = changed_json(saved, "config", widths=widths)
    before, start = peak_memory(), time.perf_counter()
    refusal(path)
    assert peak_memory() - before < 2**27
    assert time.perf_counter() - start < 5


# --- plain state dicts -------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("upsampling", ["transposed", "linear"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_state_dict_of_any_own_network(dims, norm, upsampling, is_zip, tmp_path):
    config = UNetConfig(
        dims=dims, norm=norm, upsampling=upsampling, widths=(4, 6, 8), in_channels=2,
        out_channels=3,
    )  # fmt: skip
    network = network_of(config)
    path = tmp_path / "weights.pth"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=is_zip)
    opened = load_model(path, "cpu")
    assert opened.config == config
    assert_same_weights(opened.network, network)
    assert opened.description.dims == dims
    assert opened.description.in_channels == 2
    assert opened.description.channels == "2 channels"
    assert opened.description.class_names == ("background", "class 1", "class 2")
    assert opened.description.activation == "softmax"
    assert {"class_names", "normalization", "activation"} <= set(opened.description.assumed)
    assert opened.description.name == "weights"
    assert opened.history == ()


@pytest.mark.parametrize("widths", [(4,), (4, 8), (2, 3, 4, 5)])
def test_a_state_dict_with_one_output_is_a_sigmoid_network(widths, tmp_path):
    network = network_of(UNetConfig(widths=widths, out_channels=1))
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    opened = load_model(tmp_path / "weights.pt", "cpu")
    assert opened.config == network.config
    assert opened.description.activation == "sigmoid"
    assert opened.description.class_names == ("background", "object")
    assert opened.description.output_class == (1,)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"state_dict": weights, "epoch": 3},
        lambda weights: {"model_state_dict": weights, "optimizer": {"lr": 0.1}},
        lambda weights: {"model": {"state_dict": weights}},
        lambda weights: {"network": dict(weights)},
        lambda weights: {f"module.{name}": value for name, value in weights.items()},
        lambda weights: {"state_dict": {f"module.{n}": value for n, value in weights.items()}},
        lambda weights: {name: value.half() for name, value in weights.items()},
    ],
    ids=["state_dict", "model_state_dict", "nested", "network", "module.", "both", "half"],
)
def test_the_usual_wrappers(wrap, tmp_path):
    network = network_of(CONFIG)
    for value in network.state_dict().values():
        value.copy_(value.half() if value.is_floating_point() else value)
    torch.save(wrap(network.state_dict()), tmp_path / "weights.pth")
    assert_same_weights(load_model(tmp_path / "weights.pth", "cpu").network, network)


def test_a_saved_state_dict_becomes_a_file_of_this_project(tmp_path):
    torch.save(network_of(CONFIG).state_dict(), tmp_path / "weights.pth")
    opened = load_model(tmp_path / "weights.pth", "cpu")
    save_model(opened, tmp_path / "own")
    again = load_model(tmp_path / "own.safetensors", "cpu")
    assert again.description == opened.description
    assert again.id == opened.id


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "No network was found"),
        ([1, 2], "No network was found"),
        (torch.zeros(3), "No network was found"),
        ({"a": 1}, "It holds: a"),
        ({"state_dict": {"a": torch.zeros(1), "b": "text"}}, "no convolution"),
        ({"conv.weight": torch.zeros(1)}, "no convolution"),
        ({"encoder.0.0.weight": torch.zeros(4, 1, 3, 3)}, "weights.pth"),
        (
            {"encoder.0.0.weight": torch.zeros(4, 1, 3), "head.weight": torch.zeros(2, 4, 1)},
            "no convolution",
        ),
        (
            {
                "encoder.0.0.weight": torch.zeros(4, 1, 3, 3),
                "encoder.0.2.weight": torch.zeros(4, 4, 3, 3, 3),
                "head.weight": torch.zeros(2, 4, 1, 1, 1),
            },
            "neither all 2D nor all 3D",
        ),
        (
            {
                "encoder.0.0.weight": torch.zeros(0, 1, 3, 3),
                "encoder.0.2.weight": torch.zeros(0, 0, 3, 3),
                "head.weight": torch.zeros(2, 0, 1, 1),
            },
            "shapes that no U-Net has",
        ),
        (
            {
                "encoder.0.0.weight": torch.zeros(4, 1, 3, 3),
                "encoder.0.2.weight": torch.zeros(4, 4, 3, 3),
                "head.weight": torch.zeros(2, 4, 1, 1),
            },
            "3 of its 6 tensors are missing",
        ),
    ],
)
def test_other_contents_are_refused(content, sentence, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    assert sentence in refusal(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.to_sparse(),
        lambda value: value.to(torch.complex64),
        lambda value: torch.empty(value.shape, device="meta"),
    ],
    ids=["sparse", "complex", "meta"],
)
def test_odd_tensors_are_refused(change, tmp_path):
    weights = network_of(UNetConfig(widths=(4,))).state_dict()
    weights["head.bias"] = change(weights["head.bias"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about sparse tensors
        torch.save(weights, tmp_path / "weights.pth")
        assert refusal(tmp_path / "weights.pth")


def test_tensors_that_only_claim_to_be_large_take_no_memory(tmp_path):
    with torch.device("meta"):
        claimed = UNet(UNetConfig(widths=(100_000,), norm="none")).state_dict()
    weights = {n: torch.zeros((), dtype=torch.half).expand(v.shape) for n, v in claimed.items()}
    torch.save(weights, tmp_path / "weights.pth")
    assert (tmp_path / "weights.pth").stat().st_size < 10_000
    before = peak_memory()
    assert "declares more numbers" in refusal(tmp_path / "weights.pth")
    assert peak_memory() - before < 2**27


def test_a_packed_archive_is_not_unpacked(tmp_path):
    torch.save({"weights": torch.zeros(20_000_000)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for part in plain.infolist():
            packed.writestr(part.filename, plain.read(part))
    assert "unpack" in refusal(tmp_path / "packed.pth")


# --- code in files -----------------------------------------------------------------------------


class Payload:
    """Unpickling this runs a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"echo hacked > {self.path}",)


def test_the_payload_of_these_tests_works(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda payload: payload,
        lambda payload: {"state_dict": payload},
    ],
    ids=["alone", "wrapped"],
)
def test_code_in_a_checkpoint_never_runs(tmp_path, wrap, is_zip):
    path = tmp_path / "evil.pth"
    torch.save(wrap(Payload(tmp_path / "ran")), path, _use_new_zipfile_serialization=is_zip)
    assert "asks to run code on your computer" in refusal(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_beside_weights_never_runs(tmp_path, is_zip):
    network, path = network_of(CONFIG), tmp_path / "evil.pth"
    content = {**network.state_dict(), "extra": Payload(tmp_path / "ran")}
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    opened = load_model(path, "cpu")
    assert_same_weights(opened.network, network)
    assert any("asks to run code" in note for note in opened.description.notes)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", ["evil.pth", "evil.pt", "evil.safetensors"])
def test_code_in_a_plain_pickle_never_runs(tmp_path, protocol, name):
    with (tmp_path / name).open("wb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pickle.dump(Payload(tmp_path / "ran"), file, protocol=protocol)
    refusal(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_whole_module_is_read_without_its_code(tmp_path):
    network = network_of(CONFIG)
    torch.save(network, tmp_path / "module.pth")
    opened = load_model(tmp_path / "module.pth", "cpu")
    assert opened.config == replace(CONFIG, dropout=0.0)
    assert_same_weights(opened.network, network)


def test_a_changed_copy_of_a_known_network_is_not_taken_for_it(tmp_path):
    network = network_of(CONFIG)
    network.encoder[0][0].padding_mode = "reflect"
    torch.save(network, tmp_path / "module.pth")
    assert "its padding_mode is reflect" in refusal(tmp_path / "module.pth")


def test_a_torchscript_archive_is_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(nn.ReLU()), tmp_path / "script.pt")
        assert refusal(tmp_path / "script.pt")


@pytest.mark.parametrize("kind", ["native", "zip", "pickle"])
def test_damage_anywhere_gives_a_model_or_a_sentence(kind, tmp_path):
    network = network_of(UNetConfig(widths=(2, 4)))
    path = tmp_path / "m.safetensors"
    if kind == "native":
        save_model(model_of(network, Description(name="m")), path)
    else:
        torch.save(network.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    size = len(content) if kind != "native" else int.from_bytes(content[:8], "little") + 8
    generator = np.random.default_rng(0)
    n_refused = 0
    for i in range(150):
        damaged = bytearray(content)
        if i % 3 == 0:
            del damaged[generator.integers(0, len(content)) :]
        else:
            damaged[generator.integers(0, size)] = generator.integers(0, 256)
        path.write_bytes(damaged)
        try:
            load_model(path, "cpu")
        except ModelFileError:
            n_refused += 1
    assert n_refused >= 50
