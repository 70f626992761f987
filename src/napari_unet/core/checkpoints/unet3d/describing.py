"""What training configurations and PlantSeg's records say of a network's input and output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import classes_of
from napari_unet.core.checkpoints.unet3d.network import Unet3dConfig
from napari_unet.core.normalization import Normalization

__all__ = ["describe", "mapping"]


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def describe(
    evidence: Evidence, config: Unet3dConfig, told: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Attributes of the description, and the names of those that are assumed.

    Parameters
    ----------
    evidence : what is known of the network; its config may hold a training configuration
        ("loaders") or a record of PlantSeg's zoo ("resolution", "output_type").
    config : what the network is.
    told : its keyword arguments, as far as they are known.
    """
    assumed: list[str] = []
    note = evidence.layers.get("final_activation")
    final = note.kind if note else ""
    is_softmax = told.get("final_sigmoid") is False or final == "Softmax"
    activation = "softmax" if is_softmax and config.out_channels > 1 else "sigmoid"
    if told.get("is_segmentation") is False:
        activation = "none"
    if "final_sigmoid" not in told and not final:
        assumed.append("activation")
    about = _classes(evidence, config.out_channels, activation)
    if "segments" not in about:
        assumed += ["class_names", "outputs"]
        assumed += ["inverted"] if config.out_channels == 1 else []
    normalization, is_known = _normalization(evidence, config.in_channels)
    assumed += [] if is_known else ["normalization"]
    about["normalization"] = normalization
    resolution = _resolution(evidence)
    if resolution:
        about["pixel_size"] = resolution[-2]
    else:
        assumed.append("pixel_size")
    return about, assumed


def _classes(evidence: Evidence, n_outputs: int, activation: str) -> dict[str, Any]:
    """Classes and outputs; with "segments" only if the file or what lies beside it tells them."""
    kind = str(evidence.config.get("output_type", "")).lower()
    transforms = _transforms(evidence, "label")
    has_boundary = any(
        "Boundary" in name or bool(settings.get("boundary"))
        for name, settings in transforms.items()
    )
    objects = {"class_names": ("background", "object"), "activation": "sigmoid"}
    if activation == "sigmoid" and n_outputs == 1 and (kind == "boundaries" or has_boundary):
        # PlantSeg's networks say where a boundary is; the objects are where there is none.
        named = {"segments": "boundaries of cells", "outputs": ("boundary",), "inverted": True}
        return {**objects, **named, "output_class": (1,)}
    if activation == "sigmoid" and n_outputs == 2 and has_boundary:
        named = {"segments": "cells", "outputs": ("foreground", "boundary"), "border": 1}
        return {**objects, **named, "output_class": (1, -1)}
    if n_outputs == 1 and kind == "nuclei":
        return {**classes_of(1), "class_names": ("background", "nucleus"), "segments": "nuclei"}
    return {
        **classes_of(n_outputs, "" if activation == "none" else activation),
        "activation": activation,
    }


def _transforms(evidence: Evidence, of: str) -> dict[str, Mapping[str, Any]]:
    """What a training configuration does with the raw image or the labels: name to settings."""
    loaders = mapping(evidence.config.get("loaders"))
    parts = [mapping(loaders[key]) for key in ("train", "val", "test") if key in loaders]
    part = parts[0] if parts else {}
    transformer = mapping(part.get("transformer") or loaders.get("transformer"))
    steps = transformer.get(of)
    found = [mapping(step) for step in steps] if isinstance(steps, (list, tuple)) else []
    return {str(step.get("name", "")): step for step in found}


def _normalization(evidence: Evidence, n_channels: int) -> tuple[Normalization, bool]:
    """How intensities become input, and whether something says so."""
    steps = _transforms(evidence, "raw")
    if "PercentileNormalizer" in steps:
        step = steps["PercentileNormalizer"]
        low, high = _number(step.get("pmin"), 1.0), _number(step.get("pmax"), 99.6)
        return Normalization(kind="percentile", low=low, high=high, eps=1e-10, clip=None), True
    if "Normalize" in steps:
        return _to_symmetric(steps["Normalize"], n_channels), True
    step = steps.get("Standardize", {})
    mean, std = step.get("mean"), step.get("std")
    if isinstance(mean, (int, float)) and isinstance(std, (int, float)) and std > 0:
        return _fixed("none", mean, std, n_channels), True
    is_joint = not step.get("channelwise", False)
    zscore = Normalization(kind="zscore", joint=is_joint, eps=1e-10, clip=None)
    return zscore, "Standardize" in steps or "output_type" in evidence.config


def _to_symmetric(step: Mapping[str, Any], n_channels: int) -> Normalization:
    """From smallest and largest value, given or of the image, to -1 and 1 or, if asked, 0 and 1."""
    low, high = _number(step.get("min_value"), 0.0), _number(step.get("max_value"), 0.0)
    to_one = bool(step.get("norm01", False))
    if high <= low:
        plain = Normalization(kind="minmax", joint=True, clip=None)
        return plain if to_one else _fixed("minmax", 0.5, 0.5, n_channels)
    if to_one:
        return _fixed("none", low, high - low, n_channels)
    return _fixed("none", (low + high) / 2, (high - low) / 2, n_channels)


def _number(value: Any, default: float) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number else default


def _fixed(
    kind: Literal["none", "minmax"], offset: float, scale: float, n_channels: int
) -> Normalization:
    """The same offset and scale for all channels."""
    return Normalization(
        kind=kind,
        joint=kind == "minmax",
        offset=(float(offset),) * n_channels,
        scale=(float(scale),) * n_channels,
        clip=None,
    )


def _resolution(evidence: Evidence) -> tuple[float, ...]:
    """Size of a voxel `(z, y, x)` in µm, of a record of PlantSeg's zoo; else nothing."""
    value = evidence.config.get("resolution")
    if not isinstance(value, (list, tuple)) or len(value) not in (2, 3):
        return ()
    is_size = all(isinstance(size, (int, float)) and size > 0 for size in value)
    return tuple(float(size) for size in value) if is_size else ()
