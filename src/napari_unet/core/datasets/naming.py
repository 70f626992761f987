"""Names of files: their natural order, their stems, and which image goes with which mask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from napari_unet.core.files import stem_of

__all__ = [
    "IMAGE_FOLDERS", "MASK_FOLDERS", "SPLITS", "is_mask_name", "listed", "natural", "number_of",
    "plain_stem", "runs",
]  # fmt: skip

IMAGE_WORDS = ("image", "img", "im", "raw", "input", "picture", "pic", "volume", "stack", "images")
MASK_WORDS = (
    "mask", "label", "labels", "masks", "gt", "groundtruth", "ground_truth", "annotation",
    "annotations", "seg", "segmentation", "instances", "instance", "manual", "target", "targets",
)  # fmt: skip

IMAGE_FOLDERS = (
    "images", "image", "imgs", "img", "raw", "inputs", "input", "pictures", "originals", "x",
)  # fmt: skip
MASK_FOLDERS = (
    "masks", "mask", "labels", "label", "gt", "groundtruth", "ground_truth", "annotations",
    "annotation", "segmentations", "segmentation", "segs", "seg", "instances", "targets", "target",
    "y",
)  # fmt: skip
"""Folders' names in the order in which they are looked for, compared in lower case."""

SPLITS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation",
    "validation": "validation", "test": "test", "testing": "test",
}  # fmt: skip
"""How parts of a dataset are called, and what they are."""

LONG = 40
"""Letters of a name that are shown in a list."""

_MASK_END = re.compile(rf"(.+?)[ ._-]+(?:{'|'.join(MASK_WORDS)})$", re.IGNORECASE)
_MASK_START = re.compile(rf"(?:{'|'.join(MASK_WORDS)})[ ._-]+(.+)$", re.IGNORECASE)
_IMAGE_END = re.compile(rf"(.+?)[ ._-]+(?:{'|'.join(IMAGE_WORDS)})$", re.IGNORECASE)
_IMAGE_START = re.compile(rf"(?:{'|'.join(IMAGE_WORDS)})[ ._-]+(.+)$", re.IGNORECASE)


def natural(text: str | Path) -> tuple[tuple[int, int, str], ...]:
    """What sorts names as people do: "img2" before "img10"."""
    parts = re.split(r"(\d+)", str(text))
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p.lower()) for p in parts if p)


def is_mask_name(path: Path) -> bool:
    """Whether the name of a file says that it is a mask: "a_mask.tif"."""
    stem = stem_of(path)
    return bool(_MASK_END.match(stem) or _MASK_START.match(stem))


def plain_stem(path: Path, is_mask: bool) -> str:
    """The stem without what says that it is a mask, or an image: "a" of "a_mask.tif"."""
    stem = stem_of(path)
    ends = (_MASK_END, _MASK_START) if is_mask else (_IMAGE_END, _IMAGE_START)
    for pattern in ends:
        found = pattern.match(stem)
        if found:
            return found.group(1)
    return stem


def number_of(path: Path) -> str:
    """The last number in the name of a file: 7 of "labels00000007.png"; "" if there is none."""
    numbers = re.findall(r"\d+", stem_of(path))
    return str(int(numbers[-1])) if numbers else ""


def runs(n: int, block: int) -> list[tuple[int, int]]:
    """Runs of `block` consecutive places of `n`: first, and one after the last.

    What is left over, if it is less than half a block, belongs to the last one.
    """
    n_blocks = max(1, (n + block // 2) // block) if block else 1
    return [(i * block, n if i == n_blocks - 1 else (i + 1) * block) for i in range(n_blocks)]


def listed(names: Sequence[str], most: int = 3) -> str:
    """A few names for a sentence: "a, b, c and 4 more"; long ones are cut short."""
    short = [name if len(name) <= LONG else f"{name[: LONG - 1]}…" for name in names[:most]]
    shown = ", ".join(short)
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
