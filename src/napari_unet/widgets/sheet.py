"""A sheet of training pictures, with what is to be learned in the colours of the classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QRect, Qt
from qtpy.QtGui import QColor, QImage, QPainter
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_unet.core.corrections import IGNORE
from napari_unet.layers import color_of
from napari_unet.previewing import Picture
from napari_unet.widgets.pictures import Colors, as_image, in_color, outlined

__all__ = ["Sheet", "in_colors"]

N_COLUMNS = 3
GAP = 4
FILL, LINES = 0.3, 0.45
"""How much of a painted px is in its colour, and of a line of the grid."""


def in_colors(pictures: Sequence[Picture], is_painted: bool) -> list[Colors]:
    """Pictures `(y, x, 3)` with their targets in the colours of the classes.

    Parameters
    ----------
    pictures : the first of them says what is dark and what is bright.
    is_painted : whether px are filled with the colour of their class; else only the outlines of
        classes other than background are drawn.
    """
    found = []
    for colors, picture in zip(_alike(pictures), pictures, strict=True):
        for value in np.unique(picture.target[picture.target != IGNORE]).tolist():
            mask = picture.target == value
            color = QColor(color_of(value + 1)).getRgb()[:3]
            if is_painted:
                colors = _blended(colors, mask, color, FILL)
            if is_painted or value:
                colors = outlined(colors, mask.astype(np.uint8), color)
        found.append(_blended(colors, picture.lines > 0, (255, 255, 255), LINES))
    return found


def _blended(
    colors: Colors, mask: npt.NDArray[np.bool_], color: Sequence[float], share: float
) -> Colors:
    found = colors.copy()
    found[mask] = (1 - share) * colors[mask] + share * np.asarray(color)
    return found


def _alike(pictures: Sequence[Picture]) -> list[Colors]:
    """The images of pictures as colours `(y, x, 3)`, all on the scale of the first.

    NOTE: `in_color` stretches what it gets from its darkest to its brightest. To see what is
    brighter than the first picture, all are stretched at once, cut off where the first ends,
    with so much of either end beside them that these are its darkest and brightest.
    """
    first = pictures[0].image
    low, high = np.percentile(first, (0.5, 99.5))
    high = max(high, low + 1e-6)
    n_ends = math.ceil(0.02 * len(pictures) * first.shape[2])
    ends = np.full((*first.shape[:2], n_ends), low, np.float32)
    images = [np.clip(picture.image, low, high) for picture in pictures]
    together = in_color(np.concatenate([*images, ends, ends - low + high], axis=2))
    width = first.shape[2]
    return [together[:, i * width : (i + 1) * width] for i in range(len(pictures))]


class Sheet(QWidget):
    """Pictures in rows, as large as there is room; the first has a name, and a click enlarges.

    Attributes
    ----------
    images : all that are shown, one after the other.
    enlarged : the number of the one that is shown alone; None for all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.images: list[QImage] = []
        self.enlarged: int | None = None
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setToolTip(
            "Top left as it is, the others as training may vary it. Click one to enlarge it."
        )

    def show_pictures(self, pictures: Sequence[Colors]) -> None:
        """Show pictures `(y, x, 3)`, all of one size."""
        self.images = [as_image(picture) for picture in pictures]
        self._fit()
        self.update()

    def resizeEvent(self, event: Any) -> None:
        """Take the height that the pictures need at this width."""
        super().resizeEvent(event)
        self._fit()

    def mousePressEvent(self, event: Any) -> None:
        """Show the one under the mouse alone, or all again."""
        if self.enlarged is None:
            hit = [at for at, place in self._places() if place.contains(event.pos())]
            self.enlarged = hit[0] if hit else None
        else:
            self.enlarged = None
        self._fit()
        self.update()

    def _places(self) -> list[tuple[int, QRect]]:
        """Number of each picture that is shown, and where."""
        if not self.images:
            return []
        is_alone = self.enlarged is not None
        shown = range(len(self.images)) if self.enlarged is None else [self.enlarged]
        n_columns = 1 if is_alone else N_COLUMNS
        width = max(1, (self.width() - (n_columns - 1) * GAP) // n_columns)
        height = round(width * self.images[0].height() / self.images[0].width())
        return [
            (
                at,
                QRect(
                    i % n_columns * (width + GAP), i // n_columns * (height + GAP), width, height
                ),
            )
            for i, at in enumerate(shown)
        ]

    def _fit(self) -> None:
        places = self._places()
        height = places[-1][1].bottom() + 1 if places else 0
        if height != self.height():
            self.setFixedHeight(height)

    def paintEvent(self, event: Any) -> None:
        """Draw them."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        for at, place in self._places():
            painter.drawImage(place, self.images[at])
            if at == 0:
                _write_name(painter, place)
        painter.end()


def _write_name(painter: QPainter, place: QRect) -> None:
    """Say which picture is not varied."""
    height = painter.fontMetrics().height() + 4
    strip = QRect(place.left(), place.bottom() + 1 - height, place.width(), height)
    painter.fillRect(strip, QColor(0, 0, 0, 150))
    painter.setPen(QColor("white"))
    painter.drawText(strip, int(Qt.AlignmentFlag.AlignCenter), "as it is")
