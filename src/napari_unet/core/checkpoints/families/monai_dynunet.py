"""The `DynUNet` of MONAI: the network of nnU-Net, optionally with residual blocks.

Its files hold every tensor twice, by its place in a list and by its place in a chain of levels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.aliases import merged
from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding
from napari_unet.core.checkpoints.monai.bundles import about_of
from napari_unet.core.checkpoints.monai.layers import keywords, read_style
from napari_unet.core.checkpoints.styles import (
    CHOICES,
    Act,
    Norm,
    activation,
    axes_of,
    named,
    normalizer,
    per_axis,
)

__all__ = ["FAMILY", "MonaiDynConfig", "MonaiDynUNet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonaiDynConfig:
    """What the network is.

    Attributes
    ----------
    dims, in_channels, out_channels : axes of the image, channels of the input and of the output.
    widths : channels of each level, from full resolution down.
    kernels : size of the convolutions of each level.
    strides : by how much each level makes the image smaller along each axis.
    up_bias : whether the convolutions that enlarge have biases.
    residual : whether blocks on the way down have a shortcut.
    n_heads : further outputs at lower resolution, for training, which are kept but not used.
    norm, affine, groups, eps, act, slope, alpha : see `core.checkpoints.styles.Style`.
    """

    dims: Literal[2, 3]
    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    up_bias: bool = False
    residual: bool = False
    n_heads: int = 0
    norm: Norm = "instance"
    affine: bool = True
    groups: int = 1
    eps: float = 1e-5
    act: Act = "leakyrelu"
    slope: float = 0.01
    alpha: float = 1.0


def _conv(
    config: MonaiDynConfig,
    channels: tuple[int, int],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
) -> nn.Sequential:
    padding = tuple(int((k - s + 1) / 2) for k, s in zip(kernel, stride, strict=True))
    kind = getattr(nn, f"Conv{config.dims}d")
    return named({"conv": kind(*channels, kernel, stride, padding, bias=False)})


class _Block(nn.Module):
    """Two convolutions; `(b, n_in, [z,] y, x)` to `(b, n_out, ...)`, divided by the stride."""

    def __init__(
        self,
        config: MonaiDynConfig,
        channels: tuple[int, int],
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        *,
        residual: bool = False,
    ) -> None:
        super().__init__()
        once, n_out = (1,) * config.dims, channels[1]
        self.residual = residual
        self.conv1 = _conv(config, channels, kernel, stride)
        self.conv2 = _conv(config, (n_out, n_out), kernel, once)
        self.lrelu = activation(config) or nn.Identity()
        self.norm1 = normalizer(config, n_out) or nn.Identity()
        self.norm2 = normalizer(config, n_out) or nn.Identity()
        self.is_projected = residual and (channels[0] != n_out or stride != once)
        if self.is_projected:
            self.conv3 = _conv(config, channels, once, stride)
            self.norm3 = normalizer(config, n_out) or nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """Convolved, and added to what went in where the block is residual."""
        out: Tensor = self.lrelu(self.norm1(self.conv1(features)))
        out = self.norm2(self.conv2(out))
        if self.residual:
            out = out + (self.norm3(self.conv3(features)) if self.is_projected else features)
        activated: Tensor = self.lrelu(out)
        return activated


class _Up(nn.Module):
    """Enlarge, join with what came across, convolve twice."""

    def __init__(self, config: MonaiDynConfig, i: int) -> None:
        super().__init__()
        n_out, n_below = config.widths[i : i + 2]
        stride = config.strides[i + 1]
        kind = getattr(nn, f"ConvTranspose{config.dims}d")
        self.transp_conv = named(
            {"conv": kind(n_below, n_out, stride, stride, bias=config.up_bias)}
        )
        once = (1,) * config.dims
        self.conv_block = _Block(config, (2 * n_out, n_out), config.kernels[i + 1], once)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """`(b, n_below, ...)` and `(b, n_out, [z,] y, x)` to `(b, n_out, [z,] y, x)`."""
        joined: Tensor = self.conv_block(torch.cat([self.transp_conv(below), skip], dim=1))
        return joined


class MonaiDynUNet(nn.Module):
    """Image `(b, c, [z,] y, x)`, a multiple of all strides in size, to logits of its size."""

    def __init__(self, config: MonaiDynConfig) -> None:
        super().__init__()
        widths = (config.in_channels, *config.widths)
        blocks = [
            _Block(config, (n_in, n_out), kernel, stride, residual=config.residual)
            for n_in, n_out, kernel, stride in zip(
                widths, widths[1:], config.kernels, config.strides, strict=False
            )
        ]
        self.input_block, self.bottleneck = blocks[0], blocks[-1]
        self.downsamples = nn.ModuleList(blocks[1:-1])
        n_ups = len(config.widths) - 1
        self.upsamples = nn.ModuleList(_Up(config, i) for i in reversed(range(n_ups)))
        self.output_block = _head(config, 0)
        if config.n_heads:
            heads = (_head(config, i + 1) for i in range(config.n_heads))
            self.deep_supervision_heads = nn.ModuleList(heads)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(b, output, [z,] y, x)` of an image."""
        skips = [self.input_block(image)]
        for down in self.downsamples:
            skips.append(down(skips[-1]))
        features = self.bottleneck(skips[-1])
        for up in self.upsamples:
            features = up(features, skips.pop())
        logits: Tensor = self.output_block(features)
        return logits


