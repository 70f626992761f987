"""`napari-unet score`: segmentations and the truth in, a table of scores out."""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_unet.cli.parsing import add_command
from napari_unet.cli.telling import FAILED, OK, aligned, complain, sentence
from napari_unet.core.errors import ImageError

__all__ = ["add_score"]

EXAMPLES = """
examples:
  napari-unet score results/cells_labels.tif truth/cells.png
  napari-unet score results truth --out scores.csv
  napari-unet score results truth --what classes
  napari-unet score probabilities truth --what membranes --channel 1
  napari-unet score 01_RES 01_GT/SEG

PREDICTED and TRUTH are two files, or two folders whose files belong together by name: a.png is the
truth of a_labels.tif, man_seg007.tif that of mask007.tif. Files without truth are left out.

--what objects    numbered objects, 0 for background: F1, AP, SEG, panoptic quality
--what classes    the class of each pixel, 255 where unknown: IoU, Dice, precision, recall
--what membranes  PREDICTED is a gray image or a map of how probable it is to be inside, TRUTH is 0
                  on membranes: V_rand, V_info, Rand, pixel and warping error (ISBI 2012)

The last rows are the scores of all images together, objects or pixels counted as of one big image,
and the mean of the rows above. Exit code: 0 all were scored, 1 some could not be.
"""

ENDING = re.compile(r"(_cp)?_(labels?|masks?|classes|probabilities|seg|gt|truth|prediction)$")
RESULTS = {"objects": "_labels", "classes": "_classes", "membranes": "_probabilities"}
"""What can be scored, and how the names of such results end."""

START = re.compile(r"^(man_seg|mask|seg)_?(?=\d)")


def add_score(commands: Any) -> None:
    """Add the command `score`."""
    parser = add_command(
        commands, "score", _run_score, "compare segmentations with the truth", EXAMPLES
    )
    parser.add_argument("predicted", metavar="PREDICTED", type=Path, help="a file or a folder")
    parser.add_argument("truth", metavar="TRUTH", type=Path, help="a file or a folder")
    parser.add_argument(
        "--what",
        choices=tuple(RESULTS),
        default="objects",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--planes",
        action="store_true",
        help="score the planes of a stack one by one: a film, not a volume",
    )
    parser.add_argument(
        "--channel", type=int, metavar="N", help="which channel of a map is the inside, from 0"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table as CSV, too")


def _run_score(chosen: argparse.Namespace) -> int:
    pairs = _pairs(chosen.predicted.expanduser(), chosen.truth.expanduser(), chosen.what)
    from napari_unet.core.metrics.tables import Row, measured, table_of

    rows: dict[str, Row] = {}
    n_failed = 0
    for predicted, truth in pairs:
        try:
            for name, one, true in _pictures(predicted, truth, chosen):
                rows[name] = measured(chosen.what, one, true)
        except Exception as error:  # one bad file must not cost the scores of the others
            if chosen.debug:
                raise
            complain(sentence(error, predicted))
            n_failed += 1
    if not rows:
        return FAILED
    table = table_of(rows)
    print(*_lines(table), sep="\n")
    if chosen.out is not None:
        _write(chosen.out.expanduser(), table)
    return FAILED if n_failed else OK


def _pairs(predicted: Path, truth: Path, what: str) -> list[tuple[Path, Path]]:
    """Which file belongs to which."""
    for path in (predicted, truth):
        if not path.exists():
            raise ImageError(f"There is no file or folder {path}. Check the path.")
    if not _is_folder(truth):
        if _is_folder(predicted):
            raise ImageError(f"{predicted} is a folder, but {truth} is none. Give two of a kind.")
        return [(predicted, truth)]
    if not _is_folder(predicted):
        raise ImageError(f"{truth} is a folder, but {predicted} is none. Give two of a kind.")
    ours, theirs = _by_name(predicted, what), _by_name(truth, what)
    missing = sorted(theirs.keys() - ours.keys())
    if missing:
        names = ", ".join(theirs[one].name for one in missing[:5])
        raise ImageError(
            f"{predicted} has no file for {len(missing)} of the {len(theirs)} in {truth}: {names}. "
            "Files belong together by their names; scores without them would be too good."
        )
    if not theirs:
        raise ImageError(f"There are no images in {truth}.")
    return [(ours[key], path) for key, path in theirs.items()]


def _is_folder(path: Path) -> bool:
    from napari_unet.core.files import can_be_image

    return path.is_dir() and not can_be_image(path)


def _by_name(folder: Path, what: str) -> dict[str, Path]:
    """The images of a folder by what their names have in common with those of the other."""
    from napari_unet.core.files import can_be_image, stem_of

    alike: dict[str, list[Path]] = {}
    for path in sorted(one for one in folder.iterdir() if can_be_image(one)):
        alike.setdefault(START.sub("", ENDING.sub("", stem_of(path))), []).append(path)
    return {key: _only_one(key, paths, what) for key, paths in alike.items()}


def _only_one(key: str, paths: Sequence[Path], what: str) -> Path:
    """Of several results for one image, the one of the kind that is scored."""
    from napari_unet.core.files import stem_of

    meant = [path for path in paths if stem_of(path).endswith(RESULTS[what])]
    chosen = paths if len(paths) == 1 else meant
    if len(chosen) != 1:
        names = " and ".join(path.name for path in paths)
        raise ImageError(
            f"{names} may all belong to {key!r}. Keep only one of them in the folder, or give "
            "single files."
        )
    return chosen[0]


def _pictures(
    predicted: Path, truth: Path, chosen: argparse.Namespace
) -> Iterator[tuple[str, Any, Any]]:
    """Name, prediction and truth of each image, or of each of its planes."""
    from napari_unet.core.files import read_labels
    from napari_unet.core.metrics.overlaps import check_alike

    one = _map(predicted, chosen.channel) if chosen.what == "membranes" else read_labels(predicted)
    true = read_labels(truth)
    check_alike(one, true)
    if not chosen.planes or one.ndim == 2:
        yield predicted.name, one, true
        return
    planes = zip(one.reshape(-1, *one.shape[-2:]), true.reshape(-1, *one.shape[-2:]), strict=True)
    for index, (plane, true_plane) in enumerate(planes):
        yield f"{predicted.name}[{index}]", plane, true_plane


def _map(path: Path, channel: int | None) -> Any:
    """A gray image or probabilities, 0 to 1."""
    import numpy as np

    from napari_unet.core.files import read_image

    image = read_image(path)
    if not 0 <= (channel or 0) < image.n_channels or (channel is None and image.n_channels > 1):
        raise ImageError(
            f"{path} has {image.n_channels} channel(s). Say with --channel which one holds how "
            f"probable it is to be inside: 0 to {image.n_channels - 1}."
        )
    values = np.asarray(image.array)
    if "c" in image.axes:
        values = values.take(channel or 0, axis=image.axes.index("c"))
    if values.dtype.kind in "iu":
        return values / np.float32(np.iinfo(values.dtype).max)
    return values.astype(np.float32)


def _lines(table: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The table for reading."""
    cells = [list(table[0]), *([_cell(value) for value in row.values()] for row in table)]
    yield from aligned(cells)


def _cell(value: float | str) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _write(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
