"""A folder or a zip file, read by names that it lists itself. Nothing is ever extracted."""

from __future__ import annotations

import json
import math
import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from napari_unet.core.checkpoints.containers.source import Source, named, shown, size_text
from napari_unet.core.errors import ModelFileError

__all__ = ["Archive"]

MAX_ENTRIES = 20_000
MAX_TEXT = 64_000_000  # bytes of JSON; plans and graphs of networks are far smaller
MAX_YAML = 1_000_000  # bytes
MAX_VALUES = 1_000_000  # in a YAML file
MAX_RATIO = 20  # unpacked to packed; weights hardly pack at all
ALWAYS_ALLOWED = 16_000_000  # bytes unpacked that need no ratio: empty images pack well
MAX_UNPACKED = 8 << 30  # bytes
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class _Entry:
    """A member: how large it is, and how to get at it."""

    size: int
    source: Callable[[], Source]
    checksum: int = 0  # CRC-32; 0 if the writer left it out


@dataclass(frozen=True, slots=True)
class Archive:
    """Members by name, with `/` between folders, in the order in which they are stored.

    Attributes
    ----------
    name : name of the folder or zip file, for people.
    path : the folder or zip file on the disk, if it is there by itself.
    """

    name: str
    _entries: Mapping[str, _Entry] = field(repr=False)
    path: Path | None = None

    @classmethod
    def of_path(cls, path: Path) -> Archive:
        """Look into a folder or a zip file.

        Raises
        ------
        ModelFileError
            If it cannot be read, or is no zip file that can be trusted.
        """
        if not path.is_dir():
            return cls.of_source(Source.of_path(path))
        with named(path.name):
            return cls(path.name, _folder_entries(path), path)

    @classmethod
    def of_source(cls, source: Source) -> Archive:
        """Look into a zip file.

        Raises
        ------
        ModelFileError
            If it is no zip file, is damaged, encrypted, or unpacks to more than it should.
        """
        with named(source.name):
            return cls(source.name, _zip_entries(source), source.path)

    def names(self) -> tuple[str, ...]:
        """All members, without folders."""
        return tuple(self._entries)

    def __contains__(self, name: str) -> bool:
        return _normal(name) in self._entries

    def size(self, name: str) -> int:
        """Unpacked size of a member in bytes."""
        return self._entry(name).size

    def source(self, name: str) -> Source:
        """A member to be read like a file.

        Raises
        ------
        ModelFileError
            If there is no such member, or it is damaged.
        """
        entry = self._entry(name)
        folder = name.rpartition("/")[0]
        with named(self.name):
            found = entry.source()
        if found.path is not None:
            return found
        return replace(found, neighbour=lambda own: self.source(f"{folder}/{own}".lstrip("/")))

    def is_intact(self, name: str, content: Any) -> bool:
        """Whether bytes read from a member have its checksum, if it has one."""
        checksum = self._entry(name).checksum
        return checksum in (0, zlib.crc32(content))

    def read(self, name: str, limit: int = MAX_UNPACKED) -> bytes:
        """All bytes of a member.

        Raises
        ------
        ModelFileError
            If there is no such member, it is damaged, or it is larger than `limit` bytes.
        """
        if self.size(name) > limit:
            raise ModelFileError(
                f"{shown(self.name)}: {shown(name)} is {size_text(self.size(name))} large, where "
                f"at most {size_text(limit)} make sense. The file is not what it seems to be."
            )
        with named(self.name), self.source(name).open() as file:
            content = file.read()
            if len(content) != self.size(name) or not self.is_intact(name, content):
                raise ModelFileError(
                    f"The archive is damaged at {shown(name)}. Download or copy it again."
                )
            return content

    def json(self, name: str) -> Any:
        """The plain values of a JSON file; raises `ModelFileError`."""
        try:
            return json.loads(self.read(name, MAX_TEXT))
        except (ValueError, RecursionError) as error:
            raise self._unreadable(name, "JSON") from error

    def yaml(self, name: str) -> Any:
        """The plain values of a YAML file; raises `ModelFileError`."""
        content = self.read(name, MAX_YAML)
        try:
            value = yaml.safe_load(content)
            if _n_values(value, {}) > MAX_VALUES:
                raise ValueError("it repeats itself without end")
            return value
        except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            raise self._unreadable(name, "YAML") from error

    def _unreadable(self, name: str, kind: str) -> ModelFileError:
        return ModelFileError(
            f"{shown(self.name)}: {shown(name)} is not valid {kind}. The file is damaged, or was "
            f"edited by hand; fetch it again."
        )

    def _entry(self, name: str) -> _Entry:
        try:
            return self._entries[_normal(name)]
        except KeyError:
            raise ModelFileError(
                f"{shown(self.name)}: {shown(name)} is missing. Copy or download it completely."
            ) from None


