"""A normalisation as steps that bioimage.io knows, and the other way round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from napari_unet.core.checkpoints.packages.bioimageio_processing import EPS, Step, unclear
from napari_unet.core.errors import ModelFileError, SettingsError
from napari_unet.core.normalization import Normalization

__all__ = ["normalization_of", "steps_of"]

TINY = 1e-12
"""Bioimage.io wants something to be added to divisors: so little that it does not show."""


# --- reading -----------------------------------------------------------------------------------


def normalization_of(steps: Sequence[Step], n_channels: int, dims: int) -> Normalization:
    """The steps before the network as the one normalisation that does the same.

    Raises
    ------
    ModelFileError
        If no normalisation does what they do; it names the step.
    """
    found = Normalization(kind="none", clip=None)
    steps = _joined(steps)
    for at, step in enumerate(steps):
        if step.name == "ensure_dtype":
            kind = str(step.values.get("dtype", "float32"))
            if not kind.startswith("float") and found != Normalization(kind="none", clip=None):
                raise unclear(step, f"the network here takes decimal numbers, not {kind}")
        elif step.name == "clip":
            found = _with_clip(found, step)
        elif step.name == "scale_linear":
            found = _with_linear(found, step, step.numbers("gain", 1), step.numbers("offset", 0))
        elif step.name == "fixed_zero_mean_unit_variance":
            found = _with_fixed(found, step)
        elif step.name in ("scale_range", "zero_mean_unit_variance"):
            found = _with_measured(found, step, n_channels, dims)
        else:
            raise unclear(step, f"as step {at + 1} before a network it is not known here")
    return found


def _joined(steps: Sequence[Step]) -> list[Step]:
    """Cutting off at percentiles and then scaling to the ends is scaling to percentiles."""
    joined: list[Step] = []
    for step in steps:
        last = joined[-1] if joined else Step(name="")
        cuts = last.name == "clip" and {"min_percentile", "max_percentile"} <= _given(last)
        scales = step.name == "scale_range" and step.axes == last.axes
        if cuts and scales and not {"min_percentile", "max_percentile"} & _given(step):
            joined[-1] = replace(step, values={**step.values, **last.values})
            joined.append(Step(name="clip", values={"min": 0.0, "max": 1.0}))
        else:
            joined.append(step)
    return joined


def _given(step: Step) -> set[str]:
    """The arguments that are stated and do not state the default."""
    defaults = {"min_percentile": 0, "max_percentile": 100}
    return {
        name
        for name, value in step.values.items()
        if value is not None and value != defaults.get(name)
    }


def _with_clip(found: Normalization, step: Step) -> Normalization:
    if {"min_percentile", "max_percentile"} & _given(step):
        raise unclear(step, "percentiles are known here for scaling only")
    low = -math.inf if step.values.get("min") is None else step.number("min", 0)
    high = math.inf if step.values.get("max") is None else step.number("max", 0)
    is_raw = found.kind == "none" and not (found.offset or found.scale)
    if is_raw:
        old = found.raw_clip[0] if found.raw_clip else (-math.inf, math.inf)
        return _changed(found, step, raw_clip=((max(old[0], low), min(old[1], high)),))
    old = found.clip or (-math.inf, math.inf)
    return _changed(found, step, clip=(max(old[0], low), min(old[1], high)))


def _changed(found: Normalization, step: Step, **values: Any) -> Normalization:
    try:
        return replace(found, **values)
    except SettingsError as error:
        raise unclear(step, f"this cannot be done ({error})") from error


def _spread(*lists: Sequence[float]) -> list[tuple[float, ...]]:
    """Lists of one value for all channels made as long as those of one for each."""
    n = max(len(values) for values in lists)
    return [tuple(values) * (n if len(values) == 1 else 1) for values in lists]


def _with_fixed(found: Normalization, step: Step) -> Normalization:
    means, widths = _spread(step.numbers("mean", 0), step.numbers("std", 1))
    if not all(widths):
        raise unclear(step, "a standard deviation of 0 makes no sense")
    offsets = [-mean / width for mean, width in zip(means, widths, strict=False)]
    return _with_linear(found, step, [1 / width for width in widths], offsets)


def _with_linear(
    found: Normalization, step: Step, gains: Sequence[float], offsets: Sequence[float]
) -> Normalization:
    """After `y = (x - m) / w` comes `g * y + o`, which is `(x - (m - o w / g)) / (w / g)`."""
    if not all(gains):
        raise unclear(step, "a gain of 0 makes no sense")
    clip = found.clip
    if clip is not None:
        if len({*gains}) > 1 or len({*offsets}) > 1 or gains[0] < 0:
            raise unclear(step, "after cutting values off it must be the same for all channels")
        clip = (clip[0] * gains[0] + offsets[0], clip[1] * gains[0] + offsets[0])
    m, w, g, o = _spread(found.offset or (0.0,), found.scale or (1.0,), gains, offsets)
    try:
        pairs = [
            (m - o * w / g, w / g) for m, w, g, o in zip(m, w, g, o, strict=True)
        ]  # offset, scale
    except ValueError as error:
        raise unclear(step, "it names more or fewer channels than another step") from error
    middles, widths = zip(*pairs, strict=True)
    return _changed(found, step, offset=middles, scale=widths, clip=clip)


def _with_measured(found: Normalization, step: Step, n_channels: int, dims: int) -> Normalization:
    space = "yx" if dims == 2 else "zyx"
    if step.axes and not set(space) <= set(step.axes):
        raise unclear(step, f"it measures {step.axes!r} together, not whole images ({space!r})")
    reference = step.values.get("reference_tensor")
    if reference is not None:
        raise unclear(step, f"it measures another image ({reference!r})")
    joint = n_channels > 1 and (not step.axes or "c" in step.axes)
    eps = step.number("eps", EPS)
    if found.kind != "none" or found.offset or found.scale:
        found, eps = _unscaled(found, step, joint, eps)
    values: dict[str, Any] = {"kind": "zscore"}
    if step.name == "scale_range":
        low, high = step.number("min_percentile", 0), step.number("max_percentile", 100)
        values = {"kind": "percentile", "low": low, "high": high}
        if (low, high) == (0, 100):
            values = {"kind": "minmax"}
    return _changed(found, step, joint=joint, eps=eps, **values)


def _unscaled(
    found: Normalization, step: Step, joint: bool, eps: float
) -> tuple[Normalization, float]:
    """Without the scaling that comes before a measured one and is undone by it.

    What is added to the divisor counts in the scale that it had.
    """
    widths = found.scale or (1.0,)
    is_alike = len({*widths}) == 1 and len({*found.offset}) <= 1
    if found.clip is not None or min(widths) < 0 or (joint and not (is_alike or found.joint)):
        raise unclear(step, "together with the steps before it there is no way to say it here")
    if found.kind != "none":
        if joint and not found.joint:
            raise unclear(step, "it measures channels together that were scaled one by one")
        return Normalization(kind="none", clip=None, raw_clip=found.raw_clip), 0.0
    return replace(found, offset=(), scale=()), eps * max(widths)


# --- writing -----------------------------------------------------------------------------------


def steps_of(normalization: Normalization, n_channels: int, dtype: np.dtype[Any]) -> list[Step]:
    """A normalisation of images of one type, as steps that bioimage.io knows (format 0.5).

    Raises
    ------
    ModelFileError
        If there are no such steps.
    """
    if normalization.nonzero:
        raise ModelFileError(
            "This model measures brightness without the pixels that are 0, and bioimage.io has "
            "no word for this. Save it as .safetensors or as plain PyTorch weights instead."
        )
    steps = [_to_float(), *_raw_clip_steps(normalization.raw_clip)]
    steps += _measuring_steps(normalization, n_channels, dtype)
    if normalization.offset or normalization.scale:
        mean, std = _spread(normalization.offset or (0.0,), normalization.scale or (1.0,))
        gains = [1 / width for width in std]
        steps += _linear_steps(gains, [-m * g for m, g in zip(mean, gains, strict=True)])
    if normalization.clip is not None:
        steps.append(_clip_step(*normalization.clip))
    return [*steps, _to_float()]


def _to_float() -> Step:
    return Step(name="ensure_dtype", values={"dtype": "float32"})


def _clip_step(low: float, high: float) -> Step:
    ends = {"min": low, "max": high}
    return Step(name="clip", values={k: v for k, v in ends.items() if math.isfinite(v)})


def _raw_clip_steps(bounds: Sequence[tuple[float, float]]) -> list[Step]:
    """Bounds of each channel: brought to 0 ... 1, cut off there, and brought back."""
    if not bounds:
        return []
    if len(set(bounds)) == 1:
        return [_clip_step(*bounds[0])]
    if not np.isfinite(bounds).all():
        raise ModelFileError(
            "This model cuts off brightness for some of its channels only, and bioimage.io has no "
            "word for this. Save it as .safetensors or as plain PyTorch weights instead."
        )
    widths = [high - low for low, high in bounds]
    lows = [low for low, _ in bounds]
    there = [-low / width for low, width in zip(lows, widths, strict=True)]
    return [
        *_linear_steps([1 / width for width in widths], there),
        _clip_step(0.0, 1.0),
        *_linear_steps(widths, lows),
    ]


def _linear_steps(gains: Sequence[float], offsets: Sequence[float]) -> list[Step]:
    if all(gain == 1 for gain in gains) and not any(offsets):
        return []
    if len({*gains}) == 1 and len({*offsets}) == 1:
        values: dict[str, Any] = {"gain": gains[0], "offset": offsets[0]}
    else:
        values = {"gain": list(gains), "offset": list(offsets), "axis": "channel"}
    return [Step(name="scale_linear", values=values)]


def _measuring_steps(
    normalization: Normalization, n_channels: int, dtype: np.dtype[Any]
) -> list[Step]:
    kind: Literal["percentile", "zscore", "minmax", "range", "none"] = normalization.kind
    added = normalization.eps
    if kind == "none" or (kind == "range" and dtype.kind not in "iu"):
        return _linear_steps([1 / (1 + added)], [0.0])
    if kind == "range":
        return _linear_steps([1 / (float(np.iinfo(dtype).max) + added)], [0.0])
    axes = "" if normalization.joint and n_channels > 1 else "zyx"
    values = {"eps": min(max(added, TINY), 0.1)}
    if kind == "zscore":
        return [Step(name="zero_mean_unit_variance", values=values, axes=axes)]
    if kind == "percentile":
        values |= {"min_percentile": normalization.low, "max_percentile": normalization.high}
    return [Step(name="scale_range", values=values, axes=axes)]
