"""Tensors from the bytes of a file, every size checked before a number is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import BinaryIO

import torch
from torch import Tensor

from napari_unet.core.checkpoints.containers.archive import Archive
from napari_unet.core.checkpoints.containers.inert import StorageNote, TensorNote
from napari_unet.core.checkpoints.containers.source import shown
from napari_unet.core.errors import ModelFileError

__all__ = ["Storages", "as_float32", "bytes_from", "converted_note", "storages_in", "type_of"]

MAX_DIMS = 16
MAX_COPIES = 16  # bytes in copies (conversion, other order of axes) per byte in the file
_BLOCK = 1 << 24

_PLAIN_TYPES = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
)
_TYPES: dict[str, torch.dtype] = {
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Double": torch.float64,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "Untyped": torch.uint8,
    **{str(dtype).removeprefix("torch."): dtype for dtype in _PLAIN_TYPES},
}
"""By the names of PyTorch's storage classes without `Storage`, and of its dtypes."""


def type_of(name: str, layer: str) -> torch.dtype:
    """The type of numbers that a file names; raises `ModelFileError` for one that is not usable."""
    found = _TYPES.get(name)
    if found is None:
        raise ModelFileError(
            f"The numbers of {shown(layer)} are stored as {_plain_name(name)}, which cannot be "
            f"used here. Load the version of this model with ordinary numbers (float32)."
        )
    return found


def _plain_name(name: str) -> str:
    low = name.lower()
    if low.startswith(("qint", "quint")):
        return f"{shown(name)} (quantised)"
    if low.startswith("complex"):
        return "complex numbers"
    if "float8" in low or low.startswith("f8"):
        return "8-bit floating point numbers"
    return shown(name) or "something unknown"


def bytes_tensor(content: bytes | bytearray) -> Tensor:
    """A copy of bytes as a tensor `(byte,)`, uint8."""
    if not content:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def bytes_from(file: BinaryIO, n_bytes: int) -> Tensor | None:
    """The next bytes of a file, read straight into a tensor `(byte,)`; `None` if it ends."""
    filled = torch.empty(n_bytes, dtype=torch.uint8)
    target = memoryview(filled.numpy())  # type: ignore[arg-type]
    at = 0
    while at < n_bytes:
        n_read = file.readinto(target[at : at + _BLOCK])  # type: ignore[attr-defined]
        if not n_read:
            return None
        at += n_read
    return filled


class Storages:
    """The storages of one file, each read once, when it is first needed.

    Parameters
    ----------
    size_of : bytes that the file holds for a key; `None` if it has no such storage.
    read : those bytes `(byte,)`, uint8; `None` if they are damaged.
    """

    def __init__(
        self, size_of: Callable[[str], int | None], read: Callable[[str], Tensor | None]
    ) -> None:
        self._size_of, self._read = size_of, read
        self._cache: dict[str, Tensor] = {}
        self.converted: set[str] = set()
        self._copied = self._held = 0

    def tensor(self, note: TensorNote, layer: str) -> Tensor:
        """The tensor that a file describes: checked, dense, on the processor, float32 or whole.

        Raises
        ------
        ModelFileError
            If its numbers are missing, fewer than it shows, or of a type that cannot be used.
        """
        storage = note.storage
        if note.problem or storage is None:
            raise ModelFileError(f"{shown(layer)} cannot be used: {note.problem}.")
        if storage.location == "meta":
            raise ModelFileError(f"{shown(layer)} cannot be used: it holds a shape, no numbers.")
        dtype = type_of(note.dtype or storage.dtype, layer)
        n_bytes = self._bytes_of(storage, layer)
        offset = note.offset + storage.offset
        count = n_bytes // dtype.itemsize
        check_view(count, offset, note.size, note.stride, layer)
        content = self._content(storage, layer)
        values = viewed(content, dtype, offset, note.size, note.stride)
        values = as_float32(values, self.converted)
        if values.untyped_storage().data_ptr() != content.untyped_storage().data_ptr():
            self._charge(values.numel() * values.element_size(), layer)
        return values

    def _charge(self, n_bytes: int, layer: str) -> None:
        """Count what was copied: the same numbers can be asked for any number of times."""
        self._copied += n_bytes
        if self._copied > MAX_COPIES * self._held + _BLOCK:
            raise ModelFileError(
                f"The file shows the same numbers over and over (at {shown(layer)}), so that they "
                f"would fill the memory. It was made to do damage, or is damaged."
            )

    def _bytes_of(self, storage: StorageNote, layer: str) -> int:
        if storage.content is not None:
            return len(storage.content)
        size = self._size_of(storage.key)
        if size is None:
            raise _missing(layer)
        return size

    def _content(self, storage: StorageNote, layer: str) -> Tensor:
        if storage.content is not None:
            key = f"content {id(storage.content)}"
            if key not in self._cache:
                self._cache[key] = bytes_tensor(storage.content)
                self._held += len(storage.content)
            return self._cache[key]
        if storage.key not in self._cache:
            content = self._read(storage.key)
            if content is None:
                raise _missing(layer)
            self._cache[storage.key] = content
            self._held += content.numel()
        return self._cache[storage.key]


