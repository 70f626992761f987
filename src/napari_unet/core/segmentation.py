"""Segment an image: the network tile by tile, then classes and single objects."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_unet.core.errors import ImageError
from napari_unet.core.image import Image, make_image
from napari_unet.core.instances import class_probabilities, classes_of, objects_of
from napari_unet.core.model import Description, Model, load_model
from napari_unet.core.normalization import IntensityScale, scale_of, summary_of
from napari_unet.core.prediction import Region, predict
from napari_unet.core.progress import Work, finish
from napari_unet.core.settings import SegmentSettings

__all__ = [
    "Result",
    "SegmentProgress",
    "SegmentSettings",
    "allocate_outputs",
    "finding_objects",
    "intensity_scale",
    "segment",
    "segmenting",
]

IN_MEMORY_LIMIT = 2**30
"""Probabilities of more bytes than this are kept in a temporary file on disk."""

BAND_SIZE = 2**20
"""Finished labels are handed out in bands of about this many px."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentProgress:
    """A tile or a plane is ready: `labels` belong at `result[region.index][region.window]`."""

    done: int
    total: int
    message: str
    region: Region
    labels: npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """A segmented image; all arrays have the axes of the image without its channels.

    Attributes
    ----------
    labels : int32, object ids from 1, 0 for background; the classes if those were asked for.
    classes : uint8, 0 for background.
    outputs : float16 `(output, ...)`, the probabilities of the network's outputs.
    axes : names of the axes of `labels`.
    model, settings : what made it.
    """

    labels: npt.NDArray[np.int32]
    classes: npt.NDArray[np.uint8]
    outputs: npt.NDArray[np.float16]
    axes: str
    model: Model = field(repr=False)
    settings: SegmentSettings

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Probability of each class, `(class, ...)`, in 0 ... 1."""
        return class_probabilities(self.outputs, self.model.description.output_class)


def intensity_scale(image: Image, model: Model) -> IntensityScale:
    """The scale of an image, measured once and used for every tile and every patch of it."""
    return scale_of(summary_of(image.samples()), model.description.normalization)


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
    """Room for the probabilities `(output, ...)`: in memory, or on disk if there are many."""
    shape = (len(model.description.outputs), *image.label_shape)
    if math.prod(shape) * 2 <= IN_MEMORY_LIMIT:
        return np.zeros(shape, np.float16)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float16, "w+", shape=shape)  # the mapping outlives the file


def segmenting(
    image: Image,
    model: Model,
    settings: SegmentSettings | None = None,
    *,
    outputs: npt.NDArray[np.float16] | None = None,
    focus: tuple[float, ...] | None = None,
) -> Work[SegmentProgress, Result]:
    """Segment an image as work that shows each tile as soon as it is ready.

    Parameters
    ----------
    image, model, settings : what to segment, with what, and how.
    outputs : room for the probabilities, from `allocate_outputs`; whoever keeps it has what
        was done when the work is stopped half-way.
    focus : position in the label axes, in px, that the user looks at; tiles near it come first.

    Raises
    ------
    ImageError, DeviceMemoryError
        If the model cannot take the image, or the memory does not suffice.
    """
    settings = settings or SegmentSettings()
    check_image(image, model)
    outputs = allocate_outputs(image, model) if outputs is None else outputs
    tiles = predict(
        model.network, image, intensity_scale(image, model), outputs,
        activation=model.description.activation, tile_size=settings.tile_size, focus=focus,
    )  # fmt: skip
    n_found = 0
    for tile in tiles:
        where: tuple[Any, ...] = (slice(None), *tile.region.index, *tile.region.window)
        part = outputs[where]
        labels = _labels_of(part, model.description, settings)
        labels[labels > 0] += n_found if settings.what == "objects" else 0
        n_found = max(n_found, int(labels.max(initial=0)))
        yield SegmentProgress(
            done=tile.done, total=tile.total, message="Segmenting", region=tile.region,
            labels=labels,
        )  # fmt: skip
    labels = yield from finding_objects(outputs, model.description, settings, image, focus)
    return Result(
        labels=labels,
        classes=_classes(outputs, model.description, settings),
        outputs=outputs,
        axes=image.label_axes,
        model=model,
        settings=settings,
    )


def _labels_of(
    outputs: npt.NDArray[np.float16], description: Description, settings: SegmentSettings
) -> npt.NDArray[np.int32]:
    chosen = settings.objects(description.objects)
    if settings.what == "classes":
        return classes_of(outputs, description.output_class, chosen.threshold).astype(np.int32)
    return objects_of(outputs, description.output_class, chosen, description.inside)


def _classes(
    outputs: npt.NDArray[np.float16], description: Description, settings: SegmentSettings
) -> npt.NDArray[np.uint8]:
    """Classes of the whole image, plane by plane."""
    classes = np.zeros(outputs.shape[1:], np.uint8)
    threshold = settings.objects(description.objects).threshold
    for index in np.ndindex(*classes.shape[:-2]):
        part = outputs[(slice(None), *index)]
        classes[index] = classes_of(part, description.output_class, threshold)
    return classes


def finding_objects(
    outputs: npt.NDArray[np.float16],
    description: Description,
    settings: SegmentSettings,
    image: Image,
    focus: tuple[float, ...] | None = None,
) -> Work[SegmentProgress, npt.NDArray[np.int32]]:
    """Make labels from kept probabilities, without running the network again.

    Works plane by plane (2D models) or volume by volume (3D models), what the user looks at
    first. Object ids are unique in the whole result.
    """
    dims = description.dims
    labels = np.zeros(image.label_shape, np.int32)
    indices = list(_nearest_first(np.ndindex(*image.index_shape(dims)), focus))
    n_found = 0
    for done, index in enumerate(indices, start=1):
        where: tuple[Any, ...] = (slice(None), *index)
        found = _labels_of(outputs[where], description, settings)
        if settings.what == "objects":
            found[found > 0] += n_found
            n_found = max(n_found, int(found.max(initial=0)))
        labels[index] = found
        for window in _bands(found.shape):
            yield SegmentProgress(
                done=done, total=len(indices), message="Finding objects",
                region=Region(index=index, window=window), labels=found[window],
            )  # fmt: skip
    return labels


def _bands(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Bands across the first axis, each small enough to be drawn without a pause."""
    height = max(1, BAND_SIZE // math.prod(shape[1:]))
    for start in range(0, shape[0], height):
        rest = (slice(0, n) for n in shape[1:])
        yield (slice(start, min(start + height, shape[0])), *rest)


def _nearest_first(
    indices: Iterable[tuple[int, ...]], focus: tuple[float, ...] | None
) -> Sequence[tuple[int, ...]]:
    if focus is None:
        return list(indices)
    return sorted(indices, key=lambda i: sum((a - b) ** 2 for a, b in zip(i, focus, strict=False)))


def segment(
    image: Any,
    model: Model | str,
    settings: SegmentSettings | None = None,
    axes: str | None = None,
) -> Result:
    """Segment a numpy, dask or zarr array of any size.

    Parameters
    ----------
    image : the array, or an `Image`.
    model : from `load_model`, or what `load_model` takes.
    settings : None for what the model says.
    axes : a letter for each dimension: "yx", "cyx", "yxc", "zyx", "tyx", "tzcyx", ...; None
        to guess. Slices and time points are segmented one by one by a 2D model.

    Returns
    -------
    Result
        `labels` (objects, int32), `classes` (uint8), `probabilities` (class, ...).

    Raises
    ------
    ImageError, ModelFileError, DeviceMemoryError
        With a sentence that says what to do.
    """
    opened = image if isinstance(image, Image) else make_image(image, axes)
    loaded = model if isinstance(model, Model) else load_model(model)
    return finish(segmenting(opened, loaded, settings))