def _head(config: MonaiDynConfig, i: int) -> nn.Module:
    kind = getattr(nn, f"Conv{config.dims}d")
    return named({"conv": named({"conv": kind(config.widths[i], config.out_channels, 1)})})


def _canonical(name: str, n_ups: int) -> str:
    """By its place in the lists, whichever way a tensor is named in the file."""
    found = re.fullmatch(r"skip_layers\.((?:next_layer\.)*)(\w+)\.(.*)", name)
    if found is None:
        return name
    i, part, rest = found[1].count("next_layer."), found[2], found[3]
    if part == "downsample":
        return f"downsamples.{i - 1}.{rest}" if i else f"input_block.{rest}"
    if part == "upsample":
        return f"upsamples.{n_ups - 1 - i}.{rest}"
    if part == "super_head":
        return f"deep_supervision_heads.{i - 1}.{rest}"
    return f"bottleneck.{part}.{rest}"


def _recognise(evidence: Evidence) -> bool:
    has_first = evidence.has("input_block.conv1.conv.weight") or evidence.has(
        "skip_layers.downsample.conv1.conv.weight"
    )
    has_up = any(evidence.matches(r"(upsamples|skip_layers)\..*transp_conv\.conv\.weight"))
    return has_first and has_up and evidence.has("output_block.conv.conv.weight")


def _n_ups(evidence: Evidence) -> int:
    listed = evidence.count(r"upsamples\.(\d+)\.transp_conv\.conv\.weight")
    return listed or evidence.count(r"skip_layers\.((?:next_layer\.)*)upsample\..*")


def _understand(evidence: Evidence) -> Understanding:
    n_ups = _n_ups(evidence)
    evidence, names = merged(evidence, partial(_canonical, n_ups=n_ups))
    told = keywords(evidence, "DynUNet", "DynUnet")
    paths = ("input_block", *(f"downsamples.{i}" for i in range(n_ups - 1)), "bottleneck")
    shapes = [evidence.shape(f"{path}.conv1.conv.weight") for path in paths]
    dims = axes_of(shapes[0], evidence.name)
    first, seen = _first_stride(evidence, dims, told)
    ups = (evidence.shape(f"upsamples.{i}.transp_conv.conv.weight")[2:] for i in range(n_ups))
    style, assumed = read_style(
        evidence,
        ("input_block.conv1.conv", "input_block.norm1", "input_block.lrelu"),
        {name: told[f"{name}_name"] for name in ("norm", "act") if f"{name}_name" in told},
        ("leakyrelu", 0.01),
    )
    config = MonaiDynConfig(
        dims=dims,
        in_channels=shapes[0][1],
        out_channels=evidence.n_out("output_block.conv.conv.weight"),
        widths=tuple(shape[0] for shape in shapes),
        kernels=tuple(shape[2:] for shape in shapes),
        strides=(first, *reversed(list(ups))),
        up_bias=evidence.has("upsamples.0.transp_conv.conv.bias"),
        residual=any(evidence.matches(r".*\.conv3\.conv\.weight")),
        n_heads=evidence.count(r"deep_supervision_heads\.(\d+)\..*"),
        **style,
    )
    about = about_of(evidence, dims, config.in_channels, config.out_channels)
    return Understanding(
        config=config,
        about=about.about,
        assumed=(*(() if seen else ("strides",)), *assumed, *about.assumed),
        names=names,
        notes=(*evidence.notes, *about.notes),
    )


def _first_stride(
    evidence: Evidence, dims: int, told: Mapping[str, Any]
) -> tuple[tuple[int, ...], bool]:
    """By how much the first level makes the image smaller, and whether that is known."""
    noted = evidence.setting("input_block.conv1.conv", "stride")
    if noted is not None:
        return per_axis(noted, dims), True
    if isinstance(told.get("strides"), (list, tuple)) and told["strides"]:
        return per_axis(told["strides"][0], dims), True
    return (1,) * dims, False


FAMILY = Family(
    name="monai_dynunet",
    title="DynUNet (MONAI)",
    config=MonaiDynConfig,
    network=MonaiDynUNet,
    recognise=_recognise,
    understand=_understand,
    choices=CHOICES,
)
