"""Encoders: networks made to classify pictures, as the first half of a network that segments.

Their parameters have the names that they have in torchvision and in the encoders of
segmentation_models_pytorch, so that files of both fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch

from napari_unet.core.errors import ModelFileError
from napari_unet.core.networks.encoders.base import N_STAGES, Encoder, EncoderConfig, from_stride
from napari_unet.core.networks.encoders.densenet import DENSENETS
from napari_unet.core.networks.encoders.efficientnet import EFFICIENTNETS
from napari_unet.core.networks.encoders.mobilenet import MOBILENETS
from napari_unet.core.networks.encoders.resnet import RESNETS
from napari_unet.core.networks.encoders.senet import SENETS
from napari_unet.core.networks.encoders.vgg import VGGS

__all__ = ["ENCODERS", "Encoder", "EncoderConfig", "build_encoder", "encoder_of"]

ENCODERS: Mapping[str, EncoderConfig] = {
    config.name: config
    for config in (*RESNETS, *VGGS, *MOBILENETS, *EFFICIENTNETS, *DENSENETS, *SENETS)
}
"""All encoders that can be built, by name."""

Shapes = Mapping[str, tuple[int, ...]]


def build_encoder(
    name: str, in_channels: int = 3, depth: int = N_STAGES, output_stride: int = 32
) -> Encoder:
    """Build an encoder with random weights.

    It takes an image `(b, in_channels, y, x)` and gives the list of its feature maps, from full
    resolution down; their channels are `encoder.out_channels`.

    Parameters
    ----------
    name : one of `ENCODERS`.
    in_channels : channels of the image.
    depth : how often the resolution is halved, 1 to 5.
    output_stride : 32, or 16 or 8 for no feature map coarser than 1/16 or 1/8.

    Raises
    ------
    ModelFileError
        If there is no such encoder, or it cannot be built so.
    """
    if name not in ENCODERS:
        raise ModelFileError(
            f"The encoder {name!r} is not known here; known are {', '.join(ENCODERS)}."
        )
    if depth not in range(1, N_STAGES + 1) or output_stride not in (8, 16, 32):
        raise ModelFileError(
            f"An encoder has a depth of 1 to {N_STAGES} and an output stride of 8, 16 or 32, "
            f"not {depth} and {output_stride}."
        )
    encoder = ENCODERS[name].network(in_channels, depth)
    if output_stride == 32:
        return encoder
    try:
        return from_stride(encoder, output_stride)
    except ValueError as error:
        raise ModelFileError(
            f"The encoder {name!r} cannot have an output stride of {output_stride}, since it "
            "halves the resolution by pooling; only 32 is possible."
        ) from error


def encoder_of(shapes: Shapes) -> str | None:
    """The name of the encoder that has tensors of just these names and shapes, if there is one.

    Channels of the image may be any. Counters of batches count for nothing.
    """
    found = {name: shape for name, shape in shapes.items() if _counts(name)}
    for config in ENCODERS.values():
        if config.first in found and _signature(config.name) == _any_image(found, config.first):
            return config.name
    return None


def _counts(name: str) -> bool:
    return not name.endswith("num_batches_tracked")


def _any_image(shapes: Shapes, first: str) -> Shapes:
    """The shapes, with 0 for the channels of the image."""
    n_out, _, *kernel = shapes[first]
    return {**shapes, first: (n_out, 0, *kernel)}


@cache
def _signature(name: str) -> Shapes:
    with torch.device("meta"):
        state = ENCODERS[name].network(3, N_STAGES).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items() if _counts(name)}
    return _any_image(shapes, ENCODERS[name].first)
