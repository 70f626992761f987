"""The networks of segmentation_models_pytorch: an encoder that is known, and one of nine decoders.

Which encoder it is, is told by comparing names and shapes with all that can be built here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding, classes_of
from napari_unet.core.checkpoints.normalizations import IMAGENET
from napari_unet.core.checkpoints.smp_decoders import config_of
from napari_unet.core.errors import ModelFileError
from napari_unet.core.networks.decoders import (
    EncoderDecoder,
    EncoderDecoderConfig,
    Interpolation,
)
from napari_unet.core.networks.encoders import ENCODERS, encoder_of
from napari_unet.core.normalization import Normalization

__all__ = ["FAMILY"]

PLAIN = Normalization(kind="range", clip=None)

RENAMED = (
    (r"decoder\.final_conv\.(\w+)", r"segmentation_head.0.\1"),
    (r"decoder\.center\.block\.(\d)\.block\.(\d\.\w+)", r"decoder.center.\1.\2"),
    (r"decoder\.conv1\.(\w+)", r"decoder.p5.\1"),
    (r"decoder\.psp\.stages\.(\d)\.pool\.1\.block\.(.*)", r"decoder.psp.blocks.\1.pool.1.\2"),
    (r"decoder\.conv\.block\.(.*)", r"decoder.conv.\1"),
    (r"decoder\.0\.(convs|project)\.(.*)", r"decoder.aspp.\1.\2"),
    (r"decoder\.1\.(\w+)", r"decoder.conv.\1"),
    (r"decoder\.2\.(\w+)", r"decoder.bn.\1"),
)
"""What parts were called in old versions, and what they are called today."""

OLD_DECODERS = ("layer1.block.0.block.0", "p4.skip_conv", "psp.stages.0.pool.1.block.0")
"""Convolutions of decoders of version 0.0: Unet and Linknet, FPN, PSPNet."""

OTHER_ENCODERS = (
    ("a Mix Vision Transformer (mit_b0 to mit_b5)", r"patch_embed1\.proj\.weight"),
    ("a MobileOne (mobileone_s0 to mobileone_s4)", r"stage0\.rbr_.*"),
    ("a dual path network (dpn68 to dpn131)", r"features\.conv1_1\.conv\.weight"),
    ("'inceptionresnetv2'", r"conv2d_1a\.conv\.weight"),
    ("'inceptionv4'", r"features\.0\.conv\.weight"),
    ("'xception'", r"block12\.rep\..*"),
    ("a selective kernel network (timm-skresnet ...)", r"layer1\.0\.conv\d\.attn\..*"),
    ("one of timm's (tu-...)", r"model\..*"),
)


def _recognise(evidence: Evidence) -> bool:
    if evidence.has("decoder.blocks.0.convs.conv_0.conv.weight"):
        return False  # MONAI's FlexibleUNet, whose parts are called the same
    is_old = evidence.has("decoder.final_conv.weight") and any(
        evidence.has(f"decoder.{name}.weight") for name in OLD_DECODERS
    )
    return (is_old or evidence.has("segmentation_head.0.weight")) and all(
        any(name.startswith(part) for name in evidence.tensors) for part in ("encoder.", "decoder.")
    )


def _understand(evidence: Evidence) -> Understanding:
    names = _names(evidence)
    known = replace(
        evidence, tensors={names[name]: value for name, value in evidence.tensors.items()}
    )
    told = _told(evidence)
    config, assumed = config_of(known, _encoder(evidence, known, told), told)
    activation, is_sure = _activation(told, config.out_channels)
    return Understanding(
        config=config,
        about={
            **classes_of(config.out_channels, activation),
            "normalization": IMAGENET if config.in_channels == 3 else PLAIN,
        },
        assumed=(
            *assumed,
            *(() if is_sure else ("activation",)),
            "normalization",
            "class_names",
            "pixel_size",
        ),
        names={new: (old,) for old, new in names.items() if old != new},
        ignored=(r"classification_head\..*", r"decoder\.aux\..*"),
        notes=_notes(told, config),
    )


# ---- names


def _names(evidence: Evidence) -> dict[str, str]:
    """Name in the file to name in the network, which is that of today's version."""
    rename = _today
    if evidence.has("decoder.layer1.block.2.block.0.weight"):
        rename = _linknet_today
    found = {name: rename(name) for name in evidence.tensors}
    is_timm = evidence.has("encoder.model.conv1.weight")
    return {
        name: new.replace("encoder.model.", "encoder.", 1) if is_timm else new
        for name, new in found.items()
    }


def _today(name: str) -> str:
    """A name of version 0.0, or in DeepLabV3 of before 0.5, as it is today."""
    for old, new in RENAMED:
        if found := re.fullmatch(old, name):
            return found.expand(new)
    if found := re.fullmatch(r"decoder\.s([2-5])\.(.*)", name):
        return f"decoder.seg_blocks.{5 - int(found[1])}.{found[2]}"
    if found := re.fullmatch(r"decoder\.layer(\d)\.(attention\d)\.(.*)", name):
        return f"decoder.blocks.{int(found[1]) - 1}.{found[2]}.attention.{found[3]}"
    if found := re.fullmatch(r"decoder\.layer(\d)\.block\.(\d)\.block\.(\d\.\w+)", name):
        block, conv = int(found[1]) - 1, int(found[2]) + 1
        return f"decoder.blocks.{block}.conv{conv}.{found[3]}"
    return name


