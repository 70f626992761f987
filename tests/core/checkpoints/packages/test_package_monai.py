"""Bundles of MONAI: what they say is read as plain data, and nothing of it is evaluated."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from originals import image_for, largest_difference, randomised
from torch import nn

from napari_unet.core.checkpoints.containers.archive import Archive
from napari_unet.core.checkpoints.family import recognised
from napari_unet.core.checkpoints.packages.monai_bundle import (
    is_monai_bundle,
    plain_config,
    read_monai_bundle,
)
from napari_unet.core.checkpoints.rebuild import rebuild
from napari_unet.core.errors import ModelFileError
from napari_unet.core.model import Model
from napari_unet.core.normalization import Normalization, normalise, scale_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    nets = pytest.importorskip("monai.networks.nets")

ARGUMENTS: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 4, 8],
    "strides": [[2, 2, 1], [2, 2, 2]],
    "num_res_units": 0,
    "act": ["leakyrelu", {"negative_slope": 0.2}],
    "norm": "batch",
}
METADATA: dict[str, Any] = {
    "name": "Spleen segmentation",
    "version": "0.1.0",
    "task": "the spleen in CT",
    "description": "A network for tests.",
    "authors": "A lab",
    "license": "Apache-2.0",
    "references": ["One paper", "Another paper"],
    "network_data_format": {
        "inputs": {
            "image": {
                "modality": "CT",
                "num_channels": 1,
                "spatial_shape": ["16*n", "16*n", "16*n"],
                "channel_def": {"0": "abdomen"},
            }
        },
        "outputs": {"pred": {"num_channels": 2, "channel_def": {"0": "background", "1": "spleen"}}},
    },
}
RANGE = {
    "_target_": "ScaleIntensityRanged",
    "keys": "image",
    "a_min": -57,
    "a_max": 164,
    "b_min": 0,
    "b_max": 1,
    "clip": True,
}
INFERENCE: dict[str, Any] = {
    "imports": ["$import os", "$os.system('touch evaluated')"],
    "device": "$torch.device('cuda:0')",
    "widths": [4, 4, 8],
    "norms": {"inner": ["@norm_word"]},
    "norm_word": "$monai.networks.layers.factories.Norm.BATCH",
    "network_def": {
        **ARGUMENTS,
        "_target_": "UNet",
        "channels": "@widths",
        "norm": "@norms::inner::0",
        "dropout": "$1 / 0",
    },
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": [0.5, 0.5, 2.0]},
            {"_target_": "NormalizeIntensityd", "keys": "image", "_disabled_": True},
            "@range",
            RANGE,
            {"_target_": "Lambdad", "func": "$lambda x: x"},
        ],
    },
    "range": {"_target_": "os.system", "command": "touch evaluated"},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}],
    },
}  # fmt: skip


def bundle_in(
    folder: Path,
    network: nn.Module,
    inference: Mapping[str, Any] = INFERENCE,
    metadata: Mapping[str, Any] = METADATA,
) -> Path:
    root = folder / "spleen"
    for name in ("configs", "models", "docs"):
        (root / name).mkdir(parents=True)
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (root / "configs" / "inference.json").write_text(json.dumps(inference))
    (root / "docs" / "README.md").write_text("# Spleen")
    torch.save(network.state_dict(), root / "models" / "model.pt")
    return root


def original(**more: Any) -> nn.Module:
    settings = {**ARGUMENTS, **more}
    return randomised(nets.UNet(**{**settings, "act": tuple(settings["act"])}))


def opened(archive: Archive) -> Model:
    assert is_monai_bundle(archive.names())
    evidence = read_monai_bundle(archive)
    family = recognised(evidence)
    assert family is not None
    return rebuild(evidence, family.name, family.understand(evidence))


@pytest.mark.parametrize("kind", ["folder", "zip", "zip with a folder"])
def test_bundle_gives_network_and_description(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network = original()
    path = bundle_in(tmp_path, network)
    if kind != "folder":
        at = path.parent if "with" in kind else path
        packed = shutil.make_archive(
            str(tmp_path.parent / f"{tmp_path.name}-{len(kind)}"), "zip", at
        )
        path = Path(packed)
    model = opened(Archive.of_path(path))
    assert largest_difference(model.network, network, image_for(1, 8, 12, 6)) <= 1e-5
    about = model.description
    assert about.name == "Spleen segmentation"
    assert about.segments == "the spleen in CT"
    assert about.channels == "abdomen (CT)"
    assert about.class_names == about.outputs == ("background", "spleen")
    assert about.activation == "softmax"
    assert (about.licence, about.source) == ("Apache-2.0", "A lab")
    assert about.pixel_size == pytest.approx(500)
    assert "One paper; Another paper" in about.card
    assert about.assumed == ()
    assert not (tmp_path / "evaluated").exists()


def test_weights_in_a_torchscript_file_are_read(tmp_path: Path) -> None:
    network = original()
    path = bundle_in(tmp_path, network)
    (path / "models" / "model.pt").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(network).save(path / "models" / "model.ts")
    model = opened(Archive.of_path(path))
    assert largest_difference(model.network, network, image_for(1, 8, 12, 6)) <= 1e-5


def test_yaml_configs_are_read(tmp_path: Path) -> None:
    network = original()
    path = bundle_in(tmp_path, network)
    config = path / "configs" / "inference.json"
    config.rename(config.with_suffix(".yaml"))  # JSON is YAML
    model = opened(Archive.of_path(path))
    assert largest_difference(model.network, network, image_for(1, 8, 12, 6)) <= 1e-5


def test_training_config_is_asked_where_inference_says_nothing(tmp_path: Path) -> None:
    network = original()
    path = bundle_in(tmp_path, network, {"network_def": "$make()"})
    described = {"_target_": "monai.networks.nets.UNet", **ARGUMENTS}
    train = {"network_def": described, "train": {"preprocessing": INFERENCE["preprocessing"]}}
    (path / "configs" / "train.json").write_text(json.dumps(train))
    model = opened(Archive.of_path(path))
    assert "strides" not in model.description.assumed
    assert model.description.normalization.raw_clip == ((-57.0, 164.0),)


def test_networks_of_unknown_name_leave_it_to_the_weights(tmp_path: Path) -> None:
    network = original(strides=[2, 2])
    described = {**INFERENCE, "network_def": {**ARGUMENTS, "_target_": "os.system"}}
    model = opened(Archive.of_path(bundle_in(tmp_path, network, described)))
    assert {"strides", "act"} <= set(model.description.assumed)


def test_broken_config_is_left_out_with_a_note(tmp_path: Path) -> None:
    path = bundle_in(tmp_path, original(strides=[2, 2]))
    (path / "configs" / "inference.json").write_text("{")
    model = opened(Archive.of_path(path))
    assert any("left out" in note for note in model.description.notes)


def test_bundle_without_weights_or_metadata_is_declined(tmp_path: Path) -> None:
    path = bundle_in(tmp_path, original())
    (path / "models" / "model.pt").rename(path / "models" / "model.onnx")
    with pytest.raises(ModelFileError, match="without weights"):
        read_monai_bundle(Archive.of_path(path))
    (path / "configs" / "metadata.json").unlink()
    assert not is_monai_bundle(Archive.of_path(path).names())


@pytest.mark.parametrize("metadata", [[], {"network_data_format": 3}, {"name": 4, "task": None}])
def test_odd_metadata_does_no_harm(metadata: Any, tmp_path: Path) -> None:
    model = opened(Archive.of_path(bundle_in(tmp_path, original(), INFERENCE, metadata)))
    assert "class_names" in model.description.assumed


# ---- references


def test_references_lead_to_plain_values_only() -> None:
    config = {
        "a": 3,
        "list": ["@a", {"b": "@a"}],
        "object": {"_target_": "os.system", "command": "x"},
        "evaluated": "$1 + 1",
        "file": "%configs/other.json",
    }
    part = {
        "plain": "@a",
        "nested": "@list#1#b",
        "both": "$@list",
        "object": "@object",
        "inside": {"kept": 1, "lost": "@evaluated"},
        "broken": ["@a", "@evaluated"],
        "file": "@file",
        "nowhere": "@nowhere::1",
    }
    assert plain_config(part, config) == {
        "plain": 3,
        "nested": 3,
        "both": [3, {"b": 3}],
        "inside": {"kept": 1},
    }


def test_references_in_circles_and_bombs_end() -> None:
    circle = {"a": "@b", "b": ["@a", "@a"]}
    assert plain_config({"x": "@a"}, circle) == {}
    bomb: dict[str, Any] = {"n0": 1}
    bomb |= {f"n{i}": [f"@n{i - 1}"] * 10 for i in range(1, 20)}
    assert plain_config({"x": "@n19"}, bomb) == {}


# ---- preparation of intensities


def normalization_of(tmp_path: Path, *steps: Mapping[str, Any]) -> tuple[Normalization, Model]:
    config = {**INFERENCE, "preprocessing": {"_target_": "Compose", "transforms": list(steps)}}
    model = opened(Archive.of_path(bundle_in(tmp_path, original(), config)))
    return model.description.normalization, model


SCALINGS: dict[str, dict[str, Any]] = {
    "ScaleIntensityRange": {"a_min": -100, "a_max": 300, "b_min": -1, "b_max": 1, "clip": True},
    "ScaleIntensityRange unclipped": {"a_min": 0, "a_max": 255, "b_min": 0.0, "b_max": 1.0},
    "ScaleIntensity": {},
    "ScaleIntensity between": {"minv": -1.0, "maxv": 3.0},
    "ScaleIntensity factor": {"minv": None, "maxv": None, "factor": 0.5},
    "NormalizeIntensity": {},
    "NormalizeIntensity nonzero": {"nonzero": True},
    "NormalizeIntensity fixed": {"subtrahend": 12.0, "divisor": 3.0},
    "ScaleIntensityRangePercentiles": {"lower": 5, "upper": 95, "b_min": 0, "b_max": 1},
    "ScaleIntensityRangePercentiles clipped": {
        "lower": 1, "upper": 99, "b_min": 0, "b_max": 1, "clip": True,
    },
    "ScaleIntensityRangePercentiles between": {"lower": 1, "upper": 99, "b_min": -1, "b_max": 1},
}  # fmt: skip


@pytest.mark.parametrize("case", SCALINGS)
def test_intensities_as_monai(case: str, tmp_path: Path) -> None:
    transforms = pytest.importorskip("monai.transforms")
    name, arguments = case.split()[0], SCALINGS[case]
    raw = np.random.default_rng(0).normal(100, 80, (1, 6, 12, 16)).astype(np.float32)
    raw[:, :2] = 0
    step = {"_target_": f"monai.transforms.{name}d", "keys": ["image"], **arguments}
    scaling, model = normalization_of(tmp_path, step)
    assert "normalization" not in model.description.assumed
    wanted = np.asarray(getattr(transforms, name)(**arguments)(raw))
    ours = normalise(raw, scale_of(raw, scaling))
    counted = raw != 0 if "nonzero" in case else np.ones_like(raw, bool)
    np.testing.assert_allclose(ours[counted], wanted[counted], atol=2e-3, rtol=1e-3)


def test_what_cannot_be_followed_is_said(tmp_path: Path) -> None:
    odd = {"_target_": "HistogramNormalizeIntensityd", "keys": "image"}
    _, model = normalization_of(tmp_path, odd)
    assert "normalization" in model.description.assumed
    assert any("HistogramNormalizeIntensity" in note for note in model.description.notes)


def test_two_scalings_in_a_row_are_an_assumption(tmp_path: Path) -> None:
    scaling, model = normalization_of(
        tmp_path, RANGE, {"_target_": "NormalizeIntensityd", "keys": "image"}
    )
    assert scaling.kind == "zscore"
    assert "normalization" in model.description.assumed


@pytest.mark.parametrize(
    "values", [{"a_min": "x"}, {"a_min": 1, "a_max": 1}, {"a_min": 0, "a_max": 1, "b_min": [1]}]
)
def test_odd_arguments_of_scalings_do_no_harm(values: Any, tmp_path: Path) -> None:
    _, model = normalization_of(tmp_path, {"_target_": "ScaleIntensityRanged", **values})
    assert "normalization" in model.description.assumed


def test_independent_outputs(tmp_path: Path) -> None:
    channels = {"0": "tumour", "1": "oedema"}
    metadata = {"network_data_format": {"outputs": {"pred": {"channel_def": channels}}}}
    steps = [{"_target_": "Activationsd", "sigmoid": True}]
    config = {**INFERENCE, "postprocessing": {"_target_": "Compose", "transforms": steps}}
    model = opened(Archive.of_path(bundle_in(tmp_path, original(), config, metadata)))
    assert model.description.activation == "sigmoid"
    assert model.description.class_names == ("background", "tumour", "oedema")
