"""Encoders: names, shapes and feature maps against those of other libraries."""

import copy
import warnings

import pytest
import torch
from originals import image_for, import_smp, randomised

from napari_unet.core.errors import ModelFileError
from napari_unet.core.networks.encoders import ENCODERS, build_encoder, encoder_of

WIDE = [name for name in ENCODERS if name.startswith("wide_")]
NAMES = [name for name in ENCODERS if name not in WIDE]
RUN = (
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "vgg11",
    "vgg11_bn",
    "mobilenet_v2",
    "efficientnet-b0",
    "efficientnet-b1",
    "timm-efficientnet-b0",
    "timm-tf_efficientnet_lite0",
    "densenet121",
    "se_resnet50",
    "se_resnext50_32x4d",
)


def original(name, in_channels=3, depth=5, output_stride=32):
    smp = import_smp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return smp.encoders.get_encoder(
            name, in_channels=in_channels, depth=depth, output_stride=output_stride
        )


def shapes_of(network):
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_are_those_of_the_original(name):
    with torch.device("meta"):
        wanted, found = original(name), build_encoder(name)
    assert shapes_of(found) == shapes_of(wanted)
    assert found.out_channels == tuple(wanted.out_channels)
    assert found.out_channels[1:] == ENCODERS[name].widths
    assert encoder_of(shapes_of(wanted)) == name


@pytest.mark.parametrize("name", WIDE)
def test_wide_ones_are_those_of_torchvision(name):
    import_smp()
    from torchvision import models

    with torch.device("meta"):
        wanted, found = getattr(models, name)(weights=None), build_encoder(name)
    del wanted.fc
    assert shapes_of(found) == shapes_of(wanted)
    assert encoder_of(shapes_of(found)) == name


@pytest.mark.parametrize("name", RUN)
def test_feature_maps_are_those_of_the_original(name):
    wanted = randomised(original(name, in_channels=1))
    found = build_encoder(name, 1)
    found.load_state_dict(wanted.state_dict())
    image = image_for(1, 64, 96)
    kept = image.clone()
    with torch.inference_mode():
        pairs = list(zip(found.eval()(image), wanted(image), strict=True))
    for own, theirs in pairs:
        assert own.shape == theirs.shape
        assert (own - theirs).abs().max() <= 1e-5 * max(1.0, float(theirs.abs().max()))
    assert torch.equal(image, kept)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet-b0", "se_resnet50"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_the_resolution_can_be_kept(name, output_stride):
    wanted = randomised(original(name, output_stride=output_stride))
    found = build_encoder(name, output_stride=output_stride)
    found.load_state_dict(wanted.state_dict())
    image = image_for(3, 64, 64)
    with torch.inference_mode():
        own, theirs = found.eval()(image)[-1], wanted(image)[-1]
    assert own.shape[2:] == (64 // output_stride, 64 // output_stride)
    assert (own - theirs).abs().max() <= 1e-5 * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "mobilenet_v2", "timm-efficientnet-b0"])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_shallow_encoder_has_all_layers_and_fewer_maps(name, depth):
    encoder = build_encoder(name, 2, depth).eval()
    maps = encoder(image_for(2, 32, 64))
    assert [one.shape[1] for one in maps] == list(encoder.out_channels)
    assert [tuple(one.shape[2:]) for one in maps] == [(32 >> i, 64 >> i) for i in range(depth + 1)]
    assert encoder_of(shapes_of(encoder)) == name


def test_it_can_be_trained_and_copied():
    encoder = copy.deepcopy(build_encoder("mobilenet_v2", 1)).train()
    sum(one.mean() for one in encoder(image_for(1, 64, 64))[1:]).backward()
    assert all(value.grad is not None for value in encoder.parameters())


def test_counters_of_batches_do_not_matter():
    with torch.device("meta"):
        shapes = shapes_of(build_encoder("resnet34", 7))
    without = {name: shape for name, shape in shapes.items() if "num_batches" not in name}
    assert len(without) < len(shapes)
    assert encoder_of(without) == "resnet34"


def test_one_layer_more_or_of_another_width_is_not_recognised():
    with torch.device("meta"):
        shapes = shapes_of(build_encoder("resnet18"))
    assert encoder_of({**shapes, "layer5.weight": (1,)}) is None
    assert encoder_of({**shapes, "bn1.weight": (65,)}) is None
    assert encoder_of({}) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "resnet19"}, "'resnet19' is not known"),
        ({"name": "resnet18", "depth": 6}, "depth of 1 to 5"),
        ({"name": "resnet18", "depth": 0}, "depth of 1 to 5"),
        ({"name": "vgg11", "output_stride": 16}, "by pooling"),
        ({"name": "densenet121", "output_stride": 8}, "by pooling"),
    ],
)
def test_what_cannot_be_built_is_said(arguments, words):
    with pytest.raises(ModelFileError, match=words), torch.device("meta"):
        build_encoder(**arguments)
