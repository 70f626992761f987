"""`napari-unet segment`: images in, label files out."""

from __future__ import annotations

import argparse
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unet.cli.parsing import (
    add_command,
    add_models,
    add_segment_settings,
    chosen_settings,
    expanded,
    opened_model,
)
from napari_unet.cli.telling import FAILED, OK, complain, sentence, with_bar
from napari_unet.core.errors import ImageError
from napari_unet.core.settings import SegmentSettings

if TYPE_CHECKING:
    from napari_unet.core.files import ImageFile
    from napari_unet.core.model import Model
    from napari_unet.core.segmentation import Result

__all__ = ["add_segment"]

IN_MEMORY_LIMIT = 2**27
"""Images of more px than this are worked on in a folder, not in memory."""

ENDINGS = {"tiff": ".tif", "png": ".png", "ome-zarr": ".ome.zarr"}

EXAMPLES = """
examples:
  napari-unet segment cells.tif --model nuclei --out results
  napari-unet segment *.png --model mine.safetensors --out results --format png --min-size 50
  napari-unet segment movie.ome.zarr --model nuclei --out results --format ome-zarr
  napari-unet segment slide.ome.zarr --model nuclei --plan
  napari-unet segment stack.tif --axes tcyx --model mine.safetensors --out results

Beside each image's name stands what was made: NAME_labels.tif (one number for each object) or
NAME_classes.tif, and NAME_probabilities.tif if asked for. Images larger than memory are worked on
in a folder beside it; stopped or killed, the same command goes on with them where it was.
"""


def add_segment(commands: Any) -> None:
    """Add the command `segment`."""
    parser = add_command(
        commands, "segment", _run_segment, "find objects or classes in images", EXAMPLES
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="TIFF, PNG or JPEG files, OME-Zarr folders"
    )
    add_models(parser, required=True)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for results")
    parser.add_argument(
        "--plan", action="store_true", help="only say how each image would be segmented, and why"
    )
    parser.add_argument("--axes", help="a letter for each dimension, if the files are wrong: tcyx")
    add_segment_settings(parser)
    parser.add_argument("--probabilities", action="store_true", help="write those, too")
    parser.add_argument(
        "--format", choices=tuple(ENDINGS), default="tiff", help="default: %(default)s"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there")


def _run_segment(chosen: argparse.Namespace) -> int:
    settings = chosen_settings(SegmentSettings, chosen)
    if chosen.out is None and not chosen.plan:
        chosen.parser.error("--out is needed (only --plan does without)")
    paths = expanded(chosen.images)
    outputs = {} if chosen.plan else _outputs(paths, chosen)
    models = [opened_model(chosen, name, chosen.device) for name in chosen.model]
    for model in models:
        print(f"Model {model.title} on {model.device.label} ({model.device.reason})")
    n_failed = 0
    for path in paths:
        try:
            if chosen.plan:
                line = _plan_of(path, models, settings, chosen)
            else:
                line = _segment_one(path, outputs[path], models, settings, chosen)
            print(line, flush=True)
        except Exception as error:  # one bad image must not cost the results of the others
            if chosen.debug:
                raise
            complain(sentence(error, path))
            n_failed += 1
    if not chosen.plan:
        done = f"{len(paths) - n_failed} of {len(paths)} images segmented into {chosen.out}"
        print(f"{done}, {n_failed} failed" if n_failed else done)
    return FAILED if n_failed else OK


def _plan_of(
    path: Path, models: Sequence[Model], settings: SegmentSettings, chosen: argparse.Namespace
) -> str:
    """How an image would be segmented."""
    from napari_unet.core.files import open_image
    from napari_unet.core.segmentation import plan_for

    plan = plan_for(open_image(path, chosen.axes).image, models, settings)
    return f"{path}:\n  " + str(plan).replace("\n", "\n  ")


def _outputs(paths: Sequence[Path], chosen: argparse.Namespace) -> dict[Path, list[Path]]:
    """Where the labels and, if asked for, the probabilities of each image go."""
    from napari_unet.core.files import output_path

    what = "labels" if chosen.what == "objects" else "classes"
    endings = [f"_{what}{ENDINGS[chosen.format]}"]
    if chosen.probabilities:
        endings.append(f"_probabilities{ENDINGS[chosen.format].replace('.png', '.tif')}")
    outputs: dict[Path, list[Path]] = {}
    taken: dict[Path, Path] = {}
    for path in paths:
        outputs[path] = [output_path(chosen.out, path, ending) for ending in endings]
        other = taken.setdefault(outputs[path][0], path)
        if other != path:
            chosen.parser.error(
                f"the results of {other} and {path} would have the same name; run them apart, "
                "with different folders for --out"
            )
    return outputs


def _segment_one(
    path: Path,
    outputs: Sequence[Path],
    models: Sequence[Model],
    settings: SegmentSettings,
    chosen: argparse.Namespace,
) -> str:
    """Segment one image, write what was found, and say so."""
    from napari_unet.core.files import open_image, write_labels, write_probabilities
    from napari_unet.core.segmentation import segmenting
    from napari_unet.core.store import store_for

    start = time.monotonic()
    for output in outputs:
        if output.exists() and not chosen.overwrite:
            raise ImageError(f"{output} is there already. Add --overwrite to replace it.")
    opened: ImageFile = open_image(path, chosen.axes)
    store = None
    if math.prod(opened.image.label_shape) > IN_MEMORY_LIMIT:
        # NOTE: found there again by the next run, which goes on where this one was stopped.
        unfinished = outputs[0].with_name(f"{outputs[0].name}.unfinished.zarr")
        store = store_for(unfinished, opened.image, models, settings)
    result: Result = with_bar(segmenting(opened.image, models, settings, store=store), path.name)
    labels = result.labels
    write_labels(outputs[0], labels, result.axes, opened)
    if chosen.probabilities:
        write_probabilities(outputs[1], result.probabilities, result.axes, opened)
    found = _found(labels, chosen.what)
    if store is not None:
        shutil.rmtree(store.folder)
    written = ", ".join(str(output) for output in outputs)
    return f"{path}: {found} in {time.monotonic() - start:.1f} s -> {written}"


def _found(labels: Any, what: str) -> str:
    """How much was found, counted in bands."""
    import numpy as np

    highest = n_found = n_pixels = 0
    for at in range(0, labels.shape[0], max(1, 2**24 // math.prod(labels.shape[1:]))):
        band = np.asarray(labels[at : at + max(1, 2**24 // math.prod(labels.shape[1:]))])
        highest = max(highest, int(band.max(initial=0)))
        n_found, n_pixels = n_found + int((band > 0).sum()), n_pixels + band.size
    return f"{highest} objects" if what == "objects" else f"{n_found / n_pixels:.1%} not background"
