"""The layout of the Data Science Bowl 2018: a folder for each image, a mask for each object.

`ID/images/*.png` is the image, each file in `ID/masks` shows one nucleus.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from napari_unet.core.datasets.folders import image_files, subfolders
from napari_unet.core.datasets.masks import Labels, LabelsRead
from napari_unet.core.datasets.naming import SPLITS
from napari_unet.core.datasets.pairing import (
    Opening,
    check_sizes,
    image_at,
    sentence_about,
    sizes_in_words,
)
from napari_unet.core.datasets.pairs import Pair
from napari_unet.core.errors import ImageError
from napari_unet.core.files import look_at, read_image

__all__ = ["find_bowl", "has_bowl"]


def has_bowl(path: Path) -> bool:
    """Whether there are folders that hold `images` and `masks`, here or one level deeper."""
    return path.is_dir() and bool(_parts(path))


def _parts(folder: Path) -> list[Path]:
    """The folders whose folders are images: this one, or those in it."""
    return [one for one in (folder, *subfolders(folder)) if any(map(_is_one, subfolders(one)))]


def _is_one(folder: Path) -> bool:
    """Whether a folder holds one image and masks; one with many images is a dataset itself."""
    if folder.name.lower() in SPLITS or not (folder / "masks").is_dir():
        return False
    return (folder / "images").is_dir() and len(image_files(folder / "images")) == 1


def find_bowl(path: Path, opening: Opening) -> list[Pair]:
    """Pairs of images and the objects in all of their masks, numbered in the order of the files."""
    pairs = []
    for part in _parts(path):
        for folder in subfolders(part):
            pair = _pair(folder, SPLITS.get(part.name.lower(), ""), opening)
            pairs += [pair] if pair is not None else []
    return pairs


def _pair(folder: Path, split: str, opening: Opening) -> Pair | None:
    images, masks = (
        image_files(folder / name) if (folder / name).is_dir() else []
        for name in ("images", "masks")
    )
    if len(images) != 1 or not masks:
        opening.say(
            folder, f"The folder {folder.name} has {len(images)} images and {len(masks)} masks; "
            "one image and at least one mask are needed. It is left out.", folder.name,
        )  # fmt: skip
        return None
    try:
        image = image_at(images[0], opening)
        check_sizes(image, images[0], look_at(masks[0]).image, masks[0])
    except ImageError as error:
        said = sentence_about(error, images[0], masks[0])
        opening.say(images[0], f"{said} The image {folder.name} is left out.", folder.name)
        return None
    dtype = np.uint16 if len(masks) < 2**16 else np.int32
    merge = partial(merged, tuple(masks), image.label_shape)
    labels = Labels(image.label_shape, dtype, merge, opening.shelf)
    return Pair(
        key=folder.name, group=folder.name, split=split, image=image, labels=labels,
        path=images[0], labels_path=folder / "masks",
    )  # fmt: skip


def merged(masks: Sequence[Path], shape: tuple[int, ...]) -> LabelsRead:
    """Objects numbered from 1 in the order of their masks; where two overlap, the first one stays.

    Raises
    ------
    ImageError
        If a mask has another size than the image.
    """
    labels = np.zeros(shape, np.uint16 if len(masks) < 2**16 else np.int32)
    n_twice, empty = 0, []
    for number, path in enumerate(masks, start=1):
        image = read_image(path)
        if image.label_shape != shape:
            raise ImageError(
                f"The mask {path.name} has {sizes_in_words(image.label_shape)}, its image "
                f"{path.parent.parent.name} has {sizes_in_words(shape)}; they must be the same."
            )
        mask = image.take((slice(None),) * len(shape)).any(axis=0)  # ([z,] y, x)
        n_twice += int((mask & (labels > 0)).sum())
        labels[mask & (labels == 0)] = number
        empty += [] if mask.any() else [path.name]
    remarks = []
    if n_twice:
        remarks.append(
            f"have {n_twice} px that belong to two objects or more; the one whose file comes "
            "first keeps them."
        )
    if empty:
        remarks.append(f"include {len(empty)} without any object, such as {empty[0]}.")
    return labels, tuple(remarks)
