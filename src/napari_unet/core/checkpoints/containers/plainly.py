"""Turns what a pickle holds into plain values and tensors, and stored modules into state dicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from napari_unet.core.checkpoints.containers.inert import (
    ArrayNote,
    DtypeNote,
    Inert,
    StorageNote,
    TensorNote,
)
from napari_unet.core.checkpoints.containers.pickled import malformed
from napari_unet.core.checkpoints.containers.tensors import Storages, as_float32
from napari_unet.core.checkpoints.evidence import LayerNote

__all__ = ["Plainly", "is_optimizer"]

MAX_DEPTH = 200
MAX_LISTED = 4096  # elements of an array that is given as a list
MAX_REPEATED = 50_000_000  # bytes of arrays that are there already
MAX_NAMES = 100_000  # layers and tensors of one module

_NAMESPACES = frozenset(["argparse.Namespace", "types.SimpleNamespace"])
_DTYPE_NAMES = """
    float32 float float64 double float16 half bfloat16 int8 int16 int32 int64 uint8 bool
"""
_DTYPES = frozenset(_DTYPE_NAMES.split())
_SCALARS = (str, int, float, bool, bytes, type(None))


def is_optimizer(name: Any, value: Any) -> bool:
    """Whether an entry of a checkpoint is the state of an optimiser, not of the network."""
    if isinstance(value, Mapping) and "param_groups" in value:
        return True
    return isinstance(name, str) and name.lower().startswith("optim") and not _is_text(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, _SCALARS)


@dataclass(slots=True)
class Plainly:
    """One walk over what a pickle holds.

    Attributes
    ----------
    storages : give tensors their numbers.
    constants : attributes of classes that are not in the pickle (TorchScript), by kind.
    layers : layers of all modules on the way, by dotted path.
    modules : how many stored modules were turned into state dicts.
    """

    storages: Storages
    constants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    layers: dict[str, LayerNote] = field(default_factory=dict)
    modules: int = 0
    _done: dict[int, Any] = field(default_factory=dict)
    _kept: list[Any] = field(default_factory=list)
    _contents: set[int] = field(default_factory=set)
    _copied: int = 0

    def value(self, value: Any, path: str = "", depth: int = 0, numbers: bool = True) -> Any:
        """The plain form of a value; what occurs in several places is turned only once.

        Parameters
        ----------
        value : what the pickle holds.
        path : its names from the root on, joined by dots.
        depth : how deep it lies.
        numbers : whether to read the numbers of tensors.

        Raises
        ------
        ModelFileError
            If it is nested too deeply, or a tensor in it cannot be used.
        """
        if isinstance(value, _SCALARS):
            return value
        if depth > MAX_DEPTH:
            raise malformed("it is nested more deeply than any model")
        if id(value) in self._done:
            return self._done[id(value)]
        self._kept.append(value)  # an id is only good while its object lives
        plain = self._new(value, path, depth, numbers)
        self._done[id(value)] = plain
        return plain

    def _new(self, value: Any, path: str, depth: int, numbers: bool) -> Any:
        if isinstance(value, TensorNote):
            return self._tensor(value, path, numbers)
        if isinstance(value, ArrayNote):
            return self._array(value, listed=True)
        if isinstance(value, dict):
            return self._dict(value, path, depth, numbers)
        if isinstance(value, list):
            return self._list(value, path, depth, numbers)
        if isinstance(value, tuple):
            return tuple(self._items(value, path, depth, numbers))
        if isinstance(value, Inert):
            return self._inert(value, path, depth, numbers)
        if isinstance(value, StorageNote):
            return Inert(f"torch.{value.dtype}Storage", (value.key, value.count))
        return value.name if isinstance(value, DtypeNote) else type(value).__name__

    def _tensor(self, note: TensorNote, path: str, numbers: bool) -> Any:
        if not numbers:
            return Inert("torch.Tensor", note.size)
        return self.storages.tensor(note, path)

    def _items(self, values: Any, path: str, depth: int, numbers: bool) -> list[Any]:
        return [
            self.value(value, f"{path}.{i}" if path else str(i), depth + 1, numbers)
            for i, value in enumerate(values)
        ]

    def _list(self, values: list[Any], path: str, depth: int, numbers: bool) -> list[Any]:
        plain: list[Any] = []
        self._done[id(values)] = plain  # it may hold itself
        plain.extend(self._items(values, path, depth, numbers))
        return plain

    def _dict(self, values: dict[Any, Any], path: str, depth: int, numbers: bool) -> dict[Any, Any]:
        plain: dict[Any, Any] = {}
        self._done[id(values)] = plain
        arrays = _is_state_of_arrays(values)
        numbers = numbers and "param_groups" not in values
        for key, value in values.items():
            inner = f"{path}.{key!s:.200}" if path else f"{key!s:.200}"
            if arrays and isinstance(value, ArrayNote):
                plain[_plain_key(key)] = self._array(value, listed=False)
                continue
            wanted = numbers and not is_optimizer(key, value)
            plain[_plain_key(key)] = self.value(value, inner, depth + 1, wanted)
        return plain

    def _array(self, note: ArrayNote, listed: bool) -> Any:
        self._charge(note.content)
        try:
            array = _numpy(note)
        except (TypeError, ValueError, AttributeError, OverflowError):
            return Inert("numpy.ndarray", (note.dtype, note.shape))
        if array.dtype.kind not in "fiub" or (listed and array.size <= MAX_LISTED):
            return array.tolist()
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)
        return as_float32(torch.from_numpy(array), self.storages.converted)

    def _inert(self, value: Inert, path: str, depth: int, numbers: bool) -> Any:
        if value.args is None:
            module, _, name = value.kind.rpartition(".")
            return value.kind if module == "torch" and name in _DTYPES else value
        if is_module(value):
            return self._module(value, path, depth, numbers)
        if value.items is not None:
            return self._dict(value.items, path, depth, numbers)
        if value.members is not None:
            return self._list(value.members, path, depth, numbers)
        if value.kind in _NAMESPACES and isinstance(value.state, dict):
            return self._dict(value.state, path, depth, numbers)
        if value.kind.startswith("omegaconf.") and isinstance(value.state, dict):
            for name in ("_content", "_val"):
                if name in value.state:
                    return self.value(value.state[name], path, depth + 1, numbers)
        kept = Inert(value.kind, ())
        self._done[id(value)] = kept
        kept.args = tuple(self._items(value.args, path, depth, numbers))
        kept.state = self.value(value.state, path, depth + 1, numbers)
        return kept

    def _charge(self, content: Any) -> None:
        """Count what is copied more than once; raises `ModelFileError` if it gets too much."""
        n_bytes = len(content) if isinstance(content, (bytes, str, list)) else 0
        self._copied += n_bytes if id(content) in self._contents else 0
        self._contents.add(id(content))
        if self._copied > MAX_REPEATED:
            raise malformed("it repeats itself without end")

    # Stored modules --------------------------------------------------------------------------

    def _module(self, module: Inert, path: str, depth: int, numbers: bool) -> Any:
        """The state dict of a stored module; its layers are added to `layers`."""
        found: dict[str, Any] = {}
        layers: dict[str, LayerNote] = {}
        self._collect(module, "", found, layers, (), depth)
        tensors = {name: self.value(note, name, depth, numbers) for name, note in found.items()}
        if not tensors:
            return Inert(module.kind, ())
        self.modules += 1
        prefix = f"{path}." if path else ""
        self.layers |= {f"{prefix}{name}".rstrip("."): note for name, note in layers.items()}
        return tensors

    def _collect(
        self,
        module: Inert,
        prefix: str,
        found: dict[str, Any],
        layers: dict[str, LayerNote],
        above: tuple[int, ...],
        depth: int,
    ) -> None:
        if id(module) in above or depth + len(above) > MAX_DEPTH or len(layers) > MAX_NAMES:
            raise malformed("its layers are nested more deeply than those of any model")
        layers[prefix.rstrip(".")] = self._note(module)
        tensors, children = _parts(module)
        for name, tensor in tensors.items():
            found[f"{prefix}{name}"] = tensor
        for name, child in children.items():
            self._collect(child, f"{prefix}{name}.", found, layers, (*above, id(module)), depth)

    def _note(self, module: Inert) -> LayerNote:
        said = {**self.constants.get(module.kind, {}), **module.state}
        values = {
            name: _setting(value)
            for name, value in said.items()
            if isinstance(name, str) and not name.startswith("_") and _is_setting(value)
        }
        return LayerNote(kind=module.name, values=values)


def is_module(value: Any) -> bool:
    """Whether an object is a layer or network, of PyTorch or of TorchScript."""
    if not isinstance(value, Inert) or value.args is None or not isinstance(value.state, dict):
        return False
    if value.kind.startswith("__torch__."):
        return True
    return "_modules" in value.state and "_parameters" in value.state


def _parts(module: Inert) -> tuple[dict[str, TensorNote], dict[str, Inert]]:
    """Tensors and layers right in a module, in the order of a state dict."""
    state: dict[Any, Any] = module.state
    if "_modules" not in state:
        fields = {str(name): value for name, value in state.items()}
        return (
            {name: value for name, value in fields.items() if isinstance(value, TensorNote)},
            {name: value for name, value in fields.items() if is_module(value)},
        )
    passing = state.get("_non_persistent_buffers_set")
    passing = passing if isinstance(passing, (list, tuple)) else ()
    tensors = {
        str(name): value
        for kind in ("_parameters", "_buffers")
        for name, value in _entries(state.get(kind)).items()
        if isinstance(value, TensorNote) and not (kind == "_buffers" and name in passing)
    }
    children = {
        str(name): value for name, value in _entries(state["_modules"]).items() if is_module(value)
    }
    return tensors, children


def _entries(value: Any) -> Mapping[Any, Any]:
    if isinstance(value, Inert):
        value = value.items
    return value if isinstance(value, dict) else {}


def _is_setting(value: Any, depth: int = 0) -> bool:
    if isinstance(value, (tuple, list)):
        return (
            len(value) < 100 and depth < 3 and all(_is_setting(item, depth + 1) for item in value)
        )
    return isinstance(value, (str, int, float, bool, type(None))) or (
        isinstance(value, Inert) and value.args is None
    )


def _setting(value: Any) -> Any:
    """An attribute of a layer; functions and classes by their names."""
    if isinstance(value, (tuple, list)):
        return type(value)(_setting(item) for item in value)
    return value.kind if isinstance(value, Inert) else value


def _plain_key(key: Any) -> Any:
    return key if isinstance(key, (*_SCALARS, tuple)) else f"<{type(key).__name__}>"


def _is_state_of_arrays(values: dict[Any, Any]) -> bool:
    """Whether a dict of arrays of numpy looks like the weights of a network."""
    arrays = [value for value in values.values() if isinstance(value, ArrayNote)]
    return any(isinstance(note.shape, tuple) and len(note.shape) in (4, 5) for note in arrays)


def _numpy(note: ArrayNote) -> Any:
    """The array. Raises `ValueError` and the like."""
    if isinstance(note.content, list):  # an array of objects
        return np.array([item if _is_text(item) else type(item).__name__ for item in note.content])
    content = note.content.encode("latin1") if isinstance(note.content, str) else note.content
    dtype = np.dtype(note.dtype)
    if dtype.kind not in "fiubSU" or math.prod(note.shape) * dtype.itemsize != len(content):
        raise ValueError(note.dtype)
    array = np.frombuffer(content, dtype).astype(dtype.newbyteorder("="))
    return array.reshape(note.shape, order="F" if note.fortran else "C")
