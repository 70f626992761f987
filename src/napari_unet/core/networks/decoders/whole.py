"""An encoder, a decoder and a last convolution: a network that segments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from napari_unet.core.errors import ImageError, ModelFileError
from napari_unet.core.networks.decoders.deeplab import DeepLabDecoder, DeepLabPlusDecoder
from napari_unet.core.networks.decoders.layers import AttentionKind, Interpolation, Norm
from napari_unet.core.networks.decoders.manet import LinkNetDecoder, MANetDecoder
from napari_unet.core.networks.decoders.pyramid import FPNDecoder, PANDecoder, PSPDecoder
from napari_unet.core.networks.decoders.unet import UNetDecoder, UNetPlusPlusDecoder
from napari_unet.core.networks.encoders import build_encoder

__all__ = ["DecoderName", "EncoderDecoder", "EncoderDecoderConfig"]

DecoderName = Literal[
    "unet",
    "unetplusplus",
    "manet",
    "linknet",
    "fpn",
    "pspnet",
    "pan",
    "deeplabv3",
    "deeplabv3plus",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderDecoderConfig:
    """What the network is.

    Attributes
    ----------
    in_channels, out_channels : channels of the input and of the output.
    encoder : a name out of `core.networks.encoders.ENCODERS`.
    depth : how often the encoder halves the resolution.
    decoder : which decoder.
    widths : its channels; see there.
    head : kernel size of the last convolution.
    norm : norm of the decoder.
    center : whether a U-Net has more layers at the bottom.
    attention : how a U-Net weighs channels and pixels.
    inner : channels in which a MA-Net compares pixels.
    merge : whether an FPN adds or joins its levels.
    separable : whether a DeepLab convolves each channel by itself.
    rates : how many pixels apart a DeepLab looks.
    output_stride : 1/`output_stride` is the coarsest resolution of the encoder.
    interpolation : how the decoder enlarges images.
    """

    in_channels: int
    out_channels: int
    encoder: str
    depth: int
    decoder: DecoderName
    widths: tuple[int, ...]
    head: int
    norm: Norm = "batch"
    center: bool = False
    attention: AttentionKind = "none"
    inner: int = 64
    merge: Literal["add", "cat"] = "add"
    separable: bool = False
    rates: tuple[int, int, int] = (12, 24, 36)
    output_stride: int = 32
    interpolation: Interpolation = "nearest"
    dims: Literal[2] = 2

    @property
    def stride(self) -> int:
        """Sizes that fit are multiples of this, in px."""
        return 1 if self.decoder == "unet" else min(self.output_stride, 1 << self.depth)

    @property
    def upsampling(self) -> int:
        """How much coarser than the image what the decoder gives is."""
        deepest = min(self.output_stride, 1 << self.depth)
        if self.decoder == "fpn":
            return 1 << (self.depth - 3)
        if self.decoder in ("pan", "deeplabv3plus"):
            return 4
        return deepest if self.decoder in ("pspnet", "deeplabv3") else 1


class EncoderDecoder(nn.Module):
    """Image `(b, c, y, x)` to logits `(b, output, y, x)`.

    Each spatial size must be a multiple of `config.stride`.
    """

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(
            config.encoder, config.in_channels, config.depth, config.output_stride
        )
        self.decoder = _decoder(config, self.encoder.out_channels)
        width = config.widths[-1] * (4 if config.merge == "cat" else 1)
        head: list[nn.Module] = [
            nn.Conv2d(width, config.out_channels, config.head, padding=config.head // 2)
        ]
        if config.upsampling > 1:
            head.append(
                nn.Upsample(scale_factor=config.upsampling, mode="bilinear", align_corners=True)
            )
        self.segmentation_head = nn.Sequential(*head)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image, of its size.

        Raises
        ------
        ImageError
            If a side of the image is no multiple of `config.stride`.
        """
        if any(n % self.config.stride for n in image.shape[2:]):
            raise ImageError(
                f"This network needs images whose sides are multiples of {self.config.stride} "
                f"px, but this one has {image.shape[2]} × {image.shape[3]} px. Pad the image."
            )
        logits: Tensor = self.segmentation_head(self.decoder(self.encoder(image)))
        return logits


def _decoder(config: EncoderDecoderConfig, channels: tuple[int, ...]) -> nn.Module:
    """The decoder for an encoder whose feature maps have so many channels."""
    widths, norm, interpolation = config.widths, config.norm, config.interpolation
    match config.decoder:
        case "unet" | "unetplusplus":
            decoder = UNetDecoder if config.decoder == "unet" else UNetPlusPlusDecoder
            return decoder(
                channels,
                widths,
                norm=norm,
                center=config.center,
                attention=config.attention,
                interpolation=interpolation,
            )
        case "manet":
            return MANetDecoder(
                channels, widths, inner=config.inner, norm=norm, interpolation=interpolation
            )
        case "linknet":
            return LinkNetDecoder(channels, *widths, norm=norm)
        case "pspnet":
            return PSPDecoder(channels, *widths, norm=norm)
        case "pan":
            return PANDecoder(channels, *widths, interpolation=interpolation)
        case "fpn":
            pyramid, width = widths
            return FPNDecoder(
                channels, (pyramid, width), merge=config.merge, interpolation=interpolation
            )
        case "deeplabv3":
            return DeepLabDecoder(channels, *widths, rates=config.rates, separable=config.separable)
        case "deeplabv3plus":
            factor = min(config.output_stride, 1 << config.depth) // 4
            return DeepLabPlusDecoder(
                channels, *widths, rates=config.rates, separable=config.separable, factor=factor
            )
    raise ModelFileError(f"The decoder {config.decoder!r} is not known here.")
