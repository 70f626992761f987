"""What a plan is wanted for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from napari_unet.core.engine.graph import Shape
from napari_unet.core.engine.ways import Activation

__all__ = ["Request", "device_of"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """What a plan is wanted for.

    Attributes
    ----------
    network : in evaluation mode, on its device.
    dims, in_channels : 2 for planes or 3 for volumes, and the channels that go in.
    activation : what turns logits into probabilities.
    shape : `([z,] y, x)` of one plane or volume in px.
    precision : "full", or "auto" for 16 bits where they are faster and say the same.
    views : the ways to show the image to the network; their results are averaged.
    tile_size : edge of a tile in px, where the user has chosen one.
    piece : gives input `(1, c, *shape)` of a typical piece of the image, to try the precision on.
    """

    network: nn.Module
    dims: int
    in_channels: int
    activation: Activation
    shape: Shape
    precision: Literal["auto", "full"] = "auto"
    views: Literal["none", "flips", "rotations"] = "none"
    tile_size: int | None = None
    piece: Callable[[Shape], Tensor] | None = None


def device_of(network: nn.Module) -> torch.device:
    """Where the weights of a network are."""
    weights = next(network.parameters(), None)
    return torch.device("cpu") if weights is None else weights.device
