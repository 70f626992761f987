"""Fine-tuning on painted corrections: the whole training loop, in plain sight.

Training works on a copy of the network; a run that fails or is dropped changes nothing.
Pixels that nobody touched never count as truth. What keeps the model from forgetting: on
untouched pixels it is held to its old answer by a bounded loss, which gives way where strokes
speak against it, and part of each batch are pictures of other kinds with the old answer as target.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from napari_unet.core.augmentation import (
    augment_intensity,
    sample,
    sampling_grid,
)
from napari_unet.core.corrections import (
    IGNORE,
    CorrectedBlock,
    check_corrections,
    corrected_blocks,
    hold_out,
    target_of,
)
from napari_unet.core.device import autocast, release_memory
from napari_unet.core.errors import CorrectionsError, TrainingError, UNetLiveError
from napari_unet.core.image import Image, make_image
from napari_unet.core.losses import (
    class_log_probabilities,
    hold_loss,
    masked_cross_entropy,
    masked_dice,
)
from napari_unet.core.model import Model, Round, load_model, weights_id
from napari_unet.core.normalization import match_channels, normalise, scale_of, summary_of
from napari_unet.core.progress import FinishEarly, Work, finish
from napari_unet.core.rehearsal import rehearsal_images
from napari_unet.core.scoring import Scorer
from napari_unet.core.settings import FineTuneSettings
from napari_unet.core.tiling import padded_size

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingImage:
    """The corrections of one image, with what is needed to normalise it.

    Attributes
    ----------
    key : what tells images apart, stable from round to round.
    summary : raw quantiles `(c, n)` of the whole image, from `summary_of`.
    blocks : its corrected blocks.
    """

    key: str
    summary: npt.NDArray[np.generic]
    blocks: Sequence[CorrectedBlock]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Patch:
    """A corrected block ready for training: `image` `(c, y, x)`, `target` `(y, x)`."""

    image: Tensor
    target: Tensor
    places: Mapping[int, Tensor]  # class to trained pixels `(n, 2)`, in px


def training_image(image: Image, corrections: npt.NDArray[np.generic]) -> TrainingImage:
    """Gather the corrections of an image that is open."""
    return TrainingImage(
        key=image.fingerprint(),
        summary=summary_of(image.samples()),
        blocks=list(corrected_blocks(image, corrections)),
    )


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
        If nothing is painted, or a painted class is not one of the model's.
    TrainingError
        If the loss is no number any more, the device fails, or the network is a 3D one.
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
    settings = _fitted(settings, model)
    device = model.device.torch_device
    torch_random = torch.Generator().manual_seed(settings.seed)
    keyed = [(image.key, block) for image in images for block in image.blocks]
    held_out = hold_out(keyed, settings.held_out)
    inputs = [_input(model, image, block) for image in images for block in image.blocks]
    blocks = [block for _, block in keyed]
    patches = _patches(blocks, inputs, held_out, len(model.description.class_names))
    memories = rehearsal_images(model)
    scorer = Scorer(model, blocks, inputs, held_out, memories)

    old = model.network
    network = copy.deepcopy(old).requires_grad_(True).to(device)
    network = network.to(memory_format=_format(model.config.dims))  # type: ignore[call-overload]
    network.eval()  # NOTE: batch statistics of a few strokes would ruin those learned before
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate)
    before = scorer.score(network)
    best, best_weights = -1.0, None
    every = max(10, settings.steps // 10)
    output_class = model.description.output_class

    step = 0
    try:
        yield TrainingProgress(
            done=0, total=settings.steps, message="Training", loss=float("nan"),
            score=before.get("iou"),
        )  # fmt: skip
        for step in range(1, settings.steps + 1):
            image, target, is_memory = _batch(patches, memories, settings, torch_random)
            image = image.to(device, memory_format=_format(model.config.dims))
            target = target.to(device)
            with autocast(device):
                logits = network(image)
            log_classes = class_log_probabilities(logits, output_class)
            painted = masked_cross_entropy(log_classes, target) + masked_dice(log_classes, target)
            held = _held(old, image, logits, target, is_memory.to(device), settings.memory)
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
    return _finished(model, network, settings, scorer, before, step, patches, start)


def _fitted(settings: FineTuneSettings, model: Model) -> FineTuneSettings:
    """The settings with patches that the network can take."""
    if model.config.dims != 2:
        raise TrainingError(
            f"The model {model.description.name!r} works on volumes, and such models cannot be "
            f"fine-tuned yet. Choose a 2D model; it works on stacks slice by slice."
        )
    return replace(settings, patch_size=padded_size(settings.patch_size, model.config.stride))


def _learning_rate(step: int, settings: FineTuneSettings) -> float:
    """Warm-up over 10 steps, then down along a cosine to a twentieth."""
    warm_up = min(1.0, step / 10)
    cosine = 0.5 * (1 + np.cos(np.pi * step / settings.steps))
    return float(settings.learning_rate * warm_up * (0.05 + 0.95 * cosine))


def _format(dims: int) -> torch.memory_format:
    return torch.channels_last if dims == 2 else torch.channels_last_3d


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


def _input(model: Model, image: TrainingImage, block: CorrectedBlock) -> Tensor:
    """The image of a block as the network wants it, `(c, y, x)`."""
    scale = scale_of(image.summary, model.description.normalization)
    matched = match_channels(normalise(block.image, scale), model.description.in_channels)
    if matched.shape[0] != model.description.in_channels:
        raise CorrectionsError(
            f"Corrections were painted on an image with {matched.shape[0]} channels, but the "
            f"model {model.description.name!r} takes {model.description.in_channels}. "
            f"Leave that image out, or choose a model that fits."
        )
    return torch.from_numpy(matched)


def _patches(
    blocks: Sequence[CorrectedBlock],
    inputs: Sequence[Tensor],
    held_out: Sequence[npt.NDArray[np.bool_]],
    n_classes: int,
) -> list[_Patch]:
    """Blocks with something to train on; held-out pixels are untouched here."""
    patches = []
    for block, image, held in zip(blocks, inputs, held_out, strict=True):
        highest = int(block.corrections.max())
        if highest > n_classes:
            raise CorrectionsError(
                f"A painted class ({highest}) is not one of the model's {n_classes} classes. "
                f"Erase it, or choose the model it was painted for."
            )
        trained = replace(block, corrections=np.where(held, 0, block.corrections))
        target = torch.from_numpy(target_of(trained))
        places = {
            int(value): torch.nonzero(target == value)
            for value in torch.unique(target)
            if value != IGNORE
        }
        if places:
            patches.append(_Patch(image=image, target=target, places=places))
    if not patches:
        raise CorrectionsError(
            "Nothing is painted yet. Paint a few strokes where the result is wrong, "
            "and some where it is right, then fine-tune."
        )
    return patches


def _batch(
    patches: Sequence[_Patch],
    memories: Sequence[Tensor],
    settings: FineTuneSettings,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw images `(b, c, y, x)`, targets `(b, y, x)` and which are rehearsal `(b,)`."""
    n_memories = 1 if memories and settings.memory and settings.batch_size > 1 else 0
    present = sorted({value for patch in patches for value in patch.places})
    drawn = [
        _draw(patches, present[(i + _integer(2, generator)) % len(present)], settings, generator)
        for i in range(settings.batch_size - n_memories)
    ]
    for _ in range(n_memories):
        picture = memories[_integer(len(memories), generator)]
        center = tuple(float(_integer(n, generator)) for n in picture.shape[1:])
        nothing = torch.full(picture.shape[1:], IGNORE, dtype=torch.uint8)
        drawn.append(_warp(picture, nothing, center, settings, generator))
    images, targets = zip(*drawn, strict=True)
    is_memory = torch.arange(len(drawn)) >= len(drawn) - n_memories
    return torch.stack(images), torch.stack(targets), is_memory


