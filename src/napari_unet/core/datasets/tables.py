"""A table beside the images: which of them belong together, and what each is for."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from napari_unet.core.datasets.naming import SPLITS, listed
from napari_unet.core.datasets.pairing import Opening
from napari_unet.core.datasets.pairs import Pair
from napari_unet.core.errors import ImageError
from napari_unet.core.files import can_be_image, stem_of

__all__ = ["Table", "check_table", "group_and_split", "read_table"]

TABLE = "index.csv"

Table: TypeAlias = Mapping[str, Mapping[str, str]]
"""Rows, each from column to value, by the names of the images without endings."""


def group_and_split(row: Mapping[str, str]) -> tuple[str, str]:
    """What a row says, "" for what it does not. A group called "train" or so is none."""
    group, split = (str(row.get(name) or "").strip() for name in ("group", "split"))
    group = "" if group.lower() in SPLITS else group
    return group, SPLITS.get(split.lower(), split.lower())


def read_table(folder: Path, opening: Opening) -> Table:
    """Rows of `index.csv` by their `image_id`, without an ending; empty if there is none."""
    path = folder / TABLE
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImageError(
            f"The table {path} cannot be read ({error}). Save it as CSV in UTF-8, or remove it."
        ) from error
    if rows and "image_id" not in rows[0]:
        opening.say(
            path, f"The table {path.name} has no column 'image_id' and is not used. Its columns "
            f"are {listed([str(name) for name in rows[0]], 8)}.",
        )  # fmt: skip
        return {}
    return {_id_of(str(row["image_id"])): row for row in rows}


def _id_of(name: str) -> str:
    path = Path(name.strip())
    return stem_of(path) if can_be_image(path) else path.name


def check_table(table: Table, pairs: Sequence[Pair], folder: Path, opening: Opening) -> None:
    """Say what the table lacks, or says that is not understood."""
    path = folder / TABLE
    stems = {stem_of(pair.path) for pair in pairs if pair.path is not None}
    unlisted = [stem for stem in stems if stem not in table]
    if table and unlisted:
        opening.say(
            path, f"The table {path.name} says nothing about {listed(sorted(unlisted))}. They are "
            "used, each as a group of its own; add them to the table, or remove it.",
        )  # fmt: skip
    known = {"train", "validation", "test", ""}
    for odd in sorted({pair.split for pair in pairs} - known):
        opening.say(
            path, f"The table {path.name} has the split {odd!r}; known are train, validation and "
            "test. Such images are neither trained nor scored on.",
        )  # fmt: skip
