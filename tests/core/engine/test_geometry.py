"""Which px a layer reads, against layers of torch that are asked themselves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations, product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_unet.core.engine.geometry import SAME, Axis, Enlarge, Spread, Window, hull

N = 13
WINDOWS = [
    Window(extent=extent, step=step, before=before, after=after)
    for extent, step, before, after in product((1, 2, 3, 5), (1, 2, 3), (-2, 0, 1, 2), (-1, 0, 2))
    if N + before + after >= extent
]
SPREADS = [
    Spread(extent=extent, step=step, before=before, after=after)
    for extent, step, before, after in product((1, 2, 3, 4, 8), (1, 2, 4), (0, 1, 2), (0, 1))
    if (N - 1) * step + extent > before + after
]
KINDS: dict[str, Sequence[Axis]] = {
    "windows": WINDOWS,
    "spreads": SPREADS,
    "block": [Enlarge(factor=n) for n in (1, 2, 3, 4)],
    "linear": [Enlarge(factor=n, kind="linear") for n in (1, 2, 3, 4)],
    "corners": [Enlarge(factor=n, kind="corners") for n in (1, 2, 3, 4)],
}


def output(axis: Axis, line: Tensor) -> Tensor:
    """What torch makes of a line `(n)`."""
    image = line[None, None]
    if isinstance(axis, Window):
        image = F.pad(image, (axis.before, axis.after))
        return F.conv1d(image, torch.ones(1, 1, axis.extent).to(line), stride=axis.step)[0, 0]
    if isinstance(axis, Spread):
        weight = torch.ones(1, 1, axis.extent).to(line)
        full = F.conv_transpose1d(image, weight, stride=axis.step)[0, 0]
        return full[axis.before : full.shape[0] - axis.after]
    if axis.kind == "block":
        return F.interpolate(image, scale_factor=axis.factor, mode="nearest")[0, 0]
    corners = axis.kind == "corners"
    return F.interpolate(
        image, scale_factor=axis.factor, mode="linear", align_corners=corners
    )[0, 0]  # fmt: skip


@cache
def needed(axis: Axis, at: int, size: int) -> list[int]:
    """Which px of the input output px `at` really depends on."""
    lines = torch.eye(size, dtype=torch.float64)
    return [px for px in range(size) if output(axis, lines[px])[at] > 0]


def takes(axis: Axis, size: int) -> bool:
    """Whether anything comes out of a line of `size` px, and torch agrees that it may."""
    if isinstance(axis, Window):
        left = size + min(0, axis.before) + min(0, axis.after)
        return left > 0 and size + axis.before + axis.after >= axis.extent
    return not isinstance(axis, Spread) or axis.out_size(size) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_sizes(kind: str) -> None:
    for axis, size in product(KINDS[kind], (1, 2, N)):
        if takes(axis, size):
            assert axis.out_size(size) == output(axis, torch.ones(size)).shape[0], axis
    assert Window(extent=5).out_size(3) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_suffices_and_is_hardly_more(kind: str) -> None:
    for axis in KINDS[kind]:
        each = [needed(axis, at, N) for at in range(axis.out_size(N))]
        for start, stop in combinations(range(len(each) + 1), 2):
            wanted = sorted({px for one in each[start:stop] for px in one})
            low, high = axis.reads((start, stop), N)
            assert all(low <= px < high for px in wanted), axis
            if isinstance(axis, Window):
                assert high - low == (stop - start - 1) * axis.step + axis.extent
            elif wanted:
                spare = 2 if isinstance(axis, Enlarge) and not axis.is_local else 0
                assert low >= wanted[0] - spare, axis
                assert high <= wanted[-1] + 1 + spare, axis


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "corners"])
def test_what_is_ready_and_what_is_done_with(kind: str) -> None:
    for axis in KINDS[kind]:
        n_out = axis.out_size(N)
        each = [needed(axis, at, N) for at in range(n_out)]
        for n in range(N + 1):
            for one in each[: axis.ready(n)]:
                assert all(px < n for px in one), f"{axis} is not ready yet"
        for n in range(n_out + 1):
            for one in each[n:]:
                assert all(px >= min(axis.used(n), N) for px in one), f"{axis} still needs it"


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_mirror(kind: str) -> None:
    for axis, size in product(KINDS[kind], (N, 6)):
        if not takes(axis, size):
            continue
        n_out, flipped = axis.out_size(size), axis.flipped(size)
        assert flipped.out_size(size) == n_out
        for at in range(n_out):
            mirrored = [size - 1 - px for px in reversed(needed(axis, n_out - 1 - at, size))]
            assert needed(flipped, at, size) == mirrored, axis


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_local_shares_nothing(kind: str) -> None:
    n_local = 0
    for axis in KINDS[kind]:
        if not axis.is_local:
            continue
        n_local += 1
        each = [set(needed(axis, at, N)) for at in range(axis.out_size(N))]
        assert all(each), axis
        assert all(one == other or not one & other for one, other in product(each, each)), axis
    assert n_local


def test_where_pieces_begin() -> None:
    assert Spread(extent=2, step=2).starts(3) == 6
    assert Spread(extent=4, step=2, before=1).starts(3) == 5
    assert Enlarge(factor=3).starts(2) == 6


def test_hulls() -> None:
    assert hull(None, (3, 5)) == (3, 5)
    assert hull((4, 9), (3, 5)) == (3, 9)
    assert SAME.reads((2, 7), 10) == (2, 7)
