"""How soon does live mode show what a stroke taught it, and which of its ingredients make it so?

    python benchmarks/live.py [--sizes 512,1024] [--ingredients] [--minutes 10] [--out FILE]

A field of simulated nuclei in inverted contrast, a kind that the built-in model has never seen. Ten
strokes of a simulated person are there at once, as in the trial this part was designed after; then
`living`, the same piece of work that the window runs, learns from them and predicts the view again
and again. The table tells the IoU of what is shown, by seconds since the strokes came. No window
takes part, so that it runs on a server; `live_window.py` measures the same with a mouse in napari.

`--ingredients` changes one thing at a time. `--minutes` keeps a person painting for so long, and
tells whether the network collapses and whether the memory stays level.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in the plugin, before torch is imported

import numpy as np
import psutil
import torch
from machines import processor, tell, versions_of

from napari_unet.core import annotator
from napari_unet.core.image import make_image
from napari_unet.core.instances import classes_of
from napari_unet.core.live import learner as learner_module
from napari_unet.core.live import living as living_module
from napari_unet.core.live.images import LiveImage, live_image, painted_blocks
from napari_unet.core.live.inbox import Inbox, Looking, Painted
from napari_unet.core.live.learner import Learner
from napari_unet.core.live.living import LiveProgress, living
from napari_unet.core.live.settings import LiveSettings
from napari_unet.core.metrics import pixel_iou
from napari_unet.core.model import Model, load_model
from napari_unet.core.simulation import Simulated, SimulationSettings, simulate

N_STROKES = 10
MOMENTS = (0.5, 1.0, 1.5, 2.5, 5.0)
"""Seconds since the strokes came."""
BETTER = 0.005
"""A gain of IoU that one sees."""
LONGEST = 60.0
EACH = 5.0
"""Seconds from one stroke to the next, while a person goes on painting."""


@dataclass(slots=True)
class Trace:
    """IoU of what is shown, by time."""

    before: float
    times: list[float] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    n_steps: int = 0
    painted: float = 0.0

    @property
    def final(self) -> float:
        """At the end."""
        return self.ious[-1] if self.ious else self.before

    def at(self, seconds: float) -> float:
        """IoU so many seconds after the strokes came."""
        shown = [iou for time, iou in zip(self.times, self.ious, strict=True) if time <= seconds]
        return shown[-1] if shown else self.before

    def until(self, share: float) -> float:
        """Seconds until that share of the final gain was shown; nan if there is none."""
        wanted = self.before + share * (self.final - self.before)
        if self.final <= self.before + BETTER:
            return float("nan")
        reached = (t for t, iou in zip(self.times, self.ious, strict=True) if iou >= wanted)
        return next(reached, float("nan"))

    @property
    def first(self) -> float:
        """Seconds until the first change for the better."""
        better = (
            t for t, iou in zip(self.times, self.ious, strict=True) if iou > self.before + BETTER
        )
        return next(better, float("nan"))


class Person:
    """Paints on an image whose truth it knows, and looks at all of it."""

    def __init__(self, field: Simulated, seed: int = 0) -> None:
        self.image: LiveImage = live_image(make_image(field.image))
        self.truth = np.minimum(field.labels, 1)
        self.corrections = np.zeros(self.truth.shape, np.uint8)
        self.shown = np.zeros(self.truth.shape, np.uint8)
        self.seed = seed

    @property
    def iou(self) -> float:
        """Of what is shown."""
        return pixel_iou(self.shown > 0, self.truth > 0)

    def looking(self) -> Looking:
        """All of the image."""
        height, width = self.truth.shape
        return Looking(image=self.image, window=(slice(0, height), slice(0, width)))

    def paint(self, n_strokes: int) -> Painted:
        """Strokes on the worst errors that are shown."""
        strokes = annotator.next_strokes(
            self.shown, self.truth, self.corrections, n_strokes, seed=self.seed
        )
        self.seed += 1
        annotator.draw_strokes(self.corrections, strokes)
        return Painted(image=self.image, blocks=painted_blocks(self.corrections))

    def see(self, progress: LiveProgress, model: Model) -> bool:
        """Take in what is shown; whether the whole view is of the same weights now."""
        seen = progress.seen
        if seen is None or not seen.is_view:
            return False
        about = model.description
        self.shown[seen.window] = classes_of(
            seen.outputs, about.output_class, about.objects.threshold
        )
        return True


def picture(size: int, seed: int) -> Simulated:
    """Nuclei in inverted contrast."""
    settings = SimulationSettings(kind="inverted", size=size, n_nuclei=70 * size**2 // 512**2)
    return simulate(settings, seed=seed)


def burst(model: Model, size: int, seed: int, settings: LiveSettings | None = None) -> Trace:
    """Ten strokes at once, until training has settled."""
    person, inbox = Person(picture(size, seed), seed), Inbox()
    work = living(model, inbox, settings)
    inbox.put(person.looking())
    rested = 0
    while rested < 40:  # the first look, and all that is made ready beforehand
        progress = next(work)
        person.see(progress, model)
        rested = rested + 1 if progress.message == "Waiting for strokes" else 0
    trace = Trace(before=person.iou)
    strokes = person.paint(N_STROKES)
    trace.painted = float((person.corrections > 0).mean())
    start = time.monotonic()
    inbox.put(strokes)
    is_over = False
    while time.monotonic() - start < LONGEST:
        progress = next(work)
        if person.see(progress, model):
            trace.times.append(time.monotonic() - start)
            trace.ious.append(person.iou)
        trace.n_steps = progress.step
        if progress.is_settled and progress.seen is None and progress.step:
            if is_over:
                break
            is_over = True
    work.close()
    return trace


# ---- ingredients


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Something else in place of a part, for the time being."""
    was = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, was)


