"""How good a network is on images that it is not trained on, while it is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from napari_unet.core.corrections import IGNORE
from napari_unet.core.engine.fitting import Fit
from napari_unet.core.instances import classes_of, objects_of
from napari_unet.core.metrics import ClassScores, ObjectScores, class_scores, object_scores
from napari_unet.core.model import Description
from napari_unet.core.normalization import match_channels, normalise
from napari_unet.core.outcomes import probabilities_of
from napari_unet.core.scoring import whole_picture_logits
from napari_unet.core.training.optimizing import arithmetic
from napari_unet.core.training.pictures import Picture, middle_of
from napari_unet.core.training.settings import TrainSettings

__all__ = ["Measurement", "Measurer", "SamplePrediction"]

MAX_PICTURES = 24
MAX_SIZE = {2: (1024, 1024), 3: (64, 192, 192)}
LEAST_SIZE = {2: (128, 128), 3: (16, 64, 64)}
"""What is measured of a picture, at most and at least, in px."""
LEAST_PICTURES = 8
SHARE = 0.25
"""For a px that is trained on, with its way back, this part of a px is measured."""
SAMPLE_SIZE = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SamplePrediction:
    """A part of a held-out picture, and what the network says of it.

    Attributes
    ----------
    key : of the image.
    image : raw `(c, y, x)`; of a volume its middle slice.
    truth, predicted : objects or classes `(y, x)`.
    """

    key: str
    image: npt.NDArray[np.generic]
    truth: npt.NDArray[np.integer]
    predicted: npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measurement:
    """What was found on the held-out pictures.

    Attributes
    ----------
    scores : by name, 0 to 1: "iou", the mean over the classes; for objects "f1" too.
    sample : the first of the pictures; None if there is none.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    sample: SamplePrediction | None = None


class Measurer:
    """Measures one network after another on the same parts of pictures.

    Which parts follows from the pictures and the settings alone, so that a run that is gone on
    with measures what it measured before.

    Parameters
    ----------
    pictures : held out.
    settings : with nothing left open.
    about : the model in the making.
    fit : which sizes its network takes.
    n_trained : px that are trained on between two measurements.
    device : of the networks.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        settings: TrainSettings,
        about: Description,
        fit: Fit,
        n_trained: int,
        device: torch.device,
    ) -> None:
        self._settings, self._about, self._fit, self._device = settings, about, fit, device
        chosen, size = _affordable(pictures, settings.dims, int(SHARE * n_trained))
        self._pictures = [(picture, middle_of(picture.shape, size)) for picture in chosen]

    @property
    def score_name(self) -> str:
        """The name of the score that decides: "f1" for objects, else "iou"."""
        return "f1" if self._settings.what == "objects" else "iou"

    @property
    def n_pictures(self) -> int:
        """How many pictures are measured."""
        return len(self._pictures)

    def measure(self, network: nn.Module) -> Measurement:
        """Scores of a network in evaluation mode; none if there is nothing to measure."""
        if not self._pictures:
            return Measurement()
        n_classes = len(self._about.class_names)
        classes = ClassScores(confusion=np.zeros((n_classes, n_classes), np.int64))
        objects = ObjectScores(n_true_positive=0, n_false_positive=0, n_false_negative=0)
        sample = None
        for picture, part in self._pictures:
            raw, truth = picture.image[:, *part], picture.labels[part]
            unknown = (picture.target[part] == IGNORE) | (truth < 0)
            outputs = self._outputs(network, normalise(raw, picture.scale))
            classes += self._classes(outputs, truth, unknown)
            predicted, truth = self._labels(outputs, truth, unknown)
            if self._settings.what == "objects":
                objects += object_scores(predicted, truth)
            if sample is None:
                sample = _sample(picture.key, raw, truth, predicted)
        scores = {"iou": _mean_iou(classes)}
        if self._settings.what == "objects":
            scores["f1"] = round(objects.f1, 4)
        return Measurement(scores=scores, sample=sample)

    @torch.inference_mode()
    def _outputs(
        self, network: nn.Module, image: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Probabilities `(output, [z,] y, x)` of `(c, [z,] y, x)`, mirrored to fit."""
        shown = torch.from_numpy(match_channels(image, self._about.in_channels)).to(self._device)
        with arithmetic(self._device, self._settings):
            logits = whole_picture_logits(network, shown, self._fit)
        return probabilities_of(logits, self._about.outcome)[0].cpu().numpy()

    def _classes(
        self,
        outputs: npt.NDArray[np.float32],
        truth: npt.NDArray[np.integer],
        unknown: npt.NDArray[np.bool_],
    ) -> ClassScores:
        """How many px of each class were found to be of each class."""
        found = classes_of(outputs, self._about.output_class)
        classes = np.minimum(truth, 1) if self._settings.what == "objects" else truth
        n = len(self._about.class_names)
        return class_scores(found[~unknown], classes[~unknown], n, ignore=None)

    def _labels(
        self,
        outputs: npt.NDArray[np.float32],
        truth: npt.NDArray[np.integer],
        unknown: npt.NDArray[np.bool_],
    ) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]:
        """What was found and the truth, as objects or classes; 0 where nothing is known."""
        about = self._about
        if self._settings.what == "objects":
            found = objects_of(outputs, about.output_class, about.objects, about.separator)
        else:
            found = classes_of(outputs, about.output_class).astype(np.int32)
        return np.where(unknown, 0, found), np.where(unknown, 0, truth)


def _affordable(
    pictures: Sequence[Picture], dims: int, n_px: int
) -> tuple[list[Picture], tuple[int, ...]]:
    """Some of the pictures, evenly spread, and the size that is looked at of each."""
    if not pictures:
        return [], ()
    n = min(len(pictures), MAX_PICTURES)
    most, least = math.prod(MAX_SIZE[dims]), math.prod(LEAST_SIZE[dims])
    n_px = max(n_px, min(n, LEAST_PICTURES) * least)
    typical = float(np.median([math.prod(picture.shape) for picture in pictures]))
    each = max(min(most, typical), 1.0)
    while n > 1 and n * each > n_px:  # fewer pictures and smaller parts of them, by turns
        n, each = max(1, n * 2 // 3), max(each * 2 / 3, min(least, each))
        if n * each > n_px and each <= least:
            n = max(1, n_px // max(1, int(each)))
    factor = min(1.0, (max(each, least) / most) ** (1 / dims))
    size = tuple(
        max(low, round(high * factor))
        for low, high in zip(LEAST_SIZE[dims], MAX_SIZE[dims], strict=True)
    )
    return [pictures[i * len(pictures) // n] for i in range(n)], size


def _mean_iou(scores: ClassScores) -> float:
    """Mean over the classes that are in the truth."""
    ious = scores.iou[scores.confusion.sum(axis=1) > 0]
    return round(float(ious.mean()), 4) if ious.size else 0.0


def _sample(
    key: str,
    raw: npt.NDArray[np.generic],
    truth: npt.NDArray[np.integer],
    predicted: npt.NDArray[np.integer],
) -> SamplePrediction:
    middle = () if truth.ndim == 2 else (truth.shape[0] // 2,)
    part = middle_of(truth.shape[-2:], (SAMPLE_SIZE, SAMPLE_SIZE))
    return SamplePrediction(
        key=key,
        image=raw[(slice(None), *middle, *part)].copy(),
        truth=truth[(*middle, *part)].copy(),
        predicted=predicted[(*middle, *part)].copy(),
    )
