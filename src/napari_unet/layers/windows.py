"""A small labels layer over what is in view, for images too big for a layer of their size."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Labels

from napari_unet.core.image import Image
from napari_unet.layers.drawing import hull, redraw
from napari_unet.layers.reading import placement
from napari_unet.layers.regions import Box, common_box, relative_box
from napari_unet.layers.results import SMALLEST, TAG

__all__ = ["WindowLayer"]


class WindowLayer:
    """Labels of the part of an image that is in view; it moves along with the view.

    Parameters
    ----------
    viewer, source, image : where to add it, the layer and the image that it belongs to.
    name : of the layer.

    Attributes
    ----------
    view : gives the box of the label axes of `image` that is in view; None for none.
    """

    def __init__(self, viewer: ViewerModel, source: ImageLayer, image: Image, name: str) -> None:
        self._viewer = weakref.ref(getattr(viewer, "__wrapped__", viewer))
        self._is_edited = False
        self._waiting: list[Box] = []
        self._box: Box = tuple(slice(0, 1) for _ in image.label_shape)
        self.view: Callable[[], Box | None] = lambda: None
        self.image = image
        self.layer: Labels = viewer.add_labels(
            image.to_layer_order(np.zeros([1] * len(image.label_shape), np.uint16)),
            name=name,
            metadata={TAG: {"role": "segmentation", "image": image.name}},
            **placement(source, image),
        )
        self._origin = np.array(self.layer.translate)
        self.layer.events.paint.connect(self._on_layer_paint)

    @property
    def labels(self) -> Any:
        """Zeros of the label shape of the image that take no memory: nothing is numbered yet."""
        return np.broadcast_to(np.uint16(0), self.image.label_shape)

    @property
    def is_shown(self) -> bool:
        """Whether the layer is still in its viewer."""
        viewer = self._viewer()
        return viewer is not None and self.layer in viewer.layers

    @property
    def is_usable(self) -> bool:
        """Whether the layer is still there and nobody has painted in it."""
        return self.is_shown and not self._is_edited

    def begin(self, what: str, areas: Sequence[Any] = ()) -> None:
        """Get ready for "objects" or "classes"."""
        del areas
        self._widen(np.dtype(SMALLEST[what]))

    def write(self, shown: Any) -> None:
        """Put `shown.labels` at `shown.region`, as far as that is in view."""
        if not self.is_usable:
            return
        self._follow()
        region: Box = (*(slice(i, i + 1) for i in shown.region.index), *shown.region.window)
        part = common_box(region, self._box)
        if part is None:
            return
        labels = shown.labels[(np.newaxis,) * len(shown.region.index)]  # (1, ..., y, x)
        self._widen(labels.dtype)
        inside = relative_box(part, self._box)
        self._array()[inside] = labels[relative_box(part, region)]
        self._waiting.append(inside)

    def redraw(self) -> None:
        """Show what was written since the last time."""
        waiting, self._waiting = self._waiting, []
        viewer = self._viewer()
        if viewer is None or not waiting or not self.is_usable:
            return
        box = hull(waiting)
        redraw(self.layer, viewer, [tuple(box[axis] for axis in self.image.label_order)])

    def finished(self) -> None:
        """Nothing more comes."""

    def remove(self) -> None:
        """Take the layer away."""
        viewer = self._viewer()
        if viewer is not None and self.is_shown:
            viewer.layers.remove(self.layer)

    def _array(self) -> npt.NDArray[np.integer]:
        array: npt.NDArray[np.integer] = self.image.to_label_order(self.layer.data)
        return array

    def _follow(self) -> None:
        """Lie over what is in view now; what both views show stays."""
        box = self.view()
        if box is None or box == self._box:
            return
        old, before = self._array(), self._box
        new = np.zeros([side.stop - side.start for side in box], old.dtype)
        both = common_box(box, before)
        if both is not None:
            new[relative_box(both, box)] = old[relative_box(both, before)]
        self._box, self._waiting = box, []
        start = np.array([box[axis].start for axis in self.image.label_order], float)
        at = self.layer.data_to_world(start) - np.array(self.layer.data_to_world(0 * start))
        self.layer.data = self.image.to_layer_order(new)
        self.layer.translate = self._origin + at

    def _widen(self, dtype: np.dtype[Any]) -> None:
        wider = np.promote_types(self.layer.data.dtype, dtype)
        if wider != self.layer.data.dtype:
            self.layer.data = self.layer.data.astype(wider)

    def _on_layer_paint(self) -> None:
        self._is_edited = True
