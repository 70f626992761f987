"""Opening images and labels, whatever kind of file they are in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_unet.core.errors import ImageError
from napari_unet.core.files.content import Content, reading
from napari_unet.core.files.pictures import (
    PICTURES,
    check_no_jpeg,
    look_at_picture,
    read_picture,
)
from napari_unet.core.files.tiff import TIFF, look_at_tiff, read_tiff
from napari_unet.core.files.zarr import ZARR, is_group, read_zarr
from napari_unet.core.image import Image, make_image

__all__ = ["ImageFile", "can_be_image", "look_at", "open_image", "read_image", "read_labels"]

Reader = Callable[[Path], Content]

LOOKERS: dict[Reader, Reader] = {read_tiff: look_at_tiff, read_picture: look_at_picture}
"""What reads only the head instead; OME-Zarr is never read before it is needed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageFile:
    """An image and what its file says about it.

    Attributes
    ----------
    path, image : the file and what is in it.
    pixel_sizes : axis ("z", "y", "x") to size of a px in µm, where it is known.
    """

    path: Path
    image: Image
    pixel_sizes: Mapping[str, float] = field(default_factory=dict)


def open_image(path: str | Path, axes: str | None = None) -> ImageFile:
    """Open an image file.

    Parameters
    ----------
    path : a TIFF, PNG or JPEG file, or the folder of an OME-Zarr image.
    axes : a letter for each dimension, if the file is wrong about them; see `make_image`.

    Raises
    ------
    ImageError
        If there is no such file, it is of another kind or damaged, or the axes do not fit.
    """
    return _open(Path(path).expanduser(), axes, pixels=True)


def look_at(path: str | Path, axes: str | None = None) -> ImageFile:
    """Open an image file for what is in its head: shape, type, axes, sizes of a px.

    Finds the damage that can be found without reading all pixels. Parameters and errors are
    those of `open_image`; the pixels may be unreadable.
    """
    return _open(Path(path).expanduser(), axes, pixels=False)


def can_be_image(path: Path) -> bool:
    """Whether a file or folder is named like an image that can be read, or is a zarr group."""
    if path.is_dir():
        return path.suffix.lower() == ZARR or is_group(path)
    return path.suffix.lower() in (*TIFF, *PICTURES)


def _open(path: Path, axes: str | None, pixels: bool) -> ImageFile:
    if not path.exists():
        raise ImageError(f"There is no file {path}. Check the path.")
    reader = _reader(path)
    if not pixels:
        reader = LOOKERS.get(reader, reader)
    with reading(path):
        content = reader(path)
    letters = axes or content.axes
    image = make_image(content.array, letters, path.name, content.pixel_sizes)
    sizes = {axis: size for axis, size in content.pixel_sizes.items() if axis in image.axes}
    return ImageFile(path=path, image=image, pixel_sizes=sizes)


def read_image(path: str | Path, axes: str | None = None) -> Image:
    """Open the image in a file; see `open_image`."""
    return open_image(path, axes).image


def read_labels(path: str | Path) -> npt.NDArray[np.integer]:
    """Read a whole label image or corrections, without a channel axis.

    Raises
    ------
    ImageError
        If it cannot be read, has several channels, or holds no whole numbers.
    """
    path = Path(path).expanduser()
    check_no_jpeg(path)
    image = read_image(path)
    if image.n_channels > 1 or np.dtype(image.array.dtype).kind not in "biu":
        raise ImageError(
            f"{path} holds {image.n_channels} channel(s) of {image.array.dtype}, but labels are "
            "one channel of whole numbers. Save them as a gray image of 8 or 16 bits."
        )
    labels = np.asarray(image.array[...])
    if "c" in image.axes:
        labels = labels.squeeze(image.axes.index("c"))
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def _reader(path: Path) -> Reader:
    suffix = path.suffix.lower()
    if path.is_dir():
        if suffix == ZARR or is_group(path):
            return read_zarr
        raise ImageError(f"{path} is a folder. Name the image files in it, for example with *.tif.")
    if suffix in TIFF:
        return read_tiff
    if suffix in PICTURES:
        return read_picture
    raise ImageError(
        f"{path} is of an unknown kind: files ending with {', '.join((*TIFF, *PICTURES))} and "
        "OME-Zarr folders can be read. Convert it to TIFF, for example with Fiji."
    )
