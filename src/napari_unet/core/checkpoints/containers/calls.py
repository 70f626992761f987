"""The few calls in pickles whose result is known without calling anything."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from napari_unet.core.checkpoints.containers.inert import (
    ArrayNote,
    DtypeNote,
    Inert,
    StorageNote,
    TensorNote,
)

__all__ = ["called"]

_Args = tuple[Any, ...]
_WRONG = (TypeError, ValueError, LookupError, OverflowError, AttributeError, struct.error)
_QUANTISED = "its numbers are quantised (whole numbers with a scale); load the float version"
_SPARSE = "it is stored as a sparse tensor; save it as a dense one"
_NO_NUMBERS = "it holds no numbers, only a shape (a 'meta' tensor)"
_SPECIAL = "it is stored in a special form; save the plain state dict"


def called(function: Any, args: _Args) -> Any:
    """What stands for `function(*args)`; nothing is called that the file has named."""
    kind = function.kind if isinstance(function, Inert) else type(function).__name__
    if isinstance(function, Inert) and function.args is not None:
        kind += "()"  # the result of a call is itself called
    known = _KNOWN.get(kind)
    try:
        if known is not None:
            return known(args)
    except _WRONG:
        pass  # not the call that it seemed to be
    return Inert(kind, args)


def _mapping(args: _Args) -> dict[Any, Any]:
    """Ordered dicts: of nothing, of a dict, or of pairs whose keys are texts or numbers."""
    if not args:
        return {}
    (content,) = args
    if isinstance(content, dict):
        return content
    pairs = [(key, value) for key, value in content]
    if not all(isinstance(key, (str, int)) for key, _ in pairs):
        raise TypeError("keys")
    return dict(pairs)


def _members(args: _Args) -> list[Any]:
    (content,) = args[:1] or ([],)
    if not isinstance(content, (list, tuple)):
        raise TypeError("members")
    return content if isinstance(content, list) else list(content)


def _new_object(args: _Args) -> Any:
    """`copyreg._reconstructor(class, base, state)` and `object.__new__(class)`."""
    kind, _, content = (*args, None, None)[:3]
    if not isinstance(kind, Inert):
        raise TypeError("class")
    made = called(kind, ())
    if isinstance(made, Inert) and isinstance(content, dict):
        made.items = content
    elif isinstance(made, Inert) and isinstance(content, (list, tuple)):
        made.members = list(content)
    return made


def _new_with_class(args: _Args) -> Any:
    """`copyreg.__newobj__(class, *args)`."""
    return called(args[0], tuple(args[1:]))


def _whole(values: Any) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or not all(type(value) is int for value in values):
        raise TypeError("whole numbers")
    return tuple(values)


def _tensor(args: _Args) -> TensorNote:
    """`_rebuild_tensor(storage, offset, size, stride)`, and its second version."""
    storage, offset, size, stride = args[:4]
    if not isinstance(storage, StorageNote):
        return TensorNote(None, problem=_NO_NUMBERS)
    return TensorNote(storage, _whole((offset,))[0], _whole(size), _whole(stride))


def _tensor_v3(args: _Args) -> TensorNote:
    note = _tensor(args)
    note.dtype = args[6].kind.removeprefix("torch.")
    return note


def _inner(args: _Args) -> TensorNote:
    """`Parameter(tensor, ...)`."""
    (tensor,) = args[:1]
    if not isinstance(tensor, TensorNote):
        raise TypeError("tensor")
    return tensor


def _from_type(args: _Args) -> Any:
    """`_rebuild_from_type_v2(function, class, args, state)`."""
    return called(args[0], args[2])


def _unusable(problem: str) -> Callable[[_Args], TensorNote]:
    return lambda args: TensorNote(None, problem=problem)


def _nested(args: _Args) -> StorageNote:
    """`torch.storage._load_from_bytes(content)`: a file of its own in the middle of a pickle."""
    from napari_unet.core.checkpoints.containers.legacy import nested_storage

    content = args[0]
    return nested_storage(content if isinstance(content, bytes) else content.encode("latin1"))


def _dtype(args: _Args) -> DtypeNote:
    (name,) = args[:1]
    if not isinstance(name, str):
        raise TypeError("dtype")
    return DtypeNote(name.lstrip("<>|="))


_SCALARS = {"f2": "e", "f4": "f", "f8": "d", "b1": "?"} | {
    f"{sign}{size}": code
    for size, codes in ((1, "bB"), (2, "hH"), (4, "iI"), (8, "qQ"))
    for sign, code in zip("iu", codes, strict=True)
}


def _scalar(args: _Args) -> int | float | bool | str:
    """`numpy.core.multiarray.scalar(dtype, bytes)`."""
    dtype, content = args
    order = ">" if dtype.name.startswith(">") else "<"
    code = dtype.name.lstrip("<>|=")
    if isinstance(content, str):
        content = content.encode("latin1")
    if code.startswith("U"):
        text: str = content.decode("utf-32-be" if order == ">" else "utf-32-le").rstrip("\0")
        return text
    value: int | float | bool = struct.unpack(order + _SCALARS[code], content)[0]
    return value


def _array(args: _Args) -> ArrayNote:
    """`numpy.core.multiarray._reconstruct(...)`; shape and numbers come with the state."""
    return ArrayNote()


def _from_buffer(args: _Args) -> ArrayNote:
    """`numpy.core.numeric._frombuffer(content, dtype, shape, order)`."""
    content, dtype, shape, order = args
    return ArrayNote(_whole(shape), dtype.name, order == "F", content)


def _encoded(args: _Args) -> bytes:
    """`_codecs.encode(text, "latin1")`: bytes in the oldest protocols."""
    text, encoding = args
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("encoding")
    encoded: bytes = text.encode("latin1")
    return encoded


def _bytes(args: _Args) -> bytes:
    (content,) = args[:1] or (b"",)
    if isinstance(content, str):
        return content.encode("latin1")
    return bytes(content) if isinstance(content, (bytes, list, tuple)) else b"" * len(content)


def _path(args: _Args) -> str:
    if not args or not all(isinstance(part, str) for part in args):
        raise TypeError("path")
    separator = "\\" if args[0].endswith("\\") or args[0][1:2] == ":" else "/"
    start = args[0].rstrip(separator) if len(args) > 1 else args[0]
    return separator.join((start, *args[1:]))


def _text_of(args: _Args) -> str:
    return ":".join(str(part) for part in args if isinstance(part, (str, int)))


def _size(args: _Args) -> tuple[int, ...]:
    return _whole(args[0]) if args else ()


def _complex(args: _Args) -> str:
    real, imaginary = args
    return f"{float(real)}{float(imaginary):+}j"


def _attribute(args: _Args) -> Inert:
    """`getattr(class or module, name)`: only the longer name."""
    owner, name = args
    if not isinstance(owner, Inert) or owner.args is not None or not isinstance(name, str):
        raise TypeError("attribute")
    return Inert(f"{owner.kind}.{name[:200]}")


def _repeated(prefixes: str, known: dict[str, Callable[[_Args], Any]]) -> dict[str, Any]:
    return {
        f"{prefix}.{name}": function
        for prefix in prefixes.split()
        for name, function in known.items()
    }


_KNOWN: dict[str, Callable[[_Args], Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": lambda args: {},
    "collections.deque": lambda args: _members(args[:1]),
    "copyreg._reconstructor": _new_object,
    "copy_reg._reconstructor": _new_object,
    "copyreg.__newobj__": _new_with_class,
    "copy_reg.__newobj__": _new_with_class,
    "_codecs.encode": _encoded,
    "torch.Size": _size,
    "torch.device": _text_of,
    "torch.storage._load_from_bytes": _nested,
    "torch.nn.parameter.Parameter": _inner,
    "torch.nn.parameter.Buffer": _inner,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch._tensor._rebuild_from_type": lambda args: called(args[0], args[2]),
    "torch.jit._pickle.restore_type_tag": lambda args: args[0],
    **_repeated(
        "torch.jit._pickle",
        {
            f"build_{kind}list": lambda args: _members(args[:1])
            for kind in ("int", "double", "bool", "tensor")
        },
    ),
    **_repeated(
        "builtins __builtin__",
        {
            "dict": _mapping,
            "getattr": _attribute,
            "list": _members,
            "tuple": _members,
            "set": _members,
            "frozenset": _members,
            "bytes": _bytes,
            "bytearray": _bytes,
            "complex": _complex,
        },
    ),
    **_repeated(
        "torch._utils",
        {
            "_rebuild_tensor": _tensor,
            "_rebuild_tensor_v2": _tensor,
            "_rebuild_tensor_v3": _tensor_v3,
            "_rebuild_parameter": _inner,
            "_rebuild_parameter_with_state": _inner,
            "_rebuild_qtensor": _unusable(_QUANTISED),
            "_rebuild_sparse_tensor": _unusable(_SPARSE),
            "_rebuild_sparse_csr_tensor": _unusable(_SPARSE),
            "_rebuild_meta_tensor_no_storage": _unusable(_NO_NUMBERS),
            "_rebuild_nested_tensor": _unusable(_SPECIAL),
            "_rebuild_wrapper_subclass": _unusable(_SPECIAL),
            "_rebuild_device_tensor_from_numpy": _unusable(_SPECIAL),
            "_rebuild_device_tensor_from_cpu_tensor": _unusable(_SPECIAL),
        },
    ),
    **_repeated(
        "numpy.core.multiarray numpy._core.multiarray",
        {"scalar": _scalar, "_reconstruct": _array},
    ),
    **_repeated("numpy.core.numeric numpy._core.numeric", {"_frombuffer": _from_buffer}),
    "numpy.dtype": _dtype,
    **_repeated(
        "pathlib pathlib._local",
        {
            f"{pure}{system}Path": _path
            for pure in ("", "Pure")
            for system in ("", "Posix", "Windows")
        },
    ),
}
