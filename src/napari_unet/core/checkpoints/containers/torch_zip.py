"""Files of `torch.save` since 2020, and TorchScript: a zip with a pickle and raw numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from napari_unet.core.checkpoints.containers.archive import Archive
from napari_unet.core.checkpoints.containers.inert import Inert, StorageNote
from napari_unet.core.checkpoints.containers.machine import Machine
from napari_unet.core.checkpoints.containers.notes import notes_of
from napari_unet.core.checkpoints.containers.pickled import malformed
from napari_unet.core.checkpoints.containers.plainly import Plainly
from napari_unet.core.checkpoints.containers.program import constants_in
from napari_unet.core.checkpoints.containers.source import Source
from napari_unet.core.checkpoints.containers.tensors import storages_in
from napari_unet.core.checkpoints.evidence import Contents
from napari_unet.core.errors import ModelFileError

__all__ = ["persistent", "read_torch_zip", "root_of"]

MAX_PICKLE = 64_000_000  # bytes
MAX_PROGRAM = 4_000_000  # bytes of one file of TorchScript


def root_of(names: tuple[str, ...]) -> str | None:
    """The folder that a torch file keeps everything in, with its `/`; `None` if it is none."""
    roots = [name.removesuffix("data.pkl") for name in names if name.endswith("data.pkl")]
    roots = [root for root in roots if root == "" or (root.count("/") == 1 and root[-1] == "/")]
    return roots[0] if len(roots) == 1 else None


def read_torch_zip(source: Source, script: bool) -> Contents:
    """Read everything; of a TorchScript file the numbers and settings, not the program.

    Raises
    ------
    ModelFileError
        If it is damaged, malformed, or holds what cannot be used.
    """
    archive = Archive.of_source(source)
    root = root_of(archive.names())
    if root is None:
        raise ModelFileError("It is a zip archive, but not one of PyTorch.")
    _check_byte_order(archive, root)
    machine = Machine(archive.read(f"{root}data.pkl", MAX_PICKLE), 0, persistent)
    stored = machine.load()
    plainly = Plainly(
        storages=storages_in(archive, f"{root}data/"),
        constants=_constants(archive, root) if script else {},
    )
    tree = plainly.value(stored)
    return Contents(
        container="TorchScript file" if script else "PyTorch file",
        tree=tree,
        layers=plainly.layers,
        notes=notes_of(machine.kinds, plainly, script),
    )


def persistent(key: Any) -> Any:
    """The record for a reference out of the pickle: a storage, or a class with its source text."""
    if isinstance(key, tuple) and key and key[0] == "module" and len(key) > 1:
        return key[1]
    if not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage":
        return Inert("persistent", (key,))
    kind, name, location, count = key[1:5]
    if not isinstance(kind, Inert) or not isinstance(name, (str, int)) or type(count) is not int:
        raise malformed("a reference to its numbers makes no sense")
    view = key[5] if len(key) > 5 else None
    offset = view[1] if isinstance(view, tuple) and len(view) > 1 else 0
    return StorageNote(
        key=str(name),
        dtype=kind.name.removesuffix("Storage"),
        count=count,
        offset=offset if type(offset) is int and offset >= 0 else 0,
        location=str(location),
    )


def _check_byte_order(archive: Archive, root: str) -> None:
    name = f"{root}byteorder"
    if name in archive and archive.read(name, 100) == b"big":
        raise ModelFileError(
            "The file was written on a computer that orders bytes the other way round (big "
            "endian). Load and save it there with torch.save(..., ) after byte swapping."
        )


def _constants(archive: Archive, root: str) -> Mapping[str, Mapping[str, Any]]:
    """Settings of layers that TorchScript keeps in the text of its program, by class."""
    found: dict[str, dict[str, Any]] = {}
    pattern = re.compile(re.escape(root) + r"code/(.+)\.py")
    for name in archive.names():
        if (module := pattern.fullmatch(name)) and archive.size(name) <= MAX_PROGRAM:
            text = archive.read(name, MAX_PROGRAM).decode("utf-8", "replace")
            found |= constants_in(text, module[1].replace("/", "."))
    return found
