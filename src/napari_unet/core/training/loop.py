"""Training from masks: the whole loop, in plain sight.

Everything random in a step follows from the seed and the number of the step: a run that was
stopped, or killed, goes on to the very same weights.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from napari_unet.core.datasets import Pair
from napari_unet.core.device import choose_device, release_memory
from napari_unet.core.engine.facts import general_facts
from napari_unet.core.engine.fitting import Fit
from napari_unet.core.errors import TrainingError, UNetLiveError
from napari_unet.core.model import Model
from napari_unet.core.networks import DeeplySupervised
from napari_unet.core.progress import FinishEarly, Work
from napari_unet.core.scoring import memory_format
from napari_unet.core.training.finishing import finished, keep_best, run_facts
from napari_unet.core.training.measuring import Measurement, Measurer
from napari_unet.core.training.objective import class_weights, loss_of
from napari_unet.core.training.optimizing import (
    Average,
    arithmetic,
    learning_rate,
    needs_scaling,
    optimizer_for,
    seeded,
)
from napari_unet.core.training.pace import (
    N_MEASUREMENTS,
    generator_of,
    is_due,
    is_over,
    seed_of,
    share_done,
)
from napari_unet.core.training.patches import PatchPlan, draw_batch, plan_for
from napari_unet.core.training.preparing import Request, Subject, subject_of
from napari_unet.core.training.progress import TrainProgress
from napari_unet.core.training.run_folder import (
    Log,
    State,
    checked_folder,
    load_state,
    save_state,
)
from napari_unet.core.training.settings import TrainSettings

__all__ = ["training"]


def training(
    pairs: Sequence[Pair],
    settings: TrainSettings,
    *,
    start: Model | None = None,
    folder: str | Path | None = None,
    device: str = "auto",
    name: str = "",
    class_names: Sequence[str] | None = None,
    imagenet: str | Path | None = None,
) -> Work[TrainProgress, Model]:
    """Train a network on masks, as work that yields a `TrainProgress` for each step.

    Thrown `FinishEarly`, it returns the best model so far; while images are read there is none.

    Parameters
    ----------
    pairs : images and masks, from `napari_unet.core.datasets`. Those that are set apart for
        testing are not touched.
    settings : what and how.
    start : a model to go on from, which is not changed; None for a new network.
    folder : where the run is kept while it trains; called again with the same folder, it goes on
        where it was. None to keep nothing.
    device : "auto", "cpu", "cuda", "cuda:N" or "mps".
    name : of the model; "" for that of the network.
    class_names : of all classes in the masks, or of all but the background.
    imagenet : a file with the weights of the network's encoder, trained on ImageNet, that you
        have; for networks with such an encoder (VGG, ResNet, MobileNet). None for random weights.

    Returns
    -------
    Model
        The best one on held-out images; its `description.scores["held out"]` says how good. With
        nothing held out, the last one.

    Raises
    ------
    TrainingError
        If there is nothing to learn from, the folder belongs to another run, the loss is no number
        any more, the device fails, or it is to finish before there is a model.
    SettingsError
        If the network cannot be built for these images.
    """
    place = choose_device(device)
    request = Request(
        pairs=tuple(pairs), settings=settings, start=start, device=place, name=name,
        class_names=class_names, imagenet=_path(imagenet),
    )  # fmt: skip
    try:
        return (yield from _train(request, _path(folder)))
    except UNetLiveError:
        raise
    except FinishEarly as early:
        raise TrainingError(
            "The training was ended before its first step, so that there is no model yet."
        ) from early
    except (RuntimeError, ValueError, OSError, MemoryError) as error:  # Qt loses RuntimeErrors
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise TrainingError(f"Training stopped ({reason}). {_advice(reason)}") from error
    finally:
        release_memory(place.torch_device)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Course:
    """What stays the same through all steps.

    Attributes
    ----------
    subject, plan, measurer : what is trained, on which patches, and how it is measured.
    fit : which sizes the network takes.
    per_value : how much the pixels of each value of the targets count; None for all alike.
    every : steps between two measurements.
    before : what the model that training starts from can do.
    """

    subject: Subject
    plan: PatchPlan
    measurer: Measurer
    fit: Fit
    per_value: Tensor | None
    every: int
    before: Measurement


def _course(subject: Subject, request: Request) -> _Course:
    settings, about = subject.settings, subject.about
    facts = general_facts(subject.network, about.in_channels, about.dims)
    plan = plan_for(settings, facts, subject.trained, about.in_channels)
    every = settings.measure_every or max(1, settings.steps // N_MEASUREMENTS)
    n_trained = every * plan.n_patches * int(np.prod(plan.answer))
    device = request.device.torch_device
    measurer = Measurer(subject.held_out, settings, about, facts.fit, n_trained, device)
    return _Course(
        subject=subject,
        plan=plan,
        measurer=measurer,
        fit=facts.fit,
        per_value=class_weights(settings, subject.trained, subject.outputs.n_values),
        every=every,
        before=measurer.measure(subject.network) if request.start else Measurement(),
    )


def _train(request: Request, folder: Path | None) -> Work[TrainProgress, Model]:
    began = time.monotonic()
    device = request.device.torch_device
    subject = yield from subject_of(request)
    settings, course = subject.settings, _course(subject, request)
    state = _resumed(_fresh(subject, device), subject, request, folder)
    began -= state.seconds
    network, optimizer, scaler = state.network, state.optimizer, state.scaler
    log = Log(folder, state.step)
    try:
        yield _first(state, course)
        while not is_over(state, settings):
            step, share = state.step + 1, share_done(state, settings)
            batch = draw_batch(
                subject.trained, course.plan, generator_of(settings.seed, step), device
            )
            network.train()
            with seeded(device, seed_of(settings.seed, step, 1)), arithmetic(device, settings):
                all_logits = _all_logits(network, batch.image)
            loss = loss_of(all_logits, batch, course.fit, subject, course.per_value)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            value = _checked(loss, step)
            scaler.unscale_(optimizer)
            if settings.clip:
                nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
            rate = optimizer.param_groups[0]["lr"] = learning_rate(settings, step, share)
            scaler.step(optimizer)
            scaler.update()
            state.average.update(step)

            state.step, state.seconds = step, time.monotonic() - began
            found, measures = Measurement(), is_due(share, state, settings, course.every)
            if measures:
                found = course.measurer.measure(state.average.network)
                keep_best(state, found, course.measurer.score_name, subject, request, folder)
            progress = _progress(state, course, value, rate, found)
            log.write(progress, state.seconds)
            if measures:
                _keep(state, folder)
            yield progress
    except FinishEarly:
        pass
    except GeneratorExit:
        _keep(state, folder)
        raise
    finally:
        log.close()
    _keep(state, folder)
    return finished(state, subject, request, course.before.scores)


def _keep(state: State, folder: Path | None) -> None:
    if folder is not None:
        save_state(folder, state)


def _resumed(state: State, subject: Subject, request: Request, folder: Path | None) -> State:
    """A fresh state, or the one that is kept in the folder."""
    if folder is not None:
        checked_folder(folder, run_facts(subject, request))
        load_state(folder, state, request.device.torch_device)
    return state


def _advice(reason: str) -> str:
    """What to do about an error of torch."""
    if "more than 1 value per channel" in reason:  # batch normalisation of a single pixel
        return "This network needs larger patches, or more than one patch in a step."
    return "Choose smaller patches or batches, a smaller network, or another device."


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given).expanduser()


def _fresh(subject: Subject, device: torch.device) -> State:
    """A run before its first step."""
    settings = subject.settings
    assert settings.average is not None
    network = subject.network.requires_grad_(True)
    return State(
        network=network,
        average=Average(network, settings.average),
        optimizer=optimizer_for(network, settings),
        scaler=torch.amp.GradScaler(device.type, enabled=needs_scaling(device, settings)),
    )


def _all_logits(network: nn.Module, image: Tensor) -> list[Tensor]:
    """What is held against the truth: the output, or several of them (deep supervision)."""
    image = image.contiguous(memory_format=memory_format(image.ndim - 2))
    # NOTE: without it torch 2.13 crashes on a processor if a group norm comes first.
    has_groups = any(isinstance(module, nn.GroupNorm) for module in network.modules())
    image.requires_grad_(has_groups and image.device.type == "cpu")
    if isinstance(network, DeeplySupervised):
        return network.all_logits(image)
    return [network(image)]


def _checked(loss: Tensor, step: int) -> float:
    value = float(loss.item())
    if not np.isfinite(value):
        raise TrainingError(
            f"Training went astray: at step {step} the loss was no number any more. "
            f"Try a smaller learning rate, or precision='full'."
        )
    return value


def _first(state: State, course: _Course) -> TrainProgress:
    """What is said before the first step of a run, or of its continuation."""
    found = course.before
    if not found.scores:
        found = Measurement(scores=state.best_scores)
    shown = _progress(state, course, float("nan"), 0.0, found)
    if course.measurer.n_pictures:
        return shown
    return replace(shown, message="Training (no image is left to measure on)")


def _progress(
    state: State, course: _Course, loss: float, rate: float, found: Measurement
) -> TrainProgress:
    settings = course.subject.settings
    share = share_done(state, settings)
    total = round(state.step / share) if share else settings.steps
    return TrainProgress(
        done=state.step,
        total=max(state.step, min(total, settings.steps)),
        loss=loss,
        score=found.scores.get(course.measurer.score_name),
        scores=found.scores,
        learning_rate=rate,
        sample=found.sample,
    )
