"""Images and their masks as they are trained on: in their own type, with a target and weights.

The scale of intensities is measured once per image; the network's input is made from it patch by
patch. Targets hold what the outputs of the network stand for, `IGNORE` where nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi
from skimage.measure import label

from napari_unet.core.corrections import IGNORE
from napari_unet.core.datasets import Pair, object_numbers
from napari_unet.core.errors import TrainingError
from napari_unet.core.normalization import IntensityScale, Normalization, scale_of, summary_of
from napari_unet.core.separation import separation_map, touching_lines
from napari_unet.core.training.outputs import MAX_CLASSES, Outputs
from napari_unet.core.training.settings import TrainSettings

__all__ = [
    "Picture",
    "channels_of",
    "classes_in",
    "middle_of",
    "pictures_of",
    "pixel_size_of",
    "target_of",
]

MAX_PLACES = 1 << 14
"""Of each value of a target, so many places are remembered at most."""

LARGEST_ID = 1 << 24
"""Objects with larger numbers are numbered anew: tables are made with a place for each number."""

Labels = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """A plane or a volume with its masks.

    Attributes
    ----------
    key, group : of the image that it is from; images of one group show the same.
    image : raw `(c, [z,] y, x)`, in the image's own type.
    scale : from raw values to input, measured on the whole image.
    labels : the masks `([z,] y, x)`: objects, each with a number of its own, or classes; below 0
        where nothing is known.
    target : uint8 `([z,] y, x)`, the values of `Outputs`; `IGNORE` where nothing is known.
    weights : float16 `([z,] y, x)`, how much each pixel counts; None for all alike.
    places : value of the target to places in the raveled picture, evenly spread.
    """

    key: str
    group: str
    image: npt.NDArray[np.generic]
    scale: IntensityScale
    labels: Labels
    target: npt.NDArray[np.uint8]
    weights: npt.NDArray[np.float16] | None
    places: Mapping[int, npt.NDArray[np.int64]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Size `([z,] y, x)`, in px."""
        return self.target.shape


def channels_of(pairs: Sequence[Pair]) -> int:
    """How many channels the network takes; an image with one is shown to each of them.

    Raises
    ------
    TrainingError
        If the images do not go together.
    """
    counts = {pair.image.n_channels: pair.key for pair in pairs}
    most = max(counts)
    odd = [n for n in counts if n not in (1, most)]
    if odd:
        raise TrainingError(
            f"{counts[odd[0]]!r} has {odd[0]} channels, but {counts[most]!r} has {most}. A network "
            f"is trained on images with the same channels; leave out those that differ."
        )
    return most


def classes_in(pairs: Iterable[Pair]) -> int:
    """How many classes the masks hold, with the background; `IGNORE` is none.

    Raises
    ------
    TrainingError
        If they are too many to be classes, or there is no more than one.
    """
    tops, has_unknown = [0], False
    for pair in pairs:
        labels = np.asarray(pair.labels)
        tops.append(int(labels.max(initial=0, where=labels != IGNORE)))
        has_unknown = has_unknown or bool((labels == IGNORE).any())
    most = max(tops) + 1
    if most > MAX_CLASSES:
        raise TrainingError(
            f"The masks hold values up to {most - 1}. If they number objects, train with "
            f"what='objects'; classes must be numbered 0 (background), 1, 2, ... up to "
            f"{MAX_CLASSES - 1}."
        )
    if most < 2:
        raise TrainingError(
            f"The masks hold nothing but background (0)"
            f"{f' and {IGNORE}, which means that nothing is known' if has_unknown else ''}. Number "
            f"the classes 0 (background), 1, 2, ..."
        )
    return most


def pixel_size_of(pairs: Iterable[Pair]) -> float | None:
    """Size of a px along y and x in µm: the median over the images, if all of them know it."""
    sizes = [pair.image.pixel_size.get("x") for pair in pairs]
    known = [size for size in sizes if size is not None]
    return float(np.median(known)) if known and len(known) == len(sizes) else None


