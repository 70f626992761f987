"""The 3D U-Net, unpadded as it was published or padded, also for planes far apart.

Çiçek, Abdulkadir, Lienkamp, Brox, Ronneberger: "3D U-Net: Learning Dense Volumetric Segmentation
from Sparse Annotation", MICCAI 2016. Unlike the U-Net of 2015 it doubles the channels before a
pooling instead of after it, keeps their number in up-convolutions, and has batch normalisation
before each ReLU.

The paper counts 19,069,955 parameters with 3 channels in and 3 classes out: those are the weights
and one number for each channel of a convolution, but none for those of an up-convolution. Here
that number is the shift of the batch normalisation; its 2,336 scales come on top of the paper's
count. With `norm="none"`, where it is the bias, the count is the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from napari_unet.core.errors import SettingsError
from napari_unet.core.networks.parts import check_channels, check_choice, check_widths, doubling
from napari_unet.core.networks.registry import Kind, Preset, Wanted

__all__ = ["PRESETS", "UNet3d", "UNet3dConfig"]

MAX_LEVELS = 8
LARGEST = 16
"""Of kernels and of steps, in px: enough, and sizes that fit are found quickly."""
Triple = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class UNet3dConfig:
    """What the network is: enough to build it again.

    Attributes
    ----------
    in_channels, out_channels : channels of the input and of the output.
    widths : channels that each level has in the end, from full resolution down; half as many
        after the first of its two convolutions on the way down.
    strides : size `(z, y, x)` of each pooling and up-convolution, in px, from the first; where
        planes are far apart, (1, 2, 2) until they are as far apart as pixels.
    kernels : size `(z, y, x)` of the convolutions of each level, in px; (1, 3, 3) likewise.
    padding : "valid", as in the paper: the output is smaller; or "same": it is as large.
    norm : "batch" or "none".
    """

    in_channels: int = 1
    out_channels: int = 2
    widths: tuple[int, ...] = (64, 128, 256, 512)
    strides: tuple[Triple, ...] = ((2, 2, 2),) * 3
    kernels: tuple[Triple, ...] = ((3, 3, 3),) * 4
    padding: Literal["valid", "same"] = "valid"
    norm: Literal["batch", "none"] = "batch"
    dims: Literal[3] = 3

    def __post_init__(self) -> None:
        if self.dims != 3:
            raise SettingsError(f"dims must be 3, not {self.dims}.")
        check_channels(self)
        check_widths(self.widths, most=MAX_LEVELS)
        self._check_sizes("strides", self.strides, len(self.widths) - 1)
        self._check_sizes("kernels", self.kernels, len(self.widths))
        if any(n % 2 == 0 for kernel in self.kernels for n in kernel):
            raise SettingsError(f"kernels must be odd numbers, not {self.kernels}.")
        check_choice("padding", self.padding, ("valid", "same"))

    def _check_sizes(self, name: str, sizes: tuple[Triple, ...], n_wanted: int) -> None:
        are_good = all(len(s) == 3 and min(s) >= 1 and max(s) <= LARGEST for s in sizes)
        if len(sizes) != n_wanted or not are_good:
            raise SettingsError(
                f"{name} must be {n_wanted} times three numbers (z, y, x) from 1 to {LARGEST}, "
                f"not {sizes}."
            )

    @property
    def stride(self) -> Triple:
        """From one size that fits to the next, `(z, y, x)` in px: 8 in the paper."""
        z, y, x = (math.prod(s[axis] for s in self.strides) for axis in range(3))
        return z, y, x

    @property
    def margin(self) -> Triple:
        """By how much the output is smaller than the input, `(z, y, x)` in px: 88 in the paper."""
        z, y, x = (n - self._left(n, axis) for axis, n in enumerate(self.least))
        return z, y, x

    @property
    def least(self) -> Triple:
        """The smallest size that fits, `(z, y, x)` in px: 92 in the paper."""
        z, y, x = (next(n for n in count(1) if self._left(n, axis)) for axis in range(3))
        return z, y, x

    def _left(self, n: int, axis: int) -> int:
        """What is left of `n` px along an axis in the end; 0 if they do not fit."""
        lost = [2 * (k[axis] - 1) if self.padding == "valid" else 0 for k in self.kernels]
        steps = [s[axis] for s in self.strides]
        for less, step in zip(lost, steps, strict=False):  # the bottom has no step
            n -= less
            if n < 1 or n % step:
                return 0
            n //= step
        n -= lost[-1]
        for less, step in zip(lost[-2::-1], steps[::-1], strict=True):
            n = n * step - less
        return max(n, 0)

    def output_size(self, size: Iterable[int]) -> Triple:
        """Size `(z, y, x)` of the output for an input of `size`: (28, 44, 44) for (116, 132, 132).

        Raises
        ------
        SettingsError
            If a pooling would meet a size that it cannot divide, or nothing would be left.
        """
        n_in = tuple(size)
        z, y, x = (self._left(n, axis) for axis, n in enumerate(n_in))
        if min(z, y, x) > 0:
            return z, y, x
        rule = ", ".join(
            f"{least}, {least + step}, {least + 2 * step}, ... along {name}"
            for name, least, step in zip("zyx", self.least, self.stride, strict=True)
        )
        raise SettingsError(
            f"A volume of {' x '.join(map(str, n_in))} px (z, y, x) does not fit this network. It "
            f"takes these sizes, in px: {rule}. Cut the volume, or mirror it at its borders."
        )


def _double_conv(config: UNet3dConfig, level: int, n_in: int, n_middle: int) -> nn.Sequential:
    """(convolution, batch norm, ReLU) twice, of a level.

    `(b, n_in, z, y, x)` to `(b, widths[level], ...)`; with 3x3x3 px, unpadded, 4 px less per axis.
    """
    has_norm = config.norm == "batch"
    kernel, n_out = config.kernels[level], config.widths[level]
    layers: list[nn.Module] = []
    for n_from, n_to in ((n_in, n_middle), (n_middle, n_out)):
        layers.append(
            nn.Conv3d(n_from, n_to, kernel, padding=config.padding, bias=not has_norm)
        )  # (b, n_to, z - 2, y - 2, x - 2)
        if has_norm:
            layers.append(nn.BatchNorm3d(n_to))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _cropped(skip: Tensor, like: Tensor) -> Tensor:
    """The middle of `skip` `(b, c, z, y, x)`, of the size of `like`."""
    for axis in (2, 3, 4):
        n = like.shape[axis]
        skip = skip.narrow(axis, (skip.shape[axis] - n) // 2, n)  # (b, c, ..., n, ...)
    return skip


class UNet3d(nn.Module):
    """Volume `(b, c, z, y, x)` to logits `(b, class, z - 88, y - 88, x - 88)` of its middle.

    With padding they are as large as the volume.
    """

    def __init__(self, config: UNet3dConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.pool = nn.ModuleList(nn.MaxPool3d(step) for step in config.strides)
        self.encoder = nn.ModuleList(
            _double_conv(config, level, n_in, max(1, n_out // 2))
            for level, (n_in, n_out) in enumerate(pairwise((config.in_channels, *widths)))
        )
        n_levels = len(widths)
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(n, n, kernel_size=step, stride=step, bias=False)
            for n, step in zip(widths[:0:-1], config.strides[::-1], strict=True)
        )
        self.decoder = nn.ModuleList(
            _double_conv(config, level, widths[level + 1] + widths[level], widths[level])
            for level in reversed(range(n_levels - 1))
        )
        self.head = nn.Conv3d(widths[0], config.out_channels, kernel_size=1)
        self._initialise()

    def _initialise(self) -> None:
        """Draw weights from N(0, sqrt(2 / N)), N being the values that go into one (He 2015)."""
        for module in self.modules():
            # NOTE: drawing numbers for weights without memory loads torch's compiler, for a second.
            if not isinstance(module, nn.Conv3d | nn.ConvTranspose3d) or module.weight.is_meta:
                continue
            # Up-convolutions do not overlap: just one px goes into each px.
            is_up = isinstance(module, nn.ConvTranspose3d)
            n_in = module.in_channels * (1 if is_up else math.prod(module.kernel_size))
            nn.init.normal_(module.weight, std=math.sqrt(2 / n_in))
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, volume: Tensor) -> Tensor:
        """Logits `(b, class, z', y', x')` of `volume` `(b, c, z, y, x)`; see `output_size`.

        Raises
        ------
        SettingsError
            If the size of the volume does not fit.
        """
        self.config.output_size(volume.shape[2:])
        skips = [self.encoder[0](volume)]
        for pool, level in zip(self.pool, list(self.encoder)[1:], strict=True):
            skips.append(level(pool(skips[-1])))  # (b, width, z / 2 - 4, y / 2 - 4, x / 2 - 4)
        features = skips.pop()
        for up, decoder in zip(self.up, self.decoder, strict=True):
            features = up(features)  # (b, width below, 2 z, 2 y, 2 x)
            joined = torch.cat([features, _cropped(skips.pop(), features)], dim=1)
            features = decoder(joined)  # (b, width, z - 4, y - 4, x - 4)
        logits: Tensor = self.head(features)
        return logits


def _configured(wanted: Wanted) -> UNet3dConfig:
    width = wanted.width or 64
    return UNet3dConfig(
        in_channels=wanted.in_channels,
        out_channels=wanted.out_channels,
        widths=doubling(width, 4),
    )


def _padded(wanted: Wanted) -> UNet3dConfig:
    plain = _configured(wanted)
    return UNet3dConfig(
        in_channels=plain.in_channels, out_channels=plain.out_channels, widths=plain.widths,
        padding="same",
    )  # fmt: skip


def _flat(wanted: Wanted) -> UNet3dConfig:
    plain = _configured(wanted)
    return UNet3dConfig(
        in_channels=plain.in_channels, out_channels=plain.out_channels, widths=plain.widths,
        padding="same", strides=((1, 2, 2), (2, 2, 2), (2, 2, 2)),
        kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    )  # fmt: skip


KIND = Kind(name="unet_3d", title="3D U-Net", config=UNet3dConfig, network=UNet3d)
PAPER = (
    "Çiçek, Abdulkadir, Lienkamp, Brox, Ronneberger: 3D U-Net: Learning Dense Volumetric "
    "Segmentation from Sparse Annotation, MICCAI 2016"
)
PRESETS = (
    Preset(
        name="unet-3d",
        title="3D U-Net",
        paper=PAPER,
        summary="Unpadded, channels doubled before the pooling: the network of the paper.",
        kind=KIND,
        configure=_configured,
        dims=(3,),
        recipe={
            "outputs": "softmax",
            "loss": "cross-entropy",
            "separation": 0.0,
            "optimizer": "sgd",
            "learning_rate": 1e-2,  # not in the paper
            "weight_decay": 0.0,
            "schedule": "constant",
            "batch_size": 1,
            "patch_size": 44,
            "clip": 0.0,
            "average": 0.0,
        },
    ),
    Preset(
        name="unet-3d-padded",
        title="3D U-Net, padded",
        paper=PAPER + ", with padded convolutions",
        summary="The output is as large as the input.",
        kind=KIND,
        configure=_padded,
        dims=(3,),
        recipe={"patch_size": 64, "batch_size": 2},
    ),
    Preset(
        name="unet-3d-flat",
        title="3D U-Net for planes far apart, padded",
        paper=PAPER + ", with padded convolutions, flat ones at full resolution",
        summary="Looks at each plane by itself before it halves z: for stacks coarse along z.",
        kind=KIND,
        configure=_flat,
        dims=(3,),
        recipe={"patch_size": 64, "batch_size": 2},
    ),
)
