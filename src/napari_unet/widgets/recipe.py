"""How a network is trained from masks: what most people leave as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)
from superqt import QElidingLabel

from napari_unet.core.training.settings import LOSSES, TrainSettings
from napari_unet.widgets.augmentation import AugmentationForm
from napari_unet.widgets.parts import Fold, row

__all__ = ["Recipe"]

SPLITS = (
    ("by a line of background", "gap"),
    ("by rims of their own", "rim"),
    ("not at all", "none"),
)
AS_PAPER = "as in its paper"
FILES = "Weights (*.pth *.pt *.bin *.safetensors);;All files (*)"


class Recipe(QWidget):
    """The width of the network, the loss, the augmentation and so on."""

    def __init__(self) -> None:
        super().__init__()
        defaults = TrainSettings()
        self.dims = QComboBox()
        self.channels = _whole(0, 1024, 0, " channels")
        self.channels.setSpecialValueText(AS_PAPER)
        self.split = QComboBox()
        for words, name in SPLITS:
            self.split.addItem(words, name)
        self.loss = QComboBox()
        self.loss.addItem(AS_PAPER, None)
        for name in LOSSES:
            self.loss.addItem(name, name)
        self.separation = _real(-1, 100, -1)
        self.separation.setSpecialValueText(AS_PAPER)
        self.patch = _whole(0, 4096, 0, " px")
        self.patch.setSpecialValueText(AS_PAPER)
        self.augmentation = AugmentationForm(defaults.augmentation, has_dropout=True)
        self.rate = _real(0, 1, 0, decimals=5)
        self.rate.setSpecialValueText(AS_PAPER)
        self.held_out = _whole(0, 50, round(100 * defaults.held_out), " %")
        self.imagenet: Path | None = None
        self.imagenet_words = QElidingLabel("random ones")
        self.imagenet_words.setElideMode(Qt.TextElideMode.ElideLeft)
        self.imagenet_button = QPushButton("File…")
        self.imagenet_button.clicked.connect(self._on_imagenet_clicked)
        self.seed = _whole(0, 2**31 - 1, defaults.seed)
        self._build()

    def _build(self) -> None:
        form = QVBoxLayout(self)
        form.setContentsMargins(0, 4, 0, 0)
        form.setSpacing(6)
        row(form, "Works on", self.dims, tip="Slices by themselves, or whole volumes.")
        row(form, "Width", self.channels, tip="Channels of its first level. Fewer train faster.")
        row(form, "Kept apart", self.split, tip="How it learns to keep touching objects apart.")
        row(form, "Loss", self.loss, tip="What it tries to make small.")
        tip = "How much more the background between touching objects counts (w0 of the paper)."
        row(form, "Separation", self.separation, tip=tip)
        row(form, "Patch", self.patch, tip="Edge of the parts of images that it learns from.")
        row(form, "Rate", self.rate, tip="Learning rate at its highest.")
        tip = "Share of the images that it is scored on and never learns from."
        row(form, "Held out", self.held_out, tip=tip)
        row(form, "Seed", self.seed, tip="Of all that is random: the same gives the same network.")
        tip = "A file of ImageNet weights for its encoder, as torchvision or timm save them."
        self.imagenet_name = row(
            form, "Weights", self.imagenet_words, self.imagenet_button, tip=tip
        )
        form.addWidget(Fold("Augmentation", self.augmentation, is_open=False))

    def offer_dims(self, dims: tuple[int, ...]) -> None:
        """Offer slices or volumes, as far as the chosen network can be built for them."""
        chosen = self.dims.currentData()
        self.dims.clear()
        for n in dims:
            self.dims.addItem("2D slices" if n == 2 else "3D volumes", n)
        self.dims.setCurrentIndex(dims.index(chosen) if chosen in dims else 0)

    def offer_imagenet(self, takes_it: bool) -> None:
        """Offer to begin with weights from ImageNet, for networks with such an encoder."""
        if not takes_it:
            self._set_imagenet(None)
        for part in (self.imagenet_name, self.imagenet_words, self.imagenet_button):
            part.setVisible(takes_it)

    def _on_imagenet_clicked(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, "Open weights of ImageNet", "", FILES)
        self._set_imagenet(Path(chosen) if chosen else None)

    def _set_imagenet(self, path: Path | None) -> None:
        self.imagenet = path
        self.imagenet_words.setText("random ones" if path is None else str(path))

    def settings(self, **chosen: Any) -> TrainSettings:
        """What the form says, with the settings that other forms say."""
        separation = float(self.separation.value())
        return TrainSettings(
            dims=self.dims.currentData() or 2,
            width=self.channels.value() or None,
            split=self.split.currentData(),
            loss=self.loss.currentData(),
            separation=None if separation < 0 else separation,
            patch_size=self.patch.value() or None,
            learning_rate=float(self.rate.value()) or None,
            held_out=self.held_out.value() / 100,
            seed=self.seed.value(),
            augmentation=self.augmentation.settings(),
            **chosen,
        )


def _whole(low: int, high: int, value: int, unit: str = "") -> QSpinBox:
    box = QSpinBox()
    box.setRange(low, high)
    box.setValue(value)
    box.setSuffix(unit)
    return box


def _real(low: float, high: float, value: float, decimals: int = 1) -> QDoubleSpinBox:
    box = QDoubleSpinBox()
    box.setDecimals(decimals)
    box.setRange(low, high)
    box.setValue(value)
    return box
