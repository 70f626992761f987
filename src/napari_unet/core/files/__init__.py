"""Image files in, label files out, for the command line: TIFF, PNG, JPEG and OME-Zarr.

Big TIFF files and all OME-Zarr images are read window by window. Files are written beside their
place and renamed when they are whole.
"""

from __future__ import annotations

from napari_unet.core.files.reading import ImageFile, open_image, read_image, read_labels
from napari_unet.core.files.writing import output_path, write_labels, write_probabilities

__all__ = [
    "ImageFile",
    "open_image",
    "output_path",
    "read_image",
    "read_labels",
    "write_labels",
    "write_probabilities",
]
