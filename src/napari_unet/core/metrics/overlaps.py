"""Which object lies on which, and on how many pixels: what all scores of objects start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from napari_unet.core.errors import SettingsError

__all__ = ["Labels", "Overlaps", "check_alike", "overlaps_of"]

Labels: TypeAlias = npt.NDArray[np.integer | np.bool_]
"""Object ids of any number of axes, 0 for background; a mask is one object."""

MAX_DIRECT = 2**24
"""Ids up to this are counted directly, without sorting all pixels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Overlaps:
    """All pairs of a true and a predicted object that share pixels.

    Objects are numbered from 1 in the order of their ids; 0 is the background. Pairs with the
    background are among them.

    Attributes
    ----------
    truth, predicted : `(pair,)` int64, numbers of the two objects of a pair.
    shared : `(pair,)` int64, px that they share; never 0.
    truth_area, predicted_area : `(object,)` int64 in px, that of the background first.
    """

    truth: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    shared: npt.NDArray[np.int64]
    truth_area: npt.NDArray[np.int64]
    predicted_area: npt.NDArray[np.int64]

    @property
    def n_truth(self) -> int:
        """Number of true objects."""
        return len(self.truth_area) - 1

    @property
    def n_predicted(self) -> int:
        """Number of predicted objects."""
        return len(self.predicted_area) - 1

    @property
    def iou(self) -> npt.NDArray[np.float64]:
        """Intersection over union of each pair, `(pair,)`."""
        union = self.truth_area[self.truth] + self.predicted_area[self.predicted] - self.shared
        return np.asarray(self.shared / union, dtype=np.float64)


def check_alike(predicted: npt.NDArray[np.generic], truth: npt.NDArray[np.generic]) -> None:
    """Raise `SettingsError` unless the two have one shape."""
    if np.shape(predicted) != np.shape(truth):
        raise SettingsError(
            f"The prediction has the shape {np.shape(predicted)}, but the truth has "
            f"{np.shape(truth)}. Only two pictures of one size can be compared pixel by pixel; "
            "look whether both belong to the same image, and whether one of them was cut."
        )


def overlaps_of(predicted: Labels, truth: Labels) -> Overlaps:
    """Count the pixels that each true object shares with each predicted one.

    Parameters
    ----------
    predicted, truth : object ids, 0 for background; one shape, any whole-number type.

    Raises
    ------
    SettingsError
        If the shapes differ, or ids are negative or no whole numbers.
    """
    check_alike(predicted, truth)
    predicted_number, n_predicted = _numbered(predicted, "The prediction")
    truth_number, n_truth = _numbered(truth, "The truth")
    pairs, shared = _counted(truth_number * n_predicted + predicted_number, n_truth * n_predicted)
    ours, theirs = np.divmod(pairs, n_predicted)
    return Overlaps(
        truth=ours,
        predicted=theirs,
        shared=shared,
        truth_area=np.bincount(ours, shared, n_truth).astype(np.int64),
        predicted_area=np.bincount(theirs, shared, n_predicted).astype(np.int64),
    )


def _numbered(labels: Labels, whose: str) -> tuple[npt.NDArray[np.int64], int]:
    """Number of the object of each pixel `(pixel,)`, and how many there are with the background."""
    flat = np.asarray(labels).reshape(-1)
    if flat.dtype.kind not in "biu":
        raise SettingsError(
            f"{whose} holds values of the type {flat.dtype}, but objects are numbered with whole "
            "numbers. Turn it into labels first."
        )
    if flat.size and flat.min() < 0:
        raise SettingsError(
            f"{whose} holds the object id {flat.min()}. Ids are 0 for the background and 1 and up "
            "for objects; set what is unknown to 0."
        )
    if flat.max(initial=0) < MAX_DIRECT:
        flat = flat.astype(np.int64, copy=False)
        is_there = np.bincount(flat, minlength=1) > 0
        is_there[0] = True
        return (np.cumsum(is_there) - 1)[flat], int(np.count_nonzero(is_there))
    ids, number = np.unique(flat, return_inverse=True)
    shift = int(ids[0] != 0)  # a picture without background
    return number.astype(np.int64) + shift, len(ids) + shift


def _counted(
    keys: npt.NDArray[np.int64], n_keys: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The keys that occur, in order, and how often each does."""
    if n_keys <= max(MAX_DIRECT, 2 * keys.size):
        counts = np.bincount(keys, minlength=n_keys)
        found = np.flatnonzero(counts)
        return found, counts[found]
    found, counts = np.unique(keys, return_counts=True)
    return found, counts
