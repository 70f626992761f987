"""Arrays seen at another size, computed window by window where they are read.

An axis of n px becomes one of m px over the same extent, so px i of the new lies at
`(i + 1/2) n / m - 1/2` of the old. Values are interpolated linearly; where an image shrinks, the
triangle is as wide as the new px, so that nothing finer than these is left to be aliased. Every
px depends on its place in the whole alone: a window is always the crop of the whole.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["AxisMap", "ResampledArray"]

PART_LIMIT = 2**24
"""Windows that are made of more px than this are computed in parts."""

Window = tuple[slice, ...]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisMap:
    """`n_new` px made of `n_old` px that span the same extent.

    Attributes
    ----------
    is_smooth : whether all old px that a new one covers count, or only its two neighbours.
    """

    n_old: int
    n_new: int
    is_smooth: bool

    @property
    def reach(self) -> int:
        """Distance at which an old px no longer counts, in units of 1 / (2 n_new) old px."""
        return 2 * (max(self.n_old, self.n_new) if self.is_smooth else self.n_new)

    def centers(self, places: Places) -> Places:
        """Where new px lie, in units of 1 / (2 n_new) old px: whole numbers, never rounded."""
        return (2 * places + 1) * self.n_old - self.n_new

    def nearest(self, places: Places) -> Places:
        """The old px closest to each new one."""
        found = (self.centers(places) + self.n_new) // (2 * self.n_new)
        return np.clip(found, 0, self.n_old - 1)

    def taps(self, places: Places) -> tuple[Places, npt.NDArray[np.float32]]:
        """Old px `(place, tap)` that make each new one, and their weights, which sum to 1."""
        center, unit = self.centers(places)[:, None], 2 * self.n_new
        n_taps = -(-self.reach // self.n_new)
        old = (center - self.reach) // unit + 1 + np.arange(n_taps)  # (place, tap)
        weights = np.maximum(0.0, 1 - np.abs(old * unit - center) / self.reach)
        weights[(old < 0) | (old >= self.n_old)] = 0
        weights /= weights.sum(axis=1, keepdims=True)
        return np.clip(old, 0, self.n_old - 1), weights.astype(np.float32)

    def span(self, places: Places) -> slice:
        """The old px that make the new ones at `places`, which must not decrease."""
        old, _ = self.taps(places[[0, -1]])
        return slice(int(old.min()), int(old.max()) + 1, 1)

    def determined(self, window: slice) -> slice:
        """The new px whose two neighbours lie in a window of the old ones; may be empty."""
        first, last = self._neighbours()
        start = int(np.searchsorted(first, window.start, "left"))
        stop = int(np.searchsorted(last, window.stop - 1, "right"))
        return slice(start, max(start, stop))

    def needed(self, window: slice) -> slice:
        """The old px that are neighbours of the new ones in a window."""
        first, last = self._neighbours()
        if window.stop <= window.start:
            return slice(0, 0)
        return slice(int(first[window.start]), int(last[window.stop - 1]) + 1)

    def _neighbours(self) -> tuple[Places, Places]:
        """First and last of the old px on either side of every new one; they never decrease."""
        center, unit = self.centers(np.arange(self.n_new)), 2 * self.n_new
        first, last = center // unit, -(-center // unit)
        return np.clip(first, 0, self.n_old - 1), np.clip(last, 0, self.n_old - 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResampledArray:
    """Another array at another size, float32, computed where it is read.

    Whole numbers, slices and `...` may be asked for. What is not finite does not count; a px
    with nothing finite around it takes the value of the old px closest to it.

    Attributes
    ----------
    source : gives the part of the old array at a slice for each axis.
    shape : size of this array along each axis.
    axes : how an axis is resampled; None for those that stay as they are.
    """

    source: Callable[[Window], npt.NDArray[Any]]
    shape: tuple[int, ...]
    axes: tuple[AxisMap | None, ...]

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Always float32."""
        return np.dtype(np.float32)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self[...].astype(dtype or np.float32, copy=False)

    def __getitem__(self, key: Any) -> npt.NDArray[np.float32]:
        keys = _full_key(key, self.ndim)
        places = [_places(k, n) for k, n in zip(keys, self.shape, strict=True)]
        if all(at.size for at in places):
            found = self._at(places)
        else:
            found = np.zeros([at.size for at in places], np.float32)
        return found[tuple(slice(None) if isinstance(k, slice) else 0 for k in keys)]

    def _at(self, places: list[Places]) -> npt.NDArray[np.float32]:
        """Values at `places` along each axis; in halves if they need too much of the source."""
        window = tuple(_span(axis, at) for axis, at in zip(self.axes, places, strict=True))
        n_needed = math.prod(len(range(part.start, part.stop, part.step)) for part in window)
        longest = max(range(self.ndim), key=lambda axis: places[axis].size)
        if n_needed <= PART_LIMIT or places[longest].size == 1:
            return self._interpolated(window, places)
        middle = places[longest].size // 2
        halves = (places[longest][:middle], places[longest][middle:])
        before, after = places[:longest], places[longest + 1 :]
        return np.concatenate([self._at([*before, half, *after]) for half in halves], longest)

    def _interpolated(self, window: Window, places: list[Places]) -> npt.NDArray[np.float32]:
        """Values at `places`, from the part of the source in `window`."""
        with np.errstate(over="ignore"):
            part = np.asarray(self.source(window)).astype(np.float32)
        origins = [span.start for span in window]
        is_finite = np.isfinite(part)
        if is_finite.all():
            return self._blended(part, origins, places)
        closest = self._closest(part, origins, places)
        shares = self._blended(is_finite.astype(np.float32), origins, places)
        sums = self._blended(np.where(is_finite, part, np.float32(0)), origins, places)
        return np.divide(sums, shares, out=closest, where=shares > 0)

    def _blended(
        self, part: npt.NDArray[np.float32], origins: list[int], places: list[Places]
    ) -> npt.NDArray[np.float32]:
        """Weighted sums of finite values, one axis after the other."""
        for number, axis in enumerate(self.axes):
            if axis is not None:
                old, weights = axis.taps(places[number])
                part = _weighted(part, number, old - origins[number], weights)
        return part

    def _closest(
        self, part: npt.NDArray[np.float32], origins: list[int], places: list[Places]
    ) -> npt.NDArray[np.float32]:
        """A copy of the old px closest to the new ones."""
        for number, axis in enumerate(self.axes):
            if axis is not None:
                part = part.take(axis.nearest(places[number]) - origins[number], axis=number)
        return part.copy()


