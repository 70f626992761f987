"""Writing labels and probabilities: whole files or none, in the format their ending says."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_unet.core.errors import ImageError
from napari_unet.core.files.pictures import PICTURES, check_no_jpeg, write_png
from napari_unet.core.files.reading import ImageFile
from napari_unet.core.files.tiff import TIFF, write_tiff
from napari_unet.core.files.zarr import ZARR, is_group, write_zarr

__all__ = ["output_path", "write_labels", "write_probabilities"]

ENDINGS = (".ome.zarr", ".ome.tiff", ".ome.tif", ZARR, *TIFF, *PICTURES)


def output_path(folder: str | Path, image_path: str | Path, ending: str) -> Path:
    """Where a result goes: `out` and `a/cells.ome.tif` with `_labels.tif` give
    `out/cells_labels.tif`.
    """
    name = Path(image_path).name
    for known in ENDINGS:
        if name.lower().endswith(known):
            name = name[: -len(known)]
            break
    return Path(folder) / f"{name}{ending}"


def write_labels(
    path: str | Path,
    labels: npt.NDArray[np.integer],
    axes: str,
    like: ImageFile | None = None,
) -> None:
    """Write a label image in the smallest unsigned type that holds it, over any file there.

    Parameters
    ----------
    path : its ending decides: OME-TIFF with lossless compression, PNG (planes only), or
        ".zarr" for OME-Zarr 0.5.
    labels : whole numbers from 0.
    axes : a letter for each dimension, ending with "yx".
    like : the image it belongs to, for the sizes of a px.

    Raises
    ------
    ImageError
        If the file cannot be written, or cannot hold these labels.
    """
    highest = int(labels.max(initial=0))
    dtype = next(t for t in (np.uint8, np.uint16, np.uint32) if highest <= np.iinfo(t).max)
    _write(Path(path).expanduser(), labels.astype(dtype), axes, like)


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


def _write(path: Path, array: npt.NDArray[Any], axes: str, like: ImageFile | None) -> None:
    check_no_jpeg(path)
    writers = {**dict.fromkeys(TIFF, write_tiff), ".png": write_png, ZARR: write_zarr}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise ImageError(
            f"{path} cannot be written: results are {', '.join(writers)} files. Choose one."
        )
    sizes = like.pixel_sizes if like is not None else {}
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(temporary, array, _ome_axes(axes), sizes)
        if path.is_dir():
            _discard_zarr(path)
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


def _discard_zarr(path: Path) -> None:
    """Remove what is about to be replaced, if it is a zarr group and nothing else."""
    if not is_group(path):
        raise ImageError(f"{path} is a folder of something else. Choose another folder.")
    shutil.rmtree(path)


def _ome_axes(axes: str) -> str:
    """The axes with letters that OME knows: t, c, z, y, x, and if those are used up q, p, a."""
    free = [letter for letter in "tzqpa" if letter not in axes]
    return "".join(axis if axis in "tczyx" else free.pop(0) for axis in axes)
