"""What the networks beside this file have in common: checks of their configs, and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from napari_unet.core.errors import SettingsError

__all__ = [
    "MAX_LEVELS",
    "check_channels",
    "check_choice",
    "check_dims",
    "check_share",
    "check_widths",
    "doubling",
    "he_",
]

MAX_LEVELS = 16
"""More often than this no image can be halved."""


def check_dims(dims: int) -> None:
    """Raise `SettingsError` unless a network is for images or for volumes."""
    if dims not in (2, 3):
        raise SettingsError(f"dims must be 2 or 3, not {dims}.")


def check_channels(config: Any) -> None:
    """Raise `SettingsError` if nothing goes into a network, or nothing comes out."""
    if config.in_channels < 1 or config.out_channels < 1:
        raise SettingsError("in_channels and out_channels must be at least 1.")


def check_widths(
    widths: Sequence[int], least: int = 1, most: int = MAX_LEVELS, name: str = "widths"
) -> None:
    """Raise `SettingsError` unless there is a positive number for `least` to `most` levels."""
    if not least <= len(widths) <= most or min(widths) < 1:
        raise SettingsError(f"{name} must be {least} to {most} positive numbers, not {widths}.")


def check_choice(name: str, value: str, options: tuple[str, str]) -> None:
    """Raise `SettingsError` unless one of two values was chosen."""
    if value not in options:
        raise SettingsError(f"{name} must be {options[0]!r} or {options[1]!r}, not {value!r}.")


def check_share(name: str, value: float) -> None:
    """Raise `SettingsError` unless a share is one, and leaves something."""
    if not 0 <= value < 1:
        raise SettingsError(f"{name} must be in [0, 1), not {value}.")


def doubling(width: int, n_levels: int) -> tuple[int, ...]:
    """Channels of each level, twice as many as of the one above."""
    return tuple(width * 2**level for level in range(n_levels))


def he_(network: nn.Module) -> None:
    """Draw the weights of all convolutions from N(0, sqrt(2 / N)) (He et al. 2015); no biases.

    Deep networks without batch norm learn nothing from smaller ones. Up-convolutions stay as they
    are.
    """
    for module in network.modules():
        # NOTE: drawing numbers for weights without memory loads torch's compiler, for a second.
        if isinstance(module, nn.Conv2d | nn.Conv3d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
