"""Three ways to run a network on an image that is larger than what fits in memory at once.

`RowByRow` for networks whose layers are known: each pixel computed once, exactly. In `tiles` are
`Tiled` for other networks with a bounded reach, exact on tiles that overlap by it, and `Blended`
for networks with statistics of the whole image: overlapping tiles, averaged with Gaussian weights
as nnU-Net does (Isensee et al. 2021), whose result depends on the size of the tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from napari_unet.core.engine.fitting import Fit
from napari_unet.core.engine.graph import Graph, Shape, Spans
from napari_unet.core.engine.ops import Join
from napari_unet.core.engine.source import Source
from napari_unet.core.engine.streaming import Stream
from napari_unet.core.outcomes import Outcome, probabilities_of

__all__ = ["Activation", "RowByRow", "Way", "activated", "shifted"]

Activation = Outcome
T = TypeVar("T")

STRIP_BYTES = 2**24
"""No output of a layer is larger than this while rows go through: larger ones are given back to the
system by glibc and cost page faults each time, which makes everything 1.2 to 1.9 times slower."""
GPU_STRIP_BYTES = 2**28


class Way(Protocol):
    """How one network is run on one plane or volume."""

    @property
    def reach(self) -> Shape:
        """How far around a window the image is read beyond it, per axis, in px."""

    @property
    def stride(self) -> Shape:
        """Windows that begin and end on multiples of this cost least, per axis, in px."""

    def compute(
        self, source: Source, shape: Shape, window: Spans
    ) -> Iterator[tuple[Spans, Tensor]]:
        """Give the probabilities of `window`, part by part: `(part, (1, output, *part))`."""

    def smaller(self) -> Way | None:
        """The same with less memory, if there is any way to do with less."""


@torch.inference_mode()
def activated(logits: Tensor, activation: Activation) -> Tensor:
    """Logits `(1, output, ...)` to float32 probabilities."""
    return probabilities_of(logits, activation)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowByRow:
    """The layers of a network, evaluated row by row.

    Attributes
    ----------
    graph : the network, in the arithmetic that is used.
    fit : which image sizes it takes.
    activation : what turns logits into probabilities.
    reach : how far around a window the image matters, per axis, in px.
    order : the axes in the order that the layers of `graph` have; rows lie along the first one.
    strip_bytes : size of the largest piece that a layer computes at once.
    """

    graph: Graph
    fit: Fit
    activation: Activation
    reach: Shape
    order: tuple[int, ...]
    strip_bytes: int = STRIP_BYTES

    @property
    def stride(self) -> Shape:
        """Windows that begin and end on multiples of this cost least, in px."""
        return self.fit.stride

    def n_rows(self, wanted: Spans) -> int:
        """Rows that are taken at once, so that no output of a layer is larger than allowed."""
        n_px = math.prod(stop - start for start, stop in wanted[1:])
        return max(1, self.strip_bytes // (n_px * self._bytes_per_px()))

    def _bytes_per_px(self) -> int:
        """Of the widest layer, in bytes per px of the image."""
        base = self._turned(self.fit.base)
        widest = 1.0
        for layer, size in zip(self.graph.layers, self.graph.sizes(base)[1:], strict=True):
            if isinstance(layer.op, Join):  # written to where it is read, again and again
                continue
            weight = getattr(layer.op, "weight", None)
            n_bytes = 4 if weight is None else weight.element_size()
            share = math.prod(size) / math.prod(base)
            widest = max(widest, layer.n_channels * n_bytes * share)
        return round(widest)

    def _turned(self, values: Sequence[T]) -> tuple[T, ...]:
        """Values per axis, in the order of the layers."""
        return tuple(values[at] for at in self.order)

    def _back(self, values: Sequence[T]) -> tuple[T, ...]:
        """Values in the order of the layers, per axis."""
        return tuple(values[self.order.index(at)] for at in range(len(self.order)))

    def compute(
        self, source: Source, shape: Shape, window: Spans
    ) -> Iterator[tuple[Spans, Tensor]]:
        """Give the probabilities of `window`, some rows at a time, in order."""
        turned = self._turned(window)
        frame = self._turned(self.fit.size_for(shape))
        stream = Stream(self.graph, frame, turned, self.strip_bytes)
        wanted = shifted(self._back(stream.wanted), self.fit.before)
        back = [0, 1, *(at + 2 for at in self._back(range(len(window))))]
        first = turned[0][0]
        strips = source.rows(wanted, self.n_rows(stream.wanted), axis=self.order[0])
        with closing(strips):
            for rows in strips:
                ready = self._push(stream, rows.permute(0, 1, *(at + 2 for at in self.order)))
                if ready is not None:
                    span = (first, first + int(ready.shape[2]))
                    first = span[1]
                    yield self._back((span, *turned[1:])), ready.permute(back)

    @torch.inference_mode()
    def _push(self, stream: Stream, rows: Tensor) -> Tensor | None:
        ready = stream.push(rows)
        return None if ready is None else activated(ready, self.activation)

    def smaller(self) -> RowByRow | None:
        """Half as many rows at once."""
        if self.strip_bytes <= 2**18:
            return None
        return replace(self, strip_bytes=self.strip_bytes // 4)


def shifted(spans: Spans, before: Shape) -> Spans:
    """Spans of the network's input as spans of the image."""
    return tuple((start - n, stop - n) for (start, stop), n in zip(spans, before, strict=True))
