"""What the scripts of this folder share: runs that are kept, measures, and tables.

A run is a network trained with one seed on one split. It is kept in a folder of its own, so that
a script that was stopped goes on where it was, and a table can be made again without training.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.append(str(Path(__file__).resolve().parents[1]))  # what all benchmarks share

import numpy as np
import torch
from machines import processor

import napari_unet as nu
from napari_unet.core.datasets import Pair
from napari_unet.core.device import choose_device
from napari_unet.core.metrics import (
    ObjectScores,
    SegScore,
    mean_average_precision,
    object_scores,
    pixel_iou,
    seg_score,
)
from napari_unet.core.model import Model, load_model, save_model
from napari_unet.core.progress import finish
from napari_unet.core.settings import AugmentationSettings
from napari_unet.core.training import TrainProgress, TrainSettings, training

Scores = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One network, trained once.

    Attributes
    ----------
    name : of the row of the table that it counts towards.
    settings : how it is trained.
    part : which part of the data it is scored on, such as a fold.
    """

    name: str
    settings: TrainSettings
    part: str = ""

    @property
    def key(self) -> str:
        """The name of its folder."""
        words = (self.name, self.part, f"seed{self.settings.seed}")
        return "-".join(word.replace(" ", "_").replace("/", "_") for word in words if word)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the runs of one name came to."""

    name: str
    scores: Sequence[Scores] = field(default_factory=list)


def parser(description: str) -> argparse.ArgumentParser:
    """The options that all scripts have."""
    made = argparse.ArgumentParser(
        description=description.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("data", type=Path, help="the folder that is described above")
    made.add_argument("--runs", type=Path, default=Path("runs"), help="where runs are kept")
    made.add_argument("--out", type=Path, help="where the table goes (Markdown)")
    made.add_argument("--steps", type=int, default=1000, help="training steps of each run")
    made.add_argument("--width", type=int, default=16, help="channels of the first level")
    made.add_argument("--seeds", type=int, default=3, help="how many seeds")
    made.add_argument("--device", default="auto")
    return made


def trained(run: Run, pairs: Sequence[Pair], arguments: argparse.Namespace) -> tuple[Model, float]:
    """The network of a run and the seconds it took; trained now if it was not before."""
    folder = arguments.runs / run.key
    file, clock = folder / "model.safetensors", folder / "seconds.json"
    if file.exists():
        return load_model(file, arguments.device), json.loads(clock.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    start, said = time.monotonic(), time.monotonic()

    def report(progress: TrainProgress) -> None:
        nonlocal said
        if progress.score is not None or time.monotonic() - said > 60:
            said = time.monotonic()
            score = "" if progress.score is None else f"  score {progress.score:.3f}"
            print(f"  {run.key}: step {progress.done}  loss {progress.loss:.3f}{score}", flush=True)

    work = training(
        pairs, run.settings, folder=folder / "run", device=arguments.device, name=run.name
    )
    model = finish(work, report)
    clock.write_text(json.dumps(round(time.monotonic() - start, 1)))
    save_model(model, file)
    return model, json.loads(clock.read_text())


def scored(
    run: Run,
    pairs: Sequence[Pair],
    arguments: argparse.Namespace,
    measure: Callable[[Model], Scores],
) -> Scores:
    """The scores of a run; measured now if they were not before."""
    file = arguments.runs / run.key / "scores.json"
    if not file.exists():
        model, seconds = trained(run, pairs, arguments)
        scores = {**measure(model), "training, s": seconds}
        file.write_text(json.dumps(scores, indent=1))
        print(run.key, {name: round(value, 3) for name, value in scores.items()}, flush=True)
    found: Scores = json.loads(file.read_text())
    return found


# ---- measures of objects


@dataclass(slots=True)
class Tally:
    """Measures of objects, image after image."""

    ious: list[float] = field(default_factory=list)
    precisions: list[float] = field(default_factory=list)
    objects: ObjectScores | None = None
    seg: SegScore | None = None

    def add(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """Count one image; object ids `(y, x)`."""
        self.ious.append(pixel_iou(predicted > 0, truth > 0))
        self.precisions.append(mean_average_precision(predicted, truth))
        objects, seg = object_scores(predicted, truth), seg_score(predicted, truth)
        self.objects = objects if self.objects is None else self.objects + objects
        self.seg = seg if self.seg is None else self.seg + seg

    def scores(self) -> Scores:
        """Means over the images (IoU, AP) and over all objects (SEG, F1)."""
        assert self.objects is not None and self.seg is not None
        return {
            "IoU": float(np.mean(self.ious)),
            "SEG": self.seg.seg,
            "object F1": self.objects.f1,
            "mean AP": float(np.mean(self.precisions)),
        }


def of_objects(pairs: Sequence[Pair], segment: Callable[[Pair], np.ndarray]) -> Scores:
    """How well objects are found in these images."""
    tally = Tally()
    for pair in pairs:
        tally.add(segment(pair), np.asarray(pair.labels))
    return tally.scores()


def by(model: Model) -> Callable[[Pair], np.ndarray]:
    """Segments with a model, as a user of the plugin would."""
    return lambda pair: np.asarray(nu.segment(pair.image, model).labels)


# ---- tables


def table(rows: Sequence[Row]) -> str:
    """Mean and spread (half of the range) over the runs of each row, in Markdown."""
    names = list(dict.fromkeys(name for row in rows for one in row.scores for name in one))
    head = [f"| | runs | {' | '.join(names)} |", "|---|--:|" + "--:|" * len(names)]
    return "\n".join([*head, *(_line(row, names) for row in rows)])


def _line(row: Row, names: Sequence[str]) -> str:
    cells = [row.name, str(len(row.scores))]
    for name in names:
        values = [one[name] for one in row.scores if name in one]
        digits = 0 if name.endswith(", s") else 3
        mean = f"{np.mean(values):.{digits}f}" if values else ""
        spread = f" ± {np.ptp(values) / 2:.{digits}f}" if len(values) > 1 else ""
        cells.append(mean + spread)
    return "| " + " | ".join(cells) + " |"


def machine() -> str:
    """What it was measured on, in one line."""
    device = choose_device().label
    name = processor() or platform.machine()
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {device} ({os.cpu_count()} cores, {name}), "
        f"torch {version('torch')}, Python {platform.python_version()}"
    )


def write(arguments: argparse.Namespace, title: str, parts: Sequence[str]) -> None:
    """Print the tables, and write them to a file if one was named."""
    command = " ".join(["python", *sys.argv])
    text = "\n\n".join([f"# {title}", f"Measured on {machine()}, with `{command}`.", *parts]) + "\n"
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text, encoding="utf-8")


def seeds(arguments: argparse.Namespace) -> range:
    """The seeds to run."""
    return range(arguments.seeds)


def without_augmentation() -> AugmentationSettings:
    """Everything switched off."""
    return AugmentationSettings(
        elastic_sigma=0.0, rotation=0.0, scale=1.0, flips=False, brightness=0.0, contrast=0.0,
        gamma=1.0, noise=0.0,
    )  # fmt: skip


def use_threads() -> None:
    """One thread for each core, unless OMP_NUM_THREADS says otherwise."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
