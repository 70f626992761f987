"""Normalization and activation, as the configs of several families name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from torch import nn

from napari_unet.core.errors import ModelFileError

__all__ = [
    "ACTS",
    "CHOICES",
    "NORMS",
    "Act",
    "Norm",
    "Style",
    "activation",
    "axes_of",
    "named",
    "normalizer",
    "per_axis",
]

Norm = Literal["instance", "batch", "group", "none"]
Act = Literal["prelu", "relu", "leakyrelu", "elu", "relu6", "selu", "gelu", "silu", "mish", "none"]

NORMS: tuple[Norm, ...] = ("instance", "group", "none")
"""What a file cannot tell from each other."""

ACTS: tuple[Act, ...] = (
    "relu",
    "leakyrelu",
    "elu",
    "relu6",
    "selu",
    "gelu",
    "silu",
    "mish",
    "none",
)
"""What leaves no trace in a file."""

CHOICES: dict[str, tuple[Any, ...]] = {
    "norm": NORMS,
    "groups": (1, 2, 4, 8, 16, 32),
    "act": ACTS,
    "slope": (0.01, 0.1, 0.2),
}
"""What there is to choose from where a file does not say its style."""


class Style(Protocol):
    """What a config says of normalization and activation.

    Attributes
    ----------
    dims : 2 for images `(y, x)`, 3 for volumes `(z, y, x)`.
    norm, affine, groups, eps : kind of normalization, whether it has weights, for "group" the
        number of groups, and what is added to the variance.
    act, slope, alpha : kind of activation, how steep it is below 0 ("leakyrelu"), and how far
        below 0 it goes ("elu").
    """

    @property
    def dims(self) -> int: ...  # noqa: D102
    @property
    def norm(self) -> Norm: ...  # noqa: D102
    @property
    def affine(self) -> bool: ...  # noqa: D102
    @property
    def groups(self) -> int: ...  # noqa: D102
    @property
    def eps(self) -> float: ...  # noqa: D102
    @property
    def act(self) -> Act: ...  # noqa: D102
    @property
    def slope(self) -> float: ...  # noqa: D102
    @property
    def alpha(self) -> float: ...  # noqa: D102


def normalizer(style: Style, n_channels: int) -> nn.Module | None:
    """The normalization of so many channels, if there is one."""
    if style.norm == "none":
        return None
    if style.norm == "group":
        if n_channels % style.groups:
            raise ModelFileError(
                f"The normalization works on {style.groups} groups of channels, but a layer has "
                f"{n_channels} channels, which cannot be divided so. Choose another number."
            )
        return nn.GroupNorm(style.groups, n_channels, eps=style.eps, affine=style.affine)
    name = {"batch": "BatchNorm", "instance": "InstanceNorm"}[style.norm]
    kind: type[nn.Module] = getattr(nn, f"{name}{style.dims}d")
    return kind(n_channels, eps=style.eps, affine=style.affine)


def activation(style: Style) -> nn.Module | None:
    """The activation, if there is one."""
    match style.act:
        case "none":
            return None
        case "prelu":
            return nn.PReLU()
        case "leakyrelu":
            return nn.LeakyReLU(style.slope)
        case "elu":
            return nn.ELU(style.alpha)
    plain: dict[str, type[nn.Module]] = {
        "relu": nn.ReLU,
        "relu6": nn.ReLU6,
        "selu": nn.SELU,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
        "mish": nn.Mish,
    }
    return plain[style.act]()


def named(children: Mapping[str, nn.Module]) -> nn.Sequential:
    """A sequence of named layers."""
    sequence = nn.Sequential()
    for name, child in children.items():
        sequence.add_module(name, child)
    return sequence


def axes_of(shape: tuple[int, ...], file: str) -> Literal[2, 3]:
    """How many axes the images have that a convolution with weights of this shape takes."""
    n_axes = len(shape) - 2
    if n_axes not in (2, 3):
        raise ModelFileError(
            f"The convolutions in {file} are for data with {max(n_axes, 0)} axes. Supported are "
            "those for images (2) and volumes (3)."
        )
    return 2 if n_axes == 2 else 3


def per_axis(value: Any, dims: int) -> tuple[int, ...]:
    """A number, or one for each axis, as one for each axis."""
    numbers = tuple(value) if isinstance(value, (list, tuple)) else (value,) * dims
    if len(numbers) != dims or not all(type(n) is int and 0 < n < 1000 for n in numbers):
        raise ModelFileError(
            f"The file says {str(value)[:60]} where {dims} small whole numbers, one for each axis "
            "of the image, were expected. The settings beside the weights are damaged."
        )
    return numbers
