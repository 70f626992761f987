"""Labels from kept probabilities, plane by plane and band by band, in memory or in a store."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_unet.core.image import Image
from napari_unet.core.instances import classes_of
from napari_unet.core.labelling import labelling
from napari_unet.core.linking import Linker
from napari_unet.core.model import Description
from napari_unet.core.regions import Region, nearest_planes, whole_planes
from napari_unet.core.settings import SegmentSettings
from napari_unet.core.tiling import n_pixels

if TYPE_CHECKING:
    from napari_unet.core.segmentation import SegmentProgress
    from napari_unet.core.store import ResultStore

__all__ = ["classes_everywhere", "finding"]

BAND_SIZE = 2**20
"""Finished labels are handed out in bands of about this many px: drawn without a pause."""
STRIP_HEIGHT = 64
"""Those of volumes in strips along y of this many px, as a store keeps them."""
LABEL_TYPES = (np.uint8, np.uint16, np.uint32)

Window = tuple[slice, ...]


def finding(
    outputs: Any,
    description: Description,
    settings: SegmentSettings,
    image: Image,
    focus: tuple[float, ...] | None,
    *,
    regions: Sequence[Region] | None = None,
    store: ResultStore | None = None,
) -> Generator[SegmentProgress, None, Any]:
    """The work behind `segmentation.finding_objects`."""
    from napari_unet.core.segmentation import SegmentProgress

    dims = description.dims
    found = _InMemory(image.label_shape) if store is None else _InStore(store)
    wanted = _ordered(image, dims, settings, description, focus, regions)
    total = sum(n_pixels(region.window) for region in wanted)
    linkers: dict[tuple[int, ...], Linker] = {}
    done = 0
    n_found = 0 if regions is None else found.highest()
    for region in wanted:
        before = found.done_before(region)
        stack = _stack_of(region, image, settings, description)
        if before is not None:
            n_found, done = max(n_found, before), done + n_pixels(region.window)
            if stack is not None:
                linkers = {stack: Linker(first=n_found, before=found.plane(region))}
            continue
        if stack is not None and stack not in linkers:
            linkers = {stack: Linker(first=n_found)}
        linker = None if stack is None else linkers[stack]
        bands = _labelled(outputs, description, settings, region, n_found, linker)
        for window, labels in bands:
            n_found = max(n_found, int(labels.max(initial=0)))
            part = Region(index=region.index, window=window)
            found.write(part, labels)
            done += n_pixels(window)
            yield SegmentProgress(
                done=done, total=total, message="Finding objects", region=part, labels=labels
            )
        found.finish(region)
    return found.result()


def classes_everywhere(
    outputs: Any, description: Description, settings: SegmentSettings
) -> npt.NDArray[np.uint8]:
    """Classes of a whole image, plane by plane."""
    shape = tuple(outputs.shape[1:])
    classes = np.zeros(shape, np.uint8)
    threshold = settings.objects(description.objects).threshold
    for index in np.ndindex(*shape[:-2]):
        for window in _bands(tuple(slice(0, n) for n in shape[-2:])):
            part = np.asarray(outputs[(slice(None), *index, *window)])
            classes[(*index, *window)] = classes_of(part, description.output_class, threshold)
    return classes


def _is_linked(settings: SegmentSettings, description: Description, image: Image) -> bool:
    """Whether objects are followed through the slices of a stack."""
    wanted = settings.what == "objects" and settings.objects(description.objects).link
    return wanted and description.dims == 2 and "z" in image.label_axes


def _ordered(
    image: Image,
    dims: int,
    settings: SegmentSettings,
    description: Description,
    focus: tuple[float, ...] | None,
    regions: Sequence[Region] | None,
) -> list[Region]:
    """Planes, what the user looks at first; in their order along z if objects are linked."""
    if regions is None:
        regions = whole_planes(image, dims)
    if _is_linked(settings, description, image):
        at = image.label_axes.index("z")
        return sorted(
            regions,
            key=lambda one: (one.index[:at], one.index[at + 1 :], _edges(one), one.index[at]),
        )
    return nearest_planes(regions, focus, dims)


def _stack_of(
    region: Region, image: Image, settings: SegmentSettings, description: Description
) -> tuple[int, ...] | None:
    """What planes have in common whose objects are linked; None if none are."""
    if not _is_linked(settings, description, image):
        return None
    at = image.label_axes.index("z")
    return (*region.index[:at], *region.index[at + 1 :], *_edges(region))


def _edges(region: Region) -> tuple[int, ...]:
    return tuple(n for part in region.window for n in (part.start, part.stop))


def _labelled(
    outputs: Any,
    description: Description,
    settings: SegmentSettings,
    region: Region,
    first: int,
    linker: Linker | None,
) -> Iterator[tuple[Window, npt.NDArray[np.integer]]]:
    """Bands `(window, labels)` of one region, in px of the image."""
    chosen = settings.objects(description.objects)
    if settings.what == "classes":
        for window in _bands(region.window):
            part = np.asarray(outputs[(slice(None), *region.index, *window)])
            yield window, classes_of(part, description.output_class, chosen.threshold)
        return
    seen = _Seen(outputs, region)
    bands = labelling(seen, description.output_class, chosen, description.separator, first=first)
    if linker is None:
        for window, labels in bands:
            yield from _in_image(region.window, window, labels)
        return
    plane = np.zeros(seen.shape[1:], np.int32)
    for window, labels in bands:
        plane[window] = np.where(labels > 0, labels - first, 0)
    linked = linker.link(plane)
    yield from _in_image(region.window, tuple(slice(0, n) for n in plane.shape), linked)


def _in_image(
    outer: Window, window: Window, labels: npt.NDArray[np.integer]
) -> Iterator[tuple[Window, npt.NDArray[np.integer]]]:
    """A band of a region as bands of the image that are drawn without a pause."""
    for band in _bands(window) if len(window) == 2 else _strips(window):
        here = tuple(
            slice(b.start - w.start, b.stop - w.start) for b, w in zip(band, window, strict=True)
        )
        there = tuple(
            slice(b.start + o.start, b.stop + o.start) for b, o in zip(band, outer, strict=True)
        )
        yield there, labels[here]


def _strips(window: Window) -> Iterator[Window]:
    """A window of a volume cut along y only, so that chunks of a store are written once."""
    for start in range(window[1].start, window[1].stop, STRIP_HEIGHT):
        yield window[0], slice(start, min(start + STRIP_HEIGHT, window[1].stop)), window[2]


def _bands(window: Window) -> Iterator[Window]:
    """Bands of a window across its first axis."""
    across = math.prod(part.stop - part.start for part in window[1:])
    height = max(1, BAND_SIZE // max(1, across))
    for start in range(window[0].start, window[0].stop, height):
        yield (slice(start, min(start + height, window[0].stop)), *window[1:])


class _Seen:
    """The probabilities `(output, [z,] y, x)` of one region, read window by window."""

    def __init__(self, outputs: Any, region: Region) -> None:
        self._outputs, self._region = outputs, region
        sizes = (part.stop - part.start for part in region.window)
        self.shape = (int(outputs.shape[0]), *sizes)
        self.dtype = np.dtype(outputs.dtype)
        chunks = getattr(outputs, "chunks", None)
        is_aligned = isinstance(chunks, tuple) and isinstance(chunks[0], int)
        dims = len(region.window)
        self.chunks = (chunks[0], *chunks[-dims:]) if is_aligned and chunks else None

    def __getitem__(self, selection: Any) -> npt.NDArray[np.floating[Any]]:
        parts = selection if isinstance(selection, tuple) else (selection,)
        parts = (*parts, *[slice(None)] * (len(self.shape) - len(parts)))
        moved = []
        for part, outer, n in zip(parts[1:], self._region.window, self.shape[1:], strict=True):
            start, stop, _ = part.indices(n)
            moved.append(slice(start + outer.start, stop + outer.start))
        return np.asarray(self._outputs[(parts[0], *self._region.index, *moved)])


@dataclass(slots=True, eq=False)
class _InMemory:
    """Labels in one array, of the smallest type that holds them."""

    shape: tuple[int, ...]
    labels: Any = None

    def __post_init__(self) -> None:
        self.labels = np.zeros(self.shape, np.uint8)

    def done_before(self, region: Region) -> int | None:
        """Nothing was done before."""
        return None

    def highest(self) -> int:
        """No label is there yet."""
        return 0

    def plane(self, region: Region) -> npt.NDArray[np.int32]:
        """The labels of a region."""
        return np.asarray(self.labels[(*region.index, *region.window)], np.int32)

    def write(self, region: Region, labels: npt.NDArray[np.integer]) -> None:
        """Write a part; the type grows when it must."""
        highest = int(labels.max(initial=0))
        if highest > np.iinfo(self.labels.dtype).max:
            wide = next(one for one in LABEL_TYPES if highest <= np.iinfo(one).max)
            self.labels = self.labels.astype(wide)
        self.labels[(*region.index, *region.window)] = labels

    def finish(self, region: Region) -> None:
        """Nothing to do."""

    def result(self) -> npt.NDArray[np.integer]:
        """All labels."""
        return np.asarray(self.labels)


@dataclass(slots=True, eq=False)
class _InStore:
    """Labels in a store, with a pyramid; planes that are finished are not done again."""

    store: ResultStore

    def done_before(self, region: Region) -> int | None:
        """The highest label of a plane that is finished."""
        if not self._is_whole(region) or not self.store.labels_done(region.index):
            return None
        return self._highest_in(region)

    def plane(self, region: Region) -> npt.NDArray[np.int32]:
        """The labels of a region."""
        labels: Any = self.store.levels[0]
        return np.asarray(labels[(*region.index, *region.window)], np.int32)

    def highest(self) -> int:
        """The highest label that is there: those of a part must differ from all others."""
        dims, shape = self.store.dims, self.store.label_shape
        whole = tuple(slice(0, n) for n in shape[-dims:])
        planes = [Region(index=index, window=whole) for index in np.ndindex(*shape[:-dims])]
        return max(self._highest_in(plane) for plane in planes)

    def _highest_in(self, region: Region) -> int:
        labels: Any = self.store.levels[0]
        bands = (labels[(*region.index, *window)] for window in _bands(region.window))
        return max(int(np.asarray(band).max(initial=0)) for band in bands)

    def _is_whole(self, region: Region) -> bool:
        shape = self.store.label_shape[-len(region.window) :]
        return n_pixels(region.window) == math.prod(shape)

    def write(self, region: Region, labels: npt.NDArray[np.integer]) -> None:
        """Write a part to all levels."""
        self.store.write_labels(region.index, region.window, labels)

    def finish(self, region: Region) -> None:
        """Remember that a plane is finished."""
        if self._is_whole(region):
            self.store.mark_labels(region.index)

    def result(self) -> Any:
        """The labels at full resolution, a zarr array."""
        return self.store.levels[0]
