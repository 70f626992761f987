"""What learns from strokes in `annotation.py`, all with the same three methods."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from forest import Forest, features_of

import napari_unet as nu
from napari_unet.core.corrections import corrections_from_classes
from napari_unet.core.instances import objects_of

Answer = tuple[np.ndarray, np.ndarray]
"""Object ids `(y, x)` and class probabilities `(class, y, x)`."""

METHODS = ("live", "fine-tuning", "forest")


class Learner(Protocol):
    """Somebody who is corrected on one image, and asked about it and about others."""

    def learn(self, corrections: np.ndarray) -> None:
        """Learn from all strokes so far, `(y, x)`, as `nu.fine_tune` takes them."""

    def look(self) -> np.ndarray:
        """Class probabilities `(class, y, x)` of the corrected image."""

    def answer(self, image: np.ndarray) -> Answer:
        """What it makes of another image."""

    @property
    def model(self) -> nu.Model | None:
        """The network as it is now, if it is one."""


def axes_of(image: np.ndarray) -> str:
    """The axes of an image."""
    return "yx" if image.ndim == 2 else "yxc"


def answered(model: nu.Model, image: np.ndarray) -> Answer:
    """What a network makes of an image, with the default settings."""
    result = nu.segment(image, model, axes=axes_of(image))
    return np.asarray(result.labels), result.probabilities


class Live:
    """Our live mode, by its own Python interface: one session from the first stroke to the last."""

    def __init__(
        self, model: nu.Model, image: np.ndarray, seed: int, steps: int, **options: object
    ) -> None:
        self._session = nu.LiveSession(model, nu.LiveSettings(seed=seed, **options))
        self._key = self._session.add_image(image, axes_of(image))
        self._image, self._steps = image, steps

    def learn(self, corrections: np.ndarray) -> None:
        """Join the strokes to the running training, which goes on for so many steps at most."""
        self._session.paint(self._key, corrections)
        self._session.learn(steps=self._steps)

    def look(self) -> np.ndarray:
        """What the newest weights say."""
        return np.asarray(self._session.look(self._key).probabilities)

    def answer(self, image: np.ndarray) -> Answer:
        """As a user who keeps the model now would get it."""
        return answered(self.model, image)

    @property
    def model(self) -> nu.Model:
        """The state that would be kept now."""
        return self._session.model


class FineTuning:
    """All weights, round after round, each from the model of the round before."""

    def __init__(
        self, model: nu.Model, image: np.ndarray, seed: int, steps: int, memory: float = 0.0
    ) -> None:
        self.model, self._image = model, image
        self._settings = nu.FineTuneSettings(steps=steps, memory=memory, seed=seed)

    def learn(self, corrections: np.ndarray) -> None:
        """Train so many steps on all strokes."""
        pair = (self._image, corrections)
        self.model = nu.fine_tune(self.model, [pair], self._settings, axes=axes_of(self._image))

    def look(self) -> np.ndarray:
        """What the model of this round says."""
        return answered(self.model, self._image)[1]

    def answer(self, image: np.ndarray) -> Answer:
        """By the model of this round."""
        return answered(self.model, image)


class Trees:
    """A random forest; its objects are found as ours are, with the same settings."""

    model = None

    def __init__(self, model: nu.Model, image: np.ndarray, seed: int, n_jobs: int = 1) -> None:
        self._forest = Forest(len(model.description.class_names), seed, n_jobs)
        self._settings, self._features = model.description.objects, features_of(image)

    def learn(self, corrections: np.ndarray) -> None:
        """Train a new forest on all strokes."""
        self._forest.learn(self._features, corrections)

    def look(self) -> np.ndarray:
        """What the forest says; all background before the first stroke."""
        return self._forest.probabilities(self._features)

    def answer(self, image: np.ndarray) -> Answer:
        """Objects are cut at their waists."""
        found = self._forest.probabilities(features_of(image))
        return objects_of(found, tuple(range(len(found))), self._settings), found


def learner(
    method: str, model: nu.Model, image: np.ndarray, seed: int, steps: int, n_jobs: int = 1
) -> Learner:
    """The learner with this name: "live", "live, memory 0", "fine-tuning", "forest"."""
    name, _, memory = method.partition(", memory ")
    options = {"memory": float(memory)} if memory else {}
    if name == "live":
        return Live(model, image, seed, steps, **options)
    if name == "fine-tuning":
        return FineTuning(model, image, seed, steps, **options)
    if name == "forest":
        return Trees(model, image, seed, n_jobs)
    raise SystemExit(f"There is no method {method!r}; choose among {', '.join(METHODS)}.")


def ceiling(
    model: nu.Model,
    pairs: list[tuple[np.ndarray, np.ndarray]],
    is_mask: bool,
    seed: int,
    steps: int,
) -> nu.Model:
    """The same network, trained on every pixel of all masks."""
    if is_mask:  # nothing to keep apart: all pixels are painted
        painted = [(image, corrections_from_classes(truth)) for image, truth in pairs]
        settings = nu.FineTuneSettings(steps=steps, memory=0.0, seed=seed)
        return nu.fine_tune(model, painted, settings)
    options = nu.TrainSettings(split="rim", steps=steps, held_out=0.0, seed=seed)
    return nu.train(pairs, options, axes=axes_of(pairs[0][0]), start=model)
