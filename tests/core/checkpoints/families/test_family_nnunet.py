"""Networks of nnU-Net v2, rebuilt from their checkpoints, against the originals."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from originals import image_for, largest_difference, randomised, saved
from torch import Tensor, nn

from napari_unet.core.checkpoints.containers import read_contents
from napari_unet.core.checkpoints.containers.finding import find_evidence
from napari_unet.core.checkpoints.containers.source import Source
from napari_unet.core.checkpoints.evidence import Evidence, LayerNote
from napari_unet.core.checkpoints.family import Understanding, families, recognised
from napari_unet.core.checkpoints.rebuild import rebuild
from napari_unet.core.checkpoints.saving.plain import plain_weights
from napari_unet.core.errors import ModelFileError
from napari_unet.core.model import Model
from napari_unet.core.normalization import Normalization, normalise, scale_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")

TOLERANCE = 1e-5
SMALL: dict[str, Any] = {
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
    "conv_bias": True,
}


def plain_2d(**more: Any) -> nn.Module:
    settings = {"norm_op": nn.InstanceNorm2d, "strides": (1, 2, 2), "kernel_sizes": 3, **SMALL}
    settings |= {"n_conv_per_stage": 2, "n_conv_per_stage_decoder": 2, **more}
    channels = settings.pop("features", (4, 6, 8))
    return unet.PlainConvUNet(2, len(channels), channels, nn.Conv2d, num_classes=3, **settings)


def plain_3d(**more: Any) -> nn.Module:
    settings = {"norm_op": nn.InstanceNorm3d, **SMALL, **more}
    return unet.PlainConvUNet(
        1,
        3,
        (4, 6, 8),
        nn.Conv3d,
        kernel_sizes=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        n_conv_per_stage=(2, 1, 3),
        num_classes=2,
        n_conv_per_stage_decoder=(1, 2),
        **settings,
    )


def residual_2d(**more: Any) -> nn.Module:
    settings = {"norm_op": nn.InstanceNorm2d, **SMALL, **more}
    return unet.ResidualEncoderUNet(
        2, 4, (4, 6, 6, 8), nn.Conv2d, 3, (1, 2, 2, 2), (1, 3, 2, 1), 3, 1, **settings
    )


def residual_3d() -> nn.Module:
    return unet.ResidualEncoderUNet(
        1,
        3,
        (4, 6, 8),
        nn.Conv3d,
        ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        (1, 2, 1),
        2,
        (1, 1),
        norm_op=nn.BatchNorm3d,
        nonlin=nn.LeakyReLU,
    )


VARIANTS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "plain-2d": (plain_2d, (24, 36)),
    "plain-2d-supervised": (lambda: plain_2d(deep_supervision=True), (24, 36)),
    "plain-2d-batch": (
        lambda: plain_2d(norm_op=nn.BatchNorm2d, conv_bias=False, dropout_op=nn.Dropout2d,
                         dropout_op_kwargs={"p": 0.1}),
        (24, 36),
    ),
    "plain-2d-deep": (
        lambda: plain_2d(features=(4, 4, 5, 6, 7), strides=(1, 2, (2, 1), 1, 2),
                         kernel_sizes=((3, 5), 3, 3, (1, 3), 3)),
        (24, 32),
    ),
    "plain-3d": (plain_3d, (6, 16, 20)),
    "residual-2d": (residual_2d, (24, 40)),
    "residual-2d-stem": (lambda: residual_2d(stem_channels=5), (24, 40)),
    "residual-2d-bottleneck": (
        lambda: residual_2d(block=unet.BottleneckD, bottleneck_channels=(2, 3, 3, 4)),
        (24, 40),
    ),
    "residual-3d": (residual_3d, (4, 12, 16)),
}  # fmt: skip


def plans_of(configuration: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "plans": {
            "dataset_name": "Dataset004_Cells",
            "plans_name": "nnUNetPlans",
            "transpose_forward": [0, 1, 2],
            "configurations": {"2d": configuration},
            **more,
        },
        "configuration": "2d",
        "fold": 0,
        "dataset_json": {
            "channel_names": {"0": "DAPI", "1": "actin"},
            "labels": {"background": 0, "nucleus": 1, "cell": 2},
            "numTraining": 12,
            "file_ending": ".nii.gz",
        },
        "device": torch.device("cpu"),
    }


CONFIGURATION: dict[str, Any] = {
    "patch_size": [64, 96],
    "spacing": [0.5, 0.25],
    "normalization_schemes": ["ZScoreNormalization", "ZScoreNormalization"],
    "use_mask_for_norm": [False, False],
}


def checkpoint_of(network: nn.Module, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What nnU-Net's trainer writes."""
    return {
        "network_weights": network.state_dict(),
        "optimizer_state": {"state": {}, "param_groups": []},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "epoch_end_timestamps": [1.0]},
        "_best_ema": np.float32(0.5),
        "current_epoch": 3,
        "init_args": dict(arguments or plans_of(CONFIGURATION)),
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1),
    }


