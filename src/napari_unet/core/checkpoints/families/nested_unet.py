"""UNet++ and the U-Net beside it, as 4uiiurz1/pytorch-nested-unet names their layers.

UNet++ (Zhou et al., 2018) has a node for every level and every step to the right; a node sees all
nodes to its left and the enlarged one below. With deep supervision every node of the highest level
has an output, of which the original takes the last one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding, classes_of
from napari_unet.core.checkpoints.normalizations import IMAGENET
from napari_unet.core.normalization import Normalization

__all__ = ["FAMILY", "NestedConfig", "NestedUNet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedConfig:
    """What the network is.

    Attributes
    ----------
    in_channels, out_channels : channels of the input and of the output.
    widths : channels of each level, from full resolution down.
    nested : whether it is UNet++, else a U-Net.
    supervised : whether the last of several outputs is used, by its name `final4`.
    """

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    nested: bool = True
    supervised: bool = False
    dims: Literal[2] = 2


class _Block(nn.Module):
    """(convolution 3x3, batch norm, ReLU) twice."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(n_out)

    def forward(self, features: Tensor) -> Tensor:
        """`(b, n_in, y, x)` to `(b, n_out, y, x)`."""
        features = torch.relu(self.bn1(self.conv1(features)))
        return torch.relu(self.bn2(self.conv2(features)))


class NestedUNet(nn.Module):
    """Image `(b, c, y, x)` to logits `(b, output, y, x)`; edges are multiples of 2^poolings."""

    def __init__(self, config: NestedConfig) -> None:
        super().__init__()
        widths, depth = config.widths, len(config.widths) - 1
        self.depth, self.nested = depth, config.nested
        self.last = f"final{depth}" if config.supervised else "final"
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        for level, n_in in zip(range(depth + 1), (config.in_channels, *widths), strict=False):
            self.add_module(f"conv{level}_0", _Block(n_in, widths[level]))
        for level, step in self._nodes():
            n_left = step if config.nested else 1
            n_in = n_left * widths[level] + widths[level + 1]
            self.add_module(f"conv{level}_{step}", _Block(n_in, widths[level]))
        self.add_module(self.last, nn.Conv2d(widths[0], config.out_channels, 1))

    def _nodes(self) -> list[tuple[int, int]]:
        """Level and step of all nodes on the way up, each after those that it needs."""
        if not self.nested:
            return [(level, self.depth - level) for level in range(self.depth - 1, -1, -1)]
        diagonals = range(1, self.depth + 1)
        return [(total - step, step) for total in diagonals for step in range(1, total + 1)]

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image, of its size."""
        features = self.get_submodule("conv0_0")(image)
        nodes = [[features]]
        for level in range(1, self.depth + 1):
            features = self.get_submodule(f"conv{level}_0")(self.pool(features))
            nodes.append([features])
        for level, step in self._nodes():
            # What a node sees below it came just before, be it nested or not.
            joined = torch.cat([*nodes[level], self.up(nodes[level + 1][-1])], dim=1)
            nodes[level].append(self.get_submodule(f"conv{level}_{step}")(joined))
        logits: Tensor = self.get_submodule(self.last)(nodes[0][-1])
        return logits


def _last_of(evidence: Evidence, depth: int) -> str:
    """The name of the output that is used."""
    return "final" if evidence.has("final.weight") else f"final{depth}"


def _recognise(evidence: Evidence) -> bool:
    depth = evidence.count(r"conv(\d+)_0\.conv1\.weight") - 1
    return (
        depth >= 1
        and evidence.has("conv0_0.conv1.weight", "conv0_0.bn1.running_mean", "conv0_0.conv2.weight")
        and evidence.has(f"conv0_{depth}.conv1.weight", f"{_last_of(evidence, depth)}.weight")
    )


def _normalization(in_channels: int) -> Normalization:
    """Its own normalisation, which divides by 255 a second time."""
    if in_channels != len(IMAGENET.offset):
        return Normalization(kind="range", clip=None)
    return replace(IMAGENET, scale=tuple(255 * deviation for deviation in IMAGENET.scale))


def _understand(evidence: Evidence) -> Understanding:
    depth = evidence.count(r"conv(\d+)_0\..*") - 1
    last = _last_of(evidence, depth)
    config = NestedConfig(
        in_channels=evidence.n_in("conv0_0.conv1.weight"),
        out_channels=evidence.n_out(f"{last}.weight"),
        widths=tuple(evidence.n_out(f"conv{level}_0.conv1.weight") for level in range(depth + 1)),
        nested=depth > 1 and evidence.has("conv0_1.conv1.weight"),
        supervised=last != "final",
    )
    about: dict[str, Any] = {
        **classes_of(config.out_channels, "sigmoid"),
        "normalization": _normalization(config.in_channels),
    }
    assumed = ["normalization", "class_names"]
    if config.in_channels == 3:
        about["channels"] = "blue, green, red"
        assumed += ["channels"]
    ignored = (rf"final(?!{depth}\.)\d+\.(weight|bias)",) if config.supervised else ()
    return Understanding(config=config, about=about, assumed=tuple(assumed), ignored=ignored)


FAMILY = Family(
    name="nested_unet",
    title="pytorch-nested-unet (4uiiurz1): UNet++ and U-Net",
    config=NestedConfig,
    network=NestedUNet,
    recognise=_recognise,
    understand=_understand,
)
