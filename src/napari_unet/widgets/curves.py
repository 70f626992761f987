"""The live curves of training: loss and held-out score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg

from napari_unet.widgets.plots import LOSS, SCORE, add_plot, name_steps, prepare

__all__ = ["Curves"]


class Curves(pg.GraphicsLayoutWidget):
    """Loss above, score on held-out corrections below, over the steps."""

    def __init__(self) -> None:
        super().__init__()
        prepare(self, height=220)
        self._loss_plot = add_plot(self, 0, "loss", width=44)
        self._score_plot = add_plot(self, 1, "score", width=44)
        self._score_plot.setYRange(0, 1.02, padding=0)
        self._loss_plot.getAxis("bottom").setStyle(showValues=False)
        self._score_plot.setXLink(self._loss_plot)
        name_steps(self._score_plot)
        self._loss = self._loss_plot.plot(pen=pg.mkPen(LOSS, width=2))
        self._score = self._score_plot.plot(
            pen=pg.mkPen(SCORE, width=2), symbol="o", symbolSize=6, symbolBrush=SCORE,
            symbolPen=None,
        )  # fmt: skip

    def show_curve(self, curve: Sequence[Any]) -> None:
        """Draw the steps so far; step 0 has the score of the model before training."""
        trained = [progress for progress in curve if progress.done > 0]
        steps = np.array([progress.done for progress in trained], float)
        losses = np.array([progress.loss for progress in trained], float)
        self._loss.setData(steps, _smooth(losses))
        scored = [(p.done, p.score) for p in curve if p.score is not None]
        if curve:
            self._loss_plot.setXRange(0, curve[-1].total, padding=0.02)
        self._score.setData(*(np.array(scored, float).T if scored else ([], [])))


def _smooth(values: Any, width: int = 5) -> Any:
    """A running mean over the last `width` values."""
    if values.size < 2:
        return values
    sums = np.cumsum(np.concatenate([np.zeros(1), values]))
    starts = np.maximum(np.arange(1, values.size + 1) - width, 0)
    ends = np.arange(1, values.size + 1)
    return (sums[ends] - sums[starts]) / (ends - starts)
