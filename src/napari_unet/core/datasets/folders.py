"""Folders of images and masks: side by side, or in two folders, with or without a table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from napari_unet.core.datasets.naming import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    SPLITS,
    is_mask_name,
    listed,
    natural,
    number_of,
    plain_stem,
)
from napari_unet.core.datasets.pairing import Opening, pair_of
from napari_unet.core.datasets.pairs import Pair
from napari_unet.core.datasets.tables import Table, check_table, group_and_split, read_table
from napari_unet.core.errors import ImageError
from napari_unet.core.files import can_be_image, stem_of

__all__ = ["find_folders", "find_side_by_side", "has_folders", "has_side_by_side"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where images and their masks are, and what split that is."""

    images: Path
    masks: Path
    split: str = ""
    others: tuple[str, ...] = ()


def image_files(folder: Path) -> list[Path]:
    """The files (and zarr groups) in a folder that can be images, in natural order."""
    return [path for path in _inside(folder) if can_be_image(path)]


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder that are not images themselves, in natural order."""
    return [path for path in _inside(folder) if path.is_dir() and not can_be_image(path)]


def _inside(folder: Path) -> list[Path]:
    try:
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise ImageError(
            f"The folder {folder} cannot be read ({error.strerror or error}). Check that you may."
        ) from error
    return sorted(paths, key=lambda path: natural(path.name))


def has_folders(folder: Path, images: str = "", masks: str = "") -> bool:
    """Whether there are folders named like images and like masks, or so."""
    if not folder.is_dir() or can_be_image(folder):
        return False
    return next(_places(folder, images, masks), None) is not None


def find_folders(folder: Path, opening: Opening) -> list[Pair]:
    """Pairs of the files in two folders; in parts for training and testing, or not.

    Raises
    ------
    ImageError
        If there are no such folders.
    """
    chosen = opening.settings
    places = list(_places(folder, chosen.images, chosen.masks))
    if not places:
        raise ImageError(
            f"There are no folders of images and of masks in {folder}. Name them 'images' and "
            "'masks', or say what they are called."
        )
    table = read_table(folder, opening)
    pairs: list[Pair] = []
    for place in places:
        if place.others:
            opening.say(
                place.masks,
                f"Masks are taken from the folder {place.masks.name!r}; there is also "
                f"{listed(place.others)}. Name the one to take if this is wrong.",
            )
        matched = _matched(image_files(place.images), image_files(place.masks), opening)
        start = f"{place.split}/" if place.split and len(places) > 1 else ""
        pairs += _pairs(matched, table, opening, start, place.split)
    check_table(table, pairs, folder, opening)
    return pairs


def _places(folder: Path, images: str, masks: str) -> Iterator[_Place]:
    """`images` and `masks` here; or in `train`, `test`, ...; or these in `images` and `masks`."""
    here = _place(folder, images, masks)
    if here is not None:
        parts = {sub.name.lower(): sub for sub in subfolders(here.images)}
        mask_parts = {sub.name.lower(): sub for sub in subfolders(here.masks)}
        both = [name for name in parts if name in mask_parts and name in SPLITS]
        if both and not image_files(here.images):
            for name in both:
                yield _Place(images=parts[name], masks=mask_parts[name], split=SPLITS[name])
            return
        yield here
        return
    for sub in subfolders(folder):
        if sub.name.lower() in SPLITS:
            place = _place(sub, images, masks)
            if place is not None:
                yield replace(place, split=SPLITS[sub.name.lower()])


def _place(folder: Path, images: str, masks: str) -> _Place | None:
    named = {sub.name.lower(): sub for sub in subfolders(folder)}
    image_names = [images.lower()] if images else IMAGE_FOLDERS
    mask_names = [masks.lower()] if masks else MASK_FOLDERS
    image_folder = next((named[name] for name in image_names if name in named), None)
    found = [named[name] for name in mask_names if name in named and named[name] != image_folder]
    if image_folder is None or not found:
        return None
    others = tuple(path.name for path in found[1:])
    return _Place(images=image_folder, masks=found[0], others=others)


def has_side_by_side(path: Path) -> bool:
    """Whether there is an image file with a mask file beside it, or this is such a file."""
    if path.is_dir() and can_be_image(path):
        return False
    return bool(_sides_by_split(path))


def find_side_by_side(path: Path, opening: Opening) -> list[Pair]:
    """Pairs of files in one folder, of which the masks are named so: "a.tif", "a_mask.tif".

    Also in folders for training and testing. Of a file, the one pair that it belongs to.
    """
    folder = path if path.is_dir() else path.parent
    table = read_table(folder, opening)
    pairs: list[Pair] = []
    for split, (images, masks) in _sides_by_split(path).items():
        start = f"{split}/" if split else ""
        pairs += _pairs(_matched(images, masks, opening), table, opening, start, split)
    check_table(table, pairs, folder, opening)
    return pairs


def _sides_by_split(path: Path) -> dict[str, tuple[list[Path], list[Path]]]:
    """Images and masks by what they are for: those here, else those in `train`, `test`, ..."""
    here = _sides(path)
    if _are_pairs(*here):
        return {"": here}
    parts = subfolders(path) if path.is_dir() else []
    found = {SPLITS[p.name.lower()]: _sides(p) for p in parts if p.name.lower() in SPLITS}
    return {split: sides for split, sides in found.items() if _are_pairs(*sides)}


def _are_pairs(images: Sequence[Path], masks: Sequence[Path]) -> bool:
    stems = {plain_stem(image, False) for image in images}
    return any(plain_stem(mask, True) in stems for mask in masks)


def _sides(path: Path) -> tuple[list[Path], list[Path]]:
    files = image_files(path if path.is_dir() else path.parent)
    images = [p for p in files if not is_mask_name(p)]
    masks = [p for p in files if is_mask_name(p)]
    if path.is_dir():
        return images, masks
    stem = plain_stem(path, is_mask_name(path))
    return (
        [p for p in images if plain_stem(p, False) == stem],
        [p for p in masks if plain_stem(p, True) == stem],
    )


def _matched(
    images: Sequence[Path], masks: Sequence[Path], opening: Opening
) -> list[tuple[str, Path, Path]]:
    """Images and masks of the same name, with that name; what is left over is a problem."""
    exact = _by(stem_of, images), _by(stem_of, masks)
    plain = (
        _by(partial(plain_stem, is_mask=False), images),
        _by(partial(plain_stem, is_mask=True), masks),
    )
    numbers = _by(number_of, images), _by(number_of, masks)
    image_of, mask_of = max((exact, plain), key=_n_shared)
    if not _n_shared((image_of, mask_of)) and _n_shared(numbers):
        image_of, mask_of = numbers
    shared = [name for name in image_of if name in mask_of]
    if (image_of, mask_of) == numbers and shared:
        opening.say(
            mask_of[shared[0]][0].parent,
            "The names of images and masks differ, so they were matched by their numbers: "
            f"{image_of[shared[0]][0].name} with {mask_of[shared[0]][0].name}, and so on. "
            "Give masks the names of their images if this is wrong.",
        )
    _say_left_over(image_of, mask_of, opening)
    _say_twice(image_of, mask_of, opening)
    return [
        (stem_of(image_of[name][0]), image_of[name][0], mask_of[name][0])
        for name in shared
        if len(image_of[name]) == len(mask_of[name]) == 1
    ]


_Named = Mapping[str, list[Path]]


def _n_shared(sides: tuple[_Named, _Named]) -> int:
    return len(sides[0].keys() & sides[1].keys())


def _by(name_of: Callable[[Path], str], paths: Sequence[Path]) -> _Named:
    """Files by what they are matched by, in their order; without those for which that is ""."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        found[name_of(path)].append(path)
    found.pop("", None)
    return found


