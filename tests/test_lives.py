"""Live mode without a window: numbers that last, whether more strokes help, the next place."""

from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest

from napari_unet.core.regions import Region
from napari_unet.core.settings import SegmentSettings
from napari_unet.learning import Desk, Look, OnStage, _Teller
from napari_unet.numbering import TILE_SIZE, Numbers, Tiles
from napari_unet.scenes import GAIN, N_NEEDED, Point, is_enough


def region(rows, columns, index=()):
    return Region(index=index, window=(slice(*rows), slice(*columns)))


WHOLE = region((0, 8), (0, 8))
HERE = frozenset({"here"})


def labels(*objects):
    """`(y, x)` of 8 px with objects `(number, rows, columns)`."""
    found = np.zeros((8, 8), np.int32)
    for number, rows, columns in objects:
        found[slice(*rows), slice(*columns)] = number
    return found


def test_objects_keep_their_numbers_while_their_outlines_change():
    shown = labels((7, (0, 3), (0, 3)), (3, (5, 8), (5, 8)))
    numbers = Numbers(lambda: shown)
    found = labels((1, (1, 4), (1, 4)), (2, (4, 8), (5, 8)))
    now = numbers.renumbered(WHOLE, found)
    assert np.array_equal(now, np.where(found == 1, 7, np.where(found == 2, 3, 0)))
    assert np.array_equal(numbers.renumbered(WHOLE, found), now)


def test_a_new_object_gets_a_number_that_nothing_else_has():
    shown = labels((1, (0, 2), (0, 2)), (3, (6, 8), (6, 8)))
    numbers = Numbers(lambda: shown)
    found = labels((1, (0, 2), (0, 2)), (2, (0, 2), (5, 7)))
    now = numbers.renumbered(region((0, 4), (0, 8)), found[:4])
    assert set(np.unique(now)) == {0, 1, 2}
    more = numbers.renumbered(region((4, 8), (0, 8)), labels((1, (0, 2), (0, 2)))[:4])
    assert set(np.unique(more)) == {0, 3}  # that of 3 is free now


def test_of_two_parts_of_a_split_object_the_larger_keeps_its_number():
    numbers = Numbers(lambda: labels((5, (0, 8), (0, 8))))
    now = numbers.renumbered(WHOLE, labels((1, (0, 2), (0, 8)), (2, (3, 8), (0, 8))))
    assert now[7, 0] == 5
    assert now[0, 0] not in (0, 5)


def test_an_object_goes_on_across_the_edge_of_the_window():
    numbers = Numbers(lambda: labels((9, (2, 4), (0, 4))))
    right = labels((1, (2, 4), (4, 6)), (2, (6, 8), (6, 8)))[:, 4:]
    now = numbers.renumbered(region((0, 8), (4, 8)), right)
    assert now[2, 0] == 9
    assert now[7, 3] not in (0, 9)


def test_two_halves_of_an_object_become_one_at_the_edge_of_a_window():
    shown = labels((9, (2, 6), (0, 4)), (4, (2, 6), (4, 8)))
    numbers = Numbers(lambda: shown)
    right = region((0, 8), (4, 8))
    now = numbers.renumbered(right, labels((1, (2, 6), (4, 8)))[:, 4:])
    assert now[3, 0] == 9
    apart = numbers.renumbered(right, labels((1, (5, 8), (4, 8)))[:, 4:])
    assert apart[5, 0] == 9  # it touches by a third of its edge, and has that number by now


def test_what_hardly_touches_across_the_edge_stays_apart():
    shown = labels((9, (0, 3), (0, 4)), (4, (2, 8), (4, 8)))
    numbers = Numbers(lambda: shown)
    now = numbers.renumbered(region((0, 8), (4, 8)), labels((1, (2, 8), (4, 8)))[:, 4:])
    assert now[3, 0] == 4


def test_objects_of_other_planes_keep_theirs():
    shown = np.stack([labels((1, (0, 2), (0, 2))), labels((2, (0, 2), (0, 2)))])
    numbers = Numbers(lambda: shown)
    found = labels((1, (0, 2), (0, 2)), (2, (5, 7), (5, 7)))
    now = numbers.renumbered(region((0, 8), (0, 8), (0,)), found)
    assert now[0, 0] == 1
    assert now[6, 6] == 3


def test_numbers_stay_small_while_objects_come_and_go():
    numbers = Numbers(lambda: labels())
    for i in range(300):
        now = numbers.renumbered(WHOLE, labels((1, (i % 7, i % 7 + 2), (0, 2))))
        assert now.max() <= 2
        assert now.dtype == np.uint16


def points(*scores):
    """One score for each number of strokes."""
    return [
        Point(step=n, loss=None, score=score, n_strokes=n, n_corrected={})
        for n, score in enumerate(scores)
    ]


