"""The two networks of usuyama/pytorch-unet, against the originals."""

from dataclasses import replace

import pytest
import torch
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

from napari_unet.core.checkpoints.families.usuyama import FAMILIES, PLACES
from napari_unet.core.checkpoints.family import recognised
from napari_unet.core.checkpoints.rebuild import rebuild
from napari_unet.core.normalization import Normalization

PLAIN, RESNET = FAMILIES


def _family(fixture):
    (family,) = [one for one in FAMILIES if one.recognise(evidence_of(fixture))]
    return family


@pytest.mark.parametrize("fixture", fixtures("usuyama"))
def test_it_gives_what_the_original_gives(fixture):
    network = rebuilt(_family(fixture), evidence_of(fixture))

    assert difference(network, fixture) <= 1e-5


@pytest.mark.parametrize("fixture", fixtures("usuyama"))
def test_it_can_be_kept_copied_and_trained(fixture):
    evidence = evidence_of(fixture)
    config = _family(fixture).understand(evidence).config
    image, _ = next(pairs(fixture))

    assert is_plain(config)
    assert (config.in_channels, config.dims) == (image.shape[1], 2)
    assert is_sound(rebuilt(_family(fixture), evidence), image)


@pytest.mark.parametrize("fixture", fixtures(*CLASSICS))
def test_it_takes_its_own_files_and_no_others(fixture):
    found = [one.recognise(evidence_of(fixture)) for one in FAMILIES]

    assert any(found) == fixture.startswith("usuyama/")


@pytest.mark.parametrize("fixture", ["usuyama/unet", "usuyama/resnet50", "usuyama/resnet18"])
def test_whatever_is_missing_or_of_another_shape_is_seen(fixture):
    family, evidence = _family(fixture), evidence_of(fixture)
    needed = without(evidence, *(name for name in evidence.tensors if name.startswith("base_")))

    assert not refuses(family, needed)
    assert all(refuses(family, changed) for changed in damaged(needed))


@pytest.mark.parametrize("fixture", ["usuyama/unet", "usuyama/resnet50", "usuyama/resnet18"])
def test_a_file_becomes_a_model(fixture):
    evidence = evidence_of(fixture)
    family = recognised(evidence)
    assert family is _family(fixture)
    model = rebuild(evidence, family.name, family.understand(evidence))

    assert difference(model.network, fixture) <= 1e-5


def test_the_order_of_the_tensors_does_not_matter():
    evidence = evidence_of("usuyama/unet")
    turned = replace(evidence, tensors=dict(reversed(evidence.tensors.items())))

    assert PLAIN.understand(turned).config == PLAIN.understand(evidence).config


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
