"""Segment an image: the network window by window, then classes and single objects."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_unet.core.engine import Plan, Request
from napari_unet.core.errors import ImageError, SettingsError
from napari_unet.core.finding import classes_everywhere, finding
from napari_unet.core.image import Image, make_image
from napari_unet.core.instances import class_probabilities, classes_of, objects_of
from napari_unet.core.model import Description, Model, load_model
from napari_unet.core.normalization import IntensityScale, scale_of, summary_of
from napari_unet.core.prediction import member_for, predict
from napari_unet.core.progress import Work, finish
from napari_unet.core.regions import Region, check_places, whole_planes
from napari_unet.core.resampling import Resampling, resampling_for
from napari_unet.core.rooms import ArrayRoom, Room
from napari_unet.core.running import Member
from napari_unet.core.settings import SegmentSettings
from napari_unet.core.store import ResultStore

__all__ = [
    "Result",
    "SegmentProgress",
    "SegmentSettings",
    "allocate_outputs",
    "check_image",
    "finding_objects",
    "intensity_scale",
    "plan_for",
    "seen_at_full_size",
    "segment",
    "segmenting",
]

IN_MEMORY_LIMIT = 2**30
"""Probabilities of more bytes than this are kept in a temporary file on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentProgress:
    """A part is ready: `labels` belong at `result[region.index][region.window]`.

    Attributes
    ----------
    done, total : px that are ready, and px altogether.
    message : what is going on; it says so if memory ran out and what was done about it.
    region, labels : which part, and its labels, of whole numbers.
    plan : how the network is run.
    waited : seconds spent waiting for the image and for the disk so far.
    """

    done: int
    total: int
    message: str
    region: Region
    labels: npt.NDArray[np.integer]
    plan: Plan | None = None
    waited: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """A segmented image; all arrays have the axes of the image without its channels.

    Attributes
    ----------
    labels : object ids from 1, 0 for background, in the smallest type that holds them; the
        classes if those were asked for. A zarr array if the result went to a store.
    outputs : float16 `(output, ...)`, the probabilities of the network's outputs; an array or
        something that is read like one.
    axes : names of the axes of `labels`.
    model, settings : what made it; the first model of several.
    plan : how the network was run.
    """

    labels: Any
    outputs: Any
    axes: str
    model: Model = field(repr=False)
    settings: SegmentSettings
    plan: Plan | None = None

    @cached_property
    def classes(self) -> npt.NDArray[np.uint8]:
        """Class of each pixel, uint8, 0 for background."""
        return classes_everywhere(self.outputs, self.model.description, self.settings)

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Probability of each class, `(class, ...)`, in 0 ... 1."""
        outputs = np.asarray(self.outputs[...])
        return class_probabilities(outputs, self.model.description.output_class)


def intensity_scale(image: Image, model: Model) -> IntensityScale:
    """The scale of an image, measured once and used for every tile and every patch of it."""
    about = model.description
    return scale_of(summary_of(image.samples()), about.normalization, about.in_channels)


def check_image(image: Image, model: Model) -> None:
    """Raise `ImageError` if the model cannot take the image."""
    wanted = model.description.in_channels
    if image.n_channels not in (1, wanted):
        raise ImageError(
            f"{image.name!r} has {image.n_channels} channels, but the model "
            f"{model.description.name!r} takes {wanted} ({model.description.channels}). "
            f"Choose one of the channels, or a model made for {image.n_channels}."
        )
    if model.description.dims == 3 and "z" not in image.axes:
        raise ImageError(
            f"The model {model.description.name!r} works on volumes, but {image.name!r} has no "
            f"z axis (its axes are {image.axes!r}). Open a stack, or choose a 2D model."
        )


def allocate_outputs(image: Image, model: Model) -> npt.NDArray[np.float16]:
    """Room for the probabilities `(output, ...)`: in memory, or on disk if there are many.

    If the model works at another pixel size, the room has the size of the image as the model
    sees it; see `seen_at_full_size`.
    """
    resampling = _resampling(image, model)
    shown = image if resampling is None else resampling.image
    shape = (len(model.description.outputs), *shown.label_shape)
    if math.prod(shape) * 2 <= IN_MEMORY_LIMIT:
        return np.zeros(shape, np.float16)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float16, "w+", shape=shape)  # the mapping outlives the file


def seen_at_full_size(outputs: Any, image: Image, model: Model) -> Any:
    """Probabilities from `allocate_outputs` as `(output, *image.label_shape)`."""
    resampling = _resampling(image, model)
    return outputs if resampling is None else resampling.view(outputs)


def _resampling(image: Image, model: Model) -> Resampling | None:
    return resampling_for(image, model.description.dims, model.description.pixel_size)


def segmenting(
    image: Image,
    models: Model | Sequence[Model],
    settings: SegmentSettings | None = None,
    *,
    outputs: Any = None,
    focus: tuple[float, ...] | None = None,
    regions: Sequence[Region] | None = None,
    store: ResultStore | None = None,
) -> Work[SegmentProgress, Result]:
    """Segment an image as work that shows each part as soon as it is ready.

    Parameters
    ----------
    image, settings : what to segment, and how.
    models : what to segment it with; the probabilities of several models are averaged.
    outputs : room for the probabilities, from `allocate_outputs`; whoever keeps it has what
        was done when the work is stopped half-way.
    focus : position in the label axes, in px, that the user looks at; what is near comes first.
    regions : what to segment; None for everything. The rest of the result stays 0.
    store : where probabilities and labels go instead of into memory, from `store_for`; what is
        finished there is not done again.

    Raises
    ------
    ImageError, DeviceMemoryError, ProjectError
        If the model cannot take the image, or memory or disk do not suffice.
    SettingsError
        If the models do not have the same outputs.
    """
    settings = settings or SegmentSettings()
    ensemble = _ensemble(models)
    model = ensemble[0]
    for one in ensemble:
        check_image(image, one)
    check_places(image, model.description.dims, focus, regions)
    resampling = _resampling(image, model)
    shown = image if resampling is None else resampling.image
    room: Room
    if store is not None and resampling is None and store.outputs is not None:
        outputs, room = store.outputs, _StoreRoom(store, model.description, settings)
    else:
        outputs = allocate_outputs(image, model) if outputs is None else outputs
        room = ArrayRoom(outputs)
    seen = outputs if resampling is None else resampling.view(outputs)
    members = _members(ensemble, image, shown, settings, _small(focus, resampling))
    yield from _predicting(
        members, image, shown, room, resampling, model.description, settings, focus, regions
    )
    labels = yield from finding(
        seen, model.description, settings, image, focus, regions=regions, store=store
    )
    return Result(
        labels=labels, outputs=seen, axes=image.label_axes, model=model, settings=settings,
        plan=members[0].plan,
    )  # fmt: skip


def plan_for(
    image: Any, models: Model | Sequence[Model], settings: SegmentSettings | None = None
) -> Plan:
    """How an image would be segmented, and why; print it to read it.

    Parameters
    ----------
    image : the array, or an `Image`.
    models, settings : as in `segmenting`; of several models the first one counts.

    Raises
    ------
    ImageError, UNetLiveError
        If the model cannot take the image, or cannot be used at all.
    """
    image = image if isinstance(image, Image) else make_image(image)
    ensemble = _ensemble(models)
    resampling = _resampling(image, ensemble[0])
    shown = image if resampling is None else resampling.image
    check_image(image, ensemble[0])
    return _members(ensemble[:1], image, shown, settings or SegmentSettings(), None)[0].plan


@dataclass(frozen=True, slots=True, eq=False)
class _StoreRoom:
    """A store: what is written is marked as finished, and shown there until objects are found."""

    store: ResultStore
    description: Description
    settings: SegmentSettings

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float16)

    def chunk(self, axis: int) -> int:
        return int(self.store.chunk[axis])

    def write(self, region: Region, found: npt.NDArray[np.floating[Any]]) -> None:
        self.store.write_outputs(region.index, region.window, found)
        if not self.store.labels_done(region.index):
            shown = _preview(found, self.description, self.settings, is_quick=True)
            self.store.write_labels(region.index, region.window, shown)
        self.store.mark(region)


def _ensemble(models: Model | Sequence[Model]) -> tuple[Model, ...]:
    """One or several models that can be averaged."""
    ensemble = (models,) if isinstance(models, Model) else tuple(models)
    if not ensemble:
        raise SettingsError("There is no model to segment with; give at least one.")
    first = ensemble[0].description
    for model in ensemble[1:]:
        other = model.description
        for name in ("dims", "output_class", "class_names", "inside", "border", "pixel_size"):
            if getattr(other, name) != getattr(first, name):
                raise SettingsError(
                    f"The models {first.name!r} and {other.name!r} cannot be averaged: their "
                    f"{name} differ ({getattr(first, name)} and {getattr(other, name)}). "
                    "Choose models of one kind."
                )
    return ensemble


def _small(
    focus: tuple[float, ...] | None, resampling: Resampling | None
) -> tuple[float, ...] | None:
    return focus if focus is None or resampling is None else resampling.small_position(focus)


def _members(
    ensemble: Sequence[Model],
    image: Image,
    shown: Image,
    settings: SegmentSettings,
    focus: tuple[float, ...] | None,
) -> list[Member]:
    """The networks, each with its plan and its scale of intensities."""
    summary = summary_of(image.samples())
    found = []
    for model in ensemble:
        description = model.description
        request = Request(
            network=model.network, dims=description.dims, in_channels=description.in_channels,
            activation=description.outcome, shape=shown.spatial_shape(description.dims),
            precision=settings.precision, views=settings.augmentation,
            tile_size=settings.tile_size,
        )  # fmt: skip
        scale = scale_of(summary, description.normalization, description.in_channels)
        found.append(member_for(request, shown, scale, focus))
    return found


def _predicting(
    members: Sequence[Member],
    image: Image,
    shown: Image,
    room: Room,
    resampling: Resampling | None,
    description: Description,
    settings: SegmentSettings,
    focus: tuple[float, ...] | None,
    regions: Sequence[Region] | None,
) -> Work[SegmentProgress, None]:
    """Run the networks, and show what is found while it is found."""
    wanted = regions if regions is not None else whole_planes(image, description.dims)
    if isinstance(room, _StoreRoom):
        wanted = room.store.remaining(wanted)
    elif resampling is not None:
        wanted = [
            Region(index=region.index, window=resampling.small_window(region.window))
            for region in wanted
        ]
    n_found = 0
    # NOTE: whole objects take longer than the network; without a focus nobody is watching.
    is_quick = focus is None or isinstance(room, _StoreRoom) or resampling is not None
    parts = predict(members, shown, room, focus=_small(focus, resampling), regions=wanted)
    with closing(parts):
        for part in parts:
            region, labels = part.region, _preview(part.found, description, settings, is_quick)
            if resampling is not None:
                region = Region(index=region.index, window=resampling.window(region.window))
                labels = _resized(labels, region.window)
            if not is_quick and settings.what == "objects":
                labels[labels > 0] += n_found
                n_found = max(n_found, int(labels.max(initial=0)))
            yield SegmentProgress(
                done=part.done, total=part.total, message=part.message, region=region,
                labels=labels, plan=members[0].plan, waited=part.waited,
            )  # fmt: skip


def _preview(
    found: npt.NDArray[np.floating[Any]],
    description: Description,
    settings: SegmentSettings,
    is_quick: bool,
) -> npt.NDArray[np.integer]:
    """Labels of a part alone: its objects, or just its classes where that must be quick."""
    chosen = settings.objects(description.objects)
    background = [at for at, one in enumerate(description.output_class) if one == 0]
    if is_quick and len(description.class_names) == 2 and len(background) == 1:
        is_found = found[background[0]] < np.float32(1 - chosen.threshold)
        return np.asarray(is_found, np.uint8)
    if settings.what == "classes" or is_quick:
        return classes_of(found, description.output_class, chosen.threshold)
    return objects_of(found, description.output_class, chosen, description.separator)


def _resized(labels: npt.NDArray[np.integer], window: tuple[slice, ...]) -> npt.NDArray[np.integer]:
    """Labels stretched to a window by taking the nearest px."""
    for axis, part in enumerate(window):
        n, size = part.stop - part.start, labels.shape[axis]
        at = np.minimum((np.arange(n) * size) // max(n, 1), max(size - 1, 0))
        labels = np.take(labels, at, axis=axis)
    return labels


def finding_objects(
    outputs: Any,
    description: Description,
    settings: SegmentSettings,
    image: Image,
    focus: tuple[float, ...] | None = None,
    regions: Iterable[Region] | None = None,
    store: ResultStore | None = None,
) -> Work[SegmentProgress, Any]:
    """Make labels from kept probabilities, without running the network again.

    Parameters
    ----------
    outputs : `(output, *image.label_shape)`, or as `allocate_outputs` gave it.
    description, settings, image : what they are, and how to make labels.
    focus : what the user looks at comes first.
    regions : where to look; None for everywhere.
    store : where the labels go instead of into memory.

    Returns
    -------
    array of the image's label shape
        Object ids, unique in the whole result, in the smallest type that holds them.
    """
    if tuple(outputs.shape[1:]) != image.label_shape:
        resampling = resampling_for(image, description.dims, description.pixel_size)
        assert resampling is not None
        outputs = resampling.view(outputs)
    wanted = None if regions is None else list(regions)
    check_places(image, description.dims, focus, wanted)
    return (
        yield from finding(
            outputs, description, settings, image, focus, regions=wanted, store=store
        )
    )


def segment(
    image: Any,
    model: Model | str | Path | Sequence[Model | str | Path],
    settings: SegmentSettings | None = None,
    axes: str | None = None,
    *,
    pixel_size: dict[str, float] | None = None,
    store: ResultStore | None = None,
) -> Result:
    """Segment a numpy, dask or zarr array of any size.

    Parameters
    ----------
    image : the array, or an `Image`.
    model : from `load_model`, or what `load_model` takes; of several the mean is taken.
    settings : None for what the model says.
    axes : a letter for each dimension: "yx", "cyx", "yxc", "zyx", "tyx", "tzcyx", ...; None
        to guess. Slices and time points are segmented one by one by a 2D model.
    pixel_size : size of a px in µm by axis; a model that knows its own gets the image at that.
    store : from `store_for`, for results larger than memory and runs that can be continued.

    Returns
    -------
    Result
        `labels` (objects), `classes` (uint8), `probabilities` (class, ...).

    Raises
    ------
    ImageError, ModelFileError, DeviceMemoryError
        With a sentence that says what to do.
    """
    opened = image if isinstance(image, Image) else make_image(image, axes, pixel_size=pixel_size)
    given = [model] if isinstance(model, Model | str | Path) else list(model)
    loaded = [one if isinstance(one, Model) else load_model(one) for one in given]
    return finish(segmenting(opened, loaded, settings, store=store))
