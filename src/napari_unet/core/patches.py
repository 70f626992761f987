"""Training patches: how large they are, and how they are drawn from what was painted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_unet.core.augmentation import augment_intensity, sample, sampling_grid
from napari_unet.core.corrections import IGNORE, CorrectedBlock, check_classes, target_of
from napari_unet.core.engine.facts import Facts
from napari_unet.core.engine.fitting import Fit
from napari_unet.core.errors import CorrectionsError
from napari_unet.core.settings import AugmentationSettings, FineTuneSettings

__all__ = [
    "PatchPlan",
    "TrainingBlock",
    "draw_batch",
    "inside",
    "integer",
    "plan_for",
    "seen",
    "training_blocks",
]

VOLUME_FACTOR = 8
"""A patch of a volume has as many px as this many patches of a plane, ..."""
THICKNESS = 4
"""... and, in slices, this part of their edge at most."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingBlock:
    """A corrected block ready for training.

    Attributes
    ----------
    image, target : `(c, [z,] y, x)` as the network wants it, and class `([z,] y, x)`.
    places : class to trained pixels `(n, axis)`, in px.
    """

    image: Tensor
    target: Tensor
    places: Mapping[int, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchPlan:
    """What is drawn at each step.

    Attributes
    ----------
    shape : of a patch, `([z,] y, x)`, in px.
    spread : the part in the middle within which the painted pixel that it is drawn for lies
        (half of it on either side), `([z,] y, x)`, in px.
    n_patches, n_memories : patches near paint, and rehearsal pictures.
    augmentation : how they are varied.
    """

    shape: tuple[int, ...]
    spread: tuple[int, ...]
    n_patches: int
    n_memories: int
    augmentation: AugmentationSettings


def plan_for(
    settings: FineTuneSettings, facts: Facts, blocks: Sequence[TrainingBlock], has_memories: bool
) -> PatchPlan:
    """Patches that the network can take, and that give about what was wished for.

    Patches of volumes are half as many, and flat, as stacks are: no thicker than what a pixel
    of the network depends on, nor than what was kept around the paint. They show less of the
    plane, so that the elastic deformation is smaller, too.
    """
    if len(facts.fit.base) == 2:
        return _plan_of_planes(settings, facts, has_memories)
    shape = _volume_shape(settings, facts, max(block.target.shape[0] for block in blocks))
    n = max(1, settings.batch_size // 2)
    n_memories = 1 if has_memories and settings.memory and n > 1 else 0
    augmentation = settings.augmentation
    share = min(1.0, min(shape[1:]) / settings.patch_size)
    return PatchPlan(
        shape=shape,
        spread=tuple(n - margin for n, margin in zip(shape, facts.fit.margin, strict=True)),
        n_patches=n - n_memories,
        n_memories=n_memories,
        augmentation=replace(augmentation, elastic_sigma=augmentation.elastic_sigma * share),
    )


def _plan_of_planes(settings: FineTuneSettings, facts: Facts, has_memories: bool) -> PatchPlan:
    fit = facts.fit
    edge = settings.patch_size + max(fit.margin)
    while fit.size_for(tuple(edge - margin for margin in fit.margin)) != (edge, edge):
        edge += 1
    n_memories = 1 if has_memories and settings.memory and settings.batch_size > 1 else 0
    return PatchPlan(
        shape=(edge, edge),
        spread=(edge, edge),
        n_patches=settings.batch_size - n_memories,
        n_memories=n_memories,
        augmentation=settings.augmentation,
    )


def _volume_shape(settings: FineTuneSettings, facts: Facts, depth: int) -> tuple[int, ...]:
    """Size of a patch of a volume, `(z, y, x)`; `depth` slices at most are known."""
    fit, edge = facts.fit, settings.patch_size
    thick = min(max(1, edge // THICKNESS), depth)
    if facts.reach is not None:
        thick = min(thick, 2 * facts.reach[0] + 1)
    thick = fit.size_for((thick, 1, 1))[0] - fit.margin[0]
    edge = min(edge, round(math.sqrt(VOLUME_FACTOR * edge**2 / thick)))
    sizes = zip((thick, edge, edge), fit.margin, strict=True)
    # NOTE: a network without padding loses its margin on top; some of it comes out of the patch
    return fit.size_for(tuple(max(n - margin, -(-n // 2)) for n, margin in sizes))


def training_blocks(
    blocks: Sequence[CorrectedBlock],
    inputs: Sequence[Tensor],
    held_out: Sequence[npt.NDArray[np.bool_]],
    n_classes: int,
) -> list[TrainingBlock]:
    """Blocks with something to train on; held-out pixels are untouched here.

    Raises
    ------
    CorrectionsError
        If nothing is painted, or a class that the model does not have.
    """
    ready = []
    for block, image, held in zip(blocks, inputs, held_out, strict=True):
        check_classes(block.corrections, n_classes)
        trained = replace(block, corrections=np.where(held, 0, block.corrections))
        target = torch.from_numpy(target_of(trained))
        places = {
            int(value): torch.nonzero(target == value)
            for value in torch.unique(target)
            if value != IGNORE
        }
        if places:
            ready.append(TrainingBlock(image=image, target=target, places=places))
    if not ready:
        raise CorrectionsError(
            "Nothing is painted yet. Paint a few strokes where the result is wrong, "
            "and some where it is right, then fine-tune."
        )
    return ready


def draw_batch(
    blocks: Sequence[TrainingBlock],
    memories: Sequence[Tensor],
    plan: PatchPlan,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw images `(b, c, [z,] y, x)`, targets `(b, [z,] y, x)` and which are rehearsal `(b,)`."""
    present = sorted({value for block in blocks for value in block.places})
    drawn = [
        _draw(blocks, present[(i + integer(2, generator)) % len(present)], plan, generator)
        for i in range(plan.n_patches)
    ]
    for _ in range(plan.n_memories):
        picture = memories[integer(len(memories), generator)]
        center = tuple(float(integer(n, generator)) for n in picture.shape[1:])
        nothing = torch.full(picture.shape[1:], IGNORE, dtype=torch.uint8)
        drawn.append(_warp(picture, nothing, center, plan, generator))
    images, targets = zip(*drawn, strict=True)
    is_memory = torch.arange(len(drawn)) >= plan.n_patches
    return torch.stack(images), torch.stack(targets), is_memory


def integer(n: int, generator: torch.Generator) -> int:
    """Any whole number from 0 to below `n`."""
    return int(torch.randint(n, (), generator=generator).item())


def _draw(
    blocks: Sequence[TrainingBlock], value: int, plan: PatchPlan, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A patch near a painted pixel of class `value`."""
    having = [block for block in blocks if value in block.places]
    block = having[integer(len(having), generator)]
    places = block.places[value]
    place = places[integer(len(places), generator)].float()
    spread = torch.tensor(plan.spread, dtype=torch.float32)
    center = place + (torch.rand(len(spread), generator=generator) - 0.5) * spread / 2
    if len(spread) == 3:
        center[0] = inside(center[0].item(), plan.spread[0], block.target.shape[0])
    return _warp(block.image, block.target, tuple(center.tolist()), plan, generator)


def inside(center: float, n: int, size: int) -> float:
    """The nearest centre with which `n` slices lie among `size`, all or as many as there are."""
    ends = (n - 1) / 2, size - 1 - (n - 1) / 2
    return min(max(center, min(ends)), max(ends))


def _warp(
    image: Tensor,
    target: Tensor,
    center: tuple[float, ...],
    plan: PatchPlan,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    grid = sampling_grid(plan.shape, center, plan.augmentation, generator)
    if target.ndim == 3:
        image, target, grid = _near(image, target, grid)
    warped, targets = sample(image, target[None], grid)
    assert targets is not None
    return augment_intensity(warped, plan.augmentation, generator), targets[0]


def _near(image: Tensor, target: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The part of a volume that is read, with what is mirrored at its borders, to save time."""
    shift = torch.zeros(grid.shape[-1])
    for axis, n in enumerate(target.shape):
        low, high = math.floor(grid[..., axis].min()), math.ceil(grid[..., axis].max())
        first = max(0, min(low, 2 * (n - 1) - high))
        last = min(n - 1, max(high, -low))
        if first >= last:  # far outside
            first, last = 0, n - 1
        image, target = (
            part.narrow(part.ndim - 3 + axis, first, last - first + 1) for part in (image, target)
        )
        shift[axis] = first
    return image, target, grid - shift


def seen(values: Tensor, fit: Fit) -> Tensor:
    """The part of `(..., [z,] y, x)` that a network without padding says something of."""
    n_axes = len(fit.margin)
    for axis, (margin, before) in enumerate(zip(fit.margin, fit.before, strict=True)):
        at = values.ndim - n_axes + axis
        values = values.narrow(at, before, values.shape[at] - margin)
    return values
