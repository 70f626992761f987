"""The wire format of protocol buffers: fields with a number each, and nothing of their meaning.

https://protobuf.dev/programming-guides/encoding describes it. A message is read without its
definition; whoever reads it knows what its fields mean.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from napari_unet.core.errors import ModelFileError

__all__ = [
    "Fields",
    "WireError",
    "doubles",
    "fields",
    "first",
    "floats",
    "integers",
    "messages",
    "one_float",
    "signed",
    "text",
    "walk",
]

Fields = dict[int, list[tuple[int, int | memoryview]]]
"""Fields by number, each as its wire type and its value."""
MOST_FIELDS = 5_000_000


class WireError(ModelFileError):
    """Bytes that are no message."""


def fields(message: bytes | memoryview) -> Fields:
    """All fields of a message by number, each as its wire type and its value, in order.

    Wire types: 0 a number, 1 eight bytes, 2 any number of bytes, 5 four bytes. Nothing is copied.

    Raises
    ------
    WireError
        If these bytes are not a message: a field runs past the end, or is of no known type.
    """
    found: Fields = {}
    for number, kind, value in walk(message):
        found.setdefault(number, []).append((kind, value))
    return found


def walk(message: bytes | memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Number, wire type and value of each field, in order; see `fields`."""
    view = memoryview(message).cast("B")
    at, n_read = 0, 0
    while at < len(view):
        key, at = _varint(view, at)
        number, kind = key >> 3, key & 7
        n_read += 1
        if number == 0 or n_read > MOST_FIELDS:
            raise WireError("The file is damaged: its fields cannot be told apart.")
        if kind == 0:
            value, at = _varint(view, at)
            yield number, kind, value
            continue
        if kind == 2:
            size, at = _varint(view, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise WireError(f"The file is damaged: a field is of the unknown type {kind}.")
        if size > len(view) - at:
            raise WireError(
                f"The file is incomplete: a field says it has {size} bytes, but "
                f"{len(view) - at} are left. Download or copy it again."
            )
        yield number, kind, view[at : at + size]
        at += size


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits per byte, lowest first, and where the next field begins."""
    value = 0
    for n in range(10):
        if at + n >= len(view):
            raise WireError("The file is incomplete: it ends in the middle of a number.")
        byte = view[at + n]
        value |= (byte & 0x7F) << (7 * n)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + n + 1
    raise WireError("The file is damaged: a number has more than ten bytes.")


def messages(found: Fields, number: int) -> list[memoryview]:
    """The bytes of all fields of this number that hold bytes: texts, messages, packed numbers."""
    pairs = found.get(number, [])
    return [value for kind, value in pairs if kind == 2 and not isinstance(value, int)]


def first(found: Fields, number: int, default: int = 0) -> int:
    """A single number (varint) of this field; the last one counts."""
    values = integers(found, number)
    return values[-1] if values else default


def text(found: Fields, number: int, default: str = "") -> str:
    """A single text of this field; what is not UTF-8 is replaced."""
    values = messages(found, number)
    return bytes(values[-1]).decode("utf-8", "replace") if values else default


def signed(value: int) -> int:
    """A varint as int64: the upper half of its range is negative."""
    return value - (1 << 64) if value >= 1 << 63 else value


def integers(found: Fields, number: int) -> list[int]:
    """All int64 numbers of a field, packed or one by one."""
    values: list[int] = []
    for _, value in found.get(number, []):
        if isinstance(value, int):
            values.append(signed(value))
            continue
        at = 0
        while at < len(value):
            one, at = _varint(value, at)
            values.append(signed(one))
    return values


def floats(found: Fields, number: int) -> bytes:
    """All float32 numbers of a field, packed or one by one, as little-endian bytes."""
    return _fixed(found, number, 5, 4)


def doubles(found: Fields, number: int) -> bytes:
    """All float64 numbers of a field, packed or one by one, as little-endian bytes."""
    return _fixed(found, number, 1, 8)


def _fixed(found: Fields, number: int, single: int, size: int) -> bytes:
    parts = [value for kind, value in found.get(number, []) if kind in (2, single)]
    joined = b"".join(part for part in parts if not isinstance(part, int))
    if len(joined) % size:
        raise WireError(f"The file is damaged: {len(joined)} bytes are no numbers of {size} bytes.")
    return joined


def one_float(found: Fields, number: int, default: float = 0.0) -> float:
    """A single float32 number of this field."""
    data = floats(found, number)
    return float(struct.unpack("<f", data[-4:])[0]) if data else default
