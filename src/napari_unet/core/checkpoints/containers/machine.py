"""Reads pickles of all protocols without importing, calling or making anything they name.

Python's own unpickler is not used: it can be told not to import, but not how much memory to take.
This one counts its steps, keeps its memo in a dict, and makes only texts, numbers, lists, dicts,
tuples and the records of `inert.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from napari_unet.core.checkpoints.containers.calls import called
from napari_unet.core.checkpoints.containers.inert import (
    ArrayNote,
    DtypeNote,
    Inert,
    TensorNote,
)
from napari_unet.core.checkpoints.containers.pickled import (
    checked_key,
    decimal,
    integer,
    malformed,
    old_text,
    quoted,
    text,
)

__all__ = ["Machine"]

MAX_STEPS = 2_000_000
MAX_LINE = 1 << 20  # bytes of a text in the oldest protocol


class Machine:
    """Reads one pickle after another from `content`, beginning at `at`.

    Attributes
    ----------
    at : where the next pickle, or whatever follows the last one, begins.
    kinds : names of everything the pickles ask for, in the order in which they ask.
    """

    def __init__(
        self, content: bytes, at: int = 0, persistent: Callable[[Any], Any] | None = None
    ) -> None:
        self.content, self.at = content, at
        self.kinds: dict[str, None] = {}
        self._persistent = persistent or (lambda key: Inert("persistent", (key,)))
        self._steps = self._copied = 0
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The object of the next pickle.

        Raises
        ------
        ModelFileError
            If it is truncated, malformed, or larger than that of any model.
        """
        self._stack, self._marks, self._memo = [], [], {}
        try:
            return self._run()
        except (IndexError, KeyError, ValueError, TypeError, OverflowError, struct.error) as error:
            raise malformed("its pickle cannot be followed") from error

    def _run(self) -> Any:
        content, steps = self.content, _STEPS
        while True:
            code = content[self.at]
            self.at += 1
            self._steps += 1
            if self._steps > MAX_STEPS:
                raise malformed("it has more parts than any model")
            if code == 0x2E:  # STOP
                return self._stack.pop()
            step = steps.get(code)
            if step is None:
                raise malformed("it uses a step that pickles do not have")
            step(self)

    # Reading ---------------------------------------------------------------------------------

    def take(self, n_bytes: int) -> bytes:
        """The next bytes; raises `ModelFileError` if there are not that many."""
        end = self.at + n_bytes
        if n_bytes < 0 or end > len(self.content):
            raise malformed("it ends too early")
        taken = self.content[self.at : end]
        self.at = end
        return taken

    def _line(self) -> bytes:
        end = self.content.find(b"\n", self.at, self.at + MAX_LINE)
        if end < 0:
            raise malformed("a text in it does not end")
        taken = self.content[self.at : end]
        self.at = end + 1
        return taken

    def _number(self, code: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    # The stack -------------------------------------------------------------------------------

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._marks.pop()
        return items

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._since_mark()

    def _tuple(self, n_items: int) -> None:
        if len(self._stack) < n_items:
            raise malformed("its pickle cannot be followed")
        self._stack[-n_items:] = [tuple(self._stack[-n_items:])]

    def _store(self, key: int) -> None:
        self._memo[key] = self._stack[-1]

    # Things that are asked for ---------------------------------------------------------------

    def _name(self, module: Any, name: Any) -> Inert:
        if not isinstance(module, str) or not isinstance(name, str):
            raise malformed("a name in it is no text")
        kind = f"{module}.{name}"
        self.kinds.setdefault(kind)
        return Inert(kind)

    def _global(self) -> Inert:
        module, name = (self._line().decode("utf-8", "replace") for _ in range(2))
        return self._name(module, name)

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._push(self._name(module, name))

    def _instance(self) -> None:  # INST: name in the text, arguments since the mark
        kind = self._global()
        self._call(kind, tuple(self._since_mark()))

    def _object(self) -> None:  # OBJ: name and arguments since the mark
        kind, *args = self._since_mark()
        self._call(kind, tuple(args))

    def _reduce(self) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        if not isinstance(args, tuple):
            raise malformed("it calls something without arguments")
        self._call(function, args)

    def _new_ex(self) -> None:
        named, args, kind = self._stack.pop(), self._stack.pop(), self._stack.pop()
        self._call(kind, tuple(args))
        made = self._stack[-1]
        if isinstance(made, Inert) and isinstance(named, dict):
            made.state = named

    def _build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, Inert):
            target.state = state
        elif isinstance(target, ArrayNote) and isinstance(state, tuple) and len(state) >= 4:
            target.shape, dtype, target.fortran, target.content = state[-4:]
            target.dtype = dtype.name if isinstance(dtype, DtypeNote) else ""
        elif isinstance(target, DtypeNote) and isinstance(state, tuple) and len(state) > 1:
            order = state[1] if state[1] in ("<", ">") else ""
            target.name = order + target.name.lstrip("<>|=")
        elif not isinstance(target, (dict, list, TensorNote)):
            raise malformed("it gives attributes to a plain value")

    def _persist(self, key: Any) -> None:
        self._push(self._persistent(key))

    def _call(self, function: Any, args: tuple[Any, ...]) -> None:
        """Push what stands for a call; what it may copy counts, since it can be asked for often."""
        for arg in args:
            if isinstance(arg, (list, tuple, dict)):
                self._steps += len(arg)
            elif isinstance(arg, (str, bytes)):
                self._copied += len(arg)
        if self._copied > 4 * len(self.content):
            raise malformed("it repeats itself without end")
        self._push(called(function, args))

    # Putting in ------------------------------------------------------------------------------

    def _set_items(self, pairs: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Inert):
            target.items = {} if target.items is None else target.items
        items = target.items if isinstance(target, Inert) else target
        if not isinstance(items, dict) or len(pairs) % 2:
            raise malformed("it puts entries into what has none")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            items[checked_key(key)] = value

    def _append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Inert):
            target.members = [] if target.members is None else target.members
        members = target.members if isinstance(target, Inert) else target
        if not isinstance(members, list):
            raise malformed("it appends to what is no list")
        members.extend(values)

    def _dict(self) -> None:
        pairs = self._since_mark()
        self._push({})
        self._set_items(pairs)


