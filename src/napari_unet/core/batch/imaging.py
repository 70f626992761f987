"""One image of a batch: segmented, written, measured."""

from __future__ import annotations

import csv
import hashlib
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_unet.core.batch.channels import with_channels
from napari_unet.core.batch.checking import output_paths
from napari_unet.core.batch.planning import Plan, entry_of
from napari_unet.core.batch.sources import Source, signature_of
from napari_unet.core.batch.state import Entry, sizes_of
from napari_unet.core.batch.tables import Columns, median, whole_text
from napari_unet.core.errors import ImageError, UNetLiveError
from napari_unet.core.files import (
    ImageFile,
    discard,
    open_image,
    write_labels,
    write_probabilities,
)
from napari_unet.core.image import Image
from napari_unet.core.instances import classes_of
from napari_unet.core.measurements import measuring
from napari_unet.core.progress import FinishEarly, Progress, Work, passed_on
from napari_unet.core.resampling import resampling_for
from napari_unet.core.segmentation import Result, segmenting
from napari_unet.core.store import ResultStore, store_for
from napari_unet.core.versions import version

__all__ = ["UNFINISHED", "results_of"]

IN_MEMORY_LIMIT = 2**27
"""Images of more px than this are worked on in a folder, not in memory."""

UNFINISHED = "unfinished"
"""The folder for those, within that of the results."""

Sizes = list[npt.NDArray[np.int64]]
"""Of all objects in px, plane by plane or volume by volume."""


def results_of(source: Source, plan: Plan, out: Path) -> Work[Progress, Entry]:
    """Segment and measure one image; what is wrong with it is in the entry.

    Its files are written under the names of `output_paths`, each of them whole or not at all.
    If it fails, none of them is left.
    """
    start = time.monotonic()
    paths = {
        name: out / name for name in output_paths(source, plan.settings, plan.options).values()
    }
    entry = entry_of(
        source, made_by=version("napari-unet-live"), made_on=plan.models[0].device.label
    )
    try:
        about = yield from _results(source, plan, out)
        done = replace(entry, status="done", outputs=sizes_of(paths), **about)
        return replace(done, seconds=round(time.monotonic() - start, 3))
    except FinishEarly:
        raise
    except Exception as error:  # one bad image must not cost the results of the others
        if plan.options.stop_at_error:
            raise
        _discard_all(paths)
        seconds = round(time.monotonic() - start, 3)
        return replace(entry, status="failed", error=_sentence(error), seconds=seconds)


def _discard_all(paths: Mapping[str, Path]) -> None:
    for path in paths.values():
        with suppress(OSError, ImageError):  # what failed is told, not this
            discard(path)


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, UNetLiveError):
        return text
    if isinstance(error, MemoryError):
        return "The memory does not suffice for this image. Close other programs, or crop it."
    return f"unexpected {type(error).__name__}: {text}"


def _results(source: Source, plan: Plan, out: Path) -> Work[Progress, dict[str, Any]]:
    """Write everything for one image, and give what its entry says of it."""
    signature = tuple(signature_of(source.path))
    opened = open_image(source.path, plan.options.axes)
    opened = replace(opened, image=replace(opened.image, name=source.name))
    shown = with_channels(opened.image, plan.options.channels)
    with _store_of(shown, source, plan, out, signature) as store:
        result = yield from _segmenting(shown, plan, store)
        names = output_paths(source, plan.settings, plan.options)
        write_labels(out / names["labels"], result.labels, result.axes, opened)
        if plan.options.probabilities:
            probabilities = out / names["probabilities"]
            write_probabilities(probabilities, result.probabilities, result.axes, opened)
        columns = _columns(opened, source, plan)
        sizes = yield from _tabulating(out / names["table"], result, columns)
    way = "" if result.plan is None else result.plan.summary
    about = _about(opened, columns, sizes, plan)
    return {"signature": signature, "way": way, **about}


@contextmanager
def _store_of(
    image: Image, source: Source, plan: Plan, out: Path, signature: Sequence[int]
) -> Iterator[ResultStore | None]:
    """Where the results of a big image are kept while it is worked on; None for a small one.

    If the work is stopped, the next run goes on within the image. What the name is made from
    is what the results hang on, so that those of another file or model are never taken up.
    """
    if math.prod(image.label_shape) <= IN_MEMORY_LIMIT:
        yield None
        return
    made_from = repr((source.name, signature, sorted(plan.state.made_with.items())))
    name = hashlib.blake2b(made_from.encode(), digest_size=8).hexdigest()
    folder = out / UNFINISHED / f"{name}.zarr"
    yield store_for(folder, image, plan.models, plan.settings)
    shutil.rmtree(folder)


def _segmenting(shown: Image, plan: Plan, store: ResultStore | None) -> Work[Progress, Result]:
    model = plan.models[0] if len(plan.models) == 1 else list(plan.models)
    kept: dict[str, Any] = {} if store is None else {"store": store}
    return passed_on(
        segmenting(shown, model, plan.settings, **kept),
        lambda one: Progress(done=one.done, total=one.total, message=one.message),
    )


def _columns(opened: ImageFile, source: Source, plan: Plan) -> Columns:
    """Objects are volumes where the model or the links between planes make them so."""
    about = plan.models[0].description
    has_links = plan.settings.what == "objects" and plan.objects.link and "z" in opened.image.axes
    return Columns(
        image=opened.image,
        name=source.name,
        dims=3 if has_links or about.dims == 3 else 2,
        class_names=about.class_names,
    )


def _tabulating(path: Path, result: Result, columns: Columns) -> Work[Progress, Sizes]:
    """Write the table of one image, plane by plane or volume by volume."""
    image = columns.image
    sizes: Sizes = []
    n_classes = len(columns.class_names)
    classes: Any = None  # with two classes there is no question
    if n_classes > 2:
        classes = _Classes(result) if result.settings.what == "objects" else result.labels
    with whole_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns.header())
        for index in np.ndindex(*image.index_shape(columns.dims)):
            found = yield from measuring(
                result.labels, image, index, classes=classes, n_classes=n_classes
            )
            writer.writerows(columns.rows(index, found))
            sizes.append(found.sizes)
    return sizes


class _Classes:
    """The class of each px, made from the probabilities window by window."""

    def __init__(self, result: Result) -> None:
        about = result.model.description
        self._outputs, self._output_class = result.outputs, about.output_class
        self._threshold = result.settings.objects(about.objects).threshold

    def __getitem__(self, where: tuple[int | slice, ...]) -> npt.NDArray[np.uint8]:
        part = np.asarray(self._outputs[(slice(None), *where)])
        return classes_of(part, self._output_class, self._threshold)


def _about(opened: ImageFile, columns: Columns, found: Sizes, plan: Plan) -> dict[str, Any]:
    """What the entry says of a segmented image."""
    image, sizes = opened.image, opened.image.pixel_size
    n_pixels = sum(int(some.sum()) for some in found)
    middle = median(found) if plan.settings.what == "objects" else None
    is_square = "y" in sizes and sizes.get("y") == sizes.get("x")
    about = plan.models[0].description
    return {
        "is_resampled": resampling_for(image, about.dims, about.pixel_size) is not None,
        "axes": image.label_axes,
        "shape": image.label_shape,
        "pixel_size": sizes["y"] if is_square else None,
        "dims": columns.dims,
        "count": sum(map(len, found)) if plan.settings.what == "objects" else None,
        "area_fraction": n_pixels / int(np.prod(image.label_shape)),
        "median_px": middle,
        "median_um": middle * columns.unit if middle is not None and columns.unit else None,
    }
