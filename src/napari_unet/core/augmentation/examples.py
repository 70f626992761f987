"""What the settings do to an image of the user's, before any training, made as training does."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_unet.core.augmentation.batches import augment_batch
from napari_unet.core.corrections import IGNORE
from napari_unet.core.settings import AugmentationSettings

__all__ = ["Example", "grid_lines", "preview"]


class Example(NamedTuple):
    """A patch as the network would be shown it.

    Attributes
    ----------
    image : `(c, [z,] y, x)`, float32, normalised values.
    target : `([z,] y, x)`, uint8, `IGNORE` where nothing is known.
    lines : `([z,] y, x)`, uint8, 1 on lines that were straight and evenly spaced in the image,
        which shows how it is bent; all 0 if none were wanted.
    """

    image: npt.NDArray[np.float32]
    target: npt.NDArray[np.uint8]
    lines: npt.NDArray[np.uint8]


def preview(
    image: Tensor | npt.NDArray[np.float32],
    target: Tensor | npt.NDArray[np.uint8],
    settings: AugmentationSettings,
    *,
    n: int = 4,
    seed: int = 0,
    shape: tuple[int, ...] = (128, 128),
    spacing: int = 0,
    center: tuple[float, ...] | None = None,
) -> list[Example]:
    """Patches of one image, varied by `augment_batch` as in training.

    The places and everything else come from the seed alone: the same call gives the same
    examples, and a setting that is changed changes nothing but what it is about.

    Parameters
    ----------
    image : `(c, [z,] y, x)`, float32, normalised.
    target : `([z,] y, x)`, uint8. Patches show a place where something is known, if there is one.
    settings : what to vary.
    n, seed : how many examples, and which.
    shape : of an example, `([z,] y, x)`, in px.
    spacing : px between the lines that show how the image is bent; 0 for no lines.
    center : place that the middle of all examples shows, in px; None for a place for each.
    """
    generator = torch.Generator().manual_seed(seed)
    image, target = torch.as_tensor(image), torch.as_tensor(target)
    lines = grid_lines(tuple(target.shape), spacing) if spacing else np.zeros(target.shape)
    centers = _centers(target, n, shape, generator)
    if center is not None:
        centers = [center] * n
    batch = augment_batch(
        [image] * n, [target] * n, [torch.from_numpy(lines).float()] * n, centers, shape, settings,
        generator,
    )  # fmt: skip
    assert batch.weights is not None
    parts = zip(batch.image, batch.target, batch.weights.to(torch.uint8), strict=True)
    return [Example(*(part.numpy() for part in one)) for one in parts]


def _centers(
    target: Tensor, n: int, shape: tuple[int, ...], generator: torch.Generator
) -> list[tuple[float, ...]]:
    """Known px, moved inwards so that the patch shows no more of the outside than it must."""
    known = torch.nonzero(target != IGNORE)
    if not len(known):
        known = torch.nonzero(torch.ones_like(target))
    drawn = torch.rand(n, generator=generator, dtype=torch.float64)
    places = known[(drawn * len(known)).long()].double()  # (n, axis)
    halves = (torch.tensor(shape, dtype=torch.float64) - 1) / 2
    ends = torch.tensor(target.shape, dtype=torch.float64) - 1
    halves = torch.minimum(halves, ends / 2)
    return [tuple(row) for row in places.clamp(halves, ends - halves).tolist()]


def grid_lines(shape: tuple[int, ...], spacing: int) -> npt.NDArray[np.uint8]:
    """A grid of lines in the plane, `([z,] y, x)`: 1 on every `spacing`-th px, else 0."""
    mask = np.zeros(shape, np.uint8)
    mask[..., spacing // 2 :: spacing, :] = 1
    mask[..., spacing // 2 :: spacing] = 1
    return mask
