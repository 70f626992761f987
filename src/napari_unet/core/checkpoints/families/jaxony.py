"""The U-Net of jaxony/unet-pytorch: padded convolutions without any normalisation.

What comes across is joined to what comes from below, or added to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding, classes_of
from napari_unet.core.normalization import Normalization

__all__ = ["FAMILY", "JaxonyConfig", "JaxonyUNet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JaxonyConfig:
    """What the network is.

    Attributes
    ----------
    in_channels, out_channels : channels of the input and of the output.
    widths : channels of each level, from full resolution down.
    transposed : whether images are enlarged by learned up-convolutions, else bilinearly.
    merge : whether the two ways are joined, or added.
    align_corners : where bilinear interpolation finds its pixels: torch's default before 0.4
        (True) and since (False).
    """

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    transposed: bool = True
    merge: Literal["concat", "add"] = "concat"
    align_corners: bool = False
    dims: Literal[2] = 2


class _Down(nn.Module):
    """(convolution 3x3, ReLU) twice."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """`(b, n_in, y, x)` to `(b, n_out, y, x)`."""
        return F.relu(self.conv2(F.relu(self.conv1(features))))


class _Up(nn.Module):
    """Enlarge, join or add what came across, convolve twice."""

    def __init__(self, config: JaxonyConfig, n_below: int, width: int) -> None:
        super().__init__()
        self.joins = config.merge == "concat"
        if config.transposed:
            self.upconv: nn.Module = nn.ConvTranspose2d(n_below, width, 2, stride=2)
        else:
            self.upconv = nn.Sequential(
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=config.align_corners),
                nn.Conv2d(n_below, width, 1),
            )
        self.conv1 = nn.Conv2d(2 * width if self.joins else width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """`(b, n_below, y / 2, x / 2)` and `(b, width, y, x)` to `(b, width, y, x)`."""
        enlarged = self.upconv(below)
        merged = torch.cat([enlarged, skip], dim=1) if self.joins else enlarged + skip
        return F.relu(self.conv2(F.relu(self.conv1(merged))))


class JaxonyUNet(nn.Module):
    """Image `(b, c, y, x)` to logits `(b, output, y, x)`; edges are multiples of 2^poolings."""

    def __init__(self, config: JaxonyConfig) -> None:
        super().__init__()
        widths = config.widths
        self.down_convs = nn.ModuleList(
            _Down(n_in, n_out) for n_in, n_out in pairwise((config.in_channels, *widths))
        )
        self.up_convs = nn.ModuleList(
            _Up(config, n_below, width) for n_below, width in pairwise(widths[::-1])
        )
        self.conv_final = nn.Conv2d(widths[0], config.out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image, of its size."""
        skips = [self.down_convs[0](image)]
        for block in self.down_convs[1:]:
            skips.append(block(F.max_pool2d(skips[-1], 2)))
        features = skips.pop()
        for up in self.up_convs:
            features = up(features, skips.pop())
        logits: Tensor = self.conv_final(features)
        return logits


def _recognise(evidence: Evidence) -> bool:
    return evidence.has(
        "down_convs.0.conv1.weight", "up_convs.0.conv1.weight", "conv_final.weight"
    ) and any(evidence.matches(r"up_convs\.0\.upconv\.(1\.)?weight"))


def _understand(evidence: Evidence) -> Understanding:
    n_levels = evidence.count(r"down_convs\.(\d+)\..*")
    transposed = evidence.has("up_convs.0.upconv.weight")
    upsample = evidence.layers.get("up_convs.0.upconv.0")
    aligned = upsample.values.get("align_corners") if upsample else None
    # Stored as None it is today's default; before torch 0.4 it was not stored.
    is_told = upsample is not None and "align_corners" in upsample.values
    first = "up_convs.0.conv1.weight"
    config = JaxonyConfig(
        in_channels=evidence.n_in("down_convs.0.conv1.weight"),
        out_channels=evidence.n_out("conv_final.weight"),
        widths=tuple(evidence.n_out(f"down_convs.{i}.conv1.weight") for i in range(n_levels)),
        transposed=transposed,
        merge="add" if evidence.n_in(first) == evidence.n_out(first) else "concat",
        align_corners=bool(aligned),
    )
    about: dict[str, Any] = classes_of(config.out_channels)
    about["normalization"] = Normalization(kind="range", clip=None)
    unsure = () if transposed or is_told else ("align_corners",)
    return Understanding(
        config=config, about=about, assumed=("normalization", "class_names", *unsure)
    )


FAMILY = Family(
    name="jaxony",
    title="unet-pytorch (jaxony)",
    config=JaxonyConfig,
    network=JaxonyUNet,
    recognise=_recognise,
    understand=_understand,
    choices={"align_corners": (False, True)},
)
