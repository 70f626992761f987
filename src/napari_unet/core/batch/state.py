"""What a batch has done so far, in a small file that is always whole."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from napari_unet.core.errors import ImageError
from napari_unet.core.whole_file import write_whole

__all__ = ["STATE", "Entry", "State", "read_state", "sizes_of", "write_json", "write_text"]

STATE = "batch.json"
FORMAT = "napari-unet-live batch"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image of a batch, and what became of it.

    Attributes
    ----------
    name, source : of its results, and where the image is.
    status : "waiting", "done", "failed" (while it was worked on) or "refused" (beforehand).
    error : why it failed or was refused.
    row, column, field : where it is on a plate.
    signature : size and time of the last change of the image when it was read.
    outputs : files of results, relative to the folder of all results, to their size in bytes.
    axes, shape : of the labels.
    pixel_size : edge of a px in µm; None if it is not known, or y and x differ.
    dims : 2 where objects are areas in planes, 3 where they are volumes.
    count, area_fraction : objects, and the share of the image that is not background.
    median_px, median_um : median area or volume of the objects, in px, and in µm² or µm³.
    seconds : that the image took.
    way, is_resampled : how the network was run, and whether at another size of a px.
    made_by, made_on : version of napari-unet-live, and the device.
    """

    name: str
    source: str
    status: Literal["waiting", "done", "failed", "refused"] = "waiting"
    error: str = ""
    row: str = ""
    column: str = ""
    field: str = ""
    signature: tuple[int, ...] = ()
    outputs: Mapping[str, int] = dataclasses.field(default_factory=dict)
    axes: str = ""
    shape: tuple[int, ...] = ()
    pixel_size: float | None = None
    dims: int = 2
    count: int | None = None
    area_fraction: float | None = None
    median_px: float | None = None
    median_um: float | None = None
    seconds: float | None = None
    way: str = ""
    is_resampled: bool = False
    made_by: str = ""
    made_on: str = ""

    @property
    def median_area_px(self) -> float | None:
        """Median area of the objects in px."""
        return self.median_px if self.dims == 2 else None

    @property
    def median_area_um2(self) -> float | None:
        """Median area of the objects in µm²."""
        return self.median_um if self.dims == 2 else None

    @property
    def median_volume_px(self) -> float | None:
        """Median volume of the objects in voxels."""
        return self.median_px if self.dims == 3 else None

    @property
    def median_volume_um3(self) -> float | None:
        """Median volume of the objects in µm³."""
        return self.median_um if self.dims == 3 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All entries by name, and what they were made with: equal values, equal results."""

    made_with: Mapping[str, Any]
    entries: Mapping[str, Entry] = dataclasses.field(default_factory=dict)

    def with_entry(self, entry: Entry) -> State:
        """The state after something became of an image."""
        return replace(self, entries={**self.entries, entry.name: entry})

    def write(self, folder: Path) -> None:
        """Write it to `folder`; raises `ImageError` if that is not possible."""
        entries = [_small(entry) for entry in self.entries.values()]
        about = {"format": FORMAT, "version": VERSION, "made_with": self.made_with}
        write_json(folder / STATE, {**about, "images": entries}, indent=None)


def _small(entry: Entry) -> dict[str, Any]:
    return {key: value for key, value in asdict(entry).items() if value not in ("", None, {}, ())}


def read_state(folder: Path) -> State | None:
    """The state of the batch whose results are in `folder`; None if there is none.

    Raises
    ------
    ImageError
        If the file is damaged, or of a newer version.
    """
    path = folder / STATE
    try:
        about = json.loads(path.read_bytes())
        if about["format"] != FORMAT or int(about["version"]) > VERSION:
            raise ValueError(f"format {about['format']} {about['version']}")
        entries = [_entry(values) for values in about["images"]]
        return State(made_with=about["made_with"], entries={one.name: one for one in entries})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ImageError(
            f"{path} cannot be understood ({error}), so it is not known what is done. "
            "Choose another folder for the results, or begin anew (--overwrite)."
        ) from error


def _entry(values: Mapping[str, Any]) -> Entry:
    lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    return Entry(**{**values, **lists})


def sizes_of(paths: Mapping[str, Path]) -> dict[str, int]:
    """Size in bytes of each of the named files that is there; 0 for a zarr group."""
    return {
        name: 0 if path.is_dir() else path.stat().st_size
        for name, path in paths.items()
        if path.exists()
    }


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write JSON, whole or not at all; raises `ImageError` if that is not possible."""
    text = json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)
    write_text(path, f"{text}\n")


def _finite(content: Any) -> Any:
    """The same with None for not-a-number and infinities, which JSON does not know."""
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_text(path: Path, text: str) -> None:
    """Write text, whole or not at all; raises `ImageError` if that is not possible."""
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise ImageError(
            f"{path} could not be written ({error.strerror or error}). Check that the disk is "
            "not full and that you may write there, or choose another folder."
        ) from error