def test_whether_more_strokes_help():
    assert is_enough([]) is None
    assert is_enough(points(0.1, 0.5)) is None
    rising = [0.1 + 0.02 * i for i in range(2 * N_NEEDED + 1)]
    assert is_enough(points(*rising)) is False
    flat = [0.1, 0.8, *[0.8 + GAIN / 2] * (2 * N_NEEDED)]
    assert is_enough(points(*flat)) is True
    assert is_enough(points(*flat, 0.95)) is False


@pytest.fixture
def teller(tiny_model):
    shown = np.zeros((2, 64, 64), np.uint16)
    on_stage = OnStage(key="here", settings=SegmentSettings(), labels=lambda: shown)
    desk = Desk(inbox=SimpleNamespace(), on_stage=on_stage, questions=deque())
    return _Teller(tiny_model, desk), desk


def progress(seen=None):
    return SimpleNamespace(done=1, total=2, message="Learning", seen=seen, temperature=None)


def seen(foreground, index=(0,), key="here", n_steps=3):
    outputs = np.stack([1 - foreground, foreground]).astype(np.float16)
    window = tuple(slice(0, n) for n in foreground.shape)
    return SimpleNamespace(
        key=key, index=index, window=window, outputs=outputs, n_steps=n_steps,
        shape=foreground.shape,
    )  # fmt: skip


def test_what_is_seen_becomes_labels(teller):
    tell, desk = teller
    foreground = np.zeros((64, 64))
    foreground[8:24, 8:24] = foreground[40:56, 40:56] = 1
    shown = tell.tell(progress(seen(foreground))).shown
    assert shown.key == "here"
    assert shown.region == Region(index=(0,), window=(slice(0, 64), slice(0, 64)))
    assert set(np.unique(shown.labels)) == {0, 1, 2}
    assert not shown.is_untrained
    assert tell.tell(progress(seen(foreground, key="elsewhere"))).shown is None
    assert tell.tell(progress(seen(foreground, n_steps=0))).shown.is_untrained
    desk.on_stage = OnStage(
        key="elsewhere", settings=SegmentSettings(), labels=desk.on_stage.labels
    )
    assert tell.tell(progress(seen(foreground))).shown is None
    assert tell.tell(progress(seen(foreground, key="elsewhere"))).shown.key == "elsewhere"


def test_the_next_place_is_where_there_is_doubt_that_nobody_has_looked_at(teller):
    tell, desk = teller
    certain, unsure = np.zeros((64, 64)), np.zeros((64, 64))
    unsure[8:24, 8:24] = 0.5
    tell.tell(progress(seen(certain, (0,))))
    assert tell.tell(progress(seen(unsure, (1,)))).places is None  # nobody asked
    desk.questions.append(Look(keys=HERE))
    (place,) = tell.tell(progress()).places
    assert (place.key, place.index) == ("here", (1,))
    assert all(part.start <= 8 and part.stop >= 24 for part in place.window)
    done = {("here", (1,)): (place.window,)}
    desk.questions.append(Look(keys=HERE, looked_at=done))
    assert tell.tell(progress()).places == ()
    tell.tell(progress(seen(unsure, (1,), key="elsewhere")))
    desk.questions.append(Look(keys=HERE, looked_at=done))
    assert tell.tell(progress()).places == ()  # it is closed
    desk.questions.append(Look(keys=HERE | {"elsewhere"}, looked_at=done))
    assert [found.key for found in tell.tell(progress()).places] == ["elsewhere"]


def test_tiles_remember_what_was_written_across_them():
    size = 2 * TILE_SIZE + 10
    whole = np.random.default_rng(0).integers(0, 99, (2, size, size))
    tiles = Tiles((size, size), np.int32, lambda index, window: whole[(*index, *window)])
    window = (slice(TILE_SIZE - 5, size), slice(3, TILE_SIZE + 1))
    assert np.array_equal(tiles.read((1,), window), whole[(1, *window)])
    new = -tiles.read((1,), window)
    tiles.write((1,), window, new)
    assert np.array_equal(tiles.read((1,), window), new)
    assert np.array_equal(tiles.read((0,), window), whole[(0, *window)])
    assert tiles.hulls()[1,] == (slice(0, size), slice(0, 2 * TILE_SIZE))


def test_tiles_used_long_ago_are_forgotten(monkeypatch):
    monkeypatch.setattr("napari_unet.numbering.MOST_KEPT", 2 * TILE_SIZE**2)
    tiles = Tiles((TILE_SIZE, TILE_SIZE), np.uint8)
    corner = (slice(0, 1), slice(0, 1))
    for index in range(3):
        tiles.write((index,), corner, np.full((1, 1), 7))
    assert [int(tiles.read((index,), corner)[0, 0]) for index in (1, 2, 0)] == [7, 7, 0]
