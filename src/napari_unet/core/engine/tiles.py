"""Networks as they are, on tiles: that overlap by their reach, or that are blended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor, nn

from napari_unet.core.engine.fitting import Fit
from napari_unet.core.engine.geometry import Span
from napari_unet.core.engine.graph import Shape, Spans
from napari_unet.core.engine.source import Source
from napari_unet.core.engine.symmetry import AS_IT_IS, Symmetry
from napari_unet.core.engine.tracing import picture_in
from napari_unet.core.engine.ways import Activation, activated, shifted
from napari_unet.core.tiling import padded_size

__all__ = ["Blended", "Tiled", "run_network"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tiled:
    """A network as it is, on tiles that overlap by its reach.

    Attributes
    ----------
    network, fit, activation : as in `RowByRow`.
    reach : how far around a block of `stride` px the input can matter to it, in px.
    tile_size : edge of what a tile gives, in px.
    symmetry : how the network sees the image.
    dtype : the type of the arithmetic.
    """

    network: nn.Module
    fit: Fit
    activation: Activation
    reach: Shape
    tile_size: int
    symmetry: Symmetry = AS_IT_IS
    dtype: torch.dtype = torch.float32

    @property
    def stride(self) -> Shape:
        """Tiles begin and end on multiples of this, in px."""
        return self.fit.grid

    def compute(
        self, source: Source, shape: Shape, window: Spans
    ) -> Iterator[tuple[Spans, Tensor]]:
        """Give the probabilities of `window`, tile by tile."""
        by_axis = [
            _cuts(span, padded_size(self.tile_size, step))
            for span, step in zip(window, self.stride, strict=True)
        ]
        for tile in product(*by_axis):
            yield tile, self._tile(source, shape, tile)

    def _tile(self, source: Source, shape: Shape, tile: Spans) -> Tensor:
        frame = self.fit.size_for(shape)
        read = tuple(self._read_span(axis, frame[axis], span) for axis, span in enumerate(tile))
        found = self._run(source.read(shifted(read, self.fit.before)))
        inner = [slice(a - r, b - r) for (a, b), (r, _) in zip(tile, read, strict=True)]
        return activated(found[(slice(None), slice(None), *inner)], self.activation)

    def _read_span(self, axis: int, frame: int, span: Span) -> Span:
        """What to read for `span` of the result: of a size that fits, inside the frame."""
        if axis in self.symmetry.mirrored_axes(len(self.reach)):  # what the network sees counts
            behind = frame - self.fit.margin[axis]
            start, stop = self._seen_span(axis, frame, (behind - span[1], behind - span[0]))
            return frame - stop, frame - start
        return self._seen_span(axis, frame, span)

    def _seen_span(self, axis: int, frame: int, span: Span) -> Span:
        step, margin = self.stride[axis], self.fit.margin[axis]
        reach = padded_size(self.reach[axis], step)
        start = max(0, span[0] // step * step - reach)
        # NOTE: where the frame ends the network pads just as it would pad the whole image.
        stop = min(padded_size(span[1], step) + reach, frame - margin)
        wanted = tuple(stop - start if at == axis else 1 for at in range(len(self.reach)))
        size = self.fit.size_for(wanted)[axis]
        if start + size > frame:
            start = max(0, (frame - size) // step * step)
            size = frame - start
        return start, start + size

    def _run(self, image: Tensor) -> Tensor:
        return run_network(self.network, image, self.symmetry, self.dtype)

    def smaller(self) -> Tiled | None:
        """Tiles of half the edge."""
        if self.tile_size <= 64:
            return None
        return replace(self, tile_size=max(64, self.tile_size // 2))


@torch.inference_mode()
def run_network(
    network: nn.Module, image: Tensor, symmetry: Symmetry, dtype: torch.dtype = torch.float32
) -> Tensor:
    """One run of a network as it is: float32 `(1, c, ...)` to logits `(1, output, ...)`."""
    if image.device.type in ("cpu", "cuda"):  # where this layout is known to be faster
        layout = torch.channels_last if image.ndim == 4 else torch.channels_last_3d
        image = image.contiguous(memory_format=layout)
    is_reduced = dtype != torch.float32
    with torch.autocast(image.device.type, dtype=dtype) if is_reduced else nullcontext():
        logits = picture_in(network(symmetry.apply(image)), image.ndim)
    return symmetry.undo(logits)


def _cuts(span: Span, step: int) -> list[Span]:
    """Pieces of at most `step` px."""
    return [(at, min(at + step, span[1])) for at in range(*span, step)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blended:
    """A network as it is, on tiles that overlap by half, averaged with Gaussian weights.

    The tiles lie on one grid for the whole image, so that the result does not depend on the window
    that is asked for, nor on the order.
    """

    network: nn.Module
    fit: Fit
    activation: Activation
    tile_size: int
    symmetry: Symmetry = AS_IT_IS
    dtype: torch.dtype = torch.float32

    @property
    def stride(self) -> Shape:
        """Windows of whole half tiles cost least, in px."""
        return tuple(max(1, size // 2) for size in self._tile_shape())

    @property
    def reach(self) -> Shape:
        """Tiles that touch a window are read whole, in px."""
        return self._tile_shape()

    def _tile_shape(self) -> Shape:
        return self.fit.size_for((self.tile_size,) * len(self.fit.base))

    def compute(
        self, source: Source, shape: Shape, window: Spans
    ) -> Iterator[tuple[Spans, Tensor]]:
        """Give the probabilities of `window`, in one go."""
        total: Tensor | None = None
        by_axis = [
            [span for span in _grid(n, size, max(1, size // 2)) if _overlap(span, part)]
            for n, size, part in zip(shape, self._tile_shape(), window, strict=True)
        ]
        for tile in product(*by_axis):
            part = self._tile(source, tile)
            if total is None:
                room = [stop - start for start, stop in window]
                total = part.new_zeros((1, part.shape[1], *room))
            _add(total, part, window, tile)
        assert total is not None
        yield window, total[:, :-1] / total[:, -1:]

    def _tile(self, source: Source, tile: Spans) -> Tensor:
        """Weighted probabilities of a tile, with the weights as the last channel."""
        fitting = self.fit.size_for(tuple(stop - start for start, stop in tile))
        read = tuple(
            (start - before, start - before + size)
            for (start, _), before, size in zip(tile, self.fit.before, fitting, strict=True)
        )
        found = self._run(source.read(read))
        inner = [slice(0, stop - start) for start, stop in tile]
        found = activated(found[(slice(None), slice(None), *inner)], self.activation)
        weights = _gaussian(tile, found)
        return torch.cat([found * weights, weights], dim=1)

    def _run(self, image: Tensor) -> Tensor:
        return run_network(self.network, image, self.symmetry, self.dtype)

    def smaller(self) -> Blended | None:
        """Tiles of half the edge."""
        if self.tile_size <= 64:
            return None
        return replace(self, tile_size=max(64, self.tile_size // 2))


def _grid(size: int, tile: int, step: int) -> list[Span]:
    """Tiles along one axis; the last one ends where the image ends."""
    if size <= tile:
        return [(0, size)]
    starts = [*range(0, size - tile, step), size - tile]
    return [(start, start + tile) for start in starts]


def _overlap(first: Span, second: Span) -> bool:
    return first[0] < second[1] and second[0] < first[1]


def _gaussian(tile: Spans, like: Tensor) -> Tensor:
    """Weights `(1, 1, *tile)`: a Gaussian of an eighth of the edge, never quite zero."""
    weights = like.new_ones((1, 1, *[1] * len(tile)))
    for axis, (start, stop) in enumerate(tile, start=2):
        n = stop - start
        at = torch.arange(n, device=like.device, dtype=torch.float32) - (n - 1) / 2
        line = torch.exp(-0.5 * (at / (n / 8)) ** 2).clamp_min(1e-4)
        shape = [1] * like.ndim
        shape[axis] = n
        weights = weights * line.view(shape)
    return weights


def _add(total: Tensor, part: Tensor, window: Spans, tile: Spans) -> None:
    """Add a tile to the part of the window that it overlaps."""
    both: Sequence[Span] = [
        (max(w[0], t[0]), min(w[1], t[1])) for w, t in zip(window, tile, strict=True)
    ]
    there = [slice(a - w[0], b - w[0]) for (a, b), w in zip(both, window, strict=True)]
    here = [slice(a - t[0], b - t[0]) for (a, b), t in zip(both, tile, strict=True)]
    total[(slice(None), slice(None), *there)] += part[(slice(None), slice(None), *here)]
