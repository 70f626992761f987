"""Segmenting as the works of a session's jobs: the network, objects again, and the map.

Plain generators that know no window. What they make goes into a `Prediction`, so that a work
that is stopped half-way leaves what it has done.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_unet.core.progress import Progress, Work, passed_on
from napari_unet.core.settings import SegmentSettings

if TYPE_CHECKING:
    from napari_unet.core.image import Image
    from napari_unet.core.model import Model
    from napari_unet.core.regions import Region
    from napari_unet.core.segmentation import SegmentProgress
    from napari_unet.core.store import ResultStore

__all__ = [
    "OF_NETWORK",
    "Adjustment",
    "Part",
    "Prediction",
    "Request",
    "StoreOpened",
    "Target",
    "adjusting",
    "mapping",
    "segmenting",
]

OF_NETWORK = ("precision", "augmentation")
"""Settings that change what the network says."""
MAP_BAND = 2**22
"""The map of probabilities is made in bands of about this many px."""


class Part(Protocol):
    """A part of an image to work on, such as what is in view."""

    @property
    def box(self) -> tuple[slice, ...]:
        """A slice for each of the label axes, in px."""


class Target(Protocol):
    """Where a segmentation is shown while it is made."""

    def begin(self, what: str, areas: Sequence[Any] = ()) -> None:
        """Get ready for "objects" or "classes" in `areas` only; empty for everywhere."""

    def show_levels(self, levels: Sequence[Any]) -> None:
        """Show these arrays, from full size to coarse, which somebody else fills."""

    def write(self, progress: SegmentProgress) -> None:
        """Take one finished region."""

    def redraw(self) -> None:
        """Show what was taken."""

    def finished(self) -> None:
        """All regions are there."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """What to segment, how, where, and into what.

    Attributes
    ----------
    image, settings : what to segment, and how.
    target : where it is shown.
    focus : position in the label axes, in px, that the user looks at.
    areas : only these parts; empty for everything.
    others : files of further models; the answers of all are averaged.
    folder : where the result of an image too big for the memory is kept; None for others.
    """

    image: Image
    settings: SegmentSettings
    target: Target
    focus: tuple[float, ...] | None = None
    areas: tuple[Part, ...] = ()
    others: tuple[str, ...] = ()
    folder: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adjustment:
    """Other settings for what the network has said already.

    Attributes
    ----------
    settings : of classes and objects; those of the network do not matter any more.
    focus : position in the label axes, in px, that the user looks at.
    seen : what is in view, which comes first; None if nothing is.
    """

    settings: SegmentSettings
    focus: tuple[float, ...] | None = None
    seen: Part | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Prediction:
    """The probabilities of a segmentation; `outputs` fills while it runs.

    Attributes
    ----------
    image, target : what was segmented, and where it is shown.
    models, others : with what; the first of `models` is the session's, `others` are files.
    run_with, settings : the settings of the network, and how labels are made now.
    areas : parts that there are probabilities of; empty for everywhere.
    store : where it is kept, if it is too big for the memory.
    outputs : `(output, ...)`, the probabilities; None before there are any.
    n_found, n_labelled, n_looked_at : the highest label, labelled px, and px altogether.
    """

    image: Image
    target: Target
    models: tuple[Model, ...]
    others: tuple[str, ...] = ()
    run_with: SegmentSettings
    settings: SegmentSettings
    areas: tuple[Part, ...] = ()
    store: ResultStore | None = None
    outputs: Any = field(default=None, repr=False)
    n_found: int = 0
    n_labelled: int = 0
    n_looked_at: int = 0

    def count(self, labels: npt.NDArray[np.integer]) -> None:
        """Count what is in a part of the result."""
        self.n_found = max(self.n_found, int(labels.max(initial=0)))
        self.n_labelled += int(np.count_nonzero(labels))
        self.n_looked_at += labels.size

    def count_anew(self) -> None:
        """Forget what was counted."""
        self.n_found = self.n_labelled = self.n_looked_at = 0

    @property
    def model(self) -> Model:
        """The first, or only, model."""
        return self.models[0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoreOpened:
    """The arrays of labels that will be filled, and what share of the work is done already."""

    levels: Sequence[Any]
    share: float = 0.0
    message: str = "Opening the result"
    done: int = 0
    total: int = 0


# ---- segment


def segmenting(request: Request, prediction: Prediction, device: str) -> Work[Any, Any]:
    """Open what is needed, then segment.

    Parameters
    ----------
    request, prediction : what to do, and where it goes.
    device : for further models.

    Returns
    -------
    Result
        Of `napari_unet.core.segmentation`.
    """
    from napari_unet.core import segmentation
    from napari_unet.core.model import load_model

    for source in request.others:
        yield Progress(done=0, total=0, message="Opening the other models")
        prediction.models += (load_model(source, device),)
    if request.folder is not None:
        yield _open_store(request, prediction, request.folder)
    elif prediction.outputs is None:
        prediction.outputs = segmentation.allocate_outputs(request.image, prediction.model)
    work = segmentation.segmenting(
        request.image, prediction.models, request.settings,
        outputs=prediction.outputs if prediction.store is None else None,
        focus=request.focus, store=prediction.store,
        regions=_regions(request.areas, prediction.model.description.dims),
    )  # fmt: skip
    result = yield from _counted(work, prediction)
    if prediction.outputs is None:
        prediction.outputs = result.outputs
    return result


def _open_store(request: Request, prediction: Prediction, folder: Path) -> StoreOpened:
    """Open the store of a request, or make it."""
    from napari_unet.core.segmentation import seen_at_full_size
    from napari_unet.core.store import store_for

    store = store_for(folder, request.image, prediction.models, request.settings)
    seen = seen_at_full_size(store.outputs, request.image, prediction.model)
    prediction.store = store
    prediction.outputs = store.outputs if seen is store.outputs else None
    n_done = sum(_n_pixels(region.window) for region in store.finished)
    return StoreOpened(levels=store.levels, share=n_done / math.prod(store.label_shape))


def _counted(work: Work[SegmentProgress, Any], prediction: Prediction) -> Work[Any, Any]:
    """Count what is found; a store that gets no probabilities is shown what the network says."""
    plan = None

    def counted(progress: SegmentProgress) -> SegmentProgress:
        nonlocal plan
        if progress.plan is not plan:  # from the network to objects: they are counted anew
            plan = progress.plan
            prediction.count_anew()
        prediction.count(progress.labels)
        store, region = prediction.store, progress.region
        if store is not None and plan is not None and prediction.outputs is not store.outputs:
            store.write_labels(region.index, region.window, progress.labels)
        return progress

    return passed_on(work, counted)


def _regions(areas: Sequence[Part], dims: int) -> list[Region] | None:
    """Parts of an image as regions for a network of `dims` dimensions; None for everything."""
    from napari_unet.core.regions import Region

    if not areas:
        return None
    return [
        Region(index=index, window=area.box[-dims:])
        for area in areas
        for index in product(*(range(side.start, side.stop) for side in area.box[:-dims]))
    ]


def _n_pixels(box: Sequence[slice]) -> int:
    return math.prod(side.stop - side.start for side in box)


# ---- adjust


def adjusting(prediction: Prediction, asked: Adjustment) -> Work[Any, None]:
    """Labels from the kept probabilities: first in what is seen, then everywhere."""
    from napari_unet.core.segmentation import finding_objects
    from napari_unet.core.store import store_for

    about, before = prediction.model.description, prediction.store
    if before is not None:
        network = {name: getattr(prediction.run_with, name) for name in OF_NETWORK}
        settings = replace(asked.settings, **network)
        store = store_for(before.folder, prediction.image, prediction.models, settings)
        prediction.store = store
        if store.label_dtype != before.label_dtype:  # its arrays are others now
            yield StoreOpened(levels=store.levels)
    steps = [prediction.areas]
    if asked.seen is not None and _is_worth_it(asked.seen, prediction, about.dims):
        steps.insert(0, (asked.seen,))
    for areas in steps:
        prediction.count_anew()
        work = finding_objects(
            prediction.outputs, about, asked.settings, prediction.image, asked.focus,
            _regions(areas, about.dims), prediction.store,
        )  # fmt: skip
        yield from _counted(work, prediction)


def _is_worth_it(seen: Part, prediction: Prediction, dims: int) -> bool:
    """Whether what is seen is so little of a plane or volume that it is there much sooner."""
    n_seen = _n_pixels(seen.box[-dims:])
    n_all = math.prod(prediction.image.spatial_shape(dims))
    return not prediction.areas and _n_pixels(seen.box[:-dims]) == 1 and 2 * n_seen <= n_all


# ---- the map of probabilities


def mapping(prediction: Prediction) -> Generator[Progress, None, Any]:
    """Probability of not being background, in 0 ... 1, in the label axes of the image.

    A numpy array for one plane; a dask array, computed plane by plane, for more.
    """
    from napari_unet.core.segmentation import seen_at_full_size

    yield Progress(done=0, total=0, message="Making the map")
    outputs = prediction.outputs
    if tuple(outputs.shape[1:]) != prediction.image.label_shape:
        outputs = seen_at_full_size(outputs, prediction.image, prediction.model)
    counted = [i for i, c in enumerate(prediction.model.description.output_class) if c > 0]
    if outputs.ndim > 3:
        import dask.array as da

        chunks = (-1, *[1] * (outputs.ndim - 3), -1, -1)
        shown = da.from_array(outputs, chunks=chunks)[counted].astype(np.float32).sum(axis=0)
        return shown.clip(None, 1)
    foreground: npt.NDArray[np.float32] = np.zeros(outputs.shape[1:], np.float32)
    height = max(1, MAP_BAND // outputs.shape[2])
    for start in range(0, len(foreground), height):
        rows = slice(start, start + height)
        for i in counted:
            foreground[rows] += np.asarray(outputs[i : i + 1, rows])[0]
        np.minimum(foreground[rows], 1, out=foreground[rows])
        yield Progress(done=start, total=len(foreground), message="Making the map")
    return foreground
