"""The U-Net of the examples in the bioimage.io specification (`UNet2d`).

Its two convolutions per level follow each other directly; one ReLU comes after both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding, classes_of

__all__ = ["FAMILY", "ExampleConfig", "ExampleUNet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleConfig:
    """What the network is.

    Attributes
    ----------
    in_channels, out_channels : channels of the input and of the output.
    down : channels of each level on the way down, the lowest last.
    up : channels of each level on the way up.
    """

    in_channels: int
    out_channels: int
    down: tuple[int, ...]
    up: tuple[int, ...]
    dims: Literal[2] = 2


def _block(n_in: int, n_out: int) -> nn.Sequential:
    """Convolution 3x3 twice, then ReLU; `(b, n_in, y, x)` to `(b, n_out, y, x)`."""
    first, second = (nn.Conv2d(n, n_out, 3, padding=1) for n in (n_in, n_out))
    return nn.Sequential(first, second, nn.ReLU())


class ExampleUNet(nn.Module):
    """Image `(b, c, y, x)` to logits `(b, output, y, x)`; sizes are multiples of 2 per level."""

    def __init__(self, config: ExampleConfig) -> None:
        super().__init__()
        self.config = config
        *above, bottom = config.down
        self.pool = nn.MaxPool2d(2)
        sizes = zip([config.in_channels, *above], above, strict=False)
        self.encoders = nn.ModuleList(_block(n_in, n_out) for n_in, n_out in sizes)
        self.base = _block(above[-1], bottom)
        self.upsamplers, self.decoders = nn.ModuleList(), nn.ModuleList()
        for n_below, n_skip, n_out in zip(
            (bottom, *config.up), above[::-1], config.up, strict=False
        ):
            larger = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
            self.upsamplers.append(nn.Sequential(larger, nn.Conv2d(n_below, n_out, 1)))
            self.decoders.append(_block(n_skip + n_out, n_out))
        self.output = nn.Conv2d(config.up[-1], config.out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image, of its size."""
        skips = []
        features = image
        for encoder in self.encoders:
            features = encoder(features)
            skips.append(features)
            features = self.pool(features)
        features = self.base(features)
        for enlarge, decoder in zip(self.upsamplers, self.decoders, strict=True):
            features = decoder(torch.cat([skips.pop(), enlarge(features)], dim=1))
        logits: Tensor = self.output(features)
        return logits


def _recognise(evidence: Evidence) -> bool:
    return evidence.has(
        "encoders.0.0.weight", "encoders.0.1.weight", "base.0.weight", "base.1.weight",
        "decoders.0.1.weight", "upsamplers.0.1.weight", "output.weight",
    ) and not any(evidence.matches(r"(en|de)coders\.\d+\.[2-9].*"))  # fmt: skip


def _understand(evidence: Evidence) -> Understanding:
    config = ExampleConfig(
        in_channels=evidence.n_in("encoders.0.0.weight"),
        out_channels=evidence.n_out("output.weight"),
        down=(*_widths(evidence, "encoders"), evidence.n_out("base.1.weight")),
        up=tuple(_widths(evidence, "decoders")),
    )
    return Understanding(
        config=config,
        about=classes_of(config.out_channels, "sigmoid"),
        assumed=("normalization", "class_names", "activation", "pixel_size"),
    )


def _widths(evidence: Evidence, part: str) -> Sequence[int]:
    """Channels of each of the encoders or decoders."""
    n = evidence.count(rf"{part}\.(\d+)\.1\.weight")
    return [evidence.n_out(f"{part}.{at}.1.weight") for at in range(n)]


FAMILY = Family(
    name="bioimageio_example",
    title="U-Net of the bioimage.io examples (UNet2d)",
    config=ExampleConfig,
    network=ExampleUNet,
    recognise=_recognise,
    understand=_understand,
)
