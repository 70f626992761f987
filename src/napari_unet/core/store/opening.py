"""A store is made, or the one that is there is taken up where it stopped."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import zarr

from napari_unet.core.errors import ProjectError
from napari_unet.core.settings import ObjectSettings, SegmentSettings
from napari_unet.core.store.chunks import ChunkFiles, create_array, open_array
from napari_unet.core.store.ngff import label_metadata
from napari_unet.core.store.record import Record, as_json, differences
from napari_unet.core.store.result import LABELS, OUTPUTS, ResultStore, disk_errors
from napari_unet.core.store.sizes import (
    DEFAULT_CHUNK,
    checked_dtype,
    label_dtype,
    level_chunk,
    level_shapes,
    needed_bytes,
)

if TYPE_CHECKING:
    from napari_unet.core.image import Image
    from napari_unet.core.model import Model

__all__ = ["open_store", "store_for"]

N_DIFFERENCES = 3
"""So many are named when a folder holds the result of other work."""

DAMAGE = (FileNotFoundError, KeyError, TypeError, ValueError)
"""What zarr raises when the description of an array is missing or damaged."""


def store_for(
    folder: str | Path,
    image: Image,
    models: Model | Sequence[Model],
    settings: SegmentSettings,
    *,
    keep_outputs: bool = True,
) -> ResultStore:
    """The store for the result of an image: `open_store` with the key that belongs to it.

    Other settings of objects, and classes instead of objects, need no other store: the
    probabilities that are there stay. The size of tiles makes no difference at all.

    Parameters
    ----------
    folder : where, best named "....zarr"; made, or opened to go on with what is there.
    image, models, settings : what is segmented, with what, and how.
    keep_outputs : whether to keep the probabilities; objects need them.

    Raises
    ------
    ProjectError
        As `open_store` does.
    """
    ensemble = list(models) if isinstance(models, Sequence) else [models]
    description = ensemble[0].description
    for_labels = {"what"} | {field.name for field in fields(ObjectSettings)}
    chosen = {name: v for name, v in asdict(settings).items() if name not in for_labels}
    del chosen["tile_size"]
    key = {
        "image": image.fingerprint(),
        "models": sorted(model.id for model in ensemble),
        "normalization": asdict(description.normalization),
        "settings": chosen,
    }
    labels_key = {"what": settings.what, **asdict(settings.objects(description.objects))}
    return open_store(
        folder, image.label_shape, image.label_axes, n_outputs=len(description.outputs),
        labels_dtype=label_dtype(settings.what, len(description.class_names)), key=key,
        labels_key=labels_key, dims=description.dims, keep_outputs=keep_outputs,
        pixel_size=image.pixel_size,
    )  # fmt: skip


def open_store(
    folder: str | Path,
    label_shape: tuple[int, ...],
    label_axes: str,
    *,
    n_outputs: int,
    labels_dtype: npt.DTypeLike,
    key: Mapping[str, Any],
    labels_key: Mapping[str, Any] | None = None,
    dims: int = 2,
    chunk: tuple[int, ...] | None = None,
    keep_outputs: bool = True,
    pixel_size: Mapping[str, float] | None = None,
) -> ResultStore:
    """Make a store in a new or empty folder, or open the one that is there and go on.

    Parameters
    ----------
    folder : best named "....zarr", which is how napari knows it.
    label_shape, label_axes : as the image has them.
    n_outputs : how many outputs the network has.
    labels_dtype : uint8, uint16 or uint32; see `label_dtype`.
    key : JSON values that tell results apart: ids of the models, fingerprint of the image, and
        the settings that the probabilities depend on.
    labels_key : JSON values that the labels depend on beyond `key`, such as the settings of
        objects. If others were used before, or another type, the probabilities stay and no
        labels count as done. Part of `key` where no probabilities are kept.
    dims : 2 or 3, as the network has.
    chunk : size of a chunk `([z,] y, x)` in px, best powers of 2; None for 256 x 1024, or for
        16 x 64 x 256. It matters only when a store is made.
    keep_outputs : whether to keep the probabilities.
    pixel_size : µm by axis, for other programs.

    Raises
    ------
    ProjectError
        If the folder holds something else, which is left as it is, or the result of other work,
        or it cannot be written to.
    SettingsError
        If `labels_dtype` or a key cannot be used.
    """
    folder = Path(folder).expanduser().absolute()
    dtype = checked_dtype(labels_dtype)
    made_for = {
        "label_axes": label_axes,
        "label_shape": [int(n) for n in label_shape],
        "n_outputs": n_outputs,
        "dims": dims,
        "keep_outputs": keep_outputs,
        "key": as_json(key, "key"),
    }
    labels_for = {"dtype": dtype.name, "key": as_json(labels_key or {}, "labels_key")}
    if not keep_outputs:
        made_for["labels"] = labels_for
    layout = {
        "chunk": list(chunk or DEFAULT_CHUNK[dims]),
        "pixel_size": {axis: float(size) for axis, size in (pixel_size or {}).items()},
    }
    wanted = Record(made_for=made_for, labels_for=labels_for, layout=layout)
    needed = needed_bytes(label_shape, n_outputs, dtype, keep_outputs=keep_outputs)
    with disk_errors(folder, needed):
        record = Record.read(folder)
        if record is None:
            _create(folder, wanted)
        else:
            _take_up(folder, record, wanted)
        return _opened(folder, record or wanted, needed)


def _create(folder: Path, record: Record) -> None:
    """Make the store beside its place and rename it: it is whole or not there."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ProjectError(
            f"{folder} holds something else than a result. Choose a new or empty folder."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    try:
        if record.made_for["keep_outputs"]:
            _create_outputs(temporary, record)
        _create_labels(temporary, record, _name(folder))
        record.write(temporary)
        if folder.exists():
            folder.rmdir()  # it is empty; Windows renames nothing over it
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _create_outputs(folder: Path, record: Record) -> None:
    """Make the array of probabilities; it takes no room until something is written to it."""
    about = record.made_for
    shape = tuple(about["label_shape"])
    create_array(
        folder, OUTPUTS, shape=(about["n_outputs"], *shape), dtype="float16",
        axes=("output", *about["label_axes"]),
        chunks=(1, *level_chunk(shape, tuple(record.layout["chunk"]), 0)),
    )  # fmt: skip


