"""Fully convolutional networks: FCN-32s, FCN-16s and FCN-8s.

After Long, Shelhamer, Darrell: "Fully Convolutional Networks for Semantic Segmentation", CVPR
2015. A network made to classify pictures (VGG-16) becomes one that classifies pixels: its fully
connected layers are convolutions, and its scores, at 1/32 of the resolution, are enlarged.
FCN-16s and FCN-8s add the scores of the fourth and the third pooled layer on the way, after
learned upsampling; the last step, of `stride`, stays linear interpolation, as in the paper.

The authors pad the image by 100 px, have no padding in the first fully connected layer, and cut
what is too much off the result. Here ("same") that layer is padded by 3 px instead, so that all
scores lie at their place and nothing is cut off; weights are the same for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_unet.core.errors import ImageError, SettingsError
from napari_unet.core.networks.parts import check_channels, check_choice, check_share, he_
from napari_unet.core.networks.registry import Kind, Preset, Wanted
from napari_unet.core.networks.vgg import Norm, VGGTrunk, conv_layers, widths_of

__all__ = ["FCN", "PRESETS", "FCNConfig"]

DEEPEST = 32
"""The scores of the last layer are at 1/32 of the resolution."""
FULLY_CONNECTED = 64
"""How often wider than the first stage fc6 and fc7 are: 4096 for 64 channels."""
POOLED = ((16, 3), (8, 2))
"""For an FCN of at most this stride, the scores of this stage (from 0) are added."""
MARGIN = 100
"""Px around the image in the authors' padding ..."""
OFFSETS = {3: 5, 2: 9}
"""... what is cut off the scores of a pooled stage then, in px ..."""
OFFSETS_OF_RESULT = {32: 19, 16: 27, 8: 31}
"""... and off the result, by stride."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FCNConfig:
    """What the network is.

    Attributes
    ----------
    in_channels, out_channels : channels of the input and of the output.
    stride : the scores that are enlarged in one go are at 1/`stride` of the resolution.
    width : channels of the first stage; all others in proportion (4096 in fc6 and fc7 for 64).
    norm : "none" as in the paper, or "batch" after each convolution but those of the scores.
    padding : "same", or "100" as the authors did it (px around the image; any size fits then).
    dropout : share of the values of fc6 and fc7 dropped while training.
    """

    in_channels: int = 1
    out_channels: int = 2
    stride: Literal[8, 16, 32] = 8
    width: int = 64
    norm: Norm = "none"
    padding: Literal["same", "100"] = "same"
    dropout: float = 0.5
    dims: Literal[2] = 2

    def __post_init__(self) -> None:
        if self.dims != 2:
            raise SettingsError(f"dims must be 2 for an FCN, not {self.dims}.")
        check_channels(self)
        if self.stride not in (8, 16, 32):
            raise SettingsError(f"stride must be 8, 16 or 32, not {self.stride}.")
        if self.width < 1:
            raise SettingsError(f"width must be at least 1 channel, not {self.width}.")
        check_choice("norm", self.norm, ("none", "batch"))
        check_choice("padding", self.padding, ("same", "100"))
        check_share("dropout", self.dropout)


class FCN(nn.Module):
    """FCN: `(b, c, y, x)` to logits `(b, class, y, x)` of the same size.

    Each side of the image must be a multiple of 32 px, unless `config.padding` is "100".
    """

    def __init__(self, config: FCNConfig) -> None:
        super().__init__()
        self.config = config
        n, n_wide = config.out_channels, FULLY_CONNECTED * config.width
        widths, norm, is_same = widths_of(config.width), config.norm, config.padding == "same"
        self.encoder = VGGTrunk(
            config.in_channels, config.width, norm=norm, padding=1 if is_same else MARGIN,
            pool=nn.MaxPool2d(2, ceil_mode=not is_same),  # in Caffe a half px that is left counts
        )  # fmt: skip
        fc6 = conv_layers(widths[-1], n_wide, size=7, norm=norm, padding=3 if is_same else 0)
        fc7 = conv_layers(n_wide, n_wide, size=1, norm=norm)
        self.fc6 = nn.Sequential(*fc6, nn.Dropout(config.dropout))
        self.fc7 = nn.Sequential(*fc7, nn.Dropout(config.dropout))
        self.score = nn.Conv2d(n_wide, n, 1)
        fused = [at for stride, at in POOLED if stride >= config.stride]
        self.pooled = tuple(fused)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(n, n, 4, stride=2, padding=1 if is_same else 0, bias=False)
            for _ in fused
        )
        self.pooled_scores = nn.ModuleList(nn.Conv2d(widths[at], n, 1) for at in fused)
        self.last = Enlargement(n, config.stride, is_padded=is_same)
        self._initialise()

    def _initialise(self) -> None:
        """He's weights, bilinear upsampling, and 0 for the scores that are added.

        So FCN-16s and FCN-8s begin as FCN-32s, as in the paper. The paper has 0 for the deepest
        scores too, but begins with the weights of VGG-16; from scratch, nothing below them would
        learn in the first step.
        """
        he_(self)
        with torch.no_grad():
            for module in self.pooled_scores:
                if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                    module.weight.zero_()
            for module in self.up:
                if isinstance(module, nn.ConvTranspose2d) and not module.weight.is_meta:
                    each = torch.eye(module.in_channels)[:, :, None, None]
                    module.weight.copy_(each * bilinear(2))

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(b, class, y, x)` of `image` `(b, c, y, x)`.

        Raises
        ------
        ImageError
            If the sides of the image do not fit.
        """
        size = image.shape[2:]
        if self.config.padding == "same" and any(n % DEEPEST for n in size):
            raise ImageError(
                f"An FCN needs images whose sides are multiples of {DEEPEST} px, but this one has "
                f"{size[0]} × {size[1]} px. Pad the image."
            )
        pooled, features = [], image
        for convolutions, pool in self.encoder.stages():
            features = pool(convolutions(features))  # (b, width, y / 2^i, x / 2^i)
            pooled.append(features)
        scores: Tensor = self.score(self.fc7(self.fc6(features)))  # (b, class, y / 32, x / 32)
        for at, up, score in zip(self.pooled, self.up, self.pooled_scores, strict=True):
            scores = up(scores)  # (b, class, y / 2^at, x / 2^at)
            scores = scores + self._cut(score(pooled[at]), scores.shape[2:], OFFSETS[at])
        return self._cut(self.last(scores), size, OFFSETS_OF_RESULT[self.config.stride])

    def _cut(self, x: Tensor, size: Sequence[int], offset: int) -> Tensor:
        """As large as `size` `(y, x)`, if there were 100 px around the image."""
        if self.config.padding == "same":
            return x
        return x[..., offset : offset + size[0], offset : offset + size[1]]