def _n_values(value: Any, known: dict[int, float]) -> float:
    """How many values a walk would meet, where the same part may be in many places."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf  # it may hold itself
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_n_values(item, known) for item in inner)
    return known[id(value)]


def _normal(name: str) -> str:
    return name.removeprefix("./")


def _is_litter(name: str) -> bool:
    """Whether an operating system left it behind."""
    return name.startswith("__MACOSX/") or name.rpartition("/")[2] in (".DS_Store", "Thumbs.db")


def _folder_entries(folder: Path) -> dict[str, _Entry]:
    root = folder.resolve()
    entries: dict[str, _Entry] = {}
    for parent, inner, files in os.walk(root, followlinks=False):
        inner.sort()
        for file in sorted(files):
            path = Path(parent, file)
            name = path.relative_to(root).as_posix()
            if _is_litter(name) or not _is_inside(path, root):
                continue
            entries[name] = _Entry(path.stat().st_size, partial(Source.of_path, path))
            if len(entries) > MAX_ENTRIES:
                raise ModelFileError(
                    f"The folder holds more than {MAX_ENTRIES} files; choose the folder of the "
                    f"model itself."
                )
    return entries


def _is_inside(path: Path, root: Path) -> bool:
    """Whether a file is really a file within the folder, not a link out of it."""
    try:
        return path.is_file() and path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a loop of links
        return False


def _zip_entries(source: Source) -> dict[str, _Entry]:
    infos = _directory(source)
    if len(infos) > MAX_ENTRIES:
        raise ModelFileError(f"The archive lists {len(infos)} files, which no model has. Refused.")
    repeated = [name for name, n in Counter(info.filename for info in infos).items() if n > 1]
    if repeated:
        raise ModelFileError(
            f"The archive holds two files of the same name ({shown(repeated[0])}), so that it is "
            f"not clear which one is meant. Refused."
        )
    _check_sizes(infos, source.size)
    return {
        info.filename: _Entry(info.file_size, partial(_member, source, info), info.CRC)
        for info in infos
        if info.filename and info.filename[-1] != "/" and not _is_litter(info.filename)
    }


def _directory(source: Source) -> list[zipfile.ZipInfo]:
    """The list of members; only the directory at the end of the file is read."""
    try:
        with source.open() as file, zipfile.ZipFile(file) as archive:
            return archive.infolist()
    except OSError:
        raise
    except Exception as error:  # NOTE: a damaged directory can trip `zipfile` in many ways
        raise ModelFileError(
            f"The file is incomplete or damaged: it begins like a zip archive, as PyTorch's files "
            f"do, but the list at its end is missing or broken (got {size_text(source.size)}). "
            f"Download or copy it again."
        ) from error


def _check_sizes(infos: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse what claims to hold or to unpack to more than a model can."""
    stored = sum(info.compress_size for info in infos)
    unpacked = sum(info.file_size for info in infos)
    if unpacked > max(MAX_RATIO * size, ALWAYS_ALLOWED) or unpacked > MAX_UNPACKED:
        raise ModelFileError(
            f"The archive is {size_text(size)} large and claims to unpack to "
            f"{size_text(unpacked)}. Refused."
        )
    if stored > size:
        raise ModelFileError(
            "The archive is damaged: its members together are larger than the file. "
            "Download or copy it again."
        )


def _member(source: Source, info: zipfile.ZipInfo) -> Source:
    """One member: a stretch of the file if stored, unpacked in memory if deflated."""
    if info.flag_bits & 0x1:
        raise ModelFileError(
            "The archive is password-protected. Unpack it with its password and open what is in it."
        )
    start = _start_of(source, info)
    if info.compress_type == zipfile.ZIP_STORED:
        if info.compress_size != info.file_size:
            raise _damaged(info)
        return source.part(info.filename, start, info.file_size)
    if info.compress_type != zipfile.ZIP_DEFLATED:
        raise ModelFileError(
            "The archive is packed in an uncommon way. Unpack it, and open what is in it."
        )
    if info.file_size > max(MAX_RATIO * info.compress_size, ALWAYS_ALLOWED):
        raise ModelFileError(
            f"{shown(info.filename)} is {size_text(info.compress_size)} large and claims to "
            f"unpack to {size_text(info.file_size)}. Refused."
        )
    return Source.of_bytes(_inflated(source, start, info), info.filename)


def _start_of(source: Source, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin, behind its own header."""
    if not 0 <= info.header_offset < source.size:
        raise _damaged(info)
    with source.open() as file:
        file.seek(info.header_offset)
        header = file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise _damaged(info)
        n_name, n_extra = struct.unpack("<HH", header[26:30])
        name = file.read(n_name).decode("utf-8" if info.flag_bits & 0x800 else "cp437", "replace")
    start = info.header_offset + 30 + n_name + n_extra
    if name != info.orig_filename or start + info.compress_size > source.size:
        raise _damaged(info)
    return int(start)


def _inflated(source: Source, start: int, info: zipfile.ZipInfo) -> bytes:
    """The unpacked bytes, never more of them than promised."""
    unpacker, unpacked, left = zlib.decompressobj(-15), bytearray(), info.compress_size
    with source.open() as file:
        file.seek(start)
        try:
            while left > 0 and not unpacker.eof:
                packed = file.read(min(_BLOCK, left))
                left = left - len(packed) if packed else 0
                unpacked += unpacker.decompress(packed, info.file_size + 1 - len(unpacked))
                if len(unpacked) > info.file_size:
                    break
        except zlib.error as error:
            raise _damaged(info) from error
    if len(unpacked) != info.file_size or zlib.crc32(unpacked) != info.CRC:
        raise _damaged(info)
    return bytes(unpacked)


def _damaged(info: zipfile.ZipInfo) -> ModelFileError:
    return ModelFileError(
        f"The archive is damaged at {shown(info.filename)}. Download or copy it again."
    )
