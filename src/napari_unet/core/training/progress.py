"""What a training says of itself while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from napari_unet.core.training.measuring import SamplePrediction

__all__ = ["TrainProgress"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainProgress:
    """One step is done, or something before the first.

    Attributes
    ----------
    done, total, message : for a progress bar; steps, once training has begun.
    loss : on the patches of this step; not a number before the first step.
    score : of the running mean of the weights on held-out images, 0 to 1, at the steps where it
        was measured, else None: F1 of the objects at an IoU of 0.5, or the mean IoU of classes.
    scores : all that was measured, by name.
    learning_rate : of this step.
    sample : a held-out picture as it is found now, at steps where it was measured.
    """

    done: int = 0
    total: int = 0
    message: str = "Training"
    loss: float = float("nan")
    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    learning_rate: float = 0.0
    sample: SamplePrediction | None = None