def evidence_of(
    tensors: Mapping[str, Tensor],
    arguments: Mapping[str, Any] | None = None,
    layers: Mapping[str, LayerNote] | None = None,
) -> Evidence:
    file = io.BytesIO()
    torch.save(dict(tensors), file)
    file.seek(0)
    return Evidence(
        name="checkpoint_final.pth",
        container="file",
        tensors=torch.load(file, weights_only=True),
        config={} if arguments is None else {"init_args": arguments},
        layers=layers or {},
    )


def opened(evidence: Evidence, **changes: Any) -> tuple[Model, Understanding]:
    family = recognised(evidence)
    assert family is not None
    assert family.name == "nnunet"
    found = family.understand(evidence)
    return rebuild(evidence, family.name, found, changes=changes), found


def logits_of(original: nn.Module) -> Any:
    def run(image: Tensor) -> Tensor:
        found = original(image)
        return found[0] if isinstance(found, list) else found

    return run


@pytest.mark.parametrize("variant", VARIANTS)
def test_network_as_nnunet(variant: str) -> None:
    make, size = VARIANTS[variant]
    original = randomised(make())
    evidence = evidence_of(original.state_dict())
    model, found = opened(evidence)
    image = image_for(found.config.in_channels, *size)
    assert largest_difference(model.network, logits_of(original), image) <= TOLERANCE
    names = list(model.network.state_dict())
    given = {name for listed in (found.names.get(n, (n,)) for n in names) for name in listed}
    assert given == set(evidence.tensors)  # everything is accounted for


@pytest.mark.parametrize("variant", ["plain-2d", "residual-3d"])
def test_network_can_be_given_back_to_nnunet(variant: str) -> None:
    make, size = VARIANTS[variant]
    original, fresh = randomised(make()), randomised(make(), seed=5)
    model, found = opened(evidence_of(original.state_dict()))
    fresh.load_state_dict(plain_weights(model), strict=True)
    image = image_for(found.config.in_channels, *size)
    assert largest_difference(fresh, original, image) == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_network_stored_without_duplicates(variant: str) -> None:
    make, size = VARIANTS[variant]
    original = randomised(make())
    kept: dict[int, str] = {}
    for key, value in sorted(original.state_dict().items()):
        kept.setdefault(value.data_ptr(), key)
    once = {key: original.state_dict()[key] for key in kept.values()}
    assert any(key.startswith("decoder.encoder.") for key in once)
    model, found = opened(evidence_of(once))
    image = image_for(found.config.in_channels, *size)
    assert largest_difference(model.network, logits_of(original), image) <= TOLERANCE


def test_duplicates_that_differ_are_said() -> None:
    original = randomised(plain_2d())
    tensors = {name: value.clone() for name, value in original.state_dict().items()}
    tensors["decoder.encoder.stages.0.0.convs.0.conv.weight"] += 1
    model, _ = opened(evidence_of(tensors))
    assert any("different numbers" in note for note in model.description.notes)
    assert largest_difference(model.network, original, image_for(2, 16, 24)) <= TOLERANCE


