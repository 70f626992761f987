"""The U-Net of jvanvugt/pytorch-unet, with and without padding, against the original."""

import pytest
import torch
from family_fixtures import (
    evidence_of,
    pairs,
    rebuilt,
)

from napari_unet.core.checkpoints.evidence import LayerNote
from napari_unet.core.checkpoints.families.jvanvugt import FAMILY


def test_it_is_not_padded_unless_somebody_says_so():
    found = FAMILY.understand(evidence_of("jvanvugt/same_norm"))

    assert found.config.padding == "valid" and "padding" in found.assumed
    assert FAMILY.choices["padding"] == ("valid", "same")


@pytest.mark.parametrize(
    ("stored", "padding"), [((1, 1), "same"), ((0, 0), "valid"), (1, "same"), ("same", "same")]
)
def test_stored_layers_tell_the_padding(stored, padding):
    layers = {"down_path.0.block.0": LayerNote(kind="Conv2d", values={"padding": stored})}
    found = FAMILY.understand(evidence_of("jvanvugt/valid", layers=layers))

    assert found.config.padding == padding
    assert "padding" not in found.assumed


@pytest.mark.parametrize(("said", "padding"), [(True, "same"), (False, "valid")])
def test_arguments_beside_the_weights_tell_the_padding(said, padding):
    config = {"model": {"padding": said}}
    found = FAMILY.understand(evidence_of("jvanvugt/valid", config=config))

    assert found.config.padding == padding
    assert "padding" not in found.assumed


def test_arguments_that_are_none_are_no_matter():
    found = FAMILY.understand(evidence_of("jvanvugt/valid", config={"model": "unet"}))

    assert "padding" in found.assumed


@pytest.mark.parametrize("stored", [True, False, None])
def test_stored_layers_tell_where_pixels_are(stored):
    layers = {"up_path.0.up.0": LayerNote(kind="Upsample", values={"align_corners": stored})}
    found = FAMILY.understand(evidence_of("jvanvugt/same_upsample", layers=layers))

    assert found.config.align_corners == bool(stored)
    assert "align_corners" not in found.assumed


def test_where_pixels_are_matters_only_for_interpolation():
    assert "align_corners" not in FAMILY.understand(evidence_of("jvanvugt/valid")).assumed
    assert "align_corners" in FAMILY.understand(evidence_of("jvanvugt/same_upsample")).assumed


def test_other_choices_give_other_outputs():
    for name, value in (("padding", "same"), ("pooling", "average"), ("align_corners", True)):
        network = rebuilt(FAMILY, evidence_of("jvanvugt/valid_norm_upsample"), **{name: value})
        image, wanted = next(pairs("jvanvugt/valid_norm_upsample"))
        output = network(image)

        assert output.shape != wanted.shape or (output - wanted).abs().max() > 1e-3


def test_padding_changes_nothing_far_from_the_rim():
    """Shifted by 2 px, on the same grid of poolings (three levels: 20 px are lost each side)."""
    evidence = evidence_of("jvanvugt/valid")
    image, wanted = next(pairs("jvanvugt/valid"))
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
    network = rebuilt(FAMILY, evidence, padding="same")

    inner = network(padded)[:, :, 22:-22, 22:-22]

    assert torch.allclose(inner, wanted, atol=1e-5)


def test_layers_of_before_it_was_a_choice_do_not_tell_where_pixels_are():
    layers = {"up_path.0.up.0": LayerNote(kind="Upsample", values={"scale_factor": 2})}
    found = FAMILY.understand(evidence_of("jvanvugt/same_upsample", layers=layers))

    assert "align_corners" in found.assumed
