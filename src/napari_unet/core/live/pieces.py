"""What was painted, ready for training: pictures with targets, and patches cut from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_unet.core.corrections import IGNORE, CorrectedBlock, target_of
from napari_unet.core.engine.source import continued

__all__ = ["HELD", "Patch", "Piece", "cut", "piece_of", "places_in"]

HELD = 254
"""In targets: painted, but held out. Neither trained on nor held to an answer."""


@dataclass(slots=True, kw_only=True, eq=False)
class Piece:
    """A painted block and what surrounds it.

    Attributes
    ----------
    index, start : position along the axes that are stepped through, and where the picture begins,
        `([z,] y, x)`, in px of the image.
    image : normalised `(c, [z,] y, x)`; a single channel stands for all that the network takes.
    target : class `([z,] y, x)` uint8; `IGNORE` where nobody painted, `HELD` where held out.
    held : the same for what is held out, and `IGNORE` everywhere else.
    places, held_places : class to the pixels `(n, axis)` that are trained on, and that are held
        out, in px of the picture.
    answer : what the network said of it before, `(output, [z,] y, x)`; None if not known yet.
    """

    index: tuple[int, ...]
    start: tuple[int, ...]
    image: Tensor
    target: Tensor
    held: Tensor
    places: Mapping[int, Tensor] = field(default_factory=dict)
    held_places: Mapping[int, Tensor] = field(default_factory=dict)
    answer: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Patch:
    """What one training patch shows: see `Piece`."""

    image: Tensor
    target: Tensor
    answer: Tensor | None


def piece_of(block: CorrectedBlock, shown: Tensor, held: npt.NDArray[np.bool_]) -> Piece:
    """A block ready for training.

    Parameters
    ----------
    block : plane or volume, with the image around it.
    shown : its image as the network wants it, `(c, [z,] y, x)`.
    held : bool `([z,] y, x)`, which of its corrections are held out.
    """
    target = torch.from_numpy(target_of(block))
    inner = tuple(
        slice(at - start, at - start + n)
        for at, start, n in zip(
            block.origin, block.image_origin, block.corrections.shape, strict=True
        )
    )
    mask = torch.zeros(target.shape, dtype=torch.bool)
    mask[inner] = torch.from_numpy(held)
    mask &= target != IGNORE
    left_out = torch.where(mask, target, IGNORE)
    target[mask] = HELD
    return Piece(
        index=block.index, start=block.image_origin, image=shown, target=target, held=left_out,
        places=places_in(target),
        held_places=places_in(left_out) if held.any() else {},
    )  # fmt: skip


def places_in(target: Tensor) -> dict[int, Tensor]:
    """Class to the pixels `(n, axis)` of it."""
    return {
        int(value): torch.nonzero(target == value) for value in torch.unique(target) if value < HELD
    }


def cut(piece: Piece, center: Sequence[float], shape: tuple[int, ...]) -> Patch:
    """A patch of `shape` around `center`, moved inside the picture; mirrored if that is smaller."""
    spans = tuple(
        _span(at, n, size) for at, n, size in zip(center, shape, piece.target.shape, strict=True)
    )
    if all(first >= 0 for first, _ in spans):
        window = tuple(slice(*span) for span in spans)
        return Patch(
            image=piece.image[(slice(None), *window)],
            target=piece.target[window],
            answer=None if piece.answer is None else piece.answer[(slice(None), *window)],
        )
    target = continued(piece.target[None], spans)[0]
    for axis, ((first, last), size) in enumerate(zip(spans, piece.target.shape, strict=True)):
        at = torch.arange(first, last)
        outside = torch.nonzero((at < 0) | (at >= size))[:, 0]
        target.index_fill_(axis, outside, IGNORE)
    return Patch(
        image=continued(piece.image, spans),
        target=target,
        answer=None if piece.answer is None else continued(piece.answer, spans),
    )


def _span(center: float, n: int, size: int) -> tuple[int, int]:
    """`n` px around a centre: inside, or around everything if there are fewer."""
    if n > size:
        first = -((n - size) // 2)
        return first - (first == 0), first - (first == 0) + n
    first = min(max(round(center - n / 2), 0), size - n)
    return first, first + n
