"""The U-Net of milesial/Pytorch-UNet, in all four generations of its names.

Ronneberger's U-Net with padded convolutions and batch normalisation. What the generations differ
in can be read off names and shapes: biases of the convolutions, the widths on the way up, and
how the image is enlarged. Copies for volumes exist and have the same names.

Until November 2018 it cut off a row or column of images whose edges were not multiples of 16,
where it has padded since; here it always pads.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding, classes_of
from napari_unet.core.errors import ModelFileError
from napari_unet.core.normalization import Normalization

__all__ = ["FAMILY", "MilesialConfig", "MilesialUNet"]

Widths = tuple[int, int]
"""Channels after the first and after the second convolution of two."""

_INNER = r"[0-5]\.\w+"
_NAMES = {
    "double_conv": re.compile(
        rf"(inc\.double_conv|down\d+\.maxpool_conv\.1\.double_conv|up\d+\.conv\.double_conv)\.{_INNER}"
        r"|(up\d+\.up|outc\.conv)\.(weight|bias)"
    ),
    "conv": re.compile(
        rf"(inc\.conv\.conv|down\d+\.mpconv\.1\.conv|up\d+\.conv\.conv)\.{_INNER}"
        r"|(up\d+\.up|outc\.conv)\.(weight|bias)"
    ),
}
"""All names there are, since October 2019 and before, by what two convolutions are called."""

HALVED = (
    "Pytorch-UNet trains on images of half their size unless told otherwise: if this network finds "
    "little, try images of half the size."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MilesialConfig:
    """What the network is.

    Attributes
    ----------
    in_channels, out_channels : channels of the input and of the output.
    down : channels of each level after its first and its second convolution, from full
        resolution down.
    up : the same for each level on the way up.
    enlarged : channels after each learned up-convolution; none, where images are enlarged
        by linear interpolation.
    bias : whether the 3x3 convolutions have biases.
    block : what the files call two convolutions.
    """

    in_channels: int
    out_channels: int
    down: tuple[Widths, ...]
    up: tuple[Widths, ...]
    enlarged: tuple[int, ...] = ()
    bias: bool = False
    block: Literal["double_conv", "conv"] = "double_conv"
    dims: Literal[2, 3] = 2


def _double(config: MilesialConfig, n_in: int, widths: Widths) -> nn.Module:
    """(convolution 3x3, batch norm, ReLU) twice; `(b, n_in, y, x)` to `(b, width, y, x)`."""
    is_2d = config.dims == 2
    convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if is_2d else (nn.Conv3d, nn.BatchNorm3d)
    layers: list[nn.Module] = []
    for n_from, n_to in ((n_in, widths[0]), widths):
        layers += [convolution(n_from, n_to, 3, padding=1, bias=config.bias), norm(n_to), nn.ReLU()]
    return _inside(config.block, nn.Sequential(*layers))


def _inside(name: str, child: nn.Module) -> nn.Module:
    """A module that does what its only child of this name does."""
    return nn.Sequential(OrderedDict({name: child}))


class _Up(nn.Module):
    """Enlarge, join with what came across, convolve twice."""

    def __init__(self, config: MilesialConfig, level: int, n_below: int, n_skip: int) -> None:
        super().__init__()
        n_enlarged = config.enlarged[level] if config.enlarged else n_below
        if config.enlarged:
            kind = nn.ConvTranspose2d if config.dims == 2 else nn.ConvTranspose3d
            self.up: nn.Module = kind(n_below, n_enlarged, 2, stride=2)
        else:
            mode = "bilinear" if config.dims == 2 else "trilinear"
            self.up = nn.Upsample(scale_factor=2, mode=mode, align_corners=True)
        self.conv = _double(config, n_skip + n_enlarged, config.up[level])

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """`(b, n_below, y / 2, x / 2)` and `(b, n_skip, y, x)` to `(b, width, y, x)`."""
        enlarged = self.up(below)
        missing = [skip.shape[axis] - enlarged.shape[axis] for axis in range(skip.ndim - 1, 1, -1)]
        enlarged = F.pad(enlarged, [part for n in missing for part in (n // 2, n - n // 2)])
        joined: Tensor = self.conv(torch.cat([skip, enlarged], dim=1))
        return joined


class MilesialUNet(nn.Module):
    """Image `(b, c, y, x)`, or `(b, c, z, y, x)`, of any size to logits `(b, output, y, x)`."""

    def __init__(self, config: MilesialConfig) -> None:
        super().__init__()
        is_old, self.n_levels = config.block == "conv", len(config.up)
        first = _double(config, config.in_channels, config.down[0])
        self.inc = _inside("conv", first) if is_old else first
        pooling = nn.MaxPool2d if config.dims == 2 else nn.MaxPool3d
        for i in range(1, self.n_levels + 1):
            convolutions = _double(config, config.down[i - 1][1], config.down[i])
            pooled = nn.Sequential(pooling(2), convolutions)
            self.add_module(f"down{i}", _inside("mpconv" if is_old else "maxpool_conv", pooled))
        n_below = config.down[-1][1]
        for i in range(self.n_levels):
            self.add_module(f"up{i + 1}", _Up(config, i, n_below, config.down[-2 - i][1]))
            n_below = config.up[i][1]
        last = nn.Conv2d if config.dims == 2 else nn.Conv3d
        self.outc = _inside("conv", last(n_below, config.out_channels, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image, of its size."""
        skips = [self.inc(image)]
        for i in range(1, self.n_levels + 1):
            skips.append(self.get_submodule(f"down{i}")(skips[-1]))
        features = skips.pop()
        for i in range(1, self.n_levels + 1):
            features = self.get_submodule(f"up{i}")(features, skips.pop())
        logits: Tensor = self.outc(features)
        return logits


