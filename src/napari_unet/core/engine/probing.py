"""What can be found out about a network only by trying: sizes, and how far its input matters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress

import torch
from torch import Tensor, nn

from napari_unet.core.engine.fitting import SIZES, Fit, fit_of, sizes_to_try
from napari_unet.core.engine.graph import Graph, Shape, UnsupportedError, fused
from napari_unet.core.engine.ops import cast
from napari_unet.core.engine.streaming import Stream
from napari_unet.core.engine.tracing import picture_in, trace

__all__ = [
    "known_layers",
    "likely_grid",
    "measured_fit",
    "measured_grid",
    "measured_reach",
    "reach_of",
]

LARGEST_REACH = {2: 256, 3: 48}
"""A network whose input matters from further away is taken to use the whole image, in px."""
SPREAD_SIZES = {2: (160, 320, 640), 3: (48, 80, 144)}
"""Edges of the pictures on which it is seen how far a px matters, one after the other."""
SURROUNDINGS = {2: 64, 3: 16}
"""How far beyond that the image is changed: enough for the widest gaps in what a layer reads."""
BLOCK_SIZE = 12
"""Edge of the block in the middle that is looked at, in px."""
GRIDS = (1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 16, 18, 20, 24, 27, 32, 36, 48, 64)
"""How many px are pooled to one, if that cannot be seen."""


@torch.inference_mode()
def _output(network: nn.Module, image: Tensor) -> Tensor:
    """One run; whatever the network raises says that it does not take this image."""
    try:
        output = network(image)
    except Exception as error:  # NOTE: code of others, with errors of all kinds
        raise UnsupportedError(str(error).partition("\n")[0]) from error
    return picture_in(output, image.ndim)


def _noise(network: nn.Module, in_channels: int, shape: Shape, seed: int = 0) -> Tensor:
    """A random picture `(1, c, *shape)` where the network is."""
    parameter = next(network.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((1, in_channels, *shape), generator=generator).to(parameter.device)


def known_layers(
    network: nn.Module, in_channels: int, dims: int, like: Shape | None = None
) -> tuple[Graph, Fit]:
    """The layers of a network, tried against the network itself, and the sizes that it takes.

    Parameters
    ----------
    network, in_channels, dims : what to look at.
    like : sizes that leave the same rest as this one, for networks that take images of any size
        and do something else with each of them; None for sizes that nearly all networks take.

    Raises
    ------
    UnsupportedError
        If a layer is not known, or the layers do not give what the network gives.
    """
    bases = sizes_to_try(dims) if like is None else [like]
    graph, base = _traced(network, in_channels, bases)
    others = ((n,) * dims for n in range(base[0] + 1, base[0] + 129))
    fit = fit_of(base, lambda shape: graph.sizes(shape)[-1], others)
    graph = fused(graph).mapped(lambda op: cast(op, torch.float32))
    image, expected = _another(network, in_channels, fit)
    try:
        found = _replayed(graph, image)
    except (RuntimeError, TypeError) as error:
        raise UnsupportedError(f"its layers cannot be run one by one ({error})") from error
    tolerance = 1e-4 * max(1.0, float(expected.abs().max()))
    if found.shape != expected.shape or float((found - expected).abs().max()) > tolerance:
        raise UnsupportedError("its layers one by one do not give what it gives as a whole")
    return graph, fit


def _another(network: nn.Module, in_channels: int, fit: Fit) -> tuple[Tensor, Tensor]:
    """A picture of another size than the one that was traced, and the output for it."""
    for multiple in (1, 16, 20, 32, 48):  # a network may refuse what its layers would take
        steps = [math.lcm(step, multiple) for step in fit.stride]
        sides = zip(fit.base, steps, strict=True)
        shape = tuple(n + at * step for at, (n, step) in enumerate(sides, start=1))
        image = _noise(network, in_channels, shape, seed=1)
        with suppress(UnsupportedError):
            return image, _output(network, image)
    image = _noise(network, in_channels, fit.base, seed=1)
    return image, _output(network, image)


def _traced(network: nn.Module, in_channels: int, bases: Iterable[Shape]) -> tuple[Graph, Shape]:
    problem: Exception | None = None
    for shape in bases:
        try:
            graph = trace(network, in_channels, shape)
            graph.sizes(shape)
        except UnsupportedError:
            raise
        except Exception as error:  # of a size that does not fit; code of others
            problem = error
        else:
            return graph, shape
    raise UnsupportedError(f"it takes no image of usual size ({problem})")


@torch.inference_mode()
def _replayed(graph: Graph, image: Tensor) -> Tensor:
    """The output of the layers for a whole picture, in strips of 24 rows."""
    shape = tuple(image.shape[2:])
    window = tuple((0, n) for n in graph.sizes(shape)[-1])
    stream = Stream(graph, shape, window)
    inside = image[(slice(None), slice(None), *(slice(*span) for span in stream.wanted))]
    parts = [stream.push(rows) for rows in inside.split(24, dim=2)]
    return torch.cat([part for part in parts if part is not None], dim=2)


def reach_of(graph: Graph, fit: Fit) -> Shape:
    """How far around a block of one stride the image matters, per axis, in px; from the layers."""
    shape = fit.size_for((8192,) * graph.dims)
    sizes = graph.sizes(shape)
    middle = tuple(4096 // step * step for step in fit.stride)
    window = tuple((at, at + step) for at, step in zip(middle, fit.stride, strict=True))
    read = graph.needs(sizes, window)[0]
    assert read is not None
    return tuple(
        max(at - start, stop - at - step)
        for at, step, (start, stop) in zip(middle, fit.stride, read, strict=True)
    )


def measured_fit(network: nn.Module, in_channels: int, dims: int) -> Fit:
    """The sizes that a network takes, found by trying.

    Raises
    ------
    UnsupportedError
        If it takes no image of usual size, or gives something else than an image.
    """

    def out_size(shape: Shape) -> Shape:
        return tuple(_output(network, _noise(network, in_channels, shape)).shape[2:])

    problem: Exception | None = None
    for base in sizes_to_try(dims):
        try:
            out_size(base)
        except UnsupportedError as error:
            problem = error
        else:
            return fit_of(base, out_size, ((n,) * dims for n in SIZES[dims]))
    raise UnsupportedError(f"it takes no image of usual size ({problem})")


def measured_reach(network: nn.Module, in_channels: int, fit: Fit) -> Shape | None:
    """How far around a block of one grid the image matters, per axis, in px.

    None if all of the image matters, as for statistics of the whole image.
    """
    reach = _spread(network, in_channels, fit)
    if reach is not None and not _matters_beyond(network, in_channels, fit, reach):
        return _on_grid(reach, fit)
    reach = LARGEST_REACH[len(fit.base)]
    if _matters_beyond(network, in_channels, fit, reach):
        return None
    # NOTE: what comes from further away is there, but it is nothing beside the rest.
    while reach > max(fit.grid) and not _matters_beyond(network, in_channels, fit, reach // 2):
        reach //= 2
    return _on_grid(reach, fit)


def _on_grid(reach: int, fit: Fit) -> Shape:
    return tuple(-(-reach // step) * step for step in fit.grid)


def _middle(fit: Fit, around: int) -> tuple[Shape, Shape, Shape]:
    """A size with a block of whole grids in its middle: the size, and where the block lies."""
    start = tuple(-(-around // step) * step for step in fit.grid)
    inner = [-(-BLOCK_SIZE // step) * step for step in fit.grid]
    stop = tuple(at + n for at, n in zip(start, inner, strict=True))
    return fit.size_for(tuple(a + b for a, b in zip(start, stop, strict=True))), start, stop


def _spread(network: nn.Module, in_channels: int, fit: Fit) -> int | None:
    """How far what is not a number spreads through the network, which no weight can hide."""
    for size in SPREAD_SIZES[len(fit.base)]:
        shape, start, stop = _middle(fit, (size + max(fit.margin) - BLOCK_SIZE) // 2)
        image = _noise(network, in_channels, shape)
        image[(slice(None), slice(None), *map(slice, start, stop))] = torch.nan
        output = _output(network, image)
        found = torch.nonzero(output[0].isnan().any(dim=0))
        if not len(found):
            return None
        low, high = (tuple(map(int, one)) for one in (found.amin(0), found.amax(0) + 1))
        if min(low) > 0 and all(n < end for n, end in zip(high, output.shape[2:], strict=True)):
            before = max(a - m - n for a, m, n in zip(start, fit.margin, low, strict=True))
            behind = max(n - b for b, n in zip(stop, high, strict=True))
            # NOTE: the px of a block that matters furthest need not be its first or last one.
            return max(0, before, behind) + max(fit.grid) - 1
    return None


def _matters_beyond(network: nn.Module, in_channels: int, fit: Fit, reach: int) -> bool:
    """Whether a block in the middle changes when all that is further than `reach` px does."""
    shape, start, stop = _middle(fit, reach + SURROUNDINGS[len(fit.base)])
    image, other = (_noise(network, in_channels, shape, seed) for seed in (2, 3))
    near = [
        slice(a - reach, b + margin + reach)
        for a, b, margin in zip(start, stop, fit.margin, strict=True)
    ]
    other[(slice(None), slice(None), *near)] = image[(slice(None), slice(None), *near)]
    block = (slice(None), slice(None), *map(slice, start, stop))
    first, second = (_output(network, one)[block] for one in (image, other))
    return float((first - second).abs().max()) > 1e-6 * float(first.abs().max())


def measured_grid(network: nn.Module, in_channels: int, fit: Fit, reach: Shape) -> Shape | None:
    """How far an image must be moved for the output to move as it does, per axis, in px.

    None if no distance is found: then it matters where in the image a pixel lies.
    """
    moves = [tuple(n * step for step in fit.stride) for n in GRIDS]
    for move in (fit.grid, *(one for one in moves if max(one) <= GRIDS[-1])):
        if _moves_along(network, in_channels, fit, reach, move):
            return move
    return None


def likely_grid(network: nn.Module, in_channels: int, fit: Fit) -> Shape:
    """How much of the image goes into one px of the coarsest picture that a part of the network
    gives, per axis, in px; a multiple of the stride. To be confirmed by `measured_grid`."""
    image = _noise(network, in_channels, fit.base)
    shares = [1.0]

    def see(part: nn.Module, given: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == image.ndim:
            sizes = zip(fit.base, output.shape[2:], fit.stride, strict=True)
            shares.extend(n / max(1, m) / step for n, m, step in sizes)

    parts = [part for part in network.modules() if not isinstance(part, torch.jit.ScriptModule)]
    hooks = [part.register_forward_hook(see) for part in parts]  # programs take none
    try:
        _output(network, image)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(round(max(shares)) * step for step in fit.stride)


def _moves_along(network: nn.Module, in_channels: int, fit: Fit, reach: Shape, move: Shape) -> bool:
    """Whether the output of an image that is moved is moved as far and no other."""
    # NOTE: if it works on this grid, the reach of other px than those tried is up to one larger.
    far = [n + 2 * m for n, m in zip(reach, move, strict=True)]
    shape = fit.size_for(tuple(2 * n + BLOCK_SIZE for n in far))
    image = _noise(network, in_channels, tuple(n + m for n, m in zip(shape, move, strict=True)))
    outputs = []
    for start in ((0,) * len(move), move):
        shown = [slice(at, at + n) for at, n in zip(start, shape, strict=True)]
        inner = [slice(n - at, n - at + BLOCK_SIZE) for n, at in zip(far, start, strict=True)]
        found = _output(network, image[(slice(None), slice(None), *shown)])
        outputs.append(found[(slice(None), slice(None), *inner)])
    difference = float((outputs[0] - outputs[1]).abs().max())
    return difference <= 1e-4 * float(outputs[0].abs().max())
