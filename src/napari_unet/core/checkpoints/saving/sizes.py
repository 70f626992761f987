"""Which sizes of images a saved network says that it takes, and what of its result is sound."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from napari_unet.core.engine.facts import facts_for
from napari_unet.core.engine.fitting import SIZES
from napari_unet.core.engine.graph import Shape
from napari_unet.core.engine.request import Request
from napari_unet.core.model import Model

__all__ = ["Sizes", "sizes_of"]

MAX_HALO = {2: 96, 3: 24}
"""In px: a larger rim would make the smallest image larger than programs like to load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of images, per axis `([z,] y, x)`, in px.

    Attributes
    ----------
    in_channels : channels that go in.
    least, step : the smallest size, and what may be added to it any number of times.
    margin : how much smaller the result is than the image.
    halo : how much of the result at either end depends on what lies beyond the image.
    """

    in_channels: int
    least: Shape
    step: Shape
    margin: Shape
    halo: Shape

    def within(self, shape: Shape) -> Shape:
        """The largest size not larger than `shape`, or else the smallest there is."""
        each = zip(self.least, self.step, shape, strict=True)
        return tuple(least + max(0, n - least) // step * step for least, step, n in each)

    def image(self, n_steps: int = 0) -> Tensor:
        """An image `(1, c, [z,] y, x)` of noise to try a network on.

        `n_steps` is by how many steps it is larger than a small one.
        """
        shape = [n + n_steps * step for n, step in zip(self.least, self.step, strict=True)]
        shape[-1] += self.step[-1]  # not a square, so that exchanged axes show
        random = torch.Generator().manual_seed(n_steps)
        return torch.randn(1, self.in_channels, *shape, generator=random)


def sizes_of(network: nn.Module, model: Model) -> Sizes:
    """What is found out about sizes, of a copy of a model's network.

    Raises
    ------
    UNetLiveError
        If the network cannot be used at all.
    """
    dims, in_channels = model.description.dims, model.description.in_channels
    shape = (SIZES[dims][0],) * dims
    request = Request(
        network=network, dims=dims, in_channels=in_channels, activation="none", shape=shape
    )
    facts = facts_for(request, shape)
    fit = facts.fit
    halo = (0,) * dims
    if not any(fit.margin):  # an image is cut to what is sound already, where there is a margin
        reach = facts.reach or (MAX_HALO[dims],) * dims
        halo = tuple(min(n, MAX_HALO[dims]) for n in reach)
    wanted = tuple(2 * rim + 1 for rim in halo)
    return Sizes(
        in_channels=in_channels,
        least=fit.size_for(wanted),
        step=fit.stride,
        margin=fit.margin,
        halo=halo,
    )
