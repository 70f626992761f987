"""Masks of which a part is unknown (-1): single slices of volumes, and cells left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_unet.core.datasets.masks import Labels, LabelsRead, labels_from
from napari_unet.core.datasets.pairing import Opening, sentence_about, sizes_in_words
from napari_unet.core.datasets.settings import DatasetSettings
from napari_unet.core.errors import ImageError
from napari_unet.core.files import read_image

__all__ = ["compared_with_tracks", "filled_from_slices"]

UNKNOWN = -1
MANY = 2**24
"""Larger numbers of cells are numbered anew before they are counted."""

Integers = npt.NDArray[np.integer]


def filled_from_slices(
    shape: Sequence[int], slices: Mapping[int, Labels], opening: Opening
) -> Labels:
    """Labels `(z, y, x)` that are known in some planes, and -1 in all others.

    So a network of volumes learns from a few annotated slices ("sparse annotation", Çiçek et al.
    2016, "3D U-Net").

    Parameters
    ----------
    shape : of the volume.
    slices : labels `(y, x)` by their place along z.
    opening : what goes along while a dataset is opened.
    """
    read = partial(_filled, tuple(shape), dict(slices))
    return Labels(shape, np.int32, read, opening.shelf, "slices")


def _filled(shape: tuple[int, ...], slices: Mapping[int, Labels]) -> LabelsRead:
    labels = np.full(shape, UNKNOWN, np.int32)
    remarks: list[str] = []
    for z, one in slices.items():
        labels[z] = one
        remarks += one.remarks
    return labels, tuple(dict.fromkeys(remarks))


def compared_with_tracks(
    labels: Labels, tracks: Path, plane: int | None, opening: Opening
) -> Labels:
    """The same labels, but -1 on the markers of cells that are tracked and not segmented.

    A cell is segmented if objects cover at least half of its marker. Nothing is read until the
    labels are; how many cells are lacking then is a remark.

    Parameters
    ----------
    labels : `([z,] y, x)`, of a frame or of a plane of it.
    tracks : the file of the markers of the frame, each cell with a number.
    plane : which plane of the frame the labels are of; None if of all.
    opening : what goes along while a dataset is opened.
    """
    read = partial(_compared, labels, tracks, plane)
    return Labels(labels.shape, np.int32, read, opening.shelf, "cells")


def _compared(labels: Labels, tracks: Path, plane: int | None) -> LabelsRead:
    known = np.asarray(labels).astype(np.int32)  # a copy
    try:
        markers = _markers(tracks, plane, known.shape)
    except ImageError as error:
        said = sentence_about(error, tracks)
        return known, (*labels.remarks, f"is not compared with the tracks: {said}")
    sizes = np.bincount(markers.ravel())
    free = np.bincount(markers[known == 0], minlength=sizes.size)
    is_lacking = 2 * free > sizes
    is_lacking[0] = False
    if not is_lacking.any():
        return known, labels.remarks
    known[is_lacking[markers] & (known == 0)] = UNKNOWN
    n, n_cells = int(is_lacking.sum()), int((sizes[1:] > 0).sum())
    where = tracks.name if plane is None else f"plane {plane} of {tracks.name}"
    return known, (
        *labels.remarks,
        f"lacks {n} of {n_cells} cell{'s that are' if n_cells > 1 else ' that is'} marked in "
        f"{where}. What their markers cover is taken as unknown and not trained on, what is around "
        "them as background: leave the image out if most of its cells are lacking.",
    )


def _markers(path: Path, plane: int | None, shape: tuple[int, ...]) -> Integers:
    """Numbers of cells of the given shape, from 0 on."""
    markers, _ = labels_from(read_image(path), DatasetSettings())
    if plane is not None and markers.ndim == len(shape) + 1 and plane < len(markers):
        markers = markers[plane]
    if markers.shape != shape:
        raise ImageError(
            f"{path} has {sizes_in_words(markers.shape)}, the mask has {sizes_in_words(shape)}."
        )
    markers = np.maximum(markers, 0)
    if int(markers.max(initial=0)) >= MANY:
        values, ranks = np.unique(markers, return_inverse=True)
        markers = ranks.reshape(shape) + (1 if values[0] > 0 else 0)
    return markers
