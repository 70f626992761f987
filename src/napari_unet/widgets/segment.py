"""The dock that segments the chosen image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QComboBox
from superqt import QLabeledDoubleSlider, QLabeledSlider
from superqt.utils import signals_blocked

from napari_unet.core.errors import UNetLiveError
from napari_unet.core.resampling import resampling_reason
from napari_unet.core.settings import ObjectSettings, SegmentSettings
from napari_unet.layers import ResultLayer
from napari_unet.widgets.advanced import Advanced
from napari_unet.widgets.axes import AxesField, axes_in_words, problem_with
from napari_unet.widgets.common import Step, segment
from napari_unet.widgets.parts import Fold, combo, give_reason, hint, primary
from napari_unet.widgets.where import WhereField
from napari_unet.works import Adjustment

if TYPE_CHECKING:
    from napari_unet.core.image import Image
    from napari_unet.core.model import Model

__all__ = ["SegmentWidget"]


class SegmentWidget(Step):
    """Choose an image, click Segment, and turn the knobs on the result."""

    def __init__(self, napari_viewer: Any, alone: bool = True) -> None:
        super().__init__(napari_viewer, alone)
        self._defaults = ObjectSettings()
        self.image = combo()
        self.axes = AxesField()
        self.axes_words = hint()
        self.what = QComboBox()
        self.what.addItem("single objects", "objects")
        self.what.addItem("classes", "classes")
        self.where = WhereField(self.stage)
        self.button = primary("Segment")
        self.reason = hint()
        self.how = hint()
        self.threshold = _slider(QLabeledDoubleSlider, 0.05, 0.95, 0.01)
        self.min_size = _slider(QLabeledSlider, 0, 500, 1)
        self.split = _slider(QLabeledDoubleSlider, 0.0, 1.0, 0.05)
        self.probabilities = QCheckBox("Show the map of probabilities")
        self.advanced = Advanced(self.session)
        self._build()
        self._connect()
        self._show_defaults()
        self._on_session_layers_changed()

    def _build(self) -> None:
        self.row("Image", self.image, tip="The layer to segment.")
        self.axes_name = self.row(
            "Axes", self.axes,
            tip="A letter for each axis: y, x, z for slices, t for time, c for channels.",
        )  # fmt: skip
        self.form.addWidget(self.axes_words)
        self.row("Find", self.what, tip="Objects with numbers of their own, or classes.")
        self.form.addWidget(self.where)
        self.form.addWidget(self.button)
        self.form.addWidget(self.reason)
        self.form.addWidget(self.how)
        self.row("Threshold", self.threshold, tip="Smallest probability that counts.")
        self.row("Smallest", self.min_size, tip="Objects with fewer px are dropped.")
        self.row("Split", self.split, tip="How readily touching objects are split.")
        self.form.addWidget(self.probabilities)
        self.form.addWidget(Fold("Advanced", self.advanced, is_open=False))

    def _connect(self) -> None:
        session, predictions = self.session, self.session.predictions
        self.image.activated.connect(self._on_image_activated)
        self.axes.edited.connect(self._on_axes_edited)
        self.what.activated.connect(self._on_knob_changed)
        self.button.clicked.connect(self.segment)
        for knob in (self.threshold, self.min_size, self.split):
            knob.valueChanged.connect(self._on_knob_changed)
        self.advanced.knob_changed.connect(self._on_knob_changed)
        self.probabilities.toggled.connect(self._show_probabilities)
        session.layers_changed.connect(self._on_session_layers_changed)
        session.image_changed.connect(self._on_session_layers_changed)
        session.model_changed.connect(self._show_defaults)
        session.rounds_changed.connect(self.advanced.fill_others)
        session.job_changed.connect(self._refresh)
        session.trial_changed.connect(self._refresh)
        predictions.segmented.connect(self._show_probabilities)
        predictions.mapped.connect(self._on_predictions_mapped)
        predictions.how_changed.connect(self._refresh)

    def settings(self) -> SegmentSettings:
        """What the form says."""
        return SegmentSettings(
            what=self.what.currentData(),
            threshold=round(float(self.threshold.value()), 3),
            min_size=int(self.min_size.value()),
            split=round(float(self.split.value()), 3),
            **self.advanced.chosen(),
        )

    def segment(self) -> None:
        """Start segmenting the chosen part of the chosen image with the current model."""
        if self._why_not():
            return
        try:
            segment(
                self.session, self.stage, self.settings(),
                areas=self.where.areas, others=self.advanced.chosen_others(),
            )  # fmt: skip
        except UNetLiveError as error:
            self.session.say("error", str(error))

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

    def _on_session_layers_changed(self) -> None:
        self.stage.choose_any()
        with signals_blocked(self.image):
            self.image.clear()
            for layer in self.stage.images():
                self.image.addItem(layer.name, layer)
            if self.stage.source is not None:
                self.image.setCurrentIndex(self.stage.images().index(self.stage.source))
        self.image.setToolTip(self.image.currentText() or "The layer to segment.")
        source = self.stage.source
        self.axes.setVisible(source is not None)
        self.axes_name.setVisible(source is not None)
        if source is not None:
            self.axes.show_axes(self.stage.axes, source.rgb)
        self.where.refresh()
        self._refresh()

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
        self.advanced.show_defaults(self._defaults)
        self.advanced.fill_others()
        self._refresh()

    def _refresh(self) -> None:
        reason = self._why_not()
        give_reason(self.button, reason, "Run the network on the image.")
        self.reason.setText(reason)
        self.reason.setVisible(bool(reason))
        no_objects = "" if self.what.currentData() == "objects" else "Only for single objects."
        give_reason(self.min_size, no_objects, "Objects with fewer px are dropped.")
        give_reason(self.split, no_objects, "How readily touching objects are split.")
        self.advanced.refresh(no_objects, self._why_no_link())
        sentence, plan = self.session.predictions.how
        self.how.setText(sentence)
        self.how.setToolTip(plan)
        self.how.setVisible(bool(sentence))
        give_reason(
            self.probabilities, self.session.predictions.why_no_map,
            "Add a layer that shows how sure the network is.",
        )  # fmt: skip
        self._show_axes_in_words()

    def _show_axes_in_words(self) -> None:
        try:
            image = self.stage.image()
        except UNetLiveError:
            image = None  # the line below the button says what is wrong
        words, model = "" if image is None else axes_in_words(image), self.session.model
        if image is not None and model is not None and model.description.pixel_size is not None:
            reason = self._resampling(image, model)
            self.axes_words.setToolTip(reason)
            words += f".<br>{reason}" if reason.startswith("Resampled") else ""
        self.axes_words.setText(words)
        self.axes_words.setVisible(image is not None)

    def _resampling(self, image: Image, model: Model) -> str:
        """Whether the image is brought to the pixel size of the model, in a sentence."""
        try:
            return resampling_reason(image, model.description.dims, model.description.pixel_size)
        except UNetLiveError:
            return ""  # a volume is wanted, which the line below the button says

    def _why_no_link(self) -> str:
        """Why objects cannot be linked through z; nothing if they can."""
        model = self.session.model
        if model is not None and model.description.dims == 3:
            return "A 3D model finds whole objects already."
        return "" if "z" in self.stage.axes else "This image has no z axis."

    def _on_image_activated(self) -> None:
        self.stage.choose(self.image.currentData())
        self.session.image_changed.emit()

    def _on_axes_edited(self, axes: str) -> None:
        source = self.stage.source
        problem = "" if source is None else problem_with(axes, source.ndim + source.rgb)
        if problem:
            self.session.say("error", problem)
        else:
            self.stage.choose(source, axes)
        self.session.image_changed.emit()

    def _on_knob_changed(self) -> None:
        self._refresh()
        predictions, shown = self.session.predictions, self.session.predictions.shown
        if shown is not None:
            assert isinstance(shown.target, ResultLayer)
            focus = seen = None
            if shown.target.source is self.stage.source:
                focus, seen = self.stage.focus(shown.image), self.stage.seen(shown.image)
            asked = Adjustment(settings=self.settings(), focus=focus, seen=seen)
            predictions.adjust(asked)

    def _show_probabilities(self) -> None:
        """Show the map, made anew if it is not that of the last segmentation; or hide it."""
        shown = self.session.predictions.shown
        if not self.probabilities.isChecked():
            self.stage.hide_probabilities()
        elif shown is not None and self.stage.shown_probabilities is not shown.outputs:
            self.session.predictions.make_map()

    def _on_predictions_mapped(self, prediction: Any, foreground: Any) -> None:
        if not self.probabilities.isChecked():
            return
        assert isinstance(prediction.target, ResultLayer)
        if self.stage.shown_probabilities is not prediction.outputs:
            self.stage.show_probabilities(foreground, prediction.target)
            self.stage.shown_probabilities = prediction.outputs


def _slider(kind: Any, low: float, high: float, step: float) -> Any:
    slider = kind(Qt.Orientation.Horizontal)
    slider.setRange(low, high)
    slider.setSingleStep(step)
    return slider
