"""A plain U-Net, of any numbers of convolutions in any of the usual orders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["GenericConfig", "GenericUNet", "Step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One convolution.

    Attributes
    ----------
    n_in, n_out : channels that go in and come out.
    kernel : its size along the axes of the image.
    bias : whether it has biases.
    norm : whether it has a normalization with weights.
    transposed : whether it enlarges by itself.
    """

    n_in: int
    n_out: int
    kernel: tuple[int, ...]
    bias: bool
    norm: bool
    transposed: bool = False

    @property
    def stride(self) -> tuple[int, ...]:
        """By what it enlarges or shrinks, if it does."""
        return tuple(1 if size == 1 else 2 for size in self.kernel)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenericConfig:
    """What the network is.

    Attributes
    ----------
    dims : 2 or 3.
    in_channels, out_channels : channels of the input and of the output.
    encoder, decoder : the convolutions of each level, from full resolution down.
    bottom, head : the convolutions of the lowest level, and those that make the output.
    down, up : of each level, the convolution that shrinks or enlarges, if any; else images are
        shrunk by pooling and enlarged by interpolation (and then by an `up` that does not enlarge).
    norm : "batch", "group", "instance"; "plain_instance" has no weights and is after each
        convolution that is followed by the activation.
    order : of convolution, normalization and activation.
    every : whether the activation follows each convolution, else only the last of each level.
    groups : of a group normalization, where the channels allow it.
    nonlinearity, up_activation : the activation, and whether it follows up-convolutions, too.
    padding : whether images keep their size, or shrink with each convolution.
    join : how what comes across and what comes from below are joined.
    enlarging : the interpolation; "linear" between pixels, "linear_corners" between corners.
    pooling : of the larger or the mean value.
    """

    dims: Literal[2, 3]
    in_channels: int
    out_channels: int
    encoder: tuple[tuple[Step, ...], ...]
    bottom: tuple[Step, ...]
    decoder: tuple[tuple[Step, ...], ...]
    head: tuple[Step, ...]
    down: tuple[Step | None, ...]
    up: tuple[Step | None, ...]
    norm: Literal["none", "batch", "group", "instance", "plain_instance"] = "none"
    order: Literal["conv norm act", "conv act norm", "norm conv act", "norm act conv"] = (
        "conv norm act"
    )
    every: bool = True
    groups: int = 8
    nonlinearity: Literal["relu", "leaky_relu_0.01", "leaky_relu_0.1", "leaky_relu_0.2", "elu"] = (
        "relu"
    )
    up_activation: bool = False
    padding: Literal["same", "valid"] = "same"
    join: Literal["skip first", "up first", "add"] = "skip first"
    enlarging: Literal["nearest", "linear", "linear_corners"] = "linear"
    pooling: Literal["max", "mean"] = "max"


def _norm(config: GenericConfig, n_channels: int) -> nn.Module:
    is_flat = config.dims == 2
    if config.norm == "batch":
        return (nn.BatchNorm2d if is_flat else nn.BatchNorm3d)(n_channels)
    if config.norm == "group":
        groups = config.groups if n_channels % config.groups == 0 else 1
        return nn.GroupNorm(groups, n_channels)
    return (nn.InstanceNorm2d if is_flat else nn.InstanceNorm3d)(
        n_channels, affine=config.norm == "instance"
    )


def _activation(config: GenericConfig) -> nn.Module:
    if config.nonlinearity.startswith("leaky_relu"):
        return nn.LeakyReLU(float(config.nonlinearity.rpartition("_")[2]))
    return nn.ELU() if config.nonlinearity == "elu" else nn.ReLU()


