"""The networks of wolny/pytorch-3dunet: with two convolutions a level, and residual ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GROUPS", "Norm", "Unet3dConfig", "Unet3dNetwork", "Upsampling"]

GROUPS = 8
"""Of a group normalization, unless a training configuration says otherwise."""

Norm = Literal["groupnorm", "batchnorm", "none"]
Upsampling = Literal["nearest", "linear", "area", "deconv", "deconv_resized"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unet3dConfig:
    """What the network is.

    Attributes
    ----------
    dims : 2 or 3.
    in_channels, out_channels : channels of the input and of the output.
    block : two convolutions; or a residual block after a 1x1 convolution (since March 2023), or
        after a full convolution (before).
    encoders, decoders : channels after the first and after the last convolution of each level, in
        the order in which they run.
    up : channels of each enlarged image, before it is joined.
    join : whether what came across is put before the enlarged image, or added to it.
    kernel, pool : sizes of convolutions and of poolings, along the axes of the image.
    norm, norm_at : the normalization, and whether it comes before the convolution, between it and
        the nonlinearity, or last.
    groups : of a group normalization; 1 where there are fewer channels.
    bias : whether the convolutions have biases.
    nonlinearity : of all convolutions.
    padding : of all convolutions; residual blocks always have 1.
    upsampling : how the image is enlarged. "deconv" is a transposed convolution to the wanted size;
        "deconv_resized" one to twice the size less 1, then resized (since December 2023).
    up_bias : whether transposed convolutions have biases.
    excitation : squeeze and excitation after each block: by channel, by place, both, or none.
    """

    dims: Literal[2, 3]
    in_channels: int
    out_channels: int
    block: Literal["double", "residual", "residual_conv"]
    encoders: tuple[tuple[int, int], ...]
    decoders: tuple[tuple[int, int], ...]
    up: tuple[int, ...]
    join: Literal["concat", "add"]
    kernel: tuple[int, ...]
    pool: tuple[int, ...]
    norm: Norm
    norm_at: Literal["before", "between", "last"]
    groups: int = GROUPS
    bias: bool = False
    nonlinearity: Literal["relu", "leaky_relu", "elu"] = "relu"
    padding: int = 1
    upsampling: Upsampling = "nearest"
    up_bias: bool = False
    excitation: Literal["none", "cse", "sse", "scse"] = "none"


def _nonlinearity(kind: str, slope: float = 0.01) -> nn.Module:
    if kind == "leaky_relu":
        return nn.LeakyReLU(slope, inplace=True)
    return nn.ELU(inplace=True) if kind == "elu" else nn.ReLU(inplace=True)


def _conv(config: Unet3dConfig) -> type[nn.Module]:
    return nn.Conv2d if config.dims == 2 else nn.Conv3d


def _norm(config: Unet3dConfig, n_channels: int) -> nn.Module:
    if config.norm == "batchnorm":
        return (nn.BatchNorm2d if config.dims == 2 else nn.BatchNorm3d)(n_channels)
    return nn.GroupNorm(config.groups if n_channels >= config.groups else 1, n_channels)


def _single(
    config: Unet3dConfig, n_in: int, n_out: int, padding: int, linear: bool = False
) -> nn.Sequential:
    """Convolution, normalization and nonlinearity in the order of the config."""
    pads = tuple(min(padding, size // 2) for size in config.kernel)
    norm_channels = n_in if config.norm_at == "before" else n_out
    layers: dict[str, nn.Module] = {
        "conv": _conv(config)(n_in, n_out, config.kernel, padding=pads, bias=config.bias),
        "norm": nn.Identity() if config.norm == "none" else _norm(config, norm_channels),
        "nonlinearity": nn.Identity() if linear else _nonlinearity(config.nonlinearity),
    }
    orders = {
        "before": ("norm", "conv", "nonlinearity"),
        "between": ("conv", "norm", "nonlinearity"),
        "last": ("conv", "nonlinearity", "norm"),
    }
    sequence = nn.Sequential()
    for name in orders[config.norm_at]:
        sequence.add_module(config.norm if name == "norm" else name, layers[name])
    return sequence


class _Double(nn.Module):
    """Two convolutions; `(b, n_in, [z,] y, x)` to `(b, n_out, [z,] y, x)`."""

    def __init__(self, config: Unet3dConfig, n_in: int, widths: tuple[int, int]) -> None:
        super().__init__()
        self.SingleConv1 = _single(config, n_in, widths[0], config.padding)
        self.SingleConv2 = _single(config, widths[0], widths[1], config.padding)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve twice."""
        convolved: Tensor = self.SingleConv2(self.SingleConv1(features))
        return convolved


