"""HDF5 files of unknown origin: reads numbers and texts that are in the file itself, nothing else.

HDF5 can refer to other files: links lead to groups of theirs, and data sets may take their numbers
from any file on the disk, or from each other. A data set may also claim to be far larger than the
file. None of that is followed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from napari_unet.core.checkpoints.graphs.reading import AnySource, source_of
from napari_unet.core.errors import ModelFileError

__all__ = ["Hdf5", "opened"]

MOST_ENTRIES = 100_000
DEEPEST = 32
MOST_SPARSE = 20
"""Compressed weights may be this many times as large as the file, or `ALWAYS_FINE`."""
ALWAYS_FINE = 1 << 26
FILTERS = frozenset({1, 2, 3, 32000})
"""gzip, shuffle, checksum, lzf: filters that are part of the library."""


class Hdf5:
    """An open file; made by `opened`."""

    def __init__(self, file: Any, name: str, n_bytes: int) -> None:
        self._file = file
        self.name = name
        self._n_bytes = n_bytes
        self._n_read = {False: 0, True: 0}  # bytes of weights, by whether they are compressed

    def has(self, path: str) -> bool:
        """Whether there is a group or a data set at `/a/b/c`."""
        try:
            self._at(path)
        except KeyError:
            return False
        return True

    def children(self, path: str) -> tuple[str, ...]:
        """Names of what is in a group; none if it is no group, or is not there."""
        try:
            group = self._at(path)
        except KeyError:
            return ()
        if not isinstance(group, h5py.Group):
            return ()
        if len(group) > MOST_ENTRIES:
            raise ModelFileError(f"{self.name} holds {len(group)} entries in one group: refused.")
        return tuple(str(name) for name in group)

    def is_tensor(self, path: str) -> bool:
        """Whether there is a data set at a path."""
        return self.has(path) and isinstance(self._at(path), h5py.Dataset)

    def tensors(self, path: str) -> dict[str, str]:
        """All data sets below a group, `a/b` to full path, in the order of the file."""
        found: dict[str, str] = {}
        waiting = [("", 0)]
        while waiting:
            below, depth = waiting.pop()
            if depth > DEEPEST or len(found) > MOST_ENTRIES or len(waiting) > MOST_ENTRIES:
                raise ModelFileError(f"{self.name} is nested too deeply: refused.")
            here = f"{path}/{below}" if below else path
            if self.is_tensor(here):
                found[below] = here
                continue
            names = (f"{below}/{name}" if below else name for name in self.children(here))
            waiting += [(name, depth + 1) for name in reversed(list(names))]
        return found

    def attribute(self, path: str, name: str) -> Any:
        """An attribute: a text, a number, or a tuple of those; None if there is none."""
        owner = self._at(path)
        if name not in owner.attrs:
            return None
        stored = owner.attrs.get_id(name)
        n_values = math.prod(stored.shape or ())
        if n_values > MOST_ENTRIES or n_values * stored.dtype.itemsize > self._n_bytes:
            raise ModelFileError(f"{self.name} says it is larger than it is: it is damaged.")
        self._check_kind(stored.dtype, f"the attribute {name}")
        return _plain(owner.attrs[name])

    def value(self, path: str) -> Any:
        """A small data set as a text, a number, or a tuple of those; None if there is none."""
        if not self.is_tensor(path):
            return None
        dataset = self._checked(path)
        if dataset.size > MOST_ENTRIES:
            raise ModelFileError(f"{path} of {self.name} is too large for a setting: refused.")
        return _plain(dataset[()])

    def tensor(self, path: str) -> Tensor:
        """A data set of numbers as a float32 tensor."""
        dataset = self._checked(path)
        if dataset.dtype.kind not in "fiub":
            raise ModelFileError(
                f"{path} of {self.name} holds {dataset.dtype}, not ordinary numbers: refused."
            )
        with np.errstate(over="ignore"):
            values = np.asarray(dataset[()]).astype(np.float32)
        return torch.from_numpy(np.ascontiguousarray(values).reshape(dataset.shape))

    def _at(self, path: str) -> Any:
        """The object at a path, step by step, over nothing but hard links."""
        here = self._file
        for name in path.strip("/").split("/"):
            if not name:
                continue
            if not isinstance(here, h5py.Group) or name in (".", ".."):
                raise KeyError(path)
            link = here.get(name, getlink=True)
            if link is None:
                raise KeyError(path)
            if not isinstance(link, h5py.HardLink):
                raise ModelFileError(
                    f"{self.name} refers to other places or files on your disk ({path}): refused. "
                    f"Ask for a file that holds its numbers itself."
                )
            here = here[name]
        return here

    def _checked(self, path: str) -> Any:
        """A data set whose numbers are in this file, and as many as it says."""
        dataset = self._at(path)
        if not isinstance(dataset, h5py.Dataset):
            raise ModelFileError(f"{path} of {self.name} is no data: the file is damaged.")
        if dataset.shape is None:
            raise ModelFileError(f"{path} of {self.name} is empty: the file is damaged.")
        if dataset.external or dataset.is_virtual:
            raise ModelFileError(
                f"{path} of {self.name} takes its numbers from other files on your disk: refused. "
                f"Ask for a file that holds its numbers itself."
            )
        self._check_kind(dataset.dtype, path)
        self._check_size(dataset, path)
        return dataset

    def _check_kind(self, dtype: Any, what: str) -> None:
        if h5py.check_string_dtype(dtype) is None and dtype.kind not in "fiubS":
            raise ModelFileError(f"{self.name} holds {dtype} in {what}, which is not read here.")

    def _check_size(self, dataset: Any, path: str) -> None:
        layout = dataset.id.get_create_plist()
        used = {layout.get_filter(i)[0] for i in range(layout.get_nfilters())}
        if used - FILTERS:
            raise ModelFileError(f"{path} of {self.name} is compressed in an unusual way: refused.")
        n_bytes = dataset.size * dataset.dtype.itemsize
        self._n_read[bool(used)] += n_bytes
        most = max(MOST_SPARSE * self._n_bytes, ALWAYS_FINE) if used else 2 * self._n_bytes
        chunks = math.prod(dataset.chunks or (1,)) * dataset.dtype.itemsize
        if self._n_read[bool(used)] > most or chunks > max(most, ALWAYS_FINE):
            raise ModelFileError(
                f"{path} of {self.name} says it holds {n_bytes / 1e6:.6g} MB, but the file is "
                f"{self._n_bytes / 1e6:.3g} MB large. It is damaged, or made to do harm: refused."
            )
        if not used and n_bytes > dataset.id.get_storage_size():
            raise ModelFileError(
                f"The numbers of {path} are missing in {self.name}; it is damaged. Download or "
                f"copy it again."
            )


def _plain(value: Any) -> Any:
    """Texts as `str`, numbers as Python's, arrays as tuples; arrays of one value as the value."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").rstrip("\0")
    if isinstance(value, h5py.Empty):
        return None
    if isinstance(value, np.ndarray):
        values = tuple(_plain(one) for one in value.ravel().tolist())
        return values if value.ndim else values[0]
    return value.item() if isinstance(value, np.generic) else value


@contextmanager
def opened(given: AnySource) -> Iterator[Hdf5]:
    """An HDF5 file for reading.

    Raises
    ------
    ModelFileError
        If it is not one, or is damaged, whenever that shows.
    """
    source = source_of(given)
    name = source.name
    try:
        with source.open() as bytes_of, h5py.File(bytes_of, "r", rdcc_nbytes=1 << 20) as file:
            yield Hdf5(file, name, source.size)
    except ModelFileError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, MemoryError) as error:
        raise ModelFileError(
            f"{name} cannot be read as an HDF5 file: it is damaged or incomplete "
            f"({str(error)[:100]}). Download or copy it again."
        ) from error
