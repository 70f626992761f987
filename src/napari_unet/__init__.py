"""U-Net Live: open a U-Net, segment, paint corrections, and watch the network learn from them.

The public names are loaded when they are first used: importing this package brings in
neither Qt nor napari nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_unet.core.batch import BatchSettings, run_batch
    from napari_unet.core.errors import UNetLiveError
    from napari_unet.core.finetuning import fine_tune
    from napari_unet.core.image import make_image
    from napari_unet.core.live.session import LiveSession
    from napari_unet.core.live.settings import LiveSettings
    from napari_unet.core.model import Model, load_model, save_model
    from napari_unet.core.segmentation import Result, plan_for, segment
    from napari_unet.core.settings import FineTuneSettings, SegmentSettings
    from napari_unet.core.store import store_for
    from napari_unet.core.training.entry import train
    from napari_unet.core.training.settings import TrainSettings

__version__ = "0.1.0"

__all__ = [
    "BatchSettings",
    "FineTuneSettings",
    "LiveSession",
    "LiveSettings",
    "Model",
    "Result",
    "SegmentSettings",
    "TrainSettings",
    "UNetLiveError",
    "fine_tune",
    "load_model",
    "make_image",
    "plan_for",
    "run_batch",
    "save_model",
    "segment",
    "store_for",
    "train",
]

_HOMES = {
    "BatchSettings": "batch",
    "FineTuneSettings": "settings",
    "LiveSession": "live.session",
    "LiveSettings": "live.settings",
    "Model": "model",
    "Result": "segmentation",
    "SegmentSettings": "settings",
    "TrainSettings": "training.settings",
    "UNetLiveError": "errors",
    "fine_tune": "finetuning",
    "load_model": "model",
    "make_image": "image",
    "plan_for": "segmentation",
    "run_batch": "batch",
    "save_model": "model",
    "segment": "segmentation",
    "store_for": "store",
    "train": "training.entry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"napari_unet.core.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
