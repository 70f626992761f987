"""How few strokes are enough: live learning, plain fine-tuning and a random forest, side by side.

    python benchmarks/annotation.py DATA [--quick] [--out FILE]

A simulated person sees one window of one image at a time, of a kind that the model has never seen,
and paints at most ten short strokes of 3 to 9 px on the worst errors there; then the machine learns
and is looked at again. It paints the truth, and nothing of the truth is told to anybody where it
does not paint. Each method is corrected where *it* is wrong, by the same rules and seeds; so the
strokes differ, as they would with real people. What counts is how well *other* images of that kind
are segmented after so many strokes, and what has become of images that the model was good at.

DATA holds `cells_phase_contrast`, `nuclei_fluorescence` and `membranes_em`, laid out as
`scripts/train_nuclei.py` and `accuracy/membranes.py` read them. The forest needs scikit-learn.
What a run (kind, method, where to look, seed) found is kept in `--runs` and not done again: stop
and go on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import annotation_tables as tables
import numpy as np
import scipy.ndimage as ndi
from annotation_kinds import KINDS, Kind, kind_of, known_images
from finetuning import Pair
from learners import METHODS, Answer, Learner, answered, ceiling, learner

import napari_unet as nu
from napari_unet.core.annotator import draw_strokes, next_strokes, worst_view
from napari_unet.core.live.uncertainty import mask_of, regions, uncertain
from napari_unet.core.metrics import ObjectScores, object_scores, pixel_iou

BUDGETS = (0, 5, 10, 20, 50, 100, 200)
PER_ROUND = 10
WHERE = ("worst", "uncertain", "random")
MOST_VIEWS = 30
"""So many views without an error in them are looked at before the person gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One person with one image, from the first stroke to the last; with its settings."""

    kind: str
    method: str
    where: str
    seed: int
    steps: int
    size: int
    view: int
    budgets: tuple[int, ...]
    n_others: int

    @property
    def file(self) -> str:
        """The name of its file."""
        words = (self.kind, self.method, self.where, f"seed{self.seed}")
        return "-".join(words).replace(" ", "_").replace(",", "") + ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Where a person is after some rounds."""

    budget: int
    strokes: int
    views: int  # how many windows were looked at
    painted: float  # share of the image
    seconds: float  # of learning, and of predicting the image that is corrected


# ---- the person


def annotate(person: Learner, pair: Pair, run: Run) -> Iterator[Turn]:
    """Paint and let learn; yields at each budget. Ends early when there is nothing to correct."""
    truth = (pair[1] > 0).astype(np.uint8)
    corrections = np.zeros(truth.shape, np.uint8)
    generator = np.random.default_rng(run.seed)
    looked: list[tuple[slice, slice]] = []
    n, n_views, seconds, seed = 0, 0, 0.0, 1000 * run.seed
    for budget in run.budgets:
        while n < budget:
            start = time.monotonic()
            found = person.look()
            seconds += time.monotonic() - start
            seed += 1
            strokes, seen = [], corrections.copy()
            for _ in range(MOST_VIEWS):
                view = next_view(run, found, truth, seen, looked, generator)
                n_views += 1
                wanted = min(PER_ROUND, budget - n)
                strokes = next_strokes(found.argmax(axis=0), truth, corrections, wanted, seed, view)
                if strokes:
                    break
                seen[view] = 1  # nothing here: elsewhere, then
            if not strokes:
                break
            draw_strokes(corrections, strokes)
            n += len(strokes)
            start = time.monotonic()
            person.learn(corrections)
            seconds += time.monotonic() - start
        painted = float((corrections > 0).mean())
        yield Turn(budget=budget, strokes=n, views=n_views, painted=painted, seconds=seconds)


