"""Reading any file that a model can be in, without executing anything that is in it."""

from __future__ import annotations

from collections.abc import Callable

from napari_unet.core.checkpoints.containers.archive import Archive
from napari_unet.core.checkpoints.containers.inert import Inert
from napari_unet.core.checkpoints.containers.legacy import read_legacy, read_pickle, read_tar
from napari_unet.core.checkpoints.containers.pt2 import read_pt2
from napari_unet.core.checkpoints.containers.safetensors_file import read_safetensors
from napari_unet.core.checkpoints.containers.sniffing import sniff
from napari_unet.core.checkpoints.containers.source import Source, named
from napari_unet.core.checkpoints.containers.torch_zip import read_torch_zip
from napari_unet.core.checkpoints.evidence import Contents
from napari_unet.core.errors import ModelFileError

__all__ = ["READABLE", "Archive", "Inert", "Source", "read_contents", "sniff"]

_READERS: dict[str, Callable[[Source], Contents]] = {
    "torch": lambda source: read_torch_zip(source, script=False),
    "torchscript": lambda source: read_torch_zip(source, script=True),
    "torch-legacy": read_legacy,
    "torch-tar": read_tar,
    "pickle": read_pickle,
    "pt2": read_pt2,
    "safetensors": read_safetensors,
}

READABLE = frozenset(_READERS)
"""What `sniff` must say of a file for `read_contents` to read it."""


def read_contents(source: Source) -> Contents:
    """All that is in a file, as plain values and tensors. Nothing in it is executed.

    Raises
    ------
    ModelFileError
        If it is not of a kind in `READABLE`, damaged, malformed, or holds what cannot be used.
    """
    kind = sniff(source)
    reader = _READERS.get(kind)
    with named(source.name):
        if reader is None:
            raise ModelFileError(f"A file of the kind {kind!r} holds no weights by itself.")
        return _read(reader, source)


def _read(reader: Callable[[Source], Contents], source: Source) -> Contents:
    try:
        return reader(source)
    except (ModelFileError, OSError, MemoryError, RecursionError):
        raise
    except Exception as error:  # NOTE: a hostile file may hit upon what nobody has thought of
        raise ModelFileError(
            f"The file is malformed in a way that was not foreseen ({type(error).__name__}). "
            f"Nothing of it was used. Please report this file."
        ) from error
