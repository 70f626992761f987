"""Caffe's network definitions ("prototxt"): the text format of protocol buffers, as far as needed.

A message is a list of fields, each with a name and a value: a number, a text, a word, or another
message in braces. Fields may come several times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from napari_unet.core.errors import ModelFileError

__all__ = ["Message", "parsed"]

TOKEN = re.compile(
    r"""\s+ | \#[^\n]* | (?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    | (?P<word>[A-Za-z_][\w./]*) | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?f?)
    | (?P<sign>[{}:<>,;\[\]])""",
    re.VERBOSE,
)
LONGEST = 1 << 24
MOST_TOKENS = 500_000
DEEPEST = 32
ESCAPES = {r"\n": "\n", r"\t": "\t", r"\"": '"', r"\'": "'", r"\\": "\\"}


class Message:
    """Fields by name, each with all its values in order."""

    def __init__(self) -> None:
        self._fields: dict[str, list[Any]] = {}

    def add(self, name: str, value: Any) -> None:
        """Append a value to a field."""
        self._fields.setdefault(name, []).append(value)

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def all(self, name: str) -> list[Any]:
        """All values of a field."""
        return self._fields.get(name, [])

    def numbers(self, name: str) -> tuple[float, ...]:
        """All values of a field that are numbers."""
        return tuple(value for value in self.all(name) if isinstance(value, float))

    def number(self, name: str, default: float) -> float:
        """The last number of a field."""
        found = self.numbers(name)
        return found[-1] if found else default

    def text(self, name: str, default: str = "") -> str:
        """The last text or word of a field."""
        found = self.texts(name)
        return found[-1] if found else default

    def texts(self, name: str) -> list[str]:
        """All texts and words of a field."""
        return [value for value in self.all(name) if isinstance(value, str)]

    def messages(self, name: str) -> list[Message]:
        """All messages of a field."""
        return [value for value in self.all(name) if isinstance(value, Message)]

    def message(self, name: str) -> Message:
        """The last message of a field, or an empty one."""
        found = self.messages(name)
        return found[-1] if found else Message()


def parsed(text: str) -> Message:
    """Read a definition.

    Raises
    ------
    ModelFileError
        If it is not one; it says in which line.
    """
    if len(text) > LONGEST:
        raise ModelFileError("The network definition (prototxt) is too long: refused.")
    root = Message()
    open_messages = [root]
    tokens = _Tokens(text)
    while tokens.kind:
        here = open_messages[-1]
        if tokens.kind == "sign" and tokens.value in "}>" and len(open_messages) > 1:
            open_messages.pop()
            tokens.advance()
        elif tokens.kind == "sign" and tokens.value in ",;":
            tokens.advance()
        elif tokens.kind == "word":
            name = tokens.value
            tokens.advance()
            if tokens.value == ":":
                tokens.advance()
            if tokens.value in ("{", "<"):
                inner = Message()
                here.add(name, inner)
                open_messages.append(inner)
                tokens.advance()
            else:
                for value in _values(tokens):
                    here.add(name, value)
        else:
            raise tokens.error()
        if len(open_messages) > DEEPEST:
            raise tokens.error()
    if len(open_messages) > 1:
        raise ModelFileError("The network definition (prototxt) ends before its braces close.")
    return root


class _Tokens:
    """The pieces of a text one after the other; at the end, kind and value are empty."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._found = self._pieces()
        self.at = 0
        self.kind = self.value = ""
        self.advance()

    def advance(self) -> None:
        """Go to the next piece."""
        self.kind, self.value, self.at = next(self._found, ("", "", len(self._text)))

    def error(self) -> ModelFileError:
        """The error for what is here."""
        line = self._text.count("\n", 0, self.at) + 1
        return ModelFileError(
            f"The network definition (prototxt) cannot be read in line {line}, near "
            f"{self._text[self.at : self.at + 20]!r}; it is damaged."
        )

    def _pieces(self) -> Iterator[tuple[str, str, int]]:
        at, n = 0, 0
        while at < len(self._text):
            found = TOKEN.match(self._text, at)
            n += 1
            if found is None or n > MOST_TOKENS:
                self.at = at
                raise self.error()
            if found.lastgroup:
                yield found.lastgroup, found[0], at
            at = found.end()


def _values(tokens: _Tokens) -> Sequence[Any]:
    """A value, or several in brackets."""
    if tokens.value != "[" or tokens.kind != "sign":
        return [_value(tokens)]
    tokens.advance()
    values = []
    while tokens.value != "]" or tokens.kind != "sign":
        values.append(_value(tokens))
        if tokens.value == ",":
            tokens.advance()
    tokens.advance()
    return values


def _value(tokens: _Tokens) -> Any:
    """A number as float, a text or a word as str, "true" and "false" as 1 and 0."""
    kind, value = tokens.kind, tokens.value
    if kind not in ("text", "word", "number"):
        raise tokens.error()
    tokens.advance()
    if kind == "number":
        return float(value.rstrip("f"))
    if kind == "word":
        return {"true": 1.0, "false": 0.0}.get(value, value)
    value = value[1:-1]
    while tokens.kind == "text":  # texts one behind the other are one text
        value += tokens.value[1:-1]
        tokens.advance()
    return re.sub(r"\\.", lambda found: ESCAPES.get(found[0], found[0]), value)
