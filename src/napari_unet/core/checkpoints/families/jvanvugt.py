"""The U-Net of jvanvugt/pytorch-unet, by default just as in the paper: without any padding.

The batch normalisation, if there is one, follows the activation. Neither the padding nor the
kind of pooling (an average until March 2019) can be seen from the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding, classes_of
from napari_unet.core.normalization import Normalization

__all__ = ["FAMILY", "JvanvugtConfig", "JvanvugtUNet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JvanvugtConfig:
    """What the network is.

    Attributes
    ----------
    in_channels, out_channels : channels of the input and of the output.
    widths : channels of each level, from full resolution down.
    norm : whether there is batch normalisation.
    transposed : whether images are enlarged by learned up-convolutions, else bilinearly.
    padding : "valid": the output is smaller than the image; "same": images are padded with 0.
    pooling : how images are made smaller.
    align_corners : where bilinear interpolation finds its pixels: torch's default before 0.4
        (True) and since (False).
    """

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    norm: bool = False
    transposed: bool = True
    padding: Literal["valid", "same"] = "valid"
    pooling: Literal["max", "average"] = "max"
    align_corners: bool = False
    dims: Literal[2] = 2


class _Block(nn.Module):
    """(convolution 3x3, ReLU, batch norm) twice."""

    def __init__(self, config: JvanvugtConfig, n_in: int, n_out: int) -> None:
        super().__init__()
        padding = 1 if config.padding == "same" else 0
        layers: list[nn.Module] = []
        for n_from in (n_in, n_out):
            layers += [nn.Conv2d(n_from, n_out, 3, padding=padding), nn.ReLU()]
            layers += [nn.BatchNorm2d(n_out)] if config.norm else []
        self.block = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """`(b, n_in, y, x)` to `(b, n_out, y, x)`, or 4 px less on each axis if not padded."""
        convolved: Tensor = self.block(features)
        return convolved


def _centre(skip: Tensor, size: torch.Size) -> Tensor:
    """The middle of `(b, c, y, x)`, of a size `(y, x)`."""
    y, x = ((skip.shape[2 + axis] - size[axis]) // 2 for axis in (0, 1))
    return skip[:, :, y : y + size[0], x : x + size[1]]


class _Up(nn.Module):
    """Enlarge, join with the middle of what came across, convolve twice."""

    def __init__(self, config: JvanvugtConfig, n_below: int, width: int) -> None:
        super().__init__()
        if config.transposed:
            self.up: nn.Module = nn.ConvTranspose2d(n_below, width, 2, stride=2)
        else:
            self.up = nn.Sequential(
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=config.align_corners),
                nn.Conv2d(n_below, width, 1),
            )
        self.conv_block = _Block(config, 2 * width, width)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """`(b, n_below, y / 2, x / 2)` and `(b, width, >= y, >= x)` to `(b, width, y, x)`."""
        enlarged = self.up(below)
        joined = torch.cat([enlarged, _centre(skip, enlarged.shape[2:])], dim=1)
        convolved: Tensor = self.conv_block(joined)
        return convolved


class JvanvugtUNet(nn.Module):
    """Image `(b, c, y, x)` to logits `(b, output, y, x)`, or of a smaller size if not padded."""

    def __init__(self, config: JvanvugtConfig) -> None:
        super().__init__()
        widths = config.widths
        self.down_path = nn.ModuleList(
            _Block(config, n_in, n_out) for n_in, n_out in pairwise((config.in_channels, *widths))
        )
        self.up_path = nn.ModuleList(
            _Up(config, n_below, width) for n_below, width in pairwise(widths[::-1])
        )
        self.last = nn.Conv2d(widths[0], config.out_channels, 1)
        self.pool = nn.MaxPool2d(2) if config.pooling == "max" else nn.AvgPool2d(2)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image."""
        skips = [self.down_path[0](image)]
        for block in self.down_path[1:]:
            skips.append(block(self.pool(skips[-1])))
        features = skips.pop()
        for up in self.up_path:
            features = up(features, skips.pop())
        logits: Tensor = self.last(features)
        return logits


def _recognise(evidence: Evidence) -> bool:
    return evidence.has(
        "down_path.0.block.0.weight", "up_path.0.conv_block.block.0.weight", "last.weight"
    )


def _padding_of(evidence: Evidence) -> Literal["valid", "same"] | None:
    """What the stored layers, or the arguments beside them, say of padding."""
    arguments = evidence.config.get("model")
    said = arguments.get("padding") if isinstance(arguments, Mapping) else None
    if said is None:
        said = evidence.setting("down_path.0.block.0", "padding")
    said = said[0] if isinstance(said, tuple | list) and said else said
    return None if said is None else "same" if said in (1, True, "same") else "valid"


def _understand(evidence: Evidence) -> Understanding:
    padding = _padding_of(evidence)
    transposed = evidence.has("up_path.0.up.weight")
    upsample = evidence.layers.get("up_path.0.up.0")
    aligned = upsample.values.get("align_corners") if upsample else None
    # Stored as None it is today's default; before torch 0.4 it was not stored.
    is_told = upsample is not None and "align_corners" in upsample.values
    n_levels = evidence.count(r"down_path\.(\d+)\..*")
    config = JvanvugtConfig(
        in_channels=evidence.n_in("down_path.0.block.0.weight"),
        out_channels=evidence.n_out("last.weight"),
        widths=tuple(evidence.n_out(f"down_path.{i}.block.0.weight") for i in range(n_levels)),
        norm=evidence.has("down_path.0.block.2.running_mean"),
        transposed=transposed,
        # Unpadded, six levels would need images of 380 px: nobody trains so.
        padding=padding or ("valid" if n_levels < 6 else "same"),
        align_corners=bool(aligned),
    )
    assumed = ["normalization", "class_names", "pooling"]
    assumed += ["padding"] if padding is None else []
    assumed += ["align_corners"] if not transposed and not is_told else []
    about: dict[str, Any] = classes_of(config.out_channels)
    about["normalization"] = Normalization(kind="range", clip=None)
    return Understanding(config=config, about=about, assumed=tuple(assumed))


FAMILY = Family(
    name="jvanvugt",
    title="pytorch-unet (jvanvugt)",
    config=JvanvugtConfig,
    network=JvanvugtUNet,
    recognise=_recognise,
    understand=_understand,
    choices={
        "padding": ("valid", "same"),
        "pooling": ("max", "average"),
        "align_corners": (False, True),
    },
)
