"""The two networks of usuyama/pytorch-unet: a plain U-Net, and one on top of a ResNet.

The second one keeps the layers of torchvision's ResNet twice in its files: under `base_model`,
and under `layer0` to `layer4`. In 2018 it was made for a ResNet-50, with other widths; all are
read off the shapes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding, classes_of
from napari_unet.core.checkpoints.normalizations import IMAGENET
from napari_unet.core.normalization import Normalization

__all__ = ["FAMILIES", "ResNetUNet", "ResNetUNetConfig", "UsuyamaConfig", "UsuyamaUNet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsuyamaConfig:
    """What the plain U-Net is.

    Attributes
    ----------
    in_channels, out_channels : channels of the input and of the output.
    widths : channels of each level, from full resolution down.
    """

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    dims: Literal[2] = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNetUNetConfig:
    """What the U-Net on top of a ResNet is.

    Attributes
    ----------
    in_channels, out_channels : channels of the input and of the output.
    trunk : channels after the first convolution of the ResNet, and of its four stages.
    narrow : channels in the middle of a block, of each of the four stages.
    n_blocks : residual blocks of each stage.
    block : residual blocks of two convolutions, or of three.
    across : channels of what goes across, from the first convolution and the stages.
    up : channels of each level on the way up, from half resolution down.
    original : channels of the three convolutions at full resolution.
    """

    in_channels: int
    out_channels: int
    trunk: tuple[int, ...]
    narrow: tuple[int, ...]
    n_blocks: tuple[int, ...]
    across: tuple[int, ...]
    up: tuple[int, ...]
    original: tuple[int, ...]
    block: Literal["basic", "bottleneck"] = "basic"
    dims: Literal[2] = 2


def _double(n_in: int, n_out: int) -> nn.Module:
    """(convolution 3x3, ReLU) twice; `(b, n_in, y, x)` to `(b, n_out, y, x)`."""
    first, second = (nn.Conv2d(n, n_out, 3, padding=1) for n in (n_in, n_out))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


def _enlarging() -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)


class UsuyamaUNet(nn.Module):
    """Image `(b, c, y, x)` to logits `(b, output, y, x)`; edges are multiples of 2^poolings."""

    def __init__(self, config: UsuyamaConfig) -> None:
        super().__init__()
        widths, self.n_levels = config.widths, len(config.widths)
        self.maxpool, self.upsample = nn.MaxPool2d(2), _enlarging()
        n_in = config.in_channels
        for i, width in enumerate(widths, start=1):
            self.add_module(f"dconv_down{i}", _double(n_in, width))
            n_in = width
        for i in range(self.n_levels - 1, 0, -1):
            self.add_module(f"dconv_up{i}", _double(widths[i] + widths[i - 1], widths[i - 1]))
        self.conv_last = nn.Conv2d(widths[0], config.out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image, of its size."""
        skips = [self.get_submodule("dconv_down1")(image)]
        for i in range(2, self.n_levels + 1):
            skips.append(self.get_submodule(f"dconv_down{i}")(self.maxpool(skips[-1])))
        features = skips.pop()
        for i in range(self.n_levels - 1, 0, -1):
            joined = torch.cat([self.upsample(features), skips.pop()], dim=1)
            features = self.get_submodule(f"dconv_up{i}")(joined)
        logits: Tensor = self.conv_last(features)
        return logits


