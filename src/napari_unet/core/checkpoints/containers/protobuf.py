"""Tells ONNX and Caffe files, which have no magic number, by the fields that they consist of."""

from __future__ import annotations

from typing import BinaryIO

from napari_unet.core.checkpoints.containers.source import Source

__all__ = ["protobuf_kind"]

_ONNX = frozenset(range(1, 26))
_CAFFE = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 100))
_MAX_FIELDS = 100_000


def protobuf_kind(source: Source) -> str | None:
    """ "onnx" or "caffemodel", if the outermost fields of the file are those of one."""
    with source.open() as file:
        fields = _fields(file, source.size)
    if not fields:
        return None
    numbers = {number for number, _ in fields}
    first = fields[0]
    if numbers <= _ONNX and (1, 0) in fields and (7, 2) in fields and first in ((1, 0), (2, 2)):
        return "onnx"
    if numbers <= _CAFFE and first == (1, 2) and ({(100, 2), (2, 2)} & set(fields)):
        return "caffemodel"
    return None


def _fields(file: BinaryIO, size: int) -> list[tuple[int, int]]:
    """Number and kind of each outermost field; none if it is no such file.

    The last one may be cut off, so that an incomplete file is still known for what it is.
    """
    fields: list[tuple[int, int]] = []
    while file.tell() < size and len(fields) < _MAX_FIELDS:
        tag = _number(file)
        if tag is None or tag >> 3 == 0 or tag & 7 not in (0, 1, 2, 5):
            return fields if len(fields) > 3 else []
        fields.append((tag >> 3, tag & 7))
        n_bytes = {1: 8, 5: 4}.get(tag & 7, 0)
        if tag & 7 in (0, 2):
            value = _number(file)
            if value is None:
                return fields
            n_bytes = value if tag & 7 == 2 else 0
        if n_bytes:
            file.seek(min(n_bytes, size), 1)
    return fields


def _number(file: BinaryIO) -> int | None:
    """A number of 7 bits a byte; `None` if it does not end."""
    value = 0
    for i in range(10):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << (7 * i)
        if byte[0] < 0x80:
            return value
    return None
