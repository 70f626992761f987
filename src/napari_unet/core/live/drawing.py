"""Which patches a step learns from: those around new strokes, around all, and rehearsal."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from napari_unet.core.live.pieces import Patch, Piece
from napari_unet.core.patches import integer

__all__ = ["Batch", "Stroke", "Strokes", "batch_of", "near", "varied"]

N_RECENT = 8
"""How many strokes count as new."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stroke:
    """What was painted at once: column of the block, class, and pixels `(n, axis)` of the image."""

    column: object
    value: int
    pixels: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Images `(b, c, [z,] y, x)`, targets `(b, [z,] y, x)`, and which are rehearsal: the last ones.

    The old answers to those `(rehearsal, output, [z,] y, x)` are None if they are still to be asked
    for.
    """

    image: Tensor
    target: Tensor
    answer: Tensor | None
    is_memory: Tensor


@dataclass(slots=True, kw_only=True)
class Strokes:
    """The newest strokes, and turns in which all painted blocks come up.

    Attributes
    ----------
    recent : the newest last.
    turns : class to the columns whose turn is still to come.
    """

    recent: deque[Stroke] = field(default_factory=lambda: deque(maxlen=N_RECENT))
    turns: dict[int, list[object]] = field(default_factory=dict)

    def newest(
        self, pieces: dict[object, list[Piece]], at: int, generator: Generator
    ) -> tuple[Piece, Tensor] | None:
        """A pixel of the newest stroke but `at`; None if there is none any more."""
        if at >= len(self.recent):
            return None
        stroke = self.recent[-1 - at]
        pixel = stroke.pixels[integer(len(stroke.pixels), generator)]
        for piece in pieces.get(stroke.column, ()):
            place = pixel - torch.tensor(piece.start)
            if all(0 <= int(p) < n for p, n in zip(place, piece.target.shape, strict=True)):
                is_there = int(piece.target[tuple(place.tolist())]) == stroke.value
                return (piece, place) if is_there else None
        return None

    def any_of(
        self, pieces: dict[object, list[Piece]], value: int, generator: Generator
    ) -> tuple[Piece, Tensor] | None:
        """A pixel of a class; each block that has it comes up before any does again."""
        turns = self.turns.setdefault(value, [])
        for _ in range(2):
            while turns:
                column = turns.pop()
                having = [piece for piece in pieces.get(column, ()) if value in piece.places]
                if having:
                    piece = having[integer(len(having), generator)]
                    places = piece.places[value]
                    return piece, places[integer(len(places), generator)]
            columns = [c for c, mine in pieces.items() if any(value in p.places for p in mine)]
            order = torch.randperm(len(columns), generator=generator).tolist()
            turns.extend(columns[i] for i in order)
        return None


def near(place: Tensor, spread: Sequence[int], generator: Generator) -> list[float]:
    """Where the middle of a patch lies that shows a pixel: up to a quarter of it away."""
    shift = (torch.rand(len(spread), generator=generator) - 0.5) * torch.tensor(spread) / 2
    found: list[float] = (place + shift).tolist()
    return found


def varied(patch: Patch, generator: Generator) -> Patch:
    """The same mirrored and turned by right angles in the plane, at random."""
    draw = integer(8, generator)
    parts: list[Tensor | None] = [patch.image, patch.target, patch.answer]
    is_square = patch.target.shape[-1] == patch.target.shape[-2]
    for at, part in enumerate(parts):
        if part is None:
            continue
        if draw & 1:
            part = part.flip(-1)
        if draw & 2:
            part = part.flip(-2)
        if draw & 4 and is_square:
            part = part.transpose(-1, -2)
        parts[at] = part
    image, target, answer = parts
    assert image is not None
    assert target is not None
    return Patch(image=image, target=target, answer=answer)


def batch_of(patches: Sequence[Patch], n_memories: int, in_channels: int) -> Batch:
    """Patches, the last `n_memories` of them rehearsal, as one batch."""
    first = len(patches) - n_memories
    answers = [patch.answer for patch in patches[first:] if patch.answer is not None]
    images = [patch.image.expand(in_channels, *patch.image.shape[1:]) for patch in patches]
    return Batch(
        image=torch.stack(images),
        target=torch.stack([patch.target for patch in patches]),
        answer=torch.stack(answers) if answers and len(answers) == n_memories else None,
        is_memory=torch.arange(len(patches)) >= first,
    )
