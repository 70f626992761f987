"""Where to work: what of an image is seen, one slice of it, or what lies inside drawn shapes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Shapes
from skimage.draw import polygon

from napari_unet.core.errors import ImageError
from napari_unet.core.image import Image

__all__ = [
    "Area",
    "Box",
    "areas_of_shapes",
    "camera_of",
    "canvas_size",
    "common_box",
    "positions",
    "relative_box",
    "slice_area",
    "view_area",
]

FILLED = ("rectangle", "ellipse", "polygon")
N_CORNERS_OF_ELLIPSE = 96

Box = tuple[slice, ...]
"""A slice for each of the label axes of an image, in px."""
Points = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Area:
    """A part of an image that is worked on.

    Attributes
    ----------
    box : a slice for each of the label axes of the image, in px, inside it and not empty.
    inside : bool `(y, x)` of the box, the px that count; None for all of them.
    """

    box: Box
    inside: npt.NDArray[np.bool_] | None = None


def view_area(viewer: ViewerModel, source: ImageLayer, image: Image) -> Area:
    """What of an image is on the canvas; in 3D the whole volume that is shown.

    Raises
    ------
    ImageError
        If nothing of the image is in view.
    """
    if viewer.dims.ndisplay == 3:
        return Area(box=_box_at(viewer, source, image, 3))
    camera = camera_of(viewer)
    shown = list(viewer.dims.displayed)
    half = np.array(canvas_size(viewer), dtype=float) / camera.zoom / 2
    corners = np.tile(np.array(viewer.dims.point, dtype=float), (4, 1))  # (corner, axis)
    corners[:, shown] = np.array(camera.center)[-2:] + half * list(product((-1, 1), repeat=2))
    box = _box_around(positions(source, image, corners), image.label_shape)
    if box is None:
        raise ImageError(f"Nothing of {image.name!r} is in view. Move it into view.")
    return Area(box=box)


def slice_area(viewer: ViewerModel, source: ImageLayer, image: Image) -> Area:
    """The plane `(y, x)` of an image that the sliders have chosen."""
    return Area(box=_box_at(viewer, source, image, 2))


def areas_of_shapes(shapes: Shapes, source: ImageLayer, image: Image) -> list[Area]:
    """What lies inside the shapes of a layer: a box around each, and the px inside it.

    A shape that was drawn in one slice of a stack counts in that slice; one from a layer of
    fewer axes counts in every slice. Boxes that overlap become one.

    Raises
    ------
    ImageError
        If there is no rectangle, ellipse or polygon, or none that lies on the image.
    """
    outlines = [
        _outline(np.asarray(corners, dtype=float), kind)
        for corners, kind in zip(shapes.data, shapes.shape_type, strict=True)
        if kind in FILLED
    ]
    found = [_area_of(outline, shapes, source, image) for outline in outlines]
    areas = _merged([area for area in found if area is not None])
    if not areas:
        raise ImageError(
            f"{shapes.name!r} has no shape that lies on {image.name!r}. "
            "Draw a rectangle, an ellipse or a polygon around what is to be segmented."
        )
    return areas


def positions(source: ImageLayer, image: Image, world: Points) -> Points:
    """Points of the viewer's world `(point, axis)` in px of the image's label axes.

    The last axes of the world are those of the layer, as napari has it.
    """
    inside = np.array([source.world_to_data(point[-source.ndim :]) for point in world])
    full = np.asarray(source.data[0].shape if source.multiscale else source.data.shape)
    kept = [i for i, axis in enumerate(image.axes) if axis != "c"]
    sizes = np.array([image.array.shape[i] for i in kept])
    if source.rgb:  # whose colours are no axis of the layer
        inside = np.insert(inside, image.axes.index("c"), 0, axis=1)
    on_level = (inside[:, kept] + 0.5) * sizes / full[kept] - 0.5  # of a level that is coarser
    return np.asarray(on_level[:, np.argsort(image.label_order)])


def common_box(one: Box, other: Box) -> Box | None:
    """What two boxes have in common; None if that is nothing."""
    common = tuple(
        slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )
    return common if all(side.start < side.stop for side in common) else None


def relative_box(box: Box, to: Box) -> Box:
    """A box as seen from the first px of another one."""
    return tuple(
        slice(side.start - at.start, side.stop - at.start) for side, at in zip(box, to, strict=True)
    )


def _box_at(viewer: ViewerModel, source: ImageLayer, image: Image, n_whole: int) -> Box:
    """All of the last `n_whole` label axes, at the place of the sliders along the others."""
    here = np.array(viewer.dims.point, dtype=float)[np.newaxis]
    at = np.round(positions(source, image, here)[0]).astype(int)
    n_leading = max(0, len(image.label_shape) - n_whole)
    chosen = np.clip(at, 0, np.array(image.label_shape) - 1)[:n_leading]
    whole = (slice(0, size) for size in image.label_shape[n_leading:])
    return (*(slice(int(i), int(i) + 1) for i in chosen), *whole)


def _box_around(points: Points, shape: tuple[int, ...]) -> Box | None:
    """The px of an image of `shape` that `points` `(point, axis)` span; None if there are none."""
    low = np.floor(points.min(axis=0) + 0.5)  # px 3 reaches from 2.5 to 3.5
    high = np.maximum(np.ceil(points.max(axis=0) + 0.5), low + 1)
    low, high = np.maximum(low, 0), np.minimum(high, shape)
    if (high <= low).any():
        return None
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _outline(corners: Points, kind: str) -> Points:
    """The corners `(corner, axis)` of a shape; many for an ellipse, which is kept as its box."""
    if kind != "ellipse":
        return corners
    middle = corners.mean(axis=0)
    one, other = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    angle = np.linspace(0, 2 * np.pi, N_CORNERS_OF_ELLIPSE, endpoint=False)[:, np.newaxis]
    return np.asarray(middle + np.cos(angle) * one + np.sin(angle) * other)


def _area_of(outline: Points, shapes: Shapes, source: ImageLayer, image: Image) -> Area | None:
    """The px inside an outline in the data of `shapes`; None if they are not on the image."""
    world = np.array([shapes.data_to_world(corner) for corner in outline])
    n_missing = max(0, source.ndim - world.shape[1])
    world = np.pad(world, ((0, 0), (n_missing, 0)))  # (corner, axis of the source)
    corners = positions(source, image, world)
    box = _box_around(corners, image.label_shape)
    missing = source.ndim - shapes.ndim
    if missing > 0:
        everywhere = _box_around(corners[:, -2:], image.label_shape[-2:])
        whole = tuple(slice(0, n) for n in image.label_shape[:-2])
        box = None if everywhere is None else (*whole, *everywhere)
    if box is None:
        return None
    shape = tuple(side.stop - side.start for side in box[-2:])
    inside = np.zeros(shape, bool)
    rows, columns = (corners[:, axis] - box[axis].start for axis in (-2, -1))
    inside[polygon(rows, columns, shape)] = True
    return Area(box=box, inside=inside) if inside.any() else None


def _merged(areas: list[Area]) -> list[Area]:
    """Areas of the same slices whose boxes overlap become one."""
    merged: list[Area] = []
    for area in areas:
        while (other := next((m for m in merged if common_box(m.box, area.box)), None)) is not None:
            merged.remove(other)
            area = _union(area, other)
        merged.append(area)
    return merged


def _union(one: Area, other: Area) -> Area:
    pairs = list(zip(one.box, other.box, strict=True))
    box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in pairs)
    inside = np.zeros(tuple(side.stop - side.start for side in box[-2:]), bool)
    for area in (one, other):
        inside[relative_box(area.box[-2:], box[-2:])] |= (
            True if area.inside is None else area.inside
        )
    return Area(box=box, inside=inside)


def camera_of(viewer: ViewerModel) -> Any:
    """The camera, which has moved in napari 0.9."""
    return getattr(viewer, "scene", viewer).camera


def canvas_size(viewer: ViewerModel) -> tuple[int, int]:
    """Height and width of the canvas in its own px; napari before 0.9 keeps it elsewhere."""
    canvas: Any = getattr(viewer, "canvas", None)
    height, width = viewer._canvas_size if canvas is None else canvas.size
    return int(height), int(width)
