"""From a run to a model: the best weights so far, and what is to be told of them."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from napari_unet.core.corrections import IGNORE
from napari_unet.core.errors import TrainingError
from napari_unet.core.model import Description, Model, Round, save_model, weights_id
from napari_unet.core.training.measuring import Measurement
from napari_unet.core.training.preparing import Request, Subject
from napari_unet.core.training.run_folder import State

__all__ = ["finished", "keep_best", "run_facts"]

HELD_OUT = "held out"


def run_facts(subject: Subject, request: Request) -> dict[str, Any]:
    """What tells one run from another, as plain values by name."""
    digest = hashlib.blake2b(digest_size=8)
    for picture in (*subject.trained, *subject.held_out):
        digest.update(f"{picture.key} {picture.group}".encode())
        digest.update(np.ascontiguousarray(picture.image).tobytes())
        digest.update(np.ascontiguousarray(picture.labels).tobytes())
    return {
        **asdict(subject.settings),
        "start": "" if request.start is None else request.start.id,
        "imagenet": "" if request.imagenet is None else _told_file(request.imagenet),
        "images": f"{subject.n_images} + {subject.n_held_out} ({digest.hexdigest()})",
    }


def _told_file(path: Path) -> str:
    """The name of a file, its size in bytes, and what tells it from others of that name."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8))
    return f"{path.name}, {path.stat().st_size} bytes ({digest.hexdigest()})"


def keep_best(
    state: State,
    found: Measurement,
    score_name: str,
    subject: Subject,
    request: Request,
    folder: Path | None,
) -> None:
    """Keep the weights if nothing better was measured before."""
    if not found.scores:
        return
    value = tuple(found.scores[name] for name in dict.fromkeys((score_name, "iou")))
    if state.best and value < state.best:
        state.n_worse += 1
        return
    has_risen = not state.best or value > state.best
    state.n_worse = 0 if has_risen else state.n_worse + 1
    state.best, state.best_scores, state.best_step = value, dict(found.scores), state.step
    state.best_weights = copy.deepcopy(state.average.network.state_dict())
    if folder is not None:
        save_model(_model(state, subject, request, {}), folder / "best.safetensors")


def finished(
    state: State, subject: Subject, request: Request, before: Mapping[str, float]
) -> Model:
    """The best model of a run, or the last one if nothing was measured.

    Raises
    ------
    TrainingError
        If its weights are no numbers any more.
    """
    model = _model(state, subject, request, before)
    if not all(bool(weights.isfinite().all()) for weights in model.network.parameters()):
        raise TrainingError(
            "Training went astray: some weights are no numbers any more. "
            "Try a smaller learning rate, or precision='full'."
        )
    return model


def _model(state: State, subject: Subject, request: Request, before: Mapping[str, float]) -> Model:
    network: nn.Module = copy.deepcopy(state.average.network)
    if state.best_weights is not None:
        network.load_state_dict(state.best_weights)
    network.requires_grad_(False).eval()
    start = request.start
    entry = _entry(state, subject, start, before, weights_id(network))
    made = Model(
        network=network,
        architecture=subject.architecture,
        config=subject.config,
        description=_described(state, subject, start),
        device=request.device,
        id=entry.id,
        history=(entry,),
    )
    if start is None:
        return made
    return replace(made, history=(*start.history, entry), origin=start.origin, extras=start.extras)


def _entry(
    state: State, subject: Subject, start: Model | None, before: Mapping[str, float], name: str
) -> Round:
    known = sum(int((picture.target != IGNORE).sum()) for picture in subject.trained)
    return Round(
        id=name,
        parent="" if start is None else start.id,
        name=f"trained on {_n_images(subject.n_images)}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        settings={
            **asdict(subject.settings), "steps_done": state.step, "best_step": state.best_step,
            "n_images": subject.n_images, "n_held_out": subject.n_held_out,
        },
        scores_before=dict(before),
        scores_after=dict(state.best_scores),
        n_corrected=known,
        seconds=round(state.seconds, 1),
    )  # fmt: skip


def _n_images(n: int) -> str:
    return f"{n} image{'' if n == 1 else 's'}"


def _described(state: State, subject: Subject, start: Model | None) -> Description:
    """What the model is, with the scores on held-out images."""
    about = subject.about
    scores = {**about.scores, HELD_OUT: dict(state.best_scores)} if state.best_scores else {}
    if start is not None:
        return replace(about, scores=scores or about.scores)
    return replace(
        about,
        scores=scores,
        source=f"trained by you on {_n_images(subject.n_images)}",
        card=_card(state, subject),
    )


def _card(state: State, subject: Subject) -> str:
    """A page on the model, in Markdown."""
    chosen = asdict(subject.settings)
    vary = chosen.pop("augmentation")
    lines = [
        f"# {subject.about.name}",
        "",
        f"Trained on {_n_images(subject.n_images)} in {state.step} steps "
        f"({_duration(state.seconds)}).",
        _told_scores(state, subject),
        "",
        *(f"- {name}: {value}" for name, value in chosen.items() if value is not None),
        *(f"- augmentation, {name}: {value}" for name, value in vary.items()),
    ]
    return "\n".join(lines) + "\n"


def _told_scores(state: State, subject: Subject) -> str:
    if not state.best_scores and subject.n_held_out:
        return "It ended before anything was measured: it is not known how good the model is."
    if not state.best_scores:
        return "No image was held out, so that it is not known how good the model is on others."
    told = ", ".join(f"{name} {value:.3f}" for name, value in state.best_scores.items())
    return (
        f"On {_n_images(subject.n_held_out)} that {'was' if subject.n_held_out == 1 else 'were'} "
        f"held out, at step {state.best_step}: {told}."
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{math.ceil(seconds / 60)} min"
