"""Pictures on which a model is held to its old answers while it learns new ones.

A network that is trained on a few strokes forgets what nobody shows it (catastrophic
forgetting; rehearsal on made-up inputs: Robins 1995). The pictures need no labels: the old
model's own answer is the target. They are simulated, or come with scikit-image.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_unet.core.model import Model
from napari_unet.core.normalization import match_channels, normalise, scale_of
from napari_unet.core.simulation import SimulationSettings, simulate

__all__ = ["rehearsal_images"]

RADII = (6.0, 11.0, 18.0)


def rehearsal_images(model: Model) -> list[Tensor]:
    """Pictures `(c, y, x)`, normalised for `model`, float32; none if it takes no such input."""
    description = model.description
    if description.dims != 2 or description.in_channels not in (1, 3):
        return []
    pictures = [_fluorescence(radius) for radius in RADII]
    if description.in_channels == 3:
        pictures += list(_tissue())
    return [
        torch.from_numpy(
            match_channels(
                normalise(raw, scale_of(raw, description.normalization, description.in_channels)),
                description.in_channels,
            )
        )
        for raw in pictures
    ]


@lru_cache(maxsize=8)
def _fluorescence(radius: float) -> npt.NDArray[np.generic]:
    """A simulated field of nuclei, raw `(1, y, x)`."""
    settings = SimulationSettings(size=320, n_nuclei=int(320**2 / (radius**2 * 16)), radius=radius)
    return simulate(settings, seed=int(radius)).image[None]


@lru_cache(maxsize=1)
def _tissue() -> tuple[npt.NDArray[np.generic], ...]:
    """Stained tissue, raw `(3, y, x)`, at the size it comes in and enlarged twice."""
    from skimage.data import immunohistochemistry

    tissue = np.ascontiguousarray(np.moveaxis(immunohistochemistry(), -1, 0))
    crops = [tissue[:, y : y + 160, x : x + 160] for y, x in ((0, 0), (40, 300), (330, 120))]
    return (tissue[:, 100:420, 100:420], *(_twice(crop) for crop in crops))


def _twice(raw: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    larger = F.interpolate(torch.from_numpy(raw)[None].float(), scale_factor=2, mode="bilinear")
    return larger[0].round().to(torch.uint8).numpy()
