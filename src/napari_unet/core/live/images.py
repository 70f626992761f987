"""An image that is painted on while a model learns: what is needed to read and normalise it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_unet.core.corrections import BLOCK_SIZE as BLOCK
from napari_unet.core.corrections import (
    Box,
    CorrectedBlock,
    Corrections,
    block_at,
    block_origins,
    origins_in,
)
from napari_unet.core.errors import CorrectionsError
from napari_unet.core.image import Image
from napari_unet.core.model import Description
from napari_unet.core.normalization import IntensityScale, scale_of, summary_of
from napari_unet.core.training_images import as_input
from napari_unet.core.volumes import Slices, slices_of

__all__ = [
    "LiveImage",
    "PaintedBlock",
    "blocks_in",
    "changed_blocks",
    "live_image",
    "painted_blocks",
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LiveImage:
    """An image, and what normalises it alike wherever it is read.

    Attributes
    ----------
    key : what tells images apart; places in the inbox and in results name it.
    image : where pixels are read from; None if it is not open and its blocks bring their own.
    summary : raw quantiles `(c, n)` of the whole image, from `summary_of`.
    slices : for images that are not open: where the slices around painted planes come from.
    """

    key: str
    image: Image | None
    summary: npt.NDArray[np.generic]
    slices: Slices | None = None

    def scale(self, about: Description) -> IntensityScale:
        """How raw intensities become input of a model."""
        return scale_of(self.summary, about.normalization, about.in_channels)

    def input_of(self, raw: npt.NDArray[np.generic], about: Description) -> npt.NDArray[np.float32]:
        """Raw `(c, [z,] y, x)` as the network wants it; raises as `as_input`."""
        return as_input(raw, self.summary, about)

    def stack(self) -> Slices | None:
        """Where networks of volumes read the slices around painted planes from, if anywhere."""
        return self.slices if self.image is None else slices_of(self.image)

    def block(self, painted: PaintedBlock | CorrectedBlock) -> CorrectedBlock:
        """A painted block with the raw image around it, read now unless it brings its own."""
        if isinstance(painted, CorrectedBlock):
            return painted
        if self.image is None:
            raise CorrectionsError(
                f"Strokes came for an image that is not open ({self.key}). Open it and paint again."
            )
        return block_at(self.image, painted.corrections, painted.index, *painted.origin)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PaintedBlock:
    """Paint alone, to be put in the inbox: the image around it is read by the worker.

    Attributes
    ----------
    index : position along all label axes before `(y, x)`.
    origin : `(y, x)` of `corrections`, in px; multiples of `BLOCK_SIZE`.
    corrections : `(y, x)` uint8, at most `BLOCK_SIZE` a side, cut at the image border. All zero:
        whatever was painted there is not any more.
    """

    index: tuple[int, ...]
    origin: tuple[int, int]
    corrections: Corrections


def live_image(image: Image, key: str | None = None) -> LiveImage:
    """Measure an image that is open; `key` is its fingerprint unless given."""
    return LiveImage(
        key=image.fingerprint() if key is None else key,
        image=image,
        summary=summary_of(image.samples()),
    )


def painted_blocks(corrections: npt.NDArray[np.integer]) -> tuple[PaintedBlock, ...]:
    """Every block in which something is painted, of corrections `(*label_shape)`."""
    return tuple(_cut(corrections, block_origins(corrections)))


def blocks_in(corrections: npt.NDArray[np.integer], box: Box) -> tuple[PaintedBlock, ...]:
    """The blocks that a box touches, empty ones as well: what a stroke or an undo changed."""
    return tuple(_cut(corrections, origins_in(box, corrections.shape)))


def changed_blocks(
    before: npt.NDArray[np.integer], after: npt.NDArray[np.integer]
) -> tuple[PaintedBlock, ...]:
    """The blocks in which the paint is another one; empty where it is gone."""
    return tuple(_cut(after, block_origins(before != after)))


def _cut(
    corrections: npt.NDArray[np.integer], origins: Iterator[tuple[tuple[int, ...], int, int]]
) -> Iterator[PaintedBlock]:
    for index, y, x in origins:
        painted = np.array(corrections[index][y : y + BLOCK, x : x + BLOCK], np.uint8)
        yield PaintedBlock(index=tuple(int(n) for n in index), origin=(y, x), corrections=painted)
