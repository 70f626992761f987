"""What a painted value means, and how paint becomes something to learn from.

A correction is painted on one plane of an image: 0 is untouched and never counts as truth,
1 is background, 2 and up are the model's classes. Corrections are kept and trained on in square
blocks, each with the raw image around it, so that they outlive the image being open. A network
of volumes learns from blocks of `(z, y, x)`, which `volumes.py` puts together from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

from napari_unet.core.errors import CorrectionsError
from napari_unet.core.image import Image

__all__ = [
    "BLOCK_SIZE",
    "CELL_SHAPE",
    "FULL_SCAN_LIMIT",
    "IGNORE",
    "MARGIN",
    "Blocks",
    "Box",
    "CorrectedBlock",
    "Origin",
    "block_at",
    "block_origins",
    "changed_blocks",
    "check_classes",
    "check_corrections",
    "copy_of_block",
    "corrected_blocks",
    "corrections_from_classes",
    "corrections_from_objects",
    "count_corrections",
    "draw_of",
    "hold_out",
    "origins_in",
    "target_of",
]

IGNORE = 255
"""Value of target pixels that never count: untouched, or outside the image."""

BLOCK_SIZE = 256
MARGIN = 64
FULL_SCAN_LIMIT = 2**25
"""Corrections of up to this many px are searched whole when nobody says what changed."""
CELL_SHAPE = (8, 32, 32)
"""Of what is held out together, `([z,] y, x)` in px: neighbouring slices show the same objects."""

Corrections = npt.NDArray[np.uint8]

Origin: TypeAlias = tuple[tuple[int, ...], int, int]
"""Which block: position of its plane along the leading axes, then `y, x` in px."""

Blocks: TypeAlias = dict[Origin, Corrections]
"""Blocks `(y, x)` of corrections, by where they are."""

Box: TypeAlias = tuple[tuple[int, ...], tuple[int, int], tuple[int, int]]
"""Where something was painted: position of the plane, rows from-to, columns from-to."""

_Place: TypeAlias = tuple[object, ...]
"""Where a cell is: key of the image, position of the plane or volume, `[z,] y, x` in px."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CorrectedBlock:
    """A block of painted corrections and the image around it.

    Blocks as they are kept are planes; those of volumes are made for training alone, and may be of
    any size.

    Attributes
    ----------
    index : position along all label axes before `([z,] y, x)`.
    origin : `([z,] y, x)` of `corrections`, in px; multiples of `BLOCK_SIZE` in a plane.
    corrections : `([z,] y, x)` uint8; of a plane at most `BLOCK_SIZE` a side; cut at the image
        border.
    image : raw `(c, [z,] y, x)`; of a plane the block with `MARGIN` px on each side; cut at the
        image border.
    image_origin : `([z,] y, x)` of `image`, in px.
    """

    index: tuple[int, ...]
    origin: tuple[int, ...]
    corrections: Corrections
    image: npt.NDArray[np.generic]
    image_origin: tuple[int, ...]


def check_corrections(image: Image, corrections: npt.NDArray[np.generic], n_classes: int) -> None:
    """Raise `CorrectionsError` unless `corrections` fit the image and the classes."""
    if tuple(corrections.shape) != image.label_shape:
        raise CorrectionsError(
            f"The corrections have the shape {tuple(corrections.shape)}, but {image.name!r} has "
            f"{image.label_shape} ({image.label_axes}). Paint on a layer made for this image."
        )
    if not np.issubdtype(corrections.dtype, np.integer):
        raise CorrectionsError(f"Corrections must be whole numbers, not {corrections.dtype}.")
    lowest, highest = int(corrections.min(initial=0)), int(corrections.max(initial=0))
    if highest > n_classes or lowest < 0:
        raise CorrectionsError(
            f"The corrections hold the value {lowest if lowest < 0 else highest}, but the model "
            f"knows only {n_classes} classes: 0 is untouched, 1 background, up to {n_classes} "
            f"the last class. Erase it, or choose the model it was painted for."
        )


def check_classes(corrections: Corrections, n_classes: int) -> None:
    """Raise `CorrectionsError` if a class is painted that the model does not have."""
    highest = int(corrections.max(initial=0))
    if highest > n_classes:
        raise CorrectionsError(
            f"A painted class ({highest}) is not one of the model's {n_classes} classes. "
            f"Erase it, or choose the model it was painted for."
        )