def _create_labels(folder: Path, record: Record, name: str) -> None:
    """Make the OME-Zarr image of the labels, in the place of the one before if there was one."""
    axes, layout = record.made_for["label_axes"], record.layout
    shapes = level_shapes(tuple(record.made_for["label_shape"]))
    metadata = label_metadata(axes, len(shapes), layout["pixel_size"], name)
    zarr.create_group(
        ChunkFiles(folder), path=LABELS, attributes=metadata, overwrite=True, zarr_format=3
    )
    for level, shape in enumerate(shapes):
        create_array(
            folder, f"{LABELS}/{level}", shape=shape, axes=tuple(axes),
            chunks=level_chunk(shape, tuple(layout["chunk"]), level),
            dtype=record.labels_for["dtype"],
        )  # fmt: skip


def _take_up(folder: Path, record: Record, wanted: Record) -> None:
    """Check that a store that was found is the wanted one; other labels are made anew."""
    found = differences(record.made_for, wanted.made_for)
    if found:
        raise ProjectError(
            f"{folder} holds the result of other work: {'; '.join(found[:N_DIFFERENCES])}. "
            "Choose another folder, or delete this one to begin anew."
        )
    if record.labels_for != wanted.labels_for:
        record.labels_for, record.labels_done = wanted.labels_for, ()
        record.write(folder)
    if record.made_for["keep_outputs"] and not record.labels_done and not _fit(folder, record):
        _create_labels(folder, record, _name(folder))


def _fit(folder: Path, record: Record) -> bool:
    """Whether the arrays of labels are all there, and of the right type."""
    try:
        return all(level.dtype == record.labels_for["dtype"] for level in _levels(folder, record))
    except DAMAGE:
        return False


def _levels(folder: Path, record: Record) -> list[Any]:
    n_levels = len(level_shapes(tuple(record.made_for["label_shape"])))
    return [open_array(folder, f"{LABELS}/{level}") for level in range(n_levels)]


def _name(folder: Path) -> str:
    return folder.name.removesuffix(".zarr")


def _opened(folder: Path, record: Record, needed: int) -> ResultStore:
    about = record.made_for
    try:
        levels = _levels(folder, record)
        return ResultStore(
            folder=folder,
            label_axes=about["label_axes"],
            label_shape=tuple(about["label_shape"]),
            dims=about["dims"],
            outputs=open_array(folder, OUTPUTS) if about["keep_outputs"] else None,
            levels=levels,
            overview=np.asarray(levels[-1][:]) if levels[-1].ndim == 2 else None,
            needed_bytes=needed,
            record=record,
        )
    except DAMAGE as error:
        raise ProjectError(
            f"The result in {folder} is damaged ({error}). Delete it to begin anew, or choose "
            "another folder."
        ) from error
