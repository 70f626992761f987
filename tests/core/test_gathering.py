"""Rows are joined to larger pieces that end where chunks do; nothing is lost or moved."""

from __future__ import annotations

import numpy as np
import pytest

from napari_unet.core.gathering import gathered


def parts_of(values, axis, heights, start=0):
    """Consecutive parts of `values` `(output, *window)` along an axis of the window."""
    at = start
    for height in heights:
        window = [slice(0, n) for n in values.shape[1:]]
        window[axis] = slice(at, at + height)
        found = values[(slice(None), *window)] if start == 0 else None
        if found is None:
            inner = list(window)
            inner[axis] = slice(at - start, at - start + height)
            found = values[(slice(None), *inner)]
        yield tuple(window), found
        at += height


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
@pytest.mark.parametrize("least", [1, 30, 10_000])
@pytest.mark.parametrize("start", [0, 5])
def test_pieces_are_what_came_and_end_with_chunks(axis, chunk, least, start):
    values = np.random.default_rng(0).normal(size=(2, 23, 23))
    heights = [1, 5, 2, 8, 3, 4]
    pieces = list(gathered(parts_of(values, axis, heights, start), axis, least, chunk))
    whole = np.concatenate([found for _, found in pieces], axis=axis + 1)
    np.testing.assert_array_equal(whole, values)
    edges = [window[axis].start for window, _ in pieces] + [pieces[-1][0][axis].stop]
    assert edges[0] == start
    assert edges[-1] == start + 23
    assert all(edge % chunk == 0 for edge in edges[1:-1])
    for window, found in pieces:
        assert found.shape[1:] == tuple(part.stop - part.start for part in window)
        assert window[1 - axis] == slice(0, 23)


def test_pieces_are_as_large_as_was_asked_but_for_the_last_one():
    values = np.zeros((1, 40, 10))
    pieces = list(gathered(parts_of(values, 0, [1] * 40), 0, least=95, chunk=1))
    assert [window[0].stop - window[0].start for window, _ in pieces] == [10, 10, 10, 10]
    pieces = list(gathered(parts_of(values, 0, [3] * 13), 0, least=95, chunk=1))
    assert [window[0].stop - window[0].start for window, _ in pieces] == [12, 12, 12, 3]


def test_one_large_part_is_handed_on_without_a_copy():
    values = np.zeros((1, 16, 10))
    ((window, found),) = gathered(parts_of(values, 0, [16]), 0, least=1, chunk=8)
    assert window[0] == slice(0, 16)
    assert np.shares_memory(found, values)


def test_nothing_in_nothing_out():
    assert list(gathered(iter(()), 0, 10, 1)) == []
