"""Tiles fill an image exactly, and each reads what it needs."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from napari_unet.core.tiling import Tile, mirrored, nearest_first, padded_size, tiles

CASES = [
    case
    for case in product(
        [(1, 1), (15, 40), (64, 64), (65, 127), (5, 33, 50), (16, 1, 17)],
        [1, 16, 20, 1000],
        [0, 3, 24],
        [1, 4, 16],
    )
    if max(case[0]) // padded_size(case[1], case[3]) <= 20  # more tiles would only take time
]


@pytest.mark.parametrize(("shape", "tile_size", "halo", "stride"), CASES)
def test_tiles_fill_the_image_once(
    shape: tuple[int, ...], tile_size: int, halo: int, stride: int
) -> None:
    filled = np.zeros(shape, np.uint8)
    for tile in tiles(shape, tile_size, halo, stride):
        filled[tile.keep] += 1
        check(tile, shape, tile_size, halo, stride)
    assert (filled == 1).all()


def check(tile: Tile, shape: tuple[int, ...], tile_size: int, halo: int, stride: int) -> None:
    """Every rule that one tile obeys."""
    for size, read, keep, inner in zip(shape, tile.read, tile.keep, tile.inner, strict=True):
        end = padded_size(size, stride)
        assert 0 <= keep.start < keep.stop <= size
        assert keep.stop - keep.start <= padded_size(tile_size, stride)
        assert keep.stop == size or keep.stop - keep.start == padded_size(tile_size, stride)
        assert read.start % stride == 0 and read.stop % stride == 0
        assert read.start == 0 or keep.start - read.start >= halo
        assert read.stop == end or read.stop - keep.stop >= halo
        assert 0 <= read.start <= keep.start and keep.stop <= read.stop <= end
        assert read.start + inner.start == keep.start
        assert read.start + inner.stop == keep.stop


def test_reads_no_more_than_it_needs() -> None:
    (first, second, last) = tiles((100,), 32, 8, 16)[:1] + tiles((100,), 32, 8, 16)[1:4:2]
    assert (first.read, first.keep, first.inner) == (
        (slice(0, 48),), (slice(0, 32),), (slice(0, 32),),
    )  # fmt: skip
    assert (second.read, second.keep, second.inner) == (
        (slice(16, 80),), (slice(32, 64),), (slice(16, 48),),
    )  # fmt: skip
    assert (last.read, last.keep, last.inner) == (
        (slice(80, 112),), (slice(96, 100),), (slice(16, 20),),
    )  # fmt: skip


def test_fills_only_what_is_asked_for() -> None:
    within = (slice(32, 70), slice(16, 48))
    filled = np.zeros((70, 90), np.uint8)
    for tile in tiles((70, 90), 16, 5, 8, within):
        filled[tile.keep] += 1
        check(tile, (70, 90), 16, 5, 8)
    assert (filled[within] == 1).all()
    assert filled.sum() == filled[within].size


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_mirrors_past_the_far_end_as_numpy_does(size: int) -> None:
    expected = np.pad(np.arange(size), (0, 13), mode="reflect")
    np.testing.assert_array_equal(mirrored(slice(0, size + 13), size), expected)
    np.testing.assert_array_equal(mirrored(slice(1, size + 5), size), expected[1 : size + 5])


def test_the_tile_of_the_focus_is_the_first_and_the_farthest_the_last() -> None:
    cut = tiles((100, 100), 32, 8, 16)
    for focus in ((0, 0), (50.5, 40.0), (31, 32), (99, 99), (97, 60)):
        ordered = nearest_first(cut, focus)
        assert sorted(map(str, ordered)) == sorted(map(str, cut))
        first = ordered[0].keep
        assert all(part.start <= at < part.stop for part, at in zip(first, focus, strict=True))
    assert nearest_first(cut, (0, 0))[-1].keep == (slice(96, 100), slice(96, 100))
    assert nearest_first(cut, (500, -300))[0].keep == (slice(96, 100), slice(0, 32))


def test_without_a_focus_the_order_stays() -> None:
    cut = tiles((40, 40), 16, 0, 1)
    assert nearest_first(cut, None) == cut
