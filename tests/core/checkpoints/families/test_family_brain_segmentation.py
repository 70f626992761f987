"""The U-Net of mateuszbuda/brain-segmentation-pytorch, against the original."""

from family_fixtures import (
    evidence_of,
)

from napari_unet.core.checkpoints.families.brain_segmentation import FAMILY
from napari_unet.core.normalization import Normalization


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
