"""Packages of bioimage.io: what they say, and whether it is understood rightly."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from napari_unet.core.checkpoints.containers.archive import Archive
from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.families.bioimageio_example import FAMILY
from napari_unet.core.checkpoints.family import recognised
from napari_unet.core.checkpoints.opening import open_checkpoint
from napari_unet.core.checkpoints.packages.bioimageio import (
    Package,
    is_bioimageio,
    read_bioimageio,
)
from napari_unet.core.checkpoints.packages.bioimageio_normalization import (
    normalization_of,
    steps_of,
)
from napari_unet.core.checkpoints.packages.bioimageio_processing import Step, apply_steps
from napari_unet.core.checkpoints.packages.bioimageio_testing import (
    check_test_tensors,
    read_test_tensors,
    reproduced,
    told,
)
from napari_unet.core.errors import ModelFileError
from napari_unet.core.normalization import Normalization, normalise, scale_of

EXAMPLE = Path(__file__).parents[3] / "fixtures" / "checkpoints" / "bioimageio" / "example.zip"


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def packed(folder: Path, description: Any, **files: bytes) -> Archive:
    """A zip with a description and other files; "__" in their names stands for a dot."""
    path = folder / "package.zip"
    with zipfile.ZipFile(path, "w") as archive:
        text = description if isinstance(description, str) else yaml.safe_dump(description)
        archive.writestr("rdf.yaml", text)
        for name, content in files.items():
            archive.writestr(name.replace("__", "."), content)
    return Archive.of_path(path)


def old(**changes: Any) -> dict[str, Any]:
    """A description in format 0.4 of a 3D model with two channels."""
    entry = {
        "name": "raw", "axes": "bczyx", "data_type": "float32",
        "shape": {"min": [1, 2, 8, 16, 32], "step": [0, 0, 4, 8, 16]},
        "preprocessing": [
            {"name": "scale_range", "kwargs": {
                "mode": "per_sample", "axes": "zyx", "min_percentile": 5, "max_percentile": 98,
            }},
        ],
    }  # fmt: skip
    result = {
        "name": "out", "axes": "bczyx", "data_type": "float32", "halo": [0, 0, 2, 4, 4],
        "shape": {
            "reference_tensor": "raw", "scale": [1, 0, 1, 1, 1], "offset": [0, 1.5, 0, 0, 0],
        },
        "postprocessing": [{"name": "sigmoid"}],
    }  # fmt: skip
    weights = {
        "pytorch_state_dict": {
            "source": "weights.pt", "architecture": "unet.py:Net", "kwargs": {"depth": 2},
        }
    }  # fmt: skip
    return {
        "format_version": "0.4.10", "type": "model", "name": "Old model", "license": "CC-BY-4.0",
        "inputs": [entry], "outputs": [result], "weights": weights,
        "test_inputs": ["in.npy"], "test_outputs": ["out.npy"], **changes,
    }  # fmt: skip


@pytest.fixture
def example() -> Package:
    return read_bioimageio(Archive.of_path(EXAMPLE))


def network_of(package: Package) -> torch.nn.Module:
    content = package.archive.read(package.weights[0].name)
    weights = torch.load(io.BytesIO(content), weights_only=True)
    evidence = Evidence(name="weights.pt", container="", tensors=weights)
    assert recognised(evidence) is FAMILY
    network = FAMILY.network(FAMILY.understand(evidence).config)
    network.load_state_dict(weights, strict=True)
    return network.eval()


@pytest.mark.parametrize(
    ("names", "is_one"),
    [
        (["rdf.yaml", "weights.pt"], True),
        (["bioimageio.yaml"], True),
        (["folder/rdf.yaml", "folder/weights.pt"], True),
        (["v0_4.bioimageio.yaml"], True),
        (["a/b/rdf.yaml"], False),
        (["model.yaml"], False),
        (["config.yaml", "weights.pt"], False),
    ],
)
def test_packages_are_known_by_their_description(names: list[str], is_one: bool) -> None:
    assert is_bioimageio(names) is is_one


# --- the example of the specification ----------------------------------------------------------


def test_example_says_what_it_is(example: Package) -> None:
    about = example.about
    assert example.version == (0, 5, 4)
    assert about["name"] == "Example of the specification"
    assert (about["dims"], about["in_channels"], about["channels"]) == (2, 1, "nuclei stain")
    assert about["normalization"] == Normalization(kind="zscore", eps=1e-6, clip=None)
    assert about["activation"] == "sigmoid"
    assert about["pixel_size"] == pytest.approx(0.25)
    assert about["licence"] == "MIT"
    assert "Jane Doe, John Doe" in about["source"]
    assert "10.1007/978-3-319-24574-4_28" in about["card"] and "Made for tests" in about["card"]
    assert (example.min_size, example.step, example.halo) == ((32, 32), (8, 8), (8, 8))
    assert example.config["class"] == "UNet2d"
    assert example.config["model"] == {"input_channels": 1, "output_channels": 1}


def test_example_has_only_the_weights_that_are_in_it(example: Package) -> None:
    assert [(one.kind, one.name) for one in example.weights] == [
        ("pytorch_state_dict", "weights.pt")
    ]
    notes = " ".join(example.notes)
    assert "https://example.com" in notes and "tensorflow_js" in notes and "weights.onnx" in notes


def test_example_is_reproduced(example: Package) -> None:
    difference = check_test_tensors(example, network_of(example))
    assert difference is not None and difference <= 1e-5
    assert "is reproduced" in told(example, difference)


def test_another_network_does_not_reproduce_it(example: Package) -> None:
    network = network_of(example)
    with torch.no_grad():
        network.get_parameter("output.bias").add_(1)
    difference = check_test_tensors(example, network)
    assert difference is not None and difference > 0.1
    assert "not reproduced" in told(example, difference)


def test_example_is_opened_as_a_model() -> None:
    model = open_checkpoint(EXAMPLE, "cpu")
    assert model.architecture == "bioimageio_example"
    assert model.description.activation == "sigmoid"
    assert model.description.normalization.kind == "zscore"
    assert "normalization" not in model.description.assumed
    assert any("is reproduced" in note for note in model.description.notes)


def test_normalising_as_the_package_says_is_what_happens_here(example: Package) -> None:
    pair = read_test_tensors(example)
    assert pair is not None
    found = normalise(pair[0][0], scale_of(pair[0][0], example.about["normalization"]))
    wanted = apply_steps(pair[0], example.input.steps)[0]
    assert np.abs(found - wanted).max() <= 1e-5


def test_a_network_with_its_activation_inside_is_found_out(example: Package) -> None:
    from dataclasses import replace

    network = network_of(example)
    without = replace(example, output=replace(example.output, steps=()))
    found = reproduced(without, network)
    assert found is not None and found[1] == "sigmoid" and found[0] <= 1e-5
    inside = reproduced(without, lambda image: torch.sigmoid(network(image)))
    assert inside is not None and inside[1] == "" and inside[0] <= 1e-5


# --- other descriptions ------------------------------------------------------------------------


def test_old_format(tmp_path: Path) -> None:
    image, result = np.zeros((1, 2, 8, 16, 32), np.float32), np.zeros((1, 3, 8, 16, 32), np.float32)
    archive = packed(tmp_path, old(), weights__pt=b"1", in__npy=npy(image), out__npy=npy(result))
    package = read_bioimageio(archive)
    assert (package.min_size, package.step, package.halo) == ((8, 16, 32), (4, 8, 16), (2, 4, 4))
    wanted = Normalization(kind="percentile", low=5, high=98, eps=1e-6, clip=None)
    assert package.about["normalization"] == wanted
    assert (package.about["dims"], package.about["in_channels"]) == (3, 2)
    assert package.about["output_class"] == (1, 2, 3)
    assert (package.config["class"], package.config["model"]) == ("Net", {"depth": 2})
    assert check_test_tensors(package, lambda x: torch.full((1, 3, *x.shape[2:]), -9.0)) == (
        pytest.approx(1 / (1 + np.exp(9)))
    )
    with pytest.raises(ModelFileError, match="where the package says"):
        check_test_tensors(package, lambda x: x)


def test_channels_may_come_last(tmp_path: Path) -> None:
    description = old()
    description["inputs"][0] |= {"axes": "byxc", "shape": [1, 16, 24, 3], "preprocessing": []}
    image = np.random.default_rng(0).random((1, 16, 24, 3))
    result = np.zeros((1, 3, 8, 16, 32), np.float32)
    archive = packed(
        tmp_path, description, weights__pt=b"1", in__npy=npy(image), out__npy=npy(result)
    )
    package = read_bioimageio(archive)
    pair = read_test_tensors(package)
    assert pair is not None and np.array_equal(pair[0], image.transpose(0, 3, 1, 2))
    assert (package.about["in_channels"], package.min_size) == (3, (16, 24))
    assert any("no step before" in note for note in package.notes)


def new(names: list[str], post: list[dict[str, Any]]) -> dict[str, Any]:
    """A description in format 0.5 of a 2D model."""
    space = [{"type": "space", "id": axis, "size": 16} for axis in "yx"]
    channel = {"type": "channel", "channel_names": ["a"]}
    return {
        "format_version": "0.5.9", "type": "model", "name": "New model",
        "inputs": [{"id": "raw", "axes": [{"type": "batch"}, channel, *space]}],
        "outputs": [{
            "id": "out", "axes": [{"type": "batch"}, channel | {"channel_names": names}, *space],
            "postprocessing": post,
        }],
        "weights": {"torchscript": {"source": "weights.pt"}},
    }  # fmt: skip


SIGMOID = {"id": "sigmoid"}
SOFTMAX = {"id": "softmax", "kwargs": {"axis": "channel"}}


@pytest.mark.parametrize(
    ("names", "post", "wanted"),
    [
        (
            ["foreground", "boundaries"],
            [SIGMOID],
            {"class_names": ("background", "foreground"), "output_class": (1, -1), "border": 1},
        ),
        (
            ["background", "cell", "cell border"],
            [SOFTMAX],
            {"class_names": ("background", "cell"), "output_class": (0, 1, -1), "border": 2},
        ),
        (["channel0", "channel1"], [SIGMOID], {"output_class": (1, 2), "activation": "sigmoid"}),
        (
            ["p"],
            [SIGMOID, {"id": "binarize", "kwargs": {"threshold": 0.3}}],
            {"output_class": (1,)},
        ),
        (
            ["p"],
            [SIGMOID, {"id": "scale_linear", "kwargs": {"gain": -1.0, "offset": 1.0}}],
            {"inverted": True},
        ),
        (["nuclei", "cytoplasm"], [], {"outputs": ("nuclei", "cytoplasm")}),
    ],
)
def test_meaning_of_the_outputs(
    tmp_path: Path, names: list[str], post: list[dict[str, Any]], wanted: dict[str, Any]
) -> None:
    about = read_bioimageio(packed(tmp_path, new(names, post), weights__pt=b"1")).about
    assert {name: about[name] for name in wanted} == wanted
    if any(step["id"] == "binarize" for step in post):
        assert about["objects"].threshold == 0.3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"type": "dataset"}, "holds no model"),
        ({"format_version": "0.9.0"}, "format 0.9.0"),
        ({"inputs": []}, "names no inputs"),
        ({"weights": {}}, "no weights"),
        ({"weights": {"tensorflow_js": {"source": "a.zip"}}}, "tensorflow_js"),
        ({"weights": "none"}, "no weights"),
        ({"inputs": [{"name": "raw", "axes": "bqyx", "shape": [1, 1, 8, 8]}]}, "cannot be underst"),
        ({"inputs": [{"axes": "bcyx"}]}, "cannot be understood"),
        ({"inputs": [old()["inputs"][0]] * 2}, "several images"),
        (
            {
                "outputs": [
                    old()["outputs"][0] | {"postprocessing": [{"name": "cellpose_flow_dynamics"}]}
                ]
            },
            "plugin for cellpose",
        ),
        (
            {"inputs": [old()["inputs"][0] | {"preprocessing": [{"name": "custom"}]}]},
            "'custom'",
        ),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelFileError, match=sentence):
        read_bioimageio(packed(tmp_path, old(**change), weights__pt=b"1"))


@pytest.mark.parametrize("text", ["", "[1, 2]", "!!python/object/apply:os.getcwd []", "a: [b"])
def test_descriptions_that_are_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelFileError):
        read_bioimageio(packed(tmp_path, text, weights__pt=b"1"))


JUNK = (None, "", "text", -1, 0, 1.5, True, [], [None], [[1]], {}, {"a": None}, 10**400, np.nan)


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with every key or place in it."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(entries):
        yield tree, key
        if isinstance(value, dict | list):
            yield from places(value)


def own() -> dict[str, Any]:
    """A description as it is written here."""
    said = {
        "name": "own", "class_names": ["background", "cell"], "outputs": ["cell"],
        "output_class": [1], "inside": 0, "inverted": False, "assumed": ["name"],
        "normalization": {"kind": "none", "clip": None}, "objects": {"threshold": 0.5},
    }  # fmt: skip
    architecture = {
        "import_from": "napari_unet.core", "callable": "network",
        "kwargs": {"architecture": "unet", "config": {"dims": 2}},
    }  # fmt: skip
    weights = {"pytorch_state_dict": {"source": "weights.pt", "architecture": architecture}}
    return {**new(["p"], [SIGMOID, SOFTMAX]), "config": {"napari_unet": said}, "weights": weights}


@pytest.mark.parametrize("make", [old, own])
def test_junk_anywhere_in_a_description_is_no_disaster(make: Any, tmp_path: Path) -> None:
    archive = packed(tmp_path, "", weights__pt=b"1")
    n_read, text = 0, json.dumps(make())
    for at in range(len(list(places(json.loads(text))))):
        for junk in JUNK:
            description = json.loads(text)
            tree, key = list(places(description))[at]
            tree[key] = junk
            try:
                package = read_bioimageio(_Described(archive, description))
                assert len(package.min_size) == len(package.step) == len(package.halo)
                n_read += 1
            except ModelFileError:
                pass
    assert n_read > 100


class _Described:
    """An archive whose description is replaced."""

    def __init__(self, archive: Archive, description: Any) -> None:
        self.yaml = lambda name: description
        self.names, self.read, self.source = archive.names, archive.read, archive.source
        self._archive = archive

    def __contains__(self, name: str) -> bool:
        return name in self._archive


def test_damaged_examples(tmp_path: Path) -> None:
    good = npy(np.zeros((1, 2, 8, 16, 32), np.float32))
    lie = npy(np.zeros((1, 2, 8, 16, 32), np.float32)).replace(b"(1, 2, 8,", b"(9, 2, 8,")
    objects = io.BytesIO()
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    for bad in (b"", b"\x93NUMPY", good[:-4], lie, objects.getvalue(), npy(np.zeros(3))):
        archive = packed(tmp_path, old(), weights__pt=b"1", in__npy=bad, out__npy=good)
        with pytest.raises(ModelFileError, match=r"in\.npy"):
            read_test_tensors(read_bioimageio(archive))


# --- steps -------------------------------------------------------------------------------------

RAW = np.random.default_rng(1).gamma(2, 30, (1, 2, 9, 11)).astype(np.float32)


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [Step(name="zero_mean_unit_variance", axes="yx")],
        [Step(name="zero_mean_unit_variance", values={"eps": 0.1})],
        [Step(name="scale_range", axes="cyx", values={"min_percentile": 2, "max_percentile": 97})],
        [Step(name="scale_range", axes="byx"), Step(name="clip", values={"min": 0.1, "max": 0.9})],
        [Step(name="clip", values={"min": 20}), Step(name="zero_mean_unit_variance", axes="yx")],
        [Step(name="scale_linear", values={"gain": 1 / 255, "offset": -0.5})],
        [Step(name="scale_linear", values={"gain": [-2.0, 3.0], "offset": [1.0, 0.0]})],
        [
            Step(name="scale_linear", values={"gain": 1 / 255}),
            Step(name="clip", values={"min": 0, "max": 1}),
            Step(name="fixed_zero_mean_unit_variance", values={"mean": 0.4, "std": 0.2}),
        ],
        [
            Step(name="scale_linear", values={"gain": 0.01, "offset": 1}),
            Step(name="scale_range", axes="yx", values={"eps": 0.05}),
        ],
        [
            Step(
                name="fixed_zero_mean_unit_variance",
                values={"mean": [50, 60], "std": [20.0, 30], "axis": "channel"},
            ),
            Step(name="ensure_dtype", values={"dtype": "float32"}),
        ],
        [
            Step(name="scale_range", axes="yx"),
            Step(name="scale_linear", values={"gain": 2, "offset": -1}),
        ],
        [
            Step(name="clip", values={"min_percentile": 3, "max_percentile": 90}, axes="yx"),
            Step(name="scale_range", axes="yx"),
        ],
        [
            Step(name="scale_range", axes="yx"),
            Step(name="zero_mean_unit_variance", axes="yx", values={"eps": 1e-9}),
        ],
    ],
)
def test_steps_are_understood_as_what_they_do(steps: list[Step]) -> None:
    normalization = normalization_of(steps, 2, 2)
    found = normalise(RAW[0], scale_of(RAW[0], normalization))
    assert np.abs(found - apply_steps(RAW, steps)[0]).max() <= 2e-5


@pytest.mark.parametrize(
    "steps",
    [
        [Step(name="binarize", values={"threshold": 3})],
        [Step(name="zero_mean_unit_variance", axes="x")],
        [Step(name="scale_linear", values={"gain": 0})],
        [Step(name="scale_linear", values={"gain": "two"})],
        [Step(name="clip", values={"min_percentile": 5})],
        [Step(name="clip", values={"min": 5, "max": 2})],
        [Step(name="scale_range", values={"reference_tensor": "other"})],
        [Step(name="scale_range", values={"min_percentile": 60, "max_percentile": 40})],
        [
            Step(name="scale_linear", values={"gain": [1.0, 2.0]}),
            Step(name="zero_mean_unit_variance", axes="cyx"),
        ],
        [
            Step(name="scale_range", axes="yx"),
            Step(name="clip", values={"min": 0, "max": 1}),
            Step(name="zero_mean_unit_variance", axes="yx"),
        ],
        [Step(name="scale_range"), Step(name="ensure_dtype", values={"dtype": "uint8"})],
    ],
)
def test_steps_that_no_normalisation_does_are_named(steps: list[Step]) -> None:
    with pytest.raises(ModelFileError, match=f"'{steps[-1].name}'"):
        normalization_of(steps, 2, 2)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(
    "normalization",
    [
        Normalization(),
        Normalization(kind="zscore", joint=True, eps=1e-3, clip=None),
        Normalization(kind="minmax", clip=(0.2, 0.7)),
        Normalization(kind="range", clip=None, offset=(0.1, 0.2), scale=(0.5, 0.25)),
        Normalization(kind="none", clip=None, offset=(40.0,), scale=(12.0,)),
        Normalization(kind="zscore", raw_clip=((20, 90),), clip=None),
        Normalization(kind="zscore", raw_clip=((20, 90), (10, 70)), clip=None),
    ],
)
def test_written_steps_do_what_the_normalisation_does(
    normalization: Normalization, dtype: type
) -> None:
    raw = RAW.clip(0, 255).astype(dtype)
    found = apply_steps(raw, steps_of(normalization, 2, raw.dtype))[0]
    assert np.abs(found - normalise(raw[0], scale_of(raw[0], normalization))).max() <= 2e-5


def test_what_bioimageio_cannot_say_is_refused() -> None:
    with pytest.raises(ModelFileError, match="pixels that are 0"):
        steps_of(Normalization(kind="zscore", nonzero=True), 1, np.dtype(np.uint8))


def test_steps_after_the_network() -> None:
    logits = np.random.default_rng(2).normal(size=(1, 3, 4, 5))
    softmax = apply_steps(logits, [Step(name="softmax", values={"axis": "channel"})])
    assert np.allclose(softmax, torch.from_numpy(logits).softmax(1).numpy())
    sigmoid = apply_steps(logits, [Step(name="sigmoid")])
    assert np.allclose(sigmoid, torch.from_numpy(logits).sigmoid().numpy())
    above = apply_steps(logits, [Step(name="binarize", values={"threshold": [0.0, 1.0, -1.0]})])
    assert np.array_equal(above, logits > np.reshape([0.0, 1.0, -1.0], (1, 3, 1, 1)))
    with pytest.raises(ModelFileError, match="custom"):
        apply_steps(logits, [Step(name="custom")])
