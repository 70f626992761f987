"""Which convolution does what in a U-Net, found by trying.

A U-Net with so many levels and so many convolutions on each of them is a row of places. Each
convolution of the file must find one place, such that the channels fit: one after the other, and
with those of the level that come across. The convolutions of one place follow each other in the
file, and the places of one kind are in order, from either end. The fewest jumps win.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Literal

from napari_unet.core.checkpoints.matching.items import Item, tokens

__all__ = ["Layout", "Pairing", "Placed", "pairings"]

MOST_LEVELS = 8
MOST_CONVS = 4
MOST_TRIES = 200_000
TIE = 1e-6
"""Costs that differ by less are the same."""

Kind = Literal["encoder", "down", "bottom", "up", "decoder", "head"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """So many levels, and so many convolutions in each place of them."""

    n_levels: int
    n_encoder: int
    n_bottom: int
    n_decoder: int
    n_head: int
    has_down: bool
    has_up: bool
    join: Literal["concat", "add"]

    @property
    def unevenness(self) -> int:
        """How unusual it is."""
        usual = self.n_encoder == self.n_bottom == self.n_decoder
        return (not usual) + (self.n_head - 1) + self.has_down

    def places(self) -> list[tuple[Kind, int, int]]:
        """Kind, level and number of convolutions, in the order in which they run."""
        found: list[tuple[Kind, int, int]] = []
        for level in range(self.n_levels):
            found.append(("encoder", level, self.n_encoder))
            found += [("down", level, 1)] * self.has_down
        found.append(("bottom", self.n_levels, self.n_bottom))
        for level in reversed(range(self.n_levels)):
            found += [("up", level, 1)] * self.has_up
            found.append(("decoder", level, self.n_decoder))
        return [*found, ("head", 0, self.n_head)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A convolution in its place, and whether it is transposed there."""

    kind: Kind
    level: int
    item: Item
    transposed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """A way to make a U-Net of all convolutions, and how far-fetched it is."""

    layout: Layout
    placed: tuple[Placed, ...]
    cost: float


def pairings(convs: Sequence[Item], norm_first: bool = False) -> list[Pairing]:
    """The least far-fetched ways to make a U-Net of all convolutions; several if in doubt.

    Parameters
    ----------
    convs : in the order of the file.
    norm_first : whether their normalizations come before them.
    """
    search = _Search(convs, norm_first)
    # What is usual comes first: the cheaper the best way so far, the fewer others are tried.
    for layout in sorted(_layouts(len(convs)), key=lambda layout: layout.unevenness):
        for is_reversed in (False, True) if layout.n_levels > 1 else (False,):
            search.run(layout, is_reversed)
    return [pairing for pairing in search.found if pairing.cost <= search.least + TIE]


def _layouts(n_convs: int) -> Iterator[Layout]:
    """All layouts of so many convolutions."""
    counts = range(1, MOST_CONVS + 1)
    for n_levels, n_encoder, n_decoder in product(range(1, MOST_LEVELS + 1), counts, counts):
        for has_down, has_up, n_head in product((False, True), (False, True), (1, 2)):
            each = n_encoder + n_decoder + has_down + has_up
            n_bottom = n_convs - n_levels * each - n_head
            if not 1 <= n_bottom <= MOST_CONVS:
                continue
            for join in ("concat", "add"):
                yield Layout(
                    n_levels=n_levels,
                    n_encoder=n_encoder,
                    n_bottom=n_bottom,
                    n_decoder=n_decoder,
                    n_head=n_head,
                    has_down=has_down,
                    has_up=has_up,
                    join="concat" if join == "concat" else "add",
                )


Fit = tuple[int, int, bool]
"""Channels that go in, channels that come out, and whether it is transposed."""


