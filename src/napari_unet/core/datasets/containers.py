"""Files that hold images and masks together: OME-Zarr with labels, and HDF5."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from napari_unet.core.datasets.folders import image_files
from napari_unet.core.datasets.lazy import Lazy
from napari_unet.core.datasets.masks import Labels, LabelsRead, labels_from
from napari_unet.core.datasets.naming import IMAGE_FOLDERS, MASK_FOLDERS, listed, natural
from napari_unet.core.datasets.pairing import (
    Opening,
    check_sizes,
    fitted,
    image_at,
    label_type,
    labels_of,
    sentence_about,
)
from napari_unet.core.datasets.pairs import Pair
from napari_unet.core.datasets.settings import DatasetSettings
from napari_unet.core.errors import ImageError
from napari_unet.core.files import can_be_image, fields_of, look_at, stem_of
from napari_unet.core.files.content import reading
from napari_unet.core.files.plates import attributes_of
from napari_unet.core.image import Image, make_image

__all__ = ["find_hdf5", "find_ome_zarr", "has_hdf5", "has_ome_zarr"]

HDF5 = (".h5", ".hdf5", ".hdf", ".he5")
IN_MEMORY_LIMIT = 2**28
"""HDF5 datasets of more bytes than this are read window by window."""
IMAGE_NAMES = (*IMAGE_FOLDERS, "volume", "data", "exported_data")
MASK_NAMES = (*MASK_FOLDERS, "neuron_ids", "label_values", "objects")


def has_ome_zarr(path: Path) -> bool:
    """Whether this is a zarr group, or a folder in which an image has labels."""
    return any((one / "labels").is_dir() for one in _zarr_images(path))


def _zarr_images(path: Path) -> list[Path]:
    """The images in a zarr group (several on a plate), or in the groups in a folder."""
    if not path.is_dir():
        return []
    groups = [path] if can_be_image(path) else [p for p in image_files(path) if p.is_dir()]
    found = []
    for group in groups:
        fields = [field.path for field in fields_of(group) if not field.problem]
        found += fields or [group]
    return found


def find_ome_zarr(path: Path, opening: Opening) -> list[Pair]:
    """Pairs of OME-Zarr images and one of the labels in their groups.

    Fields of a well are one group.
    """
    pairs = []
    for image in _zarr_images(path):
        inside = image.relative_to(path).as_posix()
        key = stem_of(image) if inside in (".", image.name) else inside
        well = inside.rpartition("/")[0]
        pair = _zarr_pair(key, well or key, image, opening)
        pairs += [pair] if pair is not None else []
    return pairs


def _zarr_pair(key: str, group: str, path: Path, opening: Opening) -> Pair | None:
    try:
        labels_path = _labels_in(path, key, opening)
        image = image_at(path, opening)
        mask = look_at(labels_path).image
        image = fitted(image, mask.label_shape)
        check_sizes(image, path, mask, labels_path)
    except ImageError as error:
        said = sentence_about(error, path)
        opening.say(path, f"{said} The image {path.name} is left out.", key)
        return None
    labels = labels_of(labels_path, mask, opening)
    return Pair(
        key=key, group=group, image=image, labels=labels, path=path, labels_path=labels_path
    )  # fmt: skip


def _labels_in(path: Path, key: str, opening: Opening) -> Path:
    """The labels to take: those that are named, or the first."""
    folder = path / "labels"
    if not folder.is_dir():
        raise ImageError(f"The image {path.name} has no labels.")
    with reading(folder):
        stated = [str(name) for name in attributes_of(folder).get("labels", [])]
    names = stated or sorted((p.name for p in folder.iterdir() if p.is_dir()), key=natural)
    wanted = opening.settings.masks or (names[0] if names else "")
    if wanted not in names:
        known = f"It has {listed(names, 8)}." if names else "It has none."
        raise ImageError(f"The image {path.name} has no labels named {wanted!r}. {known}")
    if not opening.settings.masks and len(names) > 1:
        opening.say(
            folder, f"The image {path.name} has several labels, {listed(names, 8)}; {wanted!r} is "
            "taken. Name the ones to take if this is wrong.", key,
        )  # fmt: skip
    return folder / wanted


def has_hdf5(path: Path) -> bool:
    """Whether this is an HDF5 file, or a folder with some."""
    return bool(_hdf5_files(path))


def _hdf5_files(path: Path) -> list[Path]:
    paths = sorted(path.iterdir(), key=lambda p: natural(p.name)) if path.is_dir() else [path]
    return [p for p in paths if p.suffix.lower() in HDF5 and not p.name.startswith(".")]


def find_hdf5(path: Path, opening: Opening) -> list[Pair]:
    """Pairs of a dataset named like an image and one named like labels, one of each file."""
    pairs = []
    for file in _hdf5_files(path):
        try:
            pairs.append(_hdf5_pair(file, opening))
        except ImageError as error:
            opening.say(file, f"{error} The file {file.name} is left out.", file.stem)
    return pairs


def _hdf5_pair(path: Path, opening: Opening) -> Pair:
    chosen = opening.settings
    with reading(path):
        heads = dict(_heads(path))
    image_name = _chosen(heads, chosen.images, IMAGE_NAMES, "image", path)
    others = {name: head for name, head in heads.items() if name != image_name}
    mask_name = _chosen(others, chosen.masks, MASK_NAMES, "labels", path)
    image = _hdf5_image(path, image_name, heads[image_name], chosen.axes or None, opening)
    shape, dtype, _ = heads[mask_name]
    image = fitted(image, shape)
    mask = make_image(_Windows(path, mask_name, shape, dtype), None, f"{path.name}: {mask_name}")
    check_sizes(image, path, mask, path / mask_name)
    read = partial(_hdf5_labels, path, mask_name, shape, dtype, chosen)
    labels = Labels(shape, label_type(dtype, chosen), read, opening.shelf)
    return Pair(
        key=path.stem, group=path.stem, image=image, labels=labels, path=path, labels_path=path
    )


def _heads(path: Path) -> Iterator[tuple[str, tuple[tuple[int, ...], Any, dict[str, float]]]]:
    """Name, shape, type and size of a px (µm) of each dataset of numbers that can be a picture."""
    import h5py

    found: list[tuple[str, Any]] = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: found.append((name, item)))
        for name, item in found:
            if (
                isinstance(item, h5py.Dataset)
                and len(item.shape) >= 2
                and item.dtype.kind in "biuf"
            ):
                yield name, (tuple(item.shape), item.dtype, _sizes(item.attrs))


def _sizes(attributes: Mapping[str, Any]) -> dict[str, float]:
    """Sizes of a px in µm as PlantSeg (`element_size_um`) and CREMI (`resolution`, nm) say."""
    for name, factor in (("element_size_um", 1.0), ("resolution", 1e-3)):
        sizes = np.asarray(attributes.get(name, ()))
        if sizes.dtype.kind in "iuf" and sizes.shape in ((2,), (3,)):
            letters = "zyx"[-len(sizes) :]
            return {axis: float(n) * factor for axis, n in zip(letters, sizes, strict=True)}
    return {}


def _chosen(
    heads: Mapping[str, Any], wanted: str, known: Sequence[str], kind: str, path: Path
) -> str:
    """The dataset of that name, or the only one that is named like what is looked for."""
    named = [name for name in heads if wanted in (name, name.rpartition("/")[2])] if wanted else [
        name for name in heads if any(part.lower() in known for part in name.split("/"))
    ]  # fmt: skip
    if len(named) == 1:
        return named[0]
    what = f"none named {wanted!r}" if wanted else "none that is named so"
    found = f"it has {listed(named, 8)}" if named else what
    raise ImageError(
        f"Which dataset of {path.name} holds the {kind} cannot be told: {found}, among "
        f"{listed(list(heads), 8) or 'no datasets of numbers'}. Name it."
    )


def _hdf5_image(path: Path, name: str, head: Any, axes: str | None, opening: Opening) -> Image:
    shape, dtype, sizes = head
    kind = np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")
    read = partial(_read_hdf5, path, name, shape, dtype)
    return make_image(Lazy(shape, kind, read, opening.shelf), axes, path.name, sizes)


class _Windows:
    """A dataset of an HDF5 file, which is open only while a window of it is read."""

    def __init__(self, path: Path, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype, self.ndim = shape, np.dtype(dtype), len(shape)
        self._path, self._name = path, name

    def __getitem__(self, selection: Any) -> Any:
        import h5py

        with reading(self._path), h5py.File(self._path, "r") as file:
            return np.asarray(file[self._name][selection])


def _read_hdf5(path: Path, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
    windows = _Windows(path, name, shape, dtype)
    is_small = np.prod(shape, dtype=float) * np.dtype(dtype).itemsize <= IN_MEMORY_LIMIT
    return windows[...] if is_small else windows


def _hdf5_labels(
    path: Path, name: str, shape: tuple[int, ...], dtype: Any, settings: DatasetSettings
) -> LabelsRead:
    image = make_image(_Windows(path, name, shape, dtype)[...], "tzyx"[-len(shape) :], name)
    return labels_from(image, settings)
