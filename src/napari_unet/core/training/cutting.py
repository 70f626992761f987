"""How what is found should be cut into objects, as the masks themselves tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from napari_unet.core.instances import objects_of
from napari_unet.core.metrics import ObjectScores, object_scores
from napari_unet.core.settings import ObjectSettings
from napari_unet.core.training.outputs import Outputs
from napari_unet.core.training.pictures import Picture, middle_of

__all__ = ["object_settings_for"]

MAX_PICTURES = 8
SIZE = {2: (512, 512), 3: (24, 128, 128)}
SPLITS = (0.5, 0.25, 0.0)
"""The readiness to split that is tried, the most wanted first: a gap may be missed."""
SPARED = 0.01
"""So much F1 may be lost on the truth itself, for what is won where gaps are missed."""


def object_settings_for(
    pictures: Sequence[Picture], outputs: Outputs, split: str
) -> ObjectSettings:
    """How the network's answer becomes objects.

    A network that answered just what it is taught would give the objects of the masks, if they are
    not cut where they have a waist of their own, and none is so small that it is dropped.

    Parameters
    ----------
    pictures : that are trained on.
    outputs : of the network.
    split : "gap", "rim" or "none", how it is taught to keep objects apart.
    """
    settings = ObjectSettings(min_size=_least_size(pictures))
    if outputs.inside is not None or outputs.what == "classes":
        return settings
    step = -(-len(pictures) // MAX_PICTURES)
    shown = []
    for picture in pictures[::step]:
        part = middle_of(picture.shape, SIZE[picture.labels.ndim])
        shown.append((picture.labels[part], picture.target[part]))
    found = {n: _f1(shown, replace(settings, split=n)) for n in SPLITS}
    best = max(found.values())
    spared = SPARED if split == "gap" else 0.0
    return replace(settings, split=next(n for n in SPLITS if found[n] >= best - spared))


def _least_size(pictures: Sequence[Picture]) -> int:
    """In px: a quarter of what nearly all objects have, but no more than by default."""
    areas = [np.bincount(np.maximum(picture.labels, 0).ravel())[1:] for picture in pictures]
    known = np.concatenate([counts[counts > 0] for counts in areas])
    if known.size == 0:
        return ObjectSettings().min_size
    return min(ObjectSettings().min_size, int(np.percentile(known, 5)) // 4)


def _f1(
    shown: Sequence[tuple[npt.NDArray[np.integer], npt.NDArray[np.uint8]]],
    settings: ObjectSettings,
) -> float:
    """F1 of the objects that are made of the targets themselves."""
    total = ObjectScores(n_true_positive=0, n_false_positive=0, n_false_negative=0)
    for labels, target in shown:
        sure = np.stack([target != 1, target == 1]).astype(np.float32)  # (output, [z,] y, x)
        found = objects_of(sure, (0, 1), settings)
        total += object_scores(np.where(labels < 0, 0, found), np.maximum(labels, 0))
    return total.f1
