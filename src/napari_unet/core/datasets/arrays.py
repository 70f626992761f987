"""Images and masks that are open already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from napari_unet.core.datasets.masks import Labels, LabelsRead, labels_from
from napari_unet.core.datasets.pairing import Opening, fitted, label_type, sizes_in_words
from napari_unet.core.datasets.pairs import Dataset, Pair
from napari_unet.core.datasets.settings import DatasetSettings
from napari_unet.core.datasets.stacks import arranged
from napari_unet.core.errors import ImageError
from napari_unet.core.image import Image, make_image

__all__ = ["of_arrays"]


def of_arrays(
    images: Sequence[tuple[Any, Any]],
    axes: str | None = None,
    settings: DatasetSettings | None = None,
) -> Dataset:
    """A dataset of images and masks in memory, or on disk and read when used.

    Parameters
    ----------
    images : images, each an `Image` or an array, with their masks: whole numbers, one for each
        px. Masks of an `Image` are in its label axes; those of an array have the order of its
        axes, without the channels.
    axes : a letter for each dimension of the images that are arrays; None to guess.
    settings : how they are read; None for the defaults.

    Raises
    ------
    ImageError
        If there are none, or a mask does not lie on its image.
    """
    opening = Opening(settings=settings or DatasetSettings())
    if not images:
        raise ImageError("There are no images to learn from. Give at least one, with its mask.")
    keys = _keys([image for image, _ in images])
    pairs = [
        _pair(key, image, labels, axes, opening)
        for key, (image, labels) in zip(keys, images, strict=True)
    ]
    arranged_pairs = arranged(pairs, opening.settings)
    return Dataset(layout="arrays", pairs=arranged_pairs, problems=tuple(opening.problems))


def _keys(images: Sequence[Any]) -> list[str]:
    """The names of the images where they have some of their own, else numbers from 1."""
    names = [image.name if isinstance(image, Image) else "image" for image in images]
    return [
        name if names.count(name) == 1 and isinstance(image, Image) else f"{name} {number}"
        for number, (name, image) in enumerate(zip(names, images, strict=True), start=1)
    ]


def _pair(key: str, image: Any, labels: Any, axes: str | None, opening: Opening) -> Pair:
    labels = _array_of(labels)
    if not isinstance(image, Image):
        letters = axes or opening.settings.axes or None
        image = fitted(make_image(image, letters, key), tuple(labels.shape))
        if len(labels.shape) == len(image.label_order):
            labels = image.to_label_order(labels)
    shape = tuple(int(n) for n in labels.shape)
    if shape != image.label_shape:
        raise ImageError(
            f"{image.name!r} has {sizes_in_words(image.label_shape)}, its mask has "
            f"{sizes_in_words(shape)}; they must be the same."
        )
    read = _Whole(labels, f"of {image.name!r}", opening.settings)
    array = Labels(shape, label_type(labels.dtype, opening.settings), read, opening.shelf)
    return Pair(key=key, group=key, image=image, labels=array)


def _array_of(labels: Any) -> Any:
    return labels if hasattr(labels, "shape") and hasattr(labels, "dtype") else np.asarray(labels)


class _Whole:
    """Reads labels as a mask file would be read."""

    def __init__(self, labels: Any, name: str, settings: DatasetSettings) -> None:
        self._labels, self._name, self._settings = labels, name, settings

    def __call__(self) -> LabelsRead:
        axes = "pqtzyx"[-len(self._labels.shape) :]
        return labels_from(Image(array=self._labels, axes=axes, name=self._name), self._settings)
