"""The `UNet` of MONAI: strided convolutions on the way down, optionally residual units.

A level is a list of three: the way down, what lies below (which is such a list again), and the
way up. The deepest "below" is a single layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding
from napari_unet.core.checkpoints.monai.bundles import about_of
from napari_unet.core.checkpoints.monai.layers import (
    KEPT_AXES,
    KeptAxis,
    adn_of,
    assumed_strides,
    convolution,
    kept,
    keywords,
    read_order,
    read_style,
)
from napari_unet.core.checkpoints.styles import (
    CHOICES,
    Act,
    Norm,
    axes_of,
    named,
    per_axis,
)
from napari_unet.core.errors import ModelFileError

__all__ = ["FAMILY", "MonaiUNet", "MonaiUNetConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonaiUNetConfig:
    """What the network is.

    Attributes
    ----------
    dims, in_channels, out_channels : axes of the image, channels of the input and of the output.
    widths : channels of each level, from full resolution down.
    strides : for each level but the deepest, by how much it makes the image smaller along each
        axis.
    kernel, up_kernel : size of the convolutions, and of those that enlarge.
    n_units : convolutions in each residual unit; 0 if there are none.
    bias : whether convolutions have biases.
    norm, affine, groups, eps, act, slope, alpha : see `core.checkpoints.styles.Style`.
    act_first : whether the activation comes before the normalization.
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
    n_units: int
    bias: bool = True
    norm: Norm = "instance"
    affine: bool = False
    groups: int = 1
    eps: float = 1e-5
    act: Act = "prelu"
    slope: float = 0.01
    alpha: float = 1.0
    act_first: bool = False
    kept_axis: KeptAxis = "none"


class _Unit(nn.Module):
    """Convolutions, and past them a shortcut that is added."""

    def __init__(
        self,
        config: MonaiUNetConfig,
        channels: tuple[int, int],
        stride: tuple[int, ...],
        *,
        n_units: int,
        last_only: bool = False,
    ) -> None:
        super().__init__()
        n_in, n_out = channels
        self.conv, once = nn.Sequential(), (1,) * config.dims
        for i in range(n_units):
            only = last_only and i == n_units - 1
            unit = convolution(
                config,
                (n_out if i else n_in, n_out),
                config.kernel,
                once if i else stride,
                bias=config.bias,
                only=only,
                act_first=config.act_first,
            )
            self.conv.add_module(f"unit{i}", unit)
        self.residual: nn.Module = nn.Identity()
        if stride != once or n_in != n_out:
            kernel = once if stride == once else config.kernel
            shortcut = convolution(config, channels, kernel, stride, bias=config.bias, only=True)
            self.residual = shortcut.conv  # type: ignore[assignment]

    def forward(self, features: Tensor) -> Tensor:
        """`(b, n_in, [z,] y, x)` to `(b, n_out, ...)`, the size divided by the stride."""
        added: Tensor = self.conv(features) + self.residual(features)
        return added


class _Skip(nn.Module):
    """What lies below, joined to what went in."""

    def __init__(self, below: nn.Module) -> None:
        super().__init__()
        self.submodule = below

    def forward(self, features: Tensor) -> Tensor:
        """`(b, c, [z,] y, x)` to `(b, c + c below, [z,] y, x)`."""
        return torch.cat([features, self.submodule(features)], dim=1)


