"""What can be chosen for training from masks, each default in one place. No torch.

None means: as the paper of the network says (`Preset.recipe`), else the default in `DEFAULTS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from napari_unet.core.errors import SettingsError
from napari_unet.core.settings import AugmentationSettings

__all__ = ["DEFAULTS", "LOSSES", "LossName", "OptimizerName", "ScheduleName", "TrainSettings"]

LossName = Literal["cross-entropy", "dice", "dice+cross-entropy", "focal", "tversky"]
LOSSES: tuple[LossName, ...] = (
    "cross-entropy", "dice", "dice+cross-entropy", "focal", "tversky",
)  # fmt: skip
OptimizerName = Literal["adamw", "adam", "sgd"]
ScheduleName = Literal["constant", "cosine", "poly"]

DEFAULTS: Mapping[str, Any] = {
    "outputs": "softmax",
    "loss": "dice+cross-entropy",
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "momentum": 0.9,
    "weight_decay": 1e-2,
    "schedule": "cosine",
    "patch_size": 256,
    "batch_size": 4,
    "separation": 0.0,
    "clip": 1.0,
    "average": 0.99,
}
"""What counts where neither the user nor the recipe of the network says anything."""


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
    precision: Literal["auto", "full"] = "auto"
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    held_out: float = 0.2
    n_folds: int = 0
    fold: int = 0
    seed: int = 0

    def completed(self, recipe: Mapping[str, Any]) -> TrainSettings:
        """The same with nothing left open: what was chosen, else the recipe, else the default."""
        known = {**DEFAULTS, **recipe}
        open_ones = [f.name for f in fields(self) if getattr(self, f.name) is None]
        return replace(self, **{name: known[name] for name in open_ones if name in known})

    def __post_init__(self) -> None:
        if self.dims not in (2, 3):
            raise SettingsError(f"dims must be 2 or 3, not {self.dims!r}.")
