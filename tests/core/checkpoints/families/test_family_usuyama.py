"""The two networks of usuyama/pytorch-unet, against the originals."""

import pytest
import torch
from family_fixtures import (
    difference,
    evidence_of,
    rebuilt,
    without,
)

from napari_unet.core.checkpoints.families.usuyama import FAMILIES, PLACES
from napari_unet.core.normalization import Normalization

PLAIN, RESNET = FAMILIES


def _family(fixture):
    (family,) = [one for one in FAMILIES if one.recognise(evidence_of(fixture))]
    return family


def test_the_two_networks_are_told_apart():
    found = {name: _family(f"usuyama/{name}").name for name in ("unet", "resnet18", "resnet50")}

    assert found == {"unet": "usuyama", "resnet18": "usuyama_resnet", "resnet50": "usuyama_resnet"}


def test_the_resnet_is_read_off_the_shapes():
    small, large = (RESNET.understand(evidence_of(f"usuyama/resnet{n}")).config for n in (18, 50))

    assert (small.block, small.n_blocks, small.trunk) == ("basic", (2, 2, 2, 2), (2, 2, 3, 4, 5))
    assert (large.block, large.n_blocks) == ("bottleneck", (1, 2, 1, 1))
    assert large.trunk == (2, 8, 12, 16, 20) and large.narrow == (2, 3, 4, 5)


def test_the_resnet_that_is_used_counts_where_a_file_holds_two():
    """The original's notebook stores another ResNet, which it never uses."""
    evidence = evidence_of("usuyama/resnet18_notebook")
    used, unused = (evidence.tensors[f"{at}.weight"] for at in ("layer0.0", "base_model.conv1"))

    assert not torch.equal(used, unused)
    assert difference(rebuilt(RESNET, evidence), "usuyama/resnet18_notebook") <= 1e-5


@pytest.mark.parametrize("fixture", ["usuyama/resnet18", "usuyama/resnet50"])
def test_one_of_the_two_copies_of_the_resnet_is_enough(fixture):
    whole = evidence_of(fixture)
    copies = tuple(f"{place}." for place in PLACES)
    only_base = without(whole, *(name for name in whole.tensors if name.startswith(copies)))
    only_layers = without(whole, *(name for name in whole.tensors if name.startswith("base_")))

    for part in (only_base, only_layers):
        assert len(part.tensors) < len(whole.tensors)
        assert RESNET.recognise(part)
        assert difference(rebuilt(RESNET, part), fixture) <= 1e-5


def test_it_wants_what_resnets_were_trained_on():
    about = RESNET.understand(evidence_of("usuyama/resnet18")).about
    wanted = {"offset": (0.485, 0.456, 0.406), "scale": (0.229, 0.224, 0.225)}

    assert about["normalization"] == Normalization(kind="range", clip=None, **wanted)
    assert about["activation"] == "sigmoid" and about["output_class"] == (1, 2, 3, 4, 5, 6)
