"""Files in whatever way they are handed over, as sources that can be read again and again."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from napari_unet.core.checkpoints.containers.source import Source

__all__ = ["AnySource", "source_of"]

AnySource = Source | Path | BinaryIO
"""A file: as a source, where it is on the disk, or opened for reading bytes."""


def source_of(file: AnySource) -> Source:
    """The file as a source; raises `ModelFileError` if it cannot be read."""
    if isinstance(file, Source):
        return file
    if isinstance(file, Path):
        return Source.of_path(file)
    file.seek(0)
    name = Path(str(getattr(file, "name", ""))).name or "The file"
    return Source.of_bytes(file.read(), name)