def _integer(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=generator).item())


def _draw(
    patches: Sequence[_Patch], value: int, settings: FineTuneSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A patch near a painted pixel of class `value`."""
    having = [patch for patch in patches if value in patch.places]
    patch = having[_integer(len(having), generator)]
    places = patch.places[value]
    place = places[_integer(len(places), generator)].float()
    shift = (torch.rand(2, generator=generator) - 0.5) * settings.patch_size / 2
    y, x = (place + shift).tolist()
    return _warp(patch.image, patch.target, (y, x), settings, generator)


def _warp(
    image: Tensor,
    target: Tensor,
    center: tuple[float, ...],
    settings: FineTuneSettings,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    shape = (settings.patch_size,) * 2
    grid = sampling_grid(shape, center, settings.augmentation, generator)
    warped, targets = sample(image, target[None], grid)
    assert targets is not None
    return augment_intensity(warped, settings.augmentation, generator), targets[0]


def _held(
    old: nn.Module, image: Tensor, logits: Tensor, target: Tensor, is_memory: Tensor, memory: float
) -> Tensor:
    """The pull towards the old answer, on untouched pixels and on rehearsal pictures."""
    if memory == 0:
        return logits.new_zeros(())
    with torch.no_grad(), autocast(image.device):
        answer = old(image).float()
    answer = torch.softmax(answer, dim=1) if answer.shape[1] > 1 else torch.sigmoid(answer)
    untouched = (target == IGNORE) & ~is_memory[:, None, None]
    pull = hold_loss(logits, answer, untouched)
    if is_memory.any():
        rehearsed = is_memory[:, None, None].expand_as(target)
        pull = pull + 4 * hold_loss(logits, answer, rehearsed)
    return 4 * memory * pull


def _finished(
    model: Model,
    network: nn.Module,
    settings: FineTuneSettings,
    scorer: Scorer,
    before: dict[str, float],
    n_steps: int,
    patches: Sequence[_Patch],
    start: float,
) -> Model:
    _check_weights(network)
    network.requires_grad_(False)
    new_id = weights_id(network)
    entry = Round(
        id=new_id,
        parent=model.id,
        name=f"round {len(model.history) + 1}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        settings={**asdict(settings), "steps_done": n_steps},
        scores_before=before,
        scores_after=scorer.score(network),
        n_corrected=sum(len(places) for patch in patches for places in patch.places.values()),
        seconds=round(time.monotonic() - start, 1),
    )
    return replace(model, network=network, id=new_id, history=(*model.history, entry))


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
