"""Networks of MONAI, rebuilt from their weights, against MONAI."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from originals import image_for, largest_difference, randomised
from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence, LayerNote
from napari_unet.core.checkpoints.family import Understanding, families, recognised
from napari_unet.core.checkpoints.rebuild import rebuild
from napari_unet.core.checkpoints.saving.plain import plain_weights
from napari_unet.core.errors import ModelFileError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    nets = pytest.importorskip("monai.networks.nets")

TOLERANCE = 1e-5


def evidence_of(
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    layers: Mapping[str, LayerNote] | None = None,
) -> Evidence:
    file = io.BytesIO()
    torch.save(dict(tensors), file)
    file.seek(0)
    read = torch.load(file, weights_only=True)
    return Evidence(
        name="model.pt", container="file", tensors=read, config=config or {}, layers=layers or {}
    )


def rebuilt(evidence: Evidence, **changes: Any) -> tuple[nn.Module, Understanding, str]:
    """Our network with the weights of the file, each of which must be used or left out by name."""
    family = recognised(evidence)
    assert family is not None
    found = family.understand(evidence)
    config = replace(found.config, **changes)
    network = family.network(config).eval()
    names = {name: found.names.get(name, (name,)) for name in network.state_dict()}
    assert {given for listed in names.values() for given in listed} == set(evidence.tensors)
    network.load_state_dict({name: evidence.tensors[listed[0]] for name, listed in names.items()})
    for name, listed in names.items():
        for given in listed:
            assert torch.equal(evidence.tensors[given], network.state_dict()[name])
    return network, found, family.name


def notes_of(network: nn.Module) -> dict[str, LayerNote]:
    """What a stored module says of its layers."""
    return {
        path: LayerNote(kind=type(layer).__name__, values=vars(layer))
        for path, layer in network.named_modules()
    }


UNETS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "2d": ({"spatial_dims": 2}, (32, 24)),
    "2d-batch": ({"spatial_dims": 2, "norm": "batch"}, (32, 24)),
    "2d-units": ({"spatial_dims": 2, "num_res_units": 2}, (32, 24)),
    "2d-unit": ({"spatial_dims": 2, "num_res_units": 1, "norm": "batch"}, (32, 24)),
    "2d-affine": (
        {"spatial_dims": 2, "norm": ("instance", {"affine": True}), "dropout": 0.2},
        (32, 24),
    ),
    "2d-relu": ({"spatial_dims": 2, "act": "relu", "norm": "batch", "bias": False}, (32, 24)),
    "2d-kernels": (
        {"spatial_dims": 2, "kernel_size": 5, "up_kernel_size": (3, 5), "num_res_units": 2},
        (32, 24),
    ),
    "2d-order": (
        {"spatial_dims": 2, "adn_ordering": "ADN", "norm": "batch", "num_res_units": 1},
        (32, 24),
    ),
    "3d": ({"spatial_dims": 3}, (16, 16, 24)),
    "3d-units": ({"spatial_dims": 3, "num_res_units": 2, "norm": "batch"}, (16, 16, 24)),
}


@pytest.mark.parametrize("variant", UNETS)
def test_unet_as_monai(variant: str) -> None:
    settings, size = UNETS[variant]
    settings = {
        "in_channels": 2,
        "out_channels": 3,
        "channels": (3, 5, 7, 8),
        "strides": (2, 2, 2),
        **settings,
    }
    original = randomised(nets.UNet(**settings))
    ours, found, name = rebuilt(evidence_of(original.state_dict()))
    assert name == "monai_unet"
    assert largest_difference(ours, original, image_for(2, *size)) <= TOLERANCE
    assert "strides" in found.assumed
    is_prelu = "act" not in settings
    assert ("act" in found.assumed) == (not is_prelu)


def test_unet_tells_strides_of_one_from_two_by_its_units() -> None:
    original = nets.UNet(2, 1, 2, channels=(4, 4, 6, 6), strides=(2, 1, 2), num_res_units=2)
    ours, found, _ = rebuilt(evidence_of(randomised(original).state_dict()))
    assert found.config.strides == ((2, 2), (1, 1), (2, 2))
    assert largest_difference(ours, original, image_for(1, 20, 28)) <= TOLERANCE


@pytest.mark.parametrize("n_levels", [2, 3, 6])
def test_unet_of_any_depth(n_levels: int) -> None:
    strides = (2,) * (n_levels - 1)
    original = nets.UNet(2, 1, 2, range(2, 2 + n_levels), strides, norm="batch")
    ours, found, _ = rebuilt(evidence_of(randomised(original).state_dict()))
    assert len(found.config.widths) == n_levels
    assert largest_difference(ours, original, image_for(1, 64, 32)) <= TOLERANCE


ODD = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": (4, 4, 8),
    "strides": ((1, 2, 2), (2, 2, 1)),
    "act": ("leakyrelu", {"negative_slope": 0.3}),
    "norm": ("group", {"num_groups": 2}),
    "adn_ordering": "ADN",
}


@pytest.mark.parametrize("by", ["arguments", "layers"])
def test_unet_is_known_fully_from_arguments_or_from_stored_modules(by: str) -> None:
    original = randomised(nets.UNet(**ODD))
    config = {"class": "monai.networks.nets.UNet", "model": ODD} if by == "arguments" else {}
    layers = notes_of(original) if by == "layers" else {}
    ours, found, _ = rebuilt(evidence_of(original.state_dict(), config, layers))
    assert largest_difference(ours, original, image_for(1, 8, 12, 12)) <= TOLERANCE
    assert not {"strides", "norm", "groups", "act", "slope", "act_first"} & set(found.assumed)


@pytest.mark.parametrize("make", [nets.UNet, nets.AttentionUnet])
def test_axis_that_keeps_its_size_can_be_chosen(make: Any) -> None:
    strides = ((1, 2, 2), (1, 2, 2))
    original = randomised(make(3, 1, 2, channels=(4, 4, 8), strides=strides))
    ours, found, _ = rebuilt(evidence_of(original.state_dict()), kept_axis="z")
    assert {"strides", "kept_axis"} <= set(found.assumed)
    assert largest_difference(ours, original, image_for(1, 3, 12, 8)) <= TOLERANCE


def test_unet_without_normalization_can_be_chosen() -> None:
    settings = {**ODD, "norm": None, "act": "elu", "strides": (2, 2), "adn_ordering": "NDA"}
    original = randomised(nets.UNet(**settings))
    evidence = evidence_of(original.state_dict())
    ours, found, _ = rebuilt(evidence, norm="none", act="elu", slope=1.0)
    assert {"norm", "act"} <= set(found.assumed)
    assert largest_difference(ours, original, image_for(1, 8, 12, 12)) <= TOLERANCE


BASICS: dict[str, dict[str, Any]] = {
    "2d": {"spatial_dims": 2},
    "3d": {"spatial_dims": 3},
    "2d-linear": {"spatial_dims": 2, "upsample": "nontrainable"},
    "3d-linear": {"spatial_dims": 3, "upsample": "nontrainable", "norm": "batch"},
    "2d-prelu": {"spatial_dims": 2, "act": "prelu", "norm": "batch", "bias": False},
    "2d-widths": {"spatial_dims": 2, "features": (6, 4, 8, 6, 10, 3), "dropout": 0.1},
}


@pytest.mark.parametrize("variant", BASICS)
def test_basic_unet_as_monai(variant: str) -> None:
    settings = {"features": (4, 4, 6, 8, 8, 5), "in_channels": 2, **BASICS[variant]}
    original = randomised(nets.BasicUNet(**settings))
    ours, found, name = rebuilt(evidence_of(original.state_dict()))
    assert name == "monai_basic_unet"
    size = (37, 50) if found.config.dims == 2 else (33, 32, 35)
    assert largest_difference(ours, original, image_for(2, *size)) <= TOLERANCE


@pytest.mark.parametrize("variant", ["2d", "2d-linear", "3d-linear", "2d-prelu", "2d-widths"])
def test_basic_unet_plusplus_as_monai(variant: str) -> None:
    settings = {"features": (4, 4, 6, 8, 8, 5), "in_channels": 2, **BASICS[variant]}
    original = randomised(nets.BasicUNetPlusPlus(**settings))
    ours, found, name = rebuilt(evidence_of(original.state_dict()))
    assert name == "monai_basic_unet_plusplus"
    size = (37, 50) if found.config.dims == 2 else (17, 16, 18)

    def run(image: Tensor) -> Tensor:
        last: Tensor = original(image)[-1]
        return last

    assert largest_difference(ours, run, image_for(2, *size)) <= TOLERANCE


def test_basic_unet_that_shuffles_pixels_is_declined() -> None:
    original = nets.BasicUNet(2, features=(4, 4, 4, 4, 4, 4), upsample="pixelshuffle")
    evidence = evidence_of(original.state_dict())
    with pytest.raises(ModelFileError, match="pixelshuffle"):
        families()["monai_basic_unet"].understand(evidence)


@pytest.mark.parametrize("dims", [2, 3])
def test_attention_unet_as_monai(dims: int) -> None:
    settings = {"channels": (4, 6, 8, 10), "strides": (2, 2, 2)}
    original = randomised(nets.AttentionUnet(dims, 2, 3, **settings, dropout=0.1))
    ours, found, name = rebuilt(evidence_of(original.state_dict()))
    assert name == "monai_attention_unet"
    assert "strides" in found.assumed
    size = (24, 32) if dims == 2 else (16, 16, 24)
    assert largest_difference(ours, original, image_for(2, *size)) <= TOLERANCE


def test_attention_unet_knows_strides_and_kernels() -> None:
    settings = {
        "channels": (4, 6, 8),
        "strides": (2, 1),
        "kernel_size": 5,
        "up_kernel_size": 5,
    }
    original = randomised(nets.AttentionUnet(2, 1, 2, **settings))
    config = {"class": "AttentionUnet", "model": settings}
    for evidence in (
        evidence_of(original.state_dict(), config),
        evidence_of(original.state_dict(), layers=notes_of(original)),
    ):
        ours, found, _ = rebuilt(evidence)
        assert "strides" not in found.assumed
        assert largest_difference(ours, original, image_for(1, 18, 22)) <= TOLERANCE


DYNS: dict[str, dict[str, Any]] = {
    "2d": {"spatial_dims": 2, "kernel_size": (3, 3, 3, 3), "strides": (1, 2, 2, 2)},
    "2d-residual": {
        "spatial_dims": 2,
        "kernel_size": (3, 3, 3, 3),
        "strides": (1, 2, 1, 2),
        "res_block": True,
        "trans_bias": True,
        "filters": (4, 6, 6, 8),
    },
    "3d-anisotropic": {
        "spatial_dims": 3,
        "kernel_size": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        "strides": (1, (1, 2, 2), (2, 2, 2)),
        "filters": (4, 6, 8),
        "norm_name": "batch",
    },
    "2d-heads": {
        "spatial_dims": 2,
        "kernel_size": (3, 3, 3, 3, 3),
        "strides": (1, 2, 2, 2, 2),
        "filters": (4, 4, 6, 6, 8),
        "deep_supervision": True,
        "deep_supr_num": 2,
        "act_name": "prelu",
    },
}


def dyn(variant: str) -> nn.Module:
    settings = {"in_channels": 2, "out_channels": 3, "filters": (4, 5, 6, 7), **DYNS[variant]}
    settings["upsample_kernel_size"] = settings["strides"][1:]
    return randomised(nets.DynUNet(**settings))


@pytest.mark.parametrize("variant", DYNS)
def test_dynunet_as_monai(variant: str) -> None:
    original = dyn(variant)
    ours, found, name = rebuilt(evidence_of(original.state_dict()))
    assert name == "monai_dynunet"
    size = (32, 48) if found.config.dims == 2 else (4, 16, 20)
    assert largest_difference(ours, original, image_for(2, *size)) <= TOLERANCE
    assert len(ours.state_dict()) < len(original.state_dict())


@pytest.mark.parametrize("variant", DYNS)
def test_dynunet_stored_without_duplicates(variant: str) -> None:
    original = dyn(variant)
    kept: dict[int, str] = {}
    for key, value in sorted(original.state_dict().items()):
        kept.setdefault(value.data_ptr() if value.numel() else id(value), key)
    once = {key: original.state_dict()[key] for key in kept.values()}
    ours, found, _ = rebuilt(evidence_of(once))
    size = (32, 48) if found.config.dims == 2 else (4, 16, 20)
    assert largest_difference(ours, original, image_for(2, *size)) <= TOLERANCE


def test_dynunet_can_be_given_back_to_monai() -> None:
    original = dyn("2d-heads")
    evidence = evidence_of(original.state_dict())
    family = families()["monai_dynunet"]
    model = rebuild(evidence, family.name, family.understand(evidence))
    fresh = dyn("2d-heads")
    torch.nn.init.zeros_(fresh.output_block.conv.conv.weight)
    fresh.load_state_dict(plain_weights(model), strict=True)
    assert largest_difference(fresh, original, image_for(2, 32, 48)) == 0


def test_dynunet_knows_a_first_stride_and_group_normalization() -> None:
    settings = {
        "spatial_dims": 2,
        "kernel_size": (3, 3, 3),
        "strides": (2, 2, 2),
        "upsample_kernel_size": (2, 2),
        "filters": (4, 6, 8),
        "norm_name": ("GROUP", {"num_groups": 2}),
        "act_name": ("leakyrelu", {"negative_slope": 0.2}),
    }
    original = randomised(nets.DynUNet(in_channels=1, out_channels=2, **settings))
    for evidence in (
        evidence_of(original.state_dict(), {"model": settings}),
        evidence_of(original.state_dict(), layers=notes_of(original)),
    ):
        ours, found, _ = rebuilt(evidence)
        left = {"normalization", "class_names", "activation", "pixel_size"}
        assert set(found.assumed) == left
        assert largest_difference(ours, original, image_for(1, 32, 24)) <= TOLERANCE


SEGRES: dict[str, dict[str, Any]] = {
    "2d": {"spatial_dims": 2},
    "3d": {"spatial_dims": 3, "blocks_down": (1, 2, 1), "blocks_up": (2, 1)},
    "2d-transposed": {"spatial_dims": 2, "upsample_mode": "deconv", "norm": "batch"},
    "2d-prelu": {"spatial_dims": 2, "act": "prelu", "dropout_prob": 0.2},
}


@pytest.mark.parametrize("variant", SEGRES)
def test_segresnet_as_monai(variant: str) -> None:
    settings = {
        "init_filters": 8,
        "in_channels": 2,
        "out_channels": 3,
        "blocks_down": (1, 2, 1, 1),
        **SEGRES[variant],
    }
    original = randomised(nets.SegResNet(**settings))
    ours, found, name = rebuilt(evidence_of(original.state_dict()))
    assert name == "monai_segresnet"
    size = (24, 40) if found.config.dims == 2 else (8, 12, 16)
    assert largest_difference(ours, original, image_for(2, *size)) <= TOLERANCE
    assert ("groups" in found.assumed) == ("norm" not in settings)


def test_segresnet_knows_its_groups() -> None:
    settings = {"spatial_dims": 2, "init_filters": 4, "norm": ("GROUP", {"num_groups": 2})}
    original = randomised(nets.SegResNet(**settings))
    for evidence in (
        evidence_of(original.state_dict(), {"class": "SegResNet", "model": settings}),
        evidence_of(original.state_dict(), layers=notes_of(original)),
    ):
        ours, found, _ = rebuilt(evidence)
        assert "groups" not in found.assumed
        assert largest_difference(ours, original, image_for(1, 16, 24)) <= TOLERANCE


def test_segresnet_without_its_variational_part() -> None:
    original = nets.SegResNetVAE((32, 32), spatial_dims=2, init_filters=8, vae_nz=4)
    randomised(original)
    family = families()["monai_segresnet"]
    evidence = evidence_of(original.state_dict())
    model = rebuild(evidence, family.name, family.understand(evidence))

    def run(image: Tensor) -> Tensor:
        found: Tensor = original(image)[0]
        return found

    assert largest_difference(model.network, run, image_for(1, 32, 32)) <= TOLERANCE
    assert not any("extra" in note for note in model.description.notes)


@pytest.mark.parametrize(
    "original",
    [
        nets.SegResNet(2, 8, out_channels=2),
        nets.UNet(2, 1, 2, (4, 6, 8), (2, 2), num_res_units=1, norm="batch"),
        nets.BasicUNet(2, features=(4, 4, 4, 4, 4, 4)),
        nets.AttentionUnet(2, 1, 2, (4, 6, 8), (2, 2)),
        nets.DynUNet(2, 1, 2, (3, 3, 3), (1, 2, 2), (2, 2), filters=(4, 6, 8)),
    ],
    ids=["segres", "unet", "basic", "attention", "dyn"],
)
def test_networks_can_be_trained_copied_and_leave_their_input_alone(original: nn.Module) -> None:
    ours, _, _ = rebuilt(evidence_of(randomised(original).state_dict()))
    network = copy.deepcopy(ours).train()
    image = image_for(1, 32, 32)
    before = image.clone()
    network(image).square().mean().backward()
    assert torch.equal(image, before)
    assert all(weight.grad is not None for weight in network.parameters())


def test_unknown_normalization_and_odd_settings_are_declined() -> None:
    original = nets.UNet(2, 1, 2, (4, 6, 8), (2, 2))
    tensors = original.state_dict()
    family = families()["monai_unet"]
    with pytest.raises(ModelFileError, match="localresponse"):
        family.understand(evidence_of(tensors, {"model": {"norm": ("localresponse", {"size": 2})}}))
    with pytest.raises(ModelFileError, match="small whole numbers"):
        family.understand(evidence_of(tensors, {"model": {"strides": ("rm -rf", -1)}}))


@pytest.mark.parametrize("lost", ["model.2.conv.weight", "model.1.submodule.0.conv.weight"])
def test_incomplete_files_are_not_taken_for_whole(lost: str) -> None:
    tensors = dict(nets.UNet(2, 1, 2, (4, 6, 8), (2, 2)).state_dict())
    del tensors[lost]
    evidence = evidence_of(tensors)
    family = families()["monai_unet"]
    if family.recognise(evidence):
        with pytest.raises(KeyError):
            family.understand(evidence)
