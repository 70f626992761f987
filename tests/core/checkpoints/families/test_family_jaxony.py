"""The U-Net of jaxony/unet-pytorch, against the original."""

from dataclasses import replace

import pytest
from family_fixtures import (
    CLASSICS,
    damaged,
    difference,
    evidence_of,
    fixtures,
    is_plain,
    is_sound,
    pairs,
    rebuilt,
    refuses,
)

from napari_unet.core.checkpoints.evidence import LayerNote
from napari_unet.core.checkpoints.families.jaxony import FAMILY
from napari_unet.core.checkpoints.family import recognised
from napari_unet.core.checkpoints.rebuild import rebuild


@pytest.mark.parametrize("fixture", fixtures("jaxony"))
def test_it_gives_what_the_original_gives(fixture):
    network = rebuilt(FAMILY, evidence_of(fixture))

    assert difference(network, fixture) <= 1e-5


@pytest.mark.parametrize("fixture", fixtures("jaxony"))
def test_it_can_be_kept_copied_and_trained(fixture):
    evidence = evidence_of(fixture)
    config = FAMILY.understand(evidence).config
    image, _ = next(pairs(fixture))

    assert is_plain(config)
    assert (config.in_channels, config.dims) == (image.shape[1], 2)
    assert is_sound(rebuilt(FAMILY, evidence), image)


@pytest.mark.parametrize("fixture", fixtures(*CLASSICS))
def test_it_takes_its_own_files_and_no_others(fixture):
    assert FAMILY.recognise(evidence_of(fixture)) == fixture.startswith("jaxony/")


@pytest.mark.parametrize("fixture", ["jaxony/add", "jaxony/upsample"])
def test_whatever_is_missing_or_of_another_shape_is_seen(fixture):
    evidence = evidence_of(fixture)

    assert not refuses(FAMILY, evidence)
    assert all(refuses(FAMILY, changed) for changed in damaged(evidence))


@pytest.mark.parametrize("fixture", ["jaxony/add", "jaxony/upsample"])
def test_a_file_becomes_a_model(fixture):
    evidence = evidence_of(fixture)
    family = recognised(evidence)
    assert family is FAMILY
    model = rebuild(evidence, family.name, family.understand(evidence))

    assert difference(model.network, fixture) <= 1e-5


def test_the_order_of_the_tensors_does_not_matter():
    evidence = evidence_of("jaxony/add")
    turned = replace(evidence, tensors=dict(reversed(evidence.tensors.items())))

    assert FAMILY.understand(turned).config == FAMILY.understand(evidence).config


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
