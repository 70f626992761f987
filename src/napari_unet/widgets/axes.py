"""What the axes of an image are: shown in letters and in words, and open to correction."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox
from superqt.utils import signals_blocked

__all__ = ["AxesField", "axes_in_words", "problem_with"]

CHOICES = {
    # number of axes, and whether the last one holds colours
    (2, False): ("yx", "xy"),
    (3, False): ("zyx", "tyx", "cyx", "yxc", "xyz"),
    (4, False): ("tzyx", "tcyx", "zcyx", "czyx", "ctyx", "zyxc", "tyxc"),
    (5, False): ("tczyx", "tzcyx", "ctzyx", "tzyxc"),
    (3, True): ("yxc", "xyc"),
    (4, True): ("zyxc", "tyxc"),
    (5, True): ("tzyxc", "ztyxc"),
}
NOUNS = {"z": "slice", "t": "time point", "c": "channel"}


class AxesField(QComboBox):
    """A letter for each axis, chosen or typed.

    Attributes
    ----------
    edited : emitted with the letters after the user has chosen or typed others.
    """

    edited = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.setEditable(True)
        self.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(6)
        self._shown = ""
        self.activated.connect(self._on_edited)
        line = self.lineEdit()
        assert line is not None
        line.editingFinished.connect(self._on_edited)

    def show_axes(self, axes: str, is_rgb: bool) -> None:
        """Show the axes of another image."""
        self._shown = axes
        choices = CHOICES.get((len(axes), is_rgb), ())
        with signals_blocked(self):
            self.clear()
            self.addItems(choices if axes in choices else (axes, *choices))
            self.setCurrentText(axes)

    def _on_edited(self) -> None:
        axes = self.currentText().strip().lower().replace(" ", "")
        if axes != self._shown:
            self.edited.emit(axes)


def problem_with(axes: str, n_axes: int) -> str:
    """What is wrong with letters that were typed, in a sentence; nothing if they can be used."""
    if len(axes) == n_axes == len(set(axes)) and {"y", "x"} <= set(axes) and axes.isalpha():
        return ""
    return (
        f"The axes {axes!r} cannot be used: this image has {n_axes}. Give a letter for each, none "
        "of them twice: y and x, and z for slices, t for time or c for channels."
    )


def axes_in_words(image: Any) -> str:
    """How many of what an image has, and the size of its pixels.

    Such as "5 slices of 512 × 640 px, each 0.25 × 0.25 µm, slices 1 µm apart".
    """
    sizes = dict(zip(image.axes, image.array.shape, strict=True))
    counts = [
        f"{n} {NOUNS.get(axis, axis)}{'' if n == 1 else 's'}"
        for axis, n in sizes.items()
        if axis not in "yx"
    ]
    plane = f"{sizes['y']:,} × {sizes['x']:,} px"
    words = f"{', '.join(counts)} of {plane}" if counts else plane
    known = image.pixel_size
    if "y" in known and "x" in known:
        words += f", each {known['y']:.3g} × {known['x']:.3g} µm"
        if "z" in known and sizes.get("z", 1) > 1:
            words += f", slices {known['z']:.3g} µm apart"
    else:
        words += "; pixel size unknown"
    return words
