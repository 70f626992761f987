"""The U-Net of 2015, as it was published: unpadded, so that no output pixel has seen a border.

Ronneberger, Fischer, Brox: "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015. Its 23 convolutional layers are 18 of 3x3 px and the last one of 1x1 px, and four
up-convolutions of 2x2 px. What the paper leaves open is as in the network that its authors
released for Caffe: dropout of one half after the two lowest levels of the contracting path, and
features from below before those from the side. (Of that network are not taken over, as the
paper's figure has them otherwise: a ReLU after up-convolutions, and twice as many channels in
the last of these.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from napari_unet.core.errors import SettingsError
from napari_unet.core.networks.parts import check_channels, check_share, doubling
from napari_unet.core.networks.registry import Kind, Preset, Wanted

__all__ = ["PRESETS", "UNet2015", "UNet2015Config"]

MAX_LEVELS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class UNet2015Config:
    """What the network is: enough to build it again.

    Attributes
    ----------
    in_channels, out_channels : channels of the input and of the output.
    widths : channels of each level, from full resolution down to the bottom.
    dropout : share of values dropped after the two lowest levels of the way down, in training.
    """

    in_channels: int = 1
    out_channels: int = 2
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    dropout: float = 0.5
    dims: Literal[2] = 2

    def __post_init__(self) -> None:
        if self.dims != 2:
            raise SettingsError(f"dims must be 2, not {self.dims}.")
        check_channels(self)
        if len(self.widths) < 1 or min(self.widths) < 1:
            raise SettingsError(f"widths must be positive numbers, not {self.widths}.")
        if len(self.widths) > MAX_LEVELS:
            raise SettingsError(f"{len(self.widths)} levels would need images of thousands of px.")
        check_share("dropout", self.dropout)

    @property
    def n_poolings(self) -> int:
        """How often the image is halved on its way down."""
        return len(self.widths) - 1

    @property
    def stride(self) -> int:
        """From one size that fits to the next, in px."""
        return 1 << self.n_poolings

    @property
    def margin(self) -> int:
        """By how much the output is smaller than the input, in px: 184 with four poolings.

        Two convolutions take 4 px of their level: once on the way down and once on the way up,
        but at the bottom, where they do so once.
        """
        return 8 * (self.stride - 1) + 4 * self.stride

    @property
    def least(self) -> int:
        """The smallest size that fits, in px: 188 with four poolings."""
        return next(n for n in range(self.margin + 1, 2 * self.margin) if self._fits(n))

    def _fits(self, n: int) -> bool:
        """Whether each pooling meets an even size, and anything is left in the end.

        At the bottom there are (n - 4 - 8 - 16 - ...) / stride = (n + 4) / stride - 4 px.
        """
        return (n + 4) % self.stride == 0 and n > self.margin

    def output_size(self, n: int) -> int:
        """Size of the output for an input of `n` px along an axis: 388 for 572.

        Raises
        ------
        SettingsError
            If a pooling would meet an odd size, or nothing would be left.
        """
        if self._fits(n):
            return n - self.margin
        first, step = self.least, self.stride
        raise SettingsError(
            f"An image of {n} px along an axis does not fit this network, whose convolutions are "
            f"not padded. It takes {first}, {first + step}, {first + 2 * step}, ... px (steps of "
            f"{step} px) and gives {self.margin} px less. Cut the image or mirror it at its "
            f"borders, to {max(first, n + -(n + 4) % step)} px say."
        )


def _double_conv(n_in: int, n_out: int) -> nn.Sequential:
    """(convolution 3x3, ReLU) twice; `(b, n_in, y, x)` to `(b, n_out, y - 4, x - 4)`."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel_size=3),  # (b, n_out, y - 2, x - 2)
        nn.ReLU(inplace=True),
        nn.Conv2d(n_out, n_out, kernel_size=3),  # (b, n_out, y - 4, x - 4)
        nn.ReLU(inplace=True),
    )


