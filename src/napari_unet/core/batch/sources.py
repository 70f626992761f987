"""Which images a batch is about: files, folders, OME-Zarr images and plates."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from napari_unet.core.batch.settings import BatchSettings
from napari_unet.core.batch.state import STATE
from napari_unet.core.errors import ImageError, SettingsError
from napari_unet.core.files import can_be_image, fields_of, stem_of

__all__ = ["Found", "Source", "find_sources", "signature_of"]

COMPANIONS = (
    "", ".csv", ".db", ".doc", ".docx", ".htm", ".html", ".ini", ".ipynb", ".json", ".log", ".md",
    ".pdf", ".py", ".r", ".sh", ".tsv", ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml",
)  # fmt: skip
"""Endings of files that lie beside images and that nobody takes for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One image of a batch.

    Attributes
    ----------
    path : its file, or the folder of the OME-Zarr image.
    name : of its results, with "/" between folders and without an ending: "day 1/cells".
    row, column, field : where it is on a plate; empty if it is on none.
    problem : a sentence, if there is nothing to open.
    """

    path: Path
    name: str
    row: str = ""
    column: str = ""
    field: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The images of a batch, and the files in its folders that are none and are left out."""

    sources: tuple[Source, ...]
    left_out: tuple[Path, ...]


def find_sources(paths: Sequence[Path], out: Path | None, settings: BatchSettings) -> Found:
    """List the images in files and folders, in the order given and then by name.

    Raises
    ------
    ImageError
        If there is none at all.
    SettingsError
        If results would go among the images.
    """
    left_out: list[Path] = []
    files: dict[Path, tuple[Path, str]] = {}  # each only once, also if it is named twice
    folders = [path for path in paths if path.is_dir() and not can_be_image(path)]
    for path in paths:
        if path not in folders:
            files.setdefault(path.resolve(), (path, stem_of(path)))
            continue
        _check_apart(path, out)
        start = f"{path.resolve().name}/" if len(folders) > 1 else ""
        for file in _walk(path, out, settings.recursive):
            if _is_wanted(file, path, settings.pattern, left_out):
                inside = file.relative_to(path).parent.as_posix()
                folder = "" if inside == "." else f"{inside}/"
                files.setdefault(file.resolve(), (file, f"{start}{folder}{stem_of(file)}"))
    if not files:
        raise ImageError(_nothing(paths, settings))
    sources = [one for path, name in files.values() for one in _sources_at(path, name)]
    return Found(sources=tuple(sources), left_out=tuple(left_out))


def _check_apart(folder: Path, out: Path | None) -> None:
    if out is not None and out.resolve() == folder.resolve():
        raise SettingsError(
            f"The results would lie among the images in {folder}. Choose another folder, "
            f"for example {folder / 'results'}."
        )


def _nothing(paths: Sequence[Path], settings: BatchSettings) -> str:
    where = ", ".join(str(path) for path in paths)
    if settings.pattern:
        return f"There are no files named {settings.pattern} in {where}. Check the pattern."
    return (
        f"There are no images in {where}. Check the folder, or search the folders in it, too "
        "(--recursive)."
    )


def _walk(folder: Path, out: Path | None, is_recursive: bool) -> Iterator[Path]:
    """The files and zarr groups in a folder, by name; results of a batch are no images."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise ImageError(
            f"The folder {folder} cannot be read ({error.strerror or error}). Check that you may."
        ) from error
    for path in paths:
        if path.name.startswith("."):
            continue
        if not path.is_dir() or can_be_image(path):
            yield path
        elif is_recursive and not _is_results(path, out):
            yield from _walk(path, out, is_recursive)


def _is_results(folder: Path, out: Path | None) -> bool:
    is_out = out is not None and folder.resolve() == out.resolve()
    return is_out or (folder / STATE).is_file()


def _is_wanted(file: Path, folder: Path, pattern: str | None, left_out: list[Path]) -> bool:
    """Whether a file of a folder counts; if it is no image, and nobody named it, say so."""
    if pattern is not None:
        inside = file.relative_to(folder).as_posix()
        return fnmatch(inside if "/" in pattern else file.name, pattern)
    if not file.is_dir() and file.suffix.lower() in COMPANIONS:
        left_out.append(file)
        return False
    return True


def _sources_at(path: Path, name: str) -> list[Source]:
    """A single image, or the fields of a plate in a folder of the plate's name."""
    if not path.is_dir():
        return [Source(path=path, name=name)]
    try:
        fields = fields_of(path)
    except ImageError as error:
        return [Source(path=path, name=name, problem=str(error))]
    return [
        Source(
            path=field.path, name=f"{name}/{field.name}", row=field.row, column=field.column,
            field=field.field, problem=field.problem,
        )
        for field in fields
    ] or [Source(path=path, name=name)]  # fmt: skip


def signature_of(path: Path) -> list[int]:
    """Size in bytes and time of the last change (ns) of a file, or of all files of a group."""
    if not path.is_dir():
        about = path.stat()
        return [about.st_size, about.st_mtime_ns]
    size = newest = 0
    for folder, folders, files in os.walk(path):
        if "labels" in folders:  # what others found in it
            folders.remove("labels")
        for file in files:
            about = os.stat(os.path.join(folder, file))
            size += about.st_size
            newest = max(newest, about.st_mtime_ns)
    return [size, newest]
