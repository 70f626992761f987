"""Reading ahead and writing behind: the only threads in the core.

Each of the two has one thread, which does one thing after the other. So memory is bounded,
order is kept, and nothing that is read or written need be safe for several threads at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Generic, ParamSpec, TypeVar

from napari_unet.core.errors import SettingsError, UNetLiveError

__all__ = ["ReadAhead", "WriteBehind", "read_ahead"]

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


class ReadAhead(Generic[T, R], Iterator[tuple[T, R]]):
    """Pairs of an item and what was read for it; made by `read_ahead`.

    To be closed like a generator, by `close()` or at the end of a `with` block; at its end, and
    when reading fails, it closes itself. Its thread starts with the first pair. One that is
    merely dropped stops as well, but nobody waits for what is being read.

    Attributes
    ----------
    waited : seconds that were spent waiting for something to be read.
    """

    def __init__(self, items: Iterable[T], read: Callable[[T], R], depth: int) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="napari-unet-reading")
        self.waited = 0.0
        self._items = iter(items)
        self._read = read
        self._depth = depth
        self._coming: deque[tuple[T, Future[R]]] = deque()
        self._is_closed = self._is_at_end = False

    def __next__(self) -> tuple[T, R]:
        """The next pair; raises what reading it raised."""
        if self._is_at_end:
            raise StopIteration
        try:
            self._begin(max(1, self._depth))
            if self._coming:
                item, future = self._coming.popleft()
                result = self._result_of(future)
                self._begin(self._depth)  # only now: no more than that are ever in memory
                return item, result
        except BaseException:
            self.close()
            raise
        self._is_at_end = True
        self.close()
        raise StopIteration

    def _begin(self, n: int) -> None:
        """Have `n` items read, or under way, or as many as are left."""
        while len(self._coming) < n:
            self._check_open()
            try:
                item = next(self._items)
            except StopIteration:
                return
            try:
                self._coming.append((item, self._pool.submit(self._read, item)))
            except RuntimeError:  # it was closed meanwhile
                self._check_open()
                raise

    def _result_of(self, future: Future[R]) -> R:
        start = time.perf_counter()
        try:
            return future.result()
        except CancelledError:
            self._check_open()
            raise
        except StopIteration as error:  # else it would pass for the end of all items
            raise ValueError("The reading of an item ended with a StopIteration.") from error
        finally:
            self.waited += time.perf_counter() - start

    def _check_open(self) -> None:
        # NOTE: an error and not the end, or half an image would be taken for a whole one.
        if self._is_closed:
            raise UNetLiveError("The reading was stopped before everything was read.")

    def close(self) -> None:
        """Stop: what is being read is waited for and dropped, the rest is never begun.

        May be called from any thread; whoever waits for a pair then gets an `UNetLiveError`.
        """
        self._is_closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> ReadAhead[T, R]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # NOTE: not `close`: this may run in any thread, even the one that would be waited for.
        self._pool.shutdown(wait=False, cancel_futures=True)


def read_ahead(items: Iterable[T], read: Callable[[T], R], depth: int = 1) -> ReadAhead[T, R]:
    """Read items in order, the next ones on a background thread while one is worked on.

    ::

        with read_ahead(windows, read_window) as pairs:
            for window, pixels in pairs:
                ...

    Parameters
    ----------
    items : what to read; taken one by one by whoever asks for pairs.
    read : called with each item on the background thread, one after the other. What it raises
        is raised again when it is that item's turn.
    depth : how many items are read, or under way, besides the one that was handed out; so
        `depth` + 1 of them are in memory. 0 to read each one when it is asked for.

    Raises
    ------
    SettingsError
        If `depth` is negative.
    """
    if depth < 0:
        raise SettingsError(f"depth must be 0 or more, not {depth}.")
    return ReadAhead(items, read, depth)


class WriteBehind:
    """Runs writes in order on a background thread; a context manager.

    At the end of the block everything is written. If the block ends with an error (or the
    generator around it is closed), what has not begun is dropped; and once a write has failed
    no later one is begun, so that nothing is ever marked that was not written.

    ::

        with WriteBehind() as writer:
            for region, labels in ...:
                writer.put(store.write_labels, region.index, region.window, labels)
                writer.put(store.mark, region)

    Parameters
    ----------
    depth : `put` waits while this many writes are unfinished; their arrays are in memory.

    Attributes
    ----------
    waited : seconds that `put`, `flush` and the end of the block have waited.

    Raises
    ------
    SettingsError
        If `depth` is less than 1.
    """

    def __init__(self, depth: int = 2) -> None:
        if depth < 1:
            raise SettingsError(f"depth must be 1 or more, not {depth}.")
        self.waited = 0.0
        self._depth = depth
        self._unfinished: deque[Future[None]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="napari-unet-writing")
        self._error: BaseException | None = None
        self._is_closed = False

    def put(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have `function(*args, **kwargs)` called soon; raises the first error of those before."""
        self._wait_until(self._depth - 1)
        try:
            future = self._pool.submit(self._run, partial(function, *args, **kwargs))
        except RuntimeError:  # it was closed meanwhile
            self._check_open()
            raise
        self._unfinished.append(future)

    def _run(self, write: Callable[[], object]) -> None:
        if self._error is not None or self._is_closed:
            return
        try:
            write()
        except BaseException as error:
            self._error = error

    def _wait_until(self, n_left: int) -> None:
        """Wait until no more than `n_left` writes are unfinished."""
        start = time.perf_counter()
        try:
            while len(self._unfinished) > n_left or self._is_first_done():
                self._unfinished.popleft().result()
        except CancelledError:
            self._check_open()
            raise
        finally:
            self.waited += time.perf_counter() - start
        if self._error is not None:
            raise self._error
        self._check_open()

    def _check_open(self) -> None:
        if self._is_closed:
            raise UNetLiveError("The writing was stopped before everything was written.")

    def _is_first_done(self) -> bool:
        return bool(self._unfinished) and self._unfinished[0].done()

    def flush(self) -> None:
        """Wait until everything is written; raises the first error of it."""
        self._wait_until(0)

    def close(self) -> None:
        """Stop: the write that is under way is waited for, the rest is never begun.

        May be called from any thread; whoever waits in `put` then gets an `UNetLiveError`.
        """
        self._is_closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()
