"""The `AttentionUnet` of MONAI: what came across is weighted by what came from below.

Oktay et al. (2018), https://arxiv.org/abs/1804.03999. A level holds the next one in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding
from napari_unet.core.checkpoints.monai.bundles import about_of
from napari_unet.core.checkpoints.monai.layers import (
    KEPT_AXES,
    KeptAxis,
    assumed_strides,
    convolution,
    kept,
    keywords,
)
from napari_unet.core.checkpoints.styles import (
    Act,
    Norm,
    axes_of,
    named,
    normalizer,
    per_axis,
)

__all__ = ["FAMILY", "MonaiAttentionConfig", "MonaiAttentionUNet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonaiAttentionConfig:
    """What the network is.

    Attributes
    ----------
    dims, in_channels, out_channels : axes of the image, channels of the input and of the output.
    widths : channels of each level, from full resolution down.
    strides : for each level but the first, by how much the image is made smaller along each axis.
    kernel, up_kernel : size of the convolutions, and of those that enlarge.
    kept_axis : for volumes, an axis along which no level makes the image smaller, whatever
        `strides` say.
    """

    dims: Literal[2, 3]
    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel: tuple[int, ...]
    up_kernel: tuple[int, ...]
    kept_axis: KeptAxis = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fixed:
    """Batch normalization and ReLU, which these networks have nearly everywhere."""

    dims: int
    norm: Norm = "batch"
    affine: bool = True
    groups: int = 1
    eps: float = 1e-5
    act: Act = "relu"
    slope: float = 0.0
    alpha: float = 1.0


class _Convs(nn.Module):
    """Two convolutions, the first with a stride."""

    def __init__(
        self, config: MonaiAttentionConfig, channels: tuple[int, int], stride: tuple[int, ...]
    ) -> None:
        super().__init__()
        style, once = _Fixed(dims=config.dims), (1,) * config.dims
        self.conv = nn.Sequential(
            convolution(style, channels, config.kernel, stride),
            convolution(style, (channels[1], channels[1]), config.kernel, once),
        )

    def forward(self, features: Tensor) -> Tensor:
        """`(b, n_in, [z,] y, x)` to `(b, n_out, ...)`, the size divided by the stride."""
        convolved: Tensor = self.conv(features)
        return convolved


class _Gate(nn.Module):
    """How much each pixel counts, from what came from below and what came across."""

    def __init__(self, dims: int, n_channels: int) -> None:
        super().__init__()
        n_within = n_channels // 2
        self.W_g = _pointwise(dims, n_channels, n_within)
        self.W_x = _pointwise(dims, n_channels, n_within)
        self.psi = _pointwise(dims, n_within, 1)

    def forward(self, below: Tensor, across: Tensor) -> Tensor:
        """Twice `(b, c, [z,] y, x)` to the same, which is `across` with weights."""
        weights = self.psi(torch.relu(self.W_g(below) + self.W_x(across)))  # (b, 1, [z,] y, x)
        return across * torch.sigmoid(weights)


def _pointwise(dims: int, n_in: int, n_out: int) -> nn.Sequential:
    style, once = _Fixed(dims=dims), (1,) * dims
    norm = normalizer(style, n_out)
    assert norm is not None
    return nn.Sequential(convolution(style, (n_in, n_out), once, once, only=True), norm)


class _Level(nn.Module):
    """The way down, the way back up, and the joining of both."""

    def __init__(self, config: MonaiAttentionConfig, i: int) -> None:
        super().__init__()
        n_here, n_below = config.widths[i : i + 2]
        stride, style = kept(config.strides[i], config.kept_axis), _Fixed(dims=config.dims)
        self.attention = _Gate(config.dims, n_here)
        enlarge = convolution(style, (n_below, n_here), config.up_kernel, stride, transposed=True)
        self.upconv = named({"up": enlarge})
        # The joining convolution was left at what is MONAI's default.
        joining = replace(style, norm="instance", affine=False, act="prelu")
        three, once = (3,) * config.dims, (1,) * config.dims
        self.merge = convolution(joining, (2 * n_here, n_here), three, once)
        down = _Convs(config, (n_here, n_below), stride)
        is_bottom = i == len(config.widths) - 2
        self.submodule = down if is_bottom else nn.Sequential(down, _Level(config, i + 1))

    def forward(self, features: Tensor) -> Tensor:
        """`(b, c, [z,] y, x)` to the same."""
        enlarged = self.upconv(self.submodule(features))
        weighted = self.attention(enlarged, features)
        merged: Tensor = self.merge(torch.cat([weighted, enlarged], dim=1))
        return merged


class MonaiAttentionUNet(nn.Module):
    """Image `(b, c, [z,] y, x)`, a multiple of all strides in size, to logits of its size."""

    def __init__(self, config: MonaiAttentionConfig) -> None:
        super().__init__()
        once, style = (1,) * config.dims, _Fixed(dims=config.dims)
        n_first = config.widths[0]
        self.model = nn.Sequential(
            _Convs(config, (config.in_channels, n_first), once),
            _Level(config, 0),
            convolution(style, (n_first, config.out_channels), once, once, only=True),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(b, output, [z,] y, x)` of an image."""
        logits: Tensor = self.model(image)
        return logits