class _Training(Learner):
    """Takes the statistics of each batch, as training does elsewhere."""

    def _begin(self) -> None:
        super()._begin()
        self._network.train()


class _Newest(Learner):
    """Shows the newest weights, not their mean."""

    @torch.no_grad()
    def _average(self) -> None:
        for shown, newest in zip(self._shown.parameters(), self._network.parameters(), strict=True):
            shown.copy_(newest)


def ingredients(size: int) -> dict[str, tuple[LiveSettings, Callable[[], Any]]]:
    """Name to settings, and to what is changed meanwhile."""
    usual, nothing = LiveSettings(), contextlib.nullcontext
    change = partial(partial, replaced)
    return {
        "as it is": (usual, nothing),
        "32 bits": (usual, change(learner_module, "autocast", lambda *_: nothing())),
        "as torch lays images out": (
            usual, change(learner_module, "memory_format", lambda _: torch.contiguous_format)
        ),
        "the whole view instead of patches": (
            LiveSettings(patch_size=size, batch_size=1, memory=0.0), nothing
        ),
        "two patches a step": (LiveSettings(batch_size=2), nothing),
        "eight patches a step": (LiveSettings(batch_size=8), nothing),
        "patches of 64 px": (LiveSettings(patch_size=64), nothing),
        "half the learning rate": (LiveSettings(learning_rate=5e-4), nothing),
        "twice the learning rate": (LiveSettings(learning_rate=2e-3), nothing),
        "batch statistics": (usual, change(living_module, "Learner", _Training)),
        "the newest weights, not their mean": (usual, change(living_module, "Learner", _Newest)),
        "untouched pixels are free": (LiveSettings(memory=0.0), nothing),
        "nothing made ready beforehand": (usual, change(Learner, "prepare", lambda _: False)),
    }  # fmt: skip


# ---- minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """How it stands while a person goes on painting: memory in MiB."""

    seconds: float
    n_strokes: int
    iou: float
    memory: float


