"""What a step wants: painted pixels right, and elsewhere what was said before."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_unet.core.corrections import IGNORE
from napari_unet.core.device import autocast
from napari_unet.core.live.pieces import HELD
from napari_unet.core.losses import (
    class_log_probabilities,
    hold_loss,
    masked_cross_entropy,
    masked_dice,
    output_probabilities,
)
from napari_unet.core.model import Description
from napari_unet.core.outcomes import Outcome

__all__ = ["answer_on", "loss_of"]

BRAKE = 0.25
"""What the divergence from the old answer counts beside the bounded loss, ..."""
MOST_DIVERGENCE = 4.0
"""... and the most that it is for a pixel: strokes that speak against it win."""
LEAST = 1e-4
PULL = 4.0
"""How much more than the strokes an answer from before weighs at full memory, ..."""
LIGHTLY = 0.3
"""... times this on untouched pixels, once strokes of two classes say what is what ..."""
REHEARSED = 4.0
"""... and times this on rehearsal pictures."""


@torch.no_grad()
def answer_on(network: nn.Module, image: Tensor, about: Description) -> Tensor:
    """What a network says of `(b, c, [z,] y, x)`: probabilities `(b, output, [z,] y, x)`."""
    with autocast(image.device):
        logits = network(image)
    return output_probabilities(logits, about.outcome)


def loss_of(
    logits: Tensor,
    target: Tensor,
    answer: Tensor | None,
    is_memory: Tensor,
    about: Description,
    memory: float,
    lightly: bool = False,
) -> tuple[Tensor, Tensor]:
    """The loss on painted pixels, and the pull towards what was said before; two scalars.

    Parameters
    ----------
    logits : `(b, output, [z,] y, x)`.
    target : `(b, [z,] y, x)` uint8; `IGNORE` where nobody painted, `HELD` where held out.
    answer : what was said before, `(b, output, [z,] y, x)`; None if nothing is to be held.
    is_memory : `(b,)`, which patches are rehearsal.
    lightly : whether untouched pixels are held lightly, since there are strokes of two classes.
    """
    trained = torch.where(target == HELD, IGNORE, target)
    log_classes = class_log_probabilities(logits, about.output_class, about.outcome)
    painted = masked_cross_entropy(log_classes, trained) + masked_dice(log_classes, trained)
    if answer is None or memory == 0:
        return painted, logits.new_zeros((), dtype=torch.float32)
    rehearsed = is_memory.view(-1, *[1] * (target.ndim - 1)).expand_as(target)
    untouched = (target == IGNORE) & ~rehearsed
    pull = (LIGHTLY if lightly else 1.0) * _pull(logits, answer, untouched, about.outcome)
    if is_memory.any():
        pull = pull + REHEARSED * _pull(logits, answer, rehearsed, about.outcome)
    return painted, PULL * memory * pull


def _pull(logits: Tensor, answer: Tensor, where: Tensor, outcome: Outcome) -> Tensor:
    """How far the network has moved from an answer from before; a scalar.

    The bounded loss hardly pulls where the network is still sure of that answer, so that the
    first steps after strokes of one class carry everything along, until it does. The divergence
    brakes from the start.
    """
    diverged = _divergence(logits, answer, outcome).clamp(max=MOST_DIVERGENCE)
    brake = (diverged * where).sum() / where.sum().clamp(min=1)
    return hold_loss(logits, answer, where, outcome) + BRAKE * brake


def _divergence(logits: Tensor, answer: Tensor, outcome: Outcome) -> Tensor:
    """Kullback-Leibler divergence `(b, ...)` of the new answer from the old one, in nats."""
    if outcome == "softmax" and logits.shape[1] > 1:
        new = torch.log_softmax(logits.float(), dim=1)
        return (answer * (answer.clamp(min=LEAST).log() - new)).sum(dim=1)
    kind: Outcome = "sigmoid" if outcome == "softmax" else outcome
    now = output_probabilities(logits, kind).clamp(LEAST, 1 - LEAST)
    old = answer.clamp(LEAST, 1 - LEAST)
    on, off = old * (old / now).log(), (1 - old) * ((1 - old) / (1 - now)).log()
    return (on + off).mean(dim=1)
