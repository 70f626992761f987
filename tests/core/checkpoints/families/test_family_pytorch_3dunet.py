"""The networks of pytorch-3dunet and PlantSeg, compared with the originals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from originals import image_for, largest_difference, randomised
from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence, LayerNote
from napari_unet.core.checkpoints.families.pytorch_3dunet import FAMILY
from napari_unet.core.checkpoints.family import Understanding
from napari_unet.core.errors import ModelFileError

FIXTURES = Path(__file__).parents[3] / "fixtures" / "checkpoints" / "pytorch_3dunet"


def evidence_of(tensors: Mapping[str, Tensor], **more: Any) -> Evidence:
    return Evidence(name="best.pytorch", container="PyTorch file", tensors=dict(tensors), **more)


def rebuilt(evidence: Evidence) -> tuple[nn.Module, Understanding]:
    assert FAMILY.recognise(evidence)
    understanding = FAMILY.understand(evidence)
    network = FAMILY.network(understanding.config)
    tensors = evidence.tensors if understanding.tensors is None else understanding.tensors
    files = {name: name for name in tensors}
    files |= {names[0]: name for name, names in understanding.names.items()}
    network.load_state_dict({files[name]: value for name, value in tensors.items()}, strict=True)
    return network.eval(), understanding


def original(kind: str, n_in: int, n_out: int, **settings: Any) -> nn.Module:
    model = pytest.importorskip("pytorch3dunet.unet3d.model")
    return randomised(getattr(model, kind)(n_in, n_out, is_segmentation=False, **settings))


VARIANTS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "3d": ("UNet3D", {"f_maps": [8, 16]}, (5, 9, 11)),
    "2d": ("UNet2D", {"f_maps": [8, 16, 32]}, (21, 26)),
    "2d upscale 1": ("UNet2D", {"f_maps": [8, 16], "conv_upscale": 1}, (9, 10)),
    "2d batch norm first": ("UNet2D", {"f_maps": [8, 16], "layer_order": "bcr"}, (9, 10)),
    "2d batch norm": ("UNet2D", {"f_maps": [8, 16], "layer_order": "cbr"}, (9, 10)),
    "2d no norm, ELU": ("UNet2D", {"f_maps": [8, 16], "layer_order": "ce"}, (9, 10)),
    "2d leaky": ("UNet2D", {"f_maps": [8, 16], "layer_order": "gcl"}, (9, 10)),
    "2d groups": ("UNet2D", {"f_maps": [8, 16], "num_groups": 4}, (9, 10)),
    "2d linear": ("UNet2D", {"f_maps": [8, 16], "upsample": "bilinear"}, (9, 10)),
    "2d deconv": ("UNet2D", {"f_maps": [8, 16, 32], "upsample": "deconv"}, (17, 22)),
    "2d unpadded": ("UNet2D", {"f_maps": [8, 16], "conv_padding": 0}, (24, 26)),
    "residual 2d": ("ResidualUNet2D", {"f_maps": [8, 16]}, (10, 13)),
    "residual 3d": ("ResidualUNet3D", {"f_maps": [2, 4, 4]}, (6, 9, 12)),
    "residual leaky": ("ResidualUNet2D", {"f_maps": [8, 16], "layer_order": "cbl"}, (10, 13)),
    "excitation": ("ResidualUNetSE3D", {"f_maps": [2, 4]}, (4, 7, 8)),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_output_is_that_of_the_original(variant: str) -> None:
    kind, settings, size = VARIANTS[variant]
    wanted = original(kind, 2, 3, **settings)
    evidence = evidence_of(wanted.state_dict(), config={"model": {"name": kind, **settings}})

    network, understanding = rebuilt(evidence)

    assert largest_difference(network, wanted, image_for(2, *size)) < 1e-5
    assert (understanding.config.in_channels, understanding.config.out_channels) == (2, 3)
    assert understanding.config.dims == len(size)
    assert not {"nonlinearity", "groups", "padding", "upsampling"} & set(understanding.assumed)


def test_flat_kernels_in_a_network_said_to_be_3d() -> None:
    blocks = pytest.importorskip("pytorch3dunet.unet3d.buildingblocks")
    flat = {"conv_kernel_size": (1, 3, 3), "pool_kernel_size": (1, 2, 2)}
    settings = {"f_maps": [8, 16], "conv_padding": (0, 1, 1), "final_sigmoid": True, **flat}
    wanted = original("AbstractUNet", 1, 1, basic_module=blocks.DoubleConv, **settings)

    network, understanding = rebuilt(
        evidence_of(wanted.state_dict(), config={"model": {"name": "UNet3D", **settings}})
    )

    assert understanding.config.dims == 3
    assert largest_difference(network, wanted, image_for(1, 3, 9, 10)) < 1e-5


@pytest.mark.parametrize("kind", ["UNet2D", "ResidualUNet2D"])
def test_default_network_needs_no_configuration(kind: str) -> None:
    wanted = original(kind, 1, 1, f_maps=[8, 16])

    network, understanding = rebuilt(evidence_of(wanted.state_dict()))

    assert largest_difference(network, wanted, image_for(1, 16, 18)) < 1e-5
    assert {"nonlinearity", "groups", "padding", "activation", "normalization"} <= set(
        understanding.assumed
    )
    assert ("upsampling" in understanding.assumed) == (kind == "UNet2D")


@pytest.mark.parametrize(
    "name, dims, changes",
    [
        ("unet2d_1.3.9", 2, {}),
        ("residual3d_1.3.9", 3, {}),
        ("residual3d_cbe_1.3.9", 3, {"layer_order": "cbe"}),
        ("unet3d_crg_1.2.5", 3, {}),
        ("residual_1.5.0", 3, {}),
    ],
)
def test_older_generations(name: str, dims: int, changes: dict[str, Any]) -> None:
    stored = torch.load(FIXTURES / f"{name}.pt", weights_only=False)
    known = np.load(FIXTURES / f"{name}.npz")

    network, understanding = rebuilt(
        evidence_of(stored["model_state_dict"], config={"model": changes})
    )

    assert understanding.config.dims == dims
    image, wanted = (torch.from_numpy(known[key]) for key in ("input", "output"))
    if image.ndim == 5 and dims == 2:
        image, wanted = image.squeeze(2), wanted.squeeze(2)  # (b, c, y, x)
    assert largest_difference(network, lambda _: wanted, image) < 1e-5


def test_residual_network_that_normalizes_last_has_elus_by_default() -> None:
    wanted = original("ResidualUNet2D", 1, 1, f_maps=[8, 16], layer_order="cge")

    network, understanding = rebuilt(evidence_of(wanted.state_dict()))

    assert largest_difference(network, wanted, image_for(1, 16, 18)) < 1e-5
    assert {"nonlinearity", "norm_at"} <= set(understanding.assumed)


def test_nonsense_in_a_configuration_is_passed_over() -> None:
    step = {"name": "PercentileNormalizer", "pmin": "low"}
    loaders = {"train": {"transformer": {"raw": [step, 3], "label": "none"}}, "val": 4}
    model = {"num_groups": "many", "conv_padding": [], "pool_kernel_size": None}

    understanding = described(loaders=loaders, model=model, resolution=["a", 1, 2])

    assert understanding.config.groups == 8
    assert understanding.about["normalization"].low == 1.0
    assert "pixel_size" not in understanding.about


def test_stored_layers_tell_the_rest() -> None:
    wanted = original("UNet2D", 1, 1, f_maps=[8, 16], layer_order="cgl", num_groups=2)
    layers = {
        path: LayerNote(kind=type(layer).__name__, values=vars(layer))
        for path, layer in wanted.named_modules()
    }

    network, understanding = rebuilt(evidence_of(wanted.state_dict(), layers=layers))

    assert largest_difference(network, wanted, image_for(1, 9, 10)) < 1e-5
    assert understanding.config.nonlinearity == "leaky_relu"
    assert not {"nonlinearity", "norm_at", "groups", "padding"} & set(understanding.assumed)


def described(n_out: int = 1, **config: Any) -> Understanding:
    tensors = original("UNet2D", 1, n_out, f_maps=[2, 4]).state_dict()
    return FAMILY.understand(evidence_of(tensors, config=config))


def test_boundaries_are_the_opposite_of_objects() -> None:
    about = described(output_type="boundaries", resolution=[0.3, 0.2, 0.1]).about

    assert about["inverted"]
    assert about["output_class"] == (1,)
    assert about["pixel_size"] == 0.2


def test_nuclei_are_not_inverted() -> None:
    understanding = described(output_type="nuclei", resolution=[0.25, 0.25, 0.25])

    assert understanding.about["class_names"] == ("background", "nucleus")
    assert not understanding.about.get("inverted", False)
    assert "normalization" not in understanding.assumed


def test_training_configuration_tells_input_and_output() -> None:
    transformer = {
        "raw": [{"name": "PercentileNormalizer", "pmin": 2.0}, {"name": "ToTensor"}],
        "label": [{"name": "BlobsToMask", "boundary": True}],
    }
    about = described(2, loaders={"train": {"transformer": transformer}}).about

    assert about["outputs"] == ("foreground", "boundary")
    assert about["output_class"] == (1, -1)
    assert about["border"] == 1
    assert (about["normalization"].low, about["normalization"].high) == (2.0, 99.6)


@pytest.mark.parametrize(
    "step, kind, offset, scale",
    [
        ({"name": "Standardize"}, "zscore", (), ()),
        ({"name": "Standardize", "mean": 4, "std": 2}, "none", (4.0,), (2.0,)),
        ({"name": "Normalize", "min_value": 0, "max_value": 100}, "none", (50.0,), (50.0,)),
        ({"name": "Normalize"}, "minmax", (0.5,), (0.5,)),
        ({"name": "Normalize", "norm01": True}, "minmax", (), ()),
    ],
)
def test_normalizations(
    step: dict[str, Any], kind: str, offset: tuple[float, ...], scale: tuple[float, ...]
) -> None:
    understanding = described(loaders={"train": {"transformer": {"raw": [step]}}})

    found = understanding.about["normalization"]
    assert (found.kind, found.offset, found.scale) == (kind, offset, scale)
    assert "normalization" not in understanding.assumed


@pytest.mark.parametrize(
    "model, wanted",
    [
        ({"final_sigmoid": False}, "softmax"),
        ({"final_sigmoid": True}, "sigmoid"),
        ({"is_segmentation": False}, "none"),
    ],
)
def test_activation_is_that_of_the_configuration(model: dict[str, Any], wanted: str) -> None:
    assert described(3, model=model).about["activation"] == wanted


def test_missing_decoder_is_said() -> None:
    tensors = original("UNet2D", 1, 1, f_maps=[1, 2, 4]).state_dict()
    kept = {name: value for name, value in tensors.items() if not name.startswith("decoders.1")}

    with pytest.raises(ModelFileError, match="3 levels on the way down and 1"):
        FAMILY.understand(evidence_of(kept))


def test_networks_of_others_are_not_recognised() -> None:
    foreign = {"encoders.0.0.weight": torch.zeros(2, 1, 3, 3), "final_conv.weight": torch.zeros(1)}
    assert not FAMILY.recognise(evidence_of(foreign))


def test_network_can_be_trained() -> None:
    wanted = original("ResidualUNet2D", 1, 1, f_maps=[2, 4])
    network, _ = rebuilt(evidence_of(wanted.state_dict()))
    image = image_for(1, 8, 8)
    before = image.clone()

    network.train()(image).sum().backward()

    assert all(parameter.grad is not None for parameter in network.parameters())
    assert torch.equal(image, before)
