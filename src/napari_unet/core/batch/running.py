"""A batch at work: image by image, each result whole before it counts as done."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from napari_unet.core.batch.checking import output_paths
from napari_unet.core.batch.imaging import UNFINISHED, results_of
from napari_unet.core.batch.planning import Plan, check_runnable, entry_of, planning
from napari_unet.core.batch.report import write_report
from napari_unet.core.batch.settings import BatchSettings
from napari_unet.core.batch.state import Entry, State
from napari_unet.core.batch.tables import join_tables, write_summary
from napari_unet.core.errors import ImageError
from napari_unet.core.files import discard
from napari_unet.core.model import Model
from napari_unet.core.progress import FinishEarly, Progress, Work, finish, passed_on
from napari_unet.core.settings import SegmentSettings

__all__ = ["BatchProgress", "BatchResult", "batch", "run_batch", "running"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProgress:
    """How far a batch is.

    Attributes
    ----------
    done, total : steps of the image that is worked on.
    message : which image it is, and what is done to it.
    n_done, n_images : images that are finished, whatever became of them, and all of this run.
    entry : what became of an image, the moment it is finished.
    """

    done: int
    total: int
    message: str
    n_done: int
    n_images: int
    entry: Entry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What became of a batch.

    Attributes
    ----------
    out : the folder of the results.
    entries : of all images: done now or earlier, failed, refused.
    n_new : images that were worked on in this run.
    """

    out: Path
    entries: tuple[Entry, ...]
    n_new: int

    def with_status(self, status: str) -> list[Entry]:
        """The images of which this became: "done", "failed" or "refused"."""
        return [entry for entry in self.entries if entry.status == status]


def batch(
    sources: str | Path | Sequence[str | Path],
    model: Model | Sequence[Model],
    out: str | Path,
    settings: SegmentSettings | None = None,
    options: BatchSettings | None = None,
) -> Work[Progress | BatchProgress, BatchResult]:
    """Segment and measure many images, as work that can be stopped and taken up again.

    First every image is looked at, then those that can be done are. What was done by an
    earlier run, of the same model and settings on files that have not changed since, is kept.

    Parameters
    ----------
    sources : files, folders, OME-Zarr images or plates.
    model : what segments, or several for an ensemble.
    out : the folder for label files, tables and the report; made if it is not there.
    settings, options : how to segment; which files, which channels, which format, ...

    Returns
    -------
    Work
        `finish(batch(...))` runs it; `run_batch` does both.

    Raises
    ------
    ImageError, SettingsError
        If nothing can be done at all. What is wrong with single images is in the result.
    """
    models = [model] if isinstance(model, Model) else list(model)
    plan = yield from planning(sources, models, out, settings, options)
    return (yield from running(plan))


def run_batch(
    sources: str | Path | Sequence[str | Path],
    model: Model | Sequence[Model],
    out: str | Path,
    settings: SegmentSettings | None = None,
    options: BatchSettings | None = None,
    report: Callable[[Progress | BatchProgress], object] | None = None,
) -> BatchResult:
    """Segment and measure many images, and write label files, tables and a report.

    Parameters
    ----------
    sources : image files, folders, OME-Zarr images or plates.
    model : one, or several whose probabilities are averaged.
    out : the folder for the results; a run that was stopped is gone on with there.
    settings, options : how to segment, and which images and how results are kept.
    report : called with each progress.

    Raises
    ------
    ImageError, SettingsError
        If nothing can be done, or the folder holds other results.
    """
    return finish(batch(sources, model, out, settings, options), report)


def running(plan: Plan) -> Work[BatchProgress, BatchResult]:
    """Do what was planned; see `batch`. Tables and report are also written if it is stopped.

    Raises
    ------
    ImageError, SettingsError
        If the plan has an obstacle, or the folder of the results cannot be written to.
    """
    out = check_runnable(plan)
    state = _planned_state(plan)
    state.write(out)
    _discard_rests(plan, out)
    start = time.monotonic()
    is_whole = False
    try:
        for n_done, source in enumerate(plan.todo):
            work = results_of(source, plan, out)
            entry = yield from _counted(work, source.name, n_done, len(plan.todo))
            state = state.with_entry(entry)
            state.write(out)
            yield BatchProgress(
                done=1, total=1, message=entry.name, n_done=n_done + 1,
                n_images=len(plan.todo), entry=entry,
            )  # fmt: skip
        is_whole = True
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)  # of files that changed meanwhile
    except FinishEarly:
        pass  # what is done is a result
    finally:
        entries = _entries(plan, state)
        seconds = time.monotonic() - start
        _write_tables(plan, out, entries)
        write_report(plan, out, entries, seconds=seconds, is_whole=is_whole)
    return BatchResult(out=out, entries=entries, n_new=len(plan.todo))


def _entries(plan: Plan, state: State) -> tuple[Entry, ...]:
    """All images of the batch in their order; those of earlier runs only that are still there."""
    refused = {entry.source: entry for entry in plan.refused}
    return tuple(
        refused.get(str(source.path)) or state.entries[source.name] for source in plan.sources
    )


def _write_tables(plan: Plan, out: Path, entries: Sequence[Entry]) -> None:
    """`summary.csv`, and all tables of objects in one."""
    write_summary(out / "summary.csv", entries)
    tables = [
        out / name
        for entry in entries
        if entry.status == "done"
        for name in entry.outputs
        if name.endswith(".csv")
    ]
    join_tables(out / f"{plan.settings.what}.csv", tables)


def _planned_state(plan: Plan) -> State:
    """The state that says of every image to be done that its results are ours to write."""
    kept = {
        name: entry
        for name, entry in plan.state.entries.items()
        if name not in {source.name for source in plan.todo}
    }
    waiting = {source.name: entry_of(source) for source in plan.todo}
    return replace(plan.state, entries={**kept, **waiting})


def _discard_rests(plan: Plan, out: Path) -> None:
    """Remove files that a killed run was about to write, and nothing else."""
    if not plan.state.entries:
        return
    names = {
        name
        for source in plan.todo
        for name in output_paths(source, plan.settings, plan.options).values()
    }
    for folder, folders, files in os.walk(out):
        for file in (*folders, *files):
            path = Path(folder, file)
            hidden = re.fullmatch(r"\.[0-9a-f]{8}\.(.+)", file)
            if hidden and path.with_name(hidden[1]).relative_to(out).as_posix() in names:
                with suppress(ImageError):  # a folder in which nothing is yet
                    discard(path)
        folders[:] = [name for name in folders if not name.endswith(".zarr")]


def _counted(
    work: Work[Progress, Entry], name: str, n_done: int, n_images: int
) -> Work[BatchProgress, Entry]:
    """Work on one image, seen as a part of the batch."""

    def counted(progress: Progress) -> BatchProgress:
        return BatchProgress(
            done=progress.done, total=progress.total,
            message=f"{n_done + 1} of {n_images}, {name}: {progress.message}",
            n_done=n_done, n_images=n_images,
        )  # fmt: skip

    return passed_on(work, counted)
