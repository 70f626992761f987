"""The live curves of training: loss and held-out score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg
from qtpy.QtWidgets import QSizePolicy

__all__ = ["Curves"]

LOSS, SCORE, GRAY = "#e0863c", "#35a35f", "#8a93a5"


class Curves(pg.GraphicsLayoutWidget):
    """Loss above, score on held-out corrections below, over the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.setBackground(None)
        self.setFixedHeight(220)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._loss_plot = self._add(0, "loss")
        self._score_plot = self._add(1, "score")
        self._score_plot.setYRange(0, 1.02, padding=0)
        self._loss_plot.getAxis("bottom").setStyle(showValues=False)
        self._score_plot.setXLink(self._loss_plot)
        self._score_plot.setLabel("bottom", "training step", color=GRAY)
        self._score_plot.getAxis("bottom").setHeight(38)  # NOTE: by itself it cuts off descenders
        self.ci.layout.setSpacing(2)
        self.ci.layout.setContentsMargins(0, 4, 6, 0)
        self._loss = self._loss_plot.plot(pen=pg.mkPen(LOSS, width=2))
        self._score = self._score_plot.plot(
            pen=pg.mkPen(SCORE, width=2), symbol="o", symbolSize=6, symbolBrush=SCORE,
            symbolPen=None,
        )  # fmt: skip

    def _add(self, row: int, name: str) -> Any:
        plot = self.addPlot(row=row, col=0)
        plot.setLabel("left", name, color=GRAY)
        plot.setMouseEnabled(False, False)
        plot.hideButtons()
        plot.setMenuEnabled(False)
        plot.showGrid(y=True, alpha=0.2)
        plot.getAxis("left").setWidth(44)
        for side in ("left", "bottom"):
            plot.getAxis(side).setPen(GRAY)
            plot.getAxis(side).setTextPen(GRAY)
        return plot

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
