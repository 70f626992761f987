"""The store itself: written region by region, and what is finished remembered."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from napari_unet.core.errors import ImageError, ProjectError
from napari_unet.core.regions import Region
from napari_unet.core.store.boxes import Box, subtract
from napari_unet.core.store.record import Record

__all__ = ["LABELS", "OUTPUTS", "ResultStore", "disk_errors"]

OUTPUTS = "outputs"
LABELS = "segmentation"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResultStore:
    """A segmented image on disk; made by `open_store`.

    May be read and written from any thread, and read by other programs, of which only one at a
    time may write.

    Attributes
    ----------
    folder : where it is.
    label_axes, label_shape : of the labels.
    dims : 2 if it is worked on plane by plane, 3 volume by volume.
    outputs : zarr array `(output, *label_shape)`, float16, the probabilities; None if they are
        not kept.
    levels : zarr arrays, the labels and coarser ones; `levels[k]` is
        `levels[0][..., :: 2**k, :: 2**k]`.
    overview : of a single plane, a copy of its coarsest level in memory; else None.
    needed_bytes : room on the disk that it takes at most.
    """

    folder: Path
    label_axes: str
    label_shape: tuple[int, ...]
    dims: int
    outputs: zarr.Array[Any] | None
    levels: list[zarr.Array[Any]]
    overview: npt.NDArray[np.integer] | None
    needed_bytes: int
    record: Record
    _guard: RLock = field(default_factory=RLock, repr=False)

    @property
    def shown_levels(self) -> list[Any]:
        """The levels as napari takes them, with `multiscale=True`, to show them while they fill.

        NOTE: of a single plane napari reads the coarsest level once and never again. So that
        one is in memory (1024 px a side at most), where it changes with what is written.
        """
        return self.levels if self.overview is None else [*self.levels[:-1], self.overview]

    @property
    def labels_folder(self) -> Path:
        """The OME-Zarr image of labels, for other programs."""
        return self.folder / LABELS

    @property
    def label_dtype(self) -> np.dtype[Any]:
        """Type of the labels."""
        return np.dtype(self.levels[0].dtype)

    @property
    def chunk(self) -> tuple[int, ...]:
        """Size of a chunk, `([z,] y, x)` in px.

        Windows as wide as the image that begin and end where rows of chunks do are written
        without reading anything, on all levels.
        """
        return tuple(self.levels[0].chunks[-self.dims :])

    # ---- writing

    def write_outputs(
        self, index: tuple[int, ...], window: tuple[slice, ...], outputs: npt.NDArray[Any]
    ) -> None:
        """Write probabilities `(output, [z,] y, x)` of a window; nothing if none are kept.

        Raises
        ------
        ProjectError
            If they cannot be written.
        """
        box = self._box(index, window)
        if self.outputs is None:
            return
        self._check_shape(outputs.shape[1:], box)
        where = (slice(None), *(slice(*part) for part in box))
        added = (slice(None), *(None,) * len(index))  # (output, *index, [z,] y, x)
        with self._writing():
            self.outputs[where] = outputs[added]

    def write_labels(
        self, index: tuple[int, ...], window: tuple[slice, ...], labels: npt.NDArray[np.integer]
    ) -> None:
        """Write the labels `([z,] y, x)` of a window, on all levels.

        Raises
        ------
        ImageError
            If a label is too large for the type of the store.
        ProjectError
            If they cannot be written.
        """
        box = self._box(index, window)
        self._check_shape(labels.shape, box)
        self._check_values(labels)
        labels = labels.astype(self.label_dtype, copy=False)[(None,) * len(index)]
        with self._writing():
            for level, array in enumerate(self.levels):
                where, part = _every(2**level, box)
                if all(one.start < one.stop for one in where):
                    array[where] = labels[part]
        if self.overview is not None:
            self.overview[where] = labels[part]

    def _check_shape(self, shape: tuple[int, ...], box: Box) -> None:
        window = tuple(stop - start for start, stop in box[len(box) - self.dims :])
        if tuple(shape) != window:
            raise ImageError(f"There is room for {window} px in the window, not for {shape}.")

    def _check_values(self, labels: npt.NDArray[np.integer]) -> None:
        if np.can_cast(labels.dtype, self.label_dtype):
            return
        lowest, highest = int(labels.min(initial=0)), int(labels.max(initial=0))
        if lowest < 0 or highest > np.iinfo(self.label_dtype).max:
            raise ImageError(
                f"Labels from {lowest} to {highest} were found, but those in {self.folder} are "
                f"{self.label_dtype.name}. Choose another folder, for labels of uint32."
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        # NOTE: of a chunk that is written in part the rest is read; nobody may write it meanwhile.
        with self._guard, disk_errors(self.folder, self.needed_bytes):
            yield

    # ---- what is finished

    @property
    def finished(self) -> tuple[Region, ...]:
        """The regions that are final, as few as possible; they do not overlap."""
        n = len(self.label_shape) - self.dims
        return tuple(
            Region(index=index, window=tuple(slice(*part) for part in box[n:]))
            for box in sorted(self.record.finished)
            for index in product(*(range(*part) for part in box[:n]))
        )

    def mark(self, region: Region) -> None:
        """Remember for good that a region is final: its data must have been written before.

        Raises
        ------
        ProjectError
            If that cannot be written.
        """
        with self._writing():
            self.record.finish(self.folder, self._box(region.index, region.window))

    def is_finished(self, region: Region) -> bool:
        """Whether all of a region is final."""
        return not self.remaining([region])

    def remaining(self, regions: Iterable[Region]) -> list[Region]:
        """What is left of each of some regions without what is final, in their order."""
        finished = self.record.finished
        return [
            Region(index=region.index, window=tuple(slice(*part) for part in piece[-self.dims :]))
            for region in regions
            for piece in subtract(self._box(region.index, region.window), finished)
        ]

    def mark_labels(self, index: tuple[int, ...]) -> None:
        """Remember for good that the labels of a plane or volume are final, on all levels.

        Raises
        ------
        ProjectError
            If that cannot be written.
        """
        with self._writing():
            self.record.finish_labels(self.folder, _index_box(index))

    def labels_done(self, index: tuple[int, ...]) -> bool:
        """Whether the labels of a plane or volume are final."""
        return not subtract(_index_box(index), self.record.labels_done)

    def _box(self, index: tuple[int, ...], window: tuple[slice, ...]) -> Box:
        """A region as a box in the label axes; raises `ImageError` if it lies outside."""
        box = (*_index_box(index), *((int(part.start), int(part.stop)) for part in window))
        fits = len(box) == len(self.label_shape) and len(window) == self.dims
        if not fits or not all(
            0 <= start <= stop <= size
            for (start, stop), size in zip(box, self.label_shape, strict=True)
        ):
            raise ImageError(
                f"The region {index} {window} does not lie in labels of the shape "
                f"{self.label_shape}, the last {self.dims} of which a window has."
            )
        return box


def _index_box(index: tuple[int, ...]) -> Box:
    return tuple((int(i), int(i) + 1) for i in index)


def _every(step: int, box: Box) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a box goes in a level that has every `step`-th px of y and x, and which px of it."""
    where = [slice(*part) for part in box[:-2]]
    part = [slice(None) for _ in box[:-2]]
    for start, stop in box[-2:]:
        first = -(-start // step)
        where.append(slice(first, -(-stop // step)))
        part.append(slice(first * step - start, stop - start, step))
    return tuple(where), tuple(part)


@contextmanager
def disk_errors(folder: Path, needed: int) -> Iterator[None]:
    """Turn an `OSError` into a `ProjectError` that says how much room is needed."""
    try:
        yield
    except OSError as error:
        raise ProjectError(
            f"The result could not be written to {folder} ({error.strerror or error}). All of "
            f"it takes up to {needed / 1e9:.3g} GB, and {_free(folder)} free there. Make room, "
            "check that you may write there, or choose another folder; what is finished is "
            "kept, and the same work goes on from there."
        ) from error


def _free(folder: Path) -> str:
    """Free room on the disk of a folder that need not exist yet."""
    for path in (folder, *folder.parents):
        try:
            return f"{shutil.disk_usage(path).free / 1e9:.3g} GB are"
        except OSError:
            continue
    return "it is not known how much is"
