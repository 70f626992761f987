"""What live mode leaves behind: a model, and what it has gained."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

import numpy as np
import torch

from napari_unet.core.device import Device, choose_device
from napari_unet.core.live.learner import Learner
from napari_unet.core.model import Model, Round, weights_id
from napari_unet.core.rehearsal import rehearsal_images
from napari_unet.core.scoring import Scorer

__all__ = ["LiveOutcome", "model_of", "outcome_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveOutcome:
    """What live mode leaves behind when it is finished.

    Attributes
    ----------
    model : what was learned, with a new entry in its history; the model before if nothing was.
    before, after : scores: "iou" on held-out corrections if there were enough, and "memory", the
        share of pixels of other pictures that get the same class as before.
    best_step : training steps that the weights have seen.
    n_steps : training steps altogether.
    """

    model: Model
    before: dict[str, float]
    after: dict[str, float]
    best_step: int
    n_steps: int


def outcome_of(learner: Learner, started: float) -> LiveOutcome:
    """Measure what a learner has learned since `time.monotonic()` was `started`."""
    if not learner.n_steps:
        return LiveOutcome(model=learner.model, before={}, after={}, best_step=0, n_steps=0)
    learner.prefer_best()
    before, after = _scores(learner)
    return LiveOutcome(
        model=model_of(learner, started, before, after), before=before, after=after,
        best_step=learner.weights_step, n_steps=learner.n_steps,
    )  # fmt: skip


def model_of(
    learner: Learner,
    started: float,
    before: dict[str, float] | None = None,
    after: dict[str, float] | None = None,
) -> Model:
    """A new model with the newest weights; the model before if there are no others."""
    model = learner.model
    if not learner.n_steps:
        return model
    network = copy.deepcopy(learner.network).requires_grad_(False).eval()
    network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    device = _device_of(learner)
    network = network.to(device.torch_device)
    entry = Round(
        id=weights_id(network),
        parent=model.id,
        name=f"round {len(model.history) + 1}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        settings={**asdict(learner.settings), "live": True, "steps_done": learner.n_steps},
        scores_before=before or {},
        scores_after=after or {},
        n_corrected=learner.paint.n_trained,
        seconds=round(time.monotonic() - started, 1),
    )
    history = (*model.history, entry)
    return replace(model, network=network, id=entry.id, history=history, device=device)


def _device_of(learner: Learner) -> Device:
    """Where the model was; the processor if that device was lost meanwhile."""
    device = learner.model.device
    return device if learner.device == device.torch_device else choose_device("cpu")


def _scores(learner: Learner) -> tuple[dict[str, float], dict[str, float]]:
    """On held-out corrections and on other pictures, before and after, measured alike."""
    model = learner.model
    memories = rehearsal_images(model)
    old = replace(model, network=learner.old, device=_device_of(learner))
    scorer = Scorer(old, [], [], [], memories)
    found = []
    for network in (learner.old, learner.network):
        scores = scorer.score(network)
        iou = learner.score(network)
        found.append(scores if iou is None else {"iou": float(np.round(iou, 4)), **scores})
    return found[0], found[1]
