"""The networks, one file per family, and a registry of them by name."""

from __future__ import annotations

from napari_unet.core.networks.registry import (
    DeeplySupervised,
    Kind,
    Preset,
    Wanted,
    kinds,
    preset_of,
    presets,
)
from napari_unet.core.networks.unet import UNet, UNetConfig

__all__ = [
    "DeeplySupervised",
    "Kind",
    "Preset",
    "UNet",
    "UNetConfig",
    "Wanted",
    "kinds",
    "preset_of",
    "presets",
]
