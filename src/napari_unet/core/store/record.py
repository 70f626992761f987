"""The root `zarr.json` of a store: what it was made for, and what of it is finished.

It is rewritten whole, and flushed to the disk, whenever something is finished; boxes that make
one box are kept as one, so that it stays small however often that happens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_unet.core.errors import ProjectError, SettingsError
from napari_unet.core.store.boxes import Box, united
from napari_unet.core.store.chunks import write_file

__all__ = ["Record", "as_json", "differences"]

FILE = "zarr.json"
MARK = "napari-unet-live result"
VERSION = 1


@dataclass(slots=True, kw_only=True)
class Record:
    """What is known about a store; `write` puts it on the disk.

    Attributes
    ----------
    made_for : JSON values; other ones need another store.
    labels_for : JSON values; with other ones the labels are made anew.
    layout : JSON values; how it was made, whatever is wished later.
    finished : boxes in the label axes.
    labels_done : boxes in the label axes before those of a window.
    """

    made_for: dict[str, Any]
    labels_for: dict[str, Any]
    layout: dict[str, Any]
    finished: tuple[Box, ...] = ()
    labels_done: tuple[Box, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """The record of a store; None if there is none in the folder.

        Raises
        ------
        ProjectError
            If a newer version made it, or it is damaged.
        OSError
            If it cannot be read.
        """
        try:
            about = json.loads((folder / FILE).read_bytes())["attributes"][MARK]
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None
        try:
            if about["version"] > VERSION:
                raise ProjectError(
                    f"The result in {folder} was made by a newer version of napari-unet-live "
                    f"(format {about['version']}, known here: {VERSION}). Update the plugin."
                )
            return cls(
                made_for=dict(about["made_for"]),
                labels_for=dict(about["labels_for"]),
                layout=dict(about["layout"]),
                finished=_boxes(about["finished"]),
                labels_done=_boxes(about["labels_done"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ProjectError(
                f"{folder / FILE} is damaged. Delete {folder} to begin anew, or choose another "
                "folder."
            ) from error

    def write(self, folder: Path) -> None:
        """Put it on the disk for good; raises `OSError` if it cannot be written."""
        about = {
            "version": VERSION,
            "made_for": self.made_for,
            "labels_for": self.labels_for,
            "layout": self.layout,
            "finished": self.finished,
            "labels_done": self.labels_done,
        }
        group = {"zarr_format": 3, "node_type": "group", "attributes": {MARK: about}}
        write_file(folder / FILE, json.dumps(group, ensure_ascii=False).encode())

    def finish(self, folder: Path, box: Box) -> None:
        """A box is final, and on the disk already."""
        self.finished = united(self.finished, box)
        self.write(folder)

    def finish_labels(self, folder: Path, box: Box) -> None:
        """The labels of a plane or volume are final, and on the disk already."""
        self.labels_done = united(self.labels_done, box)
        self.write(folder)


def _boxes(value: Any) -> tuple[Box, ...]:
    return tuple(tuple((int(start), int(stop)) for start, stop in box) for box in value)


def as_json(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The values as a JSON file gives them back, so that they can be compared.

    Raises
    ------
    SettingsError
        If there are other values than JSON has.
    """
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(values), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise SettingsError(
            f"{name} must hold nothing but JSON values (numbers, text, lists, names): {error}."
        ) from error
    return copy


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A phrase for each value that differs, such as "settings.what was 'a' and is 'b' now"."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{name} was {_shown(before, name)} and is {_shown(after, name)} now"
        for name in {**before, **after}
        if _shown(before, name) != _shown(after, name)
    ]


def _leaves(values: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{within}{name}.")
        else:
            yield within + name, value


def _shown(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "not given"
