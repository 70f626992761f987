"""Between napari's layers and arrays. Only this package reads or writes a layer."""

from __future__ import annotations

from napari_unet.layers.painting import CorrectionsLayer, color_of
from napari_unet.layers.reading import image_layers, image_of, label_layers
from napari_unet.layers.regions import Area
from napari_unet.layers.results import ResultLayer
from napari_unet.layers.stage import Stage, stage_of

__all__ = [
    "Area",
    "CorrectionsLayer",
    "ResultLayer",
    "Stage",
    "color_of",
    "image_layers",
    "image_of",
    "label_layers",
    "stage_of",
]
