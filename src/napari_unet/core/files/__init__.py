"""Image files in, label files out, for the command line: TIFF, PNG, JPEG and OME-Zarr.

One file per format; OME-Zarr plates fall apart into their fields.

Big TIFF files and all OME-Zarr images are read window by window. Files are written beside their
place and renamed when they are whole.
"""

from __future__ import annotations

from napari_unet.core.files.plates import Field, fields_of
from napari_unet.core.files.reading import (
    ImageFile,
    can_be_image,
    look_at,
    open_image,
    read_image,
    read_labels,
)
from napari_unet.core.files.writing import (
    check_ending,
    discard,
    output_path,
    stem_of,
    write_labels,
    write_probabilities,
)

__all__ = [
    "Field",
    "ImageFile",
    "can_be_image",
    "check_ending",
    "discard",
    "fields_of",
    "look_at",
    "open_image",
    "output_path",
    "read_image",
    "read_labels",
    "stem_of",
    "write_labels",
    "write_probabilities",
]
