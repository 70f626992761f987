"""The U-Net of jaxony/unet-pytorch, against the original."""

import pytest
from family_fixtures import (
    evidence_of,
)

from napari_unet.core.checkpoints.evidence import LayerNote
from napari_unet.core.checkpoints.families.jaxony import FAMILY


def test_adding_and_joining_are_told_apart_by_shapes():
    merges = {name: _config(name).merge for name in ("concat", "add", "upsample")}

    assert merges == {"concat": "concat", "add": "add", "upsample": "concat"}


def test_where_pixels_are_is_assumed_for_interpolation_only():
    assert "align_corners" not in FAMILY.understand(evidence_of("jaxony/concat")).assumed
    assert "align_corners" in FAMILY.understand(evidence_of("jaxony/upsample")).assumed


@pytest.mark.parametrize("stored", [True, False, None])
def test_stored_layers_tell_where_pixels_are(stored):
    layers = {"up_convs.0.upconv.0": LayerNote(kind="Upsample", values={"align_corners": stored})}
    found = FAMILY.understand(evidence_of("jaxony/upsample", layers=layers))

    assert found.config.align_corners == bool(stored)
    assert "align_corners" not in found.assumed


def test_layers_of_before_it_was_a_choice_do_not_tell_where_pixels_are():
    layers = {"up_convs.0.upconv.0": LayerNote(kind="Upsample", values={"scale_factor": 2})}
    found = FAMILY.understand(evidence_of("jaxony/upsample", layers=layers))

    assert "align_corners" in found.assumed


def _config(name):
    return FAMILY.understand(evidence_of(f"jaxony/{name}")).config
