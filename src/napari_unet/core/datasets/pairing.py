"""An image file and a mask file become a pair, once their heads say that they fit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from napari_unet.core.datasets.lazy import Lazy, Part, Shelf
from napari_unet.core.datasets.masks import Labels, LabelsRead, labels_from
from napari_unet.core.datasets.pairs import Pair, Problem
from napari_unet.core.datasets.settings import DatasetSettings
from napari_unet.core.errors import ImageError
from napari_unet.core.files import look_at, read_image
from napari_unet.core.files.pictures import check_no_jpeg
from napari_unet.core.image import Image

__all__ = [
    "Opening", "check_sizes", "fitted", "image_at", "label_type", "labels_of", "pair_of",
    "sentence_about", "sizes_in_words",
]  # fmt: skip

MOST_CHANNELS = 8
"""An axis that nobody named and that is longer is never taken for channels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Opening:
    """What goes along while a dataset is opened.

    Attributes
    ----------
    settings : how it is read.
    shelf : keeps what is read.
    problems : what was found wrong until now; grows.
    """

    settings: DatasetSettings
    shelf: Shelf = field(default_factory=Shelf)
    problems: list[Problem] = field(default_factory=list)

    def say(self, path: Path | None, sentence: str, key: str = "", is_fatal: bool = False) -> None:
        """Note a problem."""
        self.problems.append(Problem(path=path, sentence=sentence, is_fatal=is_fatal, key=key))


def pair_of(
    key: str,
    image_path: Path,
    labels_path: Path,
    opening: Opening,
    group: str = "",
    split: str = "",
    plane: int | None = None,
) -> Pair | None:
    """A pair of two files, of which only the heads are read; None, and a problem, if it is none.

    `plane` is the one along z that the mask is of, None if it is of the whole image.
    """
    path = image_path
    try:
        image = image_at(image_path, opening)
        image = image if plane is None else _plane_of(image, plane)
        path = labels_path
        check_no_jpeg(labels_path)
        mask = look_at(labels_path).image
        path = image_path
        image = fitted(image, mask.label_shape)
        check_sizes(image, image_path, mask, labels_path)
    except ImageError as error:
        said = sentence_about(error, path)
        opening.say(path, f"{said} The image {image_path.name} is left out.", key)
        return None
    labels = labels_of(labels_path, mask, opening)
    return Pair(
        key=key, group=group or key, split=split, image=image, labels=labels,
        path=image_path, labels_path=labels_path,
    )  # fmt: skip


def sentence_about(error: Exception, *paths: Path) -> str:
    """What an error says, with the files by their names: problems say where these are."""
    sentence = str(error)
    for path in paths:
        sentence = sentence.replace(str(path), f"{path.parent.name}/{path.name}")
    return sentence


def image_at(path: Path, opening: Opening) -> Image:
    """The image in a file, whose pixels are read when they are used.

    Raises
    ------
    ImageError
        If the file is none that can be read.
    """
    axes = opening.settings.axes or None
    seen = look_at(path, axes).image
    if not isinstance(seen.array, np.ndarray) and hasattr(seen.array, "chunks"):
        return seen  # zarr reads window by window by itself
    dtype = np.uint8 if seen.array.dtype == bool else seen.array.dtype
    array = Lazy(seen.array.shape, dtype, partial(_pixels, path, axes), opening.shelf)
    return replace(seen, array=array)


def _plane_of(image: Image, z: int) -> Image:
    at = image.axes.find("z")
    if at < 0 or z >= image.array.shape[at]:
        raise ImageError(
            f"A mask is said to be of plane {z}, but {image.name} has "
            f"{sizes_in_words(image.label_shape)}."
        )
    return replace(image, array=Part(image.array, at, z), axes=image.axes.replace("z", ""))


def _pixels(path: Path, axes: str | None) -> Any:
    return read_image(path, axes).array


def labels_of(path: Path, mask: Image, opening: Opening) -> Labels:
    """The labels in a mask file, whose pixels are read when they are used."""
    read = partial(_labels_at, path, opening.settings)
    return Labels(
        mask.label_shape, label_type(mask.array.dtype, opening.settings), read, opening.shelf
    )


def label_type(dtype: Any, settings: DatasetSettings) -> np.dtype[Any]:
    """The type of labels that are made of a mask of type `dtype`."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b" or settings.values or settings.threshold is not None:
        return np.dtype(np.uint8)
    return np.dtype(np.int32) if dtype.kind == "f" else dtype.newbyteorder("=")


def _labels_at(path: Path, settings: DatasetSettings) -> LabelsRead:
    return labels_from(read_image(path), settings)


def fitted(image: Image, shape: tuple[int, ...]) -> Image:
    """The image with its first or last axis taken for channels, if only then a mask lies on it."""
    axes, size = image.axes, tuple(image.array.shape)
    if "c" in axes or len(axes) != len(shape) + 1 or axes not in ("zyx", "tzyx"):
        return image
    if size[1:] == shape and size[0] <= MOST_CHANNELS:
        return replace(image, axes="c" + axes[1:])
    if size[:-1] == shape and size[-1] <= MOST_CHANNELS:
        return replace(image, axes=axes[1:] + "c")
    return image


def check_sizes(image: Image, image_path: Path, mask: Image, labels_path: Path) -> None:
    """Raise `ImageError` unless image and mask have the same size."""
    if mask.label_shape == image.label_shape:
        return
    raise ImageError(
        f"The image {image_path.name} has {sizes_in_words(image.label_shape)}, its mask "
        f"{labels_path.parent.name}/{labels_path.name} has {sizes_in_words(mask.label_shape)}; "
        f"they must be the same. {_advice(image.label_shape, mask.label_shape)}"
    )


def _advice(image: tuple[int, ...], mask: tuple[int, ...]) -> str:
    if len(image) != len(mask):
        return "One of them is a stack of planes, the other is not."
    if image[::-1] == mask:
        return "One of them lies on its side: rotate it."
    if max(abs(a - b) for a, b in zip(image, mask, strict=True)) <= 2:
        return "They differ by a pixel or two: crop the larger one, on the right side."
    return "Check that the mask belongs to this image, and was not shrunk or cropped."


def sizes_in_words(shape: tuple[int, ...]) -> str:
    """A size in px for a sentence: "512 × 512 px"."""
    return " × ".join(str(n) for n in shape) + " px"