def _level_path(i: int) -> str:
    """Where a level lies."""
    return f"model.1{'.submodule.1' * i}"


def _down_path(evidence: Evidence, i: int) -> str:
    """Where the two convolutions on the way down of a level lie."""
    path = f"{_level_path(i)}.submodule"
    return path if evidence.has(f"{path}.conv.0.conv.weight") else f"{path}.0"


def _recognise(evidence: Evidence) -> bool:
    return evidence.has(
        "model.0.conv.0.conv.weight",
        "model.1.attention.psi.0.conv.weight",
        "model.1.upconv.up.conv.weight",
        "model.1.merge.conv.weight",
        "model.2.conv.weight",
    )


def _understand(evidence: Evidence) -> Understanding:
    n_levels = 0
    while evidence.has(f"{_level_path(n_levels)}.merge.conv.weight"):
        n_levels += 1
    downs = [f"{_down_path(evidence, i)}.conv.0.conv" for i in range(n_levels)]
    shape = evidence.shape("model.0.conv.0.conv.weight")
    strides, seen = _strides(evidence, downs, axes_of(shape, evidence.name))
    config = MonaiAttentionConfig(
        dims=axes_of(shape, evidence.name),
        in_channels=shape[1],
        out_channels=evidence.n_out("model.2.conv.weight"),
        widths=(shape[0], *(evidence.n_out(f"{path}.weight") for path in downs)),
        strides=strides,
        kernel=shape[2:],
        up_kernel=evidence.shape("model.1.upconv.up.conv.weight")[2:],
    )
    about = about_of(evidence, config.dims, config.in_channels, config.out_channels)
    return Understanding(
        config=config,
        about=about.about,
        assumed=(*assumed_strides(config.dims, seen), *about.assumed),
        notes=about.notes,
    )


def _strides(
    evidence: Evidence, downs: list[str], dims: int
) -> tuple[tuple[tuple[int, ...], ...], bool]:
    """For each level but the first, and whether they are known and not assumed."""
    noted = [evidence.setting(path, "stride") for path in downs]
    if all(stride is not None for stride in noted):
        return tuple(per_axis(stride, dims) for stride in noted), True
    told = keywords(evidence, "AttentionUnet").get("strides")
    if isinstance(told, (list, tuple)) and len(told) >= len(downs):
        return tuple(per_axis(stride, dims) for stride in told[: len(downs)]), True
    return ((2,) * dims,) * len(downs), False


FAMILY = Family(
    name="monai_attention_unet",
    title="AttentionUnet (MONAI)",
    config=MonaiAttentionConfig,
    network=MonaiAttentionUNet,
    recognise=_recognise,
    understand=_understand,
    choices={"kept_axis": KEPT_AXES},
)
