"""A network as a list of layers, in the order in which they are evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from napari_unet.core.engine.geometry import Span, hull
from napari_unet.core.engine.ops import Affine, Convolution, Op, Pointwise, Transposed

__all__ = ["Graph", "Layer", "UnsupportedError", "WholeImageError", "exact", "fused", "joined"]

Shape = tuple[int, ...]
Spans = tuple[Span, ...]


class UnsupportedError(Exception):
    """Why a network cannot be evaluated layer by layer, window by window."""


class WholeImageError(UnsupportedError):
    """A layer uses statistics of the whole image."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """One layer; `inputs` are places in the list of layers, where 0 is the image itself."""

    op: Op
    inputs: tuple[int, ...]
    n_channels: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Graph:
    """The layers of a network; `layers[i]` has the place i + 1, and the last one is the output."""

    dims: int
    in_channels: int
    layers: tuple[Layer, ...]

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.layers[-1].n_channels

    def consumers(self) -> list[list[int]]:
        """For each place, the places that read it."""
        found: list[list[int]] = [[] for _ in range(len(self.layers) + 1)]
        for place, layer in enumerate(self.layers, start=1):
            for source in layer.inputs:
                found[source].append(place)
        return found

    def sizes(self, image: Shape) -> list[Shape]:
        """Size `([z,] y, x)` of the image and of each layer's output in px.

        Raises
        ------
        UnsupportedError
            If the network cannot take an image of this size.
        """
        found = [image]
        for layer in self.layers:
            shapes = {found[source] for source in layer.inputs}
            if len(shapes) > 1:
                raise UnsupportedError(f"an image of {image} px leads to sizes that do not fit")
            (shape,) = shapes
            size = tuple(axis.out_size(n) for axis, n in zip(layer.op.axes, shape, strict=True))
            if min(size) < 1:
                raise UnsupportedError(f"an image of {image} px is too small")
            found.append(size)
        return found

    def needs(self, sizes: Sequence[Shape], window: Spans) -> list[Spans | None]:
        """The part of the image and of each layer's output that a window of the result needs."""
        hulls: list[list[Span] | None] = [None] * len(sizes)
        hulls[-1] = list(window)
        for place in range(len(sizes) - 1, 0, -1):
            wanted, layer = hulls[place], self.layers[place - 1]
            if wanted is None:
                continue
            for source in layer.inputs:
                known: Sequence[Span | None] = hulls[source] or [None] * self.dims
                hulls[source] = [
                    hull(old, _clipped(axis.reads(span, size), size))
                    for old, axis, span, size in zip(
                        known, layer.op.axes, wanted, sizes[source], strict=True
                    )
                ]
        return [None if spans is None else tuple(spans) for spans in hulls]

    def mapped(self, change: Callable[[Op], Op]) -> Graph:
        """The same network with each layer changed."""
        layers = tuple(replace(layer, op=change(layer.op)) for layer in self.layers)
        return replace(self, layers=layers)


def _clipped(span: Span, size: int) -> Span:
    """The part of a span inside the image; a span beyond a border becomes its nearest px."""
    start = min(max(span[0], 0), size - 1)
    return start, max(start + 1, min(span[1], size))


def fused(graph: Graph) -> Graph:
    """Batch normalisation folded into the convolution before it, and ReLUs fused with it."""
    layers: list[Layer | None] = list(graph.layers)
    moved = list(range(len(layers) + 1))  # place -> place that now gives its output
    consumers = graph.consumers()
    for place, layer in enumerate(graph.layers, start=1):
        source = moved[layer.inputs[0]]
        before = layers[source - 1] if source > 0 else None
        if before is None or len(layer.inputs) != 1 or len(consumers[layer.inputs[0]]) != 1:
            continue
        merged = _merged(before.op, layer.op)
        if merged is not None:
            layers[source - 1] = replace(before, op=merged)
            layers[place - 1] = None
            moved[place] = source
    return _renumbered(graph, layers, moved)


def _merged(first: Op, second: Op) -> Op | None:
    """One layer that does what two do one after the other, if there is one."""
    if not isinstance(first, Convolution | Transposed) or first.relu:
        return None
    if isinstance(second, Affine):
        return _folded(first, second)
    if isinstance(second, Pointwise) and second.name == "relu":
        return replace(first, relu=True)
    return None


def _folded(first: Convolution | Transposed, second: Affine) -> Op:
    weight, factor, shift = (exact(one) for one in (first.weight, second.factor, second.shift))
    if isinstance(first, Convolution):
        shape = (-1, *[1] * (weight.ndim - 1))
        weight = weight * factor.view(shape)  # (out, in, ...)
    else:  # (in, out / groups, ...)
        by_group = factor.view(first.groups, -1)  # (group, out / groups)
        factors = by_group.repeat_interleave(weight.shape[0] // first.groups, dim=0)
        weight = weight * factors.view(*factors.shape, *[1] * (weight.ndim - 2))
    if first.bias is not None:
        shift = shift + exact(first.bias) * factor
    return replace(first, weight=weight.to(first.weight), bias=shift.to(first.weight))


def exact(tensor: Tensor) -> Tensor:
    """A copy in float64, on the processor: Apple's GPUs have no such type."""
    return tensor.detach().cpu().double()


def _renumbered(graph: Graph, layers: Sequence[Layer | None], moved: Sequence[int]) -> Graph:
    """Close the gaps that merged layers have left."""
    places, kept = {0: 0}, []
    for place, layer in enumerate(layers, start=1):
        if layer is None:
            continue
        inputs = tuple(places[moved[source]] for source in layer.inputs)
        kept.append(replace(layer, inputs=inputs))
        places[place] = len(kept)
    return replace(graph, layers=tuple(kept))


def joined(pieces: Sequence[Tensor], dim: int) -> Tensor:
    """Pieces one behind the other; a single one is not copied."""
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces), dim)
