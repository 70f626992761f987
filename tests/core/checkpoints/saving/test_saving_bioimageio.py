"""Saved packages are valid, and are opened here again just as they were."""

from __future__ import annotations

import gc
import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from originals import image_for, randomised

from napari_unet.core.checkpoints.building import Wishes
from napari_unet.core.checkpoints.containers.archive import Archive
from napari_unet.core.checkpoints.opening import open_checkpoint
from napari_unet.core.checkpoints.packages.bioimageio import read_bioimageio
from napari_unet.core.checkpoints.packages.bioimageio_own import own_model
from napari_unet.core.checkpoints.packages.bioimageio_testing import check_test_tensors
from napari_unet.core.checkpoints.saving import network, write_bioimageio
from napari_unet.core.checkpoints.saving import onnx as saving
from napari_unet.core.device import choose_device
from napari_unet.core.errors import ModelFileError
from napari_unet.core.model import Description, Model, weights_id
from napari_unet.core.networks import UNet, UNetConfig
from napari_unet.core.normalization import Normalization
from napari_unet.core.settings import ObjectSettings

FIXTURES = Path(__file__).parents[3] / "fixtures" / "checkpoints"


def model_of(about: dict[str, Any] | None = None, **config: Any) -> Model:
    made = UNetConfig(widths=(2, 4), **config)
    net = randomised(UNet(made)).requires_grad_(False)
    values = {"name": "dividing cells/µ", "dims": made.dims, "in_channels": made.in_channels}
    return Model(
        network=net, architecture="unet", config=made, device=choose_device("cpu"),
        description=Description(**values | (about or {})), id=weights_id(net),
    )  # fmt: skip


CELLS = {
    "segments": "cells",
    "channels": "membrane stain, nuclear stain",
    "class_names": ("background", "cell"),
    "outputs": ("background", "core", "border"),
    "output_class": (0, 1, -1),
    "border": 2,
    "pixel_size": 0.325,
    "licence": "CC-BY-4.0",
    "source": "measured by us",
    "normalization": Normalization(kind="range", clip=None, offset=(0.4, 0.5), scale=(0.2, 0.3)),
    "objects": ObjectSettings(threshold=0.4, min_size=12),
}
GREY = {
    "outputs": ("cell",),
    "output_class": (1,),
    "activation": "sigmoid",
    "inverted": True,
    "normalization": Normalization(kind="zscore", eps=1e-8, clip=None),
}
VALID = [
    (CELLS, {"in_channels": 2, "out_channels": 3}),
    (GREY, {"out_channels": 1}),
    ({}, {"dims": 3, "upsampling": "linear"}),
]


@pytest.mark.parametrize(("about", "config"), VALID, ids=["cells", "grey", "volume"])
def test_saved_package_is_opened_again_as_it_was(
    about: dict[str, Any], config: dict[str, Any], tmp_path: Path
) -> None:
    model = model_of(about, **config)
    write_bioimageio(model, tmp_path / "saved", authors=["Jane Doe"])
    opened = open_checkpoint(tmp_path / "saved.zip", "cpu")
    assert opened.id == model.id and opened.config == model.config
    for name in (
        "name", "segments", "channels", "class_names", "outputs", "output_class", "border",
        "activation", "inverted", "pixel_size", "normalization", "objects", "licence", "source",
    ):  # fmt: skip
        assert getattr(opened.description, name) == getattr(model.description, name), name
    assert any("is reproduced" in note for note in opened.description.notes)
    package = read_bioimageio(Archive.of_path(tmp_path / "saved.zip"))
    difference = check_test_tensors(package, opened.network)
    assert difference is not None and difference <= 1e-5


@pytest.mark.parametrize(("about", "config"), VALID, ids=["cells", "grey", "volume"])
def test_saved_package_is_valid(
    about: dict[str, Any], config: dict[str, Any], tmp_path: Path
) -> None:
    write_bioimageio(model_of(about, **config), tmp_path / "saved.zip")
    check_valid(tmp_path / "saved.zip")


