"""`napari-unet segment`: images in, label files out."""

from __future__ import annotations

import argparse
import glob
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unet.cli.parsing import add_command, add_model, add_settings, chosen_settings
from napari_unet.cli.telling import FAILED, OK, complain, sentence, with_bar
from napari_unet.core.errors import ImageError
from napari_unet.core.settings import SegmentSettings

if TYPE_CHECKING:
    from napari_unet.core.files import ImageFile
    from napari_unet.core.model import Model
    from napari_unet.core.segmentation import Result

__all__ = ["add_segment"]

ENDINGS = {"tiff": ".tif", "png": ".png", "ome-zarr": ".ome.zarr"}

EXAMPLES = """
examples:
  napari-unet segment cells.tif --model nuclei --out results
  napari-unet segment *.png --model mine.safetensors --out results --format png --min-size 50
  napari-unet segment movie.ome.zarr --model nuclei --out results --format ome-zarr
  napari-unet segment stack.tif --axes tcyx --model mine.safetensors --out results

Beside each image's name stands what was made: NAME_labels.tif (one number for each object) or
NAME_classes.tif, and NAME_probabilities.tif if asked for.
"""


def add_segment(commands: Any) -> None:
    """Add the command `segment`."""
    parser = add_command(
        commands, "segment", _run_segment, "find objects or classes in images", EXAMPLES
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="TIFF, PNG or JPEG files, OME-Zarr folders"
    )
    add_model(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="for results")
    parser.add_argument("--axes", help="a letter for each dimension, if the files are wrong: tcyx")
    parser.add_argument(
        "--what",
        choices=("objects", "classes"),
        default=SegmentSettings().what,
        help="number each object, or only say what each pixel is (default: %(default)s)",
    )
    own = "default: as the model says"
    add_settings(
        parser,
        SegmentSettings,
        {
            "tile_size": "edge of a tile in px (default: chosen for the device)",
            "threshold": f"smallest probability of not being background, 0 to 1 ({own})",
            "min_size": f"smallest object in px ({own})",
            "split": f"how readily touching objects are split, 0 to 1 ({own})",
        },
    )
    parser.add_argument("--probabilities", action="store_true", help="write those, too")
    parser.add_argument(
        "--format", choices=tuple(ENDINGS), default="tiff", help="default: %(default)s"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there")


def _run_segment(chosen: argparse.Namespace) -> int:
    settings = chosen_settings(SegmentSettings, chosen)
    paths = _expanded(chosen.images)
    outputs = _outputs(paths, chosen)
    from napari_unet.core.model import load_model

    model = load_model(chosen.model, chosen.device)
    print(f"Model {model.title} on {model.device.label} ({model.device.reason})")
    n_failed = 0
    for path in paths:
        try:
            print(_segment_one(path, outputs[path], model, settings, chosen), flush=True)
        except Exception as error:  # one bad image must not cost the results of the others
            if chosen.debug:
                raise
            complain(sentence(error, path))
            n_failed += 1
    done = f"{len(paths) - n_failed} of {len(paths)} images segmented into {chosen.out}"
    print(f"{done}, {n_failed} failed" if n_failed else done)
    return FAILED if n_failed else OK


def _expanded(images: Sequence[str]) -> list[Path]:
    """The files meant; patterns are for shells that do not expand them (Windows)."""
    paths: list[Path] = []
    for image in images:
        is_pattern = any(sign in image for sign in "*?[") and not Path(image).exists()
        found = sorted(glob.glob(image)) if is_pattern else [image]
        paths += [Path(name) for name in found or [image]]
    return list(dict.fromkeys(paths))


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
    model: Model,
    settings: SegmentSettings,
    chosen: argparse.Namespace,
) -> str:
    """Segment one image, write what was found, and say so."""
    from napari_unet.core.files import open_image, write_labels, write_probabilities
    from napari_unet.core.segmentation import segmenting

    start = time.monotonic()
    for output in outputs:
        if output.exists() and not chosen.overwrite:
            raise ImageError(f"{output} is there already. Add --overwrite to replace it.")
    opened: ImageFile = open_image(path, chosen.axes)
    result: Result = with_bar(segmenting(opened.image, model, settings), path.name)
    labels = result.labels if chosen.what == "objects" else result.classes
    write_labels(outputs[0], labels, result.axes, opened)
    if chosen.probabilities:
        write_probabilities(outputs[1], result.probabilities, result.axes, opened)
    if chosen.what == "objects":
        found = f"{int(labels.max(initial=0))} objects"
    else:
        found = f"{(labels > 0).mean():.1%} not background"
    written = ", ".join(str(output) for output in outputs)
    return f"{path}: {found} in {time.monotonic() - start:.1f} s -> {written}"
