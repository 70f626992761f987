"""What a few strokes teach the built-in model, and what it forgets, round after round.

    python benchmarks/finetuning.py DATA [--quick] [--out FILE]

DATA is a folder with `cells_phase_contrast`, `nuclei_fluorescence` and `nuclei_histology`, laid
out as `scripts/train_nuclei.py` reads them. A simulated person segments an image of a kind that
the model is bad at, paints ten short strokes on the worst errors, fine-tunes, and starts over with
the new model; strokes of earlier rounds stay. After each round the model is measured on *other*
images of that kind, and on images of nuclei it was good at before and that neither it nor anybody
here has trained on. All through the public API, with the default settings but for `memory`.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from skimage.io import imread

import napari_unet as nu
from napari_unet.core.annotator import draw_strokes, next_strokes
from napari_unet.core.metrics import ObjectScores, object_scores, pixel_iou
from napari_unet.core.simulation import SimulationSettings, simulate

N_STROKES = 10
N_ROUNDS = 4
MEMORIES = (0.0, 0.5, 1.0)
KNOWN = {"nuclei_fluorescence": "fluorescence", "nuclei_histology": "stained tissue"}
NONE = ObjectScores(n_true_positive=0, n_false_positive=0, n_false_negative=0)

Pair = tuple[np.ndarray, np.ndarray]
"""An image `(y, x)` or `(y, x, c)` and its object ids `(y, x)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of image that the model does not know: what to correct, for each seed, and tests."""

    name: str
    corrected: Sequence[Pair]
    others: Sequence[Pair]


@dataclass(frozen=True, slots=True)
class Score:
    """Mean IoU over the images, and F1 over all objects at IoU 0.5; 0 to 1."""

    iou: float
    f1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model after one round: on its new kind, and on each known kind."""

    kind: str
    memory: float | None  # None before the first round
    seed: int
    round: int
    painted: float  # share of the corrected image
    seconds: float  # of the training
    new: Score
    known: dict[str, Score]


def simulated(kind: str, size: int, n_others: int) -> Kind:
    """Simulated images of one kind; nothing but the seeds tells them apart."""

    def draw(seed: int) -> Pair:
        n_nuclei = 70 * size**2 // 512**2
        settings = SimulationSettings(kind=kind, size=size, n_nuclei=n_nuclei)  # type: ignore
        field = simulate(settings, seed=seed)
        return field.image, field.labels

    others = [draw(1000 + i) for i in range(n_others)]
    return Kind(name=f"simulated, {kind}", corrected=[draw(i) for i in range(9)], others=others)


def phase_contrast(data: Path, size: int, n_others: int) -> Kind:
    """Crops of real images: of one training image per seed, and of the test images."""
    folder = data / "cells_phase_contrast"
    corrected = [_cropped(pair, size) for pair in _read(folder, "train")]
    others = [_cropped(pair, size) for pair in list(_read(folder, "test"))[:n_others]]
    return Kind(name="cells, phase contrast", corrected=corrected, others=others)


def known_images(data: Path, n_of_each: int, size: int) -> dict[str, list[Pair]]:
    """Nuclei test images, evenly drawn, at most `size` px a side."""
    known = {}
    for folder, name in KNOWN.items():
        pairs = list(_read(data / folder, "test"))
        places = np.linspace(0, len(pairs) - 1, n_of_each).round().astype(int)
        known[name] = [_cropped(pairs[i], size) for i in places]
    return known


def _read(folder: Path, split: str) -> Iterator[Pair]:
    with (folder / "index.csv").open(encoding="utf-8") as file:
        names = [row["image_id"] for row in csv.DictReader(file) if row["split"] == split]
    for name in names:
        image = imread(folder / "images" / f"{name}.png")
        image = image[..., :3] if image.ndim == 3 else image
        yield image, imread(folder / "masks" / f"{name}.png").astype(np.int32)


def _cropped(pair: Pair, size: int) -> Pair:
    """The middle of an image."""
    top, left = (max(0, (n - size) // 2) for n in pair[1].shape)
    image, objects = (part[top : top + size, left : left + size] for part in pair)
    return np.ascontiguousarray(image), np.ascontiguousarray(objects)


def measure(model: nu.Model, pairs: Sequence[Pair]) -> Score:
    """Segment each image and compare."""
    ious, objects = [], NONE
    for image, truth in pairs:
        labels = segmented(model, image)
        ious.append(pixel_iou(labels > 0, truth > 0))
        objects += object_scores(labels, truth)
    return Score(float(np.mean(ious)), objects.f1)


def segmented(model: nu.Model, image: np.ndarray) -> np.ndarray:
    """Object ids `(y, x)`."""
    return nu.segment(image, model, axes="yx" if image.ndim == 2 else "yxc").labels


def correct_and_learn(
    model: nu.Model,
    kind: Kind,
    known: dict[str, list[Pair]],
    memory: float,
    seed: int,
    steps: int | None,
) -> Iterator[Row]:
    """One person with one image: strokes, training, measuring, again and again."""
    image, truth = kind.corrected[seed]
    corrections = np.zeros(truth.shape, np.uint8)
    for turn in range(1, N_ROUNDS + 1):
        predicted = (segmented(model, image) > 0).astype(np.uint8)
        strokes = next_strokes(
            predicted, (truth > 0).astype(np.uint8), corrections, N_STROKES, seed=10 * seed + turn
        )
        draw_strokes(corrections, strokes)
        options = {} if steps is None else {"steps": steps}
        settings = nu.FineTuneSettings(memory=memory, seed=seed, **options)
        start = time.monotonic()
        model = nu.fine_tune(model, [(image, corrections)], settings, axes="yx")
        yield Row(
            kind=kind.name, memory=memory, seed=seed, round=turn,
            painted=float((corrections > 0).mean()), seconds=time.monotonic() - start,
            new=measure(model, kind.others),
            known={name: measure(model, pairs) for name, pairs in known.items()},
        )  # fmt: skip


def run(arguments: argparse.Namespace, on_progress: Callable[[list[Row]], object]) -> list[Row]:
    """Everything that is asked for; what there is so far is told after each memory setting."""
    quick = arguments.quick
    size, n_others = (256, 1) if quick else (512, 3)
    kinds = [simulated(kind, size, n_others) for kind in ("inverted", "rings")]
    kinds.append(phase_contrast(arguments.data, size, n_others))
    known = known_images(arguments.data, 2 if quick else 12, 256)
    model = nu.load_model(arguments.model)
    at_first = {name: measure(model, pairs) for name, pairs in known.items()}
    steps = 20 if quick else arguments.steps
    rows = [
        Row(kind=kind.name, memory=None, seed=0, round=0, painted=0.0, seconds=0.0,
            new=measure(model, kind.others), known=at_first)
        for kind in kinds
    ]  # fmt: skip
    for row in rows:
        _tell(row)
    for seed, kind, memory in itertools.product(range(arguments.seeds), kinds, MEMORIES):
        for row in correct_and_learn(model, kind, known, memory, seed, steps):
            rows.append(row)
            _tell(row)
        on_progress(rows)
    return rows


def _tell(row: Row) -> None:
    known = ", ".join(f"{name} {s.iou:.3f} {s.f1:.3f}" for name, s in row.known.items())
    print(
        f"{row.kind}, memory {row.memory}, seed {row.seed}, round {row.round}: "
        f"{row.new.iou:.3f} {row.new.f1:.3f}; {known}; {row.seconds:.0f} s",
        file=sys.stderr, flush=True,
    )  # fmt: skip


def table(rows: Sequence[Row], kind: str) -> str:
    """One kind: a line per memory and round, mean over the seeds and half the range."""
    names = [*KNOWN.values()]
    head = ["memory", "round", "painted", "IoU, new kind", "F1, new kind"]
    head += [f"{measure}, {name}" for name in names for measure in ("IoU", "F1")]
    lines = [f"| {' | '.join(head)} |", "|" + "--:|" * len(head)]
    mine = [row for row in rows if row.kind == kind]
    for memory, turn in sorted(
        {(row.memory, row.round) for row in mine}, key=lambda at: (at[0] or 0.0, at[1])
    ):
        group = [row for row in mine if (row.memory, row.round) == (memory, turn)]
        scores = [[row.new, *(row.known[name] for name in names)] for row in group]
        cells = [
            _cell([getattr(score[i], which) for score in scores])
            for i in range(1 + len(names))
            for which in ("iou", "f1")
        ]
        painted = f"{np.mean([row.painted for row in group]):.1%}"
        start = "before" if memory is None else f"{memory:g}"
        lines.append(f"| {start} | {turn} | {painted} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    spread = (max(values) - min(values)) / 2
    return f"{np.mean(values):.3f}" + (f" ± {spread:.3f}" if len(values) > 1 else "")


def report(rows: Sequence[Row], seconds: float, model: str) -> str:
    """All tables as Markdown."""
    import torch

    trained = [row for row in rows if row.round]
    n_seeds = max(row.seed for row in rows) + 1
    settings = nu.FineTuneSettings()
    parts = [
        f"Ten strokes per round; mean over {n_seeds} seed(s) (another image corrected, other "
        "strokes, other draws) ± half the range. IoU: mean over images; F1: over all objects, at "
        f"IoU 0.5. Painted: share of the corrected image. The default memory is {settings.memory}."
    ]
    for kind in dict.fromkeys(row.kind for row in rows):
        parts.append(f"### {kind}\n\n{table(rows, kind)}")
    parts.append(
        f"Model {model}; a round of training took {np.median([r.seconds for r in trained]):.0f} s "
        f"(median), everything {seconds / 60:.0f} min. {os.cpu_count()} cores, "
        f"{platform.machine()}, {torch.get_num_threads()} torch threads, torch "
        f"{version('torch')}, Python {platform.python_version()}."
    )
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--quick", action="store_true", help="tiny: a smoke test")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, help="training steps; default: the plugin's")
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--out", type=Path, help="write the tables to this Markdown file")
    arguments = parser.parse_args()
    start = time.monotonic()

    def write(rows: list[Row]) -> None:
        text = report(rows, time.monotonic() - start, arguments.model)
        if arguments.out:
            arguments.out.write_text(text, encoding="utf-8")

    rows = run(arguments, write)
    print(report(rows, time.monotonic() - start, arguments.model))


if __name__ == "__main__":
    main()