def block_origins(corrections: npt.NDArray[np.generic]) -> Iterator[Origin]:
    """`(index, y, x)` of every block in which something is painted."""
    height, width = corrections.shape[-2:]
    for index in np.ndindex(*corrections.shape[:-2]):
        plane = corrections[index]
        if not plane.any():
            continue
        for y in range(0, height, BLOCK_SIZE):
            for x in range(0, width, BLOCK_SIZE):
                if plane[y : y + BLOCK_SIZE, x : x + BLOCK_SIZE].any():
                    yield index, y, x


def origins_in(box: Box, shape: tuple[int, ...]) -> Iterator[Origin]:
    """`(index, y, x)` of every block that a box touches, in corrections of `shape`."""
    index, rows, columns = box
    for y in _starts(rows, shape[-2]):
        for x in _starts(columns, shape[-1]):
            yield index, y, x


def copy_of_block(corrections: npt.NDArray[np.integer], origin: Origin) -> Corrections:
    """What is painted in one block `(y, x)`."""
    return np.array(_block(corrections, origin), np.uint8)


def changed_blocks(
    corrections: npt.NDArray[np.integer], origins: Iterable[Origin], before: Blocks
) -> Blocks:
    """Copies of the blocks at `origins` that differ from those `before`; one not there is empty."""
    changed: Blocks = {}
    for origin in origins:
        now, known = _block(corrections, origin), before.get(origin)
        if now.any() if known is None else not np.array_equal(known, now):
            changed[origin] = np.array(now, np.uint8)
    return changed


def _block(corrections: npt.NDArray[np.integer], origin: Origin) -> npt.NDArray[np.integer]:
    index, y, x = origin
    block: npt.NDArray[np.integer] = corrections[index][y : y + BLOCK_SIZE, x : x + BLOCK_SIZE]
    return block


