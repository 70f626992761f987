"""The program in a TorchScript file, followed for the image without being run.

The text of the program is parsed as Python, whose syntax it has, and walked through statement by
statement: names are looked up in the file, numbers are computed, and what is done to the image is
written down as a list of layers. A function that is not known here is refused by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from napari_unet.core.checkpoints.containers.archive import Archive
from napari_unet.core.checkpoints.containers.inert import Inert, TensorNote
from napari_unet.core.checkpoints.containers.machine import Machine
from napari_unet.core.checkpoints.containers.source import named
from napari_unet.core.checkpoints.containers.tensors import storages_in
from napari_unet.core.checkpoints.containers.torch_zip import persistent, root_of
from napari_unet.core.checkpoints.graphs import Graph
from napari_unet.core.checkpoints.graphs.interpreting import Interpreter, Stored, Texts
from napari_unet.core.checkpoints.graphs.merging import Names, followed
from napari_unet.core.checkpoints.graphs.probing import image_shapes
from napari_unet.core.checkpoints.graphs.reading import AnySource, source_of
from napari_unet.core.checkpoints.graphs.recording import Recorder
from napari_unet.core.errors import ModelFileError

__all__ = ["read_torchscript"]

MAX_PICKLE = 64_000_000  # bytes
MAX_TEXT = 16_000_000  # bytes of program
MAX_DEPTH = 100
MOST_CANDIDATES = 64


def read_torchscript(file: AnySource) -> Graph:
    """Read the network of a TorchScript file: its program as a list of layers, and its weights.

    Raises
    ------
    ModelFileError
        If the file is damaged, or its program does what no list of layers can.
    """
    source = source_of(file)
    with named(source.name):
        archive = Archive.of_source(source)
        root = root_of(archive.names())
        if root is None:
            raise ModelFileError("It is a zip archive, but not one of PyTorch.")
        names = Names()
        network = _Reading(archive, f"{root}data/", names).value(
            _pickled(archive, f"{root}data.pkl")
        )
        if not isinstance(network, Stored):
            raise ModelFileError("It holds no network, only numbers.")
        constants = _constants(archive, root, names)
        texts = Texts(dict(_modules(archive, root)))

        def program(recorder: Recorder) -> Any:
            return Interpreter(texts, constants, recorder).run(network)

        shapes = _shapes(network, constants, _traced(archive, root))
        return followed(program, shapes, names)


def _pickled(archive: Archive, name: str) -> Any:
    return Machine(archive.read(name, MAX_PICKLE), 0, persistent).load()


def _modules(archive: Archive, root: str) -> Iterator[tuple[str, str]]:
    """The text of each file of the program by its dotted name."""
    total = 0
    for name in archive.names():
        if name.startswith(f"{root}code/") and name.endswith(".py"):
            total += archive.size(name)
            text = archive.read(name, max(0, MAX_TEXT - total + archive.size(name)))
            dotted = name.removeprefix(f"{root}code/").removesuffix(".py").replace("/", ".")
            yield dotted, text.decode("utf-8", "replace")


def _constants(archive: Archive, root: str, names: Names) -> Sequence[Any]:
    if f"{root}constants.pkl" not in archive:
        return ()
    reading = _Reading(archive, f"{root}constants/", names)
    values = reading.value(_pickled(archive, f"{root}constants.pkl"), "CONSTANTS")
    return values if isinstance(values, list | tuple) else ()


def _traced(archive: Archive, root: str) -> tuple[int, ...] | None:
    """The shape of the image that a program was traced with, where the file keeps it."""
    if f"{root}traced_inputs.pkl" not in archive:
        return None
    open_ends = [_pickled(archive, f"{root}traced_inputs.pkl")]
    for _ in range(1000):
        value = open_ends.pop(0) if open_ends else None
        if isinstance(value, TensorNote):
            fits = len(value.size) in (4, 5) and all(0 < n <= 4096 for n in value.size)
            return (1, *value.size[1:]) if fits else None
        if isinstance(value, dict):
            open_ends += value.values()
        elif isinstance(value, list | tuple):
            open_ends += value
        elif isinstance(value, Inert):
            open_ends += [value.args or (), value.state or ()]
    return None


class _Reading:
    """Turns what a pickle holds into plain values, tensors, and objects with attributes."""

    def __init__(self, archive: Archive, folder: str, names: Names) -> None:
        self._storages, self._names = storages_in(archive, folder), names
        self._known: dict[int, tuple[Any, Any]] = {}

    def value(self, value: Any, path: str = "", depth: int = 0) -> Any:
        """The plain form of a value; the same for what occurs in several places."""
        if depth > MAX_DEPTH:
            raise ModelFileError("The file is nested more deeply than any model.")
        if not isinstance(value, Inert | TensorNote | list | tuple | dict):
            return value
        if id(value) not in self._known:
            # The value is kept, since an id is only good while its object lives.
            self._known[id(value)] = (value, self._new(value, path, depth + 1))
        return self._known[id(value)][1]

    def _new(self, value: Any, path: str, depth: int) -> Any:
        if isinstance(value, TensorNote):
            tensor = self._storages.tensor(value, path)
            self._names.know(path, tensor)
            return tensor
        if isinstance(value, list | tuple):
            items = [self.value(one, f"{path}.{i}", depth) for i, one in enumerate(value)]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, dict):
            return {key: self.value(one, f"{path}.{key}", depth) for key, one in value.items()}
        if value.kind.startswith("torch.jit._pickle.") and value.args:  # a list with its type
            return self.value(value.args[0], path, depth)
        prefix = f"{path}." if path else ""
        state = value.state if isinstance(value.state, dict) else {}
        parts = {key: self.value(one, f"{prefix}{key}", depth) for key, one in state.items()}
        return Stored(value.kind, parts)


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """All tensors in stored values, in order."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    parts = value.values.values() if isinstance(value, Stored) else value
    if isinstance(parts, dict):
        parts = parts.values()
    if isinstance(value, Stored | list | tuple | dict):
        for part in parts:
            yield from _tensors(part, seen)


def _shapes(
    network: Stored, constants: Sequence[Any], traced: tuple[int, ...] | None
) -> list[Sequence[tuple[int, ...]]]:
    """Shapes of images to try: the first that the program can take are those it is for."""
    kernels = [t for t in _tensors((network, constants), set()) if t.ndim in (4, 5)]
    if not kernels:
        raise ModelFileError("It holds no convolutions for images or volumes; it is no U-Net.")
    dims = Counter(t.ndim - 2 for t in kernels).most_common(1)[0][0]
    channels = dict.fromkeys(t.shape[1] for t in kernels)
    options: list[Sequence[tuple[int, ...]]] = []
    if traced is not None:
        options.append(image_shapes(len(traced) - 2, traced[1]))
    for n in list(channels)[:MOST_CANDIDATES]:
        options.append(image_shapes(dims, n))
    return [*options, [traced]] if traced is not None else options
