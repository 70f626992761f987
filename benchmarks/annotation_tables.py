"""The tables of `annotation.py`."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

Done = Sequence[tuple[Any, list[dict]]]
"""Runs, and the rows of each."""

CEILING = "all masks"
MEASURES = {
    "iou": "IoU on other images of this kind",
    "f1": "object F1 on other images of this kind",
    "known iou": "IoU on fluorescence, which it could do before",
    "known f1": "object F1 on fluorescence, which it could do before",
    "strokes": "strokes really painted",
    "painted": "share of the image that is painted",
    "seconds": "seconds of learning and predicting so far",
}
DOUBTS = {
    "caught": "share of the wrong px among the most doubtful tenth (0.1 by chance)",
    "by doubt": "wrong px in the most doubtful window, as a share of those in the worst one",
    "by chance": "the same, in a window drawn by chance",
}


def report(done: Done, arguments: argparse.Namespace) -> str:
    """All tables as Markdown."""
    kinds = list(dict.fromkeys(run.kind for run, _ in done))
    parts = ["# How few strokes are enough", _about(arguments), *_verdicts(done, kinds)]
    for kind in kinds:
        mine = [(run, rows) for run, rows in done if run.kind == kind]
        parts.append(f"## {kind}")
        for name, title in MEASURES.items():
            parts += _table(mine, name, title)
        doubts = [(run, rows) for run, rows in mine if run.method.startswith("live")]
        doubts = doubts or [(run, rows) for run, rows in mine if run.method == "fine-tuning"]
        if "uncertain" in arguments.where:
            for name, title in DOUBTS.items():
                parts += _table(doubts[:1] + [d for d in mine if d[0].method == "forest"],
                                name, f"uncertainty: {title}")  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _about(arguments: argparse.Namespace) -> str:
    return (
        f"Ten strokes a round at most, in windows of {arguments.view} px of one image of "
        f"{arguments.size} px; {arguments.steps} training steps a round for networks (the forest "
        f"is trained anew). Mean over {arguments.seeds} seed(s): another image, other strokes and "
        f"draws; ± half the range. Tested on {arguments.others} other image(s) of the kind, and on "
        f"{arguments.known} of fluorescence. Each method is corrected where it is itself wrong, by "
        "the same person (rules and seed). \"worst\" looks at the window with most wrong pixels, "
        "which only who knows the truth can; \"uncertain\" at the most doubtful one not yet looked "
        "at; \"random\" at any not yet looked at. \"all masks\": the same network trained for "
        f"{arguments.ceiling_steps} steps on every pixel of all masks that are not tested on.\n\n"
        f"Measured with `{_command()}`: {os.cpu_count()} cores, "
        f"{platform.machine()}, {os.environ.get('OMP_NUM_THREADS', 'all')} thread(s), torch "
        f"{version('torch')}, Python {platform.python_version()}."
    )  # fmt: skip


def _command() -> str:
    """How it was called, without the folders of this machine."""
    words, hidden = ["annotation.py DATA"], True
    for word in sys.argv[1:]:
        if word.startswith("--"):
            hidden = word in ("--runs", "--out")
        if not hidden:
            words.append(word if " " not in word else f'"{word}"')
    return " ".join(words)


def _mean(done: Done, kind: str, method: str, where: str, budget: int, name: str) -> float | None:
    values = [
        row[name]
        for run, rows in done
        if (run.kind, run.method, run.where) == (kind, method, where)
        for row in rows
        if row["budget"] == budget and name in row
    ]
    return float(np.mean(values)) if values else None


def _verdicts(done: Done, kinds: Sequence[str]) -> list[str]:
    """What was aimed at, in one table: better than each other at every budget, and the ceiling."""
    head = ["kind", "measure", "better than fine-tuning", "better than the forest"]
    head += ["reaches of the ceiling", "gain per stroke: uncertain, random (worst = 1)"]
    lines = [_line(head), "|---|---|" + "--:|" * (len(head) - 2)]
    for kind in kinds:
        for name in ("iou", "f1"):
            get = _getter(done, kind, name)
            budgets = sorted({r["budget"] for _, rows in done for r in rows if r["budget"] > 0})
            if all(get("live", "worst", budget) is None for budget in budgets):
                continue
            cells = [_wins(get, other, budgets) for other in ("fine-tuning", "forest")]
            cells += [_reached(get, budgets), _gains(get, budgets)]
            lines.append(_line([kind, "IoU" if name == "iou" else "F1", *cells]))
    return ["## In short\n\n" + "\n".join(lines)] if len(lines) > 2 else []


Getter = Callable[[str, str, int], float | None]


def _getter(done: Done, kind: str, name: str) -> Getter:
    return lambda method, where, budget: _mean(done, kind, method, where, budget, name)


def _wins(get: Getter, other: str, budgets: Sequence[int]) -> str:
    """At how many budgets live learning is ahead."""
    pairs = [(get("live", "worst", at), get(other, "worst", at)) for at in budgets]
    known = [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
    return f"{sum(a > b for a, b in known)} of {len(known)} budgets" if known else ""


def _reached(get: Getter, budgets: Sequence[int]) -> str:
    """Share of the ceiling, with 100 strokes or with the most there were."""
    at = 100 if 100 in budgets else budgets[-1]
    ours, best = get("live", "worst", at), get(CEILING, "worst", -1)
    return f"{ours / best:.0%} with {at} strokes" if ours is not None and best else ""


def _gains(get: Getter, budgets: Sequence[int]) -> str:
    """Mean gain over the budgets, of what the knowing one gains."""
    first = get("live", "worst", 0)
    if first is None:
        return ""
    told = []
    for where in ("uncertain", "random"):
        pairs = [(get("live", where, at), get("live", "worst", at)) for at in budgets]
        known = [(a - first, b - first) for a, b in pairs if a is not None and b is not None]
        worst = sum(b for _, b in known)
        told.append(f"{sum(a for a, _ in known) / worst:.2f}" if worst > 0 else "")
    return ", ".join(told) if any(told) else ""


def _table(done: Done, name: str, title: str) -> list[str]:
    """A line for each method, a column for each budget; nothing if nobody measured it."""
    lines: dict[str, dict[int, list[float]]] = {}
    for run, rows in done:
        label = run.method if run.where == "worst" else f"{run.method}, {run.where}"
        for row in rows:
            if name in row:
                lines.setdefault(label, {}).setdefault(row["budget"], []).append(row[name])
    lines = {k: v for k, v in lines.items() if k != CEILING or name not in ("strokes", "painted")}
    budgets = sorted({b for line in lines.values() for b in line if b >= 0})
    if not budgets:
        return []
    head = ["", *(f"{budget} strokes" for budget in budgets)]
    text = [_line(head), "|---|" + "--:|" * len(budgets)]
    for label, cells in lines.items():
        at = [cells.get(budget, []) for budget in budgets]
        if label == CEILING:
            at = [[]] * (len(budgets) - 1) + [cells[-1]]
        text.append(_line([label, *(_cell(values, name) for values in at)]))
    return [f"**{title}**\n\n" + "\n".join(text)]


def _cell(values: Sequence[float], name: str) -> str:
    if not values:
        return ""
    if name == "painted":
        return f"{np.mean(values):.1%}"
    digits = 0 if name in ("seconds", "strokes") else 3
    spread = f" ± {np.ptp(values) / 2:.{digits}f}" if len(values) > 1 and digits else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
