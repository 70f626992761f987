"""How good a network is on images that it is not trained on, while it is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from napari_unet.core.corrections import IGNORE
from napari_unet.core.engine.fitting import Fit
from napari_unet.core.engine.source import continued
from napari_unet.core.instances import classes_of, objects_of
from napari_unet.core.metrics import ObjectScores, object_scores
from napari_unet.core.model import Description
from napari_unet.core.normalization import match_channels, normalise
from napari_unet.core.outcomes import probabilities_of
from napari_unet.core.scoring import memory_format
from napari_unet.core.training.optimizing import arithmetic
from napari_unet.core.training.pictures import Picture
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
        self._pictures = [(picture, _middle(picture.shape, size)) for picture in chosen]

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
        table = np.zeros((n_classes, n_classes), np.int64)  # truth, found
        objects = ObjectScores(n_true_positive=0, n_false_positive=0, n_false_negative=0)
        sample = None
        for picture, part in self._pictures:
            raw, truth = picture.image[:, *part], picture.labels[part]
            unknown = (picture.target[part] == IGNORE) | (truth < 0)
            outputs = self._outputs(network, normalise(raw, picture.scale))
            table += self._table(outputs, truth, unknown)
            predicted, truth = self._labels(outputs, truth, unknown)
            if self._settings.what == "objects":
                objects += object_scores(predicted, truth)
            if sample is None:
                sample = _sample(picture.key, raw, truth, predicted)
        scores = {"iou": _mean_iou(table)}
        if self._settings.what == "objects":
            scores["f1"] = round(objects.f1, 4)
        return Measurement(scores=scores, sample=sample)

    def _outputs(
        self, network: nn.Module, image: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Probabilities `(output, [z,] y, x)` of `(c, [z,] y, x)`, mirrored to fit."""
        shown = torch.from_numpy(match_channels(image, self._about.in_channels)).to(self._device)
        return _forward(network, shown, self._fit, self._about, self._settings).cpu().numpy()

    def _table(
        self,
        outputs: npt.NDArray[np.float32],
        truth: npt.NDArray[np.integer],
        unknown: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.int64]:
        """How many px of each class were found to be of each class."""
        found = classes_of(outputs, self._about.output_class)
        classes = np.minimum(truth, 1) if self._settings.what == "objects" else truth
        n = len(self._about.class_names)
        both = classes[~unknown].astype(np.int64) * n + found[~unknown]
        return np.bincount(both, minlength=n * n).reshape(n, n)  # (class, class)

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


@torch.inference_mode()
def _forward(
    network: nn.Module, image: Tensor, fit: Fit, about: Description, settings: TrainSettings
) -> Tensor:
    shape = tuple(image.shape[1:])
    each = zip(fit.before, fit.size_for(shape), strict=True)
    image = continued(image, tuple((-before, size - before) for before, size in each))
    with arithmetic(image.device, settings):
        logits = network(image[None].contiguous(memory_format=memory_format(len(shape))))
    whole = (slice(None), *(slice(n) for n in shape))  # without what was added to fit
    return probabilities_of(logits, about.outcome)[0][whole]


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


def _middle(shape: tuple[int, ...], size: tuple[int, ...]) -> tuple[slice, ...]:
    """The part of that size in the middle."""
    starts = [max(0, (have - want) // 2) for have, want in zip(shape, size, strict=True)]
    return tuple(slice(start, start + want) for start, want in zip(starts, size, strict=True))


def _mean_iou(table: npt.NDArray[np.int64]) -> float:
    """Mean over the classes that are in the truth, from counts `(truth, found)`."""
    here = table.sum(axis=1) > 0
    union = table.sum(axis=1) + table.sum(axis=0) - np.diag(table)
    ious = np.diag(table)[here] / union[here]
    return round(float(ious.mean()), 4) if ious.size else 0.0


def _sample(
    key: str,
    raw: npt.NDArray[np.generic],
    truth: npt.NDArray[np.integer],
    predicted: npt.NDArray[np.integer],
) -> SamplePrediction:
    middle = () if truth.ndim == 2 else (truth.shape[0] // 2,)
    part = _middle(truth.shape[-2:], (SAMPLE_SIZE, SAMPLE_SIZE))
    return SamplePrediction(
        key=key,
        image=raw[(slice(None), *middle, *part)].copy(),
        truth=truth[(*middle, *part)].copy(),
        predicted=predicted[(*middle, *part)].copy(),
    )
