"""The U-Net of mateuszbuda/brain-segmentation-pytorch, known from PyTorch Hub.

Padded convolutions without biases, batch normalisation and learned up-convolutions. The original
ends in a sigmoid; here that is left to whoever uses the logits.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding, classes_of
from napari_unet.core.normalization import Normalization

__all__ = ["FAMILY", "BrainConfig", "BrainUNet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrainConfig:
    """What the network is.

    Attributes
    ----------
    in_channels, out_channels : channels of the input and of the output.
    widths : channels of each level, from full resolution down; the last one is the bottleneck.
    """

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    dims: Literal[2] = 2


def _block(name: str, n_in: int, n_out: int) -> nn.Module:
    """(convolution 3x3, batch norm, ReLU) twice; `(b, n_in, y, x)` to `(b, n_out, y, x)`."""
    layers: dict[str, nn.Module] = {}
    for i, n_from in ((1, n_in), (2, n_out)):
        layers[f"{name}conv{i}"] = nn.Conv2d(n_from, n_out, 3, padding=1, bias=False)
        layers[f"{name}norm{i}"] = nn.BatchNorm2d(n_out)
        layers[f"{name}relu{i}"] = nn.ReLU()
    return nn.Sequential(OrderedDict(layers))


class BrainUNet(nn.Module):
    """Image `(b, c, y, x)` to logits `(b, output, y, x)`; edges must be multiples of 2^levels."""

    def __init__(self, config: BrainConfig) -> None:
        super().__init__()
        widths, self.n_levels = config.widths, len(config.widths) - 1
        for i, (n_in, n_out) in enumerate(pairwise((config.in_channels, *widths[:-1])), start=1):
            self.add_module(f"encoder{i}", _block(f"enc{i}", n_in, n_out))
        self.pool = nn.MaxPool2d(2)
        self.bottleneck = _block("bottleneck", widths[-2], widths[-1])
        for i in range(self.n_levels, 0, -1):
            width = widths[i - 1]
            self.add_module(f"upconv{i}", nn.ConvTranspose2d(widths[i], width, 2, stride=2))
            self.add_module(f"decoder{i}", _block(f"dec{i}", 2 * width, width))
        self.conv = nn.Conv2d(widths[0], config.out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image, of its size."""
        skips, features = [], image
        for i in range(1, self.n_levels + 1):
            skips.append(self.get_submodule(f"encoder{i}")(features))
            features = self.pool(skips[-1])
        features = self.bottleneck(features)
        for i in range(self.n_levels, 0, -1):
            enlarged = self.get_submodule(f"upconv{i}")(features)
            joined = torch.cat([enlarged, skips.pop()], dim=1)
            features = self.get_submodule(f"decoder{i}")(joined)
        logits: Tensor = self.conv(features)
        return logits


def _recognise(evidence: Evidence) -> bool:
    return evidence.has(
        "encoder1.enc1conv1.weight",
        "bottleneck.bottleneckconv1.weight",
        "upconv1.weight",
        "decoder1.dec1conv1.weight",
        "conv.weight",
    )


def _understand(evidence: Evidence) -> Understanding:
    levels = range(1, evidence.count(r"encoder(\d+)\..*") + 1)
    config = BrainConfig(
        in_channels=evidence.n_in("encoder1.enc1conv1.weight"),
        out_channels=evidence.n_out("conv.weight"),
        widths=(
            *(evidence.n_out(f"encoder{i}.enc{i}conv1.weight") for i in levels),
            evidence.n_out("bottleneck.bottleneckconv1.weight"),
        ),
    )
    about: dict[str, Any] = {
        **classes_of(config.out_channels, "sigmoid"),
        "normalization": Normalization(kind="zscore", clip=None),
    }
    if config.in_channels == 3:
        about["channels"] = "MR before contrast, FLAIR, and after contrast"
    assumed = ("normalization", "class_names", *(("channels",) if "channels" in about else ()))
    # The original has one output; with several, copies may have dropped the sigmoid.
    unsure = ("activation",) if config.out_channels > 1 else ()
    return Understanding(config=config, about=about, assumed=(*assumed, *unsure))


FAMILY = Family(
    name="brain_segmentation",
    title="brain-segmentation-pytorch (mateuszbuda)",
    config=BrainConfig,
    network=BrainUNet,
    recognise=_recognise,
    understand=_understand,
)
