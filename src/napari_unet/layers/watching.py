"""What happens in one viewer while a model learns: strokes, looks, and a hand on the mouse."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from functools import partial, update_wrapper
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_unet.core.corrections import (
    FULL_SCAN_LIMIT,
    Blocks,
    Box,
    Origin,
    block_origins,
    changed_blocks,
    copy_of_block,
    origins_in,
)
from napari_unet.core.errors import ImageError
from napari_unet.core.image import Image
from napari_unet.layers.painting import CorrectionsLayer, painted_boxes
from napari_unet.layers.regions import camera_of, canvas_size
from napari_unet.layers.results import ResultLayer
from napari_unet.layers.stage import Stage
from napari_unet.layers.windows import WindowLayer

__all__ = ["Blocks", "View", "Watcher"]

MOST_SEEN = 4096
"""Edge of what counts as in view, in px; the rest of the image follows."""
ROOM = 3.0
"""So many times the edge of a place is shown around it."""

View = tuple[tuple[int, ...], tuple[slice, slice]]
"""Position along the label axes before `(y, x)`, and the window `(y, x)` in px."""


class Watcher:
    """Watches a viewer for live mode, until `stop`.

    Parameters
    ----------
    stage, corrections, target : the viewer, what is painted on, and where the result is shown.

    Attributes
    ----------
    on_painted : called right after a stroke with copies of the blocks that have changed, even if
        they are empty now.
    on_unsure : called when something may have been painted but nobody says where (such as undo);
        `changes` finds out.
    on_looked : called when the camera or a slider moved.
    on_pressed : called with whether the mouse is pressed on the canvas, at each of its moves.
    """

    def __init__(
        self,
        stage: Stage,
        image: Image,
        corrections: CorrectionsLayer,
        target: ResultLayer | WindowLayer,
    ) -> None:
        self.stage, self.image = stage, image
        self.corrections, self.target = corrections, target
        self.on_painted: Callable[[Blocks], object] | None = None
        self.on_unsure: Callable[[], object] | None = None
        self.on_looked: Callable[[], object] | None = None
        self.on_pressed: Callable[[bool], object] | None = None
        self._source = stage.source
        self._known: Blocks = {}
        self._touched: set[Origin] = set()
        if isinstance(target, WindowLayer):
            target.view = self._box
            layers = self._layers
            layers.move(layers.index(target.layer), layers.index(corrections.layer))
        self._keys: list[str] = []
        self._connect()

    def _connect(self) -> None:
        viewer, events = self.stage.viewer, self.corrections.layer.events
        camera = camera_of(viewer)
        self._looks = [
            camera.events.zoom, camera.events.center, viewer.dims.events.point,
            viewer.dims.events.ndisplay, viewer.dims.events.order,
        ]  # fmt: skip
        for event in self._looks:
            event.connect(self._on_view_moved)
        events.paint.connect(self._on_layer_paint)
        events.labels_update.connect(self._on_layer_labels_update)
        events.set_data.connect(self._on_layer_set_data)
        events.data.connect(self._on_layer_set_data)
        viewer.mouse_drag_callbacks.append(self._on_mouse_dragged)

    def stop(self) -> None:
        """Let go of the viewer."""
        self.on_painted = self.on_unsure = self.on_looked = self.on_pressed = None
        events = self.corrections.layer.events
        for event in self._looks:
            event.disconnect(self._on_view_moved)
        events.paint.disconnect(self._on_layer_paint)
        events.labels_update.disconnect(self._on_layer_labels_update)
        events.set_data.disconnect(self._on_layer_set_data)
        events.data.disconnect(self._on_layer_set_data)
        callbacks = self.stage.viewer.mouse_drag_callbacks
        if self._on_mouse_dragged in callbacks:
            callbacks.remove(self._on_mouse_dragged)
        for key in self._keys:
            for bound in (self.stage.viewer, self.corrections.layer):
                bound.bind_key(key, None)
        self._keys = []
        if isinstance(self.target, WindowLayer):
            self.target.remove()

    def bind_keys(self, keys: Mapping[str, Callable[[], object]]) -> None:
        """Bind keys until `stop`: of the viewer, and of the corrections, which have some by
        default that would come first."""
        for key, call in keys.items():
            # NOTE: without a name for it, napari fails at every key that is pressed.
            pressed = update_wrapper(partial(_call, call), _call)
            for bound in (self.stage.viewer, self.corrections.layer):
                bound.bind_key(key, pressed, overwrite=True)
            self._keys.append(key)

    # ---- what is there

    def why_over(self) -> str:
        """Why there is nothing to watch any more, in a sentence; nothing if all is well."""
        layers = self._layers
        if self._source not in layers:
            return "The image was removed."
        if self.stage.source is not self._source or not self._is_same_image():
            return "Another image was chosen."
        if self.corrections.layer not in layers:
            return "The layer with the corrections was removed; they are saved."
        if not self.target.is_shown:
            return "The layer with the result was removed."
        if not self.target.is_usable:
            return "The result itself was painted in. Paint on the corrections instead."
        return ""

    @property
    def has_moved(self) -> bool:
        """Whether that is only because another image was chosen."""
        chosen = self.stage.source
        return chosen is not None and chosen is not self._source and self._source in self._layers

    @property
    def _layers(self) -> Any:
        return self.stage.viewer.layers

    def others(self) -> list[Image]:
        """The other images that are open and could be looked at."""
        return list(self.stage.others().values())

    def choose(self, image: Image) -> None:
        """Put one of those on stage, if it is still open."""
        for layer, other in self.stage.others().items():
            if other is image:
                self.stage.choose(layer)
                return

    def _is_same_image(self) -> bool:
        try:
            return self.stage.image() is self.image
        except ImageError:
            return False

    def labels(self) -> Any:
        """The result as it is shown, in the label axes of the image."""
        return self.target.labels

    def view(self) -> View | None:
        """What of the image is in view; None if nothing is."""
        if self.stage.source is not self._source or self._source is None:
            return None
        area = self.stage.seen(self.image)
        if area is None:
            return None
        *leading, rows, columns = area.box
        viewer, n = self.stage.viewer, len(leading)
        index = [side.start for side in leading]
        if viewer.dims.ndisplay == 3:  # the whole volume is shown: the slice of the slider
            point = self.stage.focus(self.image)[:n]
            index = [round(min(max(at, 0), size - 1)) for at, size in zip(
                point, self.image.label_shape[:n], strict=True
            )]  # fmt: skip
        return tuple(int(i) for i in index), (_middle(rows), _middle(columns))

    def _box(self) -> tuple[slice, ...] | None:
        """What is in view as a slice for each label axis."""
        view = self.view()
        return None if view is None else (*(slice(i, i + 1) for i in view[0]), *view[1])

    # ---- strokes

    def everything(self) -> Blocks:
        """Copies of all blocks in which something is painted; they are known from now on."""
        painted = self.corrections.array()
        self._known = {origin: copy_of_block(painted, origin) for origin in block_origins(painted)}
        return dict(self._known)

    def changes(self) -> Blocks:
        """Copies of the blocks that have changed wherever that may have been."""
        painted = self.corrections.array()
        origins = set(self._known)
        if painted.size <= FULL_SCAN_LIMIT:
            origins.update(block_origins(painted))
        else:
            origins.update(self._origins_in_view(painted.shape))
        return self._changed(painted, origins)

    def _origins_in_view(self, shape: tuple[int, ...]) -> set[Origin]:
        view = self.view()
        if view is None:
            return set()
        index, (rows, columns) = view
        return set(origins_in((index, _span(rows), _span(columns)), shape))

    def _changed(self, painted: npt.NDArray[np.integer], origins: set[Origin]) -> Blocks:
        changed = changed_blocks(painted, origins, self._known)
        self._known.update(changed)
        return changed

    def _on_layer_paint(self, event: Any) -> None:
        boxes: list[Box] | None = painted_boxes(event.value, self.image)
        if boxes is None:
            self._on_layer_set_data()
            return
        shape = self.image.label_shape
        self._touched = {origin for box in boxes for origin in origins_in(box, shape)}
        self._tell_of_touched()

    def _tell_of_touched(self) -> None:
        # NOTE: at the end of a stroke the px are there; of what is set at once (a fill, a box)
        # napari tells before it writes them, and draws right afterwards.
        changed = self._changed(self.corrections.array(), self._touched)
        if changed:
            self._touched = set()
            if self.on_painted is not None:
                self.on_painted(changed)

    def _on_layer_labels_update(self) -> None:
        if self._touched:
            self._tell_of_touched()

    def _on_layer_set_data(self) -> None:
        """Undo, redo and writes from elsewhere do not say what they changed."""
        if self.on_unsure is not None:
            self.on_unsure()

    # ---- looks, and the mouse

    def _on_view_moved(self) -> None:
        if self.on_looked is not None:
            self.on_looked()

    def _on_mouse_dragged(self, viewer: Any, event: Any) -> Generator[None, None, None]:
        """Runs from the press of a button to its release."""
        del viewer
        self._press(True)
        yield
        while event.type == "mouse_move":
            self._press(True)
            yield
        self._press(False)

    def _press(self, is_pressed: bool) -> None:
        if self.on_pressed is not None:
            self.on_pressed(is_pressed)

    # ---- show

    def show_before(self, before: bool) -> None:
        """Show the result of the model from before, or the newest one."""
        if isinstance(self.target, WindowLayer):
            self.target.layer.visible = not before
        else:
            self.stage.show_before(before)

    def look_at(self, index: tuple[int, ...], window: tuple[slice, slice]) -> None:
        """Move sliders and camera so that a window of the image lies in the middle."""
        viewer, layer = self.stage.viewer, self.corrections.layer
        ends = [(i, i) for i in index] + [(s.start, s.stop) for s in window]
        low, high = (
            np.array(layer.data_to_world([end[side] for end in _layer_order(ends, self.image)]))
            for side in (0, 1)
        )
        middle = (low + high) / 2
        first = viewer.dims.ndim - layer.ndim
        shown = list(viewer.dims.displayed)
        for axis, at in enumerate(middle, start=first):
            if axis not in shown:
                viewer.dims.set_point(axis, float(at))
        camera = camera_of(viewer)
        center = list(camera.center)
        on_canvas = [axis - first for axis in shown[-2:]]
        center[-2:] = [float(middle[axis]) for axis in on_canvas]
        camera.center = tuple(center)
        extent = max(float(abs(high - low)[axis]) for axis in on_canvas)
        zoom = min(canvas_size(viewer)) / max(extent * ROOM, 1e-9)
        camera.zoom = max(float(camera.zoom), zoom)


def _call(call: Callable[[], object], viewer: Any) -> None:
    del viewer
    call()


def _layer_order(ends: list[Any], image: Image) -> list[Any]:
    return [ends[axis] for axis in image.label_order]


def _middle(side: slice) -> slice:
    """The middle of a side, as much of it as is worth looking at again and again."""
    spare = max(0, side.stop - side.start - MOST_SEEN)
    return slice(side.start + spare // 2, side.stop - (spare - spare // 2))


def _span(side: slice) -> tuple[int, int]:
    return int(side.start), int(side.stop)
