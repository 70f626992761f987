"""Training patches: how large they are, where they are drawn, and how they become a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from napari_unet.core.augmentation import Batch, augment_batch
from napari_unet.core.engine.facts import Facts
from napari_unet.core.normalization import match_channels, normalise
from napari_unet.core.patches import inside, integer
from napari_unet.core.settings import AugmentationSettings
from napari_unet.core.training.pictures import Picture
from napari_unet.core.training.settings import TrainSettings

__all__ = ["Crop", "PatchPlan", "draw_batch", "plan_for"]

THICKNESS = 4
"""A patch of a volume has this part of the wished edge in slices, at most, ..."""
VOLUME_FACTOR = 2
"""... and as many px as this many patches of a plane."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchPlan:
    """What is drawn at each step.

    Attributes
    ----------
    shape : of what the network is shown, `([z,] y, x)`, in px.
    answer : of what it says something of, smaller without padding.
    n_patches, in_channels : of a batch, and of the network.
    augmentation : how patches are varied.
    """

    shape: tuple[int, ...]
    answer: tuple[int, ...]
    n_patches: int
    in_channels: int
    augmentation: AugmentationSettings


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Crop:
    """The part of a picture that a patch can come from.

    Attributes
    ----------
    image : `(c, [z,] y, x)` float32, as the network wants it.
    target, weights : uint8 and float32 `([z,] y, x)`; no weights for all alike.
    center : place in it, in px, that the middle of the patch shows.
    """

    image: Tensor
    target: Tensor
    weights: Tensor | None
    center: tuple[float, ...]


def plan_for(
    settings: TrainSettings, facts: Facts, pictures: Sequence[Picture], in_channels: int
) -> PatchPlan:
    """Patches that the network can take, and that give about what was wished for.

    Patches of volumes are flat, as stacks are, and show less of the plane, so that the elastic
    deformation is smaller there, too.
    """
    assert settings.patch_size is not None and settings.batch_size is not None
    size, augmentation = settings.patch_size, settings.augmentation
    wished: tuple[int, ...] = (size, size)
    if settings.dims == 3:
        wished = _volume_shape(size, facts, max(picture.shape[0] for picture in pictures))
        share = min(1.0, min(wished[1:]) / size)
        augmentation = replace(augmentation, elastic_sigma=augmentation.elastic_sigma * share)
    shape = facts.fit.size_for(wished)
    return PatchPlan(
        shape=shape,
        answer=tuple(n - margin for n, margin in zip(shape, facts.fit.margin, strict=True)),
        n_patches=settings.batch_size,
        in_channels=in_channels,
        augmentation=augmentation,
    )


def _volume_shape(size: int, facts: Facts, depth: int) -> tuple[int, ...]:
    """Size `(z, y, x)` for what is wished; no picture has more than `depth` slices."""
    thick = min(max(1, size // THICKNESS), depth)
    thick = facts.fit.size_for((thick, 1, 1))[0] - facts.fit.margin[0]
    edge = min(size, max(16, round(math.sqrt(VOLUME_FACTOR * size**2 / thick))))
    return thick, edge, edge


def draw_batch(
    pictures: Sequence[Picture],
    plan: PatchPlan,
    generator: torch.Generator,
    device: torch.device,
) -> Batch:
    """Draw a batch: any group, any picture of it, any value there, any place with that value."""
    groups: dict[str, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(picture.group, []).append(picture)
    alike = [groups[name] for name in sorted(groups)]
    crops = [_draw(alike, plan, generator) for _ in range(plan.n_patches)]
    has_weights = crops[0].weights is not None
    return augment_batch(
        [crop.image for crop in crops],
        [crop.target for crop in crops],
        [crop.weights for crop in crops if crop.weights is not None] if has_weights else None,
        [crop.center for crop in crops],
        plan.shape,
        plan.augmentation,
        generator,
        device,
    )


def _draw(groups: Sequence[Sequence[Picture]], plan: PatchPlan, generator: torch.Generator) -> Crop:
    mine = groups[integer(len(groups), generator)]
    picture = mine[integer(len(mine), generator)]
    values = sorted(picture.places)
    places = picture.places[values[integer(len(values), generator)]]
    place = np.unravel_index(int(places[integer(len(places), generator)]), picture.shape)
    shift = torch.rand(len(place), generator=generator).tolist()
    center = [
        float(at) + (part - 0.5) * n / 2
        for at, part, n in zip(place, shift, plan.answer, strict=True)
    ]
    if len(center) == 3:
        center[0] = inside(center[0], plan.answer[0], picture.shape[0])
    return _crop(picture, tuple(center), plan)


def _crop(picture: Picture, center: tuple[float, ...], plan: PatchPlan) -> Crop:
    """What a patch about `center` can be read from, whichever way it is turned and bent."""
    starts, window = [], []
    for at, around, size in zip(center, _reach(plan), picture.shape, strict=True):
        first = min(max(0, math.floor(at - around)), size - 1)
        last = max(min(size, math.ceil(at + around) + 1), first + 1)
        if at - around < 0:  # what is mirrored at the border
            last = max(last, min(size, math.ceil(around - at) + 1))
        if at + around > size - 1:
            first = min(first, max(0, math.floor(2 * (size - 1) - at - around)))
        starts.append(first)
        window.append(slice(first, last))
    part = tuple(window)
    image = match_channels(normalise(picture.image[:, *part], picture.scale), plan.in_channels)
    weights = None if picture.weights is None else picture.weights[part].astype(np.float32)
    return Crop(
        image=torch.from_numpy(image),
        target=torch.from_numpy(picture.target[part]),
        weights=None if weights is None else torch.from_numpy(weights),
        center=tuple(at - start for at, start in zip(center, starts, strict=True)),
    )


def _reach(plan: PatchPlan) -> tuple[float, ...]:
    """How far from its centre, in px, a patch can show something."""
    vary, half = plan.augmentation, [n / 2 for n in plan.shape]
    if vary.rotation:
        half[-2:] = [math.hypot(*half[-2:])] * 2
    bent = 3 * vary.elastic_sigma
    return (*half[:-2], *((n + bent) * vary.scale + 1 for n in half[-2:]))
