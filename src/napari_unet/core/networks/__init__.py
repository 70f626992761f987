"""The networks, one file per family, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from napari_unet.core.networks.unet import UNet, UNetConfig

__all__ = ["NETWORKS", "UNet", "UNetConfig"]

NETWORKS: dict[str, tuple[type, Callable[[Any], nn.Module]]] = {
    "unet": (UNetConfig, UNet),
}
"""Architecture name to its config class and its network class."""
