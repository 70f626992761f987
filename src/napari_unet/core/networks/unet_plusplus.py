r"""UNet++: a U-Net whose skips are filled with nodes, trained at several depths at once.

After Zhou et al.: "UNet++: A Nested U-Net Architecture for Medical Image Segmentation", DLMIA 2018,
and "UNet++: Redesigning Skip Connections to Exploit Multiscale Features in Image Segmentation",
IEEE TMI 2020. Node X^{i,j} of level i (0 is full resolution) is two convolutions of all nodes of
its level before it, X^{i,0} ... X^{i,j-1}, and of the enlarged node X^{i+1,j-1} below it:

    X^{0,0} --- X^{0,1} --- X^{0,2} --- X^{0,3} --- X^{0,4}
         \     /     \     /     \     /     \     /
         X^{1,0} --- X^{1,1} --- X^{1,2} --- X^{1,3}
              \     /     \     /     \     /
              X^{2,0} --- X^{2,1} --- X^{2,2}
                   \     /     \     /
                   X^{3,0} --- X^{3,1}
                        \     /
                        X^{4,0}

With deep supervision each of X^{0,1} ... X^{0,4} has an output of its own, so that the nodes right
of X^{0,j} can be cut off afterwards: see `pruned`.

With the paper's widths, 32-64-128-256-512, and without batch normalisation this has 9.04 M weights,
as the paper says (9 041 601 with one channel in and one out); deep supervision adds 99 of them. The
authors' code has dropout of 50 % behind each convolution, of which the papers say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from napari_unet.core.errors import SettingsError
from napari_unet.core.networks.parts import (
    check_channels,
    check_choice,
    check_dims,
    check_widths,
    doubling,
    he_,
)
from napari_unet.core.networks.registry import Kind, Preset, Wanted

__all__ = ["PRESETS", "UNetPlusPlus", "UNetPlusPlusConfig", "pruned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetPlusPlusConfig:
    """What the network is: enough to build it again.

    Attributes
    ----------
    dims : 2 for images `(y, x)`, 3 for volumes `(z, y, x)`.
    in_channels, out_channels : channels of the input and of each output.
    widths : channels of the nodes of each level, from full resolution down to the bottom.
    norm : "batch" (Ioffe, Szegedy 2015) or "none", as in the paper.
    upsampling : "transposed" (learned 2x2 up-convolution) or "linear" (interpolation alone).
    deep_supervision : whether every node of the highest level but the first has an output.
    output : what `forward` gives: the "mean" of all outputs, which the paper calls its accurate
        mode, or the "last" one.
    prune : only nodes down to this level are built, and so many outputs; None for all.
    """

    dims: Literal[2, 3] = 2
    in_channels: int = 1
    out_channels: int = 2
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    norm: Literal["batch", "none"] = "none"
    upsampling: Literal["transposed", "linear"] = "transposed"
    deep_supervision: bool = True
    output: Literal["mean", "last"] = "mean"
    prune: int | None = None

    def __post_init__(self) -> None:
        check_dims(self.dims)
        check_channels(self)
        check_widths(self.widths, 2)
        check_choice("norm", self.norm, ("batch", "none"))
        check_choice("upsampling", self.upsampling, ("transposed", "linear"))
        check_choice("output", self.output, ("mean", "last"))
        if self.prune is not None and not 1 <= self.prune < len(self.widths):
            raise SettingsError(
                f"prune must be a level from 1 to {len(self.widths) - 1}, not {self.prune}."
            )

    @property
    def depth(self) -> int:
        """How often the image is halved on its way down."""
        return self.prune or len(self.widths) - 1

    @property
    def heads(self) -> tuple[int, ...]:
        """The j of all X^{0,j} that have an output, the last one last."""
        return tuple(range(1 if self.deep_supervision else self.depth, self.depth + 1))


def _layers(dims: int) -> tuple[type[nn.Module], type[nn.Module], type[nn.Module], type[nn.Module]]:
    if dims == 2:
        return nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.ConvTranspose2d
    return nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d, nn.ConvTranspose3d


def _double_conv(config: UNetPlusPlusConfig, n_in: int, n_out: int) -> nn.Sequential:
    """(convolution 3x3, batch norm, ReLU) twice; `(b, n_in, ...)` to `(b, n_out, ...)`."""
    conv, norm, _, _ = _layers(config.dims)
    has_norm = config.norm == "batch"
    layers: list[nn.Module] = []
    for n_from in (n_in, n_out):
        layers.append(conv(n_from, n_out, kernel_size=3, padding=1, bias=not has_norm))
        layers += [norm(n_out)] if has_norm else []
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class _Node(nn.Module):
    """X^{i,j} for j > 0, from the nodes before it and the one below."""

    def __init__(self, config: UNetPlusPlusConfig, level: int, n_before: int) -> None:
        super().__init__()
        n, n_below = config.widths[level : level + 2]
        self.up: nn.Module
        if config.upsampling == "transposed":
            self.up = _layers(config.dims)[3](n_below, n, kernel_size=2, stride=2)
            n_up = n
        else:
            mode = "bilinear" if config.dims == 2 else "trilinear"
            self.up = nn.Upsample(scale_factor=2, mode=mode, align_corners=False)
            n_up = n_below
        self.conv = _double_conv(config, n_before * n + n_up, n)

    def forward(self, before: list[Tensor], below: Tensor) -> Tensor:
        """`j` times `(b, n, y, x)` and once `(b, n_below, y / 2, x / 2)` to `(b, n, y, x)`."""
        joined = torch.cat([*before, self.up(below)], dim=1)  # (b, j n + n_up, y, x)
        found: Tensor = self.conv(joined)
        return found


class UNetPlusPlus(nn.Module):
    """Nested U-Net: `(b, c, [z,] y, x)` to logits `(b, class, [z,] y, x)`.

    Each spatial size must be a multiple of `2 ** config.depth`.
    """

    def __init__(self, config: UNetPlusPlusConfig) -> None:
        super().__init__()
        self.config = config
        conv, _, pool, _ = _layers(config.dims)
        widths, depth = config.widths, config.depth
        self.pool = pool(2)
        self.encoder = nn.ModuleList(
            _double_conv(config, n_in, n_out)
            for n_in, n_out in zip(
                (config.in_channels, *widths[:depth]), widths[: depth + 1], strict=True
            )
        )
        self.nodes = nn.ModuleDict(
            {
                f"{i}_{j}": _Node(config, i, j)
                for j in range(1, depth + 1)
                for i in range(depth + 1 - j)
            }
        )
        self.heads = nn.ModuleDict(
            {str(j): conv(widths[0], config.out_channels, kernel_size=1) for j in config.heads}
        )
        he_(self)

    def all_logits(self, image: Tensor) -> list[Tensor]:
        """Logits `(b, class, [z,] y, x)` of each X^{0,j} that has an output, the deepest last."""
        return [self.heads[str(j)](node) for j, node in self._highest(image)]

    def _highest(self, image: Tensor) -> list[tuple[int, Tensor]]:
        """Each j with an output and its X^{0,j} `(b, widths[0], [z,] y, x)`.

        Diagonal by diagonal: once X^{i,0} is there, X^{i-1,1} ... X^{0,i} can be computed.
        """
        levels: list[list[Tensor]] = []  # levels[i][j] is X^{i,j} (b, widths[i], y / 2^i, x / 2^i)
        for i, encode in enumerate(self.encoder):
            levels.append([encode(self.pool(levels[-1][0]) if levels else image)])
            for j in range(1, i + 1):
                here = levels[i - j]
                here.append(self.nodes[f"{i - j}_{j}"](here, levels[i - j + 1][j - 1]))
        return [(j, levels[0][j]) for j in self.config.heads]

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(b, class, [z,] y, x)` of `image` `(b, c, [z,] y, x)`."""
        if self.config.output == "last":
            last, node = self._highest(image)[-1]
            logits: Tensor = self.heads[str(last)](node)
            return logits
        first, *others = self.all_logits(image)
        for other in others:
            first = first + other
        return first / (1 + len(others))


