"""Files of `torch.save` before 2020, of PyTorch 0.1 (a tar), and plain pickles."""

from __future__ import annotations

import struct
import tarfile
from typing import Any, BinaryIO

from torch import Tensor

from napari_unet.core.checkpoints.containers.inert import Inert, StorageNote, TensorNote
from napari_unet.core.checkpoints.containers.machine import Machine
from napari_unet.core.checkpoints.containers.notes import notes_of
from napari_unet.core.checkpoints.containers.pickled import malformed
from napari_unet.core.checkpoints.containers.plainly import Plainly
from napari_unet.core.checkpoints.containers.source import Source, size_text
from napari_unet.core.checkpoints.containers.tensors import Storages, bytes_from, type_of
from napari_unet.core.checkpoints.containers.torch_zip import MAX_PICKLE, persistent
from napari_unet.core.checkpoints.evidence import Contents
from napari_unet.core.errors import ModelFileError

__all__ = ["MAGIC", "nested_storage", "read_legacy", "read_pickle", "read_tar"]

MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
MAX_PLAIN_PICKLE = 2_000_000_000  # bytes; here the numbers are within the pickle


class _Collected:
    """Remembers the storages that a pickle refers to."""

    def __init__(self) -> None:
        self.notes: dict[str, StorageNote] = {}

    def __call__(self, key: Any) -> Any:
        record = persistent(key)
        if isinstance(record, StorageNote):
            self.notes.setdefault(record.key, record)
        return record


def read_legacy(source: Source) -> Contents:
    """Read pickles in a row, followed by the numbers; raises `ModelFileError`."""
    with source.open() as file:
        pickles = file.read(MAX_PICKLE)
        collected = _Collected()
        machine = Machine(pickles, 0, collected)
        stored, places = _followed(machine, collected, file, source.size)

    def size_of(key: str) -> int | None:
        return places[key][1] if key in places else None

    def read(key: str) -> Tensor | None:
        with source.open() as file:
            file.seek(places[key][0])
            return bytes_from(file, places[key][1])

    plainly = Plainly(storages=Storages(size_of, read))
    tree = plainly.value(stored)
    return Contents(
        container="PyTorch file (before version 1.6)",
        tree=tree,
        layers=plainly.layers,
        notes=notes_of(machine.kinds, plainly),
    )


def _followed(
    machine: Machine, collected: _Collected, file: BinaryIO, size: int
) -> tuple[Any, dict[str, tuple[int, int]]]:
    """The object, and for each storage where its bytes begin and how many there are."""
    magic, version, system = (machine.load() for _ in range(3))
    if magic != 0x1950A86A20F9469CFC6C or version != 1001:
        raise malformed("its first words are not those of PyTorch")
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise ModelFileError("It was written on a computer that orders bytes the other way round.")
    stored, keys = machine.load(), machine.load()
    if not isinstance(keys, list):
        raise malformed("it does not list its numbers")
    places: dict[str, tuple[int, int]] = {}
    at = machine.at
    for key in keys:
        note = collected.notes.get(str(key))
        if note is None:
            raise malformed("it lists numbers that nothing refers to")
        file.seek(at)
        count = _count(file.read(8))
        n_bytes = count * type_of(note.dtype, "its numbers").itemsize
        if at + 8 + n_bytes > size:
            raise ModelFileError(
                f"The file is incomplete: its end is missing (got {size_text(size)}). "
                f"Download or copy it again."
            )
        places[str(key)] = (at + 8, n_bytes)
        at += 8 + n_bytes
    return stored, places


def _count(header: bytes) -> int:
    if len(header) < 8:
        raise ModelFileError(
            "The file is incomplete: its end is missing. Download or copy it again."
        )
    count: int = struct.unpack("<q", header)[0]
    if count < 0:
        raise malformed("it has less than no numbers")
    return count


def nested_storage(content: bytes) -> StorageNote:
    """The storage that is saved, with a file's whole overhead, in the middle of a pickle.

    Raises `ValueError` if there is none.
    """
    if MAGIC not in content[:64]:
        raise ValueError("not a saved storage")
    collected = _Collected()
    machine = Machine(content, 0, collected)
    for _ in range(3):
        machine.load()
    stored, keys = machine.load(), machine.load()
    if not isinstance(stored, StorageNote) or not isinstance(keys, list) or len(keys) != 1:
        raise ValueError("not a saved storage")
    n_bytes = _count(content[machine.at : machine.at + 8]) * type_of(stored.dtype, "it").itemsize
    numbers = content[machine.at + 8 : machine.at + 8 + n_bytes]
    if len(numbers) < n_bytes:
        raise malformed("numbers in it are cut off")
    return StorageNote(stored.key, stored.dtype, stored.count, stored.offset, numbers)