def next_view(
    run: Run,
    found: np.ndarray,
    truth: np.ndarray,
    corrections: np.ndarray,
    looked: list[tuple[slice, slice]],
    generator: np.random.Generator,
) -> tuple[slice, slice]:
    """Where the person looks next; adds it to `looked`, which starts over when all was seen."""
    if run.where == "worst":
        return worst_view(found.argmax(axis=0), truth, corrections, run.view)
    if run.where == "random":
        window = _by_chance(truth.shape, run.view, looked, generator)
    else:
        doubt = uncertain(found, tuple(range(len(found))))
        places = regions(doubt, looked, run.view, n=1)
        if not places:  # all was seen, or all is certain
            looked.clear()
            places = regions(doubt, None, run.view, n=1)
        window = (
            places[0].window if places else _by_chance(truth.shape, run.view, looked, generator)
        )
    looked.append(window)
    return window


def _by_chance(
    shape: tuple[int, int],
    size: int,
    looked: list[tuple[slice, slice]],
    generator: np.random.Generator,
) -> tuple[slice, slice]:
    """Any window of which less than half was looked at; all count as new when there is none."""
    seen = mask_of(looked, shape)
    for _ in range(50):
        starts = [int(generator.integers(max(n - size, 0) + 1)) for n in shape]
        window = (slice(starts[0], starts[0] + size), slice(starts[1], starts[1] + size))
        if seen[window].mean() < 0.5:
            return window
    looked.clear()
    return window


# ---- scores


def measure(answers: Sequence[Answer], pairs: Sequence[Pair], is_mask: bool) -> dict[str, float]:
    """IoU, mean over images; F1 over all objects (not of masks)."""
    ious, objects = [], ObjectScores(n_true_positive=0, n_false_positive=0, n_false_negative=0)
    for (labels, _), (_, truth) in zip(answers, pairs, strict=True):
        ious.append(pixel_iou(labels > 0, truth > 0))
        objects += object_scores(labels, truth)
    scores = {"iou": float(np.mean(ious))}
    return scores if is_mask else scores | {"f1": objects.f1}


