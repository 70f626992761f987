"""What is asked of all of the small classic families alike, against their originals."""

import re
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
    without,
)

from napari_unet.core.checkpoints.family import recognised
from napari_unet.core.checkpoints.rebuild import rebuild

ALL = fixtures(*CLASSICS)
CHOSEN = {
    "jvanvugt/same_norm": {"padding": "same"},
    "jvanvugt/same_upsample": {"padding": "same"},
    "jvanvugt/same_average": {"padding": "same", "pooling": "average"},
    "leejunhyun/r2_t3": {"steps": 3},
}
"""What these files do not say."""
TYPICAL = (
    "brain_segmentation/grey", "jaxony/add", "jaxony/upsample", "jvanvugt/valid_norm_upsample",
    "leejunhyun/attention", "leejunhyun/r2", "leejunhyun/copy_r2", "milesial/a_transposed",
    "milesial/d_bilinear", "nested_unet/unet", "nested_unet/deep_supervision", "usuyama/unet",
    "usuyama/resnet50", "usuyama/resnet18",
)  # fmt: skip


@pytest.mark.parametrize("fixture", ALL)
def test_it_gives_what_the_original_gives(fixture):
    evidence = evidence_of(fixture)
    network = rebuilt(recognised(evidence), evidence, **CHOSEN.get(fixture, {}))

    assert difference(network, fixture) <= 1e-5


@pytest.mark.parametrize("fixture", ALL)
def test_it_can_be_kept_copied_and_trained(fixture):
    evidence = evidence_of(fixture)
    family = recognised(evidence)
    config = family.understand(evidence).config
    image, _ = next(pairs(fixture))

    assert is_plain(config)
    assert (config.in_channels, config.dims) == (image.shape[1], 2)
    assert is_sound(rebuilt(family, evidence, **CHOSEN.get(fixture, {})), image)


@pytest.mark.parametrize("fixture", ALL)
def test_a_file_is_taken_by_its_own_family(fixture):
    family = recognised(evidence_of(fixture))  # raises if several families take it

    assert family.name.split("_")[0] == fixture.split("/")[0].split("_")[0]


@pytest.mark.parametrize("fixture", TYPICAL)
def test_whatever_is_missing_or_of_another_shape_is_seen(fixture):
    evidence = evidence_of(fixture)
    family = recognised(evidence)
    ignored = family.understand(evidence).ignored
    unused = [name for name in evidence.tensors if any(re.fullmatch(p, name) for p in ignored)]
    needed = without(evidence, *unused)

    assert not refuses(family, needed)
    assert all(refuses(family, changed) for changed in damaged(needed))


@pytest.mark.parametrize("fixture", TYPICAL)
def test_a_file_becomes_a_model(fixture):
    evidence = evidence_of(fixture)
    family = recognised(evidence)
    model = rebuild(evidence, family.name, family.understand(evidence))

    assert difference(model.network, fixture) <= 1e-5


@pytest.mark.parametrize("fixture", TYPICAL)
def test_the_order_of_the_tensors_does_not_matter(fixture):
    evidence = evidence_of(fixture)
    turned = replace(evidence, tensors=dict(reversed(evidence.tensors.items())))
    family = recognised(evidence)

    assert recognised(turned) is family
    assert family.understand(turned).config == family.understand(evidence).config
