"""The layout of the Cell Tracking Challenge: `01`, `01_GT/SEG`, `01_ST/SEG`, `02`, ..."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from napari_unet.core.datasets.folders import image_files, subfolders
from napari_unet.core.datasets.naming import listed
from napari_unet.core.datasets.pairing import Opening, pair_of
from napari_unet.core.datasets.pairs import Pair

__all__ = ["find_tracking", "has_tracking"]

_FRAME = re.compile(r"t(\d+)\.tiff?$", re.IGNORECASE)
_MASK = re.compile(r"man_seg_?(\d+)(?:_(\d+))?\.tiff?$", re.IGNORECASE)
_SEQUENCE = re.compile(r"\d+$")

BY_HAND, BY_COMPUTER = "GT", "ST"


def has_tracking(path: Path) -> bool:
    """Whether there are numbered folders with masks beside them, or this is such a folder."""
    return path.is_dir() and bool(_sequences(path))


def _sequences(path: Path) -> list[Path]:
    here = [path] if _SEQUENCE.match(path.name) else []
    numbered = [sub for sub in (*here, *subfolders(path)) if _SEQUENCE.match(sub.name)]
    return [sub for sub in numbered if any(_seg(sub, kind).is_dir() for kind in ("GT", "ST"))]


def _seg(sequence: Path, kind: str) -> Path:
    return sequence.with_name(f"{sequence.name}_{kind}") / "SEG"


def find_tracking(path: Path, opening: Opening) -> list[Pair]:
    """Pairs of frames and their masks; a mask of one slice of a volume makes a pair of planes.

    All pairs of a sequence are one group. Frames without a mask are left out: only a few frames
    of most sequences have one.
    """
    pairs = []
    for sequence in _sequences(path):
        pairs += list(_pairs(sequence, opening))
    return pairs


def _pairs(sequence: Path, opening: Opening) -> Iterator[Pair]:
    frames = {int(m[1]): path for path in image_files(sequence) if (m := _FRAME.match(path.name))}
    masks = _masks(sequence, BY_HAND)
    if opening.settings.silver:
        known = {frame for frame, _ in masks}
        silver = _masks(sequence, BY_COMPUTER)
        masks |= {place: path for place, path in silver.items() if place[0] not in known}
    elif not masks and _masks(sequence, BY_COMPUTER):
        opening.say(
            _seg(sequence, BY_COMPUTER),
            f"The sequence {sequence.name} has only masks made by computers (_ST). It is left "
            "out; switch silver masks on to learn from them.",
        )
    lost = [path.name for (frame, _), path in masks.items() if frame not in frames]
    if lost:
        opening.say(
            sequence, f"The sequence {sequence.name} lacks the frames of {listed(lost)}. These "
            "masks are left out; copy the whole sequence again.",
        )  # fmt: skip
    for (frame, plane), path in sorted(
        masks.items(), key=lambda item: (item[0][0], item[0][1] or 0)
    ):
        if frame in frames:
            key = f"{sequence.name}/{frames[frame].stem}" + (
                "" if plane is None else f" z{plane:03d}"
            )
            pair = pair_of(key, frames[frame], path, opening, group=sequence.name, plane=plane)
            yield from [] if pair is None else [pair]


def _masks(sequence: Path, kind: str) -> dict[tuple[int, int | None], Path]:
    """Mask files by frame and, where they are of one slice of a volume, by slice."""
    folder = _seg(sequence, kind)
    if not folder.is_dir():
        return {}
    found = {}
    for path in image_files(folder):
        match = _MASK.match(path.name)
        if match:
            found[int(match[1]), int(match[2]) if match[2] else None] = path
    return found
