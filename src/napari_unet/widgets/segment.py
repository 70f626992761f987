"""The dock that segments the chosen image."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QComboBox, QSpinBox
from superqt import QLabeledDoubleSlider, QLabeledSlider
from superqt.utils import signals_blocked

from napari_unet.core.errors import UNetLiveError
from napari_unet.core.settings import ObjectSettings, SegmentSettings
from napari_unet.layers import ResultLayer
from napari_unet.preferences import preference
from napari_unet.widgets.common import Step, give_reason, hint, primary

__all__ = ["SegmentWidget"]

LEADING = {
    1: (("z slices", "z"), ("time points", "t"), ("channels", "c")),
    2: (("time, z", "tz"), ("time, channels", "tc"), ("channels, time", "ct"),
        ("z, channels", "zc"), ("channels, z", "cz")),
    3: (("time, z, channels", "tzc"), ("time, channels, z", "tcz"), ("channels, time, z", "ctz")),
}  # fmt: skip


class SegmentWidget(Step):
    """Choose an image, click Segment, and turn the knobs on the result."""

    def __init__(self, napari_viewer: Any, alone: bool = True) -> None:
        super().__init__(napari_viewer, alone)
        self._defaults = ObjectSettings()
        self.image = QComboBox()
        self.image.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.leading = QComboBox()
        self.what = QComboBox()
        self.what.addItem("single objects", "objects")
        self.what.addItem("classes", "classes")
        self.tile_size = QSpinBox()
        self.tile_size.setRange(0, 4096)
        self.tile_size.setSingleStep(64)
        self.tile_size.setSuffix(" px")
        self.tile_size.setSpecialValueText("automatic")
        self.tile_size.setValue(int(preference("general", "tile_size", 0)))
        self.button = primary("Segment")
        self.reason = hint()
        self.threshold = _slider(QLabeledDoubleSlider, 0.05, 0.95, 0.01)
        self.min_size = _slider(QLabeledSlider, 0, 500, 1)
        self.split = _slider(QLabeledDoubleSlider, 0.0, 1.0, 0.05)
        self.probabilities = QCheckBox("Show the map of probabilities")
        self._build()
        self._connect()
        self._show_defaults()
        self._fill_images()

    def _build(self) -> None:
        self.row("Image", self.image, tip="The layer to segment.")
        self.leading_name = self.row("First axes", self.leading, tip="What the first axes mean.")
        self.row("Find", self.what, tip="Objects with numbers of their own, or classes.")
        self.row(
            "Tile size", self.tile_size, tip="Edge of the part that is computed at once, in px."
        )
        self.form.addWidget(self.button)
        self.form.addWidget(self.reason)
        self.row("Threshold", self.threshold, tip="Smallest probability that counts.")
        self.row("Smallest", self.min_size, tip="Objects with fewer px are dropped.")
        self.row("Split", self.split, tip="How readily touching objects are split.")
        self.form.addWidget(self.probabilities)
        self.probabilities.setToolTip("Add a layer that shows how sure the network is.")

    def _connect(self) -> None:
        self.image.activated.connect(self._on_image_activated)
        self.leading.activated.connect(self._on_image_activated)
        self.what.activated.connect(self._on_knob_changed)
        self.button.clicked.connect(self.segment)
        for knob in (self.threshold, self.min_size, self.split):
            knob.valueChanged.connect(self._on_knob_changed)
        self.probabilities.toggled.connect(self._show_probabilities)
        self.session.layers_changed.connect(self._fill_images)
        self.session.image_changed.connect(self._on_session_image_changed)
        self.session.model_changed.connect(self._show_defaults)
        self.session.job_changed.connect(self._refresh)
        self.session.segmented.connect(self._show_probabilities)
        self.session.trial_changed.connect(self._refresh)

    def settings(self) -> SegmentSettings:
        """What the form says."""
        return SegmentSettings(
            what=self.what.currentData(),
            tile_size=max(16, self.tile_size.value()) if self.tile_size.value() else None,
            threshold=round(float(self.threshold.value()), 3),
            min_size=int(self.min_size.value()),
            split=round(float(self.split.value()), 3),
        )

    def segment(self) -> None:
        """Start segmenting the chosen image with the current model."""
        if self._why_not():
            return
        image, model = self.stage.image(), self.session.model
        assert image is not None and model is not None
        target = self.stage.target()
        target.describe(model=model.title, model_id=model.id, settings=repr(self.settings()))
        self.session.segment(image, target, self.settings(), self.stage.focus())

    def _why_not(self) -> str:
        """Why Segment cannot be clicked; nothing if it can."""
        if self.session.is_busy:
            return f"{self.session.busy} is running."
        if self.session.model is None:
            return "Open a model first."
        if self.session.trial is not None:
            return "Decide on the trained model first: Keep or Go back."
        if self.stage.source is None:
            return "Open an image first: drop a file on the window, or use File > Open Sample."
        from napari_unet.core.segmentation import check_image

        try:
            image = self.stage.image()
            assert image is not None
            check_image(image, self.session.model)
        except UNetLiveError as error:
            return str(error)
        return ""

    def _fill_images(self) -> None:
        self.stage.choose_any()
        with signals_blocked(self.image):
            self.image.clear()
            for layer in self.stage.images():
                self.image.addItem(layer.name, layer)
            if self.stage.source is not None:
                self.image.setCurrentIndex(self.stage.images().index(self.stage.source))
        self._fill_leading()
        self._refresh()

    def _fill_leading(self) -> None:
        source = self.stage.source
        n_leading = 0 if source is None else source.ndim - 2
        choices = LEADING.get(n_leading, ())
        with signals_blocked(self.leading):
            self.leading.clear()
            for text, axes in choices:
                self.leading.addItem(text, axes)
            at = self.leading.findData(self.stage.leading_axes)
            self.leading.setCurrentIndex(max(0, at))
        self.leading.setVisible(bool(choices))
        self.leading_name.setVisible(bool(choices))

    def _show_defaults(self) -> None:
        if self.session.model is not None:
            self._defaults = self.session.model.description.objects
        with (
            signals_blocked(self.threshold),
            signals_blocked(self.min_size),
            signals_blocked(self.split),
        ):
            self.threshold.setValue(self._defaults.threshold)
            self.min_size.setValue(self._defaults.min_size)
            self.split.setValue(self._defaults.split)
        self._refresh()

    def _refresh(self) -> None:
        reason = self._why_not()
        give_reason(self.button, reason, "Run the network on the image.")
        self.reason.setText(reason)
        self.reason.setVisible(bool(reason))
        objects = self.what.currentData() == "objects"
        for knob in (self.min_size, self.split):
            knob.setEnabled(objects)
        self.probabilities.setEnabled(self.session.prediction is not None)

    def _on_image_activated(self) -> None:
        layer = self.image.currentData()
        same = layer is self.stage.source
        self.stage.choose(layer, self.leading.currentData() or "" if same else "")
        self.session.image_changed.emit()

    def _on_session_image_changed(self) -> None:
        self._fill_images()

    def _on_knob_changed(self) -> None:
        self._refresh()
        if self.session.prediction is not None:
            self.session.adjust(self.settings(), self.stage.focus())

    def _show_probabilities(self) -> None:
        prediction = self.session.prediction
        if not self.probabilities.isChecked():
            self.stage.hide_probabilities()
        elif prediction is not None and prediction.outputs is not None:
            assert isinstance(prediction.target, ResultLayer)
            if self.stage.shown_probabilities is not prediction.outputs:
                self.stage.show_probabilities(prediction.foreground(), prediction.target)
                self.stage.shown_probabilities = prediction.outputs


def _slider(kind: Any, low: float, high: float, step: float) -> Any:
    slider = kind(Qt.Orientation.Horizontal)
    slider.setRange(low, high)
    slider.setSingleStep(step)
    return slider
