"""All generations of the U-Net of milesial/Pytorch-UNet, against the originals."""

from dataclasses import replace

import pytest
import torch
from family_fixtures import (
    evidence_of,
    rebuilt,
    without,
)

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.families.milesial import FAMILY, MilesialConfig, MilesialUNet
from napari_unet.core.errors import ModelFileError
from napari_unet.core.normalization import Normalization

LAST = ("outc.conv.weight", "outc.conv.bias")


def test_what_differs_between_generations_is_read_off_names_and_shapes():
    old = FAMILY.understand(evidence_of("milesial/a_transposed")).config
    new = FAMILY.understand(evidence_of("milesial/d_transposed")).config
    bilinear = FAMILY.understand(evidence_of("milesial/c_bilinear")).config

    assert (old.block, old.bias, old.enlarged) == ("conv", True, (8, 4, 2, 1))
    assert (new.block, new.bias, new.enlarged) == ("double_conv", False, (8, 4, 2, 1))
    assert bilinear.enlarged == () and bilinear.up[0] == (8, 4)
    assert [width for _, width in new.down] == [1, 2, 4, 8, 16]


def test_an_image_without_a_multiple_of_anything_is_taken():
    network = rebuilt(FAMILY, evidence_of("milesial/b_bilinear"))

    assert network(torch.zeros(2, 1, 17, 31)).shape == (2, 2, 17, 31)


@pytest.mark.parametrize(
    ("fixture", "activation"),
    [("milesial/c_bilinear", "sigmoid"), ("milesial/d_bilinear", "softmax")],
)
def test_one_output_is_a_sigmoid_and_several_compete(fixture, activation):
    about = FAMILY.understand(evidence_of(fixture)).about

    assert about["activation"] == activation
    assert about["normalization"] == Normalization(kind="range", clip=None)


def test_how_several_outputs_of_the_oldest_compete_is_assumed():
    evidence = evidence_of("milesial/a_bilinear")
    two = {name: torch.cat([evidence.tensors[name]] * 2) for name in LAST}
    found = FAMILY.understand(replace(evidence, tensors={**evidence.tensors, **two}))

    assert found.about["activation"] == "softmax" and "activation" in found.assumed
    assert "activation" not in FAMILY.understand(evidence).assumed


def test_values_of_the_masks_name_the_classes():
    said = {"mask_values": [0, 127, 255]}
    found = FAMILY.understand(evidence_of("milesial/d_bilinear", config=said))

    assert found.about["class_names"] == ("background", "mask value 127", "mask value 255")
    assert found.about["outputs"] == found.about["class_names"]
    assert "class_names" not in found.assumed


def test_colours_in_the_masks_name_the_classes():
    said = {"mask_values": [[0, 0, 0], [255, 0, 0], [0, 255, 0]]}
    found = FAMILY.understand(evidence_of("milesial/d_bilinear", config=said))

    assert found.about["class_names"][1:] == ("mask value [255, 0, 0]", "mask value [0, 255, 0]")


@pytest.mark.parametrize("fixture", ["milesial/a_bilinear", "milesial/d_bilinear"])
def test_the_user_is_told_that_images_may_have_been_halved(fixture):
    (note,) = FAMILY.understand(evidence_of(fixture)).notes

    assert "half" in note


@pytest.mark.parametrize(
    "strange", [None, 5, [0, 1], [0, 127, 127], "abc", [0, "<b>", 2], [0, [], 2]]
)
def test_values_of_masks_that_do_not_fit_are_left_alone(strange):
    said = {"mask_values": strange}
    found = FAMILY.understand(evidence_of("milesial/d_bilinear", config=said))

    assert found.about["class_names"] == ("background", "class 1", "class 2")
    assert "class_names" in found.assumed


def test_levels_that_are_missing_are_told_in_words():
    whole = evidence_of("milesial/d_transposed")
    part = without(whole, *(name for name in whole.tensors if name.startswith("up1.")))

    with pytest.raises(ModelFileError, match="4 levels on the way down and 3 on the way up"):
        FAMILY.understand(part)


@pytest.mark.parametrize("name", ["up1.up.1.weight", "up1.att.W_g.0.weight", "down1.se.fc.weight"])
def test_other_layers_in_its_parts_make_it_another_network(name):
    evidence = evidence_of("milesial/d_bilinear")
    changed = replace(evidence, tensors={**evidence.tensors, name: torch.zeros(2, 2, 1, 1)})

    assert not FAMILY.recognise(changed)


def test_tensors_beside_the_network_do_not_matter():
    evidence = evidence_of("milesial/d_bilinear")
    changed = replace(evidence, tensors={**evidence.tensors, "loss.weight": torch.ones(3)})

    assert FAMILY.recognise(changed)


def test_a_volume_that_is_the_same_all_along_z_is_predicted_like_a_slice():
    flat = _network(2, enlarged=(4, 2))
    deep = _network(3, enlarged=(4, 2))
    deep.load_state_dict({name: _deeper(value) for name, value in flat.state_dict().items()})
    image = torch.randn(1, 2, 13, 10, generator=torch.Generator().manual_seed(0))
    volume = image[:, :, None].expand(-1, -1, 8, -1, -1)

    with torch.inference_mode():
        assert torch.allclose(deep(volume), flat(image)[:, :, None], atol=1e-6)


def test_a_network_for_volumes_is_recognised_as_one():
    tensors = _network(3).state_dict()
    evidence = Evidence(name="volumes.pt", container="PyTorch file", tensors=tensors)

    assert FAMILY.recognise(evidence)
    assert FAMILY.understand(evidence).config.dims == 3


def _network(dims, enlarged=()):
    torch.manual_seed(3)
    config = MilesialConfig(
        dims=dims, in_channels=2, out_channels=2, down=((2, 2), (4, 4), (6, 6)),
        up=((5, 4), (3, 2)), enlarged=enlarged,
    )  # fmt: skip
    return MilesialUNet(config).eval()


def _deeper(value):
    """The kernel of a slice for volumes: in the middle of three, or alike in both of two."""
    if value.ndim < 4:
        return value
    kernel = torch.zeros(*value.shape[:2], value.shape[-1], *value.shape[2:])
    kernel[:, :, :] = value[:, :, None] if value.shape[-1] < 3 else 0  # (out, in, z, y, x)
    if value.shape[-1] == 3:
        kernel[:, :, 1] = value
    return kernel
