"""What can be chosen for training from masks, each default in one place. No torch.

None means: as the paper of the network says (`Preset.recipe`), else the default in `DEFAULTS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

from napari_unet.core.errors import SettingsError
from napari_unet.core.settings import AugmentationSettings

__all__ = [
    "DEFAULTS",
    "LOSSES",
    "OF_OPTIMIZER",
    "LossName",
    "OptimizerName",
    "ScheduleName",
    "TrainSettings",
]

LossName = Literal["cross-entropy", "dice", "dice+cross-entropy", "focal", "tversky"]
LOSSES: tuple[LossName, ...] = get_args(LossName)
OptimizerName = Literal["adamw", "adam", "sgd"]
ScheduleName = Literal["constant", "cosine", "poly"]

DEFAULTS: Mapping[str, Any] = {
    "outputs": "softmax",
    "loss": "dice+cross-entropy",
    "optimizer": "adamw",
    "momentum": 0.9,
    "schedule": "cosine",
    "patch_size": 256,
    "batch_size": 4,
    "separation": 0.0,
    "clip": 1.0,
    "average": 0.99,
    "normalization": "percentile",
}
"""What counts where neither the user nor the recipe of the network says anything."""

OF_OPTIMIZER: Mapping[str, Mapping[str, Any]] = {
    "adamw": {"learning_rate": 1e-3, "weight_decay": 1e-2},
    "adam": {"learning_rate": 1e-3, "weight_decay": 0.0},
    "sgd": {"learning_rate": 1e-2, "weight_decay": 1e-4},
}
"""What depends on the optimizer."""

WITH_OPTIMIZER = ("learning_rate", "momentum", "weight_decay", "schedule")
"""What a recipe says of its own optimizer, and of no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How to train a network on masks.

    Attributes
    ----------
    network : a name from `napari-unet networks`.
    width : channels of its first level; None for as many as in the paper.
    dims : 2 or 3.
    what : "objects" (masks number the objects) or "classes" (masks hold the classes, 0 for the
        background).
    split : how touching objects are kept apart: "gap" (a line of background between them, as in
        Ronneberger et al. 2015), "rim" (the rim of an object is an output of its own), "none".
    outputs : "softmax" (the outputs compete) or "sigmoid" (one output for each class but the
        background, each by itself; with one class, cross-entropy is the binary one).
    steps : training steps at most.
    minutes : time at most; None for no limit.
    patience : training ends when the score has not risen for this many measurements; 0 for never.
    measure_every : steps between two measurements; 0 for a twentieth of `steps`.
    loss, gamma, alpha, beta : the loss; the exponent of "focal" (Lin et al. 2017); the weights of
        false positives and false negatives of "tversky" (Salehi et al. 2017).
    class_weights : how much the pixels of each output's class count: "equal", or "balanced" for
        classes that are rare to count as much as others.
    separation, separation_sigma : w_0 and sigma (px) of the separation map; 0 switches it off.
    optimizer, learning_rate, momentum, weight_decay, schedule : how weights are changed.
    clip : largest norm of the gradient; 0 for no limit.
    patch_size, batch_size : edge of a training patch (of its output, if convolutions are not
        padded) in px, and patches in a step.
    average : decay of the running mean of the weights that is kept in the end, at most; 0 for none.
    normalization : how intensities become input: "percentile" (the 1st to 0, the 99.8th to 1),
        "zscore" (mean 0, standard deviation 1, which networks without batch normalisation learn
        faster from), "minmax", or "range" (that of the integer type to 0 ... 1).
    network_dropout : share that is dropped, wherever the network drops something; None for what it
        says itself.
    precision : "auto" for 16-bit arithmetic where the device gains from it, or "full".
    augmentation : how patches are varied.
    held_out : share of the images that is scored on and never trained on.
    n_folds, fold : instead of `held_out`: the images are split in so many parts, of which this one
        (from 0) is held out; 0 for none.
    seed : of all that is random.
    """

    network: str = "unet"
    width: int | None = None
    dims: Literal[2, 3] = 2
    what: Literal["objects", "classes"] = "objects"
    split: Literal["gap", "rim", "none"] = "gap"
    outputs: Literal["softmax", "sigmoid"] | None = None
    steps: int = 2000
    minutes: float | None = None
    patience: int = 0
    measure_every: int = 0
    loss: LossName | None = None
    gamma: float = 2.0
    alpha: float = 0.3
    beta: float = 0.7
    class_weights: Literal["equal", "balanced"] = "equal"
    separation: float | None = None
    separation_sigma: float = 5.0
    optimizer: OptimizerName | None = None
    learning_rate: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: ScheduleName | None = None
    clip: float | None = None
    patch_size: int | None = None
    batch_size: int | None = None
    average: float | None = None
    normalization: Literal["percentile", "zscore", "minmax", "range"] | None = None
    network_dropout: float | None = None
    precision: Literal["auto", "full"] = "auto"
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    held_out: float = 0.2
    n_folds: int = 0
    fold: int = 0
    seed: int = 0

    def completed(self, recipe: Mapping[str, Any]) -> TrainSettings:
        """The same with nothing left open: what was chosen, else the recipe, else the default.

        What the recipe says of its optimizer is left out where another one was chosen.
        """
        optimizer = self.optimizer or recipe.get("optimizer", DEFAULTS["optimizer"])
        if optimizer != recipe.get("optimizer", optimizer):
            recipe = {name: value for name, value in recipe.items() if name not in WITH_OPTIMIZER}
        known = {**DEFAULTS, **OF_OPTIMIZER[optimizer], **recipe, "optimizer": optimizer}
        open_ones = [f.name for f in fields(self) if getattr(self, f.name) is None]
        return replace(self, **{name: known[name] for name in open_ones if name in known})

    def __post_init__(self) -> None:
        if not isinstance(self.network, str) or not self.network:
            raise SettingsError(f"network must be the name of one, not {self.network!r}.")
        if not isinstance(self.augmentation, AugmentationSettings):
            raise SettingsError(
                f"augmentation must be AugmentationSettings, not {self.augmentation!r}."
            )
        _check_choices(self)
        for name, (least, most) in WHOLE.items():
            _check_whole(name, getattr(self, name), least, most)
        for name, (low, high) in REAL.items():
            _check_real(name, getattr(self, name), low, high)
        for name in ("learning_rate", "minutes", "separation_sigma"):
            if getattr(self, name) == 0:
                raise SettingsError(f"{name} must be above 0.")
        if self.alpha + self.beta == 0:
            raise SettingsError("alpha and beta must not both be 0.")
        if self.n_folds == 1 or (self.n_folds and self.fold >= self.n_folds):
            raise SettingsError(
                f"n_folds must be 0 or at least 2, and fold below it (counted from 0); they are "
                f"{self.n_folds} and {self.fold}."
            )


WHOLE: Mapping[str, tuple[int, int]] = {
    "width": (1, 4096),
    "steps": (1, 10**9),
    "patience": (0, 10**9),
    "measure_every": (0, 10**9),
    "patch_size": (16, 4096),
    "batch_size": (1, 4096),
    "n_folds": (0, 1000),
    "fold": (0, 1000),
    "seed": (0, 2**63 - 1),
}
"""Settings that are whole numbers, each with the least and the most."""

REAL: Mapping[str, tuple[float, float]] = {
    "minutes": (0, math.inf),
    "gamma": (0, 100),
    "alpha": (0, 100),
    "beta": (0, 100),
    "separation": (0, 1e6),
    "separation_sigma": (0, 1e6),
    "learning_rate": (0, 10),
    "momentum": (0, 0.99999),
    "weight_decay": (0, 10),
    "clip": (0, 1e6),
    "average": (0, 0.999999),
    "network_dropout": (0, 0.95),
    "held_out": (0, 0.95),
}
"""Settings that are real numbers, each with the least and the most."""


def _check_choices(settings: TrainSettings) -> None:
    """Raise `SettingsError` where one of a few values is needed and another one came."""
    for name, hint in get_type_hints(TrainSettings).items():
        literals = [one for one in (hint, *get_args(hint)) if get_origin(one) is Literal]
        value = getattr(settings, name)
        is_open = value is None and type(None) in get_args(hint)
        if literals and not is_open and value not in get_args(literals[0]):
            known = ", ".join(repr(choice) for choice in get_args(literals[0]))
            raise SettingsError(f"{name} must be one of {known}, not {value!r}.")


def _check_whole(name: str, value: Any, least: int, most: int) -> None:
    if value is None and name in ("width", "patch_size", "batch_size"):
        return
    if (
        isinstance(value, bool)
        or not isinstance(value, Integral)
        or not least <= int(value) <= most
    ):
        raise SettingsError(
            f"{name} must be a whole number from {least} to {most}, but is {value!r}."
        )


def _check_real(name: str, value: Any, low: float, high: float) -> None:
    is_optional = (
        name in DEFAULTS or name in OF_OPTIMIZER["sgd"] or name in ("minutes", "network_dropout")
    )
    if value is None and is_optional:
        return
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    if not is_real or not low <= float(value) <= high:
        limits = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise SettingsError(f"{name} must be a number {limits}, but is {value!r}.")
    if math.isinf(value):
        raise SettingsError(f"{name} must be finite; leave it out for no limit.")
