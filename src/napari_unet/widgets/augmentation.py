"""How training pictures are varied, as a form: fine-tuning and training from masks share it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QPushButton, QVBoxLayout, QWidget
from superqt import QLabeledDoubleSlider
from superqt.utils import signals_blocked

from napari_unet.core.settings import AugmentationSettings
from napari_unet.widgets.parts import give_reason, row

__all__ = ["AugmentationForm"]


class _Knob(NamedTuple):
    """A field of `AugmentationSettings` on a slider."""

    name: str
    label: str
    low: float
    high: float
    decimals: int
    tip: str


KNOBS = (
    _Knob("elastic_sigma", "Elastic, px", 0, 50, 1,
          "Strength of the random elastic deformation, in px. 0 for none."),
    _Knob("rotation", "Rotation, °", 0, 180, 0, "Largest turn to either side. 0 for none."),
    _Knob("scale", "Zoom, ×", 1, 3, 2, "Largest zoom, in and out. 1 for none."),
    _Knob("brightness", "Brightness", 0, 1, 2,
          "Largest shift, as a share of the range from dark to bright. 0 for none."),
    _Knob("contrast", "Contrast", 0, 1, 2, "Largest relative change of contrast. 0 for none."),
    _Knob("gamma", "Gamma", 1, 4, 2, "Largest exponent, and its inverse. 1 for none."),
    _Knob("noise", "Noise", 0, 1, 2,
          "Largest noise, as a share of the range from dark to bright. 0 for none."),
    _Knob("blur", "Blur, px", 0, 5, 1, "Largest Gaussian blur, in px. 0 for none."),
    _Knob("dropout", "Dropout", 0, 0.9, 2,
          "Largest share that is hidden in rectangles. 0 for none."),
)  # fmt: skip
FLIPS = "Mirror pictures along y and x at random."
RESET = "Go back to the usual settings."


class AugmentationForm(QWidget):
    """How strongly pictures are varied.

    Parameters
    ----------
    defaults : what the form says at first, and keeps to where it offers nothing.
    has_dropout : whether to offer dropout, which fine-tuning does not have.

    Attributes
    ----------
    changed : emitted when the form says something else.
    knobs : the slider of each field that is offered, by its name.
    """

    changed = Signal()

    def __init__(
        self, defaults: AugmentationSettings | None = None, *, has_dropout: bool = False
    ) -> None:
        super().__init__()
        self._defaults = defaults or AugmentationSettings()
        self._offered = [knob for knob in KNOBS if has_dropout or knob.name != "dropout"]
        self.knobs = {knob.name: _slider(knob) for knob in self._offered}
        self.flips = QCheckBox("Flips")
        self.reset_button = QPushButton("Reset")
        self._build()
        self.show_settings(self._defaults)
        for slider in self.knobs.values():
            slider.valueChanged.connect(self.changed)
        self.flips.toggled.connect(self.changed)
        self.reset_button.clicked.connect(self._on_reset_clicked)
        self.explain("")

    def _build(self) -> None:
        form = QVBoxLayout(self)
        form.setContentsMargins(0, 4, 0, 4)
        form.setSpacing(4)
        for knob in self._offered:
            row(form, knob.label, self.knobs[knob.name], tip=knob.tip)
        last = QHBoxLayout()
        last.addWidget(self.flips)
        last.addStretch(1)
        last.addWidget(self.reset_button)
        form.addLayout(last)

    def settings(self) -> AugmentationSettings:
        """What the form says."""
        said: dict[str, Any] = {
            knob.name: round(float(self.knobs[knob.name].value()), knob.decimals)
            for knob in self._offered
        }
        return replace(self._defaults, **said, flips=self.flips.isChecked())

    def show_settings(self, settings: AugmentationSettings) -> None:
        """Let the form say these; nothing is emitted."""
        for name, slider in self.knobs.items():
            with signals_blocked(slider):
                slider.setValue(float(getattr(settings, name)))
        with signals_blocked(self.flips):
            self.flips.setChecked(settings.flips)

    def explain(self, reason: str) -> None:
        """Enable the form if nothing is against it; else let its tooltips say the reason."""
        for knob in self._offered:
            give_reason(self.knobs[knob.name], reason, knob.tip)
        give_reason(self.flips, reason, FLIPS)
        give_reason(self.reset_button, reason, RESET)

    def _on_reset_clicked(self) -> None:
        self.show_settings(self._defaults)
        self.changed.emit()


def _slider(knob: _Knob) -> QLabeledDoubleSlider:
    slider: Any = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
    slider.setDecimals(knob.decimals)
    slider.setRange(knob.low, knob.high)
    slider.setSingleStep(10.0**-knob.decimals)
    return slider  # type: ignore[no-any-return]
