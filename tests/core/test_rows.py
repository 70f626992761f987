"""Rows that are held while objects are found: compact, and the same as whole arrays."""

from itertools import pairwise

import numpy as np
import pytest

from napari_unet.core import rows as rows_module
from napari_unet.core.rows import Pixels, Rows

EDGES = (0, 2, 5, 9)


def sparse(shape, share=0.5, seed=0):
    """Slots from 1 on in a share of the pixels, else 0."""
    generator = np.random.default_rng(seed)
    slots = generator.permutation(np.prod(shape)).astype(np.int32).reshape(shape) + 1
    return np.where(generator.random(shape) < share, slots, 0).astype(np.int32)


def held(slots, rises=None, edges=EDGES):
    """Rows that hold slots in several bands."""
    rows = Rows(slots.shape)
    for start, stop in pairwise(edges):
        part = None if rises is None else rises[start:stop]
        rows.add(start, Pixels.of(slots[start:stop], part))
    return rows


def all_slots(view, slots):
    """What a view says of slots that are each a part, all in one group."""
    numbers = np.arange(slots.max(initial=0) + 1, dtype=np.int32)
    return view.ranks(numbers, (numbers > 0).astype(np.int32), 1)


def windows(shape, n=20):
    generator = np.random.default_rng(1)
    for _ in range(n):
        ends = [sorted(generator.choice(size + 1, 2, replace=False)) for size in shape]
        yield tuple(slice(int(start), int(stop)) for start, stop in ends)


@pytest.mark.parametrize("shape", [(9, 7), (9, 6, 5)])
@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_a_window_shows_what_the_whole_has_there(shape, share):
    slots = sparse(shape, share)
    rises = np.random.default_rng(2).integers(0, 21, shape).astype(np.uint8)
    rows = held(slots, rises)
    for window in windows(shape):
        view = rows.view(window)
        np.testing.assert_array_equal(all_slots(view, slots), slots[window])
        np.testing.assert_array_equal(view.rises(), np.where(slots, rises, 0)[window])
        assert not rows.labels(window).any()


def test_only_ranks_of_the_group_are_seen():
    slots = np.array([[1, 2, 0, 3]], np.int32)
    rows = held(slots, edges=(0, 1))
    rank_of, group_of = np.array([0, 2, 1, 3], np.int32), np.array([0, 1, 2, 1], np.int32)
    view = rows.view((slice(0, 1), slice(0, 4)))
    assert view.ranks(rank_of, group_of, 1).tolist() == [[0, 1, 0, 3]]
    assert view.ranks(rank_of, group_of, 2).tolist() == [[2, 0, 0, 0]]
    assert view.rises() is None


@pytest.mark.parametrize("shape", [(9, 7), (9, 6, 5)])
@pytest.mark.parametrize("released_pixels", [1, 40, 2**22])
def test_labels_are_noted_numbered_filled_and_released(monkeypatch, shape, released_pixels):
    monkeypatch.setattr(rows_module, "RELEASED_PIXELS", released_pixels)
    slots = sparse(shape)
    rows, expected = held(slots), np.zeros(shape, np.int32)
    size = int(slots.max()) + 3000
    for at, window in enumerate(windows(shape, 12)):
        first = at * size
        numbers = np.arange(first + 100, first + 100 + size, dtype=np.int32)
        free = (slots[window] > 0) & (expected[window] == 0)
        objects = np.where(free & (slots[window] % 3 > 0), slots[window], 0).astype(np.int32)
        rows.view(window).write(objects, after=first)
        rows.number(numbers, first, window[0].start)
        expected[window][objects > 0] = first + 100 + objects[objects > 0]
        places = np.flatnonzero((expected[window] == 0) & (np.indices(slots[window].shape)[-1] < 2))
        owners = (places + first + 1000).astype(np.int32)
        rows.fill(window, places, owners)
        filled = expected[window].copy()
        filled.ravel()[places] = owners
        expected[window] = filled
        np.testing.assert_array_equal(rows.labels(window), expected[window])
    found = np.full(shape, -1, np.int32)
    for row in (0, 3, 3, 8, 9):
        for window, labels in rows.release(row):
            assert (found[window] == -1).all()
            found[window] = labels
        assert (found[:row] >= 0).all()
        assert (found[row:] == -1).all()
        rest = (slice(row, 9), *(slice(0, length) for length in shape[1:]))
        np.testing.assert_array_equal(rows.labels(rest), expected[rest])
    np.testing.assert_array_equal(found, expected)
    assert not rows.bands
    assert rows.n_bytes == 0


def test_memory_goes_with_the_foreground():
    shape = (20, 50, 60)
    few, many = (held(sparse(shape, share), edges=(0, 10, 20)) for share in (0.05, 0.5))
    assert 8 < many.n_bytes / few.n_bytes < 12
    assert few.n_bytes < 0.06 * 8 * np.prod(shape)
    assert held(np.zeros(shape, np.int32), edges=(0, 20)).n_bytes == 0
    before = many.n_bytes
    assert list(many.release(15))
    assert many.n_bytes < 0.3 * before


def test_pieces_are_joined():
    slots = sparse((9, 6, 5))
    pieces = [Pixels.of(slots[a:b], None) for a, b in pairwise(EDGES)]
    joined, whole = Pixels.joined(pieces), Pixels.of(slots, None)
    assert joined.shape == whole.shape
    np.testing.assert_array_equal(joined.places, whole.places)
    np.testing.assert_array_equal(joined.values["marks"], whole.values["marks"])
    assert joined.places.dtype == np.int32


def test_places_beyond_what_32_bits_count():
    shape = (3, 2**15, 2**15)
    places = np.array([5, 2**30, 2**31 + 7])
    rows = Rows(shape)
    rows.add(0, Pixels(shape, places, {"marks": np.array([1, 2, 3], np.int32)}))  # fmt: skip
    corner = tuple(slice(n, n + size) for n, size in ((2, 1), (0, 1), (0, 10)))
    assert all_slots(rows.view(corner), np.arange(4)).ravel().tolist() == [0] * 7 + [3, 0, 0]
    edges = Pixels.joined(
        [Pixels((2**16, 2**15), places[:1], {}), Pixels((1, 2**15), places[:1], {})]
    )
    assert edges.places.tolist() == [5, 2**31 + 5]
