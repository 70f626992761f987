"""Folders written by `save_pretrained` of segmentation_models_pytorch."""

import json
import shutil
import warnings

import pytest
import torch
from originals import image_for, import_smp, largest_difference, randomised

from napari_unet.core.checkpoints.containers.archive import Archive
from napari_unet.core.checkpoints.family import recognised
from napari_unet.core.checkpoints.packages.smp_folder import is_smp_folder, read_smp_folder
from napari_unet.core.checkpoints.rebuild import rebuild
from napari_unet.core.errors import ModelFileError

ARGUMENTS = {
    "encoder_name": "mobilenet_v2",
    "encoder_weights": None,
    "in_channels": 1,
    "classes": 3,
    "decoder_channels": [16, 12, 10, 8, 7],
    "decoder_interpolation": "bilinear",
    "activation": "sigmoid",
}


@pytest.fixture(scope="module")
def network():
    smp = import_smp()
    return randomised(smp.Unet(**ARGUMENTS))


@pytest.fixture
def folder(network, tmp_path):
    path = tmp_path / "cells-unet"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.save_pretrained(path)
    return path


def opened(archive):
    evidence = read_smp_folder(archive)
    family = recognised(evidence)
    return evidence, rebuild(evidence, family.name, family.understand(evidence))


def logits(network):
    return lambda image: network.segmentation_head[0](network.decoder(network.encoder(image)))


def test_a_folder_is_opened_and_believed(folder, network):
    archive = Archive.of_path(folder)
    assert is_smp_folder(archive.names())
    evidence, model = opened(archive)
    assert evidence.config["class"] == "Unet"
    assert evidence.config["model"]["encoder_name"] == "mobilenet_v2"
    assert evidence.container == "folder of segmentation_models_pytorch (model.safetensors)"
    assert (model.config.interpolation, model.description.activation) == ("bilinear", "sigmoid")
    assert model.description.name == "cells-unet"
    assert not {"interpolation", "activation"} & set(model.description.assumed)
    assert largest_difference(model.network, logits(network), image_for(1, 64, 96)) <= 1e-5


@pytest.mark.parametrize("inside", [False, True])
def test_a_zip_file_of_it_is_opened(folder, network, tmp_path, inside):
    what = {"root_dir": folder.parent, "base_dir": folder.name} if inside else {"root_dir": folder}
    path = shutil.make_archive(str(tmp_path / "packed"), "zip", **what)
    archive = Archive.of_path(type(folder)(path))
    assert is_smp_folder(archive.names())
    _, model = opened(archive)
    assert largest_difference(model.network, logits(network), image_for(1, 64, 64)) <= 1e-5


def test_weights_of_before_2024_are_opened(folder, network):
    (folder / "model.safetensors").unlink()
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    del config["decoder_use_norm"], config["_model_class"]
    config["decoder_use_batchnorm"] = True
    (folder / "config.json").write_text(json.dumps(config))
    evidence, model = opened(Archive.of_path(folder))
    assert "class" not in evidence.config
    assert largest_difference(model.network, logits(network), image_for(1, 64, 64)) <= 1e-5


def test_another_config_does_no_harm(folder):
    (folder / "config.json").write_text("[1, 2]")
    evidence, model = opened(Archive.of_path(folder))
    assert evidence.container == "folder with config.json and model.safetensors"
    assert model.config.interpolation == "nearest"
    assert "interpolation" in model.description.assumed


def test_a_damaged_config_is_refused(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelFileError, match=r"config\.json"):
        read_smp_folder(Archive.of_path(folder))


@pytest.mark.parametrize(
    ("names", "is_one"),
    [
        (("config.json", "model.safetensors"), True),
        (("x/config.json", "x/model.safetensors", "x/README.md"), True),
        (("config.json", "pytorch_model.bin"), True),
        (("config.json", "x/model.safetensors"), False),
        (("model.safetensors",), False),
        (("config.json", "weights.pt"), False),
        (("a/config.json", "a/model.safetensors", "b/config.json", "b/model.safetensors"), False),
        ((), False),
    ],
)
def test_what_is_such_a_folder(names, is_one):
    assert is_smp_folder(names) == is_one
