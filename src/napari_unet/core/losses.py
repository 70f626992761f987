"""Losses in which an untouched pixel never counts as truth.

A network may have more outputs than there are classes to paint: the built-in model tells the
inside of a nucleus from its border, and both are "nucleus" to the user. `output_class` says
which class each output counts towards; the loss sums their probabilities first.

`training_loss` is for training from masks: cross-entropy, soft Dice, both, focal and Tversky, with
weights of classes and of pixels. Fine-tuning uses the masked losses by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_unet.core.corrections import IGNORE
from napari_unet.core.errors import SettingsError
from napari_unet.core.outcomes import Outcome, probabilities_of

__all__ = [
    "balanced_weights",
    "class_log_probabilities",
    "hold_loss",
    "masked_cross_entropy",
    "masked_dice",
    "output_probabilities",
    "regression_loss",
    "training_loss",
]

KINDS = ("cross-entropy", "dice", "dice+cross-entropy", "focal", "tversky")
LEAST = 1e-12
"""Least doubt that has a gradient: a power below one is infinitely steep at zero."""


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
    losses = -log_probabilities.gather(1, _index(target)[:, None])[:, 0]  # (b, ...)
    counted = known.float() if weights is None else known * weights
    return (losses * counted).sum() / counted.sum().clamp(min=1e-6)


def masked_dice(log_probabilities: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """One minus the soft Dice coefficient, mean over classes, of the pixels with a target.

    Parameters are those of `masked_cross_entropy`. Sums run over the whole batch (Milletari
    et al. 2016, with the linear denominator). Classes that are nowhere in the target do not
    count.
    """
    known = (target != IGNORE)[:, None]
    truth = _is_class(target, log_probabilities.shape[1])
    return _overlap_loss(log_probabilities.exp(), truth, known.float(), smooth=smooth / 2)


def training_loss(
    kind: str,
    log_probabilities: Tensor,
    target: Tensor,
    *,
    weights: Tensor | None = None,
    class_weights: Tensor | Sequence[float] | None = None,
    gamma: float = 2.0,
    alpha: float = 0.3,
    beta: float = 0.7,
    outcome: Outcome = "softmax",
) -> Tensor:
    """One of the losses for training from masks. Pixels without a target never count.

    * "cross-entropy": mean over pixels; the sum of the binary ones for outputs that are each by
      themselves. As usual with weights: their sum is what the sum of losses is divided by.
    * "focal" (Lin et al. 2017): each pixel's cross-entropy times `(1 - p) ** gamma`. The paper's
      alpha is `class_weights` here. Divided like the cross-entropy, which it is for gamma 0.
    * "dice" (Milletari et al. 2016, linear denominator) and "tversky" (Salehi et al. 2017): one
      minus the overlap of soft sets, mean over classes, summed over the pixels of the whole batch.
      Tversky with alpha = beta = 0.5 is Dice.
    * "dice+cross-entropy": their sum.

    Parameters
    ----------
    kind : which loss.
    log_probabilities : `(b, class, ...)`, from `class_log_probabilities`.
    target : `(b, ...)` uint8, the class of each pixel; `IGNORE` where it is not known.
    weights : `(b, ...)`, how much each pixel counts; it multiplies the pixel's part of each sum.
    class_weights : `(class,)`. Cross-entropy and focal: how much the pixels of a class count. Dice
        and Tversky: how much the overlap of a class counts in the mean.
    gamma : exponent of "focal".
    alpha, beta : what false positives and false negatives count in "tversky".
    outcome : what the probabilities came from. Cross-entropy needs none of it. In the others,
        "softmax" compares classes, of which those that are nowhere in the target do not count in
        overlaps. Anything else compares each output by itself with its own truth, all of them,
        and none for the background. With several outputs it must be given: the likelihood that
        just one of them is on says of none how likely it is itself. Give "softmax" if one of them
        stands for the background.

    Returns
    -------
    Tensor
        A float32 scalar; zero, with a gradient of zero, if no pixel has a target.

    Raises
    ------
    SettingsError
        If there is no such loss.
    """
    if kind not in KINDS:
        raise SettingsError(f"There is no loss {kind!r}. Choose one of {', '.join(KINDS)}.")
    known = target != IGNORE
    # NOTE: replaced, not multiplied by zero, which would keep what is infinite or not a number.
    said = torch.where(known[:, None], _at_least_single(log_probabilities), 0)
    counted = torch.where(known, 1 if weights is None else weights, 0).to(said.dtype)
    per_class = None if class_weights is None else torch.as_tensor(class_weights).to(said)
    each_counted = counted if per_class is None else counted * per_class[_index(target)]
    if kind == "focal":
        return _focal(said, target, each_counted, gamma, outcome)
    if kind == "cross-entropy":
        return masked_cross_entropy(said, target, each_counted)
    shares = (alpha, beta) if kind == "tversky" else (0.5, 0.5)
    overlap = _overlap(said, target, counted, per_class, shares, outcome)
    if kind == "dice+cross-entropy":
        return overlap + masked_cross_entropy(said, target, each_counted)
    return overlap


def _at_least_single(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _index(target: Tensor) -> Tensor:
    """The class of each pixel as an index; 0 where it is not known."""
    return torch.where(target != IGNORE, target, 0).long()


def _is_class(target: Tensor, n_classes: int) -> Tensor:
    """`(b, ...)` to `(b, class, ...)`: is the pixel of this class?"""
    classes = torch.arange(n_classes, device=target.device).view(1, -1, *[1] * (target.ndim - 1))
    return target[:, None] == classes


def _logits_of_each(log_probabilities: Tensor) -> Tensor:
    """The logits `(b, output, ...)` that outputs by themselves had: what it takes to turn one on
    where all were off."""
    return log_probabilities[:, 1:] - log_probabilities[:, :1]


def _focal(said: Tensor, target: Tensor, counted: Tensor, gamma: float, outcome: Outcome) -> Tensor:
    """Mean focal loss; outputs by themselves are summed."""
    if outcome == "softmax":
        right = said.gather(1, _index(target)[:, None])  # (b, 1, ...)
    else:
        truth = _is_class(target, said.shape[1])[:, 1:]
        each = _logits_of_each(said)
        right = F.logsigmoid(torch.where(truth, each, -each))  # (b, output, ...)
    doubt = (-torch.expm1(right)).clamp(min=LEAST)
    losses = (-(doubt**gamma) * right).sum(dim=1)
    return (losses * counted).sum() / counted.sum().clamp(min=1e-6)


def _overlap(
    said: Tensor,
    target: Tensor,
    counted: Tensor,
    per_class: Tensor | None,
    shares: tuple[float, float],
    outcome: Outcome,
) -> Tensor:
    """One minus the overlap, of classes or of outputs by themselves."""
    truth = _is_class(target, said.shape[1])
    if outcome == "softmax":
        return _overlap_loss(said.exp(), truth, counted[:, None], per_class, shares)
    chances = _logits_of_each(said).sigmoid()
    own = None if per_class is None else per_class[1:]
    return _overlap_loss(chances, truth[:, 1:], counted[:, None], own, shares, is_all=True)


def _overlap_loss(
    probabilities: Tensor,
    truth: Tensor,
    counted: Tensor,
    per_class: Tensor | None = None,
    shares: tuple[float, float] = (0.5, 0.5),
    smooth: float = 0.5,
    is_all: bool = False,
) -> Tensor:
    """One minus `(TP + smooth) / (TP + alpha FP + beta FN + smooth)`, mean over classes.

    `probabilities` and `truth` are `(b, class, ...)`, `counted` is `(b, 1, ...)`. Classes that are
    nowhere in the target do not count, unless `is_all`.
    """
    axes = [axis for axis in range(probabilities.ndim) if axis != 1]
    real = truth * counted
    found = probabilities * counted
    hit = (probabilities * real).sum(dim=axes)  # (class,)
    wrong, missed = found.sum(dim=axes) - hit, real.sum(dim=axes) - hit
    score = (hit + smooth) / (hit + shares[0] * wrong + shares[1] * missed + smooth)
    importance = torch.ones_like(score) if is_all else (real.sum(dim=axes) > 0).to(score.dtype)
    if per_class is not None:
        importance = importance * per_class
    return ((1 - score) * importance).sum() / importance.sum().clamp(min=1e-6)


def balanced_weights(counts: Sequence[int] | Tensor) -> Tensor:
    """How much the pixels of each class must count for all classes to count alike.

    Parameters
    ----------
    counts : pixels of each class, `(class,)`.

    Returns
    -------
    float32 Tensor `(class,)`
        In inverse proportion to the counts; their mean over the classes that occur is 1. 0 for
        classes that do not occur.
    """
    numbers = torch.as_tensor(counts, dtype=torch.float64)
    rarity = torch.where(numbers > 0, 1 / numbers.clamp(min=1), 0)
    mean = rarity.sum() / (numbers > 0).sum().clamp(min=1)
    return (rarity / mean.clamp(min=1e-300)).float()


def regression_loss(predicted: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean absolute difference (L1, as of Isola et al. 2017) where the target is a number.

    `predicted` and `target` are `(b, c, ...)`; `weights` is `(b, ...)`. Where the target is NaN
    nothing counts, and the gradient is zero.
    """
    known = ~target.isnan()
    differences = torch.where(known, predicted.float() - target.float(), 0).abs()
    counted = known.float() if weights is None else known * weights[:, None]
    return (differences * counted).sum() / counted.sum().clamp(min=1e-6)


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
