"""Layers at work on one window of an image: each computes what it can as its input comes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_unet.core.engine.geometry import Enlarge, Span, Spread, Window
from napari_unet.core.engine.graph import Shape, Spans, joined
from napari_unet.core.engine.inboxes import Inbox, Padded, Rows
from napari_unet.core.engine.ops import (
    Affine,
    Convolution,
    Crop,
    Join,
    Op,
    Pointwise,
    Pooling,
    Resize,
    Transposed,
)

__all__ = ["Stage", "stage_for"]


class Stage:
    """A layer at work on one window: takes rows from its inboxes, gives rows to the next ones."""

    inboxes: Sequence[Inbox]
    n_most: int = 1
    """Rows of output that are computed at once."""

    def advance(self, targets: Sequence[Inbox]) -> bool:
        """Compute the next rows that can be computed now; False if there are none."""
        raise NotImplementedError


def stage_for(
    op: Op, span: Spans, given: Sequence[Spans], size: Shape, widths: Sequence[int]
) -> Stage:
    """The stage for a layer whose output is wanted in `span`, for an input of `size` px."""
    reads = tuple(axis.reads(s, n) for axis, s, n in zip(op.axes, span, size, strict=True))
    if isinstance(op, Join):
        return _JoinStage(span, given)
    if isinstance(op, Pointwise) and len(given) > 1:
        return _CombineStage(op, span, given)
    if all(axis.is_local for axis in op.axes) and not _is_padded(reads, size):
        return _LocalStage(op, span, reads, given[0])
    if all(isinstance(axis, Window) for axis in op.axes):
        return _WindowStage(op, span, reads, given[0], size, widths[0])
    return _SpreadStage(op, span, reads, given[0], size, widths[0])


def _is_padded(reads: Spans, size: Shape) -> bool:
    return any(start < 0 or stop > n for (start, stop), n in zip(reads, size, strict=True))


def _deliver(op: Op, rows: Tensor, first: int, targets: Sequence[Inbox]) -> None:
    """Apply the ReLU of a layer and hand its rows on, both in one go where that is possible."""
    if isinstance(op, Convolution | Transposed) and op.relu:
        (target, *others) = targets
        if not others and isinstance(target, Padded) and target.fits(rows, first):
            room = target.room(int(rows.shape[2]), rows)
            if room.dtype == rows.dtype:
                torch.clamp_min(rows, 0, out=room)
            else:
                room.copy_(rows.relu_())
            return
        rows = rows.relu_()
    for target in targets:
        target.accept(rows, first)


class _WindowStage(Stage):
    """Convolution, pooling and padding whose windows overlap or reach over the border."""

    def __init__(
        self, op: Op, span: Spans, reads: Spans, given: Spans, size: Shape, n_channels: int
    ) -> None:
        weight = getattr(op, "weight", None)
        self._op, self._next, self._end = op, span[0][0], span[0][1]
        axis = op.axes[0]
        assert isinstance(axis, Window)
        self._axis = axis
        self._inbox = Padded(
            span=reads, given=given, size=size, n_channels=n_channels, fill=op.fill,
            dtype=None if weight is None else weight.dtype,
        )  # fmt: skip
        self.inboxes = [self._inbox]

    def advance(self, targets: Sequence[Inbox]) -> bool:
        inbox, axis = self._inbox, self._axis
        # NOTE: behind `inbox.first` where steps are wider than windows, and rows lie between them.
        start = self._next * axis.step - axis.before
        n = (inbox.stop - start - axis.extent) // axis.step + 1
        n = min(n, self._end - self._next, self.n_most)
        if n < 1 or inbox.is_empty:
            return False
        skipped = start - inbox.first
        piece = inbox.rows[:, :, skipped : skipped + (n - 1) * axis.step + axis.extent]
        rows = piece if isinstance(self._op, Crop) else _computed(self._op, piece)
        if isinstance(self._op, Crop):
            rows = rows.clone()
        first, self._next = self._next, self._next + n
        _deliver(self._op, rows, first, targets)
        if self._next < self._end:
            inbox.drop(min(start + n * axis.step, inbox.stop) - inbox.first)
        return True


class _LocalStage(Stage):
    """Layers whose output rows share no input: each piece is worked on as it comes."""

    def __init__(self, op: Op, span: Spans, reads: Spans, given: Spans) -> None:
        self._op, self._span, self._reads = op, span, reads
        self._inbox = Rows(span=reads, given=given)
        self.inboxes = [self._inbox]

    def advance(self, targets: Sequence[Inbox]) -> bool:
        axis, inbox = self._op.axes[0], self._inbox
        step = axis.step if isinstance(axis, Window) else 1
        if inbox.n_rows < step:
            return False
        most = self.n_most * step if isinstance(axis, Window) else self.n_most // _ratio(axis)
        n = min(inbox.n_at_once, max(step, most)) // step * step
        first = inbox.first
        piece = joined(inbox.take(n or step), 2)
        starts = [
            _start_of(axis, first if at == 0 else self._reads[at][0])
            for at, axis in enumerate(self._op.axes)
        ]
        rows, start = _cut(_computed(self._op, piece), starts, self._span)
        if rows.shape[2]:
            _deliver(self._op, rows, start, targets)
        return True


def _ratio(axis: Spread | Enlarge) -> int:
    """Rows of output per row of input."""
    return axis.step if isinstance(axis, Spread) else axis.factor


def _start_of(axis: Window | Spread | Enlarge, first: int) -> int:
    """Output px that a piece of input beginning at `first` begins at."""
    return (first + axis.before) // axis.step if isinstance(axis, Window) else axis.starts(first)


def _cut(rows: Tensor, starts: Sequence[int], span: Spans) -> tuple[Tensor, int]:
    """The part of a computed piece inside `span`, and its first row; a view."""
    for axis, (at, (low, high)) in enumerate(zip(starts, span, strict=True), start=2):
        size = int(rows.shape[axis])
        start, stop = max(low, at), min(high, at + size)
        if (start, stop) != (at, at + size):
            rows = rows.narrow(axis, max(0, start - at), max(0, stop - start))
    return rows, max(starts[0], span[0][0])


class _CombineStage(Stage):
    """A function of several inputs, such as their sum."""

    def __init__(self, op: Pointwise, span: Spans, given: Sequence[Spans]) -> None:
        self._op = op
        self._inboxes = [Rows(span=span, given=one) for one in given]
        self.inboxes = self._inboxes

    def advance(self, targets: Sequence[Inbox]) -> bool:
        n = min(self.n_most, *(inbox.n_at_once for inbox in self._inboxes))
        if not n:
            return False
        first = self._inboxes[0].first
        pieces = [inbox.take(n)[0] for inbox in self._inboxes]
        rows = self._op.function([piece.to(pieces[0].dtype) for piece in pieces])
        for target in targets:
            target.accept(rows, first)
        return True


class _JoinStage(Stage):
    """Inputs behind one another along the channels, written to where they are needed."""

    def __init__(self, span: Spans, given: Sequence[Spans]) -> None:
        self._inboxes = [Rows(span=span, given=one) for one in given]
        self.inboxes = self._inboxes

    def advance(self, targets: Sequence[Inbox]) -> bool:
        n = min(self.n_most, *(inbox.n_rows for inbox in self._inboxes))
        if not n:
            return False
        first = self._inboxes[0].first
        parts = [inbox.take(n) for inbox in self._inboxes]
        for target in targets:
            if isinstance(target, Padded) and target.fits(_like_rows(parts[0], n), first):
                _write(target.room(n, parts[0][0]), parts)
            else:
                dtype = parts[0][0].dtype
                whole = [joined(part, 2).to(dtype) for part in parts]
                target.accept(torch.cat(whole, dim=1), first)
        return True


def _like_rows(part: Sequence[Tensor], n: int) -> Tensor:
    """Something with as many rows, without making it."""
    return part[0][:, :, :1].expand(-1, -1, n, *part[0].shape[3:])


def _write(room: Tensor, parts: Sequence[Sequence[Tensor]]) -> None:
    """Copy pieces of rows of several inputs into `room`, the inputs along the channels."""
    channel = 0
    for part in parts:
        row, width = 0, int(part[0].shape[1])
        for piece in part:
            n = int(piece.shape[2])
            room[:, channel : channel + width, row : row + n].copy_(piece)
            row += n
        channel += width


class _SpreadStage(Stage):
    """Transposed convolution with overlap, and interpolation: computed from kept rows, then cut."""

    def __init__(
        self, op: Op, span: Spans, reads: Spans, given: Spans, size: Shape, n_channels: int
    ) -> None:
        self._op, self._span, self._reads, self._size = op, span, reads, size
        self._next = span[0][0]
        weight = getattr(op, "weight", None)
        self._inbox = Padded(
            span=reads, given=given, size=size, n_channels=n_channels, fill=0.0,
            dtype=None if weight is None else weight.dtype,
        )  # fmt: skip
        self.inboxes = [self._inbox]

    def advance(self, targets: Sequence[Inbox]) -> bool:
        stop = min(self._ready(), self._next + self.n_most)
        if stop <= self._next:
            return False
        span = ((self._next, stop), *self._span[1:])
        reads = ((self._inbox.first, self._inbox.stop), *self._reads[1:])
        rows = self._computed(self._inbox.rows, reads, span)
        first, self._next = self._next, stop
        _deliver(self._op, rows, first, targets)
        if stop < self._span[0][1]:
            kept = self._op.axes[0].reads((stop, self._span[0][1]), self._size[0])[0]
            self._inbox.drop(max(0, min(kept, self._inbox.stop) - self._inbox.first))
        return True

    def _ready(self) -> int:
        """The row of the output before which all can be computed."""
        axis, size, end = self._op.axes[0], self._size[0], self._span[0][1]
        if self._inbox.stop >= self._reads[0][1]:
            return end
        low, high = self._next, end
        while low < high:  # the last row whose input is there
            middle = (low + high + 1) // 2
            if axis.reads((middle - 1, middle), size)[1] <= self._inbox.stop:
                low = middle
            else:
                high = middle - 1
        return low

    def _computed(self, piece: Tensor, reads: Spans, span: Spans) -> Tensor:
        if isinstance(self._op, Resize):
            return _resized(piece, self._op, reads, span, self._size)
        starts = [_start_of(axis, read[0]) for axis, read in zip(self._op.axes, reads, strict=True)]
        return _cut(_computed(self._op, piece), starts, span)[0]


def _computed(op: Op, piece: Tensor) -> Tensor:
    """The output of a layer for a piece of input that needs no padding."""
    if isinstance(op, Convolution | Transposed):
        return op.compute(piece.to(op.weight.dtype))
    if isinstance(op, Affine):
        return op.compute(piece.to(op.factor.dtype))
    if isinstance(op, Pooling):
        return op.compute(piece)
    if isinstance(op, Pointwise):
        return op.function([piece])
    if isinstance(op, Resize):
        factor = [float(axis.factor) for axis in op.axes]  # type: ignore[union-attr]
        return F.interpolate(piece, scale_factor=factor, mode="nearest")
    return piece


def _resized(piece: Tensor, op: Resize, reads: Spans, span: Spans, size: Shape) -> Tensor:
    """Interpolate `piece`, which lies at `reads` in an input of `size` px, at all px of `span`."""
    for at, axis in enumerate(op.axes):
        assert isinstance(axis, Enlarge)
        if axis.factor > 1:
            piece = _interpolated(piece, axis, at + 2, reads[at][0], span[at], size[at])
        elif reads[at] != span[at]:
            piece = piece.narrow(at + 2, span[at][0] - reads[at][0], span[at][1] - span[at][0])
    return piece


def _interpolated(
    piece: Tensor, axis: Enlarge, dim: int, first: int, span: Span, size: int
) -> Tensor:
    """Linear interpolation along one dimension, by the weights that torch uses."""
    at = torch.arange(*span, dtype=torch.float32, device=piece.device)
    if axis.kind == "corners":
        source = at * ((size - 1) / max(1, axis.out_size(size) - 1))
    else:
        source = ((at + 0.5) / axis.factor - 0.5).clamp_min(0)
    low = source.floor().clamp_max(size - 1)
    share = (source - low).to(piece.dtype)
    shape = [1] * piece.ndim
    shape[dim] = -1
    here = piece.index_select(dim, low.long() - first)
    there = piece.index_select(dim, (low.long() + 1).clamp_max(size - 1) - first)
    return torch.lerp(here, there, share.view(shape))
