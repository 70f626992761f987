"""How the curves of all docks look."""

from __future__ import annotations

from typing import Any

import pyqtgraph as pg
from qtpy.QtWidgets import QSizePolicy

__all__ = ["LOSS", "SCORE", "add_plot", "name_steps", "prepare"]

LOSS, SCORE, GRAY = "#e0863c", "#35a35f", "#8a93a5"


def prepare(plots: pg.GraphicsLayoutWidget, height: int) -> None:
    """Let plots lie above each other without a background, `height` px high together."""
    plots.setBackground(None)
    plots.setFixedHeight(height)
    plots.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    plots.ci.layout.setSpacing(2)
    plots.ci.layout.setContentsMargins(0, 4, 6, 0)


def add_plot(plots: pg.GraphicsLayoutWidget, row: int, name: str, width: int) -> Any:
    """Add a plot that is only looked at; its axis on the left is `width` px wide."""
    plot = plots.addPlot(row=row, col=0)
    plot.setLabel("left", name, color=GRAY)
    plot.setMouseEnabled(False, False)
    plot.hideButtons()
    plot.setMenuEnabled(False)
    plot.showGrid(y=True, alpha=0.2)
    plot.getAxis("left").setWidth(width)
    for side in ("left", "bottom"):
        plot.getAxis(side).setPen(GRAY)
        plot.getAxis(side).setTextPen(GRAY)
    return plot


def name_steps(plot: Any) -> None:
    """Say under the lowest plot what all of them are over."""
    plot.setLabel("bottom", "training step", color=GRAY)
    plot.getAxis("bottom").setHeight(38)  # NOTE: by itself it cuts off descenders
