"""PNG and JPEG: one plane of gray or colours."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_unet.core.errors import ImageError
from napari_unet.core.files.content import Content, Unread

__all__ = ["check_no_jpeg", "look_at_picture", "read_picture", "write_png"]

PICTURES = (".png", ".jpg", ".jpeg")

PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
PNG_GRAY = (0, 4)
"""The kinds of colour, in the head of a PNG file, that are gray without and with opacity."""


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


def look_at_picture(path: Path) -> Content:
    """What `read_picture` gives, without reading the pixels of a gray PNG file.

    All others are read: only their pixels say whether their colours are all gray.
    """
    with path.open("rb") as file:
        head = file.read(len(PNG_START) + 10)
        file.seek(max(0, path.stat().st_size - len(PNG_END)))
        is_whole = head.startswith(PNG_START) and file.read() == PNG_END
    if is_whole:
        width, height, depth, colours = struct.unpack(">IIBB", head[len(PNG_START) :])
        if colours in PNG_GRAY:
            return Content(array=Unread((height, width), "u2" if depth == 16 else "u1"), axes="yx")
    return read_picture(path)


def write_png(path: Path, array: Any, axes: str, _pixel_sizes: Mapping[str, float]) -> None:
    """Write one plane of whole numbers up to 65535, losslessly."""
    from skimage.io import imsave

    if axes != "yx" or array.dtype not in (np.uint8, np.uint16):
        raise ImageError(
            f"PNG files hold one plane of whole numbers up to 65535, not {axes!r} of "
            f"{array.dtype}. Write TIFF instead."
        )
    imsave(path, np.asarray(array[...]), check_contrast=False)


def check_no_jpeg(path: Path) -> None:
    """Raise `ImageError` for a JPEG file of labels."""
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise ImageError(
            f"{path} is a JPEG file, which changes the values and thus the labels. "
            "Use TIFF or PNG for labels."
        )
