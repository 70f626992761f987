"""Arrays that know their shape and type, and are read when they are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Lazy", "Part", "Shelf", "Stacked"]

SHELF_SIZE = 2**27
SHELF_PLACES = 32


class Shelf:
    """Keeps what was read last, so that many windows of a picture read its file once.

    Parameters
    ----------
    size : bytes of all that is kept, but for the last one, which is kept whatever its size.
    places : how many arrays are kept.

    NOTE: what is kept is one tuple that is replaced, never changed. Two threads that read at the
    same time may so forget an array, which is then read again, and nothing worse.
    """

    def __init__(self, size: int = SHELF_SIZE, places: int = SHELF_PLACES) -> None:
        self._size, self._places = size, places
        self._kept: tuple[tuple[object, Any], ...] = ()

    def take(self, key: object, read: Callable[[], Any]) -> Any:
        """What is kept for `key`, else what `read` gives, which is then kept."""
        kept = self._kept
        found = next((array for other, array in kept if other is key), None)
        if found is None:
            found = read()
        rest = [(other, array) for other, array in kept if other is not key]
        self._kept = ((key, found), *self._fitting(rest, found))
        return found

    def _fitting(self, rest: Sequence[tuple[object, Any]], first: Any) -> list[tuple[object, Any]]:
        left, fitting = self._size - _n_bytes(first), []
        for key, array in rest[: self._places - 1]:
            left -= _n_bytes(array)
            if left < 0:
                break
            fitting.append((key, array))
        return fitting


def _n_bytes(array: Any) -> int:
    is_in_memory = isinstance(array, np.ndarray) and not isinstance(array, np.memmap)
    return int(array.nbytes) if is_in_memory else 0


class Lazy:
    """An array that is read when it is first used.

    Parameters
    ----------
    shape, dtype : as its file says without being read.
    read : gives it, as a numpy array or as one that is read window by window.
    shelf : where it is kept for a while.
    """

    def __init__(
        self, shape: Sequence[int], dtype: Any, read: Callable[[], Any], shelf: Shelf
    ) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self.ndim = len(self.shape)
        self._read, self._shelf = read, shelf

    def __getitem__(self, selection: Any) -> Any:
        array = self._shelf.take(self, self._read)
        return np.asarray(array[selection]).astype(self.dtype, copy=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return _as_array(self, dtype, copy)


class Part:
    """One plane of an array, or a run of planes, that is read when it is used.

    Parameters
    ----------
    array : numpy, zarr, dask or lazy array.
    axis : the axis along which the planes follow one another.
    at : the number of a plane, which drops the axis; or the first and the one after the last.
    """

    def __init__(self, array: Any, axis: int, at: int | tuple[int, int]) -> None:
        shape = list(array.shape)
        shape[axis : axis + 1] = [] if isinstance(at, int) else [at[1] - at[0]]
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(array.dtype)
        self.ndim = len(self.shape)
        self.whole, self.axis, self.at = array, axis, at

    def __getitem__(self, selection: Any) -> Any:
        wanted = _in_full(selection, self.ndim)
        if isinstance(self.at, int):
            wanted.insert(self.axis, self.at)
        else:
            wanted[self.axis] = _within(wanted[self.axis], self.at)
        return np.asarray(self.whole[tuple(wanted)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return _as_array(self, dtype, copy)


class Stacked:
    """Planes of the same shape, one upon the other along a new first axis, read when used."""

    def __init__(self, planes: Sequence[Any]) -> None:
        self.planes = tuple(planes)
        self.shape = (len(self.planes), *(int(n) for n in self.planes[0].shape))
        self.dtype = np.result_type(*{np.dtype(plane.dtype) for plane in self.planes})
        self.ndim = len(self.shape)

    def __getitem__(self, selection: Any) -> Any:
        first, *rest = _in_full(selection, self.ndim)
        if not isinstance(first, slice):
            return np.asarray(self.planes[first][tuple(rest)]).astype(self.dtype, copy=False)
        planes = [np.asarray(plane[tuple(rest)]) for plane in self.planes[first]]
        if not planes:
            empty = np.empty(self.planes[0].shape, self.dtype)[tuple(rest)]
            return np.empty((0, *empty.shape), self.dtype)
        return np.stack(planes).astype(self.dtype, copy=False)  # (z, ...)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return _as_array(self, dtype, copy)


def _as_array(lazy: Any, dtype: Any, copy: bool | None) -> npt.NDArray[Any]:
    array = np.asarray(lazy[...])
    array = array if dtype is None else array.astype(dtype, copy=False)
    return array.copy() if copy else array


def _in_full(selection: Any, ndim: int) -> list[Any]:
    """A selection with one entry for each axis; entries are whole numbers or slices."""
    entries = list(selection) if isinstance(selection, tuple) else [selection]
    n_missing = ndim - sum(entry is not Ellipsis for entry in entries)
    if Ellipsis in entries:
        at = entries.index(Ellipsis)
        return entries[:at] + [slice(None)] * n_missing + entries[at + 1 :]
    return entries + [slice(None)] * n_missing


def _within(selection: Any, run: tuple[int, int]) -> Any:
    """The same selection of a run of planes, counted in the whole array."""
    places = range(*run)[selection]
    if isinstance(places, int):
        return places
    stop = places.stop if places.stop >= 0 else None  # backwards to the very first
    return slice(places.start, stop, places.step)
