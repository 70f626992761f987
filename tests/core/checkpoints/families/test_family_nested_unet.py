"""UNet++ and U-Net of 4uiiurz1/pytorch-nested-unet, against the originals."""

from dataclasses import replace

import numpy as np
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

from napari_unet.core.checkpoints.families.nested_unet import FAMILY
from napari_unet.core.checkpoints.family import recognised
from napari_unet.core.checkpoints.rebuild import rebuild
from napari_unet.core.normalization import normalise, scale_of


@pytest.mark.parametrize("fixture", fixtures("nested_unet"))
def test_it_gives_what_the_original_gives(fixture):
    network = rebuilt(FAMILY, evidence_of(fixture))

    assert difference(network, fixture) <= 1e-5


@pytest.mark.parametrize("fixture", fixtures("nested_unet"))
def test_it_can_be_kept_copied_and_trained(fixture):
    evidence = evidence_of(fixture)
    config = FAMILY.understand(evidence).config
    image, _ = next(pairs(fixture))

    assert is_plain(config)
    assert (config.in_channels, config.dims) == (image.shape[1], 2)
    assert is_sound(rebuilt(FAMILY, evidence), image)


@pytest.mark.parametrize("fixture", fixtures(*CLASSICS))
def test_it_takes_its_own_files_and_no_others(fixture):
    assert FAMILY.recognise(evidence_of(fixture)) == fixture.startswith("nested_unet/")


@pytest.mark.parametrize("fixture", ["nested_unet/unet", "nested_unet/deep_supervision"])
def test_whatever_is_missing_or_of_another_shape_is_seen(fixture):
    whole = evidence_of(fixture)
    others = tuple(f"final{i}." for i in (1, 2, 3))
    evidence = without(whole, *(name for name in whole.tensors if name.startswith(others)))

    assert not refuses(FAMILY, evidence)
    assert all(refuses(FAMILY, changed) for changed in damaged(evidence))


@pytest.mark.parametrize("fixture", ["nested_unet/unet", "nested_unet/deep_supervision"])
def test_a_file_becomes_a_model(fixture):
    evidence = evidence_of(fixture)
    family = recognised(evidence)
    assert family is FAMILY
    model = rebuild(evidence, family.name, family.understand(evidence))

    assert difference(model.network, fixture) <= 1e-5


def test_the_order_of_the_tensors_does_not_matter():
    evidence = evidence_of("nested_unet/unet")
    turned = replace(evidence, tensors=dict(reversed(evidence.tensors.items())))

    assert FAMILY.understand(turned).config == FAMILY.understand(evidence).config


def test_its_kinds_are_told_apart():
    configs = {name: _understood(name).config for name in ("unet", "nested", "deep_supervision")}

    assert {name: (one.nested, one.supervised) for name, one in configs.items()} == {
        "unet": (False, False),
        "nested": (True, False),
        "deep_supervision": (True, True),
    }
    assert all(one.widths == (2, 3, 4, 5, 6) for one in configs.values())


def test_only_the_last_of_several_outputs_is_kept():
    network = rebuilt(FAMILY, evidence_of("nested_unet/deep_supervision"))

    assert sorted(name for name, _ in network.named_children() if "final" in name) == ["final4"]


def test_it_divides_by_255_twice():
    """As `albumentations` and then its own reading of images do, on blue, green and red."""
    found = _understood("nested")
    normalization = found.about["normalization"]
    raw = np.array([0, 100, 255], np.uint8).reshape(3, 1, 1)

    ours = normalise(raw, scale_of(raw, normalization)).ravel()

    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert np.allclose(ours, (raw.ravel() / 255 - mean) / deviation / 255, atol=1e-7)
    assert found.about["channels"] == "blue, green, red"


def test_every_class_is_a_sigmoid_of_its_own():
    about = _understood("unet").about

    assert (about["activation"], about["output_class"]) == ("sigmoid", (1, 2))


def _understood(name):
    return FAMILY.understand(evidence_of(f"nested_unet/{name}"))
