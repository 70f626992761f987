"""The networks of nnU-Net v2: PlainConvUNet and ResidualEncoderUNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.styles import Act, Norm, activation, named, normalizer

__all__ = ["NnUNet", "NnUNetConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NnUNetConfig:
    """What the network is.

    Attributes
    ----------
    dims, in_channels, out_channels : axes of the image, channels of the input and of the output.
    widths, kernels, strides : of each level, from full resolution down: its channels, the size
        of its convolutions, and by how much it makes the image smaller along each axis.
    n_down : convolutions, or residual blocks, of each level on the way down.
    n_up : convolutions of each level on the way up, from the bottom.
    stem : channels before the first residual block; 0 for a network without residual blocks.
    within : channels within the residual blocks of each level, where these narrow them; ().
    pool : what makes the image smaller.
    bias : whether convolutions have biases.
    act_first : whether the activation comes before the normalization.
    norm, affine, groups, eps, act, slope, alpha : see `core.checkpoints.styles.Style`.
    """

    dims: Literal[2, 3]
    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    n_down: tuple[int, ...]
    n_up: tuple[int, ...]
    stem: int = 0
    within: tuple[int, ...] = ()
    pool: Literal["conv", "max", "avg"] = "conv"
    bias: bool = True
    act_first: bool = False
    norm: Norm = "instance"
    affine: bool = True
    groups: int = 1
    eps: float = 1e-5
    act: Act = "leakyrelu"
    slope: float = 0.01
    alpha: float = 1.0


class _Conv(nn.Module):
    """Convolution, normalization, activation; the size is divided by the stride."""

    def __init__(
        self,
        config: NnUNetConfig,
        channels: tuple[int, int],
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        *,
        bias: bool | None = None,
        only: bool = False,
    ) -> None:
        super().__init__()
        padding = tuple((k - 1) // 2 for k in kernel)
        bias = config.bias if bias is None else bias
        kind = getattr(nn, f"Conv{config.dims}d")
        self.conv = kind(*channels, kernel, stride, padding, bias=bias)
        norm = normalizer(config, channels[1])
        if norm is not None:
            self.norm = norm
        self.act = nn.Identity() if only else activation(config) or nn.Identity()
        self.act_first = config.act_first

    def forward(self, features: Tensor) -> Tensor:
        """`(b, n_in, [z,] y, x)` to `(b, n_out, ...)`."""
        convolved: Tensor = self.conv(features)
        if not hasattr(self, "norm"):
            activated: Tensor = self.act(convolved)
            return activated
        both = (self.act, self.norm) if self.act_first else (self.norm, self.act)
        for layer in both:
            convolved = layer(convolved)
        return convolved


def _convs(
    config: NnUNetConfig,
    channels: tuple[int, int],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    n_convs: int,
) -> nn.Sequential:
    """Convolutions in a row, the first of them with the stride."""
    n_in, n_out = channels
    once = (1,) * config.dims
    layers = [
        _Conv(config, (n_out if i else n_in, n_out), kernel, once if i else stride)
        for i in range(n_convs)
    ]
    return named({"convs": nn.Sequential(*layers)})


class _Block(nn.Module):
    """Convolutions, and past them a shortcut that is added."""

    def __init__(
        self, config: NnUNetConfig, level: int, channels: tuple[int, int], stride: tuple[int, ...]
    ) -> None:
        super().__init__()
        (n_in, n_out), once, kernel = channels, (1,) * config.dims, config.kernels[level]
        if config.within:
            n_within = config.within[level]
            self.conv1 = _Conv(config, (n_in, n_within), once, once)
            self.conv2 = _Conv(config, (n_within, n_within), kernel, stride)
            self.conv3 = _Conv(config, (n_within, n_out), once, once, only=True)
        else:
            self.conv1 = _Conv(config, channels, kernel, stride)
            self.conv2 = _Conv(config, (n_out, n_out), kernel, once, only=True)
        self.n_convs = 3 if config.within else 2
        shortcut: list[nn.Module] = []
        if stride != once:
            shortcut.append(getattr(nn, f"AvgPool{config.dims}d")(stride, stride))
        if n_in != n_out:
            shortcut.append(_Conv(config, channels, once, once, bias=False, only=True))
        self.skip = nn.Sequential(*shortcut)
        self.act = activation(config) or nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """`(b, n_in, [z,] y, x)` to `(b, n_out, ...)`, the size divided by the stride."""
        convolved = features
        for i in range(1, self.n_convs + 1):
            convolved = self.get_submodule(f"conv{i}")(convolved)
        activated: Tensor = self.act(convolved + self.skip(features))
        return activated


class _Encoder(nn.Module):
    """The way down; gives the features of each level, from full resolution down."""

    def __init__(self, config: NnUNetConfig) -> None:
        super().__init__()
        n_in, stages, once = config.in_channels, list[nn.Module](), (1,) * config.dims
        if config.stem:
            self.stem = _convs(config, (n_in, config.stem), config.kernels[0], once, 1)
            n_in = config.stem
        for i, n_out in enumerate(config.widths):
            make = _blocks if config.stem else _pooled_convs
            stages.append(make(config, i, (n_in, n_out)))
            n_in = n_out
        self.stages = nn.Sequential(*stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        """`(b, c, [z,] y, x)` to a list of `(b, n, ...)`."""
        features = self.stem(image) if hasattr(self, "stem") else image
        found = []
        for stage in self.stages:
            features = stage(features)
            found.append(features)
        return found


def _blocks(config: NnUNetConfig, level: int, channels: tuple[int, int]) -> nn.Module:
    (n_in, n_out), once, stride = channels, (1,) * config.dims, config.strides[level]
    blocks = [
        _Block(config, level, (n_out if i else n_in, n_out), once if i else stride)
        for i in range(config.n_down[level])
    ]
    return named({"blocks": nn.Sequential(*blocks)})


def _pooled_convs(config: NnUNetConfig, level: int, channels: tuple[int, int]) -> nn.Module:
    once, stride = (1,) * config.dims, config.strides[level]
    layers: list[nn.Module] = []
    if config.pool != "conv" and stride != once:
        kind = "MaxPool" if config.pool == "max" else "AvgPool"
        layers.append(getattr(nn, f"{kind}{config.dims}d")(stride, stride))
        stride = once
    n_convs = config.n_down[level]
    layers.append(_convs(config, channels, config.kernels[level], stride, n_convs))
    return nn.Sequential(*layers)


class _Decoder(nn.Module):
    """The way up. The outputs of lower levels, made for training, are kept but not used."""

    def __init__(self, config: NnUNetConfig) -> None:
        super().__init__()
        stages, enlarge, outputs = (list[nn.Module]() for _ in range(3))
        conv = getattr(nn, f"Conv{config.dims}d")
        transposed = getattr(nn, f"ConvTranspose{config.dims}d")
        once = (1,) * config.dims
        for n_convs, i in zip(config.n_up, reversed(range(len(config.n_up))), strict=True):
            n, n_below, stride = config.widths[i], config.widths[i + 1], config.strides[i + 1]
            enlarge.append(transposed(n_below, n, stride, stride, bias=config.bias))
            stages.append(_convs(config, (2 * n, n), config.kernels[i], once, n_convs))
            outputs.append(conv(n, config.out_channels, 1))
        self.stages = nn.ModuleList(stages)
        self.transpconvs = nn.ModuleList(enlarge)
        self.seg_layers = nn.ModuleList(outputs)

    def forward(self, skips: list[Tensor]) -> Tensor:
        """Features of each level, from full resolution down, to logits."""
        features = skips[-1]
        levels = zip(self.transpconvs, self.stages, reversed(skips[:-1]), strict=True)
        for enlarge, stage, skip in levels:
            features = stage(torch.cat([enlarge(features), skip], dim=1))
        logits: Tensor = self.seg_layers[-1](features)
        return logits


class NnUNet(nn.Module):
    """Image `(b, c, [z,] y, x)`, a multiple of all strides in size, to logits of its size."""

    def __init__(self, config: NnUNetConfig) -> None:
        super().__init__()
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(b, output, [z,] y, x)` of an image."""
        logits: Tensor = self.decoder(self.encoder(image))
        return logits
