"""Pieces of an image as a network wants them: continued by mirroring, scaled, on its device."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_unet.core.engine.graph import Spans
from napari_unet.core.errors import ImageError, UNetLiveError
from napari_unet.core.image import Image
from napari_unet.core.normalization import (
    IntensityScale,
    bounds_of,
    normalise,
    suffices_float32,
)
from napari_unet.core.overlap import read_ahead
from napari_unet.core.tiling import mirrored

__all__ = ["Source", "continued"]

BLOCK_BYTES = 2**24
"""About this many bytes of raw image are read at once; whole chunks where they are not larger."""
TORCH_READS = ["uint8", "int8", "uint16", "int16", "int32", "float16", "float32"]
"""Raw types that are scaled by torch, in several threads or on the GPU."""


def continued(image: Tensor, spans: Spans) -> Tensor:
    """An image `(c, [z,] y, x)` on `spans` that may reach beyond it, where it is mirrored."""
    for axis, span in enumerate(spans, start=1):
        at = torch.from_numpy(mirrored(slice(*span), image.shape[axis]))
        image = image.index_select(axis, at.to(image.device))
    return image


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """One plane (or volume) of an image as network input.

    Attributes
    ----------
    image, index : the image, and the position along the axes that are stepped through.
    scale : how raw intensities become input.
    in_channels : channels that the network wants; a single one is repeated.
    device : where the input goes. Raw values are sent there, which are smaller.
    waits : seconds spent waiting for lazy images, one entry for each read.
    """

    image: Image
    index: tuple[int, ...]
    scale: IntensityScale
    in_channels: int
    device: torch.device
    waits: list[float] = field(default_factory=list)
    _sent: list[Tensor] = field(default_factory=list)

    def read(self, spans: Spans) -> Tensor:
        """Input `(1, c, [z,] y, x)` for `spans` of the image, which may reach beyond it."""
        return self._shown(self._raw(spans))

    def rows(self, spans: Spans, n_rows: int, axis: int = 0) -> Generator[Tensor, None, None]:
        """The same in pieces of `n_rows` rows along `axis`; a lazy image is read ahead."""
        array = self.image.array
        if isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
            for start in range(*spans[axis], n_rows):
                stop = min(start + n_rows, spans[axis][1])
                yield self.read((*spans[:axis], (start, stop), *spans[axis + 1 :]))
            return
        blocks = [
            (*spans[:axis], span, *spans[axis + 1 :]) for span in self._blocks(spans, n_rows, axis)
        ]
        with read_ahead(blocks, self._raw) as pairs:
            for _, raw in pairs:
                for start in range(0, raw.shape[axis + 1], n_rows):
                    part = [slice(None)] * raw.ndim
                    part[axis + 1] = slice(start, start + n_rows)
                    yield self._shown(raw[tuple(part)])
            self.waits.append(pairs.waited)

    @property
    def waited(self) -> float:
        """Seconds spent waiting for the image to be read."""
        return sum(self.waits)

    def _blocks(self, spans: Spans, n_rows: int, axis: int) -> Iterator[tuple[int, int]]:
        """Spans of rows, of at least `n_rows`, that end where chunks of the image end."""
        chunk = self.image.chunk_shape()[axis - len(spans)]
        row = np.dtype(self.image.array.dtype).itemsize * self.image.n_channels
        for at, (start, stop) in enumerate(spans):
            row *= 1 if at == axis else stop - start
        step = max(n_rows, min(chunk, BLOCK_BYTES // row))
        start, last = spans[axis]
        while start < last:
            at_chunk = (start + step) // chunk * chunk
            stop = min(at_chunk if at_chunk > start else start + step, last)
            yield start, stop
            start = stop

    def _raw(self, spans: Spans) -> npt.NDArray[np.generic]:
        """Raw `(c, [z,] y, x)`, mirrored beyond the borders of the image.

        Raises
        ------
        ImageError
            If the file behind a lazy image cannot be read.
        """
        shape = self.image.spatial_shape(len(spans))
        sources = [mirrored(slice(*span), n) for span, n in zip(spans, shape, strict=True)]
        window = tuple(slice(int(at.min()), int(at.max()) + 1) for at in sources)
        try:
            raw = self.image.read(self.index, window)
        except (UNetLiveError, MemoryError):
            raise
        except Exception as error:  # of any library that reads files
            raise ImageError(
                f"A part of {self.image.name!r} could not be read: {error}. "
                "Check that its file is complete and still there."
            ) from error
        for axis, (at, span, n) in enumerate(zip(sources, spans, shape, strict=True), start=1):
            if span[0] < 0 or span[1] > n:
                raw = np.take(raw, at - int(at.min()), axis=axis)  # (c, [z,] y, x), as spans
        return raw

    def _shown(self, raw: npt.NDArray[np.generic]) -> Tensor:
        """Scaled float32 `(1, c, [z,] y, x)` on the device; the same as `normalise` gives."""
        if raw.dtype.name in TORCH_READS and suffices_float32(raw.dtype, self.scale):
            shown = self._scaled(self._up(torch.from_numpy(np.ascontiguousarray(raw))))
        else:
            shown = self._up(torch.from_numpy(normalise(raw, self.scale)))
        if shown.shape[0] < self.in_channels:
            shown = shown.expand(self.in_channels, *shown.shape[1:])
        return shown[None]

    def _up(self, values: Tensor) -> Tensor:
        """Values on the device; a GPU goes on computing meanwhile."""
        if self.device.type == "cuda":
            return values.pin_memory().to(self.device, non_blocking=True)
        return values.to(self.device)

    def _scaled(self, raw: Tensor) -> Tensor:
        shown = raw.to(torch.float32)
        offset, factor, low, high = self._parameters(shown.ndim)
        shown = (shown - offset).mul_(factor)
        shown.nan_to_num_(nan=0.0, posinf=math.inf, neginf=-math.inf)
        return shown.clamp_(low, high)

    def _parameters(self, ndim: int) -> Sequence[Tensor]:
        """Offset, factor and bounds per channel, as `(c, 1, ...)`; sent to the device once."""
        if self._sent:
            return self._sent
        shape = (-1, *[1] * (ndim - 1))
        factor = 1 / np.asarray(self.scale.scale, np.float64)
        all_of_them = (
            np.asarray(self.scale.offset, np.float32), factor.astype(np.float32),
            *bounds_of(self.scale, ndim),
        )  # fmt: skip
        self._sent.extend(self._up(torch.from_numpy(one).reshape(shape)) for one in all_of_them)
        return self._sent
