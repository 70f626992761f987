"""A network as it would see the image in a mirror, or turned: for test-time augmentation.

Instead of the image its layers are mirrored, so that a mirrored network is evaluated row by row
just as the network itself, and its result lies where the image lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, TypeVar

from torch import Tensor

from napari_unet.core.engine.graph import Graph, Shape, UnsupportedError
from napari_unet.core.engine.ops import Convolution, Op, Pointwise, Transposed

__all__ = ["AS_IT_IS", "Symmetry", "reordered", "seen_through", "symmetries"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Symmetry:
    """Exchange y and x first (`turned`), then mirror along the axes in `mirrored`."""

    mirrored: tuple[int, ...] = ()
    turned: bool = False

    def apply(self, image: Tensor) -> Tensor:
        """What the network sees of `(b, c, [z,] y, x)`."""
        image = image.transpose(-1, -2) if self.turned else image
        return image.flip([axis + 2 for axis in self.mirrored]) if self.mirrored else image

    def mirrored_axes(self, dims: int) -> tuple[int, ...]:
        """The axes of the image, not of what the network sees, that are mirrored."""
        swapped = {dims - 2: dims - 1, dims - 1: dims - 2} if self.turned else {}
        return tuple(swapped.get(axis, axis) for axis in self.mirrored)

    def undo(self, output: Tensor) -> Tensor:
        """What it finds, put back to where the image is."""
        output = output.flip([a + 2 for a in self.mirrored]) if self.mirrored else output
        return output.transpose(-1, -2) if self.turned else output


AS_IT_IS = Symmetry()


def symmetries(kind: Literal["none", "flips", "rotations"], dims: int) -> tuple[Symmetry, ...]:
    """The ways to show an image: as it is, mirrored, and turned by right angles in the plane."""
    if kind == "none":
        return (Symmetry(),)
    turns = (False, True) if kind == "rotations" else (False,)
    return tuple(
        Symmetry(mirrored=tuple(axis for axis in range(dims) if flips[axis]), turned=turned)
        for turned in turns
        for flips in product((False, True), repeat=dims)
    )


def seen_through(graph: Graph, symmetry: Symmetry, size: Shape) -> Graph:
    """The network that gives for an image what `graph` gives for the image seen so.

    Parameters
    ----------
    graph : the network.
    symmetry : how it would see the image.
    size : `([z,] y, x)` of the image in px; it must fit the network.

    Raises
    ------
    UnsupportedError
        If a layer tells left from right in a way that cannot be mirrored.
    """
    seen_size = (*size[:-2], size[-1], size[-2]) if symmetry.turned else size
    sizes = graph.sizes(seen_size)
    layers = [
        replace(layer, op=_seen(layer.op, symmetry, sizes[layer.inputs[0]]))
        for layer in graph.layers
    ]
    return replace(graph, layers=tuple(layers))


def _seen(op: Op, symmetry: Symmetry, size: Shape) -> Op:
    if isinstance(op, Pointwise) and op.name == "pixel shuffle" and symmetry != Symmetry():
        raise UnsupportedError("a layer turns channels into pixels")
    axes = [
        axis.flipped(n) if at in symmetry.mirrored else axis
        for at, (axis, n) in enumerate(zip(op.axes, size, strict=True))
    ]
    if isinstance(op, Convolution):
        dilation = _turned(op.dilation, symmetry)
        op = replace(op, weight=symmetry.undo(op.weight), dilation=dilation, planes=())
    elif isinstance(op, Transposed):
        op = replace(op, weight=symmetry.undo(op.weight))
    return replace(op, axes=_turned(axes, symmetry))


def _turned(values: Sequence[T], symmetry: Symmetry) -> tuple[T, ...]:
    """Values per axis, y and x exchanged if the image is turned."""
    if not symmetry.turned:
        return tuple(values)
    return (*values[:-2], values[-1], values[-2])


def reordered(graph: Graph, order: Sequence[int]) -> Graph:
    """The network for an image whose spatial axes are given in another order.

    `order` names for each axis of that image the axis of this network's own.
    """

    def change(op: Op) -> Op:
        axes = tuple(op.axes[at] for at in order)
        if isinstance(op, Pointwise) and op.name == "pixel shuffle":
            raise UnsupportedError("a layer turns channels into pixels")
        if isinstance(op, Convolution | Transposed):
            weight = op.weight.permute(0, 1, *(at + 2 for at in order))
            op = replace(op, weight=weight)
        if isinstance(op, Convolution):
            op = replace(op, dilation=tuple(op.dilation[at] for at in order), planes=())
        return replace(op, axes=axes)

    return graph.mapped(change)
