"""TIFF: axes and pixel sizes from OME, ImageJ and plain files; OME-TIFF is written."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from napari_unet.core.files.content import Content, Unread, micrometres, reading

if TYPE_CHECKING:
    import tifffile

__all__ = ["look_at_tiff", "read_tiff", "write_tiff"]

TIFF = (".tif", ".tiff")

TILE_SIZE = 1024
"""Edge of the tiles, in px, where a file is written piece by piece."""

IN_MEMORY_LIMIT = 2**28
"""TIFF images of more bytes than this are read window by window."""


def read_tiff(path: Path) -> Content:
    """Read the first series of a TIFF file, window by window if it is big."""
    import tifffile

    with _cut_off_is_an_error(), tifffile.TiffFile(path) as file:
        series = file.series[0]
        axes = _tiff_axes(series.axes)
        array: Any
        if series.size * series.dtype.itemsize <= IN_MEMORY_LIMIT:
            array = series.asarray()
        elif series.dataoffset is not None:
            array = tifffile.memmap(path, series=0, mode="r")
        else:
            array = _LazyTiff(path)
        return Content(array=array, axes=axes, pixel_sizes=_tiff_pixel_sizes(file))


def look_at_tiff(path: Path) -> Content:
    """What `read_tiff` gives, without the pixels; their places must all be in the file."""
    import tifffile

    with _cut_off_is_an_error(), tifffile.TiffFile(path) as file:
        series = file.series[0]
        if _last_byte(series) > file.filehandle.size:
            raise ValueError("its end is missing")
        return Content(
            array=Unread(tuple(series.shape), series.dtype),
            axes=_tiff_axes(series.axes),
            pixel_sizes=_tiff_pixel_sizes(file),
        )


def _last_byte(series: tifffile.TiffPageSeries) -> int:
    """Where the pixels of a series end in its file."""
    if series.dataoffset is not None:
        return int(series.dataoffset + series.nbytes)
    pages = [page for page in series.pages if page is not None and page.parent is series.parent]
    return max(
        (
            offset + size
            for page in pages
            for offset, size in zip(page.dataoffsets, page.databytecounts, strict=False)
        ),
        default=0,
    )


class _Listener(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def _cut_off_is_an_error() -> Iterator[None]:
    """Raise `ValueError` where tifffile only logs that pages are missing at the end."""
    listener, logger = _Listener(), logging.getLogger("tifffile")
    logger.addHandler(listener)
    try:
        yield
    finally:
        logger.removeHandler(listener)
    if any("invalid page offset" in message for message in listener.messages):
        raise ValueError("its end is missing")


class _LazyTiff:
    """A compressed TIFF image that is read window by window."""

    def __init__(self, path: Path) -> None:
        import tifffile
        import zarr

        self._path = path
        with ExitStack() as stack:
            file = stack.enter_context(tifffile.TiffFile(path))
            store = file.series[0].aszarr(level=0)
            stack.callback(store.close)
            self._array: Any = zarr.open_array(store, mode="r")
            weakref.finalize(self, stack.pop_all().close)
        self.shape = tuple(self._array.shape)
        self.dtype = self._array.dtype
        self.chunks = tuple(self._array.chunks)

    def __getitem__(self, selection: Any) -> npt.NDArray[Any]:
        with reading(self._path):
            return np.asarray(self._array[selection])


def _tiff_axes(tiff_axes: str) -> str:
    """Axes as this package writes them; letters that say nothing become z, then t, p, ..."""
    axes = tiff_axes.lower()
    if "c" not in axes:
        axes = axes.replace("s", "c")
    free = [letter for letter in "ztpqabdefgh" if letter not in axes]
    if not axes.endswith("yx") and not axes.endswith("yxc"):
        return axes
    for at in reversed(range(len(axes))):
        if axes[at] in "qi" or axes[at] in axes[at + 1 :]:
            axes = axes[:at] + free.pop(0) + axes[at + 1 :]
    return axes


def _tiff_pixel_sizes(file: tifffile.TiffFile) -> dict[str, float]:
    """Sizes of a px in µm that an OME, ImageJ or plain TIFF file states."""
    if file.is_ome and file.ome_metadata:
        return _ome_pixel_sizes(file.ome_metadata)
    page = file.series[0].pages[0]
    tags = getattr(page, "tags", None) or {}
    densities = {
        axis: tags[name].value for axis, name in (("y", "YResolution"), ("x", "XResolution"))
        if name in tags
    }  # fmt: skip
    sizes = {axis: below / above for axis, (above, below) in densities.items() if above and below}
    if file.is_imagej:
        about = file.imagej_metadata or {}
        factor = micrometres(str(about.get("unit", "")))
        if "spacing" in about:
            sizes["z"] = abs(float(about["spacing"]))
    else:  # NOTE: inches are what printers want, and say nothing about the specimen
        unit = tags["ResolutionUnit"].value if "ResolutionUnit" in tags else 1
        factor = micrometres("cm") if unit == 3 else None
    return {axis: size * factor for axis, size in sizes.items()} if factor else {}


def _ome_pixel_sizes(xml: str) -> dict[str, float]:
    pixels = next((e for e in ElementTree.fromstring(xml).iter() if e.tag.endswith("Pixels")), None)
    sizes = {}
    for axis in "zyx":
        stated = pixels.get(f"PhysicalSize{axis.upper()}") if pixels is not None else None
        if pixels is not None and stated is not None:
            factor = micrometres(pixels.get(f"PhysicalSize{axis.upper()}Unit", "µm"))
            if factor and float(stated) > 0:
                sizes[axis] = float(stated) * factor
    return sizes


def write_tiff(path: Path, array: Any, axes: str, pixel_sizes: Mapping[str, float]) -> None:
    """Write OME-TIFF with lossless compression; `axes` are letters that OME knows.

    What is no array in memory is written tile by tile.
    """
    import tifffile

    metadata: dict[str, Any] = {"axes": axes.upper()}
    for axis, size in pixel_sizes.items():
        metadata[f"PhysicalSize{axis.upper()}"] = size
        metadata[f"PhysicalSize{axis.upper()}Unit"] = "µm"
    pieces: dict[str, Any] = {}
    if not isinstance(array, np.ndarray):
        tile = (TILE_SIZE, TILE_SIZE)
        pieces = {"shape": array.shape, "dtype": array.dtype, "tile": tile}
    tifffile.imwrite(
        path,
        _tiles(array) if pieces else array,
        ome=True,
        bigtiff=math.prod(array.shape) * array.dtype.itemsize > 2**32 - 2**25,
        photometric="minisblack",
        compression="zlib",
        metadata=metadata,
        **pieces,
    )


def _tiles(array: Any) -> Iterator[npt.NDArray[Any]]:
    """Tiles `(y, x)`, row after row, plane after plane."""
    height, width = array.shape[-2:]
    for plane in np.ndindex(*array.shape[:-2]):
        for top in range(0, height, TILE_SIZE):
            band = np.asarray(array[(*plane, slice(top, min(top + TILE_SIZE, height)))])
            for left in range(0, width, TILE_SIZE):
                yield np.ascontiguousarray(band[:, left : left + TILE_SIZE])
