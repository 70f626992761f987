"""How a model learns while the user paints. No torch: forms are built from it."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from napari_unet.core.errors import SettingsError

__all__ = ["LiveSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSettings:
    """How to learn from strokes as they come.

    Attributes
    ----------
    learning_rate : of AdamW, right after a stroke.
    patch_size : edge of a training patch, in px.
    batch_size : patches per step; one of them is a rehearsal picture while `memory` is on.
    memory : how strongly untouched pixels hold to what was shown before the newest stroke, and
        rehearsal pictures to the answer of the model from before, 0 (not at all) to 1.
    replay : share of the patches that show all strokes alike, old and new; the others show the
        newest ones.
    held_out : share of the corrected cells that is scored on and never trained on.
    settle : steps after the last stroke until training rests.
    seed : of all that is random.
    """

    learning_rate: float = 1e-3
    patch_size: int = 128
    batch_size: int = 4
    memory: float = 0.5
    replay: float = 0.5
    held_out: float = 0.2
    settle: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("settle", 1), ("patch_size", 16), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or not least <= int(value) < 2**63:
                raise SettingsError(
                    f"{name} must be a whole number of at least {least}, but is {value!r}."
                )
        if not 0 < self.learning_rate <= 1:
            raise SettingsError(
                f"learning_rate must be above 0 and at most 1, not {self.learning_rate}."
            )
        for name in ("memory", "replay"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} must be from 0 to 1, not {getattr(self, name)}.")
        if not 0 <= self.held_out < 1:
            raise SettingsError(f"held_out must be at least 0 and below 1, not {self.held_out}.")