class _Residual(nn.Module):
    """A residual block as torchvision names its layers; `(b, n_in, y, x)` to `(b, n_out, ...)`."""

    def __init__(self, kind: str, n_in: int, n_narrow: int, n_out: int, stride: int) -> None:
        super().__init__()
        if kind == "basic":
            steps = [(n_in, n_narrow, 3, stride), (n_narrow, n_out, 3, 1)]
        else:
            steps = [(n_in, n_narrow, 1, 1), (n_narrow, n_narrow, 3, stride)]
            steps += [(n_narrow, n_out, 1, 1)]
        self.n_steps = len(steps)
        for i, (n_from, n_to, kernel, step) in enumerate(steps, start=1):
            convolution = nn.Conv2d(n_from, n_to, kernel, step, padding=kernel // 2, bias=False)
            self.add_module(f"conv{i}", convolution)
            self.add_module(f"bn{i}", nn.BatchNorm2d(n_to))
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            shrinking = nn.Conv2d(n_in, n_out, 1, stride, bias=False)
            self.downsample = nn.Sequential(shrinking, nn.BatchNorm2d(n_out))

    def forward(self, features: Tensor) -> Tensor:
        """Residual plus input, cut at 0."""
        result = features
        for i in range(1, self.n_steps + 1):
            convolved = self.get_submodule(f"conv{i}")(result)
            result = self.get_submodule(f"bn{i}")(convolved)
            result = torch.relu(result) if i < self.n_steps else result
        return torch.relu(result + self.downsample(features))


def _stage(config: ResNetUNetConfig, i: int) -> nn.Module:
    """Stage `i` of the ResNet, counted from 0; all but the first one halve the size."""
    n_in, n_out = config.trunk[i : i + 2]
    first = _Residual(config.block, n_in, config.narrow[i], n_out, 1 if i == 0 else 2)
    others = range(1, config.n_blocks[i])
    return nn.Sequential(
        first, *(_Residual(config.block, n_out, config.narrow[i], n_out, 1) for _ in others)
    )


def _convolved(n_in: int, n_out: int, kernel: int) -> nn.Module:
    """Convolution and ReLU."""
    return nn.Sequential(nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2), nn.ReLU())


