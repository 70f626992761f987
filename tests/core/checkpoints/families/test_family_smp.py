"""Networks of segmentation_models_pytorch against that library itself."""

import copy
import json
import re
import warnings
from dataclasses import fields
from functools import cache

import pytest
import torch
from originals import image_for, import_smp, largest_difference, randomised

from napari_unet.core.checkpoints.evidence import Evidence, LayerNote
from napari_unet.core.checkpoints.families.smp import FAMILY
from napari_unet.core.checkpoints.family import recognised
from napari_unet.core.checkpoints.plain import from_plain, to_json
from napari_unet.core.checkpoints.rebuild import rebuild
from napari_unet.core.errors import ImageError, ModelFileError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def original(kind, seed=0, **arguments):
    """A network of the library with random weights, its size kept small."""
    smp = import_smp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return randomised(getattr(smp, kind)(encoder_weights=None, **arguments), seed)


@cache
def tensors_of(kind):
    """Those of a small network, to be looked at and not to be changed."""
    return original(kind, **SMALL).state_dict()


def evidence_of(tensors, **more):
    return Evidence(name="cells.pth", container="PyTorch file", tensors=tensors, **more)


def understood(tensors, **more):
    evidence = evidence_of(tensors, **more)
    assert recognised(evidence) is FAMILY
    return FAMILY.understand(evidence)


def rebuilt(tensors, **more):
    evidence = evidence_of(tensors, **more)
    return rebuild(evidence, "smp", FAMILY.understand(evidence))


SMALL = {"encoder_name": "efficientnet-b0", "in_channels": 1, "classes": 3}
DECODERS = {
    "unet": ("Unet", {"decoder_channels": (16, 12, 10, 8, 7)}),
    "unetplusplus": ("UnetPlusPlus", {"decoder_channels": (16, 12, 10, 8, 7)}),
    "manet": ("MAnet", {"decoder_channels": (16, 12, 10, 8, 7), "decoder_pab_channels": 5}),
    "linknet": ("Linknet", {}),
    "fpn": ("FPN", {"decoder_pyramid_channels": 12, "decoder_segmentation_channels": 32}),
    "pspnet": ("PSPNet", {"psp_out_channels": 24}),
    "pan": ("PAN", {"decoder_channels": 12}),
    "deeplabv3": ("DeepLabV3", {"decoder_channels": 12}),
    "deeplabv3plus": ("DeepLabV3Plus", {"decoder_channels": 12}),
}


@pytest.mark.parametrize("decoder", DECODERS)
def test_each_decoder_is_the_original(decoder):
    kind, arguments = DECODERS[decoder]
    network = original(kind, **SMALL, **arguments)
    model = rebuilt(network.state_dict())
    assert (model.config.decoder, model.config.encoder) == (decoder, "efficientnet-b0")
    assert (model.config.dims, model.config.in_channels, model.config.out_channels) == (2, 1, 3)
    size = (128, 160) if decoder == "pan" else (64, 96)
    assert largest_difference(model.network, network, image_for(1, *size)) <= 1e-5


NARROW = {"decoder_channels": (16, 12, 10, 8, 7)}
ENCODERS = ("resnet18", "resnet50", "vgg11_bn", "mobilenet_v2", "timm-efficientnet-b0")


@pytest.mark.parametrize("encoder", [*ENCODERS, "densenet121"])
def test_a_unet_with_each_kind_of_encoder_is_the_original(encoder):
    network = original("Unet", encoder_name=encoder, **NARROW)
    model = rebuilt(network.state_dict())
    assert (model.config.encoder, model.config.depth) == (encoder, 5)
    assert model.config.center == encoder.startswith("vgg")
    assert largest_difference(model.network, network, image_for(3, 64, 64)) <= 1e-5