@pytest.mark.parametrize("by", ["plans", "layers"])
def test_plans_and_stored_modules_tell_what_weights_do_not(by: str) -> None:
    settings = {
        "norm_op": nn.GroupNorm,
        "norm_op_kwargs": {"eps": 1e-3},
        "nonlin": nn.ELU,
        "nonlin_kwargs": {"alpha": 0.5},
        "strides": (2, 2, 2),
        "nonlin_first": by == "plans",
    }

    class Grouped(nn.GroupNorm):
        def __init__(self, n_channels: int, eps: float) -> None:
            super().__init__(2, n_channels, eps)

    original = randomised(plain_2d(**{**settings, "norm_op": Grouped}))
    told = {
        "strides": [2, 2, 2],
        "norm_op": "torch.nn.modules.normalization.GroupNorm",
        "norm_op_kwargs": {"num_groups": 2, "eps": 1e-3},
        "nonlin": "torch.nn.ELU",
        "nonlin_kwargs": {"alpha": 0.5},
        "nonlin_first": True,
    }
    arguments = plans_of({**CONFIGURATION, "architecture": {"arch_kwargs": told}})
    layers = {
        path: LayerNote(
            kind=type(layer).__name__.replace("Grouped", "GroupNorm"), values=vars(layer)
        )
        for path, layer in original.named_modules()
    }
    evidence = (
        evidence_of(original.state_dict(), arguments)
        if by == "plans"
        else evidence_of(original.state_dict(), layers=layers)
    )
    model, found = opened(evidence)
    assert not {"norm", "groups", "act", "slope"} & set(found.assumed)
    assert largest_difference(model.network, original, image_for(2, 32, 24)) <= TOLERANCE


def test_weights_alone_leave_assumptions() -> None:
    original = randomised(plain_2d(nonlin=nn.ReLU))
    model, found = opened(evidence_of(original.state_dict()), act="relu")
    assert {"norm", "act", "slope", "normalization", "class_names"} <= set(found.assumed)
    assert largest_difference(model.network, original, image_for(2, 16, 24)) <= TOLERANCE


def test_pooling_layers_are_recognised_by_their_place() -> None:
    original = plain_2d()
    original.encoder = unet.PlainConvEncoder(
        2, 3, (4, 6, 8), nn.Conv2d, 3, (1, 2, 2), 2, True, nn.InstanceNorm2d, {"affine": True},
        nonlin=nn.LeakyReLU, return_skips=True, pool="avg",
    )  # fmt: skip
    original.decoder = unet.UNetDecoder(original.encoder, 3, 2, False)
    randomised(original)
    model, found = opened(evidence_of(original.state_dict()), pool="avg")
    assert found.config.pool == "max"
    assert "pool" in found.assumed
    assert largest_difference(model.network, original, image_for(2, 16, 24)) <= TOLERANCE


@pytest.mark.parametrize("make", [lambda: plain_2d(deep_supervision=True), residual_2d])
def test_checkpoint_as_the_trainer_writes_it(make: Any) -> None:
    original = randomised(make())
    contents = read_contents(Source.of_bytes(saved(checkpoint_of(original)), "fold.pth"))
    evidence = find_evidence(contents, "fold.pth", is_known=families()["nnunet"].recognise)
    model, found = opened(evidence)
    assert largest_difference(model.network, logits_of(original), image_for(2, 24, 40)) <= TOLERANCE
    assert found.assumed == ()
    assert model.description.name == "Dataset004_Cells"


# ---- what the plans say


def about(arguments: Mapping[str, Any], make: Any = plain_2d) -> tuple[Model, Understanding]:
    return opened(evidence_of(randomised(make()).state_dict(), arguments))


