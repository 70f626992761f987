"""The U-Net of mateuszbuda/brain-segmentation-pytorch, against the original."""

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

from napari_unet.core.checkpoints.families.brain_segmentation import FAMILY
from napari_unet.core.checkpoints.family import recognised
from napari_unet.core.checkpoints.rebuild import rebuild
from napari_unet.core.normalization import Normalization


@pytest.mark.parametrize("fixture", fixtures("brain_segmentation"))
def test_it_gives_what_the_original_gives(fixture):
    network = rebuilt(FAMILY, evidence_of(fixture))

    assert difference(network, fixture) <= 1e-5


@pytest.mark.parametrize("fixture", fixtures("brain_segmentation"))
def test_it_can_be_kept_copied_and_trained(fixture):
    evidence = evidence_of(fixture)
    config = FAMILY.understand(evidence).config
    image, _ = next(pairs(fixture))

    assert is_plain(config)
    assert (config.in_channels, config.dims) == (image.shape[1], 2)
    assert is_sound(rebuilt(FAMILY, evidence), image)


@pytest.mark.parametrize("fixture", fixtures(*CLASSICS))
def test_it_takes_its_own_files_and_no_others(fixture):
    assert FAMILY.recognise(evidence_of(fixture)) == fixture.startswith("brain_segmentation/")


@pytest.mark.parametrize("fixture", ["brain_segmentation/grey"])
def test_whatever_is_missing_or_of_another_shape_is_seen(fixture):
    evidence = evidence_of(fixture)

    assert not refuses(FAMILY, evidence)
    assert all(refuses(FAMILY, changed) for changed in damaged(evidence))


@pytest.mark.parametrize("fixture", ["brain_segmentation/grey"])
def test_a_file_becomes_a_model(fixture):
    evidence = evidence_of(fixture)
    family = recognised(evidence)
    assert family is FAMILY
    model = rebuild(evidence, family.name, family.understand(evidence))

    assert difference(model.network, fixture) <= 1e-5


def test_the_order_of_the_tensors_does_not_matter():
    evidence = evidence_of("brain_segmentation/grey")
    turned = replace(evidence, tensors=dict(reversed(evidence.tensors.items())))

    assert FAMILY.understand(turned).config == FAMILY.understand(evidence).config


def test_every_output_is_a_sigmoid_of_its_own():
    one = FAMILY.understand(evidence_of("brain_segmentation/hub"))
    two = FAMILY.understand(evidence_of("brain_segmentation/grey"))

    assert one.about["activation"] == two.about["activation"] == "sigmoid"
    assert two.about["output_class"] == (1, 2)
    assert "activation" in two.assumed and "activation" not in one.assumed


def test_each_image_is_brought_to_mean_0_and_deviation_1():
    found = FAMILY.understand(evidence_of("brain_segmentation/hub"))

    assert found.about["normalization"] == Normalization(kind="zscore", clip=None)
    assert {"normalization", "channels"} <= set(found.assumed)
