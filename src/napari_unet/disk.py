"""Files that are whole or not there at all, whoever dies at whatever moment.

Every file is written beside its place, flushed to the disk and renamed. What cannot be read is
moved aside, and a sentence about it is kept.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from napari_unet.core.errors import ProjectError
from napari_unet.core.whole_file import sync_folder
from napari_unet.core.whole_file import write_whole as _write_whole

__all__ = [
    "arrays_in",
    "changed_at",
    "disk_errors",
    "npz",
    "paths_in",
    "read",
    "read_json",
    "remove_leftovers",
    "rename_if_free",
    "sync_folder",
    "write",
    "write_json",
]

LEFTOVER_AGE = 600
"""Temporary files older than this many seconds belong to nobody who is still writing."""

DAMAGE = (
    ValueError, KeyError, EOFError, OSError, RuntimeError, OverflowError, SyntaxError,
    struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
"""What the contents of a damaged file can raise; the checksums in npz files are verified."""

T = TypeVar("T")


@contextmanager
def disk_errors(what: str, path: Path) -> Iterator[None]:
    """Turn an `OSError` into a `ProjectError` that says what failed, where and what to do."""
    try:
        yield
    except OSError as error:
        raise ProjectError(
            f"{what} {path} ({error.strerror or error}). Check that the disk is not full and "
            "that you may write there, or choose another project folder."
        ) from error


def write(path: Path, content: bytes) -> None:
    """Write a whole file or none; replaces the one before.

    Raises
    ------
    ProjectError
        If it cannot be written; the file before is still there.
    """
    with disk_errors("The project could not write", path):
        _write_whole(path, content)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write names and values as `write` does."""
    write(path, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


def npz(save: Callable[..., None], **arrays: npt.NDArray[Any]) -> bytes:
    """The bytes of an npz file; `save` is `np.savez` or `np.savez_compressed`."""
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def read(path: Path, understand: Callable[[bytes], T], damaged: list[str]) -> T | None:
    """What a file holds; None if it is not there, or is damaged and now aside and reported."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        damaged.append(f"{path} could not be read ({error.strerror or error}); it was left out.")
        return None
    try:
        return understand(content)
    except DAMAGE as error:
        damaged.append(f"{path} is damaged ({error}); {_move_aside(path)}.")
        return None


def read_json(path: Path, damaged: list[str]) -> dict[str, Any]:
    """The names and values in a file; empty if it is not there, or is damaged."""
    return read(path, _json_in, damaged) or {}


def _json_in(content: bytes) -> dict[str, Any]:
    values = json.loads(content)
    if not isinstance(values, dict):
        raise ValueError("it holds no names with values")
    return values


def arrays_in(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays in the bytes of an npz file; raises one of `DAMAGE` if a single bit is off."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        if file.testzip() is not None:
            raise zipfile.BadZipFile("a checksum is wrong")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def _move_aside(path: Path) -> str:
    """Move a damaged file out of the way; says what became of it."""
    folder = (path.parent.parent if path.parent.name == "blocks" else path.parent) / "damaged"
    target = folder / f"{path.stem}.{secrets.token_hex(4)}{path.suffix}"
    try:
        folder.mkdir(exist_ok=True)
        os.replace(path, target)
    except OSError as error:
        return f"it could not be moved aside either ({error.strerror or error})"
    return f"it was left out and moved to {target}"


def paths_in(folder: Path) -> list[Path]:
    """What is in a folder, nothing if it is not there."""
    with disk_errors("The project could not read", folder):
        return sorted(folder.iterdir()) if folder.is_dir() else []


def changed_at(path: Path) -> str:
    """When a file was written last (ISO 8601, UTC), "" if it has gone meanwhile."""
    try:
        changed = path.stat().st_mtime
    except OSError:
        return ""
    return datetime.fromtimestamp(changed, UTC).isoformat(timespec="milliseconds")


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of writers that died a while ago."""
    newest = time.time() - LEFTOVER_AGE
    for path in list(folder.rglob(".*.part*")):
        try:
            if path.stat().st_mtime < newest:
                path.unlink()
        except OSError:  # another program was faster, or the folder is read-only
            continue


def rename_if_free(source: Path, target: Path) -> None:
    """Rename a file; raises `FileExistsError` rather than replace another one."""
    try:
        os.link(source, target)  # unlike a rename, never replaces a file
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if target.exists():
            raise FileExistsError(target) from None
        source.rename(target)
    else:
        source.unlink()