class ResNetUNet(nn.Module):
    """Image `(b, c, y, x)` to logits `(b, output, y, x)`; edges must be multiples of 32."""

    def __init__(self, config: ResNetUNetConfig) -> None:
        super().__init__()
        trunk, across, up, original = config.trunk, config.across, config.up, config.original
        first = nn.Conv2d(config.in_channels, trunk[0], 7, stride=2, padding=3, bias=False)
        self.layer0 = nn.Sequential(first, nn.BatchNorm2d(trunk[0]), nn.ReLU())
        self.layer1 = nn.Sequential(nn.MaxPool2d(3, stride=2, padding=1), _stage(config, 0))
        for i in (2, 3, 4):
            self.add_module(f"layer{i}", _stage(config, i - 1))
        for i in range(5):
            self.add_module(f"layer{i}_1x1", _convolved(trunk[i], across[i], 1))
        self.upsample = _enlarging()
        n_below = across[4]
        for i in (3, 2, 1, 0):
            self.add_module(f"conv_up{i}", _convolved(across[i] + n_below, up[i], 3))
            n_below = up[i]
        self.conv_original_size0 = _convolved(config.in_channels, original[0], 3)
        self.conv_original_size1 = _convolved(original[0], original[1], 3)
        self.conv_original_size2 = _convolved(original[1] + n_below, original[2], 3)
        self.conv_last = nn.Conv2d(original[2], config.out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image, of its size."""
        sizes = [image]
        for i in range(5):
            sizes.append(self.get_submodule(f"layer{i}")(sizes[-1]))
        features = self.get_submodule("layer4_1x1")(sizes[-1])
        for i in (3, 2, 1, 0):
            skip = self.get_submodule(f"layer{i}_1x1")(sizes[i + 1])
            joined = torch.cat([self.upsample(features), skip], dim=1)
            features = self.get_submodule(f"conv_up{i}")(joined)
        skip = self.conv_original_size1(self.conv_original_size0(image))
        joined = torch.cat([self.upsample(features), skip], dim=1)
        logits: Tensor = self.conv_last(self.conv_original_size2(joined))
        return logits


def _is_plain(evidence: Evidence) -> bool:
    return evidence.has("dconv_down1.0.weight", "dconv_up1.0.weight", "conv_last.weight")


def _understand_plain(evidence: Evidence) -> Understanding:
    levels = range(1, evidence.count(r"dconv_down(\d+)\..*") + 1)
    config = UsuyamaConfig(
        in_channels=evidence.n_in("dconv_down1.0.weight"),
        out_channels=evidence.n_out("conv_last.weight"),
        widths=tuple(evidence.n_out(f"dconv_down{i}.0.weight") for i in levels),
    )
    about, assumed = _about(config.in_channels, config.out_channels)
    return Understanding(config=config, about=about, assumed=assumed)


def _about(in_channels: int, out_channels: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Attributes of the description, and which of them are assumed."""
    normalization = Normalization(kind="range", clip=None)
    if in_channels == len(IMAGENET.offset):
        normalization = IMAGENET
    about = {**classes_of(out_channels, "sigmoid"), "normalization": normalization}
    unsure = ("activation",) if out_channels > 1 else ()
    return about, ("normalization", "class_names", *unsure)


PLACES = {"layer0.0": "conv1", "layer0.1": "bn1", "layer1.1": "layer1"} | {
    f"layer{i}": f"layer{i}" for i in (2, 3, 4)
}
"""Where the layers of the ResNet are in the network, and where in `base_model`."""


def _is_resnet(evidence: Evidence) -> bool:
    return evidence.has("layer0_1x1.0.weight", "conv_up0.0.weight", "conv_last.weight") and any(
        evidence.has(name) for name in ("layer0.0.weight", "base_model.conv1.weight")
    )


def _places(evidence: Evidence) -> dict[str, str]:
    """Where the layers of the ResNet are in the network, and where in the file.

    NOTE: a file that has them twice does not always have them alike. The notebook of the
    original makes two ResNets, of which `base_model` is never used.
    """
    if evidence.has("layer0.0.weight"):
        return {place: place for place in PLACES}
    return {place: f"base_model.{name}" for place, name in PLACES.items()}


def _resnet_config(evidence: Evidence, places: dict[str, str]) -> ResNetUNetConfig:
    """Read off names and shapes."""
    stages = [places[place] for place in ("layer1.1", "layer2", "layer3", "layer4")]
    is_deep = evidence.has(f"{stages[0]}.0.conv3.weight")
    last = "conv3" if is_deep else "conv2"
    first = f"{places['layer0.0']}.weight"
    return ResNetUNetConfig(
        in_channels=evidence.n_in(first),
        out_channels=evidence.n_out("conv_last.weight"),
        trunk=(evidence.n_out(first), *(evidence.n_out(f"{at}.0.{last}.weight") for at in stages)),
        narrow=tuple(evidence.n_out(f"{at}.0.conv1.weight") for at in stages),
        n_blocks=tuple(evidence.count(rf"{re.escape(at)}\.(\d+)\..*") for at in stages),
        across=tuple(evidence.n_out(f"layer{i}_1x1.0.weight") for i in range(5)),
        up=tuple(evidence.n_out(f"conv_up{i}.0.weight") for i in range(4)),
        original=tuple(evidence.n_out(f"conv_original_size{i}.0.weight") for i in range(3)),
        block="bottleneck" if is_deep else "basic",
    )


def _understand_resnet(evidence: Evidence) -> Understanding:
    places = _places(evidence)
    config = _resnet_config(evidence, places)
    about, assumed = _about(config.in_channels, config.out_channels)
    names = {
        ours + found[0].removeprefix(theirs): (found[0],)
        for ours, theirs in places.items()
        if ours != theirs
        for found in evidence.matches(rf"{re.escape(theirs)}\..+")
    }
    # What is left of the ResNet is a copy, or what names the picture.
    return Understanding(
        config=config, about=about, assumed=assumed, names=names, ignored=(r"base_model\..*",)
    )


FAMILIES = (
    Family(
        name="usuyama",
        title="pytorch-unet (usuyama)",
        config=UsuyamaConfig,
        network=UsuyamaUNet,
        recognise=_is_plain,
        understand=_understand_plain,
    ),
    Family(
        name="usuyama_resnet",
        title="pytorch-unet (usuyama): ResNetUNet",
        config=ResNetUNetConfig,
        network=ResNetUNet,
        recognise=_is_resnet,
        understand=_understand_resnet,
    ),
)
