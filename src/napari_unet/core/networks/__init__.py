"""The networks, one file per family, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from napari_unet.core.errors import ModelFileError
from napari_unet.core.networks.unet import UNet, UNetConfig

__all__ = ["NETWORKS", "UNet", "UNetConfig", "build_network"]

NETWORKS: dict[str, tuple[type, Callable[[Any], nn.Module]]] = {
    "unet": (UNetConfig, UNet),
}
"""Architecture name to its config class and its network class."""


def build_network(architecture: str, config: Any) -> nn.Module:
    """Build a network with random weights.

    Raises
    ------
    ModelFileError
        If `architecture` is not in `NETWORKS`.
    """
    if architecture not in NETWORKS:
        raise ModelFileError(
            f"The architecture {architecture!r} is not known here; "
            f"known are {', '.join(NETWORKS)}. A newer version of napari-unet-live may know it."
        )
    return NETWORKS[architecture][1](config)
