"""Fine-tuning on painted corrections: the whole training loop, in plain sight.

Training works on a copy of the network; a run that fails or is dropped changes nothing.
Pixels that nobody touched never count as truth. What keeps the model from forgetting: on
untouched pixels it is held to its old answer by a bounded loss, which gives way where strokes
speak against it, and part of each batch are pictures of other kinds with the old answer as target.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from napari_unet.core.corrections import IGNORE, check_corrections, hold_out
from napari_unet.core.device import autocast, release_memory
from napari_unet.core.engine.facts import general_facts
from napari_unet.core.errors import TrainingError, UNetLiveError
from napari_unet.core.image import Image, make_image
from napari_unet.core.losses import (
    class_log_probabilities,
    hold_loss,
    masked_cross_entropy,
    masked_dice,
    output_probabilities,
)
from napari_unet.core.model import Model, Round, load_model, weights_id
from napari_unet.core.outcomes import Outcome
from napari_unet.core.patches import (
    PatchPlan,
    TrainingBlock,
    draw_batch,
    plan_for,
    seen,
    training_blocks,
)
from napari_unet.core.progress import FinishEarly, Work, finish
from napari_unet.core.rehearsal import rehearsal_images
from napari_unet.core.scoring import Scorer, memory_format
from napari_unet.core.settings import FineTuneSettings
from napari_unet.core.training_images import (
    TrainingImage,
    blocks_for,
    input_of,
    training_image,
)

__all__ = [
    "FineTuneSettings",
    "TrainingImage",
    "TrainingProgress",
    "fine_tune",
    "fine_tuning",
    "training_image",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """One step is done.

    Attributes
    ----------
    done, total, message : for a progress bar.
    loss : on the painted pixels of this step's patches; not a number before the first step.
    score : mean IoU over the classes on held-out corrections, 0 to 1, at the steps where it
        was measured, else None.
    """

    done: int
    total: int
    message: str
    loss: float
    score: float | None = None


def fine_tuning(
    model: Model, images: Sequence[TrainingImage], settings: FineTuneSettings | None = None
) -> Work[TrainingProgress, Model]:
    """Train a copy of a model on corrections; `FinishEarly` makes it return the best so far.

    Parameters
    ----------
    model : where to start; it is not changed.
    images : the corrections of all images to learn from.
    settings : None for the defaults.

    Returns
    -------
    Model
        The new model; the last entry of its history tells what was done and gained.

    Raises
    ------
    CorrectionsError
        If nothing is painted, or a painted class is not one of the model's; for networks of
        volumes also if there are no slices around the painted ones.
    TrainingError
        If the loss is no number any more, or the device fails.
    """
    settings = settings or FineTuneSettings()
    try:
        return (yield from _train(model, images, settings))
    except UNetLiveError:
        raise
    except (RuntimeError, MemoryError) as error:  # NOTE: Qt's workers lose RuntimeErrors
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise TrainingError(
            f"Training stopped ({reason}). The model is unchanged. "
            f"Choose smaller patches or batches, or another device."
        ) from error
    finally:
        release_memory(model.device.torch_device)


def _train(
    model: Model, images: Sequence[TrainingImage], settings: FineTuneSettings
) -> Work[TrainingProgress, Model]:
    start = time.monotonic()
    facts = general_facts(model.network, model.config.in_channels, model.config.dims)
    device = model.device.torch_device
    torch_random = torch.Generator().manual_seed(settings.seed)
    found = [(image, block) for image in images for block in blocks_for(image, model.config.dims)]
    held_out = hold_out([(image.key, block) for image, block in found], settings.held_out)
    inputs = [input_of(model, image, block) for image, block in found]
    blocks = [block for _, block in found]
    ready = training_blocks(blocks, inputs, held_out, len(model.description.class_names))
    memories = rehearsal_images(model)
    plan = plan_for(settings, facts, ready, bool(memories))
    scorer = Scorer(model, blocks, inputs, held_out, memories)

    old = model.network
    network = copy.deepcopy(old).requires_grad_(True).to(device)
    network = network.to(memory_format=memory_format(model.config.dims))  # type: ignore[call-overload]
    network.eval()  # NOTE: batch statistics of a few strokes would ruin those learned before
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate)
    before = scorer.score(network)
    best, best_weights = -1.0, None
    every = max(10, settings.steps // 10)
    about = model.description

    step = 0
    try:
        yield TrainingProgress(
            done=0, total=settings.steps, message="Training", loss=float("nan"),
            score=before.get("iou"),
        )  # fmt: skip
        for step in range(1, settings.steps + 1):
            image, target, is_memory = draw_batch(ready, memories, plan, torch_random)
            image = image.to(device, memory_format=memory_format(model.config.dims))
            # NOTE: without it torch 2.13 crashes on a processor if a group norm comes first.
            image.requires_grad_(device.type == "cpu")
            target = seen(target.to(device), facts.fit)
            with autocast(device, model.config.dims):
                logits = network(image)
            log_classes = class_log_probabilities(logits, about.output_class, about.outcome)
            painted = masked_cross_entropy(log_classes, target) + masked_dice(log_classes, target)
            held = _held(
                old, image, logits, target, is_memory.to(device), settings.memory, about.outcome
            )
            optimizer.param_groups[0]["lr"] = _learning_rate(step, settings)
            optimizer.zero_grad(set_to_none=True)
            (painted + held).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()

            loss = painted.item()
            _check_loss(loss, step)
            score = None
            if step % every == 0 or step == settings.steps:
                score = scorer.score(network, with_memory=False).get("iou")
                if score is not None and score >= best:
                    best, best_weights = score, copy.deepcopy(network.state_dict())
            yield TrainingProgress(
                done=step, total=settings.steps, message="Training", loss=loss, score=score
            )
    except FinishEarly:
        pass
    if best_weights is not None:
        network.load_state_dict(best_weights)
    entry = _entry(model, plan, settings, before, step, ready)
    return _finished(model, network, entry, scorer, start)


def _learning_rate(step: int, settings: FineTuneSettings) -> float:
    """Warm-up over 10 steps, then down along a cosine to a twentieth."""
    warm_up = min(1.0, step / 10)
    cosine = 0.5 * (1 + np.cos(np.pi * step / settings.steps))
    return float(settings.learning_rate * warm_up * (0.05 + 0.95 * cosine))


def _check_loss(loss: float, step: int) -> None:
    if not np.isfinite(loss):
        raise TrainingError(
            f"Training went astray: at step {step} the loss was no number any more. "
            f"The model is unchanged. Try a smaller learning rate."
        )


def _check_weights(network: nn.Module) -> None:
    if not all(bool(weights.isfinite().all()) for weights in network.parameters()):
        raise TrainingError(
            "Training went astray: some weights are no numbers any more. "
            "The model is unchanged. Try a smaller learning rate."
        )


def _held(
    old: nn.Module, image: Tensor, logits: Tensor, target: Tensor, is_memory: Tensor,
    memory: float, outcome: Outcome,
) -> Tensor:  # fmt: skip
    """The pull towards the old answer, on untouched pixels and on rehearsal pictures."""
    if memory == 0:
        return logits.new_zeros(())
    with torch.no_grad(), autocast(image.device):
        answer = output_probabilities(old(image), outcome)
    is_memory = is_memory.view(-1, *[1] * (target.ndim - 1))  # (b, [1,] 1, 1)
    untouched = (target == IGNORE) & ~is_memory
    pull = hold_loss(logits, answer, untouched, outcome)
    if is_memory.any():
        rehearsed = is_memory.expand_as(target)
        pull = pull + 4 * hold_loss(logits, answer, rehearsed, outcome)
    return 4 * memory * pull


def _entry(
    model: Model, plan: PatchPlan, settings: FineTuneSettings, before: dict[str, float],
    n_steps: int, blocks: Sequence[TrainingBlock],
) -> Round:  # fmt: skip
    """What is to be told of a round, but for how it ended."""
    used: dict[str, Any] = asdict(replace(settings, patch_size=plan.shape[-1]))
    if len(plan.shape) == 3:
        used |= {
            "patch_shape": list(plan.shape), "batch_size": plan.n_patches + plan.n_memories,
            "augmentation": asdict(plan.augmentation),
        }  # fmt: skip
    return Round(
        id="",
        parent=model.id,
        name=f"round {len(model.history) + 1}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        settings={**used, "steps_done": n_steps},
        scores_before=before,
        scores_after={},
        n_corrected=sum(len(places) for block in blocks for places in block.places.values()),
        seconds=0.0,
    )


def _finished(
    model: Model, network: nn.Module, entry: Round, scorer: Scorer, start: float
) -> Model:
    _check_weights(network)
    network.requires_grad_(False)
    entry = replace(
        entry,
        id=weights_id(network),
        scores_after=scorer.score(network),
        seconds=round(time.monotonic() - start, 1),
    )
    return replace(model, network=network, id=entry.id, history=(*model.history, entry))


def fine_tune(
    model: Model | str,
    images: Iterable[tuple[Any, npt.NDArray[np.integer]]],
    settings: FineTuneSettings | None = None,
    axes: str | None = None,
    report: Callable[[TrainingProgress], object] | None = None,
) -> Model:
    """Train a copy of `model` on painted corrections.

    Parameters
    ----------
    model : from `load_model`, or what `load_model` takes.
    images : pairs of an image (array or `Image`) and its corrections: whole numbers in the
        axes of the image without channels, 0 untouched, 1 background, 2 and up the classes.
    settings : None for the defaults.
    axes : axes of the images, as in `segment`.
    report : called with each `TrainingProgress`.

    Returns
    -------
    Model
        A new model. The one passed in is unchanged.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    gathered = []
    for array, painted in images:
        corrections = np.asarray(painted)
        image = array if isinstance(array, Image) else make_image(array, axes)
        check_corrections(image, corrections, len(loaded.description.class_names))
        gathered.append(training_image(image, corrections))
    return finish(fine_tuning(loaded, gathered, settings), report)
