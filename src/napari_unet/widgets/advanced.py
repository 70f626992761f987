"""The settings of a segmentation that most people leave as they are."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QDoubleSpinBox,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import signals_blocked

from napari_unet.core.settings import ObjectSettings
from napari_unet.preferences import preference, recent_models
from napari_unet.session import Session
from napari_unet.widgets.parts import combo, give_reason, hint, row

__all__ = ["Advanced"]

AUGMENTATIONS = (
    ("as it is", "none"),
    ("also mirrored", "flips"),
    ("also mirrored and turned", "rotations"),
)
N_SHOWN = 4
"""So many models are shown at once."""
PRECISIONS = (("automatic", "auto"), ("full (32 bits)", "full"))


class Advanced(QWidget):
    """How exactly the network is run, and how objects are made of what it says.

    Attributes
    ----------
    knob_changed : emitted when something changed that acts on the kept probabilities.
    """

    knob_changed = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.smoothing = QDoubleSpinBox()
        self.smoothing.setRange(0, 20)
        self.smoothing.setSingleStep(0.5)
        self.smoothing.setSuffix(" px")
        self.smoothing.setSpecialValueText("none")
        self.fill_holes = QCheckBox("Fill holes in objects")
        self.link = QCheckBox("Link objects through z")
        self.augmentation = combo(*AUGMENTATIONS)
        self.precision = combo(*PRECISIONS)
        self.precision.setCurrentIndex(
            max(0, self.precision.findData(preference("general", "precision", "auto")))
        )
        self.tile_size = QSpinBox()
        self.tile_size.setRange(0, 4096)
        self.tile_size.setSingleStep(64)
        self.tile_size.setSuffix(" px")
        self.tile_size.setSpecialValueText("automatic")
        self.tile_size.setValue(int(preference("general", "tile_size", 0)))
        self.others = QListWidget()
        self.others.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.others.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.no_others = hint("None yet: rounds of training and opened models will be listed here.")
        self._build()
        self.smoothing.valueChanged.connect(self.knob_changed)
        self.fill_holes.toggled.connect(self.knob_changed)
        self.link.toggled.connect(self.knob_changed)

    def _build(self) -> None:
        form = QVBoxLayout(self)
        form.setContentsMargins(0, 4, 0, 4)
        form.setSpacing(6)
        row(form, "Smoothing", self.smoothing, tip="Blur of the probabilities before all else.")
        form.addWidget(self.fill_holes)
        form.addWidget(self.link)
        row(
            form, "Views", self.augmentation,
            tip="The mean of what the network says of the image and of its mirrored (and turned) "
            "images. Takes 4 (8) times as long, and 8 (16) times in 3D.",
        )  # fmt: skip
        row(
            form, "Precision", self.precision,
            tip="Automatic: 16 bits where that is faster and a test shows the same labels.",
        )  # fmt: skip
        row(
            form, "Tile size", self.tile_size,
            tip="Edge of the part that is computed at once, in px.",
        )  # fmt: skip
        form.addWidget(QLabel("Average with these models:"))
        form.addWidget(self.others)
        form.addWidget(self.no_others)
        self.others.setToolTip("The mean of the answers of all models is taken.")

    def chosen(self) -> dict[str, Any]:
        """What the form says, as fields of `SegmentSettings`."""
        return {
            "smoothing": round(float(self.smoothing.value()), 2),
            "fill_holes": self.fill_holes.isChecked(),
            "link": self.link.isChecked() and self.link.isEnabled(),
            "augmentation": self.augmentation.currentData(),
            "precision": self.precision.currentData(),
            "tile_size": max(16, self.tile_size.value()) if self.tile_size.value() else None,
        }

    def chosen_others(self) -> tuple[str, ...]:
        """Files of the models to average with, or names of built-in ones."""
        items = [self.others.item(i) for i in range(self.others.count())]
        return tuple(
            str(item.data(Qt.ItemDataRole.UserRole))
            for item in items
            if item is not None and item.checkState() == Qt.CheckState.Checked
        )

    def show_defaults(self, defaults: ObjectSettings) -> None:
        """Show what a model says of its objects."""
        with (
            signals_blocked(self.smoothing),
            signals_blocked(self.fill_holes),
            signals_blocked(self.link),
        ):
            self.smoothing.setValue(defaults.smoothing)
            self.fill_holes.setChecked(defaults.fill_holes)
            self.link.setChecked(defaults.link)

    def refresh(self, why_no_objects: str, why_no_link: str) -> None:
        """Enable what can be chosen; what cannot says why.

        Parameters
        ----------
        why_no_objects, why_no_link : why nothing of single objects, or of links through z,
            can be chosen; nothing if it can.
        """
        give_reason(self.fill_holes, why_no_objects, "Holes inside an object belong to it.")
        give_reason(
            self.link, why_no_objects or why_no_link,
            "What overlaps in neighbouring slices is one object.",
        )  # fmt: skip

    def fill_others(self) -> None:
        """Offer the models of the project and those opened before, but for the current one."""
        checked = set(self.chosen_others())
        self.others.clear()
        for name, source in self._candidates():
            item = QListWidgetItem(name)
            item.setData(Qt.ItemDataRole.UserRole, source)
            item.setToolTip(source)
            state = Qt.CheckState.Checked if source in checked else Qt.CheckState.Unchecked
            item.setCheckState(state)
            self.others.addItem(item)
        n_shown = min(N_SHOWN, self.others.count())
        self.others.setFixedHeight(n_shown * max(0, self.others.sizeHintForRow(0)) + 6)
        self.others.setVisible(self.others.count() > 0)
        self.no_others.setVisible(self.others.count() == 0)

    def _candidates(self) -> list[tuple[str, str]]:
        rounds = enumerate(self._session.rounds, start=1)
        known = [("nuclei (built in)", "nuclei")]
        known += [(f"round {i} of this project", str(kept.path)) for i, kept in rounds]
        rounds_too = {source for _, source in known}
        known += [(p.name, str(p)) for p in recent_models() if str(p) not in rounds_too]
        return [(name, source) for name, source in known if source != self._session.source]
