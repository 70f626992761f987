"""Raw intensities to network input, the same in prediction and in training.

A scale is measured once per image, from all of it or from evenly spread samples, never per
tile or per patch: a tile without objects must not be stretched until its noise looks like some.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from napari_unet.core.errors import SettingsError

__all__ = [
    "IntensityScale",
    "Normalization",
    "match_channels",
    "normalise",
    "scale_of",
    "summary_of",
]

KINDS = ("percentile", "zscore", "minmax", "range", "none")
CLIP = (-1.0, 4.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalization:
    """How a model wants its input.

    Attributes
    ----------
    kind : "percentile" (`low` to 0 and `high` to 1), "zscore" (mean 0, standard deviation 1),
        "minmax", "range" (the range of the integer type to 0 ... 1) or "none".
    low, high : percentiles, for "percentile".
    """

    kind: Literal["percentile", "zscore", "minmax", "range", "none"] = "percentile"
    low: float = 1.0
    high: float = 99.8

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingsError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}.")
        if not 0 <= self.low < self.high <= 100:
            raise SettingsError(f"low and high must be 0 <= low < high <= 100, not {self}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensityScale:
    """Per channel: network input = (raw - offset) / scale."""

    offset: tuple[float, ...]
    scale: tuple[float, ...]


def scale_of(samples: npt.NDArray[np.generic], normalization: Normalization) -> IntensityScale:
    """Measure the scale of each channel.

    Parameters
    ----------
    samples : raw values `(c, ...)` of any number type. NaN and infinities do not count.
    normalization : how the model wants its input.
    """
    pairs = [_pair(channel.ravel(), normalization) for channel in samples]
    offsets, scales = zip(*pairs, strict=True)
    return IntensityScale(offset=offsets, scale=scales)


def _pair(values: npt.NDArray[np.generic], normalization: Normalization) -> tuple[float, float]:
    """Offset and scale of one channel; a constant channel keeps scale 1."""
    if normalization.kind == "none":
        return 0.0, 1.0
    if normalization.kind == "range":
        is_integer = np.issubdtype(values.dtype, np.integer)
        return 0.0, float(np.iinfo(np.dtype(str(values.dtype))).max) if is_integer else 1.0
    finite = values.astype(np.float32 if values.dtype.itemsize <= 4 else np.float64)
    finite = finite[np.isfinite(finite)]
    if finite.size == 0:
        return 0.0, 1.0
    if normalization.kind == "zscore":
        offset, scale = float(finite.mean()), float(finite.std())
    else:
        is_percentile = normalization.kind == "percentile"
        at = (normalization.low, normalization.high) if is_percentile else (0.0, 100.0)
        low, high = np.percentile(finite, at)
        offset, scale = float(low), float(high - low)
    return offset, scale if scale > 0 else 1.0


def normalise(raw: npt.NDArray[np.generic], scale: IntensityScale) -> npt.NDArray[np.float32]:
    """Apply a scale to `(c, [z,] y, x)`; float32, not-a-number becomes 0, outliers are cut."""
    shape = (-1, *[1] * (raw.ndim - 1))
    offset = np.asarray(scale.offset, np.float32).reshape(shape)
    factor = 1 / np.asarray(scale.scale, np.float64)
    scaled = (raw.astype(np.float32) - offset) * factor.astype(np.float32).reshape(shape)
    np.nan_to_num(scaled, copy=False, nan=0.0, posinf=CLIP[1], neginf=CLIP[0])
    return np.clip(scaled, *CLIP, out=scaled)


def match_channels(image: npt.NDArray[np.float32], n_channels: int) -> npt.NDArray[np.float32]:
    """Show one channel to a network of several: `(1, ...)` repeated to `(n_channels, ...)`."""
    if image.shape[0] == 1 and n_channels > 1:
        return np.repeat(image, n_channels, axis=0)
    return image


def summary_of(samples: npt.NDArray[np.generic], n: int = 1001) -> npt.NDArray[np.generic]:
    """Boil `(c, m)` raw values down to `(c, n)` evenly spaced quantiles, of the same type.

    Small enough to be kept with a project, and enough to measure any scale again: a model
    that comes later finds the same scale without the image. Not-a-number does not count.
    """
    channels = []
    for channel in samples.reshape(samples.shape[0], -1):
        finite = np.sort(channel[np.isfinite(channel)])
        if finite.size == 0:
            finite = np.zeros(1, channel.dtype)
        at = np.linspace(0, finite.size - 1, n).round().astype(np.intp)
        channels.append(finite[at])
    return np.stack(channels)
