"""All strokes so far, as pictures with targets: what a network in training learns from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_unet.core.corrections import BLOCK_SIZE, CorrectedBlock, Corrections, check_classes
from napari_unet.core.live.drawing import Stroke, Strokes
from napari_unet.core.live.holding import Holding, Place
from napari_unet.core.live.images import LiveImage, PaintedBlock
from napari_unet.core.live.inbox import Painted
from napari_unet.core.live.pieces import HELD, Piece, piece_of, places_in
from napari_unet.core.model import Description
from napari_unet.core.volumes import corrected_volumes

__all__ = ["Paint"]

_Box: TypeAlias = tuple[tuple[int, int], tuple[int, int]]


class Paint:
    """Painted blocks by place, and the pieces that are made of them.

    Parameters
    ----------
    about : the model that is to learn from them.
    held_out : share of the corrected cells that is scored on and never trained on.

    Attributes
    ----------
    pieces : column to what is trained on there. For networks of planes each block is a column by
        itself; for networks of volumes the blocks that lie one behind the other are one.
    strokes : the newest strokes, and turns in which all come up.
    """

    def __init__(self, about: Description, held_out: float) -> None:
        self._about, self._dims = about, about.dims
        self._blocks: dict[Place, tuple[LiveImage, CorrectedBlock]] = {}
        self._holding = Holding(held_out, about.dims)
        self.pieces: dict[object, list[Piece]] = {}
        self.strokes = Strokes()

    @property
    def n_blocks(self) -> int:
        """Painted blocks that are known."""
        return len(self._blocks)

    @property
    def n_trained(self) -> int:
        """Corrected px that are trained on (twice where the pictures of two blocks overlap)."""
        return sum(len(places) for piece in self.all() for places in piece.places.values())

    @property
    def values(self) -> list[int]:
        """The classes that are trained on."""
        return sorted({value for piece in self.all() for value in piece.places})

    def all(self) -> Iterator[Piece]:
        """Every piece."""
        for mine in self.pieces.values():
            yield from mine

    def take(self, message: Painted) -> None:
        """Put painted blocks at their places; empty ones take away what was there.

        Raises
        ------
        CorrectionsError
            If the model does not know a painted class, or cannot learn from the image. Blocks
            that came before it in the message stay.
        """
        for painted in message.blocks:
            check_classes(painted.corrections, len(self._about.class_names))
        columns: dict[object, None] = {}
        try:
            for painted in message.blocks:
                place = _place(message.image.key, painted)
                where = self._put(message.image, place, painted)
                showing = [one for one in self._near(place) if self._shows(one, where)]
                columns |= dict.fromkeys(self._column(one) for one in (place, *showing))
        finally:
            for column in columns:
                self._build(column)

    def forget(self, key: str) -> None:
        """Take all strokes of an image out of training."""
        for place in [place for place in self._blocks if place[0] == key]:
            del self._blocks[place]
            self.pieces.pop(self._column(place), None)

    def _put(self, image: LiveImage, place: Place, painted: PaintedBlock | CorrectedBlock) -> _Box:
        """Keep a painted block, see what is new in it, and tell where it differs."""
        before = self._blocks.get(place)
        where = _difference(place, None if before is None else before[1], painted.corrections)
        if not painted.corrections.any():
            self._blocks.pop(place, None)
            return where
        paint = np.array(painted.corrections, np.uint8)
        if before is None:
            block, fresh = image.block(painted), paint > 0
        else:
            block = _repainted(before[1], paint)
            fresh = (paint > 0) & (paint != before[1].corrections)
        self._blocks[place] = image, block
        self._holding.take(place, paint, fresh)
        trained = fresh & ~self._holding.held(place, paint.shape)
        for value in np.unique(paint[trained]).tolist():
            pixels = np.argwhere(trained & (paint == value)) + np.array(place[2])
            if self._dims == 3:
                pixels = np.insert(pixels, 0, place[1][-1], axis=1)
            self.strokes.recent.append(
                Stroke(column=self._column(place), value=value - 1, pixels=torch.from_numpy(pixels))
            )
        return where

    def _column(self, place: Place) -> object:
        key, index, origin = place
        return key, index[: len(index) - (self._dims - 2)], origin

    def _near(self, place: Place) -> list[Place]:
        """A block and, of planes, the blocks around it whose pictures show some of it."""
        if self._dims == 3:
            return [place]
        key, index, (y, x) = place
        steps = (-BLOCK_SIZE, 0, BLOCK_SIZE)
        around: list[Place] = [(key, index, (y + dy, x + dx)) for dy in steps for dx in steps]
        return [place, *(other for other in around if other != place and other in self._blocks)]

    def _shows(self, place: Place, where: _Box) -> bool:
        """Whether the picture of a kept block shows some of a part of its plane."""
        if place not in self._blocks:
            return False
        block = self._blocks[place][1]
        sides = zip(block.image_origin[-2:], block.image.shape[-2:], where, strict=True)
        return all(at < last and first < at + n for at, n, (first, last) in sides)

    def _build(self, column: object) -> None:
        """Make the pieces of a column anew."""
        old = self.pieces.pop(column, [])
        mine = {
            place: kept for place, kept in self._blocks.items() if self._column(place) == column
        }
        if not mine:
            return
        if self._dims == 3:
            self.pieces[column] = list(self._volumes(mine))
            return
        ((place, (image, block)),) = mine.items()
        shown = old[0].image if old else self._shown(image, block)
        piece = piece_of(block, shown, self._held(place, block))
        self._overlay(piece, place)
        piece.answer = old[0].answer if old else None
        self.pieces[column] = [piece]

    def _held(self, place: Place, block: CorrectedBlock) -> npt.NDArray[np.bool_]:
        return self._holding.held(place, block.corrections.shape)

    def _volumes(self, mine: dict[Place, tuple[LiveImage, CorrectedBlock]]) -> Iterator[Piece]:
        """The slices of a stack that were painted on, with those around them."""
        images = [image for image, _ in mine.values()]
        image = next((one for one in images if one.image is not None), images[0])
        blocks = [block for _, block in mine.values()]
        held = [(block, self._held(place, block)) for place, (_, block) in mine.items()]
        for volume in corrected_volumes(blocks, image.stack()):
            yield piece_of(volume, self._shown(image, volume), _held_in(volume, held))

    def _shown(self, image: LiveImage, block: CorrectedBlock) -> Tensor:
        """As the network wants it; once only if it is shown the same for all channels."""
        shown = torch.from_numpy(image.input_of(block.image, self._about))
        is_gray = block.image.shape[0] == 1
        return shown[:1].clone() if is_gray and bool((shown == shown[:1]).all()) else shown

    def _overlay(self, piece: Piece, place: Place) -> None:
        """What is painted around a block, where its picture shows it."""
        for near in self._near(place)[1:]:
            block = self._blocks[near][1]
            held = self._held(near, block)
            mine, theirs = _common(piece, block)
            paint = block.corrections[theirs]
            values = np.where(held[theirs], HELD, paint - (paint > 0))[paint > 0]
            piece.target[mine][torch.from_numpy(paint > 0)] = torch.from_numpy(values)
        piece.places = places_in(piece.target)


def _place(key: str, painted: PaintedBlock | CorrectedBlock) -> Place:
    top, left = (int(n) for n in painted.origin[-2:])
    return key, tuple(int(n) for n in painted.index), (top, left)


def _difference(place: Place, before: CorrectedBlock | None, paint: Corrections) -> _Box:
    """Rows and columns, from-to in px of the image, in which the paint is another one."""
    changed = paint > 0 if before is None else paint != before.corrections
    sides = []
    for axis, start in enumerate(place[2]):
        at = np.flatnonzero(changed.any(axis=1 - axis))
        sides.append((start + int(at[0]), start + int(at[-1]) + 1) if at.size else (start, start))
    return sides[0], sides[1]


def _common(piece: Piece, block: CorrectedBlock) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a picture and the paint of another block overlap, in px of either."""
    sizes = tuple(piece.target.shape), block.corrections.shape
    each = zip(piece.start, sizes[0], block.origin, sizes[1], strict=True)
    spans = [(max(a, b), max(a, b, min(a + n, b + m))) for a, n, b, m in each]
    mine, theirs = (
        tuple(slice(a - at, b - at) for (a, b), at in zip(spans, start, strict=True))
        for start in (piece.start, block.origin)
    )
    return mine, theirs


def _held_in(
    volume: CorrectedBlock, held: Sequence[tuple[CorrectedBlock, npt.NDArray[np.bool_]]]
) -> npt.NDArray[np.bool_]:
    """Which corrections `(z, y, x)` of a volume are held out."""
    mask = np.zeros(volume.corrections.shape, bool)
    depth, height, width = volume.corrections.shape
    for block, mine in held:
        z = block.index[-1] - volume.origin[0]
        top, left = (volume.origin[axis + 1] - block.origin[axis] for axis in (0, 1))
        if 0 <= z < depth:
            mask[z] = mine[top : top + height, left : left + width]
    return mask


def _repainted(block: CorrectedBlock, paint: Corrections) -> CorrectedBlock:
    return CorrectedBlock(
        index=block.index, origin=block.origin, corrections=paint, image=block.image,
        image_origin=block.image_origin,
    )  # fmt: skip