def test_plans_describe_the_model() -> None:
    arguments = plans_of(CONFIGURATION)
    arguments["dataset_json"] |= {"licence": "CC BY 4.0", "reference": "A lab", "name": "Cells"}
    model, found = about(arguments)
    description = model.description
    assert description.name == "Cells"
    assert description.channels == "DAPI, actin"
    assert description.class_names == description.outputs == ("background", "nucleus", "cell")
    assert description.activation == "softmax"
    assert description.normalization == Normalization(kind="zscore", eps=1e-8, clip=None)
    assert description.pixel_size == pytest.approx(250)
    assert (description.licence, description.source) == ("CC BY 4.0", "A lab")
    assert found.assumed == ()
    assert any("64 x 96 px" in note for note in description.notes)


def test_regions_overlap() -> None:
    arguments = plans_of(CONFIGURATION)
    arguments["dataset_json"] |= {
        "labels": {
            "background": 0, "whole": [1, 2, 3], "core": (2, 3), "active": 3, "ignore": 4,
        },
        "regions_class_order": [1, 2, 3],
    }  # fmt: skip
    model, found = about(arguments)
    assert model.description.activation == "sigmoid"
    assert model.description.outputs == ("whole", "core", "active")
    assert model.description.class_names == ("background", "whole", "core", "active")
    assert model.description.output_class == (1, 2, 3)
    assert any("within each other" in note for note in found.notes)


def test_an_ignored_label_is_no_class() -> None:
    arguments = plans_of(CONFIGURATION)
    arguments["dataset_json"]["labels"] = {"cell": 2, "ignore": 3, "background": 0, "nucleus": 1}
    model, _ = about(arguments)
    assert model.description.class_names == ("background", "nucleus", "cell")


RAW = np.random.default_rng(0).normal(100, 50, (2, 16, 20)).astype(np.float32)


def as_nnunet(scheme: str, raw: Any, numbers: Mapping[str, float]) -> Any:
    """What nnU-Net makes of a channel."""
    if scheme == "ZScoreNormalization":
        return (raw - raw.mean()) / max(raw.std(), 1e-8)
    if scheme == "CTNormalization":
        clipped = np.clip(raw, numbers["percentile_00_5"], numbers["percentile_99_5"])
        return (clipped - numbers["mean"]) / max(numbers["std"], 1e-8)
    if scheme == "RescaleTo01Normalization":
        return (raw - raw.min()) / np.clip((raw - raw.min()).max(), 1e-8, None)
    return raw / 255.0 if scheme == "RGBTo01Normalization" else raw


@pytest.mark.parametrize(
    "schemes",
    [
        ("ZScoreNormalization", "ZScoreNormalization"),
        ("CTNormalization", "CTNormalization"),
        ("RescaleTo01Normalization", "RescaleTo01Normalization"),
        ("RGBTo01Normalization", "RGBTo01Normalization"),
        ("NoNormalization", "NoNormalization"),
        ("CTNormalization", "NoNormalization"),
        ("RGBTo01Normalization", "CTNormalization"),
    ],
)
def test_normalization_of_the_plans(schemes: tuple[str, str]) -> None:
    numbers = {
        "0": {"mean": 90.0, "std": 30.0, "percentile_00_5": 20.0, "percentile_99_5": 160.0},
        "1": {"mean": 10.0, "std": 5.0, "percentile_00_5": 60.0, "percentile_99_5": 140.0},
    }
    arguments = plans_of(
        {**CONFIGURATION, "normalization_schemes": list(schemes)},
        foreground_intensity_properties_per_channel=numbers,
    )
    model, found = about(arguments)
    assert "normalization" not in found.assumed
    scaling = model.description.normalization
    ours = normalise(RAW, scale_of(RAW, scaling))
    pairs = zip(schemes, RAW, numbers.values(), strict=True)
    wanted = np.stack([as_nnunet(*triple) for triple in pairs])
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


