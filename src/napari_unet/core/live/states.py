"""States of the weights that can be returned to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import torch
from torch import Tensor, nn

__all__ = ["State", "States", "Weights", "weights_of"]

MOST_BYTES = 2**29
"""States take this much memory at most, but two are always kept."""
MOST_STATES = 24

Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is known of a state.

    Attributes
    ----------
    number : to go back to it; 0 is the model that live mode began with.
    step : training steps until then.
    score : mean IoU on held-out corrections, if there were enough.
    n_corrected : corrected px that it was trained on.
    created : time (ISO 8601, UTC).
    """

    number: int
    step: int
    score: float | None
    n_corrected: int
    created: str


class States:
    """A bounded list of states; the first one and the newest ones are kept longest."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[State, Weights]] = {}
        self._n = 0

    def keep(self, weights: Weights, *, step: int, score: float | None, n: int) -> State:
        """Keep weights (which must be nobody else's) as a new state."""
        state = State(
            number=self._n, step=step, score=score, n_corrected=n,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        self._kept[self._n] = state, weights
        self._n += 1
        size = sum(value.nbytes for value in weights.values())
        while len(self._kept) > max(2, min(MOST_STATES, MOST_BYTES // max(1, size))):
            numbers = list(self._kept)
            del self._kept[numbers[1]]
        return state

    def listed(self) -> tuple[State, ...]:
        """The states that are kept, oldest first."""
        return tuple(state for state, _ in self._kept.values())

    def weights(self, number: int) -> Weights | None:
        """The weights of a state; None if it is not kept (any more)."""
        return self._kept[number][1] if number in self._kept else None


def weights_of(network: nn.Module) -> Weights:
    """A copy of the weights in the memory of the computer, safe from a device that is lost."""
    return {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }
