"""Where to segment: everywhere, what is in view, one slice, or inside drawn shapes."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QStandardItemModel
from qtpy.QtWidgets import QComboBox, QVBoxLayout, QWidget
from superqt.utils import signals_blocked

from napari_unet.core.image import Image
from napari_unet.layers import Area, Stage
from napari_unet.widgets.parts import row

__all__ = ["WhereField"]

CHOICES = (
    ("the whole image", "everywhere"),
    ("only what I see", "view"),
    ("this slice", "slice"),
    ("inside the shapes", "shapes"),
)


class WhereField(QWidget):
    """The choice of the part to work on, with the layer of shapes if there are several."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage
        self.choice = QComboBox()
        for text, where in CHOICES:
            self.choice.addItem(text, where)
        self.shapes = QComboBox()
        for combo in (self.choice, self.shapes):
            combo.setSizeAdjustPolicy(
                QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
            )
        form = QVBoxLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setSpacing(6)
        tip = "The part to work on; results elsewhere stay as they are."
        row(form, "Where", self.choice, tip=tip)
        tip = "The layer whose shapes are meant."
        self.shapes_name = row(form, "Shapes", self.shapes, tip=tip)
        self.choice.currentIndexChanged.connect(self._show_shapes)
        self.refresh()

    def areas(self, image: Image) -> tuple[Area, ...]:
        """The chosen parts of an image; raises `ImageError` if nothing is in them."""
        return self._stage.areas(image, self.choice.currentData(), self.shapes.currentData())

    def refresh(self) -> None:
        """Offer what there is now; a choice that is there no more becomes the whole image."""
        layers = self._stage.shapes()
        chosen = self.shapes.currentData()
        with signals_blocked(self.shapes):
            self.shapes.clear()
            for layer in layers:
                self.shapes.addItem(layer.name, layer)
            self.shapes.setCurrentIndex(layers.index(chosen) if chosen in layers else 0)
        no_slices = "" if self._stage.n_slices > 1 else "This image has only one slice."
        no_shapes = "" if layers else "There is no layer of shapes. Add one and draw in it."
        self._offer("slice", no_slices)
        self._offer("shapes", no_shapes)
        self._show_shapes()

    def _offer(self, where: str, reason: str) -> None:
        """Let a choice be taken unless there is a reason against it, which its tooltip gives."""
        at = self.choice.findData(where)
        model = self.choice.model()
        assert isinstance(model, QStandardItemModel)
        item: Any = model.item(at)
        item.setEnabled(not reason)
        self.choice.setItemData(at, reason, Qt.ItemDataRole.ToolTipRole)
        if reason and self.choice.currentIndex() == at:
            self.choice.setCurrentIndex(0)

    def _show_shapes(self) -> None:
        is_a_choice = self.shapes.count() > 1 and self.choice.currentData() == "shapes"
        self.shapes.setVisible(is_a_choice)
        self.shapes_name.setVisible(is_a_choice)
