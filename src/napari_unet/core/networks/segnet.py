"""SegNet: an encoder and a decoder that puts values back to where the poolings took them from.

After Badrinarayanan, Kendall, Cipolla: "SegNet: A Deep Convolutional Encoder-Decoder Architecture
for Image Segmentation", arXiv 2015, PAMI 2017. The encoder is VGG-16 with batch norm. Each of its
poolings remembers which of four px was the largest (the *index*); the decoder, its mirror image,
enlarges by putting each value at that px, with zeros around, and convolves what comes of it.
There are no skips but these indices.

SegNet-Basic is the small one of the paper: four convolutions 7x7 of 64 channels down, four up,
and no ReLU in the decoder. It leaves out the local contrast normalisation of the input that the
authors apply; scaling the intensities stands for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn

from napari_unet.core.errors import ImageError, SettingsError
from napari_unet.core.networks.parts import check_channels, check_choice, he_
from napari_unet.core.networks.registry import Kind, Preset, Wanted
from napari_unet.core.networks.vgg import COUNTS, VGGTrunk, conv_layers, widths_of

__all__ = ["PRESETS", "SegNet", "SegNetBasic", "SegNetConfig"]

BASIC_LEVELS = 4
BASIC_KERNEL = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class SegNetConfig:
    """What the network is.

    Attributes
    ----------
    in_channels, out_channels : channels of the input and of the output.
    variant : "vgg16", or "basic" for the small one.
    width : channels of the first level; the others in proportion.
    """

    in_channels: int = 1
    out_channels: int = 2
    variant: Literal["vgg16", "basic"] = "vgg16"
    width: int = 64
    dims: Literal[2] = 2

    def __post_init__(self) -> None:
        if self.dims != 2:
            raise SettingsError(f"dims must be 2 for a SegNet, not {self.dims}.")
        check_channels(self)
        check_choice("variant", self.variant, ("vgg16", "basic"))
        if self.width < 1:
            raise SettingsError(f"width must be at least 1 channel, not {self.width}.")

    @property
    def stride(self) -> int:
        """Sizes that fit are multiples of this, in px."""
        return 1 << (len(COUNTS) if self.variant == "vgg16" else BASIC_LEVELS)


class SegNet(nn.Module):
    """SegNet: `(b, c, y, x)` to logits `(b, class, y, x)`.

    Each side of the image must be a multiple of 32 px.
    """

    def __init__(self, config: SegNetConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = VGGTrunk(config.in_channels, config.width, norm="batch", pool=_pooling())
        self.unpool = nn.MaxUnpool2d(2)
        *deeper, width = widths_of(config.width)[::-1]
        outputs = (*deeper[1:], width)
        self.decoder = nn.ModuleList(
            nn.Sequential(*_ascent(count, n_in, n_out))
            for count, n_in, n_out in zip(COUNTS[:0:-1], deeper, outputs, strict=True)
        )
        last = nn.Conv2d(width, config.out_channels, 3, padding=1)
        self.decoder.append(nn.Sequential(*_ascent(COUNTS[0] - 1, width, width), last))
        he_(self)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(b, class, y, x)` of `image` `(b, c, y, x)`."""
        _check(image, self.config)
        places: list[Tensor] = []
        for convolutions, pool in self.encoder.stages():
            image, place = pool(convolutions(image))  # (b, width, y / 2^i, x / 2^i) both
            places.append(place)
        for ascent in self.decoder:
            image = ascent(self.unpool(image, places.pop()))
        return image


class SegNetBasic(nn.Module):
    """SegNet-Basic: `(b, c, y, x)` to logits `(b, class, y, x)`.

    Each side of the image must be a multiple of 16 px.
    """

    def __init__(self, config: SegNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.encoder = nn.ModuleList(
            _basic(config.in_channels if i == 0 else width, width, has_relu=True)
            for i in range(BASIC_LEVELS)
        )
        self.pool, self.unpool = _pooling(), nn.MaxUnpool2d(2)
        self.decoder = nn.ModuleList(
            _basic(width, width, has_relu=False) for _ in range(BASIC_LEVELS)
        )
        self.head = nn.Conv2d(width, config.out_channels, 1)
        he_(self)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(b, class, y, x)` of `image` `(b, c, y, x)`."""
        _check(image, self.config)
        places: list[Tensor] = []
        for layers in self.encoder:
            image, place = self.pool(layers(image))  # (b, width, y / 2^i, x / 2^i) both
            places.append(place)
        for layers in self.decoder:
            image = layers(self.unpool(image, places.pop()))
        logits: Tensor = self.head(image)
        return logits


def _pooling() -> nn.Module:
    return nn.MaxPool2d(2, return_indices=True)


def _ascent(count: int, n_in: int, n_out: int) -> list[nn.Module]:
    """Convolutions 3x3 at one resolution: `(b, n_in, y, x)` to `(b, n_out, y, x)`."""
    layers: list[nn.Module] = []
    for i in range(count):
        layers += conv_layers(n_in, n_out if i == count - 1 else n_in, norm="batch")
    return layers


def _basic(n_in: int, n_out: int, *, has_relu: bool) -> nn.Sequential:
    """Convolution 7x7, batch norm, perhaps ReLU: `(b, n_in, y, x)` to `(b, n_out, y, x)`."""
    layers = [
        nn.Conv2d(n_in, n_out, BASIC_KERNEL, padding=BASIC_KERNEL // 2, bias=False),
        nn.BatchNorm2d(n_out),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if has_relu else nn.Sequential(*layers)


def _check(image: Tensor, config: SegNetConfig) -> None:
    size = image.shape[2:]
    if any(n % config.stride for n in size):
        raise ImageError(
            f"This SegNet needs images whose sides are multiples of {config.stride} px, but this "
            f"one has {size[0]} × {size[1]} px. Pad the image."
        )


def _network(config: SegNetConfig) -> nn.Module:
    return SegNet(config) if config.variant == "vgg16" else SegNetBasic(config)


KIND = Kind(name="segnet", title="SegNet", config=SegNetConfig, network=_network)


def _configured(wanted: Wanted, *, variant: Literal["vgg16", "basic"]) -> SegNetConfig:
    return SegNetConfig(
        in_channels=wanted.in_channels,
        out_channels=wanted.out_channels,
        variant=variant,
        width=64 if wanted.width is None else wanted.width,
    )


PAPER = (
    "Badrinarayanan, Kendall, Cipolla: SegNet: A Deep Convolutional Encoder-Decoder Architecture "
    "for Image Segmentation, PAMI 2017"
)
RECIPE = {
    "optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1, "weight_decay": 5e-4,
    "schedule": "constant", "loss": "cross-entropy", "outputs": "softmax",
}  # fmt: skip
"""The paper's; it also weighs rare classes more (median frequency): `class_weights="balanced"`.

The weight decay is not in the paper but in the authors' files.
"""

PRESETS = (
    Preset(
        name="segnet",
        title="SegNet",
        paper=PAPER,
        summary="VGG-16 and its mirror image, which puts values back to where the poolings took "
        "them from; no other skips. With classes, balance their weights as the paper does.",
        kind=KIND,
        configure=partial(_configured, variant="vgg16"),
        recipe=RECIPE,
    ),
    Preset(
        name="segnet-basic",
        title="SegNet-Basic",
        paper=PAPER,
        summary="The small SegNet: four convolutions 7x7 down and four up.",
        kind=KIND,
        configure=partial(_configured, variant="basic"),
        recipe=RECIPE,
    ),
)