def read_pickle(source: Source) -> Contents:
    """Read what `pickle.dump`, joblib or an old trainer wrote; raises `ModelFileError`."""
    if source.size > MAX_PLAIN_PICKLE:
        raise ModelFileError(
            f"It is a pickle of {size_text(source.size)}; at most {size_text(MAX_PLAIN_PICKLE)} "
            f"are read. Save the state dict with torch.save instead."
        )
    with source.open() as file:
        machine = Machine(file.read(MAX_PLAIN_PICKLE))
    stored = machine.load()
    plainly = Plainly(storages=Storages(lambda key: None, lambda key: None))
    tree = plainly.value(stored)
    return Contents(
        container="Python pickle",
        tree=tree,
        layers=plainly.layers,
        notes=notes_of(machine.kinds, plainly),
    )


# PyTorch 0.1: a tar of three streams of pickles and numbers ---------------------------------------


def read_tar(source: Source) -> Contents:
    """Read the tar of PyTorch 0.1: `storages`, `tensors`, `pickle`; raises `ModelFileError`."""
    parts = _tar_parts(source)
    storages = _tar_storages(parts["storages"])
    tensors = _tar_tensors(parts["tensors"], storages)

    def found(key: Any) -> Any:
        if isinstance(key, tuple) and key and isinstance(key[0], Inert):
            return key[0]  # a class with its source text
        key = str(key)
        return tensors.get(key) or storages.get(key) or persistent((key,))

    machine = Machine(parts["pickle"], 0, found)
    plainly = Plainly(storages=Storages(lambda key: None, lambda key: None))
    tree = plainly.value(machine.load())
    return Contents(
        container="PyTorch file (version 0.1)",
        tree=tree,
        layers=plainly.layers,
        notes=notes_of(machine.kinds, plainly),
    )


def _tar_parts(source: Source) -> dict[str, bytes]:
    parts: dict[str, bytes] = {}
    try:
        with source.open() as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if name in ("storages", "tensors", "pickle") and member.isreg():
                    opened = archive.extractfile(member)  # a file object; nothing is written
                    parts[name] = opened.read(source.size) if opened else b""
    except (tarfile.TarError, OSError, ValueError, EOFError, IndexError) as error:
        raise ModelFileError(
            "The tar archive is damaged or incomplete. Download or copy it again."
        ) from error
    if set(parts) != {"storages", "tensors", "pickle"}:
        raise ModelFileError(
            "It is a tar archive. Unpack it, and open the model file that is in it."
        )
    return parts


def _tar_storages(content: bytes) -> dict[str, StorageNote]:
    machine = Machine(content)
    found: dict[str, StorageNote] = {}
    for _ in range(_n_items(machine.load())):
        record = machine.load()
        if not isinstance(record, tuple) or len(record) != 3 or not isinstance(record[2], Inert):
            raise malformed("it does not say what its numbers are")
        key, _, kind = record
        dtype = kind.name.removesuffix("Storage")
        count = _count(content[machine.at : machine.at + 8])
        n_bytes = count * type_of(dtype, "its numbers").itemsize
        start = machine.at + 8
        if start + n_bytes > len(content):
            raise malformed("numbers in it are cut off")
        found[str(key)] = StorageNote(str(key), dtype, count, 0, content[start : start + n_bytes])
        machine.at = start + n_bytes
    for target, root, offset, _ in _views(machine.load()):
        if (note := found.get(str(root))) is not None and type(offset) is int:
            found[str(target)] = StorageNote(note.key, note.dtype, 0, offset, note.content)
    return found


def _views(listed: Any) -> list[tuple[Any, ...]]:
    """Storages that are a part of another one: `(key, root, offset, size)`."""
    if not isinstance(listed, (list, tuple)):
        raise malformed("it does not list its numbers")
    return [view for view in listed if isinstance(view, tuple) and len(view) == 4]


def _n_items(n: Any) -> int:
    if type(n) is not int or not 0 <= n <= 100_000:
        raise malformed("it does not say how much is in it")
    return n


def _tar_tensors(content: bytes, storages: dict[str, StorageNote]) -> dict[str, TensorNote]:
    machine = Machine(content)
    found: dict[str, TensorNote] = {}
    for _ in range(_n_items(machine.load())):
        record = machine.load()
        if not isinstance(record, tuple) or len(record) != 3:
            raise malformed("it does not say what its tensors are")
        key, storage, _ = record
        n_dims = _dims(machine.take(8))
        sizes = struct.unpack(f"<{n_dims}q", machine.take(8 * n_dims))
        strides = struct.unpack(f"<{n_dims}q", machine.take(8 * n_dims))
        offset = struct.unpack("<q", machine.take(8))[0]
        note = storages.get(str(storage))
        found[str(key)] = TensorNote(
            note, offset, sizes, strides, problem="" if note else "its numbers are missing"
        )
    return found


def _dims(header: bytes) -> int:
    """Number of axes: 4 bytes, and 4 that are not used."""
    n_dims: int = struct.unpack("<i", header[:4])[0]
    if not 0 <= n_dims <= 16:
        raise malformed("a tensor in it has a senseless number of axes")
    return n_dims