def _say_left_over(image_of: _Named, mask_of: _Named, opening: Opening) -> None:
    for name, paths in image_of.items():
        if name not in mask_of:
            opening.say(
                paths[0], f"The image {paths[0].name} has no mask. It is left out; save its mask "
                "under the same name if it is to be used.",
            )  # fmt: skip
    for name, paths in mask_of.items():
        if name not in image_of:
            opening.say(
                paths[0], f"The mask {paths[0].name} has no image. It is left out; look for the "
                "image, or whether one of the two was renamed.",
            )  # fmt: skip


def _say_twice(image_of: _Named, mask_of: _Named, opening: Opening) -> None:
    for name in image_of:
        for kind, paths in (("images", image_of[name]), ("masks", mask_of.get(name, []))):
            if len(paths) > 1 and name in mask_of:
                names = [path.name for path in paths]
                opening.say(
                    paths[0], f"There are {len(paths)} {kind} of the same name: {listed(names)}. "
                    "They are left out; keep one of them, or rename them.",
                )  # fmt: skip


def _pairs(
    matched: Sequence[tuple[str, Path, Path]],
    table: Table,
    opening: Opening,
    start: str = "",
    split: str = "",
) -> list[Pair]:
    """Pairs with the groups and splits of the table, where there is one."""
    found = []
    for name, image, mask in matched:
        group, stated = group_and_split(table.get(name, {}))
        pair = pair_of(start + name, image, mask, opening, group, stated or split)
        if pair is not None:
            found.append(pair)
    return found
