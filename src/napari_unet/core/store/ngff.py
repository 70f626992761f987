"""What OME-Zarr 0.5 says about labels (https://ngff.openmicroscopy.org/0.5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["label_metadata"]


def label_metadata(
    axes: str, n_levels: int, pixel_size: Mapping[str, float], name: str
) -> dict[str, Any]:
    """The attributes of a group of labels whose levels are "0", "1", ...

    Parameters
    ----------
    axes : a letter for each axis.
    n_levels : each level has every second px of y and x of the one before, from the first on.
        So the first px of all levels have the same centre, and none is translated.
    pixel_size : µm by axis; an axis that is missing has no unit.
    name : what programs call the labels.
    """
    multiscale = {
        "name": name,
        "axes": [_axis(axis, axis in pixel_size) for axis in axes],
        "datasets": [
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": _scale(axes, 2**level, pixel_size)}
                ],
            }
            for level in range(n_levels)
        ],
        "type": "nearest",
    }
    return {"ome": {"version": "0.5", "multiscales": [multiscale], "image-label": {}}}


def _axis(axis: str, has_unit: bool) -> dict[str, str]:
    about = {"name": axis}
    if axis in "zyx":
        about["type"] = "space"
    elif axis == "t":
        about["type"] = "time"
    if has_unit:
        about["unit"] = "micrometer"
    return about


def _scale(axes: str, factor: int, pixel_size: Mapping[str, float]) -> list[float]:
    return [float(pixel_size.get(axis, 1.0)) * (factor if axis in "yx" else 1) for axis in axes]