class _Residual(nn.Module):
    """A convolution to the width, and two that add to it; `(b, n_in, ...)` to `(b, n_out, ...)`."""

    def __init__(self, config: Unet3dConfig, n_in: int, widths: tuple[int, int]) -> None:
        super().__init__()
        n_out = widths[1]
        if config.block == "residual_conv":
            self.conv1: nn.Module = _single(config, n_in, n_out, 1)
        else:
            self.conv1 = nn.Identity() if n_in == n_out else _conv(config)(n_in, n_out, 1)
        self.conv2 = _single(config, n_out, n_out, 1)
        self.conv3 = _single(config, n_out, n_out, 1, linear=True)
        self.non_linearity = _nonlinearity(config.nonlinearity, slope=0.1)
        self.se_module = _excitation(config, n_out)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve, and add."""
        residual = self.conv1(features)
        joined = self.non_linearity(self.conv3(self.conv2(residual)) + residual)
        excited: Tensor = self.se_module(joined)
        return excited


def _excitation(config: Unet3dConfig, n_channels: int) -> nn.Module:
    if config.excitation == "none":
        return nn.Identity()
    if config.excitation == "cse":
        return _ChannelExcitation(n_channels)
    if config.excitation == "sse":
        return _PlaceExcitation(config, n_channels)
    return _BothExcitations(config, n_channels)


class _ChannelExcitation(nn.Module):
    """Weigh the channels by their means."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(n_channels, n_channels)
        self.fc2 = nn.Linear(n_channels, n_channels)

    def forward(self, features: Tensor) -> Tensor:
        """`(b, c, ...)` times one weight per channel."""
        means = features.flatten(2).mean(dim=2)  # (b, c)
        weights = torch.sigmoid(self.fc2(F.relu(self.fc1(means))))
        return features * weights.reshape(*weights.shape, *[1] * (features.ndim - 2))


