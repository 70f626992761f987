"""Rows of a layer's input that wait to be used, and the buffers that they wait in."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from napari_unet.core.engine.geometry import Span
from napari_unet.core.engine.graph import Shape, Spans

__all__ = ["SPARE_ROWS", "Inbox", "Padded", "Rows"]

SPARE_ROWS = 4
"""A buffer has room for at least this many rows more than are needed at once."""


class Inbox:
    """Rows of a layer's input that wait to be used.

    `span` is what the layer reads, `given` what the layer before it produces.
    """

    def accept(self, rows: Tensor, first: int) -> None:
        """Take rows `(1, c, n, ...)` of `given`, the first of which is row `first`."""
        raise NotImplementedError

    def tensors(self) -> Sequence[Tensor]:
        """Whatever is held."""
        raise NotImplementedError


class Rows(Inbox):
    """Rows in the pieces in which they came; nothing is copied."""

    def __init__(self, *, span: Spans, given: Spans) -> None:
        self._span, self._given = span, given
        self._pieces: deque[Tensor] = deque()
        self.n_rows = 0
        self.first = span[0][0]

    def accept(self, rows: Tensor, first: int) -> None:
        """Take rows; those that are not wanted are left out."""
        piece, _ = _narrowed(rows, first, self._span, self._given)
        if piece.shape[2]:
            self._pieces.append(piece)
            self.n_rows += int(piece.shape[2])

    def tensors(self) -> Sequence[Tensor]:
        """Whatever is held."""
        return list(self._pieces)

    @property
    def n_at_once(self) -> int:
        """Rows of the first piece."""
        return int(self._pieces[0].shape[2]) if self._pieces else 0

    def take(self, n: int) -> list[Tensor]:
        """The next `n` rows, in pieces."""
        self.n_rows -= n
        self.first += n
        taken = []
        while n:
            piece = self._pieces.popleft()
            if piece.shape[2] > n:
                self._pieces.appendleft(piece[:, :, n:])
                piece = piece[:, :, :n]
            taken.append(piece)
            n -= int(piece.shape[2])
        return taken


class Padded(Inbox):
    """Rows in one buffer, with what stands beyond the borders of the image around them."""

    def __init__(
        self, *, span: Spans, given: Spans, size: Shape, n_channels: int, fill: float,
        dtype: torch.dtype | None,
    ) -> None:  # fmt: skip
        self._reads, self._given, self._size = span, given, size
        self._inner: Spans = tuple(_inside(part, n) for part, n in zip(span, size, strict=True))
        self._n_channels, self._fill, self._dtype = n_channels, fill, dtype
        self._buffer: Tensor | None = None
        self._begin = 0  # where in the buffer row `first` is
        self.first = span[0][0]
        self.stop = max(self.first, 0)

    @property
    def is_empty(self) -> bool:
        """Whether nothing has come yet."""
        return self._buffer is None

    @property
    def rows(self) -> Tensor:
        """All rows from `first` to `stop`."""
        assert self._buffer is not None
        return self._buffer[:, :, self._begin : self._begin + self.stop - self.first]

    def tensors(self) -> Sequence[Tensor]:
        """Whatever is held."""
        return [] if self._buffer is None else [self._buffer]

    def fits(self, rows: Tensor, first: int) -> bool:
        """Whether all of `rows` of `given` would be used, so that `room` can be written to."""
        return (
            self._inner[1:] == self._given[1:]
            and first == self.stop
            and first + rows.shape[2] <= self._inner[0][1]
        )

    def accept(self, rows: Tensor, first: int) -> None:
        """Take rows; those that are not wanted are left out."""
        piece, _ = _narrowed(rows, first, self._inner, self._given)
        if piece.shape[2]:
            self.room(int(piece.shape[2]), piece).copy_(piece)
        elif self._inner[0][0] == self._inner[0][1] and self._buffer is None:
            self.stop = self._reads[0][1]  # all of it lies beyond a border
            self._make_capacity(self.stop - self.first, self.stop - self.first, rows)

    def room(self, n: int, like: Tensor) -> Tensor:
        """Where the next `n` rows `(1, c, n, ...)` go."""
        used = self.stop - self.first
        behind = max(0, self._reads[0][1] - self._size[0])
        self._make_capacity(used, used + n + behind, like)
        assert self._buffer is not None
        at = self._begin + used
        self.stop += n
        if self.stop == self._inner[0][1] and behind:
            self._buffer[:, :, at + n : at + n + behind].fill_(self._fill)
            self.stop += behind
        room = self._buffer[:, :, at : at + n]
        for axis, (inner, outer) in enumerate(
            zip(self._inner[1:], self._reads[1:], strict=True), start=3
        ):
            if inner != outer:
                n_inside = inner[1] - inner[0]  # 0 if all of it lies beyond a border
                room = room.narrow(axis, inner[0] - outer[0] if n_inside else 0, n_inside)
        return room

    def _make_capacity(self, used: int, n_rows: int, like: Tensor) -> None:
        """Have room for `n_rows` from `first` on, of which `used` are there already."""
        old = self._buffer
        if old is not None and old.shape[2] >= self._begin + n_rows:
            return
        kept = None if old is None else old[:, :, self._begin : self._begin + used]
        if old is not None and kept is not None and old.shape[2] >= n_rows:
            old[:, :, :used].copy_(kept if used <= self._begin else kept.clone())
        else:
            # NOTE: twice what is needed, so that what is kept is not moved for each new row.
            n_spare = max(SPARE_ROWS, n_rows - used)
            shape = (n_rows + n_spare, *(stop - start for start, stop in self._reads[1:]))
            self._buffer = _empty(self._n_channels, shape, like, self._dtype or like.dtype)
            self._fill_sides(self._buffer)
            if kept is None:
                self._buffer[:, :, :used].fill_(self._fill)
            else:
                self._buffer[:, :, :used].copy_(kept)
        self._begin = 0

    def _fill_sides(self, buffer: Tensor) -> None:
        """What stands beyond the borders beside the rows; nothing else is ever written there."""
        spans = zip(self._inner[1:], self._reads[1:], strict=True)
        for axis, (inner, outer) in enumerate(spans, start=3):
            size = outer[1] - outer[0]
            before, behind = (
                min(max(0, n), size) for n in (inner[0] - outer[0], outer[1] - inner[1])
            )
            buffer.narrow(axis, 0, before).fill_(self._fill)
            buffer.narrow(axis, size - behind, behind).fill_(self._fill)

    def drop(self, n: int) -> None:
        """Let the first `n` rows go."""
        self.first += n
        self._begin += n


def _narrowed(rows: Tensor, first: int, span: Spans, given: Spans) -> tuple[Tensor, int]:
    """The part of `rows` inside `span`, and its first row; a view."""
    start = max(first, span[0][0])
    stop = min(first + int(rows.shape[2]), span[0][1])
    if stop <= start:
        return rows[:, :, :0], start
    if (start, stop) != (first, first + int(rows.shape[2])):
        rows = rows[:, :, start - first : stop - first]
    for axis, (inner, outer) in enumerate(zip(span[1:], given[1:], strict=True), start=3):
        if inner != outer:
            rows = rows.narrow(axis, inner[0] - outer[0], inner[1] - inner[0])
    return rows, start


def _inside(span: Span, size: int) -> Span:
    """The part of a span inside the image, empty if all of it lies beyond a border."""
    start = min(max(span[0], 0), size)
    return start, max(start, min(span[1], size))


def _empty(n_channels: int, shape: Sequence[int], like: Tensor, dtype: torch.dtype) -> Tensor:
    """Room for `(1, c, rows, ...)`, laid out row by row with the channels innermost."""
    room = torch.empty((1, *shape, n_channels), dtype=dtype, device=like.device)
    return room.movedim(-1, 1)