class MonaiUNet(nn.Module):
    """Image `(b, c, [z,] y, x)`, a multiple of all strides in size, to logits of its size."""

    def __init__(self, config: MonaiUNetConfig) -> None:
        super().__init__()
        self.model = _level(config, 0)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(b, output, [z,] y, x)` of an image."""
        logits: Tensor = self.model(image)
        return logits


def _level(config: MonaiUNetConfig, i: int) -> nn.Module:
    """A level with all below it; `(b, n, [z,] y, x)` to `(b, n or output, [z,] y, x)`."""
    widths = (config.in_channels, *config.widths)
    if i == len(config.widths) - 1:
        return _down(config, (widths[i], widths[i + 1]), (1,) * config.dims)
    stride = kept(config.strides[i], config.kept_axis)
    is_last = i == len(config.widths) - 2
    n_below = widths[i + 2] if is_last else widths[i + 1]
    n_out = config.out_channels if i == 0 else widths[i]
    return nn.Sequential(
        _down(config, (widths[i], widths[i + 1]), stride),
        _Skip(_level(config, i + 1)),
        _up(config, (widths[i + 1] + n_below, n_out), stride, is_top=i == 0),
    )


def _down(config: MonaiUNetConfig, channels: tuple[int, int], stride: tuple[int, ...]) -> nn.Module:
    if config.n_units:
        return _Unit(config, channels, stride, n_units=config.n_units)
    return convolution(
        config, channels, config.kernel, stride, bias=config.bias, act_first=config.act_first
    )


def _up(
    config: MonaiUNetConfig, channels: tuple[int, int], stride: tuple[int, ...], *, is_top: bool
) -> nn.Module:
    only = is_top and not config.n_units
    up = convolution(
        config,
        channels,
        config.up_kernel,
        stride,
        bias=config.bias,
        transposed=True,
        only=only,
        act_first=config.act_first,
    )
    if not config.n_units:
        return up
    once = (1,) * config.dims
    unit = _Unit(config, (channels[1], channels[1]), once, n_units=1, last_only=is_top)
    return named({"0": up, "1": unit})


def _down_path(i: int) -> str:
    """Where the way down of a level lies, if it is not the deepest."""
    return f"model.{'1.submodule.' * i}0"


def _bottom_path(n_levels: int) -> str:
    return f"model.{'1.submodule.' * (n_levels - 1)}"[:-1]


def _first(evidence: Evidence, path: str) -> str:
    """The first convolution of a way down, with or without residual unit."""
    unit = f"{path}.conv.unit0"
    return unit if evidence.has(f"{unit}.conv.weight") else path


def _recognise(evidence: Evidence) -> bool:
    has_top = evidence.has("model.0.conv.weight") or evidence.has("model.0.conv.unit0.conv.weight")
    is_joined = any(name.startswith("model.1.submodule.") for name in evidence.tensors)
    has_up = evidence.has("model.2.conv.weight") or evidence.has("model.2.0.conv.weight")
    return has_top and is_joined and has_up and not evidence.has("model.1.merge.conv.weight")


def _understand(evidence: Evidence) -> Understanding:
    told = keywords(evidence, "UNet", "Unet", "CheckpointUNet")
    paths = _paths(evidence)
    first = _first(evidence, paths[0])
    n_units = evidence.count(r"model\.0\.conv\.unit(\d+)\.conv\.weight")
    up = "model.2.0" if n_units else "model.2"
    shape = evidence.shape(f"{first}.conv.weight")
    dims = axes_of(shape, evidence.name)
    kernel = shape[2:]
    if any(k % 2 == 0 for k in kernel):
        raise ModelFileError(
            f"{evidence.name} is a MONAI UNet with convolutions of the size "
            f"{' x '.join(map(str, kernel))}. Supported are odd sizes."
        )
    strides, seen = _strides(evidence, paths, kernel, told)
    style, assumed = read_style(evidence, adn_of(first), told, ("relu", 0.01))
    act_first, no_order = read_order(evidence, f"{first}.adn", told)
    if "none" in (style["norm"], style["act"]):
        no_order = ()
    n_out = (
        evidence.n_out("model.2.1.conv.unit0.conv.weight")
        if n_units
        else evidence.n_in(f"{up}.conv.weight")
    )
    config = MonaiUNetConfig(
        dims=dims,
        in_channels=shape[1],
        out_channels=n_out,
        widths=tuple(evidence.n_out(f"{_first(evidence, path)}.conv.weight") for path in paths),
        strides=strides,
        kernel=kernel,
        up_kernel=evidence.shape(f"{up}.conv.weight")[2:],
        n_units=n_units,
        bias=evidence.has(f"{first}.conv.bias"),
        act_first=act_first,
        **style,
    )
    about = about_of(evidence, dims, config.in_channels, config.out_channels)
    return Understanding(
        config=config,
        about=about.about,
        assumed=(*assumed_strides(dims, seen), *assumed, *no_order, *about.assumed),
        notes=about.notes,
    )


def _paths(evidence: Evidence) -> list[str]:
    """Where the ways down lie, from full resolution to the bottom."""
    n_above = 0
    while any(name.startswith(f"{_down_path(n_above)}.") for name in evidence.tensors):
        n_above += 1
    # At the bottom, the list of a level is missing: its "conv" follows at once.
    return [*(_down_path(i) for i in range(n_above)), _bottom_path(n_above + 1)]


def _strides(
    evidence: Evidence, paths: list[str], kernel: tuple[int, ...], told: Mapping[str, Any]
) -> tuple[tuple[tuple[int, ...], ...], bool]:
    """For each level but the deepest, and whether they are known and not assumed."""
    dims, above = len(kernel), paths[:-1]
    noted = [evidence.setting(f"{_first(evidence, path)}.conv", "stride") for path in above]
    if all(stride is not None for stride in noted):
        return tuple(per_axis(stride, dims) for stride in noted), True
    if isinstance(told.get("strides"), (list, tuple)) and len(told["strides"]) >= len(above):
        return tuple(per_axis(stride, dims) for stride in told["strides"][: len(above)]), True
    once, twice = (1,) * dims, (2,) * dims
    if not evidence.has(f"{paths[0]}.conv.unit0.conv.weight") or kernel == once:
        return (twice,) * len(above), False
    # The shortcut of a unit is there, and as large as its convolutions, only if it has a stride.
    strided = [
        evidence.has(f"{path}.residual.weight")
        and evidence.shape(f"{path}.residual.weight")[2:] == kernel
        for path in above
    ]
    return tuple(twice if has else once for has in strided), False


FAMILY = Family(
    name="monai_unet",
    title="UNet (MONAI)",
    config=MonaiUNetConfig,
    network=MonaiUNet,
    recognise=_recognise,
    understand=_understand,
    choices={
        **CHOICES,
        "act_first": (False, True),
        "kept_axis": KEPT_AXES,
    },
)
