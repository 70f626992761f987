"""What a pickle asks for, written down instead of done.

A pickle is a little program that names classes and functions and calls them. Here a name becomes
an `Inert`, and so does a call: who would have been called, with what, and what state the object
would have got. A handful of well-known harmless calls (an ordered dict, a tensor, a number of
numpy) become the plain record that stands for their result; see `calls.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["ArrayNote", "DtypeNote", "Inert", "StorageNote", "TensorNote", "runs_code"]


@dataclass(slots=True, eq=False)
class Inert:
    """A class, a function or an object that a file asks for, and that was not made.

    Attributes
    ----------
    kind : its full name in the file, such as "torch.nn.modules.conv.Conv2d".
    args : what it would have been called with; `None` if it is only named, not called.
    state : the attributes that it would have been given, most often a dict.
    items : what would have been put into it, if it is a kind of dict.
    members : what would have been appended to it, if it is a kind of list or set.
    """

    kind: str
    args: tuple[Any, ...] | None = None
    state: Any = None
    items: dict[Any, Any] | None = None
    members: list[Any] | None = None

    @property
    def name(self) -> str:
        """The name without its module."""
        return self.kind.rpartition(".")[2]

    def __repr__(self) -> str:
        return f"Inert({self.kind!r})"


@dataclass(slots=True, eq=False)
class StorageNote:
    """A stretch of numbers that tensors are views of.

    Attributes
    ----------
    key : where it is in the file.
    dtype : what the file calls the type of its numbers, such as "Float" or "float32".
    count : how many numbers there are.
    offset : the first of them in the storage `key`, in numbers (PyTorch before 0.4).
    content : its bytes, where they are in the pickle itself.
    location : the device it was on.
    """

    key: str
    dtype: str
    count: int
    offset: int = 0
    content: bytes | None = None
    location: str = "cpu"


@dataclass(slots=True, eq=False)
class TensorNote:
    """A tensor as a file describes it: not yet checked, no numbers read.

    Attributes
    ----------
    storage : whose numbers it shows.
    offset, size, stride : which of them, in numbers.
    dtype : type of the numbers, if it is not that of the storage.
    problem : why it cannot be used, in words, or "".
    """

    storage: StorageNote | None
    offset: int = 0
    size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dtype: str = ""
    problem: str = ""


@dataclass(slots=True, eq=False)
class DtypeNote:
    """A type of numbers of numpy, such as "<f4"."""

    name: str


@dataclass(slots=True, eq=False)
class ArrayNote:
    """An array of numpy as a file describes it: shape, type such as "<f4", bytes or a list."""

    shape: tuple[int, ...] = ()
    dtype: str = ""
    fortran: bool = False
    content: Any = b""


_HARMFUL_MODULES = """
    os posix nt subprocess sys shutil socket importlib runpy pty commands webbrowser ctypes cffi
    multiprocessing codeop marshal urllib urllib2 requests http ftplib smtplib asyncio bdb pdb
    timeit cProfile distutils pip ensurepip tempfile pickle _pickle cloudpickle dill popen2 pydoc
    venv zipimport linecache posixpath ntpath fileinput imp pkgutil pickletools doctest mmap
"""
_HARMFUL_ANYWHERE = """
    os posix subprocess ctypes importlib socket runpy __import__ eval exec __builtins__
    __globals__ __subclasses__ popen Popen check_output runstring
"""
_HARMFUL_NAMES = """
    builtins.eval builtins.exec builtins.compile builtins.open builtins.setattr builtins.delattr
    builtins.globals builtins.breakpoint builtins.input io.open io.FileIO _io.open _io.FileIO
    codecs.open types.FunctionType types.CodeType torch.load torch.save torch.jit.load
    torch.hub.load torch.serialization.load torch.ops.load_library numpy.load joblib.load
    pandas.read_pickle torch.utils.cpp_extension.load torch.utils.cpp_extension.load_inline
    torch.utils.collect_env.run torch.distributed.rpc.rpc_sync code.interact
    code.InteractiveInterpreter code.InteractiveConsole operator.methodcaller profile.run
    idlelib.pyshell.ModifiedInterpreter.runcode lib2to3.pgen2.grammar.Grammar.loads
    torch.utils.bottleneck.__main__.run_cprofile trace.Trace
"""
_MODULES = frozenset(_HARMFUL_MODULES.split())
_ANYWHERE = frozenset(_HARMFUL_ANYWHERE.split())
_NAMES = frozenset(_HARMFUL_NAMES.split())


def runs_code(kind: str) -> bool:
    """Whether a name stands for something that, if called, may do harm to a computer.

    A class of which nothing is known is not harmful by itself: whole networks consist of them.
    """
    kind = kind.replace("__builtin__.", "builtins.", 1)
    parts = kind.split(".")
    return parts[0] in _MODULES or kind in _NAMES or not _ANYWHERE.isdisjoint(parts)