def worth_of_doubt(answers: Sequence[Answer], pairs: Sequence[Pair], view: int) -> dict[str, float]:
    """What the uncertainty map tells of where other images are wrong; means over the images.

    "caught": share of the wrong px among the tenth of the px that is most in doubt (0.1 by chance).
    "by doubt", "by chance": wrong px, thin ones left out, in the window chosen by doubt, and in the
    mean one, as a share of those in the worst one.
    """
    found: dict[str, list[float]] = {"caught": [], "by doubt": [], "by chance": []}
    for (_, probabilities), (_, labels) in zip(answers, pairs, strict=True):
        truth, classes = (labels > 0).astype(np.uint8), probabilities.argmax(axis=0)
        doubt = uncertain(probabilities, tuple(range(len(probabilities))))
        wrong, nothing = classes != truth, np.zeros_like(truth)
        if not wrong.any():
            continue
        most = np.argpartition(doubt.ravel(), -doubt.size // 10)[-doubt.size // 10 :]
        found["caught"].append(float(wrong.ravel()[most].sum() / wrong.sum()))
        size, thick = min(view, min(truth.shape) // 3), ndi.binary_opening(wrong, np.ones((3, 3)))
        worst, mean = thick[worst_view(classes, truth, nothing, size)].sum(), thick.mean() * size**2
        chosen = regions(doubt, None, size, n=1)
        by_doubt = thick[chosen[0].window].sum() if chosen else mean
        found["by doubt"].append(float(by_doubt / max(worst, 1)))
        found["by chance"].append(float(mean / max(worst, 1)))
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def rows_of(run: Run, kind: Kind, known: Sequence[Pair], model: nu.Model) -> Iterator[dict]:
    """One run, a row for each budget."""
    pair = kind.corrected[run.seed % len(kind.corrected)]
    person = learner(run.method, model, pair[0], run.seed, run.steps)
    last: dict = {}
    for turn in annotate(person, pair, run):
        if last and turn.strokes == last["strokes"]:  # nothing was left to correct
            yield last | asdict(turn)
            continue
        answers = [person.answer(image) for image, _ in kind.others]
        last = asdict(turn) | measure(answers, kind.others, kind.is_mask)
        last |= worth_of_doubt(answers, kind.others, run.view)
        if person.model is not None:
            old = [answered(person.model, image) for image, _ in known]
            last |= {f"known {k}": v for k, v in measure(old, known, False).items()}
        yield last


def at_best(run: Run, kind: Kind, known: Sequence[Pair], model: nu.Model) -> Iterator[dict]:
    """The ceiling: all masks of all images of the kind that are not tested on."""
    start = time.monotonic()
    trained = ceiling(model, list(kind.corrected), kind.is_mask, run.seed, run.steps)
    seconds = time.monotonic() - start
    answers = [answered(trained, image) for image, _ in kind.others]
    row = measure(answers, kind.others, kind.is_mask) | {"budget": -1, "seconds": seconds}
    old = [answered(trained, image) for image, _ in known]
    yield row | {f"known {k}": v for k, v in measure(old, known, False).items()}


# ---- runs


def rows_kept(run: Run, folder: Path, work: Iterator[dict]) -> list[dict]:
    """The rows of a run; done now if they are not kept in its folder."""
    file = folder / run.file
    settings = json.loads(json.dumps(asdict(run)))
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["run"] == settings:
            return kept["rows"]
    rows = []
    for row in work:
        rows.append(row)
        words = {k: round(v, 3) for k, v in row.items()}
        print(f"{run.kind}, {run.method}, {run.where}, {run.seed}: {words}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"run": settings, "rows": rows}, indent=1)
    file.write_text(text, encoding="utf-8")
    return rows


def runs_of(arguments: argparse.Namespace) -> list[Run]:
    """All runs that are asked for, those of one seed before those of the next."""
    base = Run(
        kind="", method="", where="worst", seed=0, steps=arguments.steps, size=arguments.size,
        view=arguments.view, budgets=tuple(arguments.budgets), n_others=arguments.others,
    )  # fmt: skip
    runs = []
    for seed in range(arguments.seeds):
        for kind in arguments.kinds:
            of_kind = replace(base, kind=kind, seed=seed)
            runs += [replace(of_kind, method=method) for method in arguments.methods]
            elsewhere = [where for where in arguments.where if where != "worst"]
            runs += [replace(of_kind, method="live", where=where) for where in elsewhere]
            runs.append(
                replace(of_kind, method="all masks", steps=arguments.ceiling_steps, budgets=())
            )
    return runs


def parsed() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--quick", action="store_true", help="tiny: a smoke test")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS[:3]), choices=KINDS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="see learners.py")
    parser.add_argument("--where", nargs="*", default=list(WHERE), choices=WHERE)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--steps", type=int, default=200, help="training steps a round")
    parser.add_argument("--ceiling-steps", type=int, default=1500)
    parser.add_argument("--size", type=int, default=1024, help="of the corrected image, px")
    parser.add_argument("--view", type=int, default=256, help="of the window, px")
    parser.add_argument("--others", type=int, default=3, help="images that are tested on")
    parser.add_argument("--known", type=int, default=12, help="images of a known kind")
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--runs", type=Path, default=Path("runs/annotation"))
    parser.add_argument("--out", type=Path, help="write the tables to this Markdown file")
    arguments = parser.parse_args()
    if arguments.quick:
        small = {"size": 384, "view": 192, "steps": 30, "ceiling_steps": 100, "others": 1}
        vars(arguments).update(small, known=4, seeds=1, budgets=[0, 5, 10, 20])
    arguments.budgets = sorted({0, *arguments.budgets})
    return arguments


def main() -> None:
    """Do what is not done yet, and write the tables after each run."""
    arguments = parsed()
    model = nu.load_model(arguments.model)
    known = known_images(arguments.data, arguments.known)
    done: list[tuple[Run, list[dict]]] = []
    for run in runs_of(arguments):
        kind = kind_of(run.kind, arguments.data, run.size, run.n_others)
        work = at_best if run.method == "all masks" else rows_of
        done.append((run, rows_kept(run, arguments.runs, work(run, kind, known, model))))
        if arguments.out:
            arguments.out.write_text(tables.report(done, arguments), encoding="utf-8")
    print(tables.report(done, arguments))


if __name__ == "__main__":
    main()
