"""What is on stage in one viewer: the chosen image, its result and its corrections."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Shapes

from napari_unet.core.corrections import Box
from napari_unet.core.errors import ImageError
from napari_unet.core.image import Image
from napari_unet.layers.painting import CorrectionsLayer, box_of_shape
from napari_unet.layers.reading import (
    axes_of,
    focus_of,
    image_layers,
    image_of,
    label_layers,
    placement,
)
from napari_unet.layers.results import TAG, ResultLayer

__all__ = ["Stage", "stage_of"]


class Stage:
    """The layers of one viewer that the docks work on together; it holds the viewer weakly.

    Attributes
    ----------
    source : the chosen image layer.
    leading : what its axes before `(y, x)` are, such as "z" or "c"; "" to read it off the layer.
    result : where the last segmentation is shown.
    trial : where the segmentation of a model on trial is shown.
    shown_probabilities : the array whose map is shown, if one is.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self.source: ImageLayer | None = None
        self.leading = ""
        self.result: ResultLayer | None = None
        self.trial: ResultLayer | None = None
        self.shown_probabilities: Any = None
        self.on_layers_changed: Callable[[], object] | None = None
        self._corrections: dict[str, CorrectionsLayer] = {}
        self._image: tuple[Any, str, Image, str] | None = None
        for name in ("inserted", "removed", "reordered", "renamed"):
            getattr(viewer.layers.events, name).connect(self._on_layers_changed)
        self.choose_any()

    @property
    def viewer(self) -> ViewerModel:
        """The viewer; only called from its own widgets, while it is there."""
        viewer = self._viewer()
        assert viewer is not None
        return viewer

    # ---- the image

    def images(self) -> list[ImageLayer]:
        """Image layers to choose from; maps of probabilities are none."""
        return [layer for layer in image_layers(self.viewer) if TAG not in layer.metadata]

    def choose(self, source: ImageLayer | None, leading: str = "") -> None:
        """Work on another image layer from now on."""
        self.source, self.leading = source, leading

    def choose_any(self) -> None:
        """Keep the chosen layer if it is still there; else take the active or the last one."""
        images = self.images()
        if self.source in images:
            return
        active = self.viewer.layers.selection.active
        self.choose(active if active in images else (images[-1] if images else None))

    @property
    def leading_axes(self) -> str:
        """What the axes of the chosen image before `(y, x)` are, chosen or read off the layer."""
        if self.source is None:
            return ""
        return axes_of(self.source, self.leading)[: self.source.ndim - 2]

    def image(self) -> Image | None:
        """The chosen image; None without one. Raises `ImageError` if it cannot be used."""
        return None if self.source is None else self._identified()[0]

    @property
    def key(self) -> str:
        """What tells the chosen image from others, whatever file or layer it comes from.

        Nothing if there is no image, or one that cannot be used.
        """
        try:
            return "" if self.source is None else self._identified()[1]
        except ImageError:
            return ""

    def _identified(self) -> tuple[Image, str]:
        assert self.source is not None
        data, leading = self.source.data, self.leading
        if self._image is None or self._image[0] is not data or self._image[1] != leading:
            image = image_of(self.source, leading)
            self._image = (data, leading, image, image.fingerprint())
        return self._image[2], self._image[3]

    def _on_layers_changed(self) -> None:
        self.choose_any()
        if self.on_layers_changed is not None:
            self.on_layers_changed()

    def focus(self) -> tuple[float, ...] | None:
        """Where in the chosen image the user looks."""
        image = self.image()
        if image is None or self.source is None:
            return None
        return focus_of(self.viewer, self.source, image)

    # ---- results

    def target(self, on_trial: bool = False) -> ResultLayer:
        """A layer for a segmentation of the chosen image; the last one if that is free."""
        image = self.image()
        assert image is not None and self.source is not None
        old = self.trial if on_trial else self.result
        if old is not None and old.fits(self.source, image):
            return old
        what = "segmentation after" if on_trial else "segmentation"
        active = self.viewer.layers.selection.active
        new = ResultLayer(self.viewer, self.source, image, f"{self.source.name} {what}")
        self._keep_on_top(active)
        if on_trial:
            self.trial = new
        else:
            self.result = new
        return new

    def _keep_on_top(self, active: Any) -> None:
        """Corrections stay above a new result, and what was active stays active."""
        layers = self.viewer.layers
        for corrections in self._corrections.values():
            if corrections.layer in layers:
                layers.move(layers.index(corrections.layer), len(layers))
        if active in layers:
            layers.selection.active = active

    def settle_trial(self, keep: bool) -> None:
        """After Keep the result of the trial takes the place of the old; else it goes."""
        trial, self.trial = self.trial, None
        if trial is None or not trial.is_shown:
            return
        if keep and self.result is not None and self.result.is_usable:
            self.result.layer.visible = True
            self.result.take_over(trial)
        elif keep:
            trial.layer.name = trial.layer.name.replace(" segmentation after", " segmentation")
            trial.layer.visible = True
            self.result = trial
            return
        self.viewer.layers.remove(trial.layer)
        if self.result is not None and self.result.is_shown:
            self.result.layer.visible = True

    def show_before(self, before: bool) -> None:
        """Show the result from before training, or the one on trial."""
        if self.trial is not None and self.trial.is_shown:
            self.trial.layer.visible = not before
            if self.result is not None and self.result.is_shown:
                self.result.layer.visible = before

    def show_probabilities(self, foreground: Any, result: ResultLayer) -> None:
        """Show the probability of not being background on the image that `result` is of.

        Parameters
        ----------
        foreground : `(...)` in the label axes of that image, 0 ... 1.
        result : made from the same probabilities; it stays visible above them.
        """
        self.hide_probabilities()
        layers = self.viewer.layers
        active = layers.selection.active
        added = self.viewer.add_image(
            foreground,
            name=f"{result.source.name} probability",
            colormap="magma",
            contrast_limits=(0, 1),
            blending="additive",
            opacity=0.7,
            metadata={TAG: {"role": "probabilities"}},
            **placement(result.source, result.image),
        )
        if result.is_shown:
            layers.move(layers.index(added), layers.index(result.layer))
        self._keep_on_top(active)

    def hide_probabilities(self) -> None:
        """Remove the maps of probabilities that this plugin has added."""
        self.shown_probabilities = None
        for layer in list(image_layers(self.viewer)):
            if layer.metadata.get(TAG, {}).get("role") == "probabilities":
                self.viewer.layers.remove(layer)

    # ---- corrections

    def corrections(self) -> CorrectionsLayer | None:
        """The corrections of the chosen image, if their layer is there."""
        found = self._corrections.get(self.key)
        return found if found is not None and found.layer in self.viewer.layers else None

    def shown_corrections(self) -> set[str]:
        """Keys of the images whose corrections are open."""
        layers = self.viewer.layers
        return {key for key, found in self._corrections.items() if found.layer in layers}

    def add_corrections(
        self, values: npt.NDArray[np.uint8], class_names: tuple[str, ...]
    ) -> CorrectionsLayer:
        """Add the layer for corrections of the chosen image, and make it the active one."""
        image = self.image()
        assert image is not None and self.source is not None
        new = CorrectionsLayer(self.viewer, self.source, image, values, class_names)
        self._corrections[self.key] = new
        self.viewer.layers.selection.active = new.layer
        return new

    def activate_corrections(self) -> None:
        """Make the corrections the active layer, so that the brush paints on them."""
        corrections = self.corrections()
        if corrections is not None:
            self.viewer.layers.selection.active = corrections.layer

    def masks(self) -> list[Labels]:
        """Labels layers that could be taken over as corrections of the chosen image."""
        image = self.image()
        mine = self.corrections()
        return [
            layer
            for layer in label_layers(self.viewer)
            if image is not None
            and (mine is None or layer is not mine.layer)
            and not layer.multiscale
            and tuple(layer.data.shape) == image.label_shape
        ]

    def draw_box(self, on_drawn: Callable[[Box | None], object]) -> None:
        """Let the user draw one rectangle; `on_drawn` gets it in px of the corrections."""
        self.remove_box()
        corrections = self.corrections()
        assert corrections is not None
        viewer = self.viewer
        shapes: Shapes = viewer.add_shapes(
            name="draw a box around what is right",
            ndim=corrections.layer.ndim,
            edge_color="#35c46b",
            face_color="#35c46b33",
            scale=corrections.layer.scale,
            units=corrections.layer.units,
            axis_labels=corrections.layer.axis_labels,
            metadata={TAG: {"role": "box"}},
        )
        shapes.mode = "add_rectangle"

        def on_mouse_released(layer: Shapes, event: Any) -> Any:
            yield
            while event.type == "mouse_move":
                yield
            box = box_of_shape(layer, corrections.layer)
            on_drawn(box)

        shapes.mouse_drag_callbacks.append(on_mouse_released)

    def remove_box(self) -> None:
        """Remove the layer that boxes are drawn on."""
        for layer in list(self.viewer.layers):
            if layer.metadata.get(TAG, {}).get("role") == "box":
                self.viewer.layers.remove(layer)
        self.activate_corrections()


_STAGES: WeakKeyDictionary[Any, Stage] = WeakKeyDictionary()


def stage_of(viewer: Any) -> Stage:
    """The stage of a viewer, made when it is first asked for."""
    real = getattr(viewer, "__wrapped__", viewer)
    if real not in _STAGES:
        _STAGES[real] = Stage(real)
    return _STAGES[real]