EIGHT = {"decoder_channels": (16, 12, 8)}
VARIANTS = {
    "shallow": ("Unet", {"encoder_depth": 3, **EIGHT}),
    "four": ("UnetPlusPlus", {"encoder_depth": 4, "decoder_channels": (9, 8, 7, 6)}),
    "scse": ("Unet", {"decoder_attention_type": "scse"}),
    "scse++": ("UnetPlusPlus", {"decoder_attention_type": "scse"}),
    "no norm": ("Unet", {"decoder_use_norm": False, "encoder_depth": 3, **EIGHT}),
    "instance": (
        "Unet",
        {"decoder_use_norm": {"type": "instancenorm", "affine": True}},
    ),
    "manet": ("MAnet", {"encoder_depth": 3, "decoder_use_norm": False, **EIGHT}),
    "linknet": ("Linknet", {"encoder_depth": 3, "decoder_use_norm": False}),
    "joined": ("FPN", {"decoder_merge_policy": "cat", "decoder_segmentation_channels": 32}),
    "low fpn": ("FPN", {"encoder_depth": 4, "upsampling": 2}),
    "deep psp": ("PSPNet", {"encoder_depth": 4, "upsampling": 16, "decoder_use_norm": False}),
    "low pan": ("PAN", {"encoder_depth": 3}),
    "low deeplab": ("DeepLabV3", {"encoder_depth": 3, "decoder_aspp_separable": True}),
    "low deeplab+": ("DeepLabV3Plus", {"encoder_depth": 4, "decoder_aspp_separable": False}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_the_original(name):
    kind, arguments = VARIANTS[name]
    network = original(kind, **SMALL, **arguments)
    model = rebuilt(network.state_dict())
    assert largest_difference(model.network, network, image_for(1, 64, 96)) <= 1e-5


STATED = {
    "interpolation": ("Unet", {"decoder_interpolation": "bilinear"}),
    "fpn": ("FPN", {"decoder_interpolation": "bicubic"}),
    "pan": ("PAN", {"decoder_interpolation": "bicubic", "encoder_output_stride": 32}),
    "stride": ("DeepLabV3Plus", {"encoder_output_stride": 8}),
    "rates": ("DeepLabV3", {"decoder_atrous_rates": (2, 3, 4), "encoder_output_stride": 16}),
}


@pytest.mark.parametrize("name", STATED)
def test_what_names_cannot_tell_is_taken_from_the_arguments_beside_them(name):
    kind, arguments = STATED[name]
    network = original(kind, **SMALL, **arguments)
    model = rebuilt(network.state_dict(), config={"model": {**SMALL, **arguments}})
    size = (256, 256) if kind == "PAN" else (64, 96)
    image = image_for(1, *size)
    assert largest_difference(model.network, network, image) <= 1e-5
    assert not {"interpolation", "rates"} & set(model.description.assumed) or kind == (
        "DeepLabV3Plus"
    )
    assert largest_difference(rebuilt(network.state_dict()).network, network, image) > 1e-4


def test_a_unet_takes_any_size_and_others_say_what_they_take():
    network = original("Unet", encoder_name="resnet18", in_channels=1)
    model = rebuilt(network.state_dict())
    assert largest_difference(model.network, network, image_for(1, 67, 45)) <= 1e-5
    other = rebuilt(tensors_of("Linknet"))
    with pytest.raises(ImageError, match="multiples of 32 px, but this one has 67 × 45"):
        other.network(image_for(1, 67, 45))


def test_the_config_survives_as_json():
    config = understood(tensors_of("DeepLabV3")).config
    assert from_plain(FAMILY.config, json.loads(to_json(config))) == config


def test_assumptions_have_choices_and_are_attributes():
    names = {field.name for field in fields(FAMILY.config)}
    assert set(FAMILY.choices) <= names
    for kind, assumed in (
        ("Unet", {"interpolation"}),
        ("PAN", {"interpolation", "output_stride"}),
        ("DeepLabV3", {"output_stride", "rates"}),
        ("Linknet", set()),
    ):
        found = understood(tensors_of(kind))
        assert assumed == set(found.assumed) & set(FAMILY.choices)
        assert {"activation", "normalization", "class_names", "pixel_size"} <= set(found.assumed)
        for name in assumed:
            assert getattr(found.config, name) in FAMILY.choices[name]


def test_a_single_output_is_a_sigmoid_and_colours_are_normalised_as_for_imagenet():
    network = original("Unet", encoder_name="resnet18")
    about = understood(network.state_dict()).about
    assert about["activation"] == "sigmoid"
    assert about["class_names"] == ("background", "object")
    assert (about["normalization"].offset, about["normalization"].scale) == IMAGENET
    assert (about["normalization"].kind, about["normalization"].clip) == ("range", None)


@pytest.mark.parametrize(
    ("stated", "activation", "is_assumed", "n_classes"),
    [
        (None, "softmax", True, 3),
        ("softmax2d", "softmax", False, 3),
        ("sigmoid", "sigmoid", False, 4),
        ("identity", "softmax", True, 3),
    ],
)
def test_several_outputs_compete_unless_it_is_said(stated, activation, is_assumed, n_classes):
    tensors = tensors_of("Unet")
    found = understood(tensors, config={"model": {"activation": stated}})
    assert found.about["activation"] == activation
    assert ("activation" in found.assumed) == is_assumed
    assert len(found.about["class_names"]) == n_classes
    assert found.about["normalization"].offset == ()


def test_layers_that_were_stored_whole_tell_more():
    tensors = tensors_of("Unet")
    layers = {
        "decoder.blocks.0": LayerNote(
            kind="UnetDecoderBlock", values={"interpolation_mode": "bilinear"}
        ),
        "segmentation_head.2.activation": LayerNote(kind="Sigmoid", values={}),
    }
    found = understood(tensors, layers=layers)
    assert found.config.interpolation == "bilinear"
    assert found.about["activation"] == "sigmoid"
    assert not {"interpolation", "activation"} & set(found.assumed)


def test_layers_of_a_deeplab_tell_its_rates():
    tensors = tensors_of("DeepLabV3")
    layers = {
        f"decoder.aspp.convs.{i}.0": LayerNote(kind="Conv2d", values={"dilation": (i, i)})
        for i in (1, 2, 3)
    }
    layers["encoder"] = LayerNote(kind="EfficientNetEncoder", values={"_output_stride": 16})
    found = understood(tensors, layers=layers)
    assert (found.config.rates, found.config.output_stride) == ((1, 2, 3), 16)
    assert not {"rates", "output_stride"} & set(found.assumed)


@pytest.mark.parametrize("nonsense", [3, "much", [1, 2], {"a": 1}, [1, 2, "x"]])
def test_nonsense_beside_the_weights_changes_nothing(nonsense):
    tensors = tensors_of("DeepLabV3")
    names = ("decoder_atrous_rates", "encoder_output_stride", "decoder_interpolation")
    names += ("decoder_use_norm", "encoder_depth", "activation", "encoder_name")
    told = dict.fromkeys(names, nonsense)
    assert understood(tensors, config={"model": told}).config == understood(tensors).config
    assert understood(tensors, config={"model": nonsense}).config == understood(tensors).config


def test_another_resolution_is_noted():
    network = original("FPN", upsampling=1, **SMALL)
    model = rebuilt(network.state_dict(), config={"model": {"upsampling": 1}})
    assert any("another resolution" in note for note in model.description.notes)
    assert model.network(image_for(1, 64, 64)).shape == (1, 3, 64, 64)


def test_a_head_that_classifies_is_ignored():
    network = original("Unet", aux_params={"classes": 4}, **SMALL)
    model = rebuilt(network.state_dict())
    image = image_for(1, 64, 64)
    assert largest_difference(model.network, lambda x: network(x)[0], image) <= 1e-5
    assert not any("extra" in note for note in model.description.notes)


def renamed(tensors, rename):
    return {rename(name): value for name, value in tensors.items()}


IN_2019 = (
    (r"segmentation_head\.0\.(.*)", r"decoder.final_conv.\1"),
    (r"decoder\.center\.(\d)\.(.*)", r"decoder.center.block.\1.block.\2"),
    (r"decoder\.blocks\.(\d)\.conv1\.(.*)", r"decoder.layer\1.block.0.block.\2"),
    (r"decoder\.blocks\.(\d)\.conv2\.(.*)", r"decoder.layer\1.block.1.block.\2"),
    (r"decoder\.blocks\.(\d)\.(attention\d)\.attention\.(.*)", r"decoder.layer\1.\2.\3"),
    (r"decoder\.blocks\.(\d)\.block\.(\d)\.(.*)", r"decoder.layer\1.block.\2.block.\3"),
    (r"decoder\.p5\.(.*)", r"decoder.conv1.\1"),
    (r"decoder\.seg_blocks\.(\d)\.(.*)", r"decoder.s\1.\2"),
    (r"decoder\.psp\.blocks\.(\d)\.pool\.1\.(.*)", r"decoder.psp.stages.\1.pool.1.block.\2"),
    (r"decoder\.conv\.(.*)", r"decoder.conv.block.\1"),
)
"""Patterns of names in the library, and what they were in its version 0.0."""


def as_in_2019(name):
    for new, old in IN_2019:
        if found := re.fullmatch(new, name):
            name = found.expand(old)
            break
    name = re.sub(r"decoder\.layer(\d)", lambda at: f"decoder.layer{int(at[1]) + 1}", name)
    return re.sub(r"decoder\.s(\d)\.", lambda at: f"decoder.s{5 - int(at[1])}.", name)


OLD = {
    "unet": ("Unet", {"encoder_name": "vgg11", **NARROW}),
    "scse": ("Unet", {**SMALL, "decoder_attention_type": "scse"}),
    "linknet": ("Linknet", SMALL),
    "fpn": ("FPN", {**SMALL, **DECODERS["fpn"][1]}),
    "pspnet": ("PSPNet", {**SMALL, **DECODERS["pspnet"][1]}),
}


@pytest.mark.parametrize("name", OLD)
def test_the_names_of_2019(name):
    kind, arguments = OLD[name]
    network = original(kind, **arguments)
    if kind == "Unet":  # its last convolution was 1x1
        n_in, n_out = network.segmentation_head[0].in_channels, arguments.get("classes", 1)
        network.segmentation_head[0] = torch.nn.Conv2d(n_in, n_out, 1)
    tensors = renamed(network.state_dict(), as_in_2019)
    assert not set(tensors) & {"segmentation_head.0.weight"}
    model = rebuilt(tensors)
    assert recognised(evidence_of(tensors)) is FAMILY
    assert model.origin.names["segmentation_head.0.weight"] == ("decoder.final_conv.weight",)
    image = image_for(model.config.in_channels, 64, 64)
    assert largest_difference(model.network, network, image) <= 1e-5


def test_the_attention_of_2019_weighed_each_channel_of_each_pixel():
    network = original("Unet", **SMALL, decoder_attention_type="scse")
    for block in network.decoder.blocks:
        for attention in (block.attention1.attention, block.attention2.attention):
            n = attention.sSE[0].in_channels
            attention.sSE[0] = torch.nn.Conv2d(n, n, 1)
    model = rebuilt(renamed(network.state_dict(), as_in_2019))
    assert model.config.attention == "old scse"
    assert largest_difference(model.network, network, image_for(1, 64, 64)) <= 1e-5


def test_the_old_names_of_deeplab():
    network = original("DeepLabV3", **SMALL)
    parts = {
        "decoder.aspp.": "decoder.0.",
        "decoder.conv.": "decoder.1.",
        "decoder.bn.": "decoder.2.",
    }

    def rename(name):
        for new, old in parts.items():
            if name.startswith(new):
                return old + name.removeprefix(new)
        return name

    model = rebuilt(renamed(network.state_dict(), rename))
    assert largest_difference(model.network, network, image_for(1, 64, 64)) <= 1e-5


def test_a_resnet_of_timm_is_a_resnet():
    network = original("Unet", encoder_name="tu-resnet18")
    told = {"model": {"encoder_name": "tu-resnet18"}}
    for config in ({}, told):
        model = rebuilt(network.state_dict(), config=config)
        assert model.config.encoder == "resnet18"
        assert largest_difference(model.network, network, image_for(3, 64, 64)) <= 1e-5
    with pytest.raises(ModelFileError, match="the encoder 'tu-resnetblur18', which cannot be"):
        understood(network.state_dict(), config={"model": {"encoder_name": "tu-resnetblur18"}})


def test_missing_counters_of_batches_do_not_matter():
    network = original("Unet", **SMALL)
    tensors = {
        name: value for name, value in network.state_dict().items() if "num_batches" not in name
    }
    assert largest_difference(rebuilt(tensors).network, network, image_for(1, 64, 64)) <= 1e-5


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ("mit_b0", "Mix Vision Transformer"),
        ("mobileone_s0", "MobileOne"),
        ("dpn68", "dual path"),
        ("xception", "'xception'"),
        ("inceptionv4", "'inceptionv4'"),
        ("timm-skresnet18", "selective kernel"),
        ("tu-mobilenetv3_small_050", "timm's"),
    ],
)
def test_other_encoders_are_named(encoder, words):
    smp = import_smp()
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        try:
            tensors = smp.FPN(encoder_name=encoder, encoder_weights=None).state_dict()
        except (RuntimeError, NotImplementedError):  # cannot be built without memory
            with torch.device("cpu"):
                tensors = smp.FPN(encoder_name=encoder, encoder_weights=None).state_dict()
    with pytest.raises(ModelFileError, match=words) as caught:
        FAMILY.understand(evidence_of(tensors))
    assert "ONNX" in str(caught.value)
    with pytest.raises(ModelFileError, match=f"the encoder '{encoder}'"):
        FAMILY.understand(evidence_of(tensors, config={"model": {"encoder_name": encoder}}))


