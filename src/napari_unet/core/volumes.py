"""Corrections for networks of volumes: painted planes, put back into the stack they come from.

A stroke lies on one slice, but a network of volumes looks at the slices around it as well.
They are read from the image while it is open, or from a project that has kept them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from napari_unet.core.corrections import CorrectedBlock
from napari_unet.core.errors import CorrectionsError
from napari_unet.core.image import Image

__all__ = ["DEPTH", "Slices", "corrected_volumes", "slices_of", "slices_wanted"]

DEPTH = 16
"""How many slices before and behind a painted one are shown with it."""

AROUND = 96
"""How far around the paint a volume reaches in the plane, in px, if that much was kept."""

Planes = Mapping[int, npt.NDArray[np.generic]]
"""Number of a slice to its raw pixels `(c, y, x)`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slices:
    """The slices of a stack around its corrected blocks.

    Attributes
    ----------
    n : how many slices the stack has.
    read : for a corrected plane and a range of slices: those of them that are at hand, in the
        window of `block.image`.
    """

    n: int
    read: Callable[[CorrectedBlock, range], Planes]


def slices_of(image: Image) -> Slices | None:
    """The slices of an image that is open; None if it has no z axis."""
    if "z" not in image.axes:
        return None
    return Slices(n=image.spatial_shape(3)[0], read=partial(_read, image))


def _read(image: Image, block: CorrectedBlock, wanted: range) -> Planes:
    sides = zip(block.image_origin, block.image.shape[1:], strict=True)
    window = (slice(wanted.start, wanted.stop), *(slice(at, at + n) for at, n in sides))
    volume = image.read(block.index[:-1], window)  # (c, z, y, x)
    return {z: volume[:, i] for i, z in enumerate(wanted)}


def slices_wanted(painted: Iterable[int], n: int, depth: int = DEPTH) -> list[range]:
    """Runs of slices, of a stack of `n`, that lie within `depth` of one that was painted on."""
    runs: list[range] = []
    for z in sorted(painted):
        first, last = max(0, z - depth), min(n, z + depth + 1)
        if runs and first <= runs[-1].stop:
            runs[-1] = range(runs[-1].start, last)
        else:
            runs.append(range(first, last))
    return runs


def corrected_volumes(
    blocks: Sequence[CorrectedBlock], slices: Slices | None
) -> Iterator[CorrectedBlock]:
    """Put the corrected planes of one image together, with the slices around them.

    Parameters
    ----------
    blocks : corrected planes.
    slices : where the slices around them come from; None if the image has no z axis.

    Returns
    -------
    iterator of CorrectedBlock
        With `image` `(c, z, y, x)` and `corrections` `(z, y, x)`. Planes that lie far apart in
        the stack, or that show other parts of the image, are volumes of their own.

    Raises
    ------
    CorrectionsError
        If there is no z axis, or nothing of what lies around a painted slice is at hand.
    """
    columns: dict[tuple[tuple[int, ...], tuple[int, ...]], dict[int, CorrectedBlock]] = {}
    for block in blocks:
        if slices is None or not block.index:
            raise CorrectionsError(
                "Corrections were painted on an image that is no stack (it has no z axis), but "
                "the model works on volumes. Leave that image out, or choose a 2D model."
            )
        column = columns.setdefault((block.index[:-1], block.origin), {})
        column[block.index[-1]] = block
    for _, column in sorted(columns.items(), key=lambda item: item[0]):
        assert slices is not None
        yield from _column(column, slices)


def _column(column: Mapping[int, CorrectedBlock], slices: Slices) -> Iterator[CorrectedBlock]:
    """The volumes of the planes that lie one behind the other; number of the slice to plane."""
    for run in slices_wanted(column, slices.n):
        mine = {z: block for z, block in column.items() if z in run}
        if not mine:  # painted on a stack that has fewer slices now
            continue
        some = next(iter(mine.values()))
        planes = {
            z: plane
            for z, plane in slices.read(some, run).items()
            if plane.shape == some.image.shape
        }
        if not planes.keys() - mine.keys() and len(run) > len(mine):
            raise CorrectionsError(
                "Corrections of a stack are kept without the slices around them, since they were "
                "painted for a 2D model. Open that image again, so that its slices can be read, "
                "or choose a 2D model."
            )
        planes |= {z: block.image for z, block in mine.items()}
        for part in slices_wanted(planes, slices.n, depth=0):
            painted = {z: block.corrections for z, block in mine.items() if z in part}
            if painted:
                yield _volume(some, np.stack([planes[z] for z in part], axis=1), part, painted)


def _volume(
    some: CorrectedBlock,
    image: npt.NDArray[np.generic],
    part: range,
    painted: Mapping[int, npt.NDArray[np.uint8]],
) -> CorrectedBlock:
    """The slices `part` `(c, z, y, x)` of a column, cut to the surroundings of the paint."""
    first, last = min(painted), max(painted)
    corrections = np.zeros((last - first + 1, *some.corrections.shape), np.uint8)
    for z, plane in painted.items():
        corrections[z - first] = plane
    sides, shown, origin, image_origin = [], [], [first], [part.start]
    for axis, (start, image_start) in enumerate(zip(some.origin, some.image_origin, strict=True)):
        known = np.flatnonzero(corrections.any(axis=(0, 2 - axis)))
        side = slice(int(known[0]), int(known[-1]) + 1)
        nearest = max(0, start + side.start - AROUND - image_start)
        shown.append(slice(nearest, start + side.stop + AROUND - image_start))
        sides.append(side)
        origin.append(start + side.start)
        image_origin.append(image_start + nearest)
    return CorrectedBlock(
        index=some.index[:-1],
        origin=tuple(origin),
        corrections=corrections[:, sides[0], sides[1]],
        image=np.ascontiguousarray(image[:, :, shown[0], shown[1]]),
        image_origin=tuple(image_origin),
    )