_Step = Callable[[Machine], None]


def _sized(length: str, decode: Callable[[bytes], Any]) -> _Step:
    return lambda m: m._push(decode(m.take(m._number(length))))


def _numbered(code: str) -> _Step:
    return lambda m: m._push(m._number(code))


def _lined(decode: Callable[[bytes], Any]) -> _Step:
    return lambda m: m._push(decode(m._line()))


def _constant(value: Any) -> _Step:
    return lambda m: m._push(value)


def _plain(content: bytes) -> bytes:
    return content


def _by_number(code: str, then: Callable[[Machine, int], None]) -> _Step:
    return lambda m: then(m, m._number(code))


def _recall(machine: Machine, key: int) -> None:
    machine._push(machine._memo[key])


_STEPS: dict[int, _Step] = {
    code[0]: step
    for code, step in {
        b"(": Machine._mark,
        b"0": Machine._pop,
        b"1": lambda m: m._since_mark() and None,
        b"2": lambda m: m._push(m._stack[-1]),
        b"\x80": lambda m: m._number("<B") and None,
        b"\x95": lambda m: m.take(8) and None,
        b"\x98": lambda m: None,
        # constants and numbers
        b"N": _constant(None),
        b"\x88": _constant(True),
        b"\x89": _constant(False),
        b"J": _numbered("<i"),
        b"K": _numbered("<B"),
        b"M": _numbered("<H"),
        b"G": _numbered(">d"),
        b"\x8a": _sized("<B", integer),
        b"\x8b": _sized("<i", integer),
        b"I": _lined(decimal),
        b"L": _lined(decimal),
        b"F": _lined(float),
        # texts and bytes
        b"S": _lined(quoted),
        b"V": _lined(lambda line: line.decode("raw-unicode-escape", "replace")),
        b"T": _sized("<i", old_text),
        b"U": _sized("<B", old_text),
        b"X": _sized("<I", text),
        b"\x8c": _sized("<B", text),
        b"\x8d": _sized("<Q", text),
        b"B": _sized("<I", _plain),
        b"C": _sized("<B", _plain),
        b"\x8e": _sized("<Q", _plain),
        b"\x96": _sized("<Q", _plain),
        # containers; sets become lists, for which nothing need be hashed
        b"]": lambda m: m._push([]),
        b"}": lambda m: m._push({}),
        b")": _constant(()),
        b"\x8f": lambda m: m._push([]),
        b"l": lambda m: m._push(m._since_mark()),
        b"t": lambda m: m._push(tuple(m._since_mark())),
        b"\x91": lambda m: m._push(m._since_mark()),
        b"\x85": lambda m: m._tuple(1),
        b"\x86": lambda m: m._tuple(2),
        b"\x87": lambda m: m._tuple(3),
        b"d": Machine._dict,
        b"a": lambda m: m._append([m._stack.pop()]),
        b"e": lambda m: m._append(m._since_mark()),
        b"\x90": lambda m: m._append(m._since_mark()),
        b"s": lambda m: m._set_items([*reversed([m._stack.pop(), m._stack.pop()])]),
        b"u": lambda m: m._set_items(m._since_mark()),
        # the memo
        b"p": lambda m: m._store(int(m._line()[:20])),
        b"q": _by_number("<B", Machine._store),
        b"r": _by_number("<I", Machine._store),
        b"\x94": lambda m: m._store(len(m._memo)),
        b"g": lambda m: _recall(m, int(m._line()[:20])),
        b"h": _by_number("<B", _recall),
        b"j": _by_number("<I", _recall),
        # classes, functions, objects
        b"c": lambda m: m._push(m._global()),
        b"\x93": Machine._stack_global,
        b"i": Machine._instance,
        b"o": Machine._object,
        b"R": Machine._reduce,
        b"\x81": Machine._reduce,
        b"\x92": Machine._new_ex,
        b"b": Machine._build,
        b"P": lambda m: m._persist(text(m._line())),
        b"Q": lambda m: m._persist(m._stack.pop()),
    }.items()
}
