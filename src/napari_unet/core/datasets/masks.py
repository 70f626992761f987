"""Masks as whole numbers: what a file holds, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from napari_unet.core.corrections import IGNORE
from napari_unet.core.datasets.lazy import Lazy, Shelf
from napari_unet.core.datasets.settings import DatasetSettings
from napari_unet.core.errors import ImageError
from napari_unet.core.image import Image

__all__ = ["WHITE", "Labels", "LabelsRead", "labels_from", "object_numbers", "whole_numbers"]

WHITE = "holds only black (0) and white (255), which is read as 1."
"""What is remarked on masks that are black and white."""

Partial: TypeAlias = Literal["", "cells", "slices"]
"""What of a picture is not annotated."""

LabelsRead: TypeAlias = tuple[npt.NDArray[np.integer], tuple[str, ...]]
"""Labels, and remarks about them: ends of a sentence that begins with the name of the file."""


class Labels(Lazy):
    """Labels that are read when they are first used.

    Parameters
    ----------
    shape, dtype : `([z,] y, x)`, whole numbers.
    read_labels : gives them, and remarks about them.
    shelf : where they are kept for a while.
    partial : whether -1 is meant, and stands where nothing is known: "cells" where some objects
        are not annotated, "slices" where whole planes are not; "" if all is known.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: Any,
        read_labels: Callable[[], LabelsRead],
        shelf: Shelf,
        partial: Partial = "",
    ) -> None:
        super().__init__(shape, dtype, self._read_labels, shelf)
        self._labels_read = read_labels
        self.partial = partial
        self.remarks: tuple[str, ...] = ()

    def _read_labels(self) -> npt.NDArray[np.integer]:
        labels, self.remarks = self._labels_read()
        if labels.shape != self.shape:
            raise ImageError(
                f"A mask of the size {labels.shape} was expected to have the size {self.shape}. "
                "The file was changed while it was in use; open the dataset again."
            )
        return labels


def labels_from(image: Image, settings: DatasetSettings) -> LabelsRead:
    """Labels in the label axes of the picture of a mask.

    Gray that was saved as colours becomes gray, opacity goes, and whole numbers that were saved
    as real ones become whole. 0 and 255 alone become 0 and 1, as do 0 and 65535.

    Raises
    ------
    ImageError
        If there are several channels, or numbers that are not whole.
    """
    channels = image.take((slice(None),) * len(image.label_axes))  # (c, [z,] y, x)
    remarks: list[str] = []
    if len(channels) > 1:
        remarks.append("was saved in colours that are all gray, and is read as gray.")
    labels = _gray(channels, image.name)
    if settings.threshold is not None:
        return _above(labels, settings.threshold).astype(np.uint8), ()
    if labels.dtype.kind == "f":
        labels = whole_numbers(labels, image.name)
        remarks.append("holds real numbers that are all whole, and is read as whole numbers.")
    if labels.dtype == bool:
        labels = labels.astype(np.uint8)
    if settings.values:
        return _renumbered(labels, settings.values), tuple(remarks)
    if _is_black_and_white(labels):
        return (labels > 0).astype(np.uint8), (*remarks, WHITE)
    return labels, tuple(remarks)


def _above(labels: npt.NDArray[Any], threshold: float) -> npt.NDArray[np.bool_]:
    """Where a mask is above a threshold; masks of nothing but 0 and 1 are above it where 1."""
    if labels.dtype.kind in "biu" and labels.max(initial=0) <= 1:
        return np.asarray(labels > 0)
    return np.asarray(labels > threshold)


def _gray(channels: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """`([z,] y, x)` from `(c, [z,] y, x)`: the colours, without opacity, must be the same."""
    has_opacity = len(channels) in (2, 4) and bool((channels[-1] == channels[-1].flat[0]).all())
    colours = channels[:-1] if has_opacity else channels
    if not (colours == colours[:1]).all():
        raise ImageError(
            f"The mask {name} is a coloured picture with {len(channels)} channels, but a mask is "
            "one channel of whole numbers. Save it as a gray image of 8 or 16 bits whose values "
            "number the objects or classes, not as a screenshot or in the colours of a palette."
        )
    gray: npt.NDArray[Any] = colours[0]
    return gray


def whole_numbers(labels: npt.NDArray[Any], name: str) -> npt.NDArray[np.int32]:
    """Real numbers that are all whole as int32, of the same shape.

    Raises
    ------
    ImageError
        If some are not whole, missing (NaN) or too large.
    """
    with np.errstate(invalid="ignore"):
        whole = labels.astype(np.int32)
    if not (whole == labels).all():
        raise ImageError(
            f"The mask {name} holds numbers that are not whole, such as "
            f"{labels[whole != labels].flat[0]:g}. Masks number objects or classes; save "
            "probabilities only after a threshold, or give the threshold here."
        )
    return np.asarray(whole)


def _is_black_and_white(labels: npt.NDArray[Any]) -> bool:
    """Whether white (255, or 65535) is the only value beside 0."""
    highest = int(labels.max(initial=0))
    return highest in (255, 65535) and bool(((labels == 0) | (labels == highest)).all())


def _renumbered(labels: npt.NDArray[Any], values: Sequence[int]) -> npt.NDArray[np.uint8]:
    """The place of each label among `values`, 255 where it is none of them."""
    order = np.argsort(values)
    ordered = np.asarray(values)[order]
    places = np.searchsorted(ordered, labels).clip(max=len(values) - 1)
    return np.where(ordered[places] == labels, order[places], IGNORE).astype(np.uint8)


def object_numbers(labels: Any) -> npt.NDArray[np.integer]:
    """Numbers of objects `([z,] y, x)`, also where a mask only tells them from the background.

    If all of the foreground has one number, its connected parts (by sides, not by corners) are
    taken for the objects; touching objects then are one. Other labels come back as they are.
    """
    from skimage.measure import label

    labels = np.asarray(labels)
    known: npt.NDArray[np.integer] = labels
    highest = int(labels.max(initial=0))
    if highest <= 0 or ((labels > 0) & (labels != highest)).any():
        return known
    parts = label(labels > 0, connectivity=1)
    numbers: npt.NDArray[np.int32] = np.where(labels < 0, labels, parts).astype(np.int32)
    return numbers
