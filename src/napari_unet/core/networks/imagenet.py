"""Weights of an encoder that was trained on the pictures of ImageNet, from a file the user has.

Nothing is ever downloaded, and nothing in the file is executed. The files are those of
torchvision, of timm and of segmentation_models_pytorch: a state dict, as `.pth`, `.pt`, `.bin` or
`.safetensors`, perhaps of a whole network whose encoder is taken.

Such encoders have seen colours, 0 ... 1 minus the mean of ImageNet by its standard deviation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.containers import Source, read_contents
from napari_unet.core.checkpoints.containers.finding import find_evidence
from napari_unet.core.checkpoints.containers.source import shown
from napari_unet.core.checkpoints.evidence import COUNTER, Evidence
from napari_unet.core.errors import ModelFileError, SettingsError
from napari_unet.core.networks.decoders import EncoderDecoder
from napari_unet.core.networks.encoders import ENCODERS, encoder_of
from napari_unet.core.networks.fcn import FCN
from napari_unet.core.networks.segnet import SegNet

__all__ = ["for_channels", "load_encoder_weights"]

Tensors = Mapping[str, Tensor]

COLOURS = 3
WRAPPERS = ("encoder.", "backbone.")
"""What the encoder of a whole network that segments is called."""
CLASSIFIER = re.compile(r"(_?fc|classifier|head|pre_logits|last_linear|aux_classifier)\..*")
"""Layers after the encoder, which say what is in a picture; they are left out."""

FULLY_CONNECTED = {
    "fc6.0": ("classifier.0", "pre_logits.fc1"),
    "fc7.0": ("classifier.3", "pre_logits.fc2"),
}
"""Layers of an FCN, and what they are called in files of VGG-16: torchvision's and timm's."""

TIMM_MOBILENET = {
    "conv_stem": "0.0", "bn1": "0.1", "conv_head": "18.0", "bn2": "18.1",
}  # fmt: skip
TIMM_FIRST = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
TIMM_BLOCK = {
    "conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2", "bn3": "3",
}  # fmt: skip
TIMM_STARTS = (1, 2, 4, 7, 11, 14, 17)
"""Layers of a MobileNetV2 in timm's names, and in torchvision's; where each group begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What weights are loaded into.

    Attributes
    ----------
    encoder : the module whose names are those of the files.
    name : which encoder that is, one of `ENCODERS`.
    """

    encoder: nn.Module
    name: str

    @property
    def first(self) -> str:
        """Name of the weights of the first convolution."""
        return ENCODERS[self.name].first


def load_encoder_weights(network: nn.Module, path: Path | str) -> tuple[str, ...]:
    """Fill the encoder of a network, in place; an FCN's fc6 and fc7 too, if the file has them.

    The first convolution is adapted to the channels of the images, see `for_channels`. All else
    must be there, of the right shape, and nothing more but a classifier.

    Parameters
    ----------
    network : one of the presets "unet-resnet34", "fpn-vgg16", "pspnet" ..., an FCN or a SegNet.
    path : the file.

    Returns
    -------
    What was done, in sentences.

    Raises
    ------
    SettingsError
        If the network has no encoder that such files fit.
    ModelFileError
        If the file cannot be read, or holds another encoder.
    """
    place = _place(network)
    evidence = _read(Path(path), place)
    tensors, said = _fitting(evidence, place)
    wide, more = _fully_connected(network, evidence)
    with torch.no_grad():
        state = network.state_dict()
        for name, value in {**{f"encoder.{n}": v for n, v in tensors.items()}, **wide}.items():
            state[name].copy_(value)
    filled = f"The encoder {place.name} was filled from {evidence.name}."
    return (filled, *said, *more, *evidence.notes)


def for_channels(weight: Tensor, n_channels: int) -> Tensor:
    """Weights `(out, 3, ky, kx)` of a convolution of colours for `n_channels`, as usual.

    One channel: the sum over the colours, so that a grey image gives what it gives in colour.
    Several: channel `i` has the weights of colour `i % 3`, times `3 / n_channels`, so that the
    sums stay about as large.
    """
    if n_channels == 1:
        return weight.sum(dim=1, keepdim=True)  # (out, 1, ky, kx)
    colours = torch.arange(n_channels) % weight.shape[1]
    return weight[:, colours] * (weight.shape[1] / n_channels)  # (out, n_channels, ky, kx)


def _place(network: nn.Module) -> _Place:
    if isinstance(network, EncoderDecoder):
        return _Place(encoder=network.encoder, name=network.config.encoder)
    if isinstance(network, FCN):
        name = "vgg16" if network.config.norm == "none" else "vgg16_bn"
        return _Place(encoder=network.encoder, name=name)
    if isinstance(network, SegNet):
        return _Place(encoder=network.encoder, name="vgg16_bn")
    raise SettingsError(
        f"A {type(network).__name__} has no encoder that weights of ImageNet fit. Choose a network "
        f"such as 'unet-resnet34', 'pspnet', 'fcn-8s' or 'segnet', or leave the file out."
    )


# ---- the file


def _read(path: Path, place: _Place) -> Evidence:
    """What is in the file, as far as it can be the encoder."""
    source = Source.of_path(path)
    is_known = partial(_has_first, place)
    return find_evidence(read_contents(source), source.name, is_known=is_known)


def _has_first(place: _Place, evidence: Evidence) -> bool:
    return place.first in _encoder_in(evidence.tensors)


def _encoder_in(tensors: Tensors) -> dict[str, Tensor]:
    """The tensors of the encoder by torchvision's names, without a classifier."""
    for wrapper in WRAPPERS:
        if any(name.startswith(wrapper) for name in tensors):
            tensors = {
                name.removeprefix(wrapper): value
                for name, value in tensors.items()
                if name.startswith(wrapper)
            }
    rename = _of_timm if "conv_stem.weight" in tensors else str
    return {
        rename(name): value for name, value in tensors.items() if not CLASSIFIER.fullmatch(name)
    }


