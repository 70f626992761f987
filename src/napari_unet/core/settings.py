"""What the user can choose, each default in one place. No torch: forms are built from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Literal

from napari_unet.core.errors import SettingsError

__all__ = ["AugmentationSettings", "FineTuneSettings", "ObjectSettings", "SegmentSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSettings:
    """How probabilities become objects; the network need not run again to change these.

    Attributes
    ----------
    threshold : smallest probability of not being background, in (0, 1).
    min_size : objects smaller than this many px are dropped.
    split : how readily touching objects are split, 0 (never) to 1 (at every dent).
    smoothing : sigma in px of the Gaussian put on the probabilities first; 0 switches it off.
    fill_holes : whether a hole inside a single object is filled.
    link : whether the objects of a 2D network are linked through the planes of a stack.
    """

    threshold: float = 0.5
    min_size: int = 25
    split: float = 0.5
    smoothing: float = 0.0
    fill_holes: bool = True
    link: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise SettingsError(f"threshold must be between 0 and 1, not {self.threshold}.")
        if not isinstance(self.min_size, Integral) or self.min_size < 0:
            raise SettingsError(
                f"min_size must be a whole number and not negative, but is {self.min_size!r}."
            )
        if not 0 <= self.split <= 1:
            raise SettingsError(f"split must be between 0 and 1, not {self.split}.")
        if not 0 <= self.smoothing < float("inf"):
            raise SettingsError(
                f"smoothing must be a number of px and not negative, but is {self.smoothing}."
            )
        for name in ("fill_holes", "link"):
            if not isinstance(getattr(self, name), bool):
                raise SettingsError(f"{name} must be true or false, not {getattr(self, name)!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSettings:
    """What to make of an image. None means: as the model says, or chosen for the user.

    Attributes
    ----------
    what : "objects" (each with a number of its own) or "classes".
    tile_size : edge of the part of the result that one tile fills, in px.
    threshold : smallest probability of not being background, in (0, 1).
    min_size : objects smaller than this many px are dropped.
    split : how readily touching objects are split, from 0 (never) to 1.
    smoothing : standard deviation of the Gaussian that smooths the probabilities first, in px.
    fill_holes : whether holes inside single objects are filled.
    link : whether objects of a 2D network are followed through the slices of a stack.
    precision : "full" for float32, or "auto" for 16-bit arithmetic where it is faster and a
        piece of the image shows that the labels stay the same.
    augmentation : the ways the image is shown to the network, of which the mean is taken: "none"
        for as it is, "flips" for mirrored too, "rotations" for turned by right angles too.
    """

    what: Literal["objects", "classes"] = "objects"
    tile_size: int | None = None
    threshold: float | None = None
    min_size: int | None = None
    split: float | None = None
    smoothing: float | None = None
    fill_holes: bool | None = None
    link: bool | None = None
    precision: Literal["auto", "full"] = "auto"
    augmentation: Literal["none", "flips", "rotations"] = "none"

    def __post_init__(self) -> None:
        if self.what not in ("objects", "classes"):
            raise SettingsError(f"what must be 'objects' or 'classes', not {self.what!r}.")
        if self.precision not in ("auto", "full"):
            raise SettingsError(f"precision must be 'auto' or 'full', not {self.precision!r}.")
        if self.augmentation not in ("none", "flips", "rotations"):
            raise SettingsError(
                f"augmentation must be 'none', 'flips' or 'rotations', not {self.augmentation!r}."
            )
        size = self.tile_size
        if size is not None and (not isinstance(size, Integral) or size < 16):
            raise SettingsError(f"tile_size must be a whole number of at least 16 px, not {size}.")
        self.objects(ObjectSettings())

    def objects(self, default: ObjectSettings) -> ObjectSettings:
        """The settings for objects, those of the model where nothing was chosen."""
        names = ("threshold", "min_size", "split", "smoothing", "fill_holes", "link")
        chosen = {name: getattr(self, name) for name in names}
        return replace(default, **{k: v for k, v in chosen.items() if v is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationSettings:
    """How strongly training images are varied; zero switches a part off.

    Attributes
    ----------
    elastic_sigma : standard deviation of the control displacements, in px (the paper: 10).
    elastic_points : control points along each axis (the paper: 3).
    rotation : largest rotation in the plane, in degrees.
    scale : largest zoom factor, in and out; 1 switches it off.
    flips : mirror along y and x at random.
    brightness, contrast : largest shift and largest relative stretch of normalised values.
    gamma : largest exponent, and its inverse; 1 switches it off.
    noise : largest standard deviation of added Gaussian noise, in normalised values.
    blur : largest standard deviation of Gaussian blur, in px.
    color : largest share of other channels mixed into each channel.
    gray : share of images with several channels that are shown without colour.
    invert : share of images whose dark and bright are exchanged.
    dropout : largest share of a patch that is hidden in rectangles, which show its mean value
        (DeVries and Taylor 2017); only in training from masks.
    """

    elastic_sigma: float = 10.0
    elastic_points: int = 3
    rotation: float = 180.0
    scale: float = 1.25
    flips: bool = True
    brightness: float = 0.1
    contrast: float = 0.25
    gamma: float = 1.3
    noise: float = 0.05
    blur: float = 0.0
    color: float = 0.0
    gray: float = 0.0
    invert: float = 0.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.elastic_points, Integral) or self.elastic_points < 2:
            raise SettingsError(
                f"elastic_points must be a whole number of at least 2, not {self.elastic_points}."
            )
        for name in ("scale", "gamma"):
            if not 1 <= getattr(self, name) < float("inf"):
                raise SettingsError(
                    f"{name} must be at least 1, not {getattr(self, name)}; 1 switches it off."
                )
        for name in (
            "elastic_sigma", "rotation", "brightness", "contrast", "noise", "blur", "color", "gray",
            "invert",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) < float("inf"):
                raise SettingsError(f"{name} must not be negative, but is {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"dropout must be at least 0 and below 1, not {self.dropout}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneSettings:
    """How to learn from corrections.

    Attributes
    ----------
    steps : training steps.
    learning_rate : of AdamW, at its highest.
    patch_size : edge of a training patch, in px.
    batch_size : patches per step; one of them is a rehearsal picture while `memory` is on.
    memory : how strongly the model is held to its old answers, 0 (not at all) to 1.
    held_out : share of the corrected cells that is scored on and never trained on.
    augmentation : how patches are varied.
    seed : of all that is random.
    """

    steps: int = 200
    learning_rate: float = 1e-3
    patch_size: int = 128
    batch_size: int = 4
    memory: float = 0.5
    held_out: float = 0.2
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("patch_size", 16), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or not least <= int(value) < 2**63:
                raise SettingsError(
                    f"{name} must be a whole number of at least {least}, but is {value!r}."
                )
        if not 0 < self.learning_rate <= 1:
            raise SettingsError(
                f"learning_rate must be above 0 and at most 1, not {self.learning_rate}."
            )
        if not 0 <= self.memory <= 1 or not 0 <= self.held_out < 1:
            raise SettingsError("memory must be in [0, 1] and held_out in [0, 1).")
