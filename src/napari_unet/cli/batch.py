"""`napari-unet batch`: a folder or a plate in, label files, tables and a report out."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
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
from napari_unet.cli.telling import FAILED, OK, complain, with_bar
from napari_unet.core.errors import ImageError, SettingsError
from napari_unet.core.progress import passed_on
from napari_unet.core.settings import SegmentSettings

if TYPE_CHECKING:
    from napari_unet.core.batch import BatchResult, BatchSettings, Entry, Plan
    from napari_unet.core.progress import Work

__all__ = ["add_batch"]

EXAMPLES = """
examples:
  napari-unet batch images --model nuclei --check
  napari-unet batch images --model nuclei --out results
  napari-unet batch images --recursive --pattern "*_dapi.tif" --model mine.safetensors --out results
  napari-unet batch plate.ome.zarr --channels 0 --model nuclei --out results

What is written into the folder of the results:
  NAME_labels.tif   the label image (NAME_classes.tif with --what classes)
  NAME_objects.csv  a row for each object: class, area, place, intensities (NAME_classes.csv)
  objects.csv       all of these in one (classes.csv)
  summary.csv       a row for each image: number of objects, area, time, what went wrong
  report.md, report.json   what was run with what, and a paragraph for a Methods section
  batch.json        what is done, to continue from

NAME keeps the folders below the one given; on a plate it is PLATE/B03_0 for field 0 of well B03.
Started again, the same command goes on with what is not done. Exit code: 0 all images are done,
1 some are not (--check: cannot be).
"""


def add_batch(commands: Any) -> None:
    """Add the command `batch`."""
    parser = add_command(
        commands, "batch", _run_batch, "segment and measure a folder or a plate", EXAMPLES
    )
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="folders, image files, OME-Zarr plates"
    )
    parser.add_argument(
        "--check", action="store_true", help="only say what can be done and what cannot, and why"
    )
    add_models(parser)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for results")
    _add_choice_of_images(parser)
    add_segment_settings(parser)
    parser.add_argument("--probabilities", action="store_true", help="write those, too")
    parser.add_argument(
        "--format",
        choices=("tiff", "png", "ome-zarr"),
        default="tiff",
        help="of the label images (default: %(default)s)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="begin anew and replace results that are there"
    )


def _add_choice_of_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pattern", help='which files of the folders: "*.tif"')
    parser.add_argument("--recursive", action="store_true", help="also the folders in them")
    parser.add_argument("--axes", help="a letter for each dimension, if the files are wrong: tcyx")
    parser.add_argument(
        "--channels",
        metavar="N[,N]",
        type=_channels,
        help="which channels the model is shown, from 0 (default: all); all are measured",
    )


def _channels(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _run_batch(chosen: argparse.Namespace) -> int:
    settings = chosen_settings(SegmentSettings, chosen)
    if not chosen.check and (not chosen.model or chosen.out is None):
        chosen.parser.error("a batch needs --model and --out (only --check does without)")
    options = _options(chosen)
    from napari_unet.core.batch import planning, running

    models = [opened_model(chosen, name, chosen.device) for name in chosen.model]
    sources = expanded(chosen.sources)
    plan = with_bar(planning(sources, models, chosen.out, settings, options), "Checking")
    print(*_plan_lines(plan, chosen.check), sep="\n", flush=True)
    if plan.obstacle:
        raise SettingsError(plan.obstacle)
    if chosen.check:
        return FAILED if plan.refused else OK
    if not plan.todo and not plan.done:
        raise ImageError("None of the images can be done. The lines above say why.")
    for model in models:
        print(f"Model {model.title} on {model.device.label} ({model.device.reason})", flush=True)
    result: BatchResult = with_bar(_told(running(plan)), "Batch")
    print(*_result_lines(result), sep="\n")
    return OK if len(result.with_status("done")) == len(result.entries) else FAILED


def _options(chosen: argparse.Namespace) -> BatchSettings:
    from napari_unet.core.batch import BatchSettings

    try:
        return BatchSettings(
            pattern=chosen.pattern, recursive=chosen.recursive, axes=chosen.axes,
            channels=chosen.channels, file_format=chosen.format,
            probabilities=chosen.probabilities, overwrite=chosen.overwrite,
            stop_at_error=chosen.debug, command=shlex.join(["napari-unet", *chosen.typed]),
        )  # fmt: skip
    except SettingsError as error:
        parser: argparse.ArgumentParser = chosen.parser
        parser.error(str(error))


def _plan_lines(plan: Plan, is_check: bool) -> Iterator[str]:
    """What was found beforehand."""
    counts = [f"{len(plan.todo)} can be done" if is_check else f"{len(plan.todo)} to do"]
    counts += [f"{len(plan.done)} done already"] if plan.done else []
    counts += [f"{len(plan.refused)} cannot be done"] if plan.refused else []
    yield f"Check: {len(plan.sources)} images: {', '.join(counts)}"
    for kind, n in sorted(plan.kinds.items(), key=lambda item: -item[1]):
        yield f"  {n} with {kind}"
    yield from _refused_lines(plan.refused)
    if plan.left_out:
        names = [path.name for path in plan.left_out[:5]]
        more = f" and {len(plan.left_out) - 5} more" if len(plan.left_out) > 5 else ""
        yield f"  left out, since they are no images: {', '.join(names)}{more}"


def _refused_lines(refused: Sequence[Entry]) -> Iterator[str]:
    """Every image that cannot be done, and why; a reason that many share is given once."""
    alike: dict[str, list[Entry]] = {}
    for entry in refused:
        reason = entry.error.replace(entry.source, "").replace(entry.name, "")
        alike.setdefault(reason, []).append(entry)
    for first, *others in alike.values():
        is_named = first.source in first.error or first.name in first.error
        yield f"  cannot be done: {'' if is_named else f'{first.source}: '}{first.error}"
        if others:
            yield f"    the same for {len(others)}: {', '.join(one.name for one in others)}"


def _told(work: Work[Any, Any]) -> Work[Any, Any]:
    """The work, with a line for each image that is finished."""
    from tqdm import tqdm

    def told(progress: Any) -> Any:
        if progress.entry is not None:
            where = f"[{progress.n_done}/{progress.n_images}]"
            if progress.entry.status == "failed":
                with tqdm.external_write_mode(file=sys.stderr):
                    complain(f"{where} {_failure(progress.entry)}")
            else:
                tqdm.write(f"{where} {_entry_line(progress.entry)}")
        return progress

    return passed_on(work, told)


def _failure(entry: Entry) -> str:
    hint = " (add --debug to see where)" if entry.error.startswith("unexpected") else ""
    return f"{'' if entry.source in entry.error else f'{entry.source}: '}{entry.error}{hint}"


def _entry_line(entry: Entry) -> str:
    found = "" if entry.count is None else f"{_objects(entry.count)}, "
    share = f"{entry.area_fraction or 0:.1%} not background"
    return f"{entry.name}: {found}{share}, {entry.seconds or 0:.1f} s"


def _objects(n: int) -> str:
    return f"{n} object" if n == 1 else f"{n} objects"


def _result_lines(result: BatchResult) -> Iterator[str]:
    done, failed = result.with_status("done"), result.with_status("failed")
    refused = result.with_status("refused")
    counts = [f"{len(failed)} failed"] if failed else []
    counts += [f"{len(refused)} could not be done"] if refused else []
    if done and done[0].count is not None:
        counts.append(_objects(sum(entry.count or 0 for entry in done)))
    yield ", ".join([f"{len(done)} of {len(result.entries)} images done", *counts])
    yield f"Results, tables and report.md are in {result.out}"