def _starts(part: tuple[int, int], size: int) -> range:
    """Where the blocks begin that `part` of an axis of `size` px touches."""
    first, last = max(0, part[0]), min(part[1], size)
    return range(first // BLOCK_SIZE * BLOCK_SIZE, last if first < last else 0, BLOCK_SIZE)


def block_at(
    image: Image, painted: npt.NDArray[np.integer], index: tuple[int, ...], y: int, x: int
) -> CorrectedBlock:
    """The block with the corrections `painted` `(y, x)` at `(y, x)` of plane `index`."""
    height, width = image.label_shape[-2:]
    top, left = max(0, y - MARGIN), max(0, x - MARGIN)
    window = (
        slice(top, min(height, y + BLOCK_SIZE + MARGIN)),
        slice(left, min(width, x + BLOCK_SIZE + MARGIN)),
    )
    return CorrectedBlock(
        index=index,
        origin=(y, x),
        corrections=np.array(painted, dtype=np.uint8),
        image=image.read(index, window),
        image_origin=(top, left),
    )


def corrected_blocks(
    image: Image, corrections: npt.NDArray[np.generic]
) -> Iterator[CorrectedBlock]:
    """Every block in which something is painted."""
    for index, y, x in block_origins(corrections):
        painted = corrections[index][y : y + BLOCK_SIZE, x : x + BLOCK_SIZE]
        yield block_at(image, painted, index, y, x)


def count_corrections(
    blocks: Mapping[Origin, npt.NDArray[np.integer]],
) -> dict[int, tuple[int, int]]:
    """Pixels and connected regions of each painted value; a region ends where its block ends."""
    counts: dict[int, tuple[int, int]] = {}
    for painted in blocks.values():
        for value in np.unique(painted[painted > 0]):
            mine = painted == value
            pixels, regions = counts.get(int(value), (0, 0))
            found = ndi.label(mine, np.ones((3, 3)))[1]
            counts[int(value)] = (pixels + int(mine.sum()), regions + int(found))
    return counts


def target_of(block: CorrectedBlock) -> Corrections:
    """Class of each pixel of `block.image`, `([z,] y, x)` uint8; `IGNORE` where nobody painted."""
    target = np.full(block.image.shape[1:], IGNORE, np.uint8)
    painted = block.corrections
    sides = zip(block.origin, block.image_origin, painted.shape, strict=True)
    target[tuple(slice(at - start, at - start + n) for at, start, n in sides)] = np.where(
        painted > 0, painted - 1, IGNORE
    )
    return target


def hold_out(
    blocks: Sequence[tuple[str, CorrectedBlock]], share: float = 0.2, n_needed: int = 5
) -> list[npt.NDArray[np.bool_]]:
    """Choose cells of 32 px (and 8 slices) that are scored on and never trained on.

    The choice follows from where a cell is, not from chance: a cell that is held out for its
    place is so in each block that shows it, and stays so in later rounds, whatever is painted
    elsewhere. A class that covers fewer than `n_needed` cells spares none of them, and no class
    spares all. Where no cell of a class falls to the share, one is held out nevertheless;
    another one may take its turn in a later round.

    Parameters
    ----------
    blocks : pairs of a key of the image and a block of it.
    share : share of the cells to hold out; 0 for none.
    n_needed : cells of a class from which on one is held out.

    Returns
    -------
    list of bool arrays `([z,] y, x)`
        For each block, which pixels of its corrections are held out.
    """
    masks = [np.zeros(block.corrections.shape, bool) for _, block in blocks]
    places: dict[_Place, set[int]] = {}  # to the values painted there
    for key, block in blocks:
        for place, part in _cells(key, block):
            places.setdefault(place, set()).update(np.unique(block.corrections[part]).tolist())
    chosen = _chosen({place: values - {0} for place, values in places.items()}, share, n_needed)
    for mask, (key, block) in zip(masks, blocks, strict=True):
        for place, part in _cells(key, block):
            mask[part] = place in chosen
    return masks


def _chosen(places: Mapping[_Place, set[int]], share: float, n_needed: int) -> set[_Place]:
    if share == 0:
        return set()
    by_value: dict[int, list[_Place]] = {}
    for place in sorted(places, key=draw_of):
        for value in places[place]:
            by_value.setdefault(value, []).append(place)
    scarce = {value for value, having in by_value.items() if len(having) < n_needed}
    chosen: set[_Place] = set()
    for value in by_value.keys() - scarce:
        spare = [place for place in by_value[value] if not places[place] & scarce]
        chosen |= {place for place in spare if draw_of(place) < share} or set(spare[:1])
    for having in by_value.values():
        if chosen.issuperset(having):
            chosen.discard(having[-1])
    return chosen


def _cells(key: str, block: CorrectedBlock) -> Iterator[tuple[_Place, tuple[slice, ...]]]:
    """The place of each cell of a block, and where in the block it is."""
    index = tuple(int(n) for n in block.index)
    shape = block.corrections.shape
    sides = [
        range(int(start) // size * size, int(start) + n, size)
        for start, n, size in zip(block.origin, shape, CELL_SHAPE[-len(shape) :], strict=True)
    ]
    for at in product(*sides):
        starts = [place - int(start) for place, start in zip(at, block.origin, strict=True)]
        part = tuple(
            slice(max(0, start), start + side.step)
            for start, side in zip(starts, sides, strict=True)
        )
        yield (key, index, *at), part


def draw_of(place: _Place) -> float:
    """A number in [0, 1) that follows from the place of a cell alone."""
    return int.from_bytes(hashlib.blake2b(repr(place).encode(), digest_size=4).digest()) / 2**32


def corrections_from_objects(objects: npt.NDArray[np.integer]) -> Corrections:
    """Take a mask or an object image `(y, x)` as truth for one class.

    0 becomes background (1), objects become 2; a pixel whose neighbour belongs to another
    object becomes background, so that touching objects learn to stay apart.
    """
    corrections = np.where(objects > 0, 2, 1).astype(np.uint8)
    for axis in (-2, -1):
        ahead = np.roll(objects, -1, axis=axis)
        touching = (objects > 0) & (ahead > 0) & (objects != ahead)
        last = [slice(None)] * objects.ndim
        last[axis] = slice(-1, None)
        touching[tuple(last)] = False
        corrections[touching] = 1
    return corrections


def corrections_from_classes(classes: npt.NDArray[np.integer]) -> Corrections:
    """Take classes `(y, x)` as truth: 0 becomes background (1), class 1 becomes 2, and so on."""
    return (classes + 1).astype(np.uint8)
