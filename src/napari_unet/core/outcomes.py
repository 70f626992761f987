"""What the numbers that come out of a network mean."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

__all__ = ["Outcome", "probabilities_of"]

Outcome = Literal["softmax", "sigmoid", "inverted", "none"]
"""What becomes of logits: the outputs compete, or each is by itself; "inverted" is one minus the
sigmoid; "none" if they are probabilities already."""


def probabilities_of(logits: Tensor, outcome: Outcome) -> Tensor:
    """Logits `(b, output, ...)` to float32 probabilities of the same shape."""
    logits = logits.float()
    if outcome == "softmax":
        return logits.softmax(dim=1)
    if outcome == "inverted":
        return logits.neg().sigmoid()
    return logits.sigmoid() if outcome == "sigmoid" else logits
