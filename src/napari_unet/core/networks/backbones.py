"""Encoders that were made to classify pictures, under the decoders of U-Net, FPN and PSPNet.

Encoders: VGG-16 (Simonyan, Zisserman 2015), ResNet-18, -34 and -50 (He et al. 2016) and
MobileNetV2 (Sandler et al. 2018). Decoders: U-Net (Ronneberger et al. 2015), FPN (Kirillov et al.
2019, "Panoptic Feature Pyramid Networks") and PSPNet (Zhao et al. 2017). Each combination has a
name, such as "unet-resnet34". They are built as segmentation_models_pytorch builds them; only a
PSPNet has the whole encoder, at 1/8 of the resolution as in its paper, where that library by
default cuts it off where it comes to 1/8.

The widths are those of the papers, so that files fit: there is no choosing a width. Weights of
ImageNet are read from a file by `core.networks.imagenet`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from napari_unet.core.errors import SettingsError
from napari_unet.core.networks.decoders import EncoderDecoder, EncoderDecoderConfig
from napari_unet.core.networks.parts import he_
from napari_unet.core.networks.registry import Kind, Preset, Wanted

__all__ = ["BACKBONES", "KIND", "PRESETS", "fpn_config", "pspnet_config", "unet_config"]

VGG_PAPER = "Simonyan, Zisserman, ICLR 2015"
RESNET_PAPER = "He, Zhang, Ren, Sun, CVPR 2016"
BACKBONES = {
    "vgg16": ("VGG-16", VGG_PAPER),
    "vgg16_bn": ("VGG-16 with batch norm", VGG_PAPER),
    "resnet18": ("ResNet-18", RESNET_PAPER),
    "resnet34": ("ResNet-34", RESNET_PAPER),
    "resnet50": ("ResNet-50", RESNET_PAPER),
    "mobilenet_v2": ("MobileNetV2", "Sandler, Howard, Zhu, Zhmoginov, Chen, CVPR 2018"),
}
"""Encoders by their names in torchvision, and for people, and their papers."""


def _network(config: EncoderDecoderConfig) -> nn.Module:
    """The network with He's weights throughout."""
    network = EncoderDecoder(config)
    he_(network)
    return network


KIND = Kind(
    name="smp",
    title="network of segmentation_models_pytorch",
    config=EncoderDecoderConfig,
    network=_network,
)
"""Model files have called these networks so since before they could be trained from scratch."""


def unet_config(encoder: str, wanted: Wanted) -> EncoderDecoderConfig:
    """A U-Net on an encoder, all of whose feature maps are joined on the way up."""
    return _config(
        encoder, wanted, decoder="unet", widths=(256, 128, 64, 32, 16), head=3,
        center=encoder.startswith("vgg"),
    )  # fmt: skip


def fpn_config(encoder: str, wanted: Wanted) -> EncoderDecoderConfig:
    """A feature pyramid on an encoder, the levels of which are added."""
    return _config(encoder, wanted, decoder="fpn", widths=(256, 128), head=1)


def pspnet_config(encoder: str, wanted: Wanted) -> EncoderDecoderConfig:
    """Pyramid pooling of the last feature map of an encoder, at 1/8 of the resolution.

    That of a VGG, which halves the resolution by pooling, is at 1/32.
    """
    stride = 32 if encoder.startswith("vgg") else 8
    return _config(encoder, wanted, decoder="pspnet", widths=(512,), head=3, output_stride=stride)


def _config(encoder: str, wanted: Wanted, **parts: Any) -> EncoderDecoderConfig:
    if wanted.width is not None:
        raise SettingsError(
            f"width was {wanted.width}, but a network on the encoder {encoder!r} is as wide as in "
            f"its paper, so that files of weights fit. Leave width out, or choose another network."
        )
    return EncoderDecoderConfig(
        in_channels=wanted.in_channels,
        out_channels=wanted.out_channels,
        encoder=encoder,
        depth=5,
        **parts,
    )


DECODERS = (
    ("unet", "U-Net", "Ronneberger, Fischer, Brox: U-Net, MICCAI 2015", unet_config,
     "whose feature maps are joined on the way up"),
    ("fpn", "FPN", "Kirillov, Girshick, He, Dollár: Panoptic Feature Pyramid Networks, CVPR 2019",
     fpn_config, "whose feature maps are added on the way up, and all levels in the end"),
    ("pspnet", "PSPNet", "Zhao, Shi, Qi, Wang, Jia: Pyramid Scene Parsing Network, CVPR 2017",
     pspnet_config, "whose last feature map is joined with its averages in large fields"),
)  # fmt: skip
"""What networks are called, their papers, how they are built, and what becomes of an encoder."""

PRESETS = tuple(
    Preset(
        name=f"{decoder}-{encoder}",
        title=f"{title} on {words}",
        paper=f"{paper}; encoder: {paper_of_encoder}",
        summary=f"{words} as the encoder, {what}.",
        kind=KIND,
        configure=partial(configure, encoder),
    )
    for decoder, title, paper, configure, what in DECODERS
    for encoder, (words, paper_of_encoder) in BACKBONES.items()
)
