"""The wire format of protocol buffers."""

from __future__ import annotations

import struct

import pytest

from napari_unet.core.checkpoints.graphs import wire
from napari_unet.core.errors import ModelFileError

MESSAGE = (
    b"\x08\x96\x01"  # 1: 150, the example of the specification
    b"\x12\x07testing"  # 2: a text
    b"\x1a\x03\x08\x96\x01"  # 3: a message
    b"\x22\x03\x03\x8e\x02"  # 4: packed numbers 3, 270
    b"\x20\x05"  # 4: one more
    b"\x2d" + struct.pack("<f", 1.5) + b"\x2a\x08" + struct.pack("<2f", 2.5, -1)  # 5: floats
    + b"\x31" + struct.pack("<d", 0.25)  # 6: a double
    + b"\x38\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"  # 7: -1
)  # fmt: skip


def test_all_kinds_of_fields() -> None:
    found = wire.fields(MESSAGE)
    assert wire.first(found, 1) == 150
    assert wire.text(found, 2) == "testing"
    (inner,) = wire.messages(found, 3)
    assert wire.first(wire.fields(inner), 1) == 150
    assert wire.integers(found, 4) == [3, 270, 5]
    assert struct.unpack("<3f", wire.floats(found, 5)) == (1.5, 2.5, -1.0)
    assert wire.one_float(found, 5) == -1.0
    assert struct.unpack("<d", wire.doubles(found, 6)) == (0.25,)
    assert wire.first(found, 7) == -1


def test_missing_fields() -> None:
    found = wire.fields(b"")
    assert wire.first(found, 1, 4) == 4
    assert wire.text(found, 1, "none") == "none"
    assert wire.messages(found, 1) == []
    assert wire.integers(found, 1) == []
    assert wire.one_float(found, 1, 0.5) == 0.5
    assert wire.floats(found, 1) == b""


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"\x08", "middle of a number"),
        (b"\x08\x80", "middle of a number"),
        (b"\x12\x07test", "7 bytes, but 4 are left"),
        (b"\x12\xff\xff\xff\xff\x0f", "4294967295 bytes"),
        (b"\x2d\x00\x00", "4 bytes"),
        (b"\x0b\x00", "unknown type 3"),
        (b"\x00\x00", "cannot be told apart"),
        (b"\x08" + b"\xff" * 11, "more than ten bytes"),
    ],
)
def test_damaged_messages(message: bytes, words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        wire.fields(message)


def test_numbers_of_a_broken_size() -> None:
    with pytest.raises(ModelFileError, match="no numbers of 4 bytes"):
        wire.floats(wire.fields(b"\x2a\x03abc"), 5)


def test_every_cut_is_noticed_or_harmless() -> None:
    """Cut anywhere, a message is refused, or a shorter list of the same fields."""
    whole = list(wire.walk(MESSAGE))
    for end in range(len(MESSAGE)):
        try:
            found = list(wire.walk(MESSAGE[:end]))
        except ModelFileError:
            continue
        assert found == whole[: len(found)]
