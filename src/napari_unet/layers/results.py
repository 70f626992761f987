"""The labels layer that a segmentation fills, region by region."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Labels

from napari_unet.core.image import Image
from napari_unet.layers.drawing import hull, redraw
from napari_unet.layers.reading import placement
from napari_unet.layers.regions import Area, Box, common_box, relative_box

if TYPE_CHECKING:
    from napari_unet.core.regions import Region
    from napari_unet.core.segmentation import SegmentProgress

__all__ = ["TAG", "ResultLayer"]

TAG = "napari-unet-live"
SMALLEST = {"classes": np.uint8, "objects": np.uint16}
"""What a layer starts with: napari draws both many times faster than 32 bits."""
COARSEST_SIZE = 1024
"""Edge of the coarsest level of a layer on disk before there are files, in px."""


class ResultLayer:
    """A labels layer of the image's shape that regions are written into.

    A layer that a person has painted in, or that is gone, is never written to again: the next
    segmentation gets a layer of its own.

    Parameters
    ----------
    viewer, source, image : where to add it, the layer and the image that it belongs to.
    name : of the layer.
    place : the folder that the labels will be in, for an image too big for the memory; they
        come with `show_levels`. Empty for an array of the layer's own.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        source: ImageLayer,
        image: Image,
        name: str,
        place: str = "",
    ) -> None:
        self._viewer = weakref.ref(getattr(viewer, "__wrapped__", viewer))
        self._is_edited = False
        self._waiting: list[Box] = []
        self._areas: tuple[Area, ...] = ()
        self._n_before = 0
        self._what = ""
        self._overview: tuple[Any, npt.NDArray[Any]] | None = None
        self.source = source
        self.image = image
        self._place = place
        self.layer: Labels = viewer.add_labels(
            _nothing_yet(image) if place else _empty(image),
            multiscale=bool(place),
            cache=not place,
            name=name,
            metadata={TAG: {"role": "segmentation", "image": image.name}},
            **placement(source, image),
        )
        self.layer.events.paint.connect(self._on_layer_paint)

    @property
    def is_on_disk(self) -> bool:
        """Whether somebody else fills the arrays of the layer."""
        return bool(self._place)

    @property
    def labels(self) -> Any:
        """A view of the labels at full size, in the label axes of the image."""
        full = self.layer.data[0] if self.layer.multiscale else self.layer.data
        return self.image.to_label_order(full)

    @property
    def is_usable(self) -> bool:
        """Whether the layer is still there and nobody has painted in it."""
        return not self._is_edited and self.is_shown

    @property
    def is_shown(self) -> bool:
        """Whether the layer is still in its viewer."""
        viewer = self._viewer()
        return viewer is not None and self.layer in viewer.layers

    def fits(self, source: ImageLayer, image: Image, place: str = "") -> bool:
        """Whether a segmentation of `image`, kept at `place`, can go into this layer."""
        return (
            self.is_usable
            and self.source is source
            and self.image.axes == image.axes
            and tuple(self.labels.shape) == image.label_shape
            and self._place == place
        )

    def describe(self, **details: Any) -> None:
        """Note in the layer's metadata what made it."""
        self.layer.metadata[TAG] = {**self.layer.metadata.get(TAG, {}), **details}

    # ---- a segmentation

    def begin(self, what: str, areas: Sequence[Area] = ()) -> None:
        """Get ready for labels; what was there stays until they come.

        Parameters
        ----------
        what : "classes" or "objects".
        areas : only these parts will be written; objects in them get numbers that nothing
            outside of them has. Empty for everything.
        """
        self._areas, self._n_before = tuple(areas), 0
        if self.is_usable and self.is_on_disk and self._what not in ("", what):
            # NOTE: the files of labels are about to be made anew, of another type.
            self.layer.data = _nothing_yet(self.image)
        self._what = what
        if not self.is_usable or self.is_on_disk:
            return
        self._make_room(SMALLEST[what])
        if areas and what == "objects":
            self._n_before = _highest_outside(self.labels, areas)

    def show_levels(self, levels: Sequence[Any]) -> None:
        """Show arrays of labels, from full size to coarse, which somebody else fills."""
        if not self.is_usable:
            return
        shown = list(levels)
        self._overview = None
        if levels[-1].ndim == 2:
            # NOTE: napari reads the coarsest level of a plane once, and never again.
            shown[-1] = np.array(levels[-1])
            self._overview = (levels[-1], shown[-1])
        self.layer.data = [_turned(self.image, level) for level in shown]

    def _look_again(self, box: Box) -> None:
        """Bring the copy of the coarsest level up to date in a box of px of the finest."""
        if self._overview is not None:
            level, shown = self._overview
            step = 2 ** (len(self.layer.data) - 1)
            part = tuple(slice(side.start // step, -(-side.stop // step)) for side in box)
            shown[part] = level[part]

    def write(self, shown: SegmentProgress) -> None:
        """Put `shown.labels` at `shown.region`; `redraw` shows it."""
        if not self.is_usable:
            return
        region = _box_of(shown.region)
        self._waiting.append(region)
        if self.is_on_disk:
            return
        labels = shown.labels[(np.newaxis,) * len(shown.region.index)]  # (1, ..., y, x)
        if self._n_before:
            numbered = labels.astype(np.uint32) + self._n_before
            labels = np.where(labels > 0, numbered, 0)
        self._make_room(np.min_scalar_type(int(labels.max(initial=0))))
        if not self._areas:
            self.labels[region] = labels
        for area in self._areas:
            part = common_box(region, area.box)
            if part is not None:
                self._write_inside(area, part, labels[relative_box(part, region)])

    def _write_inside(self, area: Area, part: Box, labels: npt.NDArray[Any]) -> None:
        where: Any = True
        if area.inside is not None:
            where = area.inside[relative_box(part, area.box)[-2:]]  # (y, x)
        np.copyto(self.labels[part], labels, where=where, casting="unsafe")

    def redraw(self) -> None:
        """Show what was written since the last time; only that part is drawn anew."""
        waiting, self._waiting = self._waiting, []
        viewer = self._viewer()
        if viewer is None or not waiting or not self.is_usable:
            return
        self._look_again(hull(waiting))
        order = self.image.label_order  # of the axes of the layer
        redraw(self.layer, viewer, [tuple(box[axis] for axis in order) for box in waiting])

    def finished(self) -> None:
        """Redraw all, thumbnail too, and forget the history: undo would bring stale pixels."""
        self._waiting.clear()
        if not self.is_usable:
            return
        if not self.is_on_disk:
            mode = self.layer.mode
            self.layer.editable = False
            self.layer.editable = True
            self.layer.mode = mode
        self._look_again(tuple(slice(0, n) for n in self.image.label_shape))
        self.layer.refresh()

    def take_over(self, other: ResultLayer) -> None:
        """Show what another layer of the same image holds."""
        if self.is_on_disk or other.is_on_disk:
            self.layer.data = other.layer.data
            self._place, self._overview = other._place, other._overview
        else:
            self._make_room(other.layer.data.dtype)
            self.labels[...] = other.labels
        self.layer.metadata[TAG] = dict(other.layer.metadata.get(TAG, {}))
        self.finished()

    def add_map(self, viewer: ViewerModel, foreground: Any) -> None:
        """Add the map of probabilities `(...)`, in the label axes, beneath this layer."""
        added = viewer.add_image(
            self.image.to_layer_order(foreground),
            name=f"{self.source.name} probability",
            colormap="magma",
            contrast_limits=(0, 1),
            blending="additive",
            opacity=0.7,
            metadata={TAG: {"role": "probabilities"}},
            **placement(self.source, self.image),
        )
        if self.is_shown:
            viewer.layers.move(viewer.layers.index(added), viewer.layers.index(self.layer))

    def _make_room(self, dtype: npt.DTypeLike) -> None:
        """Change to a type that holds all of `dtype`, if the present one does not."""
        present = self.layer.data.dtype
        wider = np.promote_types(present, dtype)
        if wider != present:
            self.layer.data = self.layer.data.astype(wider)

    def _on_layer_paint(self) -> None:
        self._is_edited = True


def _empty(image: Image) -> npt.NDArray[np.uint8]:
    """No labels, in the order of the image's own axes."""
    empty: npt.NDArray[np.uint8] = image.to_layer_order(np.zeros(image.label_shape, np.uint8))
    return empty


def _turned(image: Image, level: Any) -> Any:
    """A level in the order of the image's own axes; a view of what is on disk."""
    if image.is_ordered or isinstance(level, np.ndarray):
        return image.to_layer_order(level)
    import dask.array as da

    return image.to_layer_order(da.from_array(level, chunks=level.chunks))


def _nothing_yet(image: Image) -> list[Any]:
    """Zeros that take no memory, from full size to coarse."""
    levels: list[npt.NDArray[np.uint8]] = []
    *leading, height, width = image.label_shape
    while not levels or max(levels[-1].shape[-2:]) > COARSEST_SIZE:
        step = 2 ** len(levels)
        shape = (*leading, -(-height // step), -(-width // step))
        levels.append(np.broadcast_to(np.uint8(0), shape))
    return [image.to_layer_order(level) for level in levels]


def _box_of(region: Region) -> Box:
    """A region as a slice for each label axis."""
    return (*(slice(i, i + 1) for i in region.index), *region.window)


def _highest_outside(labels: npt.NDArray[Any], areas: Sequence[Area]) -> int:
    """The highest label that is in none of `areas`; leaves the labels as they are."""
    before = [(labels[area.box], labels[area.box].copy()) for area in areas]
    for area, (part, _) in zip(areas, before, strict=True):
        np.copyto(part, 0, where=True if area.inside is None else area.inside)
    highest = int(labels.max(initial=0))
    for part, kept in before:
        part[...] = kept
    return highest
