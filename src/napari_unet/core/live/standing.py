"""How a network in training stands: its score on what is held out, and its best states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from napari_unet.core.live.scores import Exam
from napari_unet.core.live.states import Weights, weights_of

__all__ = ["Best", "Standing"]

BETTER = 0.02
"""A state since the last stroke is preferred if it scores better by this much, ..."""
MUCH_BETTER = 0.15
"""... and one from before it, which has not seen it, only if it does by this much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """A state that scored best: its score, weights, and training steps until then."""

    score: float
    weights: Weights
    step: int


class Standing:
    """Keeps the best state of all, and the best one since the last stroke.

    Parameters
    ----------
    device : where networks are asked.
    examined : makes an exam on what is held out now.

    Attributes
    ----------
    score : mean IoU on held-out corrections when it was last measured; None if unknown.
    ever, since : the best state of all, and since the last stroke.
    """

    def __init__(self, device: torch.device, examined: Callable[[], Exam]) -> None:
        self.device = device
        self.score: float | None = None
        self.ever: Best | None = None
        self.since: Best | None = None
        self._examined = examined
        self._exam: Exam | None = None

    def changed(self, has_new_strokes: bool = True) -> None:
        """Other corrections are held out now."""
        self._exam = None
        if has_new_strokes:
            self.since = None

    def chosen(self) -> None:
        """Somebody chose a state: nothing from before is preferred to it any more."""
        self.ever = self.since = None

    def exam(self, network: nn.Module) -> Exam:
        """The exam on what is held out now. What was best until now has to sit it again.

        `network` lends its structure; its weights stay as they are.
        """
        if self._exam is None:
            self._exam = self._examined()
            now = weights_of(network)
            self.ever, self.since = (
                self._again(best, network, self._exam) for best in (self.ever, self.since)
            )
            network.load_state_dict(now)
        return self._exam

    def _again(self, best: Best | None, network: nn.Module, exam: Exam) -> Best | None:
        if best is None:
            return None
        network.load_state_dict(best.weights)
        score = exam.score(network, self.device)
        return None if score is None else Best(score=score, weights=best.weights, step=best.step)

    def measure(self, network: nn.Module, step: int) -> float | None:
        """Score a network after `step` steps, and keep its weights if they are the best."""
        self.score = self.exam(network).score(network, self.device)
        if self.score is None:
            return None
        is_best = [best is None or self.score >= best.score for best in (self.ever, self.since)]
        if any(is_best):
            best = Best(score=self.score, weights=weights_of(network), step=step)
            self.ever = best if is_best[0] else self.ever
            self.since = best if is_best[1] else self.since
        return self.score

    def preferred(self) -> Best | None:
        """The state to return to, if one is clearly better than what was measured last."""
        for best, margin in ((self.ever, MUCH_BETTER), (self.since, BETTER)):
            if self.score is not None and best is not None and best.score > self.score + margin:
                return best
        return None
