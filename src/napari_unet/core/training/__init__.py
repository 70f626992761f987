"""Training a network from masks, from scratch or from a file, without napari and without Qt.

The names are loaded when they are first used: the settings need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_unet.core.training.entry import train
    from napari_unet.core.training.loop import training
    from napari_unet.core.training.measuring import SamplePrediction
    from napari_unet.core.training.progress import TrainProgress
    from napari_unet.core.training.settings import TrainSettings

__all__ = ["SamplePrediction", "TrainProgress", "TrainSettings", "train", "training"]

_HOMES = {
    "SamplePrediction": "measuring",
    "TrainProgress": "progress",
    "TrainSettings": "settings",
    "train": "entry",
    "training": "loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