def test_masked_normalization_counts_only_what_is_not_zero() -> None:
    model, _ = about(plans_of({**CONFIGURATION, "use_mask_for_norm": [True, True]}))
    assert model.description.normalization.nonzero


@pytest.mark.parametrize(
    ("schemes", "numbers"),
    [
        (["ZScoreNormalization", "CTNormalization"], {}),
        (["MyNormalization", "MyNormalization"], {}),
        (["CTNormalization", "CTNormalization"], {"0": {"mean": "x"}}),
    ],
)
def test_what_cannot_be_followed_is_assumed_and_said(schemes: Any, numbers: Any) -> None:
    arguments = plans_of(
        {**CONFIGURATION, "normalization_schemes": schemes},
        foreground_intensity_properties_per_channel=numbers,
    )
    _, found = about(arguments)
    assert "normalization" in found.assumed
    assert any("normaliz" in note for note in found.notes)


@pytest.mark.parametrize(
    ("ending", "spacing", "size"),
    [
        (".nii.gz", [2.0, 0.5, 0.5], 500),
        (".tif", [1.0, 0.2, 0.2], 0.2),
        (".tif", [1.0, 1.0, 1.0], None),
        (".nii.gz", ["a", 1, 1], None),
        (".nii.gz", [1, 1], None),
    ],
)
def test_pixel_size(ending: str, spacing: Any, size: float | None) -> None:
    arguments = plans_of({**CONFIGURATION, "spacing": spacing, "patch_size": [4, 16, 16]})
    arguments["dataset_json"]["file_ending"] = ending
    model, found = about(arguments, plain_3d)
    assert model.description.pixel_size == (None if size is None else pytest.approx(size))
    assert ("pixel_size" in found.assumed) == (size is None)


def test_configurations_inherit() -> None:
    arguments = plans_of(CONFIGURATION)
    arguments["plans"]["configurations"]["2d_big"] = {"inherits_from": "2d", "batch_size": 99}
    arguments["configuration"] = "2d_big"
    model, found = about(arguments)
    assert model.description.pixel_size == pytest.approx(250)
    arguments["plans"]["configurations"]["2d"] = {"inherits_from": "2d_big"}  # a circle
    about(arguments)
    assert found.assumed == ()


def test_second_stage_of_a_cascade_is_declined() -> None:
    arguments = plans_of({**CONFIGURATION, "previous_stage": "3d_lowres"})
    with pytest.raises(ModelFileError, match="cascade"):
        about(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"plans": 3, "configuration": [1], "dataset_json": None},
        {"plans": {"configurations": {"2d": 4}}, "configuration": "2d"},
        {"plans": {"transpose_forward": ["x"]}, "dataset_json": {"labels": {"a": "b"}}},
        {"plans": {}, "dataset_json": {"labels": {"a": [1, 2]}, "channel_names": [1]}},
    ],
)
def test_odd_plans_do_no_harm(arguments: Any) -> None:
    _, found = about(arguments)
    assert {"normalization", "class_names", "pixel_size"} <= set(found.assumed)


def test_turned_axes_are_said() -> None:
    _, found = about(plans_of(CONFIGURATION, transpose_forward=[2, 0, 1]))
    assert any("(2, 0, 1)" in note for note in found.notes)


def test_files_of_others_are_not_taken() -> None:
    family = families()["nnunet"]
    tensors = dict(plain_2d().state_dict())
    without = {name: value for name, value in tensors.items() if "transpconvs" not in name}
    assert not family.recognise(evidence_of(without))


def test_network_can_be_trained_and_leaves_its_input_alone() -> None:
    model, _ = about(plans_of(CONFIGURATION), residual_2d)
    network = model.network.train().requires_grad_(True)
    image = image_for(2, 32, 32)
    before = image.clone()
    network(image).square().mean().backward()
    assert torch.equal(image, before)
    unused = {f"decoder.seg_layers.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")}
    assert {n for n, weight in network.named_parameters() if weight.grad is None} == unused