def storages_in(archive: Archive, folder: str) -> Storages:
    """The storages that are the members of one folder of an archive."""

    def size_of(key: str) -> int | None:
        return archive.size(folder + key) if folder + key in archive else None

    def read(key: str) -> Tensor | None:
        source = archive.source(folder + key)
        with source.open() as file:
            content = bytes_from(file, source.size)
        intact = content is not None and archive.is_intact(folder + key, content.numpy())
        return content if intact else None

    return Storages(size_of, read)


def _missing(layer: str) -> ModelFileError:
    return ModelFileError(
        f"The data of layer {shown(layer)} is missing or damaged. Download or copy the file again."
    )


def check_view(
    count: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...], layer: str
) -> None:
    """Raise `ModelFileError` unless a view lies within `count` numbers and repeats none of them."""
    if len(size) != len(stride) or len(size) > MAX_DIMS or min((offset, *size, *stride)) < 0:
        raise ModelFileError(f"The shape of {shown(layer)} makes no sense. The file is damaged.")
    n_shown = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if n_shown and (n_shown > count or last >= count):
        raise ModelFileError(
            f"Layer {shown(layer)} declares more numbers ({_count_text(n_shown)}) than the file "
            f"holds for it ({_count_text(max(0, count - offset))}). The file is damaged, or was "
            f"made to do damage."
        )


def _count_text(n: int) -> str:
    return str(n) if n < 10**6 else f"{float(min(n, 10**300)):.1e}"


def viewed(
    content: Tensor, dtype: torch.dtype, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> Tensor:
    """A checked view of bytes `(byte,)` as a dense tensor; any other byte than 0 is true."""
    if math.prod(size) == 0:
        return torch.zeros(size if max(size) < 1 << 15 and len(size) < 5 else (0,), dtype=dtype)
    whole = content[: content.numel() // dtype.itemsize * dtype.itemsize]
    numbers = whole != 0 if dtype == torch.bool else whole.view(dtype)
    return torch.as_strided(numbers, size, stride, offset).contiguous()


def as_float32(values: Tensor, converted: set[str]) -> Tensor:
    """Floating point numbers as float32; the type they had is added to `converted`."""
    if values.is_floating_point() and values.dtype != torch.float32:
        converted.add(str(values.dtype).removeprefix("torch."))
        return values.float()
    return values


def converted_note(converted: set[str]) -> tuple[str, ...]:
    """What the user is told of numbers that were stored in another precision."""
    if not converted:
        return ()
    return (
        f"The weights are stored as {', '.join(sorted(converted))} and were converted to float32.",
    )
