"""A folder or file becomes a dataset, whatever its layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from napari_unet.core.datasets.bowl import find_bowl, has_bowl
from napari_unet.core.datasets.containers import (
    find_hdf5,
    find_ome_zarr,
    has_hdf5,
    has_ome_zarr,
)
from napari_unet.core.datasets.folders import (
    find_folders,
    find_side_by_side,
    has_folders,
    has_side_by_side,
    subfolders,
)
from napari_unet.core.datasets.naming import listed
from napari_unet.core.datasets.pairing import Opening
from napari_unet.core.datasets.pairs import Dataset, Pair
from napari_unet.core.datasets.settings import DatasetSettings
from napari_unet.core.datasets.stacks import arranged
from napari_unet.core.datasets.tracking import find_tracking, has_tracking
from napari_unet.core.errors import ImageError, SettingsError

__all__ = ["LAYOUTS", "open_dataset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One way in which images and masks lie on disk.

    Attributes
    ----------
    looks_like : whether a path looks like it.
    find : the pairs there.
    needed : what there must be, for sentences.
    are_sections : whether the pictures of a folder can be sections that lie one upon the other.
    """

    looks_like: Callable[[Path], bool]
    find: Callable[[Path, Opening], list[Pair]]
    needed: str
    are_sections: bool = True


LAYOUTS: Mapping[str, Layout] = {
    "tracking": Layout(
        looks_like=has_tracking, find=find_tracking,
        needed="folders '01' and '01_GT/SEG' as in the Cell Tracking Challenge",
        are_sections=False,  # they are moments
    ),
    "bowl": Layout(
        looks_like=has_bowl, find=find_bowl,
        needed="folders 'ID/images' and 'ID/masks' as in the Data Science Bowl 2018",
    ),
    "folders": Layout(
        looks_like=has_folders, find=find_folders, needed="folders 'images' and 'masks'"
    ),
    "side-by-side": Layout(
        looks_like=has_side_by_side, find=find_side_by_side,
        needed="files such as 'a.tif' and 'a_mask.tif' in one folder",
    ),
    "ome-zarr": Layout(
        looks_like=has_ome_zarr, find=find_ome_zarr, needed="OME-Zarr images with labels"
    ),
    "hdf5": Layout(
        looks_like=has_hdf5, find=find_hdf5, needed="HDF5 files with datasets 'raw' and 'label'"
    ),
}  # fmt: skip
"""All layouts by name, in the order in which they are tried."""


def open_dataset(
    path: str | Path, layout: str | None = None, settings: DatasetSettings | None = None
) -> Dataset:
    """Find the images and masks in a folder or file. Only the heads of files are read.

    Parameters
    ----------
    path : a folder in one of the `LAYOUTS`, or a file of that kind; or a folder in which exactly
        one folder is such.
    layout : its name; None or "auto" to recognise it.
    settings : how it is read; None for the defaults.

    Raises
    ------
    ImageError
        If there is no such folder, its layout is not known, or nothing in it can be used.
    SettingsError
        If there is no layout of that name.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise ImageError(f"There is no folder or file {path}. Check the path.")
    opening = Opening(settings=settings or DatasetSettings())
    name = layout or "auto"
    if name == "auto":
        path, name = _recognised(path, opening.settings)
    if name not in LAYOUTS:
        raise SettingsError(f"layout must be auto, {', '.join(LAYOUTS)}; not {name!r}.")
    pairs = LAYOUTS[name].find(path, opening)
    if not pairs:
        said = " ".join(problem.sentence for problem in opening.problems[:3])
        raise ImageError(f"No image in {path} can be learned from. {said}".rstrip())
    found = arranged(pairs, opening.settings, LAYOUTS[name].are_sections)
    return Dataset(layout=name, pairs=found, problems=tuple(opening.problems))


def _recognised(path: Path, settings: DatasetSettings) -> tuple[Path, str]:
    """The folder or file of the dataset, this one or the only one in it, and its layout."""
    name = _layout_of(path, settings)
    if name:
        return path, name
    inside = list(islice(_inside(path, settings), 4))
    if len(inside) == 1:
        return inside[0]
    if inside:
        names = listed([sub.name for sub, _ in inside[:3]])
        names += " and others" if len(inside) > 3 else ""
        raise ImageError(
            f"There are several datasets in {path}, which are opened one by one. Name a folder in "
            f"it: {names}."
        )
    known = "; ".join(layout.needed for layout in LAYOUTS.values())
    raise ImageError(
        f"There are no images with masks in {path}, or they lie there in a way that is not known. "
        f"Known are: {known}."
    )


def _layout_of(path: Path, settings: DatasetSettings) -> str:
    """The name of the layout, "" if there is none that is known."""
    if has_folders(path, settings.images, settings.masks):
        return "folders"  # also where their names are known only from the settings
    return next((name for name, layout in LAYOUTS.items() if layout.looks_like(path)), "")


def _inside(path: Path, settings: DatasetSettings) -> Iterator[tuple[Path, str]]:
    """The folders in a folder that are datasets, and their layouts."""
    for sub in subfolders(path) if path.is_dir() else []:
        name = _layout_of(sub, settings)
        if name:
            yield sub, name