def _linknet_today(name: str) -> str:
    """The same for Linknet, whose blocks were called like those of Unet."""
    if found := re.fullmatch(r"decoder\.layer(\d)\.block\.(\d)\.block\.(\d\.\w+)", name):
        return f"decoder.blocks.{int(found[1]) - 1}.block.{found[2]}.{found[3]}"
    return _today(name)


# ---- what is stated beside the weights


def _told(evidence: Evidence) -> dict[str, Any]:
    """Arguments of the network as its class calls them, as far as they are known."""
    model = evidence.config.get("model")
    told = {
        "decoder_interpolation": _first(evidence, "interpolation_mode", r"decoder\..*"),
        "encoder_output_stride": evidence.setting("encoder", "_output_stride"),
        "encoder_depth": evidence.setting("encoder", "_depth"),
        "decoder_atrous_rates": _rates(evidence),
        "upsampling": evidence.setting("segmentation_head.1", "scale_factor"),
    }
    end = evidence.layers.get("segmentation_head.2.activation")
    if end is not None:
        told["activation"] = end.kind.lower()
    stated = dict(model) if isinstance(model, Mapping) else {}
    return {**{name: value for name, value in told.items() if value is not None}, **stated}


def _first(evidence: Evidence, setting: str, pattern: str) -> Any:
    """What the first layer that has this setting says."""
    paths = (path for path in evidence.layers if re.fullmatch(pattern, path))
    values = (evidence.setting(path, setting) for path in paths)
    return next((value for value in values if value is not None), None)


def _rates(evidence: Evidence) -> tuple[int, ...] | None:
    """Dilations of the convolutions of a DeepLab."""
    rates = [
        _first(evidence, "dilation", rf"decoder\.(aspp|0|aspp\.0)\.convs\.{i}\.0(\.0)?")
        for i in (1, 2, 3)
    ]
    pairs = [tuple(rate) if isinstance(rate, list | tuple) else (rate,) for rate in rates]
    return tuple(pair[0] for pair in pairs) if all(rates) else None


def _activation(told: Mapping[str, Any], n_outputs: int) -> tuple[str, bool]:
    """How logits become probabilities, and whether that is stated or does not matter."""
    stated = str(told.get("activation") or "").lower()
    if n_outputs == 1:
        return "sigmoid", True
    if "softmax" in stated or "argmax" in stated:
        return "softmax", True
    return ("sigmoid", True) if stated == "sigmoid" else ("softmax", False)


def _notes(told: Mapping[str, Any], config: EncoderDecoderConfig) -> tuple[str, ...]:
    stated = told.get("upsampling")
    if stated is None or stated == config.upsampling:
        return ()
    return (
        f"The network gave its result at another resolution than that of the image; here it is "
        f"enlarged by {config.upsampling}, to that of the image.",
    )


# ---- encoder


def _encoder(evidence: Evidence, known: Evidence, told: Mapping[str, Any]) -> str:
    """Name of the encoder; raises a sentence that says which it is, if it is another one."""
    shapes = {
        name.removeprefix("encoder."): tuple(value.shape)
        for name, value in known.tensors.items()
        if name.startswith("encoder.")
    }
    found = encoder_of(shapes)
    stated = told.get("encoder_name")
    is_timm = evidence.has("encoder.model.conv1.weight")
    if is_timm and isinstance(stated, str) and stated != f"tu-{found}":
        found = None  # of the same shapes, such as one that blurs before it halves
    if found is not None:
        return found
    if isinstance(stated, str) and stated not in ENCODERS:
        name = f"the encoder {stated[:60]!r}"
    else:
        name = _other_encoder(evidence)
    raise ModelFileError(
        f"{evidence.name} is a network of segmentation_models_pytorch with {name}, which cannot be "
        f"rebuilt here yet. Export the model as ONNX (torch.onnx.export) and open that file."
    )


def _other_encoder(evidence: Evidence) -> str:
    """The encoder in words, from its names."""
    for words, pattern in OTHER_ENCODERS:
        if any(evidence.matches(rf"encoder\.{pattern}")):
            return f"the encoder {words}" if words.startswith("'") else f"an encoder: {words}"
    first = next(name for name in evidence.tensors if name.startswith("encoder."))
    return f"an encoder that is not known (it begins with {first[:60]!r})"


FAMILY = Family(
    name="smp",
    title="network of segmentation_models_pytorch",
    config=EncoderDecoderConfig,
    network=EncoderDecoder,
    recognise=_recognise,
    understand=_understand,
    choices={
        "interpolation": get_args(Interpolation),
        "output_stride": (8, 16, 32),
        "rates": ((12, 24, 36), (6, 12, 18)),
    },
)