def minutes(model: Model, size: int, n_minutes: float) -> list[Moment]:
    """A person paints a stroke every five seconds; how it stands twice a minute."""
    person, inbox = Person(picture(size, 0)), Inbox()
    work = living(model, inbox)
    inbox.put(person.looking())
    process, moments = psutil.Process(), []
    start = painted = time.monotonic()
    n_strokes = 0
    while (now := time.monotonic()) - start < 60 * n_minutes:
        person.see(next(work), model)
        if now - painted > EACH:
            inbox.put(person.paint(1))
            n_strokes, painted = n_strokes + 1, now
        if now - start >= 30 * (len(moments) + 1):
            memory = process.memory_info().rss / 2**20
            moments.append(
                Moment(seconds=now - start, n_strokes=n_strokes, iou=person.iou, memory=memory)
            )
            print(moments[-1], flush=True)
    work.close()
    return moments


# ---- tables


def row_of(name: str, traces: list[Trace]) -> str:
    """A line: medians over the rounds."""

    def middle(values: list[float], digits: int = 2) -> str:
        return f"{np.nanmedian(values):.{digits}f}" if not np.all(np.isnan(values)) else "never"

    moments = [middle([trace.at(moment) for trace in traces]) for moment in MOMENTS]
    cells = [
        name, middle([trace.before for trace in traces]), *moments,
        middle([trace.final for trace in traces]),
        middle([trace.first for trace in traces]),
        middle([trace.until(0.75) for trace in traces]),
        middle([trace.until(0.95) for trace in traces]),
        middle([trace.n_steps for trace in traces], 0),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def head() -> list[str]:
    """The first lines of the table."""
    moments = " | ".join(f"{moment:g} s" for moment in MOMENTS)
    return [
        f"| | IoU before | {moments} | settled | first gain, s | 75 %, s | 95 %, s | steps |",
        "|---|" + "--:|" * (len(MOMENTS) + 6),
    ]


def several(
    model: Model, size: int, rounds: int, settings: LiveSettings | None = None
) -> list[Trace]:
    """One burst for each seed."""
    return [burst(model, size, seed, settings) for seed in range(rounds)]


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", default="512,1024", help="edges of the view, in px")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ingredients", action="store_true")
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    model = load_model("nuclei", chosen.device)
    sizes = [int(size) for size in chosen.sizes.split(",")]
    lines = [
        "# Live mode: from strokes to what is shown",
        "",
        f"Measured on {time.strftime('%Y-%m-%d')} with `live.py {' '.join(sys.argv[1:])}`: "
        f"{model.device.label}, {processor()} ({os.cpu_count()} cores), {platform.system()}, "
        f"{versions_of(['torch', 'numpy'])}. Medians of {chosen.rounds} rounds.",
        "",
    ]
    burst(model, 256, 0)  # what is slow the first time
    lines += ["## Ten strokes at once", "", *head()]
    for size in sizes:
        traces = several(model, size, chosen.rounds)
        painted = np.mean([trace.painted for trace in traces])
        lines.append(row_of(f"{size} px ({painted:.1%} painted)", traces))
        print(lines[-1], flush=True)
    if chosen.ingredients:
        lines += ["", f"## One thing at a time, {sizes[0]} px", "", *head()]
        for name, (settings, change) in ingredients(sizes[0]).items():
            with change():
                lines.append(row_of(name, several(model, sizes[0], chosen.rounds, settings)))
            print(lines[-1], flush=True)
    if chosen.minutes:
        lines += ["", f"## A stroke every five seconds, {sizes[0]} px", ""]
        lines += ["| s | strokes | IoU in view | memory, MiB |", "|--:|--:|--:|--:|"]
        lines += [
            f"| {one.seconds:.0f} | {one.n_strokes} | {one.iou:.3f} | {one.memory:.0f} |"
            for one in minutes(model, sizes[0], chosen.minutes)
        ]
    tell("\n".join(lines) + "\n", chosen.out)


if __name__ == "__main__":
    main()
