"""Every image and mask of a dataset read once, for what `check` and `describe` tell."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

from napari_unet.core.datasets.lazy import Part, Stacked
from napari_unet.core.datasets.masks import Labels
from napari_unet.core.datasets.pairing import sentence_about
from napari_unet.core.datasets.pairs import Dataset, Pair
from napari_unet.core.errors import ImageError
from napari_unet.core.image import Image
from napari_unet.core.progress import Progress, Work, finish

__all__ = ["Seen", "survey", "surveying"]

READ_WHOLE = 2**28
"""Images of more bytes than this are looked at in samples."""

AT_ONCE = 2**24
"""So many px are counted at once."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def _none() -> Integers:
    return np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """What was found in the pixels of a pair.

    Attributes
    ----------
    pair : the pair.
    error, error_path : why it could not be read, as a sentence, and which of its files; nothing
        else is known then.
    is_constant, n_not_finite : of the image: all px have one value; values that are no numbers.
    digest : the same for images with the same pixels.
    values, counts : `(n)`, the values in the mask in rising order, and how many px have each.
    n_parts : connected parts of what is not background.
    sizes : `(n_objects)`, px of each object; of each connected part if the mask has one value.
    remarks : what was done to read the mask.
    """

    pair: Pair
    error: str = ""
    error_path: Path | None = None
    is_constant: bool = False
    n_not_finite: int = 0
    digest: str = ""
    values: Integers = field(default_factory=_none)
    counts: Integers = field(default_factory=_none)
    n_parts: int = 0
    sizes: Integers = field(default_factory=_none)
    remarks: tuple[str, ...] = ()

    @property
    def foreground(self) -> Integers:
        """The values above 0."""
        return self.values[self.values > 0]

    @property
    def is_one_value(self) -> bool:
        """Whether the mask says what is an object, but not which, of several."""
        return self.foreground.size == 1 and self.n_parts > 1

    @property
    def partial(self) -> frozenset[str]:
        """What is not annotated, "cells" or "slices" or both, and meant to be unknown."""
        return frozenset(one.partial for one in labels_in(self.pair.labels) if one.partial)

    @property
    def diameters(self) -> Floats:
        """Diameters of discs, or balls, of the sizes of the objects, in px.

        Where only slices of volumes are known, sizes are of cuts through objects: discs.
        """
        if self.pair.image.label_axes.endswith("zyx") and "slices" not in self.partial:
            return np.asarray(np.cbrt(6 * self.sizes / math.pi))
        return np.asarray(np.sqrt(4 * self.sizes / math.pi))


_SURVEYS: WeakKeyDictionary[Dataset, tuple[Seen, ...]] = WeakKeyDictionary()
"""What was found, for as long as the dataset is in use: nothing is read twice."""


def survey(dataset: Dataset) -> tuple[Seen, ...]:
    """What is in each pair, in their order."""
    return finish(surveying(dataset))


def surveying(dataset: Dataset) -> Work[Progress, tuple[Seen, ...]]:
    """Read each pair once; a second time nothing is read."""
    if dataset not in _SURVEYS:
        seen = []
        for i, pair in enumerate(dataset.pairs):
            yield Progress(done=i, total=len(dataset.pairs), message=f"Looking at {pair.key}")
            seen.append(_seen(pair))
        _SURVEYS[dataset] = tuple(seen)
    return _SURVEYS[dataset]


def _seen(pair: Pair) -> Seen:
    path = pair.labels_path
    try:
        labels = np.asarray(pair.labels)
        path = pair.path
        about = _about_image(pair.image)
    except ImageError as error:
        said = sentence_about(error, path) if path is not None else str(error)
        return Seen(pair=pair, error=said, error_path=path)
    except MemoryError:
        return Seen(
            pair=pair,
            error_path=path,
            error=f"There is not enough memory to read {pair.key}. Cut it into smaller images.",
        )
    values, counts = _values(labels)
    parts, n_parts = ndi.label(labels > 0)
    foreground = values > 0
    is_one_value = foreground.sum() == 1 and n_parts > 1
    sizes = np.bincount(parts.ravel())[1:] if is_one_value else counts[foreground]
    return Seen(
        pair=pair, values=values, counts=counts, n_parts=n_parts, sizes=sizes,
        remarks=remarks_of(pair.labels), **about,
    )  # fmt: skip


def _about_image(image: Image) -> dict[str, Any]:
    is_small = math.prod(image.array.shape) * np.dtype(image.array.dtype).itemsize <= READ_WHOLE
    everything = (slice(None),) * len(image.label_axes)
    pixels = image.take(everything) if is_small else image.samples()  # (c, ...)
    n_not_finite = 0
    if pixels.dtype.kind == "f":
        n_not_finite = int((~np.isfinite(pixels)).sum())
    digest = hashlib.blake2b(repr((pixels.shape, pixels.dtype.str)).encode(), digest_size=16)
    digest.update(pixels.data)
    return {
        "is_constant": bool((pixels == pixels.flat[0]).all()),
        "n_not_finite": n_not_finite,
        "digest": digest.hexdigest(),
    }


def _values(labels: npt.NDArray[Any]) -> tuple[Integers, Integers]:
    """The values in rising order, and how often each is there."""
    if labels.dtype.kind == "u" and labels.dtype.itemsize <= 2:  # much faster than sorting
        flat, counts = labels.ravel(), np.zeros(1 << 8 * labels.dtype.itemsize, np.int64)
        for first in range(0, flat.size, AT_ONCE):  # NOTE: counting takes 8 bytes for each px
            counts += np.bincount(flat[first : first + AT_ONCE], minlength=counts.size)
        values = np.flatnonzero(counts)
        return values, counts[values]
    values, counts = np.unique(labels, return_counts=True)
    return values.astype(np.int64), counts


def labels_in(labels: Any) -> Iterator[Labels]:
    """The labels that others are a part of, or are stacked of."""
    if isinstance(labels, Part):
        yield from labels_in(labels.whole)
    elif isinstance(labels, Stacked):
        for plane in labels.planes:
            yield from labels_in(plane)
    elif isinstance(labels, Labels):
        yield labels


def remarks_of(labels: Any) -> tuple[str, ...]:
    """What was remarked when labels were read, also those that are a part of others."""
    return tuple(dict.fromkeys(said for one in labels_in(labels) for said in one.remarks))


def in_groups(seen: Sequence[Seen]) -> dict[str, list[Seen]]:
    """Those with the same image together, by its digest."""
    found: dict[str, list[Seen]] = {}
    for one in seen:
        if not one.error:
            found.setdefault(one.digest, []).append(one)
    return found
