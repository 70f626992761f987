"""Reading ahead and writing behind: in order, bounded, and never a thread left behind."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from napari_unet.core import overlap
from napari_unet.core.errors import SettingsError, UNetLiveError
from napari_unet.core.overlap import WriteBehind, read_ahead

LONG = 30  # s, for what must happen


def own_threads():
    return [one for one in threading.enumerate() if one.name.startswith("napari-unet")]


@pytest.fixture(autouse=True)
def nothing_is_left():
    assert own_threads() == []
    yield
    assert own_threads() == []


@pytest.fixture
def clock(monkeypatch):
    """A clock that only goes on when a test says so, and knows how often it was looked at."""
    clock = SimpleNamespace(now=0.0, looks=0)

    def perf_counter():
        now = clock.now
        clock.looks += 1
        return now

    monkeypatch.setattr(overlap, "time", SimpleNamespace(perf_counter=perf_counter))
    return clock


@pytest.fixture
def elsewhere():
    """Runs a function in another thread; gives its future."""
    with ThreadPoolExecutor(2, thread_name_prefix="test") as pool:
        yield pool.submit


class Gate:
    """Something that takes until it is let through."""

    def __init__(self):
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, *_):
        self.entered.set()
        assert self.opened.wait(LONG)
        return "through"


# ---- reading ahead


@pytest.mark.parametrize("depth", [0, 1, 2, 50])
@pytest.mark.parametrize("n", [0, 1, 2, 20])
def test_all_pairs_come_in_order(n, depth):
    assert list(read_ahead(range(n), lambda i: i * i, depth)) == [(i, i * i) for i in range(n)]


def test_it_reads_in_one_other_thread():
    threads = [thread for _, thread in read_ahead(range(9), lambda _: threading.current_thread())]
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()


def test_the_next_one_is_read_while_one_is_worked_on():
    read = [threading.Event() for _ in range(4)]
    with read_ahead(range(4), lambda i: read[i].set()) as pairs:
        for i, _ in pairs:
            if i < 3:
                assert read[i + 1].wait(LONG)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_no_more_than_depth_are_in_memory_besides_the_one_worked_on(depth):
    taken = []
    items = (taken.append(i) or i for i in range(20))
    for i, _ in read_ahead(items, str, depth):
        assert taken == list(range(min(20, i + 1 + depth)))


def test_nothing_is_read_before_it_is_asked_for():
    taken = []
    with read_ahead((taken.append(i) for i in range(5)), str):
        assert own_threads() == []
        assert taken == []


class OddError(Exception):
    pass


def test_an_error_comes_when_it_is_its_turn_and_keeps_its_type():
    def read(i):
        if i == 2:
            raise OddError("two")
        return i

    pairs = read_ahead(range(6), read, 3)
    assert next(pairs) == (0, 0)
    assert next(pairs) == (1, 1)
    with pytest.raises(OddError, match="two"):
        next(pairs)
    assert own_threads() == []
    with pytest.raises(UNetLiveError, match="stopped"):
        next(pairs)


def test_an_error_of_the_items_comes_out():
    def items():
        yield 1
        raise OddError("no more")

    with pytest.raises(OddError, match="no more"):
        list(read_ahead(items(), str))


def test_a_stray_end_is_not_taken_for_the_end():
    with pytest.raises(ValueError, match="StopIteration"):
        list(read_ahead([1, 2], lambda _: next(iter(()))))


def test_the_end_stays_the_end():
    pairs = read_ahead([1], str)
    assert list(pairs) == [(1, "1")]
    assert list(pairs) == []


def test_a_generator_that_is_closed_stops_reading():
    read = []

    def work():
        with read_ahead(range(100), read.append, 2) as pairs:
            for i, _ in pairs:
                yield i

    generator = work()
    assert [next(generator) for _ in range(3)] == [0, 1, 2]
    generator.close()
    assert own_threads() == []
    assert read == list(range(len(read)))
    assert len(read) <= 5


def test_one_that_is_dropped_leaves_no_thread():
    gate, read = Gate(), []

    def read_one(i):
        read.append(i)
        return i and gate()

    pairs = read_ahead([0, 1, 2], read_one, 2)
    assert next(pairs) == (0, 0)
    assert gate.entered.wait(LONG)
    (thread,) = own_threads()
    del pairs
    gc.collect()
    gate.opened.set()
    thread.join(LONG)
    assert not thread.is_alive()
    assert read == [0, 1]


def test_closed_from_another_thread_while_somebody_waits(elsewhere):
    gate = Gate()
    pairs = read_ahead([0, 1, 2], gate)
    waiting = elsewhere(lambda: list(pairs))
    assert gate.entered.wait(LONG)
    closing = elsewhere(pairs.close)
    while not pairs._is_closed:
        pass
    gate.opened.set()
    closing.result(LONG)
    with pytest.raises(UNetLiveError, match="stopped before"):
        waiting.result(LONG)


def test_waiting_for_a_reader_is_counted(clock):
    def read(i):
        while clock.looks <= 2 * i:  # until somebody waits for it
            pass
        clock.now += 3

    with read_ahead(range(4), read, 0) as pairs:
        for _ in pairs:
            clock.now += 100  # work
        assert pairs.waited == 12


def test_what_was_read_ahead_needs_no_waiting(clock):
    done = [threading.Event() for _ in range(4)]

    def read(i):
        clock.now += 3
        done[i].set()

    with read_ahead(range(4), read, 3) as pairs:
        next(pairs)
        waited = pairs.waited
        assert done[3].wait(LONG)
        assert len(list(pairs)) == 3
        assert pairs.waited == waited


def test_a_depth_that_makes_no_sense():
    with pytest.raises(SettingsError, match="depth must be 0 or more, not -1"):
        read_ahead([], str, -1)
    with pytest.raises(SettingsError, match="depth must be 1 or more, not 0"):
        WriteBehind(0)


# ---- writing behind


@pytest.mark.parametrize("depth", [1, 2, 9])
def test_everything_is_written_in_order_by_one_other_thread(depth):
    written = []
    with WriteBehind(depth) as writer:
        for i in range(30):
            writer.put(lambda i, of: written.append((i, of, threading.current_thread())), i, of=30)
    assert [one[:2] for one in written] == [(i, 30) for i in range(30)]
    assert len({one[2] for one in written} - {threading.current_thread()}) == 1


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_no_more_than_depth_are_unfinished(depth):
    finished = []
    with WriteBehind(depth) as writer:
        for i in range(50):
            writer.put(finished.append, i)
            assert i + 1 - len(finished) <= depth


def test_put_waits_when_too_many_are_unfinished(elsewhere):
    gate, third = Gate(), threading.Event()

    def put_three():
        with WriteBehind(2) as writer:
            writer.put(gate)
            writer.put(int)
            writer.put(int)
            third.set()

    putting = elsewhere(put_three)
    assert gate.entered.wait(LONG)
    assert not third.wait(0.1)  # can only fail if it does not wait
    gate.opened.set()
    putting.result(LONG)


def fail(message):
    raise OddError(message)


def test_the_first_error_comes_at_the_next_put_and_nothing_is_written_after_it():
    written = []
    gate = Gate()
    with pytest.raises(OddError, match="first"), WriteBehind(4) as writer:
        writer.put(gate)
        writer.put(fail, "first")
        writer.put(written.append, "after")
        writer.put(fail, "second")
        gate.opened.set()
        writer.put(written.append, "later")
        writer.put(written.append, "later")
        writer.put(written.append, "later")
        writer.put(written.append, "later")
        raise AssertionError("put went on")
    assert written == []


def test_the_first_error_comes_at_the_end():
    with pytest.raises(OddError, match="first"), WriteBehind() as writer:
        writer.put(fail, "first")


def test_flush_waits_and_raises():
    with pytest.raises(OddError), WriteBehind() as writer:
        written = []
        writer.put(written.append, 1)
        writer.flush()
        assert written == [1]
        writer.put(fail, "now")
        writer.flush()
        raise AssertionError("flush went on")


def test_an_error_of_the_block_drops_what_has_not_begun():
    written = []
    begun = threading.Event()

    def until_closed(writer):
        begun.set()
        while not writer._is_closed:
            pass

    def end_badly():
        with WriteBehind(3) as writer:
            writer.put(until_closed, writer)
            writer.put(written.append, 1)
            assert begun.wait(LONG)
            raise OddError("in the block")

    with pytest.raises(OddError, match="in the block"):
        end_badly()
    assert written == []


def test_a_generator_that_is_closed_stops_writing():
    written = []

    def work():
        with WriteBehind() as writer:
            for i in range(100):
                writer.put(written.append, i)
                yield i

    generator = work()
    assert [next(generator) for _ in range(10)] == list(range(10))
    generator.close()
    assert own_threads() == []
    assert written == list(range(len(written)))
    assert 8 <= len(written) <= 10


def test_closed_from_another_thread_while_put_waits(elsewhere):
    gate, written = Gate(), []
    writer = WriteBehind(2)

    def put_three():
        writer.put(gate)
        writer.put(written.append, 2)
        writer.put(written.append, 3)

    putting = elsewhere(put_three)
    assert gate.entered.wait(LONG)
    closing = elsewhere(writer.close)
    while not writer._is_closed:
        pass
    gate.opened.set()
    closing.result(LONG)
    with pytest.raises(UNetLiveError, match="stopped before"):
        putting.result(LONG)
    assert 3 not in written


def test_after_closing_nothing_can_be_put():
    writer = WriteBehind()
    writer.close()
    with pytest.raises(UNetLiveError, match="stopped"):
        writer.put(int)


def test_waiting_for_the_writer_is_counted(clock):
    def write(i):
        while clock.looks <= 4 * i + 2:  # `put` looks twice before `flush` waits
            pass
        clock.now += 5

    with WriteBehind() as writer:
        for i in range(4):
            writer.put(write, i)
            writer.flush()
            clock.now += 100  # work
    assert writer.waited == 20