def _span(axis: AxisMap | None, places: Places) -> slice:
    """The part of the old axis that is needed for the new px at `places`."""
    if axis is not None:
        return axis.span(places)
    step = int(places[1] - places[0]) if places.size > 1 else 1
    return slice(int(places[0]), int(places[-1]) + 1, step)


def _weighted(
    part: npt.NDArray[np.float32], axis: int, old: Places, weights: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Sums of `part` at `old` `(place, tap)` along an axis, tap by tap."""
    along = [1] * part.ndim
    along[axis] = -1
    with np.errstate(over="ignore"):
        total = part.take(old[:, 0], axis=axis) * weights[:, 0].reshape(along)
        for tap in range(1, old.shape[1]):
            total += part.take(old[:, tap], axis=axis) * weights[:, tap].reshape(along)
    return total


def _full_key(key: Any, ndim: int) -> tuple[Any, ...]:
    """One whole number or slice for each axis."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(k is Ellipsis for k in keys):
        at = keys.index(Ellipsis)
        keys[at : at + 1] = [slice(None)] * (ndim - len(keys) + 1)
    if len(keys) > ndim:
        raise IndexError(f"There are {len(keys)} indices, but only {ndim} axes.")
    return (*keys, *[slice(None)] * (ndim - len(keys)))


def _places(key: Any, n: int) -> Places:
    """The px along an axis of n that a whole number or a slice names."""
    if not isinstance(key, slice):
        return np.array([range(n)[operator.index(key)]], np.int64)
    chosen = range(n)[key]
    if chosen.step < 0:
        raise IndexError("Slices must go forwards here.")
    return np.arange(chosen.start, chosen.stop, chosen.step, dtype=np.int64)
