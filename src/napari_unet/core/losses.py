"""Losses in which an untouched pixel never counts as truth.

A network may have more outputs than there are classes to paint: the built-in model tells the
inside of a nucleus from its border, and both are "nucleus" to the user. `output_class` says
which class each output counts towards; the loss sums their probabilities first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_unet.core.corrections import IGNORE
from napari_unet.core.outcomes import Outcome, probabilities_of

__all__ = [
    "class_log_probabilities",
    "hold_loss",
    "masked_cross_entropy",
    "masked_dice",
    "output_probabilities",
]


def output_probabilities(logits: Tensor, outcome: Outcome) -> Tensor:
    """What the outputs `(b, output, ...)` say, as float32 probabilities of the same shape."""
    found = probabilities_of(logits, outcome)
    return found.clamp(0, 1) if outcome == "none" else found


def class_log_probabilities(
    logits: Tensor, output_class: tuple[int, ...], outcome: Outcome = "softmax"
) -> Tensor:
    """Logits `(b, output, ...)` to log-probabilities `(b, class, ...)`.

    Outputs that are each by themselves give the likelihood that just those of a class are on: its
    cross-entropy is the sum of the binary ones.

    Parameters
    ----------
    logits : raw output of the network, any float type; computed in float32.
    output_class : the class that each output counts towards; -1 for none.
    outcome : how logits become probabilities. A single output is always by itself.
    """
    counted = [i for i, which in enumerate(output_class) if which >= 0]
    if outcome == "softmax" and len(output_class) > 1:
        log_outputs = torch.log_softmax(logits.float(), dim=1)
        if output_class == tuple(range(len(output_class))):
            return log_outputs
        return torch.stack(
            [log_outputs[:, group].logsumexp(dim=1) for group in _groups(output_class)], dim=1
        )
    each = _each(logits.float(), outcome)[:, counted]
    on, off = F.logsigmoid(each), F.logsigmoid(-each)
    classes = [output_class[i] for i in counted]
    alone = [off.sum(dim=1) + (on - off)[:, group].sum(dim=1) for group in _groups(classes)]
    return torch.stack(alone, dim=1)


def _each(logits: Tensor, outcome: Outcome) -> Tensor:
    """Logits of outputs that are each by themselves."""
    if outcome == "none":  # probabilities already
        return logits.clamp(1e-4, 1 - 1e-4).logit()
    return -logits if outcome == "inverted" else logits


def _groups(output_class: Sequence[int]) -> list[list[int]]:
    """The outputs of each class, from 0 on."""
    return [
        [i for i, counted in enumerate(output_class) if counted == which]
        for which in range(max(output_class) + 1)
    ]


def masked_cross_entropy(
    log_probabilities: Tensor, target: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy over the pixels that have a target.

    Parameters
    ----------
    log_probabilities : `(b, class, ...)`.
    target : `(b, ...)`, uint8; `IGNORE` where nobody painted.
    weights : `(b, ...)`, how much each pixel counts; None for all alike.

    Returns
    -------
    Tensor
        A scalar; zero, with a gradient of zero, if no pixel has a target.
    """
    known = target != IGNORE
    index = torch.where(known, target, 0).long()
    losses = -log_probabilities.gather(1, index[:, None])[:, 0]  # (b, ...)
    counted = known.float() if weights is None else known * weights
    return (losses * counted).sum() / counted.sum().clamp(min=1e-6)


def masked_dice(log_probabilities: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """One minus the soft Dice coefficient, mean over classes, of the pixels with a target.

    Parameters are those of `masked_cross_entropy`. Sums run over the whole batch (Milletari
    et al. 2016, with the linear denominator). Classes that are nowhere in the target do not
    count.
    """
    known = (target != IGNORE)[:, None]
    probabilities = log_probabilities.exp() * known
    n_classes = log_probabilities.shape[1]
    classes = torch.arange(n_classes, device=target.device).view(1, -1, *[1] * (target.ndim - 1))
    truth = (target[:, None] == classes).float()
    axes = [axis for axis in range(probabilities.ndim) if axis != 1]
    overlap = (probabilities * truth).sum(dim=axes)
    total = probabilities.sum(dim=axes) + truth.sum(dim=axes)
    present = truth.sum(dim=axes) > 0
    dice = (2 * overlap + smooth) / (total + smooth)
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


def hold_loss(
    logits: Tensor, old_probabilities: Tensor, where: Tensor, outcome: Outcome = "softmax"
) -> Tensor:
    """How far the network has moved from its old answer, where nobody painted.

    For each pixel, one minus the probability that the old and the new answer agree. Unlike a
    cross-entropy it is bounded, and its pull fades where the strokes have already turned the
    answer round: untouched pixels hold to the old answer unless the strokes speak against it.

    Parameters
    ----------
    logits : `(b, output, ...)` of the network in training.
    old_probabilities : `(b, output, ...)` of the network before.
    where : `(b, ...)`, bool; the pixels to hold.
    outcome : how logits become probabilities. A single output is always by itself.
    """
    if outcome == "softmax" and logits.shape[1] == 1:
        outcome = "sigmoid"
    new = output_probabilities(logits, outcome)
    # NOTE: an unsure old answer agrees with nothing; measured against its own best.
    if outcome == "softmax":
        agreement = (new * old_probabilities).sum(dim=1)
        best = old_probabilities.amax(dim=1)
    else:
        both = new * old_probabilities + (1 - new) * (1 - old_probabilities)
        agreement = both.mean(dim=1)
        best = torch.maximum(old_probabilities, 1 - old_probabilities).mean(dim=1)
    losses = (best - agreement).clamp(min=0)
    return (losses * where).sum() / where.sum().clamp(min=1)
