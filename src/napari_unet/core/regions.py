"""Where work is done: parts of the planes or volumes of an image, and their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from napari_unet.core.errors import SettingsError
from napari_unet.core.image import Image
from napari_unet.core.tiling import nearest_first

__all__ = ["Region", "check_places", "nearest_planes", "whole_planes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A part of a result: `labels[index][window]`, or `out[(slice(None), *index, *window)]`."""

    index: tuple[int, ...]
    window: tuple[slice, ...]


def check_places(
    image: Image,
    dims: int,
    focus: tuple[float, ...] | None,
    regions: Sequence[Region] | None,
) -> None:
    """Raise `SettingsError` unless a focus and regions are places in the image."""
    if focus is not None and len(focus) != len(image.label_shape):
        raise SettingsError(
            f"focus must have a number for each of the axes {image.label_axes!r}, not {focus}."
        )
    for region in regions or ():
        _check_region(region, image, dims)


def _check_region(region: Region, image: Image, dims: int) -> None:
    """Raise `SettingsError` unless a region is a part of the image."""
    spans = [*((at, at + 1) for at in region.index), *((w.start, w.stop) for w in region.window)]
    shape = image.label_shape
    fits = len(region.window) == dims and len(spans) == len(shape)
    if not fits or not all(
        None not in span and 0 <= span[0] <= span[1] <= n
        for span, n in zip(spans, shape, strict=True)
    ):
        raise SettingsError(
            f"A region must lie within the image, whose axes {image.label_axes!r} have {shape} px, "
            f"and say start and stop along the last {dims} of them; it is {region}."
        )


def whole_planes(image: Image, dims: int) -> list[Region]:
    """All planes of an image, or all volumes for a network of 3 dimensions."""
    whole = tuple(slice(0, n) for n in image.spatial_shape(dims))
    return [Region(index=index, window=whole) for index in np.ndindex(*image.index_shape(dims))]


def nearest_planes(
    regions: Sequence[Region], focus: tuple[float, ...] | None, dims: int
) -> list[Region]:
    """Regions sorted by the distance of their plane from the focus, then by their own."""
    if focus is None:
        return list(regions)
    near = nearest_first([region.window for region in regions], focus[-dims:])
    rank = {id(window): at for at, window in enumerate(near)}

    def distance(region: Region) -> tuple[float, int]:
        steps = zip(region.index, focus[:-dims], strict=True)
        return sum((a - b) ** 2 for a, b in steps), rank[id(region.window)]

    return sorted(regions, key=distance)