def pruned(network: UNetPlusPlus, level: int) -> UNetPlusPlus:
    """A smaller network with a copy of the weights, which gives only the output of X^{0,level}.

    The paper's fast mode: training may go to the full depth, which helps the shallow outputs too;
    what is right of and below X^{0,level} is not needed to compute it.

    Raises
    ------
    SettingsError
        If X^{0,level} has no output of its own.
    """
    config = network.config
    if level not in config.heads:
        able = ", ".join(map(str, config.heads))
        raise SettingsError(
            f"The network has no output at level {level}, only at {able}: choose one of these. "
            f"Networks trained with deep supervision have one at each level."
        )
    small = UNetPlusPlus(replace(config, prune=level, deep_supervision=False, output="last"))
    known = network.state_dict()
    small.load_state_dict({name: known[name].clone() for name in small.state_dict()})
    return small.to(next(network.parameters()).device).train(network.training)


def _configured(wanted: Wanted) -> UNetPlusPlusConfig:
    width = wanted.width or 32
    return UNetPlusPlusConfig(
        dims=3 if wanted.dims == 3 else 2,
        in_channels=wanted.in_channels,
        out_channels=wanted.out_channels,
        widths=doubling(width, 5 if wanted.dims == 2 else 4),
    )


PRESETS = (
    Preset(
        name="unet++",
        title="U-Net++",
        paper="Zhou, Siddiquee, Tajbakhsh, Liang: UNet++: A Nested U-Net Architecture for Medical "
        "Image Segmentation, DLMIA 2018",
        summary="Nested dense skips, trained at every depth at once; can be cut down afterwards.",
        kind=Kind(name="unet++", title="U-Net++", config=UNetPlusPlusConfig, network=UNetPlusPlus),
        configure=_configured,
        dims=(2, 3),
        # Binary cross-entropy and Dice at each depth, until nothing improves.
        recipe={
            "outputs": "sigmoid",
            "loss": "dice+cross-entropy",
            "optimizer": "adam",
            "learning_rate": 3e-4,
            "schedule": "constant",
        },
    ),
)