def check_valid(path: Path) -> None:
    """Fail unless the community's own library finds nothing wrong with a package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = pytest.importorskip("bioimageio.spec")
        described = spec.load_description(path, perform_io_checks=True)
        summary, kind = described.validation_summary, type(described).__name__
        del described
        gc.collect()  # it leaves files open
    assert summary.status != "failed", summary.format()
    assert kind == "ModelDescr"
    assert not [error for detail in summary.details for error in detail.errors]


def test_all_weights_in_a_package_give_the_same(tmp_path: Path) -> None:
    model = model_of(CELLS, in_channels=2, out_channels=3)
    write_bioimageio(model, tmp_path / "saved.zip")
    image = image_for(2, 22, 30)
    wanted = model.network(image)
    with zipfile.ZipFile(tmp_path / "saved.zip") as archive:
        description = yaml.safe_load(archive.read("bioimageio.yaml"))
        said = description["weights"]["pytorch_state_dict"]["architecture"]
        assert (said["import_from"], said["callable"]) == (
            network.__module__.rpartition(".")[0],
            "network",
        )
        built = network(**said["kwargs"]).eval()
        built.load_state_dict(torch.load(io.BytesIO(archive.read("weights.pt")), weights_only=True))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.load(io.BytesIO(archive.read("weights.torchscript.pt")))
        assert torch.equal(built(image), wanted)
        assert (traced(image) - wanted).abs().max() <= 1e-5
        if saving.can_write_onnx():
            onnxruntime = pytest.importorskip("onnxruntime")
            session = onnxruntime.InferenceSession(
                archive.read("weights.onnx"), providers=["CPUExecutionProvider"]
            )
            found = session.run(None, {"input": image.numpy()})[0]
            assert np.abs(found - wanted.numpy()).max() <= 1e-5


def test_what_the_description_says(tmp_path: Path) -> None:
    write_bioimageio(model_of(CELLS, in_channels=2, out_channels=3), tmp_path / "saved.zip")
    with zipfile.ZipFile(tmp_path / "saved.zip") as archive:
        said = yaml.safe_load(archive.read("bioimageio.yaml"))
        text = archive.read("README.md").decode()
        picture = archive.read("cover.png")
    y, x = said["inputs"][0]["axes"][2:]
    assert (y["unit"], y["scale"], y["size"]["step"], x["id"]) == ("micrometer", 0.325, 2, "x")
    halo = said["outputs"][0]["axes"][2]["halo"]
    assert halo > 0 and y["size"]["min"] > 2 * halo
    assert said["license"] == "CC-BY-4.0"
    assert said["name"] == "dividing cells"
    assert "## Validation" in text and "measured by us" in text and "uint8" in text
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
    assert picture[:4] == b"\x89PNG" and width == 2 * height


def test_the_example_is_the_middle_of_an_image(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 60000, (1, 75, 301)).astype(np.uint16)
    write_bioimageio(model_of({"licence": "ask us"}), tmp_path / "saved.zip", image)
    with zipfile.ZipFile(tmp_path / "saved.zip") as archive:
        said = yaml.safe_load(archive.read("bioimageio.yaml"))
        shown = np.load(io.BytesIO(archive.read("test_input.npy")))
    assert shown.dtype == np.uint16 and said["inputs"][0]["data"]["type"] == "uint16"
    assert shown.shape == (1, 1, 74, 256)
    assert np.array_equal(shown[0, 0], image[0, 0:74, 22:278])
    assert "license" not in said


def test_a_small_image_is_mirrored(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((1, 5, 7))
    write_bioimageio(model_of(), tmp_path / "saved.zip", image)
    with zipfile.ZipFile(tmp_path / "saved.zip") as archive:
        shown = np.load(io.BytesIO(archive.read("test_input.npy")))
    assert shown.dtype == np.float32 and min(shown.shape[2:]) > 7
    assert np.array_equal(shown[0, 0, :5, :7], image[0].astype(np.float32))
    assert np.array_equal(shown[0, 0, 5], shown[0, 0, 4])


@pytest.mark.parametrize("name", ["d_transposed", "a_bilinear"])
def test_a_network_of_others_goes_through(name: str, tmp_path: Path) -> None:
    model = open_checkpoint(FIXTURES / "milesial" / f"{name}.pt", "cpu")
    write_bioimageio(model, tmp_path / "saved.zip")
    opened = open_checkpoint(tmp_path / "saved.zip", "cpu")
    assert opened.architecture == "milesial" and opened.id == model.id
    assert any("is reproduced" in note for note in opened.description.notes)


def test_what_the_weights_do_not_tell_comes_back(tmp_path: Path) -> None:
    file = FIXTURES / "jvanvugt" / "valid.pt"
    model = open_checkpoint(file, "cpu", changes={"padding": "same"})
    assert model.config != open_checkpoint(file, "cpu", changes={}).config
    write_bioimageio(model, tmp_path / "saved.zip")
    package = read_bioimageio(Archive.of_path(tmp_path / "saved.zip"))
    again = own_model(package, Wishes())
    assert again is not None and again.config == model.config and again.id == model.id
    assert again.description.assumed == model.description.assumed
    difference = check_test_tensors(package, again.network)
    assert difference is not None and difference <= 1e-5


def test_packages_of_others_are_not_our_own() -> None:
    package = read_bioimageio(Archive.of_path(FIXTURES / "bioimageio" / "example.zip"))
    assert own_model(package, Wishes()) is None


def test_unpadded_networks_say_how_much_smaller_the_result_is(tmp_path: Path) -> None:
    model = open_checkpoint(FIXTURES / "jvanvugt" / "valid.pt", "cpu")
    write_bioimageio(model, tmp_path / "saved.zip")
    with zipfile.ZipFile(tmp_path / "saved.zip") as archive:
        said = yaml.safe_load(archive.read("bioimageio.yaml"))
        shown, result = (
            np.load(io.BytesIO(archive.read(f"test_{kind}.npy"))) for kind in ("input", "output")
        )
    axis = said["outputs"][0]["axes"][2]
    assert axis["size"]["offset"] == result.shape[2] - shown.shape[2] < 0
    assert "halo" not in axis
    check_valid(tmp_path / "saved.zip")


def test_without_onnx_the_package_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "napari_unet.core.checkpoints.saving.bioimageio.can_write_onnx", lambda: False
    )
    write_bioimageio(model_of(), tmp_path / "saved.zip")
    with zipfile.ZipFile(tmp_path / "saved.zip") as archive:
        assert "weights.onnx" not in archive.namelist()
        assert "onnx" not in yaml.safe_load(archive.read("bioimageio.yaml"))["weights"]


@pytest.mark.parametrize(
    ("about", "image", "sentence"),
    [
        ({"normalization": Normalization(kind="zscore", nonzero=True)}, None, "no word"),
        ({}, np.zeros((2, 64, 64)), "example image has the shape"),
        ({}, np.zeros((64, 64)), "example image has the shape"),
    ],
)
def test_what_cannot_be_saved_is_said(
    about: dict[str, Any], image: np.ndarray | None, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match=sentence):
        write_bioimageio(model_of(about), tmp_path / "saved.zip", image)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("architecture", "config"), [("nothing", {}), ("unet", {"dims": "two"}), ("unet", {"depth": 3})]
)
def test_networks_that_do_not_exist(architecture: str, config: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError):
        network(architecture, config)