class _PlaceExcitation(nn.Module):
    """Weigh the places by a 1x1 convolution."""

    def __init__(self, config: Unet3dConfig, n_channels: int) -> None:
        super().__init__()
        self.conv = _conv(config)(n_channels, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """`(b, c, ...)` times one weight per place."""
        return features * torch.sigmoid(self.conv(features))


class _BothExcitations(nn.Module):
    """The larger one of both."""

    def __init__(self, config: Unet3dConfig, n_channels: int) -> None:
        super().__init__()
        self.cSE = _ChannelExcitation(n_channels)
        self.sSE = _PlaceExcitation(config, n_channels)

    def forward(self, features: Tensor) -> Tensor:
        """`(b, c, ...)`, weighed by channel and by place."""
        return torch.maximum(self.cSE(features), self.sSE(features))


def _block(config: Unet3dConfig, n_in: int, widths: tuple[int, int]) -> nn.Module:
    return (_Double if config.block == "double" else _Residual)(config, n_in, widths)


class _Encoder(nn.Module):
    """Shrink, except on the first level, and convolve."""

    def __init__(self, config: Unet3dConfig, level: int) -> None:
        super().__init__()
        pool = nn.MaxPool2d if config.dims == 2 else nn.MaxPool3d
        self.pooling = pool(config.pool) if level else nn.Identity()
        n_in = config.encoders[level - 1][1] if level else config.in_channels
        self.basic_module = _block(config, n_in, config.encoders[level])

    def forward(self, features: Tensor) -> Tensor:
        """`(b, n_in, [z,] y, x)` to `(b, width, [z / 2,] y / 2, x / 2)`."""
        convolved: Tensor = self.basic_module(self.pooling(features))
        return convolved


class _Deconvolution(nn.Module):
    """A transposed convolution to a wanted size."""

    def __init__(self, config: Unet3dConfig, n_in: int, n_out: int) -> None:
        super().__init__()
        transposed: type[nn.Module] = nn.ConvTranspose2d
        if config.dims == 3:
            transposed = nn.ConvTranspose3d
        pads = tuple(size // 2 for size in config.kernel)
        layer = transposed(n_in, n_out, config.kernel, stride=2, padding=pads, bias=config.up_bias)
        self.is_resized = config.upsampling == "deconv_resized"
        self.upsample: nn.Module = layer
        if self.is_resized:
            self.upsample = nn.ModuleDict({"conv_transposed": layer})

    def forward(self, below: Tensor, size: Sequence[int]) -> Tensor:
        """`(b, n_in, ...)` to `(b, n_out, *size)`."""
        if self.is_resized:
            enlarged = cast(nn.ModuleDict, self.upsample)["conv_transposed"](below)
        else:
            # It cannot give more than the pooled size times the stride; where that is too small,
            # the image had an odd size, which the original does not take.
            wanted = [min(n, 2 * n_below) for n, n_below in zip(size, below.shape[2:], strict=True)]
            enlarged = self.upsample(below, output_size=wanted)
        return enlarged if enlarged.shape[2:] == size else F.interpolate(enlarged, size=size)


class _Decoder(nn.Module):
    """Enlarge, join with what came across, convolve."""

    def __init__(self, config: Unet3dConfig, index: int) -> None:
        super().__init__()
        self.config = config
        n_below = config.decoders[index - 1][1] if index else config.encoders[-1][1]
        n_skip, n_up = config.encoders[-2 - index][1], config.up[index]
        if config.upsampling.startswith("deconv"):
            self.upsampling = _Deconvolution(config, n_below, n_up)
        n_in = n_skip + n_up if config.join == "concat" else n_skip
        self.basic_module = _block(config, n_in, config.decoders[index])

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """`(b, n_below, ...)` and `(b, n_skip, [z,] y, x)` to `(b, width, [z,] y, x)`."""
        size, config = skip.shape[2:], self.config
        if config.upsampling.startswith("deconv"):
            below = self.upsampling(below, size)
        else:
            linear = "bilinear" if config.dims == 2 else "trilinear"
            mode = linear if config.upsampling == "linear" else config.upsampling
            below = F.interpolate(below, size=size, mode=mode)
        joined = torch.cat([skip, below], dim=1) if config.join == "concat" else skip + below
        convolved: Tensor = self.basic_module(joined)
        return convolved


class Unet3dNetwork(nn.Module):
    """Image `(b, c, [z,] y, x)` of any size to logits `(b, output, [z,] y, x)`."""

    def __init__(self, config: Unet3dConfig) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleList(_Encoder(config, i) for i in range(len(config.encoders)))
        self.decoders = nn.ModuleList(_Decoder(config, i) for i in range(len(config.decoders)))
        n_last = config.decoders[-1][1]
        self.final_conv = _conv(config)(n_last, config.out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image, of its size."""
        features, skips = image, list[Tensor]()
        for encoder in self.encoders:
            features = encoder(features)
            skips.append(features)
        skips.pop()
        for decoder in self.decoders:
            features = decoder(features, skips.pop())
        logits: Tensor = self.final_conv(features)
        return logits