def _block_of(evidence: Evidence) -> Literal["double_conv", "conv"] | None:
    """What the file calls two convolutions, if it is of this family."""
    if not evidence.has("outc.conv.weight"):
        return None
    if evidence.has("inc.double_conv.0.weight", "inc.double_conv.1.running_mean"):
        return "double_conv"
    if evidence.has("inc.conv.conv.0.weight", "inc.conv.conv.1.running_mean"):
        return "conv"
    return None


def _recognise(evidence: Evidence) -> bool:
    """By its names; parts of these names with other layers in them are another network."""
    block = _block_of(evidence)
    if block is None or not any(evidence.matches(r"down\d+\..*")):
        return False
    ours = evidence.matches(r"(inc|down\d+|up\d+|outc)\..*")
    return all(_NAMES[block].fullmatch(found[0]) for found in ours)


def _config_of(evidence: Evidence) -> MilesialConfig:
    """Read off names and shapes."""
    block = _block_of(evidence) or "double_conv"
    n_down, n_up = evidence.count(r"down(\d+)\..*"), evidence.count(r"up(\d+)\..*")
    if n_down != n_up:
        raise ModelFileError(
            f"{evidence.name} looks like a U-Net of milesial/Pytorch-UNet, but it has {n_down} "
            f"levels on the way down and {n_up} on the way up, which must be as many. It seems "
            "to be only a part of a network; choose the file with all of its weights."
        )

    def widths(path: str) -> Widths:
        first, second = (evidence.n_out(f"{path}.{block}.{i}.weight") for i in (0, 3))
        return first, second

    inc = "inc" if block == "double_conv" else "inc.conv"
    pooled = "maxpool_conv" if block == "double_conv" else "mpconv"
    levels = range(1, n_up + 1)
    is_learned = evidence.has("up1.up.weight")
    return MilesialConfig(
        in_channels=evidence.n_in(f"{inc}.{block}.0.weight"),
        out_channels=evidence.n_out("outc.conv.weight"),
        down=(widths(inc), *(widths(f"down{i}.{pooled}.1") for i in levels)),
        up=tuple(widths(f"up{i}.conv") for i in levels),
        # The weights of an up-convolution are `(in, out, y, x)`.
        enlarged=tuple(evidence.n_in(f"up{i}.up.weight") for i in levels) if is_learned else (),
        bias=evidence.has(f"{inc}.{block}.0.bias"),
        block=block,
        dims=3 if len(evidence.shape("outc.conv.weight")) == 5 else 2,
    )


def _named_by(mask_values: object, n_outputs: int) -> dict[str, Any]:
    """Names of classes after the values that they had in the masks, where a file tells them."""
    if n_outputs < 3 or not isinstance(mask_values, list | tuple) or len(mask_values) != n_outputs:
        return {}
    if not all(map(_is_grey_or_colour, mask_values)):
        return {}
    names = ("background", *(f"mask value {value}" for value in mask_values[1:]))
    return {"class_names": names, "outputs": names} if len(set(names)) == n_outputs else {}


def _is_grey_or_colour(value: object) -> bool:
    parts = value if isinstance(value, list | tuple) else [value]
    return 0 < len(parts) <= 4 and all(type(part) in (int, float) for part in parts)


def _understand(evidence: Evidence) -> Understanding:
    config = _config_of(evidence)
    named = _named_by(evidence.config.get("mask_values"), config.out_channels)
    about: dict[str, Any] = {
        **classes_of(config.out_channels),
        **named,
        "normalization": Normalization(kind="range", clip=None),
    }
    assumed = ("normalization",) if named else ("normalization", "class_names")
    # The old one was trained on one output only, and ended in a sigmoid however many there were.
    unsure = ("activation",) if config.block == "conv" and config.out_channels > 1 else ()
    return Understanding(
        config=config,
        about=about,
        assumed=(*assumed, *unsure),
        notes=(HALVED,),
        ignored=("mask_values",),
    )


FAMILY = Family(
    name="milesial",
    title="Pytorch-UNet (milesial)",
    config=MilesialConfig,
    network=MilesialUNet,
    recognise=_recognise,
    understand=_understand,
)