def _conv(config: GenericConfig, step: Step, strided: bool) -> nn.Module:
    """The convolution alone. Even kernels that neither shrink nor enlarge are padded at the end."""
    pads = tuple((size - 1) // 2 for size in step.kernel)
    settings: dict[str, Any] = {"bias": step.bias}
    if step.transposed:
        kind: type[nn.Module] = nn.ConvTranspose2d if config.dims == 2 else nn.ConvTranspose3d
        more = tuple(
            by - 1 if size % 2 else 0 for size, by in zip(step.kernel, step.stride, strict=True)
        )
        settings |= {"stride": step.stride, "padding": pads, "output_padding": more}
        return kind(step.n_in, step.n_out, step.kernel, **settings)
    plain: type[nn.Module] = nn.Conv2d if config.dims == 2 else nn.Conv3d
    if strided:
        settings |= {"stride": step.stride, "padding": pads}
    elif config.padding == "same":
        settings["padding"] = pads if all(size % 2 for size in step.kernel) else "same"
    return plain(step.n_in, step.n_out, step.kernel, **settings)


class _Layer(nn.Module):
    """A convolution with its normalization and activation, in the order of the config."""

    def __init__(
        self, config: GenericConfig, step: Step, active: bool = True, strided: bool = False
    ) -> None:
        super().__init__()
        self.conv = _conv(config, step, strided)
        self.norm: nn.Module = nn.Identity()
        if step.norm or (config.norm == "plain_instance" and active):
            n_channels = step.n_in if config.order.startswith("norm") else step.n_out
            self.norm = _norm(config, n_channels)
        self.act = _activation(config) if active else nn.Identity()
        self.order = tuple(config.order.split())

    def forward(self, features: Tensor) -> Tensor:
        """`(b, n_in, [z,] y, x)` to `(b, n_out, [z,] y, x)`."""
        layers: dict[str, nn.Module] = {"conv": self.conv, "norm": self.norm, "act": self.act}
        for name in self.order:
            features = layers[name](features)
        return features


def _block(config: GenericConfig, steps: tuple[Step, ...]) -> nn.Sequential:
    last = len(steps) - 1
    return nn.Sequential(
        *[_Layer(config, step, active=config.every or i == last) for i, step in enumerate(steps)]
    )


class GenericUNet(nn.Module):
    """Image `(b, c, [z,] y, x)` to logits `(b, output, [z,] y, x)`."""

    def __init__(self, config: GenericConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = nn.ModuleList(_block(config, steps) for steps in config.encoder)
        self.down = nn.ModuleList(
            nn.Identity() if step is None else _Layer(config, step, step.norm, strided=True)
            for step in config.down
        )
        self.bottom = _block(config, config.bottom)
        self.up = nn.ModuleList(
            nn.Identity()
            if step is None
            else _Layer(config, step, step.norm or config.up_activation)
            for step in config.up
        )
        self.decoder = nn.ModuleList(_block(config, steps) for steps in config.decoder)
        last = len(config.head) - 1
        self.head = nn.Sequential(
            *[_Layer(config, step, active=i < last) for i, step in enumerate(config.head)]
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image, of its size if the convolutions are padded."""
        features, skips = image, []
        for level, block in enumerate(self.encoder):
            skips.append(block(features))
            features = self._shrunk(skips[-1], level)
        features = self.bottom(features)
        for level in reversed(range(len(self.encoder))):
            enlarged = self._enlarged(features, skips[level], level)
            features = self.decoder[level](self._joined(skips[level], enlarged))
        logits: Tensor = self.head(features)
        return logits

    def _factors(self, level: int) -> tuple[int, ...]:
        """By what a level is shrunk, along the axes of the image."""
        step = self.config.down[level] or self.config.up[level]
        if step is not None and (step.transposed or self.config.down[level]):
            return step.stride
        return (2,) * self.config.dims

    def _shrunk(self, features: Tensor, level: int) -> Tensor:
        """By a convolution or by pooling."""
        if self.config.down[level] is not None:
            shrunk: Tensor = self.down[level](features)
            return shrunk
        factors = list(self._factors(level))
        pools: dict[tuple[int, str], Callable[..., Tensor]] = {
            (2, "max"): F.max_pool2d,
            (3, "max"): F.max_pool3d,
            (2, "mean"): F.avg_pool2d,
            (3, "mean"): F.avg_pool3d,
        }
        return pools[self.config.dims, self.config.pooling](features, factors)

    def _enlarged(self, below: Tensor, skip: Tensor, level: int) -> Tensor:
        """To the size of what comes across, or to that size less what is cut off there."""
        step = self.config.up[level]
        if step is not None and step.transposed:
            enlarged: Tensor = self.up[level](below)
            missing = [n - m for n, m in zip(skip.shape[2:], enlarged.shape[2:], strict=True)]
            if self.config.padding == "same" and any(missing):
                pads = [pad for n in reversed(missing) for pad in (n // 2, n - n // 2)]
                enlarged = F.pad(enlarged, pads)
            return enlarged
        size = list(skip.shape[2:])
        if self.config.padding == "valid":
            factors = self._factors(level)
            size = [n * by for n, by in zip(below.shape[2:], factors, strict=True)]
        mode, corners = "nearest", None
        if self.config.enlarging != "nearest":
            mode = "bilinear" if self.config.dims == 2 else "trilinear"
            corners = self.config.enlarging == "linear_corners"
        resized = F.interpolate(below, size=size, mode=mode, align_corners=corners)
        convolved: Tensor = self.up[level](resized)
        return convolved

    def _joined(self, skip: Tensor, enlarged: Tensor) -> Tensor:
        """The middle of what comes across, joined with what comes from below."""
        for axis in range(2, skip.ndim):
            excess = skip.shape[axis] - enlarged.shape[axis]
            if excess:
                skip = skip.narrow(axis, excess // 2, enlarged.shape[axis])
        if self.config.join == "add":
            return skip + enlarged
        pair = [skip, enlarged] if self.config.join == "skip first" else [enlarged, skip]
        return torch.cat(pair, dim=1)
