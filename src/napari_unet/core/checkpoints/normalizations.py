"""The ways in which people prepare intensities for networks, and how they are called."""

from __future__ import annotations

from dataclasses import replace

from napari_unet.core.normalization import CLIP, Normalization

__all__ = ["IMAGENET", "NORMALIZATIONS", "normalization_words"]

IMAGENET = Normalization(
    kind="range", offset=(0.485, 0.456, 0.406), scale=(0.229, 0.224, 0.225), clip=None
)
"""8-bit RGB to 0 ... 1, then the mean and standard deviation of the pictures of ImageNet."""

NORMALIZATIONS: dict[str, tuple[Normalization, str]] = {
    "range": (
        Normalization(kind="range", clip=None),
        "x / 255 (8 bit; else by the range of the file type)",
    ),
    "imagenet": (IMAGENET, "ImageNet: x / 255, then its mean and standard deviation"),
    "centred": (
        Normalization(kind="range", offset=(0.5,), scale=(0.5,), clip=None),
        "-1 … 1 by the range of the file type",
    ),
    "minmax": (Normalization(kind="minmax", clip=None), "darkest to brightest pixel as 0 … 1"),
    "percentile": (
        Normalization(kind="percentile", low=1.0, high=99.8),
        "1st to 99.8th percentile as 0 … 1",
    ),
    "zscore": (
        Normalization(kind="zscore", eps=1e-8, clip=None),
        "mean 0, standard deviation 1, each channel by itself",
    ),
    "zscore-joint": (
        Normalization(kind="zscore", joint=True, eps=1e-8, clip=None),
        "mean 0, standard deviation 1, all channels together",
    ),
    "divide-255": (Normalization(kind="none", scale=(255.0,), clip=None), "divided by 255"),
    "divide-4095": (
        Normalization(kind="none", scale=(4095.0,), clip=None),
        "divided by 4095 (12 bit)",
    ),
    "divide-65535": (
        Normalization(kind="none", scale=(65535.0,), clip=None),
        "divided by 65535 (16 bit)",
    ),
    "none": (Normalization(kind="none", clip=None), "used as they are"),
}  # fmt: skip
"""Those to choose from, by a short name: what they are, and in words."""


def _alike(values: tuple[float, ...], nothing: float) -> tuple[float, ...]:
    """One value for all channels if it is the same for all; () if it does nothing."""
    if len(set(values)) == 1:
        return () if values[0] == nothing else values[:1]
    return values


def normalization_words(normalization: Normalization) -> str:
    """What becomes of intensities, in plain words."""
    plain = replace(
        normalization, offset=_alike(normalization.offset, 0), scale=_alike(normalization.scale, 1)
    )
    for known, words in NORMALIZATIONS.values():
        if known in (normalization, plain):
            return words
    normalization = plain
    parts = {
        "percentile": f"{normalization.low:g}th to {normalization.high:g}th percentile as 0 … 1",
        "zscore": "mean 0, standard deviation 1",
        "minmax": "darkest to brightest pixel as 0 … 1",
        "range": "the range of the file type to 0 … 1",
        "none": "used as they are",
    }
    words = parts[normalization.kind]
    if normalization.raw_clip:
        low, high = normalization.raw_clip[0]
        words = f"cut off at {low:g} and {high:g}, then {words}"
    if normalization.nonzero:
        words += ", measured where the image is not 0"
    if normalization.joint:
        words += ", all channels together"
    if normalization.offset or normalization.scale:
        offset = ", ".join(f"{value:.4g}" for value in normalization.offset)
        scale = ", ".join(f"{value:.4g}" for value in normalization.scale)
        steps = [f"minus {offset}" if offset else "", f"divided by {scale}" if scale else ""]
        words += f"; then {', '.join(step for step in steps if step)}"
    if normalization.clip is not None and normalization.clip != CLIP:
        words += f"; then cut off at {normalization.clip[0]:g} and {normalization.clip[1]:g}"
    return words
