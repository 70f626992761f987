"""Raw intensities to network input, the same in prediction and in training.

A scale is measured once per image, from all of it or from evenly spread samples, never per
tile or per patch: a tile without objects must not be stretched until its noise looks like some.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from napari_unet.core.errors import SettingsError

__all__ = [
    "IntensityScale",
    "Normalization",
    "bounds_of",
    "match_channels",
    "normalise",
    "scale_of",
    "suffices_float32",
    "summary_of",
]

KINDS = ("percentile", "zscore", "minmax", "range", "none")
CLIP = (-1.0, 4.0)
LARGEST = float(np.finfo(np.float64).max)
BEYOND = 1e6
"""No input is larger than this: an infinite pixel must not spread over the image."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalization:
    """How a model wants its input.

    Attributes
    ----------
    kind : "percentile" (`low` to 0 and `high` to 1), "zscore" (mean 0, standard deviation 1),
        "minmax", "range" (the range of the integer type to 0 ... 1) or "none".
    low, high : percentiles, for "percentile".
    raw_clip : smallest and largest raw value that counts, per channel or one pair for all; ().
    joint : one scale for all channels, measured over all of them, not one for each.
    nonzero : pixels that are 0 do not count for the scale.
    eps : added to what is divided by.
    offset, scale : then `(x - offset) / scale`, per channel or one for all; () for nothing.
    clip : in the end, values beyond these are cut off; None keeps them.
    """

    kind: Literal["percentile", "zscore", "minmax", "range", "none"] = "percentile"
    low: float = 1.0
    high: float = 99.8
    raw_clip: tuple[tuple[float, float], ...] = ()
    joint: bool = False
    nonzero: bool = False
    eps: float = 0.0
    offset: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    clip: tuple[float, float] | None = CLIP

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingsError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}.")
        if not 0 <= self.low < self.high <= 100:
            raise SettingsError(f"low and high must be 0 <= low < high <= 100, not {self}.")
        pairs = [*self.raw_clip, *([] if self.clip is None else [self.clip])]
        if not all(low < high for low, high in pairs):
            raise SettingsError(f"bounds must be pairs of low < high, not {pairs}.")
        if not all(math.isfinite(value) for value in (*self.offset, *self.scale, self.eps)):
            raise SettingsError(f"offset, scale and eps must be numbers, not {self}.")
        if self.eps < 0 or not all(self.scale):
            raise SettingsError(f"scale must not be 0 and eps not be negative, not {self}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensityScale:
    """Per channel: network input = (raw - offset) / scale, cut off at `low` and `high`.

    Without `low` and `high` nothing is cut off but infinities.
    """

    offset: tuple[float, ...]
    scale: tuple[float, ...]
    low: tuple[float, ...] = (CLIP[0],)
    high: tuple[float, ...] = (CLIP[1],)


def scale_of(
    samples: npt.NDArray[np.generic], normalization: Normalization, n_channels: int = 0
) -> IntensityScale:
    """Measure the scale of each channel.

    Parameters
    ----------
    samples : raw values `(c, ...)` of any number type. NaN and infinities do not count.
    normalization : how the model wants its input.
    n_channels : channels that the network takes. A single one may be shown to each of them on
        a scale of its own.
    """
    own = max(len(normalization.offset), len(normalization.scale), len(normalization.raw_clip))
    if len(samples) == 1 and n_channels > 1 and own > 1:
        samples = np.repeat(samples, n_channels, axis=0)
    n_channels = len(samples)
    channels = [_counted(channel.ravel(), at, normalization) for at, channel in enumerate(samples)]
    if normalization.joint:
        channels = [np.concatenate(channels)] * n_channels
    pairs = [_pair(channel, normalization, samples.dtype) for channel in channels]
    return _then([pair[0] for pair in pairs], [pair[1] for pair in pairs], normalization)


def _counted(
    values: npt.NDArray[np.generic], at: int, normalization: Normalization
) -> npt.NDArray[np.generic]:
    """The values of channel `at` that the scale is measured from."""
    if normalization.nonzero and values.any():
        values = values[values != 0]
    if normalization.raw_clip:
        low, high = _of_channel(normalization.raw_clip, at)
        values = np.clip(_real(values, in_float32=False), low, high)
    return values


def _of_channel(values: Sequence[T], at: int) -> T:
    """The value for a channel, of one for each or one for all."""
    if at < len(values):
        return values[at]
    return values[0] if len(values) == 1 else values[-1]


def _then(
    offsets: Sequence[float], scales: Sequence[float], normalization: Normalization
) -> IntensityScale:
    """The measured scale, then what is the same for all images, as one scale with bounds."""
    all_offsets, all_scales, lows, highs = [], [], [], []
    for at, (offset, scale) in enumerate(zip(offsets, scales, strict=True)):
        scale += normalization.eps
        mean = _of_channel(normalization.offset or (0.0,), at)
        width = _of_channel(normalization.scale or (1.0,), at)
        # ((x - offset) / scale - mean) / width, written as one
        offset, scale = offset + mean * scale, scale * width
        low, high = normalization.clip or (-math.inf, math.inf)
        if normalization.raw_clip:
            ends = [(end - offset) / scale for end in _of_channel(normalization.raw_clip, at)]
            low, high = max(low, min(ends)), min(high, max(ends))
        all_offsets.append(offset)
        all_scales.append(scale)
        lows.append(low)
        highs.append(high)
    return IntensityScale(
        offset=tuple(all_offsets), scale=tuple(all_scales), low=_short(lows), high=_short(highs)
    )


def _short(values: Sequence[float]) -> tuple[float, ...]:
    """One value for all channels, if it is the same for all."""
    return tuple(values[:1]) if len(set(values)) == 1 else tuple(values)


def _pair(
    values: npt.NDArray[np.generic], normalization: Normalization, dtype: np.dtype[Any]
) -> tuple[float, float]:
    """Offset and scale of one channel of raw type `dtype`; a constant one keeps scale 1."""
    if normalization.kind == "none":
        return 0.0, 1.0
    if normalization.kind == "range":
        is_integer = np.issubdtype(dtype, np.integer)
        return 0.0, float(np.iinfo(np.dtype(str(dtype))).max) if is_integer else 1.0
    finite = _real(values, in_float32=_is_small(values.dtype))
    finite = finite[np.isfinite(finite)]
    if finite.size == 0:
        return 0.0, 1.0
    offset, scale = _measured(finite, normalization)
    if not (0 < scale < math.inf and math.isfinite(offset)):
        peak = finite.dtype.type(np.abs(finite).max() or 1)
        share, width = _measured((finite / peak).astype(np.float64), normalization)
        # Constant values are as they were found; others were too far apart or too close.
        if width > 0 or not math.isfinite(offset):
            offset, scale = share * float(peak), width * float(peak)
    return offset, min(scale, LARGEST) if scale > 0 else 1.0


def _measured(finite: npt.NDArray[Any], normalization: Normalization) -> tuple[float, float]:
    """Offset and scale of finite values, in their own precision, which may not suffice."""
    with np.errstate(over="ignore", invalid="ignore"):
        if normalization.kind == "zscore":
            return float(finite.mean()), float(finite.std())
        is_percentile = normalization.kind == "percentile"
        at = (normalization.low, normalization.high) if is_percentile else (0.0, 100.0)
        low, high = np.percentile(finite, at)
        return float(low), float(high - low)


def _is_small(dtype: np.dtype[Any]) -> bool:
    """Whether float32 holds every value of a type."""
    return dtype.itemsize <= (4 if dtype.kind == "f" else 2)


def _real(values: npt.NDArray[np.generic], in_float32: bool) -> npt.NDArray[Any]:
    """As float32 or float64; what is too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32 if in_float32 else np.float64)


def normalise(raw: npt.NDArray[np.generic], scale: IntensityScale) -> npt.NDArray[np.float32]:
    """Apply a scale to `(c, [z,] y, x)`; float32, not-a-number becomes 0, outliers are cut.

    Computed in float32 where that suffices, which follows from the type and the scale alone:
    every tile of an image is computed alike.
    """
    shape = (-1, *[1] * (raw.ndim - 1))
    offset, divisor = (
        np.asarray(part, np.float64).reshape(shape) for part in (scale.offset, scale.scale)
    )
    with np.errstate(over="ignore"):
        if suffices_float32(raw.dtype, scale):
            scaled = _real(raw, in_float32=True) - offset.astype(np.float32)
            scaled *= (1 / divisor).astype(np.float32)
        else:
            scaled = (_real(raw, in_float32=False) - offset) / divisor
    np.nan_to_num(scaled, copy=False, nan=0.0, posinf=np.inf, neginf=-np.inf)
    low, high = bounds_of(scale, raw.ndim)
    return np.clip(scaled, low, high, out=scaled).astype(np.float32, copy=False)


def bounds_of(
    scale: IntensityScale, ndim: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Smallest and largest input, in the shape `(c, 1, ...)` of `ndim` axes; always finite."""
    shape = (-1, *[1] * (ndim - 1))
    low, high = (
        np.clip(np.asarray(ends, np.float64), -BEYOND, BEYOND).astype(np.float32).reshape(shape)
        for ends in (scale.low, scale.high)
    )
    return low, high


def suffices_float32(dtype: np.dtype[Any], scale: IntensityScale) -> bool:
    """Whether `(raw - offset) / scale` is right to 1e-4 in float32, and overflows nowhere."""
    is_moderate = all(
        abs(offset) < 1e30 and 1e-30 < abs(width) < 1e30
        for offset, width in zip(scale.offset, scale.scale, strict=True)
    )
    is_near = all(
        abs(offset) <= 1000 * abs(width)
        for offset, width in zip(scale.offset, scale.scale, strict=True)
    )
    return is_moderate and (is_near or dtype.itemsize <= 2)  # 16 bits lose nothing in float32


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
