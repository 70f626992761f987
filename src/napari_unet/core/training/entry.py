"""Training from masks in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_unet.core.datasets import of_arrays
from napari_unet.core.model import Model, load_model
from napari_unet.core.progress import finish
from napari_unet.core.training.loop import training
from napari_unet.core.training.progress import TrainProgress
from napari_unet.core.training.settings import TrainSettings
from napari_unet.core.training.stopping import finish_or_stop

__all__ = ["train"]


def train(
    images: Iterable[tuple[Any, npt.NDArray[np.integer]]],
    settings: TrainSettings | None = None,
    *,
    axes: str | None = None,
    start: Model | str | Path | None = None,
    folder: str | Path | None = None,
    device: str = "auto",
    report: Callable[[TrainProgress], object] | None = None,
    class_names: Sequence[str] | None = None,
    imagenet: str | Path | None = None,
) -> Model:
    """Train a network on images and their masks, from scratch or from a model.

    Parameters
    ----------
    images : pairs of an image (array or `Image`) and its masks: whole numbers in the axes of the
        image without channels. 0 is the background; the rest are numbers of objects, or of
        classes (`TrainSettings.what`).
    settings : None for the defaults: a padded U-Net for objects.
    axes : a letter for each dimension of the images: "yx", "cyx", "yxc", "zyx", ...; None to
        guess.
    start : a model to go on from, or what `load_model` takes; None for a new network.
    folder : where the run is kept while it trains, with its log. Called again with the same
        folder, settings and images it goes on where it was, after whatever happened: Ctrl+C, or
        the stop button of a notebook, ends it after the step that is being done. None to keep
        nothing; then Ctrl+C ends it at once.
    device : "auto", "cpu", "cuda", "cuda:N" or "mps".
    report : called with each `TrainProgress`.
    class_names : of all classes in the masks, or of all but the background.
    imagenet : a file with the weights of the network's encoder, trained on ImageNet, that you
        have; for networks with such an encoder (VGG, ResNet, MobileNet). None for random weights.

    Returns
    -------
    Model
        For `segment`, `save_model`, `fine_tune`. Its `description.scores["held out"]` are the
        scores on images that were not trained on.

    Raises
    ------
    TrainingError, SettingsError, ImageError
        With a sentence that says what to do.
    KeyboardInterrupt
        After Ctrl+C; with a folder, its state is kept.
    """
    settings = settings or TrainSettings()
    given = [(one, np.asarray(masks)) for one, masks in images]
    loaded = load_model(start, device) if start is not None else None
    work = training(
        of_arrays(given, axes).pairs, settings, start=loaded, folder=folder, device=device,
        class_names=class_names, imagenet=imagenet,
    )  # fmt: skip
    if folder is None:
        return finish(work, report)
    return finish_or_stop(work, report, is_kept=True)
