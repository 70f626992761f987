"""UNet++ and U-Net of 4uiiurz1/pytorch-nested-unet, against the originals."""

import numpy as np
from family_fixtures import (
    evidence_of,
    rebuilt,
)

from napari_unet.core.checkpoints.families.nested_unet import FAMILY
from napari_unet.core.normalization import normalise, scale_of


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
