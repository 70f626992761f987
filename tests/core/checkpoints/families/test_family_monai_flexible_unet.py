"""FlexibleUNet of MONAI, from the file to a model that segments and learns, and back to MONAI."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from originals import image_for, largest_difference, randomised
from torch import nn

from napari_unet import (
    FineTuneSettings,
    SegmentSettings,
    fine_tune,
    load_model,
    save_model,
    segment,
)
from napari_unet.core.checkpoints.plain import from_plain, to_json
from napari_unet.core.errors import ModelFileError
from napari_unet.core.normalization import normalise, scale_of, summary_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    nets = pytest.importorskip("monai.networks.nets")

TOLERANCE = 1e-5
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def original(backbone: str, seed: int = 0, **arguments: Any) -> nn.Module:
    settings = {"decoder_channels": (18, 14, 10, 8, 7), **arguments}
    return randomised(nets.FlexibleUNet(2, 3, backbone, pretrained=False, **settings), seed)


def kept(network: nn.Module, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize(
    "backbone", ["resnet18", "resnet34", "resnet50", "efficientnet-b0", "efficientnet-b2"]
)
def test_it_is_the_original_and_fits_it_again(backbone: str, tmp_path: Path) -> None:
    network = original(backbone)
    model = load_model(kept(network, tmp_path / "net.pth"), "cpu")
    assert (model.architecture, model.config.backbone) == ("monai_flexible_unet", backbone)
    assert from_plain(type(model.config), json.loads(to_json(model.config))) == model.config
    assert largest_difference(model.network, network, image_for(2, 64, 96)) <= TOLERANCE
    assert "interpolation" in model.description.assumed
    assert not model.description.notes

    save_model(model, tmp_path / "own.safetensors")
    save_model(load_model(tmp_path / "own.safetensors", "cpu"), tmp_path / "again.pth")
    fresh = original(backbone, 5)
    fresh.load_state_dict(torch.load(tmp_path / "again.pth", weights_only=True), strict=True)
    assert largest_difference(fresh, network, image_for(2, 64, 96)) == 0


def test_sizes_that_are_halved_to_odd_ones(tmp_path: Path) -> None:
    network = original("efficientnet-b0")
    model = load_model(kept(network, tmp_path / "net.pth"), "cpu")
    assert largest_difference(model.network, network, image_for(2, 44, 78)) <= TOLERANCE


VARIANTS: dict[str, dict[str, Any]] = {
    "transposed": {"upsample": "deconv"},
    "linear": {"interp_mode": "linear"},
    "without a convolution before": {"pre_conv": None},
    "biases and dropout": {"decoder_bias": True, "dropout": 0.2},
    "instances": {"norm": ("instance", {"affine": True}), "act": ("leakyrelu", {})},
    "groups": {"norm": ("group", {"num_groups": 1, "eps": 1e-2}), "act": "elu"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_that_are_known_from_a_whole_module(variant: str, tmp_path: Path) -> None:
    network = original("resnet18", **VARIANTS[variant])
    torch.save(network, tmp_path / "net.pt")
    model = load_model(tmp_path / "net.pt", "cpu")
    assert not {"interpolation", "norm", "groups", "act"} & set(model.description.assumed)
    assert largest_difference(model.network, network, image_for(2, 64, 64)) <= TOLERANCE


def test_a_bundle_says_what_the_weights_do_not(tmp_path: Path) -> None:
    network = original("efficientnet-b0", interp_mode="bilinear")
    described = {"_target_": "FlexibleUNet", "in_channels": 2, "out_channels": 3,
                 "backbone": "efficientnet-b0", "interp_mode": "bilinear"}  # fmt: skip
    for folder in ("configs", "models"):
        (tmp_path / "tools" / folder).mkdir(parents=True)
    for name, content in {"metadata": {}, "inference": {"network_def": described}}.items():
        (tmp_path / "tools" / "configs" / f"{name}.json").write_text(json.dumps(content))
    kept(network, tmp_path / "tools" / "models" / "model.pt")
    model = load_model(tmp_path / "tools", "cpu")
    assert not {"interpolation", "norm", "act", "slope"} & set(model.description.assumed)
    assert largest_difference(model.network, network, image_for(2, 64, 64)) <= TOLERANCE


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet-b0"])
def test_it_segments_and_learns(backbone: str, tmp_path: Path) -> None:
    model = load_model(kept(original(backbone), tmp_path / "net.pth"), "cpu")
    image = np.random.default_rng(0).integers(0, 255, (2, 70, 90)).astype(np.uint8)
    settings = SegmentSettings(what="classes", precision="full")
    assert segment(image, model, settings, axes="cyx").labels.shape == (70, 90)
    whole = image[:, :64, :64]
    scaled = normalise(whole, scale_of(summary_of(whole), model.description.normalization, 2))
    with torch.inference_mode():
        wanted = original(backbone)(torch.from_numpy(scaled)[None]).softmax(1)[0].numpy()
    found = np.asarray(segment(whole, model, settings, axes="cyx").outputs)
    assert float(np.abs(found - wanted).max()) <= 1e-3  # kept as float16

    corrections = np.zeros((70, 90), np.uint8)
    corrections[4:12, 4:12], corrections[24:32, 24:32] = 1, 2
    steps = FineTuneSettings(steps=3, patch_size=64, batch_size=2, learning_rate=1e-3)
    tuned = fine_tune(model, [(image, corrections)], steps, axes="cyx")
    assert tuned.id != model.id
    save_model(tuned, tmp_path / "tuned.pth")
    fresh = original(backbone, 5)
    fresh.load_state_dict(torch.load(tmp_path / "tuned.pth", weights_only=True), strict=True)
    assert largest_difference(tuned.network, fresh, image_for(2, 64, 64)) <= TOLERANCE


@pytest.mark.parametrize(
    ("backbone", "arguments", "words"),
    [
        ("resnet10", {}, "another backbone"),
        ("resnet18", {"spatial_dims": 3}, "volumes"),
        ("resnet18", {"upsample": "pixelshuffle"}, "pixelshuffle"),
    ],
)
def test_what_cannot_be_rebuilt_is_said(
    backbone: str, arguments: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match=f"FlexibleUNet of MONAI with .*{words}"):
        load_model(kept(original(backbone, **arguments), tmp_path / "net.pth"), "cpu")