def _of_timm(name: str) -> str:
    """A name in timm's MobileNetV2 as it is in torchvision's; others stay as they are."""
    layer, _, own = name.rpartition(".")
    if layer in TIMM_MOBILENET:
        return f"features.{TIMM_MOBILENET[layer]}.{own}"
    found = re.fullmatch(r"blocks\.([0-6])\.(\d)\.(\w+)", layer)
    layers = TIMM_FIRST if found and found[1] == "0" else TIMM_BLOCK
    if not found or found[3] not in layers:
        return name
    return f"features.{TIMM_STARTS[int(found[1])] + int(found[2])}.conv.{layers[found[3]]}.{own}"


# ---- what fits


def _fitting(evidence: Evidence, place: _Place) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors for the encoder by name, and what had to be adapted."""
    found, wanted = _encoder_in(evidence.tensors), place.encoder.state_dict()
    _check_names(found, wanted, evidence, place)
    said: tuple[str, ...] = ()
    first, n_image = found[place.first], int(wanted[place.first].shape[1])
    if first.ndim == 4 and first.shape[1] == COLOURS != n_image:
        found[place.first] = for_channels(first, n_image)
        said = (_adapted(n_image),)
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            raise ModelFileError(
                f"{evidence.name}: {shown(name)} has the shape {tuple(value.shape)}, but the "
                f"network needs {tuple(wanted[name].shape)}. Use a network of full width, and a "
                f"file of the encoder {place.name!r}."
            )
        _check_numbers(name, value, evidence)
    return found, said


def _adapted(n_image: int) -> str:
    if n_image == 1:
        return "The first convolution has the sum of its weights for red, green and blue."
    return (
        f"The first convolution has its weights for red, green and blue in turn for the "
        f"{n_image} channels, times 3/{n_image}."
    )


def _check_names(found: Tensors, wanted: Tensors, evidence: Evidence, place: _Place) -> None:
    missing = [name for name in wanted if name not in found and not name.endswith(COUNTER)]
    extra = [name for name in found if name not in wanted]
    if not missing and not extra:
        return
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    other = encoder_of(shapes)
    if other is not None:
        raise ModelFileError(
            f"{evidence.name} holds the encoder {other!r}, but the network has {place.name!r}. "
            f"Choose the file of {place.name!r}, or a network on {other!r}."
        )
    words = [
        f"{len(names)} {what} ({', '.join(shown(name, 40) for name in names[:3])})"
        for names, what in ((missing, "missing"), (extra, "too many"))
        if names
    ]
    raise ModelFileError(
        f"{evidence.name} does not hold the encoder {place.name!r}: of its tensors, "
        f"{' and '.join(words)}. Choose the file of {place.name!r} as torchvision, timm or "
        f"segmentation_models_pytorch give it."
    )


def _check_numbers(name: str, value: Tensor, evidence: Evidence) -> None:
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise ModelFileError(
            f"{evidence.name}: {shown(name)} holds values that are no numbers. The file is "
            f"damaged; copy it again."
        )


def _fully_connected(
    network: nn.Module, evidence: Evidence
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The fully connected layers of VGG-16 as convolutions, for an FCN, if they are there."""
    if not isinstance(network, FCN) or network.config.norm != "none":
        return {}, ()
    wanted, found = network.state_dict(), {}
    for own, names in FULLY_CONNECTED.items():
        for name in names:
            for kind in ("weight", "bias"):
                value = evidence.tensors.get(f"{name}.{kind}")
                shape = wanted[f"{own}.{kind}"].shape
                if value is not None and value.numel() == shape.numel():
                    found[f"{own}.{kind}"] = value.reshape(shape)  # (out, in, 7, 7) or (out,)
    if len(found) < 2 * len(FULLY_CONNECTED):
        return {}, ("fc6 and fc7 are not in the file; they begin with random weights.",)
    for name, value in found.items():
        _check_numbers(name, value, evidence)
    return found, ("fc6 and fc7 are the fully connected layers of the file, as convolutions.",)
