"""Whether one image of a batch can be done, or is done already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_unet.core.batch.channels import with_channels
from napari_unet.core.batch.settings import ENDINGS, BatchSettings
from napari_unet.core.batch.sources import Source, signature_of
from napari_unet.core.batch.state import State, sizes_of
from napari_unet.core.errors import ImageError
from napari_unet.core.files import ImageFile, look_at
from napari_unet.core.image import Image
from napari_unet.core.settings import SegmentSettings

if TYPE_CHECKING:
    from napari_unet.core.model import Description, Model

__all__ = ["check_image", "check_outputs", "is_done", "kind_of", "output_paths"]


def output_paths(
    source: Source, settings: SegmentSettings, options: BatchSettings
) -> dict[str, str]:
    """What is written for an image, relative to the folder of all results, in "/" style."""
    ending = ENDINGS[options.file_format]
    what = "labels" if settings.what == "objects" else "classes"
    names = {
        "labels": f"{source.name}_{what}{ending}",
        "table": f"{source.name}_{settings.what}.csv",
    }
    if options.probabilities:
        names["probabilities"] = f"{source.name}_probabilities{ending.replace('.png', '.tif')}"
    return names


def is_done(source: Source, state: State, out: Path | None) -> bool:
    """Whether the results are those of this image as it is now, and whole."""
    entry = state.entries.get(source.name)
    if entry is None or entry.status != "done" or out is None or source.problem:
        return False
    if sizes_of({name: out / name for name in entry.outputs}) != entry.outputs:
        return False
    try:
        return tuple(signature_of(source.path)) == entry.signature
    except OSError:
        return False


def check_outputs(
    source: Source, state: State, out: Path, settings: SegmentSettings, options: BatchSettings
) -> None:
    """Raise `ImageError` if something would be overwritten that no earlier run left there."""
    if options.overwrite:
        return
    entry = state.entries.get(source.name)
    for name in output_paths(source, settings, options).values():
        if not (out / name).exists():
            continue
        if entry is None:
            raise ImageError(
                f"{out / name} is there already, and is not from this batch. Choose another "
                "folder, or replace it (--overwrite)."
            )
        sizes = sizes_of({name: out / name})
        if entry.status == "done" and sizes != {name: entry.outputs.get(name)}:
            raise ImageError(
                f"{out / name} was changed by someone since it was made. Move it elsewhere to "
                "have it made again, or replace it (--overwrite)."
            )


def check_image(source: Source, models: Sequence[Model], options: BatchSettings) -> ImageFile:
    """The image as its head describes it; raises `ImageError` if it cannot be worked on."""
    if source.problem:
        raise ImageError(source.problem)
    opened = look_at(source.path, options.axes)
    opened = replace(opened, image=replace(opened.image, name=source.name))
    chosen = with_channels(opened.image, options.channels)
    for model in models:
        _check_fits(chosen, model.description)
    if options.file_format == "png" and len(chosen.label_shape) > 2:
        raise ImageError(
            f"{source.path} has the axes {opened.image.axes!r}, but PNG files hold one plane. "
            "Choose another format for the results, such as TIFF."
        )
    return opened


def _check_fits(image: Image, about: Description) -> None:
    wanted = about.in_channels
    if image.n_channels not in (1, wanted):
        raise ImageError(
            f"{image.name!r} has {image.n_channels} channels, but the model {about.name!r} takes "
            f"{wanted} ({about.channels}). Choose which channels it is shown (--channels), or a "
            f"model made for {image.n_channels}."
        )
    if about.dims == 3 and "z" not in image.axes:
        raise ImageError(
            f"{image.name!r} has no z axis (its axes are {image.axes!r}), but the model "
            f"{about.name!r} works on volumes. Say what its axes are (--axes), or choose a 2D "
            "model."
        )


def kind_of(opened: ImageFile) -> str:
    """What images are alike in, in one line."""
    image, sizes = opened.image, opened.image.pixel_size
    shape = " x ".join(str(n) for n in image.array.shape)
    known = " x ".join(f"{sizes[axis]:.4g}" for axis in "zyx" if axis in sizes)
    size = f"{known} µm" if known else "pixel size not known"
    return f"axes {image.axes}, {shape}, {np.dtype(image.array.dtype).name}, {size}"
