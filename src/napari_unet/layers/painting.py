"""The labels layer that corrections are painted on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial, update_wrapper
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Shapes
from napari.utils.colormaps import CyclicLabelColormap

from napari_unet.core.corrections import Box
from napari_unet.core.image import Image
from napari_unet.layers.reading import placement

__all__ = [
    "COLORS",
    "CorrectionsLayer",
    "box_of_shape",
    "color_of",
    "draw_box",
    "painted_boxes",
    "remove_boxes",
]

TAG = "napari-unet-live"
COLORS = ("#00000000", "#3d8bfd", "#ff8c1a", "#35c46b", "#e64ca6", "#f2d13c", "#8f6bf2", "#2fc6c6")
"""Untouched, background, then the classes; a class beyond the last colour starts over."""
N_COLORS = 250
"""napari starts over after so many values; it takes 255 at most."""
UNDO_LIMIT = 2**22
"""Changes of up to this many px go through napari's undo."""


def color_of(value: int) -> str:
    """Colour of a painted value."""
    return COLORS[value] if value < len(COLORS) else COLORS[2 + (value - 2) % (len(COLORS) - 2)]


class CorrectionsLayer:
    """A labels layer of the image's shape: 0 untouched, 1 background, then the classes.

    Parameters
    ----------
    viewer, source, image : where to add it, the layer and the image that it belongs to.
    corrections : uint8 in the label axes of `image`; the layer works on this very array.
    class_names : of the model, background first.

    Attributes
    ----------
    on_changed : called with the painted boxes, or with None if it is unknown what changed.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        source: ImageLayer,
        image: Image,
        corrections: npt.NDArray[np.uint8],
        class_names: tuple[str, ...],
    ) -> None:
        self.source = source
        self.image = image
        self.class_names = class_names
        self.on_changed: Callable[[list[Box] | None], object] | None = None
        self.layer: Labels = viewer.add_labels(
            image.to_layer_order(corrections),
            name=f"{source.name} corrections",
            opacity=0.6,
            metadata={TAG: {"role": "corrections", "image": image.name}},
            colormap=_colormap(),
            features=pd.DataFrame({"class": ["untouched", *class_names]}),
            **placement(source, image),
        )
        self.layer.selected_label = 1
        self.layer.brush_size = 8
        self.layer.events.paint.connect(self._on_layer_paint)
        self.layer.events.set_data.connect(self._on_layer_set_data)
        self.layer.events.data.connect(self._on_layer_set_data)

    def array(self) -> npt.NDArray[np.integer]:
        """The painted values now, in the label axes; still there without the layer."""
        painted: npt.NDArray[np.integer] = self.image.to_label_order(self.layer.data)
        return painted

    def fill_in(self, values: npt.NDArray[np.uint8]) -> None:
        """Paint `values`, of the shape of the layer, wherever nothing is painted yet."""
        painted = self.array()
        untouched = (painted == 0) & (values > 0)
        painted[untouched] = values[untouched]
        self.layer.refresh()

    def bind_keys(self, keys: Iterable[tuple[str, partial[object]]]) -> None:
        """Bind keys that work while this layer is the active one."""
        for key, callback in keys:
            # NOTE: without a name for it, napari fails at every key that is pressed.
            self.layer.bind_key(key, update_wrapper(callback, callback.func), overwrite=True)

    def paint_with(self, value: int) -> None:
        """Take the brush with a value in hand."""
        self.layer.selected_label = value
        self.layer.mode = "paint"

    def erase(self) -> None:
        """Take the eraser in hand."""
        self.layer.mode = "erase"

    @property
    def in_hand(self) -> int | None:
        """The value that the brush paints, 0 for the eraser, None if neither is in hand."""
        mode = str(self.layer.mode)
        if mode == "erase":
            return 0
        return int(self.layer.selected_label) if mode in ("paint", "fill", "polygon") else None

    def set_values(self, index: tuple[int, ...], corner: tuple[int, int], values: Any) -> int:
        """Paint `values` `(y, x)` where they are above 0 and nothing is painted yet.

        Returns
        -------
        int
            How many px were painted. Undo takes them back as one stroke.
        """
        y, x = corner
        height, width = values.shape
        plane = self.array()[index]
        new = (values > 0) & (plane[y : y + height, x : x + width] == 0)
        rows, columns = np.nonzero(new)
        if rows.size == 0:
            return 0
        if rows.size <= UNDO_LIMIT:
            leading = tuple(np.full(rows.size, i) for i in index)
            where = (*leading, rows + y, columns + x)
            where = tuple(where[axis] for axis in self.image.label_order)
            self.layer.data_setitem(where, values[rows, columns].astype(self.layer.data.dtype))
        else:
            plane[y : y + height, x : x + width][new] = values[new]
            self.layer.refresh()
        return int(rows.size)

    def _on_layer_paint(self, event: Any) -> None:
        if self.on_changed is not None:
            self.on_changed(painted_boxes(event.value, self.image))

    def _on_layer_set_data(self) -> None:
        """Undo, redo and writes from elsewhere do not say what they changed."""
        if self.on_changed is not None:
            self.on_changed(None)


def _colormap() -> CyclicLabelColormap:
    """A colour for each value.

    NOTE: of a colormap by a dictionary, napari's numba compiles the mapping anew in each process:
    a second or more in which the window stands still.
    """
    return CyclicLabelColormap(colors=[color_of(value) for value in range(N_COLORS)])


def painted_boxes(atoms: Iterable[Any], image: Image) -> list[Box] | None:
    """Boxes of the strokes in a paint event; None if napari's history has changed its form."""
    boxes: list[Box] = []
    for atom in atoms:
        key = getattr(atom, "slice_key", None)
        key = key if key is not None else _extent(atom[0])
        if not all(isinstance(side, slice) for side in key):
            return None
        key = [key[image.label_order.index(axis)] for axis in range(len(key))]  # label axes
        for index in np.ndindex(*(side.stop - side.start for side in key[:-2])):
            plane = tuple(int(side.start + i) for side, i in zip(key[:-2], index, strict=True))
            rows, columns = ((int(side.start), int(side.stop)) for side in key[-2:])
            boxes.append((plane, rows, columns))
    return boxes


