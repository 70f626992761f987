"""Writing labels and probabilities: whole files or none, in the format their ending says."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_unet.core.errors import ImageError
from napari_unet.core.files.content import Typed
from napari_unet.core.files.pictures import PICTURES, check_no_jpeg, write_png
from napari_unet.core.files.reading import ImageFile
from napari_unet.core.files.tiff import TIFF, TILE_SIZE, write_tiff
from napari_unet.core.files.zarr import ZARR, check_zarr, is_group, write_zarr

__all__ = [
    "check_ending",
    "discard",
    "output_path",
    "stem_of",
    "write_labels",
    "write_probabilities",
]

ENDINGS = (".ome.zarr", ".ome.tiff", ".ome.tif", ZARR, *TIFF, *PICTURES)


def output_path(folder: str | Path, image_path: str | Path, ending: str) -> Path:
    """Where a result goes: `out` and `a/cells.ome.tif` with `_labels.tif` give
    `out/cells_labels.tif`.
    """
    return Path(folder) / f"{stem_of(image_path)}{ending}"


def stem_of(image_path: str | Path) -> str:
    """The name of an image without what says its format: `a/cells.ome.tif` gives `cells`."""
    name = Path(image_path).name
    for known in ENDINGS:
        if name.lower().endswith(known):
            return name[: -len(known)]
    return name


def check_ending(ending: str) -> None:
    """Raise `ImageError` if labels cannot be written to files ending so, as installed here."""
    _writer(Path(f"labels{ending}"))
    if ending.endswith(ZARR):
        check_zarr()


def write_labels(
    path: str | Path,
    labels: Any,
    axes: str,
    like: ImageFile | None = None,
) -> None:
    """Write a label image in the smallest unsigned type that holds it, over any file there.

    Parameters
    ----------
    path : its ending decides: OME-TIFF with lossless compression, PNG (planes only), or
        ".zarr" for OME-Zarr 0.5.
    labels : whole numbers from 0. What is no array in memory, such as a zarr array, is written
        piece by piece.
    axes : a letter for each dimension, ending with "yx".
    like : the image it belongs to, for the sizes of a px.

    Raises
    ------
    ImageError
        If the file cannot be written, or cannot hold these labels.
    """
    highest = _highest(labels)
    dtype = next(t for t in (np.uint8, np.uint16, np.uint32) if highest <= np.iinfo(t).max)
    if isinstance(labels, np.ndarray):
        _write(Path(path).expanduser(), labels.astype(dtype, copy=False), axes, like)
    else:
        _write(Path(path).expanduser(), Typed(labels, dtype), axes, like)


def write_probabilities(
    path: str | Path,
    probabilities: npt.NDArray[np.floating],
    axes: str,
    like: ImageFile | None = None,
) -> None:
    """Write probabilities `(class, ...)` as float32 to TIFF or OME-Zarr; see `write_labels`.

    Parameters
    ----------
    axes : of all dimensions but the first one, which is written as channels.
    """
    _write(Path(path).expanduser(), probabilities.astype(np.float32), f"c{axes}", like)


def _highest(labels: Any) -> int:
    """The highest number, looked for band by band."""
    if isinstance(labels, np.ndarray):
        return int(labels.max(initial=0))
    bands = (slice(start, start + TILE_SIZE) for start in range(0, labels.shape[-2], TILE_SIZE))
    planes = list(np.ndindex(*labels.shape[:-2]))
    return max(
        int(np.asarray(labels[(*plane, band)]).max(initial=0)) for band in bands for plane in planes
    )


def _write(path: Path, array: Any, axes: str, like: ImageFile | None) -> None:
    writer = _writer(path)
    sizes = like.pixel_sizes if like is not None else {}
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(temporary, array, _ome_axes(axes), sizes)
        _flush(temporary)
        if path.is_dir():
            discard(path)
        os.replace(temporary, path)
    except OSError as error:
        raise ImageError(
            f"{path} could not be written ({error.strerror or error}). Check that the disk is "
            "not full and that you may write there, or choose another folder."
        ) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        elif temporary.exists():
            temporary.unlink()


def _writer(path: Path) -> Callable[..., None]:
    check_no_jpeg(path)
    writers = {**dict.fromkeys(TIFF, write_tiff), ".png": write_png, ZARR: write_zarr}
    if path.suffix.lower() not in writers:
        raise ImageError(
            f"{path} cannot be written: results are {', '.join(writers)} files. Choose one."
        )
    return writers[path.suffix.lower()]


def discard(path: Path) -> None:
    """Remove a result if it is there.

    Raises
    ------
    ImageError
        If it is a folder, but no zarr group.
    """
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    if not is_group(path):
        raise ImageError(f"{path} is a folder of something else. Choose another folder.")
    shutil.rmtree(path)


def _flush(path: Path) -> None:
    """Bring a file to the disk before its name says that it is whole."""
    if path.is_file():
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _ome_axes(axes: str) -> str:
    """The axes with letters that OME knows: t, c, z, y, x, and if those are used up q, p, a."""
    free = [letter for letter in "tzqpa" if letter not in axes]
    return "".join(axis if axis in "tczyx" else free.pop(0) for axis in axes)
