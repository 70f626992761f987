"""Labels drawn anew where they have changed, and only there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from napari.components import ViewerModel
from napari.layers import Labels

from napari_unet.layers.regions import Box, common_box

__all__ = ["hull", "redraw"]


def redraw(layer: Labels, viewer: ViewerModel, boxes: Sequence[Box]) -> None:
    """Show what has changed in `boxes`, a slice for each axis of the layer."""
    plane = _seen_of(layer, viewer)
    seen = [common_box(box, plane) for box in boxes]
    parts = [part for part in seen if part is not None]
    if not parts or not layer.visible:
        return
    if _can_be_drawn_in_part(layer, viewer):
        _draw_part(layer, viewer, hull(parts))
    else:
        layer.refresh(thumbnail=False, highlight=False, extent=False)


def _can_be_drawn_in_part(layer: Labels, viewer: ViewerModel) -> bool:
    # NOTE: with wider labels the array is not what the graphics card has.
    is_narrow = not layer.multiscale and layer.data.dtype in (np.uint8, np.uint16)
    return is_narrow and not layer.contour and min(_displayed(layer, viewer)) >= 0


def _draw_part(layer: Labels, viewer: ViewerModel, part: Box) -> None:
    """The public way to redraw a part; 0.4 ms instead of up to 460 ms."""
    axes = _displayed(layer, viewer)
    drawn = layer.data[part]
    drawn = drawn.squeeze(tuple(set(range(drawn.ndim)) - set(axes)))  # the displayed axes
    drawn = drawn.transpose(np.argsort(np.argsort(axes)))  # in the order of the canvas
    offset = [part[axis].start for axis in axes]
    layer.events.labels_update(data=np.ascontiguousarray(drawn), offset=offset)


def hull(boxes: Sequence[Box]) -> Box:
    """The smallest box around all of `boxes`."""
    return tuple(
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*boxes, strict=True)
    )


def _displayed(layer: Labels, viewer: ViewerModel) -> list[int]:
    """The axes of a layer on the canvas, rows first; below 0 for one that it does not have."""
    return [axis - viewer.dims.ndim + layer.ndim for axis in viewer.dims.displayed]


def _seen_of(layer: Labels, viewer: ViewerModel) -> Box:
    """The part of a layer's array that the sliders have chosen."""
    point = np.array(viewer.dims.point)[-layer.ndim :]
    at = np.round(layer.world_to_data(point)).astype(int)
    shape = layer.data.shape
    shown = _displayed(layer, viewer)
    return tuple(
        slice(0, size) if axis in shown else slice(int(at[axis]), int(at[axis]) + 1)
        for axis, size in enumerate(shape)
    )