def middle_of(shape: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    """The part of that size in the middle."""
    starts = [max(0, (have - want) // 2) for have, want in zip(shape, size, strict=True)]
    return tuple(slice(start, start + want) for start, want in zip(starts, size, strict=True))


def pictures_of(
    pairs: Iterable[Pair],
    settings: TrainSettings,
    outputs: Outputs,
    normalization: Normalization,
    in_channels: int,
) -> Iterator[Picture]:
    """The planes of images, or their volumes, in which something is known.

    Raises
    ------
    TrainingError
        If masks do not fit their image, or the image holds pixels that are no numbers.
    """
    for pair in pairs:
        image, labels = pair.image, _checked_labels(pair)
        is_mask = settings.what == "objects" and _is_mask(labels)
        scale = scale_of(summary_of(image.samples()), normalization, in_channels)
        spacing = _spacing(image.pixel_size) if settings.dims == 3 else None
        for index in product(*(range(n) for n in image.index_shape(settings.dims))):
            mine = labels[index]
            if (mine >= 0).any():
                shown = image.read(index, tuple(slice(0, n) for n in mine.shape))
                _check_finite(shown, pair.key)
                key = pair.key if not index else f"{pair.key} {list(index)}"
                objects = _as_objects(mine) if is_mask else mine
                yield _picture(key, pair.group, shown, scale, objects, settings, outputs, spacing)


def _check_finite(shown: npt.NDArray[np.generic], key: str) -> None:
    """Raise `TrainingError` where an image holds NaN or infinity."""
    if shown.dtype.kind == "f" and not np.isfinite(shown).all():
        n_bad = int((~np.isfinite(shown)).sum())
        raise TrainingError(
            f"The image of {key!r} holds {n_bad} pixels that are no finite numbers (NaN or "
            f"infinity). Replace them, by 0 for instance, or leave the image out; where only the "
            f"masks are not known, write -1 into these."
        )


def _spacing(pixel_size: Mapping[str, float]) -> tuple[float, float, float] | None:
    """Size of a pixel along z, y and x in px of x; None if it is not known along z or x."""
    z, x = pixel_size.get("z"), pixel_size.get("x")
    if z is None or x is None:
        return None
    return z / x, pixel_size.get("y", x) / x, 1.0


def _checked_labels(pair: Pair) -> Labels:
    """The masks in memory, in the smallest signed type that holds them."""
    labels = np.asarray(pair.labels)
    if labels.dtype.kind not in "biu":
        raise TrainingError(
            f"The masks of {pair.key!r} are of the type {labels.dtype}; whole numbers are needed: "
            f"0 for the background, and the number of the object or class elsewhere."
        )
    if labels.shape != pair.image.label_shape:
        raise TrainingError(
            f"The masks of {pair.key!r} have the shape {labels.shape}, but its image has "
            f"{pair.image.label_shape} ({pair.image.label_axes}). Give masks of that size, "
            f"without channels."
        )
    if int(labels.max(initial=0)) >= LARGEST_ID:
        values, ranks = np.unique(labels, return_inverse=True)
        ranks = ranks.reshape(labels.shape) - np.searchsorted(values, 0, side="right") + 1
        labels = np.where(labels > 0, ranks, -1 * (labels < 0))  # numbered anew, from 1 on
    kind = np.int16 if int(labels.max(initial=0)) < 2**15 else np.int32
    return labels.astype(kind)


def _is_mask(labels: Labels) -> bool:
    """Whether labels say what is an object, but not which."""
    highest = int(labels.max(initial=0))
    return highest > 0 and not ((labels > 0) & (labels != highest)).any()


def _as_objects(labels: Labels) -> Labels:
    """Each connected part of a mask as an object with a number of its own."""
    return np.where(labels < 0, labels, object_numbers(labels))


def _picture(
    key: str, group: str, image: npt.NDArray[np.generic], scale: IntensityScale, labels: Labels,
    settings: TrainSettings, outputs: Outputs, spacing: tuple[float, ...] | None,
) -> Picture:  # fmt: skip
    target = target_of(labels, outputs)
    return Picture(
        key=key,
        group=group,
        image=image,
        scale=scale,
        labels=labels,
        target=target,
        weights=_weights(labels, target, settings, outputs, spacing),
        places=_places(target),
    )


def target_of(labels: Labels, outputs: Outputs) -> npt.NDArray[np.uint8]:
    """What a network is to say of each pixel of masks `([z,] y, x)`; see `Outputs`."""
    if outputs.what == "classes":
        return np.where(labels < 0, IGNORE, labels).astype(np.uint8)
    found = (labels > 0).astype(np.uint8)
    if outputs.split == "gap":
        found[touching_lines(labels)] = 0
    elif outputs.split == "rim":
        cores = _cores(labels)
        zero, rim, core = outputs.values
        found = np.where(found > 0, np.where(cores, core, rim), zero).astype(np.uint8)
    found[labels < 0] = IGNORE
    return found


def _cores(labels: Labels) -> npt.NDArray[np.bool_]:
    """Pixels of objects all of whose neighbours, 2 px around in the plane, are of their object.

    What lies outside the image does not count.
    """
    size = (1,) * (labels.ndim - 2) + (5, 5)
    lowest = ndi.minimum_filter(labels, size, mode="nearest")
    highest = ndi.maximum_filter(labels, size, mode="nearest")
    return np.asarray((lowest == highest) & (labels > 0))


def _weights(
    labels: Labels, target: npt.NDArray[np.uint8], settings: TrainSettings, outputs: Outputs,
    spacing: tuple[float, ...] | None,
) -> npt.NDArray[np.float16] | None:  # fmt: skip
    """1 and more between objects that lie close together (Ronneberger et al. 2015)."""
    if not settings.separation:
        return None
    objects = np.maximum(labels, 0)
    if outputs.what == "classes":
        known = np.where(labels == IGNORE, 0, objects)
        objects = label(known, background=0, connectivity=1)
    found = separation_map(objects, settings.separation, settings.separation_sigma, spacing)
    if outputs.what == "classes" or outputs.split == "none":
        found[target != 0] = 0  # where they touch, no background is taught
    return np.asarray(1 + found, np.float16)


def _places(target: npt.NDArray[np.uint8]) -> dict[int, npt.NDArray[np.int64]]:
    found: dict[int, Any] = {}
    for value in np.unique(target).tolist():
        if value != IGNORE:
            places = np.flatnonzero(target == value)
            found[value] = places[:: -(-places.size // MAX_PLACES)].astype(np.int64)
    return found
