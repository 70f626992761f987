"""Decoders: from the feature maps of an encoder back to the resolution of the image.

Their parameters have the names that they have in segmentation_models_pytorch.
"""

from napari_unet.core.networks.decoders.layers import AttentionKind, Interpolation, Norm
from napari_unet.core.networks.decoders.whole import (
    DecoderName,
    EncoderDecoder,
    EncoderDecoderConfig,
)

__all__ = [
    "AttentionKind",
    "DecoderName",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "Interpolation",
    "Norm",
]
