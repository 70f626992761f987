"""OME-Zarr plates, versions 0.4 and 0.5, and other groups of several images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_unet.core.errors import ImageError
from napari_unet.core.files.content import reading

__all__ = ["Field", "attributes_of", "fields_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One image of a plate or of another zarr group that holds several.

    Attributes
    ----------
    path : the folder of the image.
    name : "B03_0" for field "0" in row "B" and column "03"; the image's own name elsewhere.
    row, column, field : where it is on the plate; empty outside of plates.
    problem : a sentence if the well cannot be read, and thus its fields are not known.
    """

    path: Path
    name: str
    row: str = ""
    column: str = ""
    field: str = ""
    problem: str = ""


def fields_of(path: str | Path) -> list[Field]:
    """The images in the zarr group `path`, if it holds several: a plate, a well, or what
    bioformats2raw makes of a file with several images. Empty if it is one image, or an array.

    A well that cannot be read is a single field with a `problem`.

    Raises
    ------
    ImageError
        If the group cannot be read, or is a plate without wells.
    """
    path = Path(path)
    with reading(path):
        about = attributes_of(path)
        if "plate" in about:
            return _fields_of_plate(path, about["plate"])
        if "well" in about:
            return list(_fields_of_well(path, path.parent.name, path.name))
        if "bioformats2raw.layout" in about and "multiscales" not in about:
            return _series_of(path)
        return []


def attributes_of(path: Path) -> Mapping[str, Any]:
    """What the standard says about a zarr group; nothing if it is an array."""
    import zarr

    opened = zarr.open(path, mode="r")
    attributes: Any = {} if isinstance(opened, zarr.Array) else dict(opened.attrs)
    about: Mapping[str, Any] = attributes.get("ome", attributes)  # 0.5 has it there, 0.4 directly
    return about


def _fields_of_plate(path: Path, plate: Mapping[str, Any]) -> list[Field]:
    wells = [str(well["path"]) for well in plate.get("wells", [])]
    if not wells:
        raise ImageError(f"The plate {path} lists no wells. Convert it again.")
    fields: list[Field] = []
    for well in wells:
        row, _, column = well.strip("/").rpartition("/")
        fields += _fields_of_well(path / well, row, column)
    return fields


def _fields_of_well(path: Path, row: str, column: str) -> Iterator[Field]:
    joint = "" if row.isalpha() and column.isdigit() else "-"
    well = f"{row}{joint}{column}".replace("/", "-")
    try:
        with reading(path):
            if not path.is_dir():
                raise ImageError(f"The well {path} is listed on the plate, but is not there.")
            images = [str(image["path"]) for image in attributes_of(path)["well"]["images"]]
            if not images:
                raise ImageError(f"The well {path} lists no fields.")
    except ImageError as error:
        yield Field(path=path, name=well, row=row, column=column, problem=str(error))
        return
    for image in images:
        name = f"{well}_{image}".replace("/", "-")
        yield Field(path=path / image, name=name, row=row, column=column, field=image)


def _series_of(path: Path) -> list[Field]:
    """The images that bioformats2raw lists, or else numbers; empty if there is only one."""
    listed = attributes_of(path / "OME").get("series") if (path / "OME").is_dir() else None
    numbered = sorted((p.name for p in path.iterdir() if p.name.isdigit()), key=int)
    names = [str(name) for name in listed or numbered]
    return [Field(path=path / name, name=name) for name in names] if len(names) > 1 else []
