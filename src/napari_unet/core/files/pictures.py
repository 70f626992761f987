"""PNG and JPEG: one plane of gray or colours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_unet.core.errors import ImageError
from napari_unet.core.files.content import Content

__all__ = ["check_no_jpeg", "read_picture", "write_png"]

PICTURES = (".png", ".jpg", ".jpeg")


def read_picture(path: Path) -> Content:
    """Read a picture; opacity goes, and gray saved as colours becomes gray."""
    from skimage.io import imread

    with path.open("rb") as file:  # NOTE: given a path, it leaves a damaged file open
        array = imread(file)
    if array.ndim == 3 and array.shape[-1] in (2, 4):  # the last one is opacity
        array = array[..., :-1]
    if array.ndim == 3 and (array == array[..., :1]).all():  # gray, saved as colours
        array = array[..., 0]
    return Content(array=array, axes="yxc" if array.ndim == 3 else "yx")


def write_png(
    path: Path, array: npt.NDArray[Any], axes: str, _pixel_sizes: Mapping[str, float]
) -> None:
    """Write one plane of whole numbers up to 65535, losslessly."""
    from skimage.io import imsave

    if axes != "yx" or array.dtype not in (np.uint8, np.uint16):
        raise ImageError(
            f"PNG files hold one plane of whole numbers up to 65535, not {axes!r} of "
            f"{array.dtype} up to {array.max()}. Write TIFF instead."
        )
    imsave(path, array, check_contrast=False)


def check_no_jpeg(path: Path) -> None:
    """Raise `ImageError` for a JPEG file of labels."""
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise ImageError(
            f"{path} is a JPEG file, which changes the values and thus the labels. "
            "Use TIFF or PNG for labels."
        )
