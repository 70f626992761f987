"""The parts of an image that is read band by band."""

import numpy as np

from napari_unet.core.parts import Parts

NOWHERE = np.zeros(0, np.int32)


def feed(parts, classes, start):
    slots = parts.add(np.array(classes, np.uint8), start)
    return slots, [parts.table[root] for root in parts.end(slots[-1])]


def test_what_is_known_of_a_part():
    parts = Parts(2)
    slots = parts.add(np.array([[0, 1, 1, 0], [0, 1, 0, 2], [0, 0, 0, 2]], np.uint8), 10)
    assert len(np.unique(slots)) == 3
    first, second = parts.table[parts.end(NOWHERE)]
    assert (first["kind"], first["area"], first["last"]) == (1, 3, 11 * 4 + 1)
    assert (first["low"].tolist(), first["high"].tolist()) == ([10, 1], [12, 3])
    assert (second["kind"], second["area"], second["last"]) == (2, 2, 12 * 4 + 3)
    assert (second["low"].tolist(), second["high"].tolist()) == ([11, 3], [13, 4])


def test_pieces_of_one_class_join_across_the_seam():
    parts = Parts(2)
    above = parts.add(np.array([[1, 0, 1, 0, 2]], np.uint8), 0)
    below = parts.add(np.array([[1, 1, 1, 0, 1]], np.uint8), 1)
    parts.join(above[-1], below[0])
    ended = parts.end(NOWHERE)
    assert parts.table["area"][ended].tolist() == [1, 5, 1]  # in the order of their last pixels
    joined = parts.table[ended[1]]
    assert (joined["low"].tolist(), joined["high"].tolist()) == ([0, 0], [2, 3])
    assert parts.ranks(ended)[above].tolist() == [[2, 0, 2, 0, 1]]
    assert parts.ranks(ended)[below].tolist() == [[2, 2, 2, 0, 3]]


def test_parts_in_the_last_row_go_on():
    parts = Parts(2)
    _, ended = feed(parts, [[1, 0, 1], [0, 0, 1]], 0)
    assert [part["area"] for part in ended] == [1]
    assert parts.first_open_row(otherwise=2) == 0
    feed(parts, [[0, 0, 0]], 2)
    assert parts.first_open_row(otherwise=3) == 3


def test_slots_are_used_again():
    parts = Parts(2)
    row = np.arange(40) % 2 == 0
    for start in range(0, 200, 2):
        _, ended = feed(parts, [row, ~row & False], start)
        assert len(ended) == 20
        parts.forget(start + 1)
    assert parts.table.size < 50
