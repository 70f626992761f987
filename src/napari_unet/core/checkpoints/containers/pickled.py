"""Plain values as pickles write them."""

from __future__ import annotations

import codecs
from typing import Any

from napari_unet.core.checkpoints.containers.inert import Inert
from napari_unet.core.errors import ModelFileError

__all__ = ["checked_key", "decimal", "integer", "malformed", "old_text", "quoted", "text"]

MAX_INTEGER = 256  # bytes of one number


def malformed(why: str) -> ModelFileError:
    """The error for a pickle that no program writes."""
    return ModelFileError(
        f"The file is malformed ({why}): it is damaged, or was made to do damage. "
        f"Nothing of it was used. Download or copy it again."
    )


_KEYS = (str, int, float, type(None))


def checked_key(key: Any) -> Any:
    """A key that can be hashed in no time; anything else stands for itself alone."""
    if isinstance(key, tuple):
        plain = len(key) < 100 and all(isinstance(part, _KEYS) for part in key)
        if plain:
            return key
        return Inert("key", key)
    if isinstance(key, (list, dict)):
        return Inert("key", (key,))
    if isinstance(key, int) and key.bit_length() > 64:
        raise malformed("a number in it is too large")
    return key


def integer(digits: bytes) -> int:
    """A whole number in bytes, lowest first."""
    if len(digits) > MAX_INTEGER:
        raise malformed("a number in it is too large")
    return int.from_bytes(digits, "little", signed=True)


def decimal(line: bytes) -> int | bool:
    """A whole number in digits; "00" and "01" are truth values."""
    if line in (b"00", b"01"):
        return line == b"01"
    return int(line.removesuffix(b"L")[:MAX_INTEGER])


def quoted(line: bytes) -> Any:
    """A text in quotes, with escapes."""
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise malformed("a text in it has no quotes")
    return old_text(codecs.escape_decode(line[1:-1])[0])


def old_text(content: bytes) -> str | bytes:
    """A text of Python 2, where texts were bytes."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content


def text(content: bytes) -> str:
    """A text; what is no UTF-8 in it is replaced."""
    return content.decode("utf-8", "replace")
