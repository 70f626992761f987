"""Batches of training patches, deformed and varied on the device that trains.

The table of numbers that says where each px comes from is made on the processor, the same for
every device. What each patch reads is cut from its image, mirrored at borders, and stacked: one
sampling grid, one reading of the images and one of the targets serve the whole batch. Slices of
volumes are never mixed, so that a volume is read as the stack of planes that it is; many planes
also keep all cores busy, since `grid_sample` shares out the batch and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from napari_unet.core.augmentation.draws import draw
from napari_unet.core.augmentation.placing import Placement, grid_of, is_whole, place, tables_of
from napari_unet.core.augmentation.values import vary_values
from napari_unet.core.augmentation.windows import (
    image_windows,
    target_windows,
    weight_windows,
    windows_of,
)
from napari_unet.core.settings import AugmentationSettings

__all__ = ["Batch", "augment_batch"]

N_CACHED = 2**17
"""Px that are made at once on the processor: more fall out of its caches between two steps."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Training patches of one size.

    Attributes
    ----------
    image : `(b, c, [z,] y, x)`, float32.
    target : `(b, [z,] y, x)`, uint8, `IGNORE` where nothing is known.
    weights : `(b, [z,] y, x)`, float32, 0 outside the images; or None.
    """

    image: Tensor
    target: Tensor
    weights: Tensor | None = None


def augment_batch(
    images: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Sequence[Tensor] | None,
    centers: Sequence[tuple[float, ...]],
    shape: tuple[int, ...],
    settings: AugmentationSettings,
    generator: Generator,
    device: torch.device | str = "cpu",
) -> Batch:
    """Cut a patch from each image, deform it and vary its values (Ronneberger et al. 2015).

    Targets and weights are read by nearest neighbour at the same places. Outside an image, it is
    mirrored, the target is `IGNORE` and the weight 0. With nothing to vary, patches are exact
    parts of the images; with flips only, exact mirrored parts.

    Parameters
    ----------
    images : `(c, [z,] y, x)` each, normalised, of any sizes and of any type.
    targets : `([z,] y, x)` each, uint8.
    weights : `([z,] y, x)` each, float; or None.
    centers : place in each image, in px, that the middle of its patch shows; moved by half a px
        at most, so that slices (and, with nothing but flips, all px) are those of the image.
    shape : of a patch, `([z,] y, x)`, in px.
    settings, generator : what to vary, and the only source of randomness, on the CPU; what is
        drawn in which order is said in `draws`, and is the same on every device.
    device : where the patches are made and stay.

    Returns
    -------
    Batch
        New tensors on `device`.
    """
    drawn = draw(len(images), images[0].shape[0], len(shape), settings.elastic_points, generator)
    middles = torch.tensor(centers, dtype=torch.float64)
    placement = place(middles, shape, settings, drawn)
    starts, size = windows_of(placement, [target.shape for target in targets])
    # NOTE: grid_sample reads floats only; converting while cutting saves a pass
    dtype = torch.uint8 if is_whole(settings) else torch.float32
    parts = []
    for some in _at_once(len(images), math.prod(shape), torch.device(device)):
        where = (placement.slices[some], starts[some], size)
        weight = None if weights is None else weight_windows(weights[some], *where).to(device)
        windows = Batch(
            image=image_windows(images[some], *where).to(device),
            target=target_windows(targets[some], *where, dtype).to(device),
            weights=weight,
        )
        if is_whole(settings):
            read = _flipped(windows, placement[some])
        else:
            read = _read(windows, placement[some], starts[some])
        read = _with_axes(read, len(shape))
        parts.append(replace(read, image=vary_values(read.image, settings, drawn[some])))
    return _joined(parts)


def _at_once(n: int, n_px: int, device: torch.device) -> list[slice]:
    """Which of `n` parts of `n_px` each are made together: on the processor, what it can cache."""
    step = n
    if device.type == "cpu":
        step = max(N_CACHED // n_px, torch.get_num_threads())
    return [slice(i, i + step) for i in range(0, n, step)]


def _joined(parts: Sequence[Batch]) -> Batch:
    """One batch of several."""
    if len(parts) == 1:
        return parts[0]
    weights = [part.weights for part in parts if part.weights is not None]
    return Batch(
        image=torch.cat([part.image for part in parts]),
        target=torch.cat([part.target for part in parts]),
        weights=torch.cat(weights) if weights else None,
    )


def _flipped(windows: Batch, placement: Placement) -> Batch:
    """The windows themselves, each mirrored where it is to be; along z they were cut mirrored."""
    for i, flips in enumerate(placement.flips.tolist()):
        axes = [axis for axis, flip in zip((-2, -1), flips, strict=True) if flip]
        for part in (windows.image, windows.target, windows.weights):
            if part is not None and axes:
                part[i] = part[i].flip(axes)
    return windows


def _read(windows: Batch, placement: Placement, starts: Tensor) -> Batch:
    """The images read linearly, targets and weights by nearest neighbour at the same places."""
    n, depth, _, *size = windows.image.shape
    maps = windows.target[:, :, None]  # (b, z, map, y, x)
    if windows.weights is not None:
        maps = torch.cat([maps, windows.weights[:, :, None]], dim=2)
    image, maps = windows.image.flatten(0, 1), maps.flatten(0, 1)  # (b * z, ...)
    tables = tables_of(placement, starts, (size[0], size[1])).to(image.device)
    parts = [
        _read_planes(image[some], maps[some], grid_of(tables[some], placement.shape))
        for some in _at_once(n * depth, math.prod(placement.shape), image.device)
    ]
    read = _joined(parts)
    return Batch(
        image=read.image.unflatten(0, (n, depth)),
        target=read.target.unflatten(0, (n, depth)),
        weights=None if read.weights is None else read.weights.unflatten(0, (n, depth)),
    )


def _read_planes(image: Tensor, maps: Tensor, grid: Tensor) -> Batch:
    """Planes `(plane, c, y, x)`, of which `maps` holds the target and maybe the weights."""
    image = F.grid_sample(image, grid, "bilinear", padding_mode="border", align_corners=True)
    maps = F.grid_sample(maps, grid, "nearest", padding_mode="border", align_corners=True)
    weights = maps[:, 1].contiguous() if maps.shape[1] > 1 else None
    # NOTE: by way of int32, since torch turns float32 into uint8 three times as slowly
    target = maps[:, 0].to(torch.int32).to(torch.uint8)
    return Batch(image=image, target=target, weights=weights)


def _with_axes(batch: Batch, n_dims: int) -> Batch:
    """Patches `(b, z, ...)` with channels in front of `z`, or without `z` in 2D."""
    if n_dims == 3:
        return replace(batch, image=batch.image.transpose(1, 2).contiguous())
    weights = None if batch.weights is None else batch.weights[:, 0]
    return Batch(image=batch.image[:, 0], target=batch.target[:, 0], weights=weights)
