"""What is on stage in one viewer: the chosen image, its result and its corrections."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Shapes

from napari_unet.core.corrections import Box
from napari_unet.core.errors import ImageError
from napari_unet.core.image import Image
from napari_unet.layers.painting import CorrectionsLayer, draw_box, remove_boxes
from napari_unet.layers.reading import (
    axes_of,
    focus_of,
    image_layers,
    image_of,
    label_layers,
    level_for,
)
from napari_unet.layers.regions import Area, areas_of_shapes, slice_area, view_area
from napari_unet.layers.results import TAG, ResultLayer

__all__ = ["Stage", "Where", "stage_of"]

Where = Literal["everywhere", "view", "slice", "shapes"]


class Stage:
    """The layers of one viewer that the docks work on together; it holds the viewer weakly.

    Attributes
    ----------
    source : the chosen image layer.
    chosen_axes : a letter for each of its axes, as the user says; "" to read them off the layer.
    result : where the last segmentation is shown.
    trial : where the segmentation of a model on trial is shown.
    shown_probabilities : the array whose map is shown, if one is.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self.source: ImageLayer | None = None
        self.chosen_axes = ""
        self.result: ResultLayer | None = None
        self.trial: ResultLayer | None = None
        self.shown_probabilities: Any = None
        self.on_layers_changed: Callable[[], object] | None = None
        self._corrections: dict[str, CorrectionsLayer] = {}
        self._images: tuple[Any, str, dict[int, Image], str] | None = None
        self._others: dict[ImageLayer, tuple[Any, Image]] = {}
        self._waiting: dict[ImageLayer, tuple[ResultLayer | None, ResultLayer | None]] = {}
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

    def choose(self, source: ImageLayer | None, axes: str = "") -> None:
        """Work on another image layer from now on, whose axes are `axes` if they are given."""
        self.source, self.chosen_axes = source, axes

    def choose_any(self) -> None:
        """Keep the chosen layer if it is still there; else take the active or the last one."""
        images = self.images()
        if self.source in images:
            return
        active = self.viewer.layers.selection.active
        self.choose(active if active in images else (images[-1] if images else None))

    @property
    def axes(self) -> str:
        """A letter for each axis of the chosen image, chosen or read off the layer."""
        return "" if self.source is None else axes_of(self.source, self.chosen_axes)

    def image(self) -> Image | None:
        """The chosen image at full size; None without one.

        Raises
        ------
        ImageError
            If it cannot be used.
        """
        return None if self.source is None else self._identified()[0][0]

    def image_for(self, pixel_size: float | None, dims: int) -> Image:
        """The chosen image for a model, from the level whose pixels are the right size for it.

        Parameters
        ----------
        pixel_size : of the images the model was trained on, in µm; None if unknown.
        dims : of the model.
        """
        assert self.source is not None
        images, _ = self._identified()
        level = level_for(self.source, pixel_size, self.chosen_axes, dims)
        if level not in images:
            images[level] = image_of(self.source, self.chosen_axes, level)
        return images[level]

    @property
    def key(self) -> str:
        """What tells the chosen image from others, whatever file or layer it comes from.

        Nothing if there is no image, or one that cannot be used.
        """
        try:
            return "" if self.source is None else self._identified()[1]
        except ImageError:
            return ""

    def _identified(self) -> tuple[dict[int, Image], str]:
        """The chosen image by its level, and its key."""
        assert self.source is not None
        data, axes = self.source.data, self.chosen_axes
        if self._images is None or self._images[0] is not data or self._images[1] != axes:
            image = image_of(self.source, axes)
            self._images = (data, axes, {0: image}, image.fingerprint())
        return self._images[2], self._images[3]

    def others(self) -> dict[ImageLayer, Image]:
        """The other images that the model may be corrected on, by their layers.

        Those are of the kind of the chosen one: as many channels, and pixels of the same type. What
        is added to others in the view is a channel of theirs.
        """
        mine = self.image()
        known, self._others = self._others, {}
        for layer in self.images():
            if layer is self.source or layer.blending == "additive":
                continue
            data, image = known.get(layer, (None, None))
            if image is None or data is not layer.data:
                try:
                    image = image_of(layer)
                except ImageError:
                    continue
            if mine is not None and _kind(image) == _kind(mine):
                self._others[layer] = (layer.data, image)
        return {layer: image for layer, (_, image) in self._others.items()}

    def _on_layers_changed(self) -> None:
        self.choose_any()
        if self.on_layers_changed is not None:
            self.on_layers_changed()

    def focus(self, image: Image) -> tuple[float, ...]:
        """Where in the chosen image, at the size of `image`, the user looks."""
        assert self.source is not None
        return focus_of(self.viewer, self.source, image)

    def seen(self, image: Image) -> Area | None:
        """What of the chosen image, at the size of `image`, is in view; None if nothing is."""
        assert self.source is not None
        try:
            return view_area(self.viewer, self.source, image)
        except ImageError:
            return None

    # ---- where

    @property
    def n_slices(self) -> int:
        """Number of planes `(y, x)` of the chosen image; 0 without one that can be used."""
        try:
            image = self.image()
        except ImageError:
            return 0
        return 0 if image is None else math.prod(image.label_shape[:-2])

    def shapes(self) -> list[Shapes]:
        """Layers of shapes that can say where to work."""
        return [
            layer
            for layer in self.viewer.layers
            if isinstance(layer, Shapes) and TAG not in layer.metadata
        ]

    def areas(self, image: Image, where: Where, shapes: Shapes | None = None) -> tuple[Area, ...]:
        """The parts to work on of the chosen image, at the size of `image`; none for all of it.

        Raises
        ------
        ImageError
            If there is nothing of the image in them.
        """
        assert self.source is not None
        if where == "view":
            return (view_area(self.viewer, self.source, image),)
        if where == "slice":
            return (slice_area(self.viewer, self.source, image),)
        if where == "shapes" and shapes is not None:
            return tuple(areas_of_shapes(shapes, self.source, image))
        return ()

    # ---- results

    def target(self, image: Image, on_trial: bool = False, place: str = "") -> ResultLayer:
        """A layer for a segmentation of the chosen image; the last one if that is free.

        Parameters
        ----------
        image : the chosen image, or one of its levels.
        on_trial : for the model on trial, beside the result of the one before.
        place : the folder that the labels will be in, if the image is too big for the memory.
        """
        assert self.source is not None
        old = self.trial if on_trial else self.result
        if old is not None and old.fits(self.source, image, place):
            return old
        what = "segmentation after" if on_trial else "segmentation"
        active = self.viewer.layers.selection.active
        name = f"{self.source.name} {what}"
        new = ResultLayer(self.viewer, self.source, image, name, place)
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
        waiting, self._waiting = self._waiting, {}
        for result, trial in waiting.values():
            settled = self._settled(result, trial, keep)
            if settled is not None and settled.is_shown:
                settled.layer.visible = False  # as all of an image that is not on stage
        trial, self.trial = self.trial, None
        self.result = self._settled(self.result, trial, keep)
        if trial is not None and self.result is not None and self.result.is_shown:
            self.result.layer.visible = True

    def _settled(
        self, result: ResultLayer | None, trial: ResultLayer | None, keep: bool
    ) -> ResultLayer | None:
        """What is left of a result and that of a trial."""
        if trial is None or not trial.is_shown:
            return result
        if keep and result is not None and result.is_usable:
            result.take_over(trial)
        elif keep:
            trial.layer.name = trial.layer.name.replace(" segmentation after", " segmentation")
            trial.layer.visible = True
            return trial
        self.viewer.layers.remove(trial.layer)
        return result

    def change_scene(self) -> None:
        """Another image was chosen while a model is on trial: what is shown of it comes back, and
        what is shown of the one before waits, hidden."""
        shown = self.trial or self.result
        if shown is None or shown.source is self.source or self.source is None:
            return
        self._uncover(self.source)
        self._waiting[shown.source] = (self.result, self.trial)
        self.result, self.trial = self._waiting.pop(self.source, (None, None))
        for found in self._corrections.values():
            if found.layer in self.viewer.layers and found.source in (shown.source, self.source):
                found.layer.visible = found.source is self.source
        for one in self._waiting[shown.source]:
            if one is not None and one.is_shown:
                one.layer.visible = False

    def _uncover(self, source: ImageLayer) -> None:
        """Make sure that an image can be seen: those that lie above it are hidden."""
        layers = self.viewer.layers
        source.visible = True
        for layer in self.images():
            is_above = layers.index(layer) > layers.index(source) and layer.blending != "additive"
            if is_above and _overlap(layer.extent.world, source.extent.world):
                layer.visible = False

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
        active = self.viewer.layers.selection.active
        result.add_map(self.viewer, foreground)
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
            and layer.ndim == len(image.label_shape)
            and image.to_label_order(layer.data).shape == image.label_shape
        ]

    def drawn_masks(self) -> list[Labels]:
        """Labels layers that may hold the masks of an image: all but corrections."""
        painted = [found.layer for found in self._corrections.values()]
        return [
            layer
            for layer in label_layers(self.viewer)
            if not layer.multiscale and layer not in painted
        ]

    def with_masks(
        self, source: ImageLayer, masks: Labels
    ) -> tuple[Image, npt.NDArray[np.generic]]:
        """An image layer and a labels layer as an image and a copy of its labels.

        Raises
        ------
        ImageError
            If they are not of one size.
        """
        image = image_of(source, self.chosen_axes if source is self.source else "")
        labels = image.to_label_order(masks.data) if masks.ndim == len(image.label_shape) else None
        if labels is None or labels.shape != image.label_shape:
            sizes = [" × ".join(map(str, shape)) for shape in (masks.data.shape, image.label_shape)]
            raise ImageError(
                f"The masks {masks.name!r} are {sizes[0]} px, but the image {source.name!r} is "
                f"{sizes[1]} px. Choose masks of the same size."
            )
        return image, np.array(labels)

    def draw_box(self, on_drawn: Callable[[Box | None], object]) -> None:
        """Let the user draw one rectangle; `on_drawn` gets it in px of the corrections."""
        remove_boxes(self.viewer)
        corrections = self.corrections()
        assert corrections is not None
        draw_box(self.viewer, corrections, on_drawn)

    def remove_box(self) -> None:
        """Remove the layer that boxes are drawn on."""
        remove_boxes(self.viewer)
        self.activate_corrections()


def _kind(image: Image) -> tuple[int, np.dtype[Any]]:
    return image.n_channels, np.dtype(image.array.dtype)


def _overlap(one: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> bool:
    """Whether two extents `(2, axis)`, low and high ends, have something in common in the plane."""
    first, second = one[:, -2:], other[:, -2:]
    return bool((np.maximum(first[0], second[0]) < np.minimum(first[1], second[1])).all())


_STAGES: WeakKeyDictionary[Any, Stage] = WeakKeyDictionary()


def stage_of(viewer: Any) -> Stage:
    """The stage of a viewer, made when it is first asked for."""
    real = getattr(viewer, "__wrapped__", viewer)
    if real not in _STAGES:
        _STAGES[real] = Stage(real)
    return _STAGES[real]
