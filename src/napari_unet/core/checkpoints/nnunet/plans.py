"""What nnU-Net's plans say of images and outputs, as attributes of a `Description`.

A checkpoint of nnU-Net v2 carries them in "init_args": the plans, the name of the configuration
that was trained, and the description of the data set (`dataset_json`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from napari_unet.core.checkpoints.about import About, mapping_of
from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import classes_of
from napari_unet.core.normalization import Normalization

__all__ = ["about_of", "configuration_of"]

MEDICAL = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".gipl", ".img", ".hdr")
"""Endings of files whose pixel sizes are in mm; those of pictures are in µm, if given at all."""

LARGEST = 1e30


def configuration_of(evidence: Evidence) -> Mapping[str, Any]:
    """The trained configuration of the plans, with what it inherits; empty if unknown."""
    told = mapping_of(evidence.config.get("init_args"))
    all_of_them = mapping_of(mapping_of(told.get("plans")).get("configurations"))
    name, parts = told.get("configuration"), list[Mapping[str, Any]]()
    while isinstance(name, str) and name in all_of_them and len(parts) < len(all_of_them):
        parts.append(mapping_of(all_of_them[name]))
        name = parts[-1].get("inherits_from")
    return {key: value for part in reversed(parts) for key, value in part.items()}


def about_of(evidence: Evidence, dims: int, n_in: int, n_out: int) -> About:
    """What is known of the images and outputs of a network of nnU-Net.

    Parameters
    ----------
    evidence : what is known of the file, with its "init_args".
    dims, n_in, n_out : axes of the image, and channels that go in and come out.
    """
    told = mapping_of(evidence.config.get("init_args"))
    plans, dataset = mapping_of(told.get("plans")), mapping_of(told.get("dataset_json"))
    configuration = configuration_of(evidence)
    scaling, sure, notes = _normalization(plans, configuration, n_in)
    classes, named, regions = _classes(dataset, n_out)
    size, spacing = _pixel_size(dataset, configuration, dims)
    about = {**_texts(plans, dataset), **_channels(dataset, n_in), **classes}
    about |= {"normalization": scaling, "pixel_size": size}
    training = (*spacing, *_patch(configuration, dims), *_turned(plans))
    if training:
        about["card"] = "\n\n".join(part for part in (about.get("card"), *training) if part)
    known = {
        "normalization": sure,
        "class_names": named,
        "activation": n_out == 1 or named,
        "pixel_size": size is not None,
    }
    return About(
        about=about,
        assumed=tuple(name for name, is_known in known.items() if not is_known),
        notes=(*notes, *regions, *training),
    )


def _number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and abs(value) < LARGEST


# ---- in words


def _texts(plans: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Name, licence, origin, description, as far as they are stated."""
    wanted = {
        "name": (dataset.get("name"), plans.get("dataset_name")),
        "licence": (dataset.get("licence"), dataset.get("license")),
        "source": (dataset.get("reference"),),
        "card": (dataset.get("description"),),
    }
    found = {
        ours: next((text.strip()[:5000] for text in texts if isinstance(text, str) and text), "")
        for ours, texts in wanted.items()
    }
    return {ours: text for ours, text in found.items() if text}


def _channels(dataset: Mapping[str, Any], n_in: int) -> dict[str, Any]:
    told = mapping_of(dataset.get("channel_names") or dataset.get("modality"))
    by_number = {str(number): name for number, name in told.items()}
    names = [by_number.get(str(i)) for i in range(n_in)]
    return {"channels": ", ".join(str(name)[:80] for name in names)} if all(names) else {}


def _patch(configuration: Mapping[str, Any], dims: int) -> tuple[str, ...]:
    patch = configuration.get("patch_size")
    if not isinstance(patch, (list, tuple)) or len(patch) != dims:
        return ()
    return (f"Trained on patches of {' x '.join(map(str, patch))} px ({_axes(dims)}).",)


def _axes(dims: int) -> str:
    return "z, y, x" if dims == 3 else "y, x"


def _turned(plans: Mapping[str, Any]) -> tuple[str, ...]:
    order = plans.get("transpose_forward")
    if not isinstance(order, (list, tuple)) or not all(type(axis) is int for axis in order):
        return ()
    if list(order) == sorted(order):
        return ()
    return (
        f"Trained on images whose axes were put in the order {tuple(order)}, counted from 0; "
        "turn yours so as well.",
    )


# ---- pixel size


def _pixel_size(
    dataset: Mapping[str, Any], configuration: Mapping[str, Any], dims: int
) -> tuple[float | None, tuple[str, ...]]:
    """In-plane pixel size in µm, if it is known, and a sentence on all axes."""
    spacing = configuration.get("spacing")
    if not isinstance(spacing, (list, tuple)) or len(spacing) != dims:
        return None, ()
    if not all(_number(size) and size > 0 for size in spacing):
        return None, ()
    ending = str(dataset.get("file_ending", MEDICAL[0])).lower()
    is_medical = ending in MEDICAL
    if not is_medical and all(size == spacing[0] for size in spacing) and spacing[0] in (1, 999):
        return None, ()  # pictures without a known size
    unit = "mm" if is_medical else "µm"
    sizes = " x ".join(f"{size:.4g}" for size in spacing)
    size = float(spacing[-1]) * (1000 if is_medical else 1)
    return size, (f"Trained on pixels of {sizes} {unit} ({_axes(dims)}).",)


