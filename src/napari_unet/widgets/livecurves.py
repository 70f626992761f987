"""The curves of live mode: loss, held-out score, and corrected pixels of each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyqtgraph as pg

from napari_unet.scenes import Point
from napari_unet.widgets.plots import LOSS, SCORE, add_plot, name_steps, prepare

__all__ = ["LiveCurves"]

PAINTED, OTHER = "#3d8bfd", "#6b7383"
MOST_POINTS = 400
"""No more are drawn: the plots are narrower than that in px."""


class LiveCurves(pg.GraphicsLayoutWidget):
    """Three plots above each other that share the training steps."""

    def __init__(self) -> None:
        super().__init__()
        prepare(self, height=260)
        self.loss_plot = self._add(0, "loss")
        self.score_plot = self._add(1, "score")
        self.painted_plot = self._add(2, "px painted")
        self.score_plot.setYRange(0, 1.02, padding=0)
        name_steps(self.painted_plot)
        for plot in (self.loss_plot, self.score_plot):
            plot.getAxis("bottom").setStyle(showValues=False)
            plot.setXLink(self.painted_plot)
        self._loss = self.loss_plot.plot(pen=pg.mkPen(LOSS, width=2))
        self._score = self.score_plot.plot(
            pen=pg.mkPen(SCORE, width=2), symbol="o", symbolSize=5, symbolBrush=SCORE,
            symbolPen=None,
        )  # fmt: skip
        self._painted: dict[str, Any] = {}

    def _add(self, row: int, name: str) -> Any:
        plot = add_plot(self, row, name, width=54)
        plot.getAxis("left").enableAutoSIPrefix(False)
        return plot

    def show_curve(self, curve: Sequence[Point], key: str) -> None:
        """Draw the points so far; `key` is the image whose corrected px stand out."""
        losses = [(point.step, point.loss) for point in curve if point.loss is not None]
        scores = [(point.step, point.score) for point in curve if point.score is not None]
        self._loss.setData(*_columns(losses))
        self._score.setData(*_columns(scores))
        end = max(50, curve[-1].step if curve else 0)
        self.painted_plot.setXRange(0, end, padding=0.02)
        keys = {k for point in curve[-1:] for k, n in point.n_corrected.items() if n}
        for gone in set(self._painted) - keys:
            self.painted_plot.removeItem(self._painted.pop(gone))
        for one in sorted(keys):
            if one not in self._painted:
                self._painted[one] = self.painted_plot.plot()
            is_here = one == key
            self._painted[one].setPen(pg.mkPen(PAINTED if is_here else OTHER, width=1 + is_here))
            counts = [(point.step, point.n_corrected.get(one, 0)) for point in curve]
            self._painted[one].setData(*_columns(counts))


def _columns(points: Sequence[tuple[int, float]]) -> tuple[Any, Any]:
    """Steps and values, thinned to what can be seen; the last one stays."""
    if not points:
        return np.zeros(0), np.zeros(0)
    each = -(-len(points) // MOST_POINTS)
    shown = np.array([*points[:-1:each], points[-1]], float)
    return shown[:, 0], shown[:, 1]
