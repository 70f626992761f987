"""Known encoders under the decoders of U-Net, FPN and PSPNet.

That these are the networks of segmentation_models_pytorch, number for number, is tested in
tests/core/checkpoints/families/test_family_smp.py and tests/core/test_encoders.py; here, that the
names stand for what that library builds, and that the networks can be trained.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from encoder_checks import check_engine, check_preset, furthest, picture, reach_of
from originals import image_for, import_smp, largest_difference, randomised
from torch import nn

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.families.smp import FAMILY
from napari_unet.core.errors import SettingsError
from napari_unet.core.networks import Wanted, kinds, preset_of
from napari_unet.core.networks.backbones import BACKBONES, PRESETS

NAMES = [preset.name for preset in PRESETS]
KINDS = {"unet": "Unet", "fpn": "FPN"}
SMALL = Wanted(in_channels=1, out_channels=3)


def test_each_encoder_is_under_each_decoder() -> None:
    assert len(NAMES) == len(set(NAMES)) == 3 * len(BACKBONES)
    for name in ("unet-vgg16", "unet-resnet34", "fpn-resnet50", "pspnet-mobilenet_v2"):
        assert preset_of(name) in PRESETS


@pytest.mark.parametrize("name", NAMES)
def test_shapes_gradients_files_and_copies(name: str) -> None:
    check_preset(preset_of(name), SMALL, (64, 32))


@pytest.mark.parametrize("encoder", BACKBONES)
@pytest.mark.parametrize("decoder", KINDS)
def test_names_stand_for_what_the_library_builds(decoder: str, encoder: str) -> None:
    smp = import_smp()
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        original = getattr(smp, KINDS[decoder])(encoder, encoder_weights=None, classes=5)
    tensors = original.state_dict()
    evidence = Evidence(name="cells.pth", container="PyTorch file", tensors=tensors)
    wanted = Wanted(in_channels=3, out_channels=5)
    assert FAMILY.understand(evidence).config == preset_of(f"{decoder}-{encoder}").config_for(
        wanted
    )


@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v2"])
def test_a_pspnet_is_that_of_the_library_with_all_of_the_encoder(encoder: str) -> None:
    smp = import_smp()
    original = smp.PSPNet(encoder, None, encoder_depth=5, classes=3, upsampling=8)
    original.encoder = smp.encoders.get_encoder(encoder, weights=None, output_stride=8)
    randomised(original)
    network = preset_of(f"pspnet-{encoder}").build(Wanted(in_channels=3, out_channels=3)).eval()
    network.load_state_dict(original.state_dict())
    assert largest_difference(network, original, image_for(3, 64, 96)) <= 1e-4


def test_the_kind_is_the_family_of_files() -> None:
    kind = kinds()["smp"]
    assert (kind.name, kind.title, kind.config) == (FAMILY.name, FAMILY.title, FAMILY.config)


@pytest.mark.parametrize(
    ("name", "stride", "way"),
    [
        ("unet-vgg16", 32, "row by row"),
        ("unet-vgg16_bn", 32, "row by row"),
        ("unet-resnet18", 32, "row by row"),
        ("unet-resnet50", 32, "row by row"),
        ("unet-mobilenet_v2", 32, "row by row"),
        ("fpn-resnet18", 32, "in blended tiles"),
        ("pspnet-resnet18", 8, "in blended tiles"),
    ],
)
def test_the_engine_gives_the_same(name: str, stride: int, way: str) -> None:
    network = randomised(preset_of(name).build(SMALL))
    assert check_engine(network, picture(1, 43, 70), stride).name == way


@pytest.mark.parametrize(("encoder", "at"), [("resnet18", 7), ("mobilenet_v2", 11)])
def test_the_halo_is_exact(encoder: str, at: int) -> None:
    """Seen from where in a block it is the widest."""
    network = randomised(preset_of(f"unet-{encoder}").build(Wanted()))
    assert reach_of(network) == furthest(network, 32, 23, range(at - 2, at + 3))


@pytest.mark.parametrize("name", ["unet-vgg16", "fpn-vgg16", "pspnet-vgg16", "unet-resnet50"])
def test_what_goes_through_random_weights_neither_fades_nor_explodes(name: str) -> None:
    torch.manual_seed(0)
    network = preset_of(name).build(SMALL).train()
    with torch.no_grad():
        assert 0.05 < float(network(image_for(1, 64, 64).repeat(2, 1, 1, 1)).std()) < 50


def test_no_numbers_are_drawn_for_networks_without_memory() -> None:
    with torch.device("meta"):
        network = preset_of("unet-resnet18").build(SMALL)
    assert all(weights.is_meta for weights in network.parameters())


@pytest.mark.parametrize("about", [{"width": 16}, {"dims": 3}])
def test_what_cannot_be_chosen_is_said(about: dict[str, Any]) -> None:
    problem = "as wide as in its paper" if "width" in about else "not for 3D"
    for name in ("unet-resnet34", "pspnet"):
        with pytest.raises(SettingsError, match=problem):
            preset_of(name).config_for(Wanted(**about))


def test_widths_are_those_of_the_encoder() -> None:
    network = preset_of("unet-vgg16").build(Wanted())
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    assert (first.in_channels, first.out_channels) == (1, 64)