# ---- outputs


def _classes(
    dataset: Mapping[str, Any], n_out: int
) -> tuple[dict[str, Any], bool, tuple[str, ...]]:
    """Outputs and classes, whether their names are known, and a sentence on regions."""
    labels = {
        str(name)[:80]: value
        for name, value in mapping_of(dataset.get("labels")).items()
        if name != "ignore"
    }
    if any(isinstance(value, (list, tuple)) and len(value) > 1 for value in labels.values()):
        return _regions(dataset, labels, n_out)
    single = {name: _alone(value) for name, value in labels.items()}
    names = sorted(single, key=lambda name: single[name])
    if len(names) != n_out or n_out < 2 or single[names[0]] != 0:
        return classes_of(n_out, "softmax" if n_out > 1 else "sigmoid"), False, ()
    return {**classes_of(n_out), "class_names": tuple(names), "outputs": tuple(names)}, True, ()


def _alone(value: Any) -> float:
    value = value[0] if isinstance(value, (list, tuple)) and value else value
    return float(value) if _number(value) else math.inf


def _regions(
    dataset: Mapping[str, Any], labels: Mapping[str, Any], n_out: int
) -> tuple[dict[str, Any], bool, tuple[str, ...]]:
    """Outputs that may overlap, each by itself."""
    names = tuple(name for name, value in labels.items() if _alone(value) != 0 or _many(value))
    classes = classes_of(n_out, "sigmoid", background=False)
    if len(names) != n_out or "background" in names:
        return classes, False, ()
    order = dataset.get("regions_class_order")
    note = (
        f"The outputs are regions that may lie within each other ({', '.join(names)}); nnU-Net "
        f"draws later ones over earlier ones (order of labels: {str(order)[:60]})."
    )
    return {**classes, "class_names": ("background", *names), "outputs": names}, True, (note,)


def _many(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(set(map(str, value))) > 1


# ---- normalization


def _normalization(
    plans: Mapping[str, Any], configuration: Mapping[str, Any], n_in: int
) -> tuple[Normalization, bool, tuple[str, ...]]:
    """How intensities become input, whether that is certain, and sentences."""
    schemes = configuration.get("normalization_schemes")
    if not isinstance(schemes, (list, tuple)) or len(schemes) != n_in or not n_in:
        return Normalization(kind="zscore", eps=1e-8, clip=None), False, ()
    masks = configuration.get("use_mask_for_norm")
    is_masked = isinstance(masks, (list, tuple)) and any(mask is True for mask in masks)
    kinds = {_KINDS.get(str(scheme), "") for scheme in schemes}
    if kinds == {"zscore"}:
        return _zscore(is_masked)
    if kinds == {"minmax"}:
        return Normalization(kind="minmax", clip=None), True, ()
    if "" in kinds or kinds & {"zscore", "minmax"}:
        names = ", ".join(str(scheme)[:40] for scheme in schemes)
        note = f"The channels are normalized differently ({names}), which cannot be done here."
        return Normalization(kind="zscore", eps=1e-8, clip=None), False, (note,)
    intensities = mapping_of(plans.get("foreground_intensity_properties_per_channel"))
    by_number = {str(number): mapping_of(values) for number, values in intensities.items()}
    fixed = [_fixed(str(scheme), by_number.get(str(i), {})) for i, scheme in enumerate(schemes)]
    found = [values for values in fixed if values is not None]
    if len(found) != n_in:
        note = "The plans do not hold the intensities of the data, which its normalization needs."
        return Normalization(kind="zscore", eps=1e-8, clip=None), False, (note,)
    clipped = any(low > -LARGEST for _, _, (low, _) in found)
    scaling = Normalization(
        kind="none",
        clip=None,
        raw_clip=tuple(bounds for _, _, bounds in found) if clipped else (),
        offset=tuple(offset for offset, _, _ in found),
        scale=tuple(scale for _, scale, _ in found),
    )
    return scaling, True, ()


_KINDS = {
    "ZScoreNormalization": "zscore",
    "RescaleTo01Normalization": "minmax",
    "Rescale0_1Normalization": "minmax",
    "CTNormalization": "fixed",
    "RGBTo01Normalization": "fixed",
    "NoNormalization": "fixed",
}


def _zscore(is_masked: bool) -> tuple[Normalization, bool, tuple[str, ...]]:
    scaling = Normalization(kind="zscore", nonzero=is_masked, eps=1e-8, clip=None)
    if not is_masked:
        return scaling, True, ()
    note = "Pixels outside the object stayed 0 in training, here they are normalized like others."
    return scaling, True, (note,)


def _fixed(
    scheme: str, intensities: Mapping[str, Any]
) -> tuple[float, float, tuple[float, float]] | None:
    """What is subtracted, what is divided by, and the bounds of raw values."""
    unbounded = (-LARGEST, LARGEST)
    if scheme != "CTNormalization":
        return 0.0, 255.0 if scheme == "RGBTo01Normalization" else 1.0, unbounded
    keys = ("mean", "std", "percentile_00_5", "percentile_99_5")
    values = [intensities.get(key) for key in keys]
    if not all(map(_number, values)):
        return None
    mean, std, low, high = (float(value) for value in values if value is not None)
    return (mean, max(std, 1e-8), (low, high)) if low < high else None
