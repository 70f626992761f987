"""The layout of the Cell Tracking Challenge: `01`, `01_GT/SEG`, `01_ST/SEG`, `02`, ..."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from napari_unet.core.datasets.folders import image_files, subfolders
from napari_unet.core.datasets.naming import listed
from napari_unet.core.datasets.pairing import Opening, image_at, pair_of
from napari_unet.core.datasets.pairs import Pair
from napari_unet.core.datasets.partial import compared_with_tracks, filled_from_slices

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

    If volumes are wanted, all slices of a frame make one pair: the whole volume, and labels that
    are -1 (unknown) in the planes between. Cells that have a marker in the tracks (`_GT/TRA`) but
    are not in the mask are unknown, too: reference masks may be of some cells only.

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
    by_frame: dict[int, dict[int | None, Path]] = {}
    for (frame, plane), path in masks.items():
        if frame in frames:
            by_frame.setdefault(frame, {})[plane] = path
    found = [
        pair
        for frame in sorted(by_frame)
        for pair in _of_frame(sequence, frame, frames[frame], by_frame[frame], opening)
    ]
    if opening.settings.planes == "volume":
        _say_of_volumes(sequence, found, by_frame, opening)
    yield from found


_ByPlane = Mapping[int | None, Path]
"""Masks by the plane that they are of, None for the whole frame."""


def _of_frame(
    sequence: Path, frame: int, path: Path, masks: _ByPlane, opening: Opening
) -> list[Pair]:
    """A pair for each mask of a frame; if volumes are wanted, one with all that is known."""
    key = f"{sequence.name}/{path.stem}"
    wants_volume = opening.settings.planes == "volume"
    found: dict[int | None, Pair] = {}
    for plane in sorted(masks, key=lambda plane: -1 if plane is None else plane):
        if wants_volume and None in masks and plane is not None:
            continue  # the whole frame is known
        own = key if plane is None else f"{key} z{plane:03d}"
        pair = pair_of(own, path, masks[plane], opening, group=sequence.name, plane=plane)
        if pair is not None:
            found[plane] = _compared(pair, sequence, frame, plane, opening)
    slices = {plane: pair for plane, pair in found.items() if plane is not None}
    return [_whole(key, path, slices, opening)] if wants_volume and slices else [*found.values()]


def _whole(key: str, path: Path, slices: Mapping[int, Pair], opening: Opening) -> Pair:
    """The volume of which some slices are annotated; -1 (unknown) in the other planes."""
    first = next(iter(slices.values()))
    image = image_at(path, opening)
    labels = filled_from_slices(
        image.label_shape, {plane: pair.labels for plane, pair in slices.items()}, opening
    )
    masks = first.labels_path
    folder = masks if masks is None or len(slices) == 1 else masks.parent
    return replace(first, key=key, image=image, labels=labels, labels_path=folder)


def _compared(pair: Pair, sequence: Path, frame: int, plane: int | None, opening: Opening) -> Pair:
    """The pair, with cells unknown that the tracks mark and the mask lacks."""
    tracks = _tracks(sequence, frame)
    if tracks is None:
        return pair
    return replace(pair, labels=compared_with_tracks(pair.labels, tracks, plane, opening))


def _tracks(sequence: Path, frame: int) -> Path | None:
    """The file of the markers of a frame, if there is one."""
    folder = sequence.with_name(f"{sequence.name}_{BY_HAND}") / "TRA"
    named = [folder / f"man_track{frame:0{digits}d}.tif" for digits in (3, 4)]
    return next((path for path in named if path.is_file()), None)


def _say_of_volumes(
    sequence: Path, pairs: Sequence[Pair], masks: Mapping[int, _ByPlane], opening: Opening
) -> None:
    if any(pair.image.label_axes == "yx" for pair in pairs):
        opening.say(
            sequence, f"The frames of the sequence {sequence.name} are single planes: moments, "
            "not sections of a volume. They are not put one upon the other; train a network of "
            "planes on them.",
        )  # fmt: skip
    sparse = [planes for planes in masks.values() if None not in planes]
    n = sum(len(planes) for planes in sparse)
    if n and any(pair.image.label_axes != "yx" for pair in pairs):
        opening.say(
            sequence, f"In the sequence {sequence.name}, {len(sparse)} "
            f"volume{'s are' if len(sparse) > 1 else ' is'} annotated in single slices ({n} in "
            "all). Their other planes are taken as unknown and not trained on.",
        )  # fmt: skip


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
