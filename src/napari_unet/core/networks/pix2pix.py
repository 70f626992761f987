"""The generator of pix2pix: a U-Net that makes an image from an image.

After Isola et al.: "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017.
4x4 convolutions with stride 2 halve the image until one pixel is left (8 times for 256 px), with
LeakyReLU, and 4x4 transposed convolutions with stride 2 bring it back, with ReLU and skips:

    down  C64-C128-C256-C512-C512-C512-C512-C512        no batch norm in the first and the last
    up    CD512-CD512-CD512-C512-C256-C128-C64, then the output and tanh

where Ck is convolution, batch norm, activation with k channels and CDk has dropout of 50 % too.
A later version of the paper leaves out the batch norm of the innermost layer, where an image by
itself has one number per channel, of which batch norm would make zero. From 3 channels to 3 it has
54 413 955 weights.

The paper trains it against a discriminator and with 100 times the mean absolute difference (L1) to
the wanted image, for images between -1 and 1: `core.losses.regression_loss` is that second part.
It also trains it on classes of pixels, for which the output must not end at 1: "pix2pix-classes".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from napari_unet.core.errors import SettingsError
from napari_unet.core.networks.parts import check_channels, check_choice, check_dims, check_share
from napari_unet.core.networks.registry import Kind, Preset, Wanted

__all__ = ["PRESETS", "Pix2Pix", "Pix2PixConfig"]

MAX_DEPTH = 16
N_DROPPED = 3
"""So many layers on the way up have dropout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pix2PixConfig:
    """What the network is: enough to build it again.

    Attributes
    ----------
    dims : 2 for images `(y, x)`, 3 for volumes `(z, y, x)`.
    in_channels, out_channels : channels of the input and of the output.
    width : channels of the first layer; the others have at most 8 times as many.
    depth : how often the image is halved; images are multiples of `2 ** depth` px in size.
    dropout : share of values dropped in three layers on the way up while training.
    output : "tanh" for images scaled to -1 ... 1, as in the paper; "linear" for any other numbers,
        and for the logits of classes.
    """

    dims: Literal[2, 3] = 2
    in_channels: int = 1
    out_channels: int = 1
    width: int = 64
    depth: int = 8
    dropout: float = 0.5
    output: Literal["linear", "tanh"] = "tanh"

    def __post_init__(self) -> None:
        check_dims(self.dims)
        check_channels(self)
        if self.width < 1:
            raise SettingsError(f"width must be at least 1 channel, not {self.width}.")
        if not 1 <= self.depth <= MAX_DEPTH:
            raise SettingsError(f"depth must be 1 to {MAX_DEPTH}, not {self.depth}.")
        check_share("dropout", self.dropout)
        check_choice("output", self.output, ("linear", "tanh"))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each layer on the way down."""
        return tuple(self.width * min(8, 2**i) for i in range(self.depth))


def _down(config: Pix2PixConfig, i: int) -> nn.Sequential:
    """Activation, convolution, batch norm: `(b, n_in, y, x)` to `(b, widths[i], y / 2, x / 2)`."""
    is_flat, n = config.dims == 2, config.widths[i]
    conv, norm = (nn.Conv2d, nn.BatchNorm2d) if is_flat else (nn.Conv3d, nn.BatchNorm3d)
    n_in = config.widths[i - 1] if i else config.in_channels
    layers: list[nn.Module] = [nn.LeakyReLU(0.2)] if i else []
    layers.append(conv(n_in, n, kernel_size=4, stride=2, padding=1, bias=False))
    layers += [norm(n)] if 0 < i < config.depth - 1 else []
    return nn.Sequential(*layers)


def _up(config: Pix2PixConfig, i: int) -> nn.Sequential:
    """Back from layer i of the way down: `(b, n_in, y, x)` to `(b, widths[i - 1], 2 y, 2 x)`."""
    is_flat = config.dims == 2
    conv = nn.ConvTranspose2d if is_flat else nn.ConvTranspose3d
    is_bottom = i == config.depth - 1
    n_in = config.widths[i] * (1 if is_bottom else 2)
    if i == 0:
        last = conv(n_in, config.out_channels, kernel_size=4, stride=2, padding=1)
        return nn.Sequential(nn.ReLU(), last)
    n_out = config.widths[i - 1]
    layers: list[nn.Module] = [
        nn.ReLU(),
        conv(n_in, n_out, kernel_size=4, stride=2, padding=1, bias=False),
        (nn.BatchNorm2d if is_flat else nn.BatchNorm3d)(n_out),
    ]
    if i >= config.depth - N_DROPPED:
        layers.append(nn.Dropout(config.dropout))
    return nn.Sequential(*layers)


class Pix2Pix(nn.Module):
    """Image `(b, c, [z,] y, x)` to image `(b, output, [z,] y, x)`.

    Each spatial size must be a multiple of `2 ** config.depth`.
    """

    def __init__(self, config: Pix2PixConfig) -> None:
        super().__init__()
        self.config = config
        levels = range(config.depth)
        self.down = nn.ModuleList(_down(config, i) for i in levels)
        self.up = nn.ModuleList(_up(config, i) for i in reversed(levels))
        self._initialise()

    def _initialise(self) -> None:
        """Draw weights from N(0, 0.02), those of batch norms from N(1, 0.02)."""
        convolutions = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        for module in self.modules():
            # NOTE: drawing numbers for weights without memory loads torch's compiler, for a second.
            if isinstance(module, convolutions) and not module.weight.is_meta:
                nn.init.normal_(module.weight, 0.0, 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) and not module.weight.is_meta:
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, image: Tensor) -> Tensor:
        """Output `(b, output, [z,] y, x)` of `image` `(b, c, [z,] y, x)`."""
        skips: list[Tensor] = []
        for down in self.down:
            skips.append(down(skips[-1] if skips else image))  # (b, width, y / 2^i, x / 2^i)
        features = skips.pop()
        for up in self.up:
            features = up(features)
            if skips:
                features = torch.cat([skips.pop(), features], dim=1)  # (b, 2 width, ...)
        return torch.tanh(features) if self.config.output == "tanh" else features


def _configured(wanted: Wanted, output: Literal["linear", "tanh"]) -> Pix2PixConfig:
    return Pix2PixConfig(
        in_channels=wanted.in_channels,
        out_channels=wanted.out_channels,
        width=wanted.width or 64,
        output=output,
    )


def _for_images(wanted: Wanted) -> Pix2PixConfig:
    return _configured(wanted, "tanh")


def _for_classes(wanted: Wanted) -> Pix2PixConfig:
    return _configured(wanted, "linear")


PAPER = (
    "Isola, Zhu, Zhou, Efros: Image-to-Image Translation with Conditional Adversarial Networks, "
    "CVPR 2017"
)
KIND = Kind(name="pix2pix", title="pix2pix generator", config=Pix2PixConfig, network=Pix2Pix)
# The paper's Adam has a first momentum of 0.5.
RECIPE = {
    "loss": "cross-entropy",
    "optimizer": "adam",
    "learning_rate": 2e-4,
    "patch_size": 256,
    "batch_size": 1,
}
PRESETS = (
    Preset(
        name="pix2pix",
        title="pix2pix generator, for images",
        paper=PAPER,
        summary="Halves the image until one pixel is left; gives an image between -1 and 1.",
        kind=KIND,
        configure=_for_images,
        recipe=RECIPE,
    ),
    Preset(
        name="pix2pix-classes",
        title="pix2pix generator, for classes",
        paper=PAPER,
        summary="The same without the tanh at its end, so that it can be sure of a class.",
        kind=KIND,
        configure=_for_classes,
        recipe=RECIPE,
    ),
)
