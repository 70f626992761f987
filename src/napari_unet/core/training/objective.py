"""What is made as small as possible."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from napari_unet.core.augmentation import Batch
from napari_unet.core.corrections import IGNORE
from napari_unet.core.engine.fitting import Fit
from napari_unet.core.losses import balanced_weights, class_log_probabilities, training_loss
from napari_unet.core.patches import seen
from napari_unet.core.training.pictures import Picture
from napari_unet.core.training.preparing import Subject
from napari_unet.core.training.settings import TrainSettings

__all__ = ["class_weights", "loss_of"]


def class_weights(
    settings: TrainSettings, pictures: Sequence[Picture], n_values: int
) -> Tensor | None:
    """How much the pixels of each value of the targets count; None for all alike."""
    if settings.class_weights == "equal":
        return None
    counts = sum(np.bincount(picture.target.ravel(), minlength=IGNORE + 1) for picture in pictures)
    return balanced_weights(np.asarray(counts)[:n_values].tolist())


def loss_of(
    all_logits: Sequence[Tensor], batch: Batch, fit: Fit, subject: Subject, per_value: Tensor | None
) -> Tensor:
    """The loss of a batch, a scalar: the mean over the outputs of the network.

    Parameters
    ----------
    all_logits : `(b, output, [z,] y, x)`; several for deep supervision.
    batch : what they were made from, and the truth.
    fit : what of the batch the network says something of.
    subject : what the outputs mean, and the settings.
    per_value : how much the pixels of each value of the target count; None for all alike.
    """
    settings, outcome = subject.settings, subject.about.outcome
    assert settings.loss is not None
    target = seen(batch.target, fit)
    weights = None if batch.weights is None else seen(batch.weights, fit)
    if per_value is not None:
        per_value = per_value.to(target.device)
    is_by_pixel = settings.loss in ("cross-entropy", "focal")
    if weights is not None and per_value is not None and is_by_pixel:
        # the weight of the class and the map are added, as in the paper: the map holds 1 + its own
        index = torch.where(target == IGNORE, 0, target).long()
        weights, per_value = weights - 1 + per_value[index], None
    losses = [
        training_loss(
            settings.loss,
            class_log_probabilities(logits, subject.outputs.counted, outcome),
            target,
            weights=weights,
            class_weights=per_value,
            gamma=settings.gamma,
            alpha=settings.alpha,
            beta=settings.beta,
            outcome=outcome,
        )
        for logits in all_logits
    ]
    return torch.stack(losses).mean()
