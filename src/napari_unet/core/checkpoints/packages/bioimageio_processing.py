"""The steps before and after a network that bioimage.io knows.

Formulas after the bioimage.io model description, formats 0.4 and 0.5. Arrays are
`(b, c, [z,] y, x)` throughout, whatever the order of the axes in the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_unet.core.errors import ModelFileError

__all__ = ["EPS", "Step", "apply_steps", "unclear"]

Floats = npt.NDArray[np.float64]
EPS = 1e-6
"""What bioimage.io adds to divisors, unless something else is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step before or after the network.

    Attributes
    ----------
    name : as bioimage.io calls it, such as "scale_range".
    values : its arguments; `mean`, `std`, `gain`, `offset` and `threshold` are lists of one
        value per channel, or of a single one.
    axes : letters of the axes that are measured together; "" for all.
    """

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    axes: str = ""

    def numbers(self, name: str, default: float) -> tuple[float, ...]:
        """An argument as numbers, one per channel or one for all."""
        value = self.values.get(name, default)
        values = value if isinstance(value, (list, tuple)) else [value]
        if not values or not all(_is_number(value) for value in values):
            raise unclear(self, f"its {name} is {value!r}, not a number")
        return tuple(float(value) for value in values)

    def number(self, name: str, default: float) -> float:
        """An argument that is one number."""
        values = self.numbers(name, default)
        if len(values) != 1:
            raise unclear(self, f"its {name} is {values}, not one number")
        return values[0]


def _is_number(value: Any) -> bool:
    # NOTE: not `isfinite`, which stumbles over whole numbers of thousands of digits
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def unclear(step: Step, why: str) -> ModelFileError:
    """The error for a step that cannot be done."""
    return ModelFileError(
        f"The package asks for the step {step.name!r} before or after its network, and {why}. "
        f"Open it with a program of the bioimage.io community instead, or open its weights alone."
    )


def apply_steps(image: npt.NDArray[np.generic], steps: Sequence[Step]) -> npt.NDArray[np.float32]:
    """What the steps make of `(b, c, [z,] y, x)`, as the package's own programs do it.

    Raises
    ------
    ModelFileError
        If there is a step that is not known here.
    """
    values = image.astype(np.float64)
    for step in steps:
        if step.name not in _DONE:
            raise unclear(step, "it is not known here")
        values = _DONE[step.name](values, step)
    return values.astype(np.float32)


def _where(values: Floats, step: Step) -> tuple[int, ...]:
    """The axes that are measured together."""
    letters = "bcyx" if values.ndim == 4 else "bczyx"
    return tuple(letters.index(axis) for axis in step.axes or letters if axis in letters)


def _per_channel(values: Floats, numbers: Sequence[float]) -> Floats:
    return np.asarray(numbers, np.float64).reshape(1, -1, *[1] * (values.ndim - 2))


def _zero_mean(values: Floats, step: Step) -> Floats:
    axes = _where(values, step)
    mean, std = values.mean(axes, keepdims=True), values.std(axes, keepdims=True)
    scaled: Floats = (values - mean) / (std + step.number("eps", EPS))
    return scaled


def _fixed_mean(values: Floats, step: Step) -> Floats:
    mean, std = step.numbers("mean", 0), step.numbers("std", 1)
    return (values - _per_channel(values, mean)) / _per_channel(values, std)


def _linear(values: Floats, step: Step) -> Floats:
    gain, offset = step.numbers("gain", 1), step.numbers("offset", 0)
    return values * _per_channel(values, gain) + _per_channel(values, offset)


def _range(values: Floats, step: Step) -> Floats:
    at = (step.number("min_percentile", 0), step.number("max_percentile", 100))
    low, high = np.percentile(values, at, axis=_where(values, step), keepdims=True)
    scaled: Floats = (values - low) / (high - low + step.number("eps", EPS))
    return scaled


def _clipped(values: Floats, step: Step) -> Floats:
    ends: list[Any] = []
    for name, beyond in (("min", -math.inf), ("max", math.inf)):
        share = step.values.get(f"{name}_percentile")
        if share is not None:
            ends.append(np.percentile(values, share, axis=_where(values, step), keepdims=True))
        else:
            ends.append(beyond if step.values.get(name) is None else step.number(name, 0))
    clipped: Floats = np.clip(values, *ends)
    return clipped


def _binarized(values: Floats, step: Step) -> Floats:
    above: Floats = (values > _per_channel(values, step.numbers("threshold", 0.5))).astype(float)
    return above


def _sigmoid(values: Floats, step: Step) -> Floats:
    return 1 / (1 + np.exp(-np.clip(values, -500, 500)))


def _softmax(values: Floats, step: Step) -> Floats:
    powers = np.exp(values - values.max(1, keepdims=True))
    shares: Floats = powers / powers.sum(1, keepdims=True)
    return shares


def _typed(values: Floats, step: Step) -> Floats:
    try:
        kind = np.dtype(str(step.values.get("dtype", "float32")))
    except TypeError as error:
        raise unclear(step, f"there is no such type ({error})") from error
    return values.astype(kind).astype(np.float64)


_DONE: Mapping[str, Callable[[Floats, Step], Floats]] = {
    "binarize": _binarized,
    "clip": _clipped,
    "ensure_dtype": _typed,
    "fixed_zero_mean_unit_variance": _fixed_mean,
    "scale_linear": _linear,
    "scale_range": _range,
    "sigmoid": _sigmoid,
    "softmax": _softmax,
    "zero_mean_unit_variance": _zero_mean,
}