def _cropped(skip: Tensor, like: Tensor) -> Tensor:
    """The middle of `skip` `(b, c, y, x)`, of the size of `like`."""
    n_y, n_x = like.shape[2:]
    top, left = (skip.shape[2] - n_y) // 2, (skip.shape[3] - n_x) // 2
    return skip[:, :, top : top + n_y, left : left + n_x]  # (b, c, n_y, n_x)


class UNet2015(nn.Module):
    """Image `(b, c, y, x)` to logits `(b, class, y - margin, x - margin)` of its middle.

    With the four poolings of the paper, edges of 16 k + 12 px from 188 px on fit, and 184 px
    are lost: 572 px give 388 px.
    """

    def __init__(self, config: UNet2015Config) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.pool = nn.MaxPool2d(2)
        self.encoder = nn.ModuleList(
            _double_conv(n_in, n_out) for n_in, n_out in pairwise((config.in_channels, *widths))
        )
        self.dropout = nn.Dropout(config.dropout)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(n_below, n, kernel_size=2, stride=2)
            for n_below, n in pairwise(widths[::-1])
        )
        self.decoder = nn.ModuleList(_double_conv(2 * n, n) for n in widths[-2::-1])
        self.head = nn.Conv2d(widths[0], config.out_channels, kernel_size=1)
        self._initialise()

    def _initialise(self) -> None:
        """Draw weights from N(0, sqrt(2 / N)), N being the values that go into one (section 3)."""
        for module in self.modules():
            # NOTE: drawing numbers for weights without memory loads torch's compiler, for a second.
            if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d) or module.weight.is_meta:
                continue
            # Of a 2x2 up-convolution with steps of 2 px, just one px goes into each px.
            n_px = 1 if isinstance(module, nn.ConvTranspose2d) else math.prod(module.kernel_size)
            nn.init.normal_(module.weight, std=math.sqrt(2 / (module.in_channels * n_px)))
            assert module.bias is not None
            nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(b, class, y - margin, x - margin)` of `image` `(b, c, y, x)`.

        Raises
        ------
        SettingsError
            If the size of the image does not fit.
        """
        for n in image.shape[2:]:
            self.config.output_size(n)
        lowest = self.config.n_poolings
        features, skips = image, []
        for i, level in enumerate(self.encoder):
            features = level(self.pool(features) if i else features)  # (b, width, y/2^i - .., ..)
            features = self.dropout(features) if i >= lowest - 1 else features
            skips.append(features)
        skips.pop()
        for up, decoder in zip(self.up, self.decoder, strict=True):
            features = up(features)  # (b, width, 2 y, 2 x)
            joined = torch.cat([features, _cropped(skips.pop(), features)], dim=1)
            features = decoder(joined)  # (b, 2 width, y, x) to (b, width, y - 4, x - 4)
        logits: Tensor = self.head(features)
        return logits


def _configured(wanted: Wanted) -> UNet2015Config:
    width = wanted.width or 64
    return UNet2015Config(
        in_channels=wanted.in_channels,
        out_channels=wanted.out_channels,
        widths=doubling(width, 5),
    )


PRESETS = (
    Preset(
        name="unet-2015",
        title="U-Net of 2015",
        paper="Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image "
        "Segmentation, MICCAI 2015",
        summary="Unpadded, 64 to 1024 channels, no batch normalisation: the network of the paper.",
        kind=Kind(name="unet_2015", title="U-Net of 2015", config=UNet2015Config, network=UNet2015),
        configure=_configured,
        recipe={
            "outputs": "softmax",
            "loss": "cross-entropy",
            "separation": 10.0,
            # Not in the paper either. With input in 0 ... 1 it still called everything background
            # after 600 steps; with mean 0 and standard deviation 1 it had learned the cells.
            "normalization": "zscore",
            "optimizer": "sgd",
            "momentum": 0.99,
            # Not in the paper. Measured on real cells with a loss that is a mean over pixels: a
            # third of it learns far more slowly, three times as much goes astray.
            "learning_rate": 3e-3,
            "weight_decay": 0.0,
            "schedule": "constant",
            "batch_size": 1,
            "patch_size": 388,
            "clip": 0.0,
            "average": 0.0,
        },
    ),
)
