"""The report of a batch: for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from napari_unet.core.batch.methods import CITATION, methods
from napari_unet.core.batch.planning import Plan
from napari_unet.core.batch.state import Entry, write_json, write_text
from napari_unet.core.batch.tables import summary_of
from napari_unet.core.model import Model
from napari_unet.core.versions import versions

__all__ = ["report_of", "write_report"]

WORDS = {"done": "done", "failed": "failed", "refused": "not possible", "waiting": "not yet done"}

NOT_TOLD = ("command", "overwrite", "stop_at_error")
"""Options that say nothing of the results, or are told elsewhere."""


def write_report(
    plan: Plan, out: Path, entries: Sequence[Entry], *, seconds: float, is_whole: bool
) -> None:
    """Write `report.json` and `report.md`; raises `ImageError` if that is not possible."""
    report = report_of(plan, entries, seconds=seconds, is_whole=is_whole)
    write_json(out / "report.json", report)
    write_text(out / "report.md", "\n".join(_lines(report)) + "\n")


def report_of(
    plan: Plan, entries: Sequence[Entry], *, seconds: float, is_whole: bool
) -> dict[str, Any]:
    """All that is to be told, in values that JSON knows.

    Parameters
    ----------
    plan, entries : what was to be done, and what became of every image.
    seconds : duration of this run, in s.
    is_whole : whether it went through to its end.
    """
    n_by_status = dict.fromkeys(WORDS, 0)
    for entry in entries:
        n_by_status[entry.status] += 1
    n_objects = [entry.count for entry in entries if entry.status == "done"]
    return {
        "format": "napari-unet-live batch report",
        "version": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "finished": is_whole,
        "command": plan.options.command,
        "run_in": str(Path.cwd()),
        "images": len(entries),
        **n_by_status,
        "done_earlier": len(plan.done),
        "objects": None if None in n_objects else sum(n or 0 for n in n_objects),
        "seconds_of_this_run": round(seconds, 1),
        "seconds_of_all_images": round(sum(entry.seconds or 0 for entry in entries), 1),
        "models": [_model(model) for model in plan.models],
        "settings": {**asdict(plan.settings), **asdict(plan.objects)},
        "options": {k: v for k, v in asdict(plan.options).items() if k not in NOT_TOLD},
        "made_with": plan.state.made_with,
        "software": versions(),
        "software_of_results": sorted({e.made_by for e in entries if e.made_by}),
        "ways": dict(Counter(entry.way for entry in entries if entry.way)),
        "devices": sorted({e.made_on for e in entries if e.made_on}),
        "left_out": [str(path) for path in plan.left_out],
        "results": summary_of(entries),
        "methods": methods(plan, entries),
        "citation": CITATION,
    }


def _model(model: Model) -> dict[str, Any]:
    about = model.description
    return {
        "title": model.title,
        "name": about.name,
        "id": model.id,
        "segments": about.segments,
        "dims": about.dims,
        "channels": about.channels,
        "classes": list(about.class_names),
        "architecture": model.architecture,
        "weights": sum(weights.numel() for weights in model.network.parameters()),
        "normalization": asdict(about.normalization),
        "pixel_size_um": about.pixel_size,
        "licence": about.licence,
        "source": about.source,
        "assumed": list(about.assumed),
        "history": [asdict(entry) for entry in model.history],
    }


# For people


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    yield from ("# Report of a batch", "", *_result_lines(report), "")
    yield from ("## For a Methods section", "", report["methods"], "", f"> {report['citation']}")
    yield ""
    for model in report["models"]:
        yield from (f"## Model {model['title']}", "", *_table(_model_rows(model)), "")
        if model["history"]:
            yield from (*_history_lines(model["history"]), "")
    yield from ("## Settings", "", *_table(_setting_rows(report)), "")
    yield from ("## Software", "", *_table({**report["software"], **_made_rows(report)}), "")
    yield from _problem_lines(report)


def _result_lines(report: Mapping[str, Any]) -> Iterator[str]:
    if not report["finished"]:
        yield "**This run was stopped before its end.** Run the same command to continue."
        yield ""
    counts = ", ".join(f"{report[status]} {WORDS[status]}" for status in WORDS if report[status])
    rows = {
        "written": report["created"],
        "command": f"`{report['command']}`" if report["command"] else "called from Python",
        "run in": f"`{report['run_in']}`",
        "images": f"{report['images']} ({counts})",
        "of these done by earlier runs": report["done_earlier"] or None,
        "objects": report["objects"],
        "time of this run": f"{report['seconds_of_this_run']} s",
        "time of all images": f"{report['seconds_of_all_images']} s",
    }
    yield from _table({name: value for name, value in rows.items() if value is not None})
    yield ""
    what = report["settings"]["what"]
    yield (
        f"`summary.csv` has a row for each image, `{what}.csv` a row for each of the {what} of all "
        "images; the same rows lie beside each label file. Positions are in px from 0, "
        "`min` and `max` belong to the object, intensities are raw values."
    )


def _model_rows(model: Mapping[str, Any]) -> dict[str, Any]:
    size = model["pixel_size_um"]
    return {
        "segments": model["segments"],
        "identifier of the weights": f"`{model['id']}`",
        "network": f"{model['architecture']}, {model['weights']:,} weights",
        "works on": "volumes (z, y, x)" if model["dims"] == 3 else "planes (y, x)",
        "channels": model["channels"],
        "classes": ", ".join(model["classes"]),
        "input": ", ".join(f"{name} {value}" for name, value in model["normalization"].items()),
        "pixel size": "not known" if size is None else f"{size:g} µm",
        "licence": model["licence"],
        "source": model["source"],
        **({"assumed": ", ".join(model["assumed"])} if model["assumed"] else {}),
    }


def _history_lines(history: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| round | when | from | to | painted px | held-out scores, before → after |"
    yield "|---|---|---|---|---|---|"
    for entry in history:
        scores = ", ".join(
            f"{name} {entry['scores_before'].get(name, float('nan')):.3f} → {after:.3f}"
            for name, after in entry["scores_after"].items()
        )
        yield (
            f"| {entry['name']} | {entry['created']} | `{entry['parent']}` | `{entry['id']}` "
            f"| {entry['n_corrected']:,} | {scores or '–'} |"
        )


def _setting_rows(report: Mapping[str, Any]) -> dict[str, Any]:
    both = {**report["settings"], **report["options"]}
    words = {None: "–", True: "yes", False: "no"}
    return {
        name.replace("_", " "): words[value] if value is None or isinstance(value, bool) else value
        for name, value in both.items()
    }


def _made_rows(report: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "results made by napari-unet-live": ", ".join(report["software_of_results"]) or "–",
        "device": "; ".join(report["devices"]) or "–",
        "how the network was run": "; ".join(
            f"{way} ({n} of {report['done']} images)" for way, n in report["ways"].items()
        )
        or "–",
    }


def _problem_lines(report: Mapping[str, Any]) -> Iterator[str]:
    bad = [row for row in report["results"] if row["status"] in ("failed", "refused")]
    if bad:
        yield from ("## Images without a result", "", "| image | file | why |", "|---|---|---|")
        for row in bad:
            yield f"| {_cell(row['image'])} | {_cell(row['source'])} | {_cell(row['error'])} |"
        yield ""
    if report["left_out"]:
        yield from ("## Files that are no images", "")
        yield from (f"* {path}" for path in report["left_out"])


def _table(rows: Mapping[str, Any]) -> Iterator[str]:
    yield from ("| | |", "|---|---|")
    yield from (f"| {name} | {_cell(value)} |" for name, value in rows.items())


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