def _extent(indices: Any) -> tuple[Any, ...]:
    """The box around the pixels of a numpy multi-index."""
    if not isinstance(indices, tuple) or not all(isinstance(i, np.ndarray) for i in indices):
        return (None,)
    return tuple(slice(int(i.min()), int(i.max()) + 1) for i in indices)


def draw_box(
    viewer: ViewerModel, corrections: CorrectionsLayer, on_drawn: Callable[[Box | None], object]
) -> None:
    """Let the user draw one rectangle; `on_drawn` gets it in px of the corrections."""
    layer = corrections.layer
    shapes: Shapes = viewer.add_shapes(
        name="draw a box around what is right",
        ndim=layer.ndim,
        edge_color="#35c46b",
        face_color="#35c46b33",
        scale=layer.scale,
        units=layer.units,
        axis_labels=layer.axis_labels,
        metadata={TAG: {"role": "box"}},
    )
    shapes.mode = "add_rectangle"

    def on_mouse_released(shapes: Shapes, event: Any) -> Any:
        yield
        while event.type == "mouse_move":
            yield
        on_drawn(box_of_shape(shapes, corrections))

    shapes.mouse_drag_callbacks.append(on_mouse_released)


def remove_boxes(viewer: ViewerModel) -> None:
    """Remove the layers that boxes are drawn on."""
    for layer in list(viewer.layers):
        if layer.metadata.get(TAG, {}).get("role") == "box":
            viewer.layers.remove(layer)


def box_of_shape(shapes: Shapes, corrections: CorrectionsLayer) -> Box | None:
    """The box around the last drawn shape in px of the label axes; None if it is empty."""
    layer, order = corrections.layer, np.argsort(corrections.image.label_order)
    if not len(shapes.data):
        return None
    corners = np.array([layer.world_to_data(shapes.data_to_world(c)) for c in shapes.data[-1]])
    low, high = np.floor(corners.min(axis=0))[order], np.ceil(corners.max(axis=0))[order]
    limits = np.array(corrections.image.label_shape)
    low, high = np.clip(low, 0, limits).astype(int), np.clip(high, 0, limits).astype(int)
    if (high[-2:] - low[-2:] < 1).any():
        return None
    index = tuple(int(i) for i in low[:-2])
    return (index, (int(low[-2]), int(high[-2])), (int(low[-1]), int(high[-1])))
