"""Windows fill what is wanted exactly once, on one grid, what is near first."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from napari_unet.core.tiling import (
    around,
    cut,
    mirrored,
    n_pixels,
    nearest_first,
    padded_size,
    without,
)


def random_window(generator, shape):
    parts = []
    for n in shape:
        start, stop = sorted(generator.choice(n + 1, 2, replace=False))
        parts.append(slice(int(start), int(stop)))
    return tuple(parts)


@pytest.mark.parametrize("seed", range(30))
def test_blocks_fill_a_window_once_and_lie_on_one_grid(seed):
    generator = np.random.default_rng(seed)
    shape = tuple(generator.integers(1, 60, generator.integers(2, 4)))
    window = random_window(generator, shape)
    block = tuple(generator.integers(1, 30, len(shape)))
    stride = tuple(generator.integers(1, 9, len(shape)))
    filled = np.zeros(shape, np.uint8)
    blocks = cut(window, block, stride)
    for piece in blocks:
        filled[piece] += 1
        for part, outer, size, step in zip(piece, window, block, stride, strict=True):
            assert part.stop - part.start <= padded_size(size, step)
            if outer.stop - outer.start > padded_size(size, step):
                assert part.start == outer.start or part.start % step == 0
    expected = np.zeros(shape, np.uint8)
    expected[window] = 1
    np.testing.assert_array_equal(filled, expected)
    assert sum(n_pixels(piece) for piece in blocks) == n_pixels(window)


def test_a_window_that_is_small_enough_stays_whole():
    window = (slice(3, 20), slice(5, 9))
    assert cut(window, (17, 4), (1, 1)) == [window]
    assert len(cut(window, (16, 4), (16, 4))) > 1


@pytest.mark.parametrize("seed", range(40))
def test_what_is_left_without_a_hole(seed):
    generator = np.random.default_rng(seed)
    shape = tuple(generator.integers(1, 25, generator.integers(1, 4)))
    window, hole = random_window(generator, shape), random_window(generator, shape)
    left = np.zeros(shape, np.uint8)
    for piece in without(window, hole):
        assert n_pixels(piece) > 0
        left[piece] += 1
    expected = np.zeros(shape, np.uint8)
    expected[window] = 1
    expected[hole] = 0
    np.testing.assert_array_equal(left, expected)


@pytest.mark.parametrize(
    ("focus", "size", "stride"),
    list(product([(0, 0), (50, 50), (99, 3), (1e9, -5)], [(32, 32), (500, 10)], [(1, 1), (16, 8)])),
)
def test_the_window_around_a_focus_is_inside_and_holds_it(focus, size, stride):
    window = (slice(0, 100), slice(0, 120))
    found = around(focus, window, size, stride)
    for part, outer, at, n, step in zip(found, window, focus, size, stride, strict=True):
        assert outer.start <= part.start < part.stop <= outer.stop
        assert part.start % step == 0
        assert part.stop % step == 0 or part.stop == outer.stop
        assert part.stop - part.start >= min(n, outer.stop - outer.start)
        assert part.start <= min(max(at, outer.start), outer.stop - 1) < part.stop


@pytest.mark.parametrize("size", [1, 2, 7])
def test_beyond_its_ends_an_axis_is_mirrored_as_numpy_does(size):
    places = mirrored(slice(-9, size + 9), size)
    mode = "reflect" if size > 1 else "edge"
    np.testing.assert_array_equal(places, np.pad(np.arange(size), 9, mode=mode))


def test_the_nearest_window_comes_first():
    blocks = cut((slice(0, 90), slice(0, 90)), (30, 30), (1, 1))
    ordered = nearest_first(blocks, (45, 70))
    assert ordered[0] == (slice(30, 60), slice(60, 90))
    assert sorted(map(str, ordered)) == sorted(map(str, blocks))
    distances = [
        np.hypot(
            *((part.start + part.stop - 1) / 2 - at for part, at in zip(w, (45, 70), strict=True))
        )
        for w in ordered
    ]
    assert distances[-1] == max(distances)
    assert nearest_first(blocks, None) == blocks
