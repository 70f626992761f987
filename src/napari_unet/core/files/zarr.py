"""OME-Zarr 0.4 and 0.5, and plain zarr arrays."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_unet.core.errors import ImageError
from napari_unet.core.files.content import Content, micrometres

__all__ = ["check_zarr", "is_group", "read_zarr", "write_zarr"]

ZARR = ".zarr"


def is_group(folder: Path) -> bool:
    """Whether a folder is a zarr group, by the files in it."""
    return any((folder / name).exists() for name in ("zarr.json", ".zgroup"))


def read_zarr(path: Path) -> Content:
    """Open the finest resolution of an OME-Zarr image, or a plain array, without reading it."""
    import zarr

    opened = zarr.open(path, mode="r")
    if isinstance(opened, zarr.Array):
        return Content(array=opened)
    attributes: Any = dict(opened.attrs)
    attributes = attributes.get("ome", attributes)  # 0.5 has it there, 0.4 directly
    if "bioformats2raw.layout" in attributes and "multiscales" not in attributes:
        return read_zarr(path / "0")
    if "multiscales" not in attributes:
        raise ImageError(
            f"{path} is a zarr group without an image in it. Name the folder of one image, "
            f"which holds its resolutions, for example {path / 'A' / '1' / '0'} on a plate; "
            "a whole plate is done by 'napari-unet batch'."
        )
    multiscale = attributes["multiscales"][0]
    level = multiscale["datasets"][0]
    array = opened[level["path"]]
    axes = [a if isinstance(a, dict) else {"name": a} for a in multiscale.get("axes", [])]
    scale = np.ones(len(axes))
    for transform in (*_transforms(level), *_transforms(multiscale)):
        if transform.get("type") == "scale" and "scale" in transform:
            scale *= transform["scale"]
    letters = "".join(_axis_letter(axis) for axis in axes)
    factors = [micrometres(str(axis.get("unit", ""))) for axis in axes]
    sizes = {
        letter: float(size * factor)
        for letter, size, factor in zip(letters, scale, factors, strict=True)
        if factor
    }
    return Content(array=array, axes=letters or None, pixel_sizes=sizes)


def _transforms(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(about.get("coordinateTransformations", []))


def _axis_letter(axis: Mapping[str, Any]) -> str:
    known = {"channel": "c", "time": "t"}
    return known.get(str(axis.get("type", "")), str(axis["name"])[:1].lower())


def write_zarr(path: Path, array: Any, axes: str, pixel_sizes: Mapping[str, float]) -> None:
    """Write OME-Zarr 0.5 in the order of axes that the standard wants, with coarser levels."""
    import dask.array as da
    import zarr

    write_image, nearest, ome_format = _ome_zarr()
    if set(axes) - set("tczyx"):
        raise ImageError(f"OME-Zarr cannot hold the axes {axes!r}. Write TIFF instead.")
    order = sorted(range(len(axes)), key=lambda at: "tczyx".index(axes[at]))
    sorted_axes = "".join(axes[at] for at in order)
    chunks = tuple(min(n, 1024) if a in "yx" else 1 for a, n in zip(axes, array.shape, strict=True))
    lazy = da.from_array(array, chunks=chunks).transpose(order)
    n_levels = max(0, math.ceil(math.log2(max(array.shape[-2:]) / 1024)))
    write_image(
        lazy,
        zarr.open_group(path, mode="w-", zarr_format=3),
        fmt=ome_format,
        axes=sorted_axes,
        method=nearest,
        scale_factors=[2 ** (level + 1) for level in range(n_levels)],
        scale={axis: pixel_sizes.get(axis, 1.0) for axis in sorted_axes},
        axes_units=dict.fromkeys(pixel_sizes, "micrometer"),
        name=path.name.split(".")[2],  # without the mark of a temporary file
    )


def check_zarr() -> None:
    """Raise `ImageError` if what it takes to write OME-Zarr is not installed."""
    _ome_zarr()


def _ome_zarr() -> tuple[Callable[..., object], object, object]:
    """What it takes to write OME-Zarr: a function, a way to shrink labels, and the format."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # its own, while it is imported
            from ome_zarr.format import FormatV05
            from ome_zarr.scale import Methods
            from ome_zarr.writer import write_image
    except ImportError as error:
        raise ImageError(
            "Writing OME-Zarr needs one more package. Install it with "
            "'pip install \"napari-unet-live[ome-zarr]\"', or write TIFF."
        ) from error
    return write_image, Methods.NEAREST, FormatV05()
