"""The tables of a batch: CSV that spreadsheets, R and pandas open as it is."""

from __future__ import annotations

import csv
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from napari_unet.core.batch.state import Entry
from napari_unet.core.errors import ImageError
from napari_unet.core.image import Image
from napari_unet.core.measurements import Measurements

__all__ = ["Columns", "join_tables", "median", "summary_of", "whole_text", "write_summary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of the table of one image.

    Attributes
    ----------
    image, name : the image, and what the table calls it.
    dims : 2 where objects are areas in planes, 3 where they are volumes.
    class_names : by number, from 0, the background.
    """

    image: Image
    name: str
    dims: int
    class_names: tuple[str, ...]

    @property
    def steps(self) -> str:
        """The axes along which planes or volumes follow each other, if there are several."""
        shape = self.image.label_shape[: -self.dims]
        axes = self.image.label_axes[: -self.dims]
        return "".join(axis for axis, n in zip(axes, shape, strict=True) if n > 1)

    @property
    def space(self) -> str:
        """The axes within a plane or volume."""
        return self.image.label_axes[-self.dims :]

    @property
    def unit(self) -> float | None:
        """µm² of a px or µm³ of a voxel; None if it is not known."""
        sizes = [self.image.pixel_size.get(axis) for axis in self.space]
        return None if None in sizes else math.prod(size for size in sizes if size)

    def header(self) -> list[str]:
        """The names of all columns."""
        size = "area" if self.dims == 2 else "volume"
        return [
            "image", "label", "class", *self.steps, f"{size}_px",
            *([f"{size}_um{self.dims}"] if self.unit else []),
            *(f"centroid_{axis}" for axis in self.space),
            *(f"{axis}_{end}" for axis in self.space for end in ("min", "max")),
            *(
                f"{what}_ch{channel}"
                for channel in range(self.image.n_channels)
                for what in ("mean", "min", "max", "integrated")
            ),
        ]  # fmt: skip

    def rows(self, index: tuple[int, ...], found: Measurements) -> Iterator[list[str]]:
        """A row for each object of the plane or volume at `index`."""
        axes = self.image.label_axes
        place = [str(at) for axis, at in zip(axes, index, strict=False) if axis in self.steps]
        is_whole = np.dtype(self.image.array.dtype).kind in "biu"
        values = np.stack([found.means, found.minima, found.maxima, found.sums], axis=2)
        ends = np.stack([found.lowest, found.highest], axis=2).reshape(len(found), 2 * self.dims)
        classes = found.classes if len(self.class_names) > 2 else np.ones(len(found), int)
        for at in range(len(found)):
            size = int(found.sizes[at])
            measured = (
                _number(value, is_whole and what > 0)
                for channel in values[at]
                for what, value in enumerate(channel)
            )
            yield [
                self.name, str(found.labels[at]), self._class_name(int(classes[at])),
                *place, str(size), *([_number(size * self.unit)] if self.unit else []),
                *(f"{middle:.2f}" for middle in found.centroids[at]),
                *(str(end) for end in ends[at]), *measured,
            ]  # fmt: skip

    def _class_name(self, number: int) -> str:
        return self.class_names[number] if 0 < number < len(self.class_names) else ""


def _number(value: float, is_whole: bool = False) -> str:
    """Whole numbers in full, others with seven digits."""
    return str(int(value)) if is_whole else f"{value:.7g}"


def median(sizes: Iterable[npt.NDArray[np.int64]]) -> float | None:
    """The median of all sizes; None if there are none."""
    every = np.concatenate([np.zeros(0, np.int64), *sizes])
    return float(np.median(every)) if every.size else None


@contextmanager
def whole_text(path: Path) -> Iterator[TextIO]:
    """Write a text file line by line that appears whole or not at all.

    Raises
    ------
    ImageError
        If it cannot be written.
    """
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = temporary.open("x", encoding="utf-8", newline="")
    try:
        with file:
            yield file  # NOTE: an error in what is done meanwhile is not one of writing
            with _writing(path):
                file.flush()
                os.fsync(file.fileno())
        with _writing(path):
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ImageError(
            f"{path} could not be written ({error.strerror or error}). Check that the disk is "
            "not full and that you may write there, or choose another folder."
        ) from error


def join_tables(path: Path, tables: Sequence[Path]) -> None:
    """Write all tables as one, with every column that any of them has."""
    columns: dict[str, None] = {}
    for table in tables:
        with table.open(encoding="utf-8", newline="") as file:
            columns |= dict.fromkeys(next(csv.reader(file)))
    with whole_text(path) as file:
        writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        for table in tables:
            with table.open(encoding="utf-8", newline="") as part:
                writer.writerows(csv.DictReader(part))


SUMMARY = {
    "image": "name", "row": "row", "column": "column", "field": "field", "source": "source",
    "axes": "axes", "shape": "shape", "pixel_size_um": "pixel_size", "count": "count",
    "area_fraction": "area_fraction", "median_area_px": "median_area_px",
    "median_area_um2": "median_area_um2", "median_volume_px": "median_volume_px",
    "median_volume_um3": "median_volume_um3", "seconds": "seconds", "status": "status",
    "error": "error",
}  # fmt: skip
"""Column to attribute of an entry."""

SPECIAL = ("row", "column", "field", "median_volume_px", "median_volume_um3")
"""Columns that are left out where no image has anything for them."""


def summary_of(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """One row for each image, by column."""
    columns = [
        name
        for name, attribute in SUMMARY.items()
        if name not in SPECIAL or any(getattr(entry, attribute) for entry in entries)
    ]
    return [{name: getattr(entry, SUMMARY[name]) for name in columns} for entry in entries]


def write_summary(path: Path, entries: Sequence[Entry]) -> None:
    """Write one row for each image; raises `ImageError` if it cannot be written."""
    rows = summary_of(entries)
    with whole_text(path) as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return " x ".join(str(one) for one in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else " ".join(str(value).split())