@dataclass(slots=True)
class _Search:
    """Fills one place after the other; goes back where nothing fits."""

    convs: Sequence[Item]
    norm_first: bool
    least: float = math.inf
    found: list[Pairing] = field(default_factory=list)
    n_tries: int = 0
    is_reversed: bool = False
    skips: dict[int, int] = field(default_factory=dict)
    placed: list[Placed] = field(default_factory=list)
    used: set[int] = field(default_factory=set)
    starts: dict[Kind, list[int]] = field(default_factory=dict)

    def run(self, layout: Layout, is_reversed: bool) -> None:
        """Add to `found` the ways of a layout that are not dearer than the cheapest so far."""
        self.is_reversed = is_reversed
        self._fill(layout, layout.places(), 0, 0, frozenset())

    def _fill(
        self,
        layout: Layout,
        places: list[tuple[Kind, int, int]],
        channels: int,
        at: int,
        jumps: frozenset[tuple[Kind, Kind]],
    ) -> None:
        """Fill places, with `channels` coming from before, and `at` next in the file.

        A jump counts once from one kind of place to another, however many levels there are.
        """
        self.n_tries += 1
        if self.n_tries > MOST_TRIES or len(jumps) + layout.unevenness > self.least:
            return
        if not places:
            self._keep(self._done(layout, len(jumps)))
            return
        (kind, level, n), rest = places[0], places[1:]
        for start in self._candidates(kind, n, at):
            for n_in, n_out, transposed in self._fits(kind, start, n, channels):
                if self.placed and n_in != self._wanted(layout, kind, level, channels):
                    continue
                before: Kind = self.placed[-1].kind if self.placed else "head"
                more = jumps if start == at else jumps | {(before, kind)}
                self._put(kind, level, start, n, transposed)
                if kind == "encoder":
                    self.skips[level] = n_out
                self._fill(layout, rest, n_out, start + n, more)
                self._take_back(kind, start, n)

    def _keep(self, pairing: Pairing) -> None:
        if pairing.cost <= self.least + TIE:
            self.found.append(pairing)
            self.least = min(self.least, pairing.cost)

    def _put(self, kind: Kind, level: int, start: int, n: int, transposed: bool) -> None:
        self.used.update(range(start, start + n))
        self.starts.setdefault(kind, []).append(start)
        self.placed += [
            Placed(kind=kind, level=level, item=item, transposed=transposed)
            for item in self.convs[start : start + n]
        ]

    def _take_back(self, kind: Kind, start: int, n: int) -> None:
        self.used.difference_update(range(start, start + n))
        self.starts[kind].pop()
        del self.placed[-n:]

    def _candidates(self, kind: Kind, n: int, at: int) -> Iterator[int]:
        """Where in the file so many convolutions in a row are left, for a place of that kind."""
        before = self.starts.get(kind, ())
        first, end = 0, len(self.convs) - n + 1
        if before and self.is_reversed and kind in ("up", "decoder"):
            end = before[-1]
        elif before:
            first = before[-1] + 1
        if len(before) > 1:  # Levels are alike, so they are at even distances.
            first = 2 * before[-1] - before[-2]
            end = min(end, first + 1)
        # What follows in the file comes first.
        for start in sorted(range(max(0, first), end), key=lambda start: start != at):
            if self.used.isdisjoint(range(start, start + n)):
                yield start

    def _wanted(self, layout: Layout, kind: Kind, level: int, channels: int) -> int:
        """Channels that a place must take; -1 if nothing can."""
        if kind != "decoder":
            return channels
        if layout.join == "concat":
            return channels + self.skips[level]
        return channels if channels == self.skips[level] else -1

    def _fits(self, kind: Kind, start: int, n: int, channels: int) -> Iterator[Fit]:
        """In which ways so many convolutions in a row fit a place of a kind."""
        if kind == "up":
            yield from self._fits_up(self.convs[start], channels)
            return
        n_in = n_out = self.convs[start].shape[1]
        for item in self.convs[start : start + n]:
            is_odd, is_wide = all(size % 2 for size in item.kernel), max(item.kernel) > 1
            is_right_size = is_odd != (kind == "down") and (is_wide or kind == "head")
            if not (item.may_be_plain and is_right_size and item.shape[1] == n_out):
                return
            if not self._has_norm_for(item, *item.shape[1::-1]):
                return
            n_out = item.shape[0]
        yield n_in, n_out, False

    def _fits_up(self, item: Item, channels: int) -> Iterator[Fit]:
        """In which ways a convolution can enlarge, or follow an interpolation."""
        first, second = item.shape[:2]
        is_odd = all(size % 2 for size in item.kernel)
        is_plain = item.may_be_plain and second == channels and (is_odd or first < second)
        if is_plain and self._has_norm_for(item, second, first):
            yield second, first, False
        is_doubtful = is_plain and first == second
        is_transposed = item.may_be_transposed and first == channels and not is_doubtful
        if is_transposed and self._has_norm_for(item, first, second):
            yield first, second, True

    def _has_norm_for(self, item: Item, n_in: int, n_out: int) -> bool:
        return item.n_norm in (0, n_in if self.norm_first else n_out)

    def _done(self, layout: Layout, n_jumps: int) -> Pairing:
        """How far-fetched it is: jumps, an unusual layout, and places across different names."""
        names = [tokens(one.item.path) for one in self.placed]
        mixed = 0.0
        for (one, other), (first, second) in zip(
            pairwise(self.placed), pairwise(names), strict=True
        ):
            common = _common(first, second) / max(len(first), len(second), 1)
            is_one = (one.kind, one.level) == (other.kind, other.level)
            mixed += 1 - common if is_one else common
        is_wide = self.placed[0].item.shape[1] > self.placed[0].item.shape[0]
        oddities = n_jumps + layout.unevenness + 2 * is_wide + 0.01 * self.is_reversed
        cost = oddities + 0.1 * mixed
        return Pairing(layout=layout, placed=tuple(self.placed), cost=cost)


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """How many words two names begin with alike."""
    n = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        n += 1
    return n
