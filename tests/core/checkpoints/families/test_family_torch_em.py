"""The networks of torch-em, compared with the originals."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from originals import image_for, largest_difference
from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence, LayerNote
from napari_unet.core.checkpoints.families.torch_em import FAMILY
from napari_unet.core.checkpoints.family import Understanding
from napari_unet.core.errors import ModelFileError

FIXTURES = Path(__file__).parents[3] / "fixtures" / "checkpoints" / "torch_em"


def stored(name: str, is_told: bool = True, **more: Any) -> Evidence:
    content = torch.load(FIXTURES / f"{name}.pt", weights_only=False)
    init = content["init"]
    config = {"class": init["model_class"], "model": init["model_kwargs"]} if is_told else {}
    return evidence_of(content["model_state"], config=config, **more)


def evidence_of(tensors: Mapping[str, Tensor], **more: Any) -> Evidence:
    return Evidence(name="best.pt", container="PyTorch file", tensors=dict(tensors), **more)


def rebuilt(evidence: Evidence) -> tuple[nn.Module, Understanding]:
    assert FAMILY.recognise(evidence)
    understanding = FAMILY.understand(evidence)
    network = FAMILY.network(understanding.config)
    ours = {names[0]: name for name, names in understanding.names.items()}
    tensors = {
        ours.get(name, name): value
        for name, value in evidence.tensors.items()
        if not any(re.fullmatch(pattern, name) for pattern in understanding.ignored)
    }
    network.load_state_dict(tensors, strict=True)
    return network.eval(), understanding


def difference(network: nn.Module, name: str) -> float:
    known = np.load(FIXTURES / f"{name}.npz")
    image, wanted = (torch.from_numpy(known[key]) for key in ("input", "output"))
    return largest_difference(network, lambda _: wanted, image)


NAMES = sorted(path.stem for path in FIXTURES.glob("*.npz"))


@pytest.mark.parametrize("name", NAMES)
def test_output_is_that_of_the_original(name: str) -> None:
    network, understanding = rebuilt(stored(name))

    assert difference(network, name) < 1e-5
    assert not {"n_flat", "padding", "linear"} & set(understanding.assumed)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "anisotropic_3"])
def test_what_nothing_tells_is_assumed(name: str) -> None:
    evidence = stored(name, is_told=False)
    understanding = FAMILY.understand(evidence)
    is_flat = understanding.config.dims == 2

    assert {"padding", "linear", "activation", "normalization"} <= set(understanding.assumed)
    assert ("n_flat" in understanding.assumed) == (not is_flat)
    if name != "anisotropic":
        assert difference(rebuilt(evidence)[0], name) < 1e-5


def test_anisotropic_network_can_be_chosen() -> None:
    from dataclasses import replace

    evidence = stored("anisotropic", is_told=False)
    config = replace(FAMILY.understand(evidence).config, n_flat=1)
    network = FAMILY.network(config)
    network.load_state_dict(dict(evidence.tensors))

    assert difference(network.eval(), "anisotropic") < 1e-5
    assert 1 in FAMILY.choices["n_flat"]


def test_stored_layers_tell_the_factors() -> None:
    layers = {
        "encoder.poolers.0": LayerNote(kind="MaxPool3d", values={"kernel_size": [1, 2, 2]}),
        "encoder.poolers.1": LayerNote(kind="MaxPool3d", values={"kernel_size": 2}),
        "base.block.1": LayerNote(kind="Conv3d", values={"padding": (1, 1, 1)}),
        "final_activation": LayerNote(kind="Sigmoid", values={}),
    }

    network, understanding = rebuilt(stored("anisotropic", is_told=False, layers=layers))

    assert difference(network, "anisotropic") < 1e-5
    assert not {"n_flat", "padding", "activation"} & set(understanding.assumed)


def test_two_outputs_with_a_sigmoid_are_foreground_and_boundary() -> None:
    about = FAMILY.understand(stored("unet2d")).about

    assert about["outputs"] == ("foreground", "boundary")
    assert about["output_class"] == (1, -1)
    assert about["border"] == 1
    assert about["normalization"].kind == "zscore"


def test_several_outputs_without_activation_compete() -> None:
    assert FAMILY.understand(stored("unet2d_GroupNorm")).about["activation"] == "softmax"


def test_instances_normalized_by_stored_statistics() -> None:
    told = FAMILY.understand(stored("unet2d_InstanceNormTrackStats")).config
    untold = FAMILY.understand(stored("unet2d_InstanceNormTrackStats", is_told=False)).config

    assert (told.norm, untold.norm) == ("InstanceNormTrackStats", "BatchNorm")


def test_missing_levels_are_said() -> None:
    tensors = dict(stored("unet2d").tensors)
    kept = {key: value for key, value in tensors.items() if "decoder.blocks.1" not in key}

    with pytest.raises(ModelFileError, match="2 levels on the way down and 1"):
        FAMILY.understand(evidence_of(kept))


def test_network_can_be_trained() -> None:
    network, _ = rebuilt(stored("unet2d_InstanceNormTrackStats"))
    image = image_for(2, 8, 8)
    before = image.clone()

    network.train()(image).sum().backward()

    assert all(parameter.grad is not None for parameter in network.parameters())
    assert torch.equal(image, before)
