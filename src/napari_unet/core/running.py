"""Networks at work on one image, within the memory there is.

The first window is that around the focus. When the memory of the device runs out, or a GPU
becomes so slow that it must have moved its memory away, the rest goes on in smaller pieces, at
last on the processor.
"""

from __future__ import annotations

import copy
import math
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_unet.core.device import release_memory
from napari_unet.core.engine import Plan, Request, Source, make_plan
from napari_unet.core.engine.graph import Spans
from napari_unet.core.errors import DeviceMemoryError, UNetLiveError
from napari_unet.core.gathering import Part, gathered
from napari_unet.core.image import Image
from napari_unet.core.normalization import IntensityScale
from napari_unet.core.regions import Region
from napari_unet.core.rooms import Room
from napari_unet.core.tiling import Window, around, cut, n_pixels, nearest_first, without

__all__ = ["Member", "Run", "is_out_of_memory"]

QUICK_SIZE = {2: 512, 3: 96}
"""Edge of the window around the focus that comes first, in px, by number of dimensions."""
FOCUSED_SIZE = {2: 4096, 3: 512}
"""Edge of the windows that follow, the nearest ones first."""
AVERAGED_SIZE = {2: 2048, 3: 256}
"""Edge of a window where several results are averaged: they are added up in memory."""
PIXELS_AT_ONCE = 2**17
"""Finished rows are handed out when they are at least this many px."""
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")
SLOWER = 20
"""A GPU that is this many times slower than before has moved its memory to the computer's."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Member:
    """A network at work on an image: one of several whose results are averaged, or the only one."""

    request: Request
    scale: IntensityScale
    plan: Plan

    def source(self, image: Image, index: tuple[int, ...]) -> Source:
        """The image as this network wants it."""
        return Source(
            image=image, index=index, scale=self.scale, in_channels=self.request.in_channels,
            device=self.plan.device,
        )  # fmt: skip


class _OutOfMemoryError(Exception):
    """Carries no traceback of the failed attempt: that would hold on to its tensors."""


@dataclass(slots=True, kw_only=True, eq=False)
class Run:
    """The state of one prediction: the members, made smaller as the memory demands."""

    members: list[Member]
    image: Image
    room: Room
    focus: tuple[float, ...] | None
    message: str = "Segmenting"
    waited: list[float] = field(default_factory=list)
    best_rate: float = 0.0

    def parts(
        self, region: Region
    ) -> Generator[tuple[Region, npt.NDArray[np.floating[Any]]], None, None]:
        """All finished parts of a region, with their probabilities `(output, *window)`."""
        waiting = deque(self._windows(region))
        while waiting:
            window = waiting.popleft()
            left: list[Window] = [window]
            try:
                with closing(_guarded(self._one(region.index, window))) as parts:
                    for part, found in parts:
                        left = [rest for piece in left for rest in without(piece, part)]
                        yield Region(index=region.index, window=part), found
            except _OutOfMemoryError:
                waiting.extendleft(reversed(left))
            else:
                continue
            self._make_smaller()  # NOTE: only now has the failed attempt let its memory go
            waiting = deque(
                piece for one in waiting for piece in cut(one, self._block(), self._stride())
            )

    def _windows(self, region: Region) -> list[Window]:
        """What of a region is worked on at once, what the user looks at first."""
        dims, stride = len(region.window), self._stride()
        near = None if self.focus is None else self.focus[-dims:]
        blocks = cut(region.window, self._block(), stride)
        if near is None:
            return blocks
        blocks = nearest_first(blocks, near)
        if n_pixels(blocks[0]) > self._n_at_once(dims):
            first = around(near, blocks[0], (QUICK_SIZE[dims],) * dims, stride)
            rest = nearest_first(without(blocks[0], first), near)
            return [first, *rest, *blocks[1:]]
        return blocks

    def _n_at_once(self, dims: int) -> int:
        """Px that are handed out together; all of the first window, which holds the focus."""
        return (
            PIXELS_AT_ONCE if self.focus is None else max(PIXELS_AT_ONCE, QUICK_SIZE[dims] ** dims)
        )

    def _block(self) -> tuple[int, ...]:
        """The largest window that is worked on at once, per axis, in px."""
        largest = (member.plan.largest for member in self.members)
        block = tuple(min(sizes) for sizes in zip(*largest, strict=True))
        dims = len(block)
        if self.focus is not None:
            block = tuple(min(n, FOCUSED_SIZE[dims]) for n in block)
        if self._n_runs() > 1:
            block = tuple(min(n, AVERAGED_SIZE[dims]) for n in block)
        return block

    def _n_runs(self) -> int:
        return sum(len(member.plan.ways) for member in self.members)

    def _stride(self) -> tuple[int, ...]:
        strides = (member.plan.ways[0].stride for member in self.members)
        return tuple(math.lcm(*steps) for steps in zip(*strides, strict=True))

    def _one(self, index: tuple[int, ...], window: Window) -> Generator[Part, None, None]:
        """The parts of one window; raises `_OutOfMemoryError`."""
        if self._n_runs() > 1:
            yield window, self._averaged(index, window)
            return
        parts = self._computed(self.members[0], index, window)
        axis = self.members[0].plan.axis
        with closing(parts):
            if axis is None:
                yield from parts
            else:
                chunk = self.room.chunk(axis - len(window))
                yield from gathered(parts, axis, self._n_at_once(len(window)), chunk)

    def _averaged(self, index: tuple[int, ...], window: Window) -> npt.NDArray[np.floating[Any]]:
        """The mean over all members and all views of each."""
        total: npt.NDArray[np.float32] | None = None
        for member in self.members:
            for part, found in self._computed(member, index, window, np.dtype(np.float32)):
                if total is None:
                    shape = [p.stop - p.start for p in window]
                    total = np.zeros((found.shape[0], *shape), np.float32)
                where = [
                    slice(p.start - w.start, p.stop - w.start)
                    for p, w in zip(part, window, strict=True)
                ]
                total[(slice(None), *where)] += found
        assert total is not None
        total /= self._n_runs()
        return total.astype(self.room.dtype)

    def _computed(
        self, member: Member, index: tuple[int, ...], window: Window,
        dtype: np.dtype[Any] | None = None,
    ) -> Generator[Part, None, None]:  # fmt: skip
        """What all views of one member find in a window, part by part."""
        spans: Spans = tuple((part.start, part.stop) for part in window)
        shape = self.image.spatial_shape(len(window))
        source = member.source(self.image, index)
        for way in member.plan.ways:
            parts = way.compute(source, shape, spans)
            with closing(_down(parts, dtype or self.room.dtype)) as found:
                start = time.perf_counter()
                for part, values in found:
                    self._watch(member, part, time.perf_counter() - start)
                    yield tuple(slice(*span) for span in part), values
                    start = time.perf_counter()
        self.waited.append(source.waited)

    def _watch(self, member: Member, part: Spans, seconds: float) -> None:
        """Take a GPU that has become very slow for one whose memory is full."""
        # NOTE: the driver of Windows lends the computer's memory instead of failing.
        n = n_pixels(tuple(slice(*span) for span in part))
        rate = n / max(seconds, 1e-9)
        if member.plan.device.type == "cuda" and seconds > 2 and rate * SLOWER < self.best_rate:
            self.best_rate = 0.0
            raise _OutOfMemoryError
        self.best_rate = max(self.best_rate, rate)

    def _make_smaller(self) -> None:
        """Go on with less memory, at last on the processor, and say so.

        Raises
        ------
        DeviceMemoryError
            If there is no way to do with less.
        """
        for member in self.members:
            release_memory(member.plan.device)
        smaller = [member.plan.smaller() for member in self.members]
        if all(plan is not None for plan in smaller):
            self.members = [
                replace(member, plan=plan)
                for member, plan in zip(self.members, smaller, strict=True)
                if plan is not None
            ]
            self.message = "Segmenting in smaller pieces, as the memory had run out"
        elif all(member.plan.device.type == "cpu" for member in self.members):
            raise DeviceMemoryError(
                "The memory of this computer does not suffice even for the smallest pieces. "
                "Close other programs that use it."
            )
        else:
            self.members = [_on_processor(member) for member in self.members]
            self.message = "Segmenting on the processor, as the memory of the GPU had run out"


def _on_processor(member: Member) -> Member:
    network = copy.deepcopy(member.request.network).to("cpu")
    request = replace(member.request, network=network, piece=None)
    return replace(member, request=request, plan=make_plan(request))


def _guarded(parts: Generator[Part, None, None]) -> Generator[Part, None, None]:
    """Say in a sentence what goes wrong, or that the memory does not suffice."""
    while True:
        try:
            part = next(parts)
        except StopIteration:
            return
        except (UNetLiveError, _OutOfMemoryError):
            raise
        except Exception as error:  # NOTE: networks are code of others, with errors of all kinds
            if not is_out_of_memory(error):
                line = str(error).partition("\n")[0]
                raise UNetLiveError(
                    f"The network failed on a part of the image ({line}). Choose another model, "
                    "or load this one with device='cpu'."
                ) from error
        else:
            yield part
            continue
        raise _OutOfMemoryError


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is how numpy, torch's devices or the processor's allocator say so."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(phrase in text for phrase in OUT_OF_MEMORY)


def _down(
    parts: Iterator[tuple[Spans, Tensor]], dtype: np.dtype[Any]
) -> Generator[tuple[Spans, npt.NDArray[np.floating[Any]]], None, None]:
    """Bring results to the processor; from a GPU while the next one is computed."""
    wanted = torch.float16 if dtype == np.float16 else torch.float32
    pending: tuple[Spans, Tensor, Any] | None = None
    for part, found in parts:
        found = found[0].to(wanted)
        if found.device.type != "cuda":
            yield part, found.numpy()
            continue
        host = torch.empty(found.shape, dtype=wanted, pin_memory=True)
        host.copy_(found, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        if pending is not None:
            pending[2].synchronize()
            yield pending[0], pending[1].numpy()
        pending = (part, host, arrived)
    if pending is not None:
        pending[2].synchronize()
        yield pending[0], pending[1].numpy()
