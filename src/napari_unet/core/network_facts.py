"""What a network costs and how far it looks, computed from its layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from napari_unet.core.engine.facts import Facts, general_facts
from napari_unet.core.engine.graph import Shape
from napari_unet.core.errors import SettingsError
from napari_unet.core.networks import Preset, Wanted, preset_of

__all__ = ["NetworkFacts", "facts_of", "multiply_adds"]

NARROW = 2
"""Where a network looks does not depend on how wide it is."""
LARGE = {2: 2048, 3: 256}
"""Edge of the output, in px, on which multiply-adds are counted: borders hardly matter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """Figures of one network.

    Attributes
    ----------
    name, dims : the network, and whether it is built for images or volumes.
    n_parameters : weights that are trained.
    multiply_adds : of the convolutions, for each pixel of a large output.
    receptive_field : edge of the part of the image that an output pixel depends on, at most, per
        axis, in px; None if it depends on all of the image. Where the layers are not known to the
        engine (SegNet's unpooling), an upper bound that was measured.
    stride : sizes that fit are this far apart, per axis, in px.
    halo : how far around a block of one stride the image matters, per axis, in px; None likewise.
    margin : how much smaller the output is than the input, per axis, in px.
    """

    name: str
    dims: int
    n_parameters: int
    multiply_adds: float
    receptive_field: Shape | None
    stride: Shape
    halo: Shape | None
    margin: Shape


@cache
def facts_of(name: str, wanted: Wanted | None = None) -> NetworkFacts:
    """The figures of a network.

    Parameters
    ----------
    name : of a network in the registry.
    wanted : what it is built for; None for one channel and two outputs, in the first number of
        dimensions that it can be built for.

    Raises
    ------
    SettingsError
        If there is no such network, or it cannot be built for that.
    """
    preset = preset_of(name)
    wanted = wanted or Wanted(dims=preset.dims[0])
    looked = _looked(preset, wanted)
    fit = looked.fit
    with torch.device("meta"):
        network = preset.build(wanted)
    shape = fit.size_for((LARGE[wanted.dims],) * wanted.dims)
    return NetworkFacts(
        name=name,
        dims=wanted.dims,
        n_parameters=sum(weights.numel() for weights in network.parameters()),
        multiply_adds=multiply_adds(network, (1, wanted.in_channels, *shape)),
        receptive_field=_receptive_field(looked),
        stride=fit.stride,
        halo=_halo(looked),
        margin=fit.margin,
    )


def _looked(preset: Preset, wanted: Wanted) -> Facts:
    """What the engine finds out about the network, as narrow as it can be built."""
    narrow = Wanted(
        dims=wanted.dims, in_channels=wanted.in_channels, out_channels=wanted.out_channels,
        width=NARROW,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # weights are drawn from the global generator
        torch.manual_seed(0)
        try:
            network = preset.build(narrow)
        except SettingsError:  # its width is fixed
            network = preset.build(wanted)
    return general_facts(network.eval(), wanted.in_channels, wanted.dims)


def _halo(facts: Facts) -> Shape | None:
    """The reach; without padding, counted from where the output lies in the middle of the input."""
    if facts.reach is None:
        return None
    return tuple(n - before for n, before in zip(facts.reach, facts.fit.before, strict=True))


def _receptive_field(facts: Facts) -> Shape | None:
    """The widest part of the image that a single output pixel depends on, per axis."""
    graph, fit = facts.graph, facts.fit
    if facts.reach is None:
        return None
    if graph is None:
        return tuple(2 * n + step for n, step in zip(facts.reach, fit.stride, strict=True))
    sizes = graph.sizes(fit.size_for((8192,) * graph.dims))
    middle = [4096 // step * step for step in fit.stride]
    widest = [0] * graph.dims
    for offset in range(max(fit.stride)):
        places = [at + offset % step for at, step in zip(middle, fit.stride, strict=True)]
        window = tuple((place, place + 1) for place in places)
        read = graph.needs(sizes, window)[0]
        assert read is not None
        for axis, (start, stop) in enumerate(read):
            widest[axis] = max(widest[axis], stop - start)
    return tuple(widest)


def multiply_adds(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Multiply-adds of all convolutions of a network, for each pixel of its output.

    Parameters
    ----------
    network : on the device "meta", so that nothing is computed.
    shape : of the input, `(b, c, [z,] y, x)`.
    """
    total = 0

    def count(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal total
        total += _of_layer(layer, inputs[0], output)

    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
    hooks = [
        layer.register_forward_hook(count)
        for layer in network.modules()
        if isinstance(layer, kinds)
    ]
    try:
        with torch.no_grad():
            output = network.eval()(torch.empty(shape, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return float(total / math.prod(output.shape[2:]))


def _of_layer(layer: nn.Module, image: Tensor, output: Tensor) -> int:
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    assert isinstance(layer, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    kernel = math.prod(layer.kernel_size)
    if isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d):
        return image.numel() * kernel * layer.out_channels // layer.groups
    return output.numel() * kernel * layer.in_channels // layer.groups