@pytest.mark.parametrize(("kind", "words"), [("UPerNet", "UPerNet"), ("Segformer", "Segformer")])
def test_other_decoders_are_named(kind, words):
    smp = import_smp()
    with torch.device("meta"):
        tensors = getattr(smp, kind)(encoder_name="resnet18", encoder_weights=None).state_dict()
    with pytest.raises(ModelFileError, match=f"with {words}, which cannot be rebuilt here"):
        FAMILY.understand(evidence_of(tensors))


def test_norms_that_cannot_be_rebuilt_are_named():
    tensors = tensors_of("Unet")
    with pytest.raises(ModelFileError, match="'layernorm' norms"):
        understood(tensors, config={"model": {"decoder_use_norm": {"type": "layernorm"}}})


def test_damaged_files_are_refused():
    tensors = tensors_of("Unet")
    without = {name: value for name, value in tensors.items() if "blocks.2.conv2" not in name}
    with pytest.raises(ModelFileError, match="missing"):
        rebuilt(without)
    wider = {**tensors, "decoder.blocks.1.conv2.0.weight": torch.zeros(128, 9, 3, 3)}
    with pytest.raises(ModelFileError, match="should be"):
        rebuilt(wider)
    psp = dict(tensors_of("PSPNet"))
    psp["decoder.psp.blocks.0.pool.1.0.weight"] = torch.zeros(8, 33, 1, 1)
    with pytest.raises(ModelFileError, match="do not belong together"):
        rebuilt(psp)


def test_networks_of_others_are_not_recognised():
    tensors = tensors_of("Unet")
    for part in ("encoder.", "decoder.", "segmentation_head."):
        rest = {name: value for name, value in tensors.items() if not name.startswith(part)}
        assert not FAMILY.recognise(evidence_of(rest))


@pytest.mark.parametrize("decoder", DECODERS)
def test_it_can_be_trained_and_copied_and_leaves_its_input_alone(decoder):
    kind, arguments = DECODERS[decoder]
    found = understood(original(kind, **SMALL, **arguments).state_dict())
    network = copy.deepcopy(FAMILY.network(found.config)).train()
    image = image_for(1, 128, 128).repeat(2, 1, 1, 1)
    kept = image.clone()
    network(image).mean().backward()
    assert torch.equal(image, kept)
    assert all(
        value.grad is not None
        for name, value in network.named_parameters()
        if name.startswith("segmentation_head") or "_conv_stem" in name
    )
