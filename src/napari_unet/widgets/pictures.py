"""What a network in training makes of an image, beside the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QLabel, QSizePolicy

__all__ = ["Colors", "Pictures", "as_image", "in_color", "outlined"]

GAP = 4
TRUTH, PREDICTED = (53, 163, 95), (224, 134, 60)
"""Colours of outlines, `(red, green, blue)`."""

Colors = npt.NDArray[np.uint8]


def in_color(image: npt.NDArray[np.generic]) -> Colors:
    """A raw image `(c, y, x)` as colours `(y, x, 3)`, stretched from its darkest to brightest."""
    values = np.nan_to_num(image[:3].astype(np.float32))
    low, high = np.percentile(values, (0.5, 99.5))
    shown = np.clip((values - low) / max(float(high - low), 1e-6), 0, 1) * 255
    planes = [
        shown[min(i, len(shown) - 1)] if len(shown) != 2 else _two(shown)[i] for i in range(3)
    ]
    return np.stack(planes, axis=-1).astype(np.uint8)  # (y, x, 3)


def _two(shown: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    """Two channels, in magenta and green."""
    return [shown[0], shown[1], shown[0]]


def outlined(
    colors: Colors, labels: npt.NDArray[np.integer], color: tuple[int, int, int]
) -> Colors:
    """Colours `(y, x, 3)` with the outlines of `labels` `(y, x)` drawn in."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        ahead = np.diff(labels.astype(np.int64), axis=axis) != 0
        for start in (0, 1):
            part = [slice(None)] * 2
            part[axis] = slice(start, labels.shape[axis] - 1 + start)
            edge[tuple(part)] |= ahead
    found = colors.copy()
    found[edge & (labels > 0)] = color
    return found


def as_image(colors: Colors) -> QImage:
    """Colours `(y, x, 3)` as something to be drawn."""
    height, width, _ = colors.shape
    image = QImage(colors.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
    return image.copy()  # NOTE: an image does not own its pixels


class Pictures(QLabel):
    """Two pictures side by side, as large as there is room."""

    def __init__(self) -> None:
        super().__init__()
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._pixmap = QPixmap()
        self.setVisible(False)

    def show_sample(self, sample: Any) -> None:
        """Show a `SamplePrediction`: the truth on the left, what was found on the right."""
        colors = in_color(sample.image)
        gap = np.zeros((colors.shape[0], GAP, 3), np.uint8)
        left, right = (
            outlined(colors, sample.truth, TRUTH), outlined(colors, sample.predicted, PREDICTED),
        )  # fmt: skip
        self._pixmap = QPixmap.fromImage(as_image(np.concatenate([left, gap, right], axis=1)))
        self.setVisible(True)
        self._fit()

    def resizeEvent(self, event: Any) -> None:
        """Fill the width that there is now."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        if self._pixmap.isNull() or self.width() < 2:
            return
        shown = self._pixmap.scaledToWidth(self.width(), Qt.TransformationMode.SmoothTransformation)
        self.setFixedHeight(shown.height())
        self.setPixmap(shown)