class Enlargement(nn.Module):
    """Linear interpolation as a transposed convolution that is not learned.

    `(b, n, y, x)` to `(b, n, factor y, factor x)`, or `factor` px more if not `is_padded`. In the
    paper this is the last step: the others are learned, and begin as linear interpolation.
    """

    weight: Tensor

    def __init__(self, n: int, factor: int, *, is_padded: bool) -> None:
        super().__init__()
        self.factor, self.padding = factor, factor // 2 if is_padded else 0
        self.register_buffer("weight", bilinear(factor).repeat(n, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The same channels at `factor` times the resolution."""
        return F.conv_transpose2d(
            x, self.weight, stride=self.factor, padding=self.padding, groups=len(self.weight)
        )


def bilinear(factor: int) -> Tensor:
    """Weights `(2 factor, 2 factor)` of a transposed convolution that interpolates linearly."""
    line = 1 - ((torch.arange(2 * factor) + 0.5) / factor - 1).abs()
    return line[:, None] * line


KIND = Kind(name="fcn", title="Fully convolutional network", config=FCNConfig, network=FCN)


def _configured(wanted: Wanted, *, stride: Literal[8, 16, 32], norm: Norm = "none") -> FCNConfig:
    return FCNConfig(
        in_channels=wanted.in_channels,
        out_channels=wanted.out_channels,
        stride=stride,
        width=64 if wanted.width is None else wanted.width,
        norm=norm,
    )


PAPER = (
    "Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, CVPR 2015"
)
RECIPE = {
    "optimizer": "adam", "learning_rate": 1e-4, "schedule": "constant", "loss": "cross-entropy",
    "outputs": "softmax", "normalization": "zscore",
}  # fmt: skip
"""Not the paper's, which fine-tunes VGG-16 as trained on ImageNet: SGD with momentum 0.9, a
learning rate of 1e-4 and a weight decay of 5e-4, on 20 whole pictures a step. From scratch so small
steps lead nowhere (all was background after 200 of them); with Adam the same rate does.
"""


def _preset(stride: Literal[8, 16, 32], summary: str) -> Preset:
    return Preset(
        name=f"fcn-{stride}s",
        title=f"FCN-{stride}s",
        paper=PAPER,
        summary=f"{summary} Best begun with the weights of VGG-16 from ImageNet; from scratch "
        f"fcn-8s-bn learns faster.",
        kind=KIND,
        configure=partial(_configured, stride=stride),
        recipe=RECIPE,
    )


PRESETS = (
    _preset(32, "VGG-16 as convolutions; its scores at 1/32 of the resolution are enlarged."),
    _preset(16, "FCN-32s with the scores of the fourth pooled layer added."),
    _preset(8, "FCN-16s with the scores of the third pooled layer added, for finer borders."),
    Preset(
        name="fcn-8s-bn",
        title="FCN-8s with batch norm",
        paper=f"{PAPER}, with batch normalisation (Ioffe, Szegedy 2015)",
        summary="FCN-8s with a batch norm after each convolution, to be trained from scratch.",
        kind=KIND,
        configure=partial(_configured, stride=8, norm="batch"),
    ),
)
