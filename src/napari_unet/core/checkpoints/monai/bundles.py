"""What a MONAI bundle says of its images and outputs, as attributes of a `Description`.

A bundle is described by `evidence.config["bundle"]`, plain values all: "metadata", and lists of
transforms "preprocessing" and "postprocessing", each a dict with a "_target_" and arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from napari_unet.core.checkpoints.about import About, mapping_of
from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import classes_of
from napari_unet.core.normalization import Normalization

__all__ = ["about_of"]

_MICROMETRES = 1000.0
"""In a millimetre, the unit of medical images and thus of bundles."""


def about_of(evidence: Evidence, dims: int, n_in: int, n_out: int) -> About:
    """What is known of the images and outputs of a network of MONAI.

    Parameters
    ----------
    evidence : what is known of the file, with its bundle, if it came in one.
    dims, n_in, n_out : axes of the image, and channels that go in and come out.
    """
    bundle = mapping_of(evidence.config.get("bundle"))
    metadata = mapping_of(bundle.get("metadata"))
    scaling, sure, notes = _normalization(bundle, n_in)
    classes, named = _classes(bundle, n_out)
    about = {**_texts(metadata), **_channels(metadata, n_in), **classes, "normalization": scaling}
    spacing = _spacing(bundle, dims)
    if spacing is not None:
        about["pixel_size"] = spacing[0] * _MICROMETRES
        size = " x ".join(f"{mm:g}" for mm in spacing)
        notes = (*notes, f"Trained on images resampled to {size} mm (x, y, z in this order).")
    if bundle and dims == 3:
        notes = (*notes, "MONAI bundles have the axes of volumes in the order (x, y, z); turn the "
                 "volume so if the result looks poor.")  # fmt: skip
    known = {
        "normalization": sure,
        "class_names": named,
        "activation": n_out == 1 or named or bool(_activation(bundle)),
        "pixel_size": spacing is not None,
    }
    assumed = tuple(name for name, is_known in known.items() if not is_known)
    return About(about=about, assumed=assumed, notes=notes)


def _texts(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Name, purpose, licence, authors: what the bundle says in words."""
    found = {"name": "name", "segments": "task", "licence": "license", "source": "authors"}
    about = {ours: text for ours, theirs in found.items() if (text := _text(metadata, theirs))}
    keys = ("description", "intended_use", "data_source", "data_type", "copyright", "references")
    parts = [f"{key.replace('_', ' ').capitalize()}: {_text(metadata, key)}"
             for key in keys if _text(metadata, key)]  # fmt: skip
    return about | ({"card": "\n\n".join(parts)} if parts else {})


def _text(metadata: Mapping[str, Any], key: str) -> str:
    value = metadata.get(key)
    if isinstance(value, (list, tuple)):
        value = "; ".join(str(part) for part in value[:20])
    return value.strip()[:5000] if isinstance(value, str) else ""


def _format(metadata: Mapping[str, Any], side: str) -> Mapping[str, Any]:
    """The first input or output that the metadata describes."""
    described = mapping_of(mapping_of(metadata.get("network_data_format")).get(side))
    return mapping_of(next(iter(described.values()), None))


def _definitions(metadata: Mapping[str, Any], side: str, n: int) -> list[str] | None:
    """The names of all channels of a side, if the metadata gives each of them one."""
    told = mapping_of(_format(metadata, side).get("channel_def"))
    keyed = {str(key): name for key, name in told.items()}
    names = [keyed.get(str(i)) for i in range(n)]
    if not all(isinstance(name, str) and name for name in names):
        return None
    return [str(name)[:80] for name in names]


def _channels(metadata: Mapping[str, Any], n_in: int) -> dict[str, Any]:
    names = _definitions(metadata, "inputs", n_in)
    modality = _format(metadata, "inputs").get("modality")
    kind = f" ({modality[:80]})" if isinstance(modality, str) and modality else ""
    return {"channels": ", ".join(names) + kind} if names else {}


def _classes(bundle: Mapping[str, Any], n_out: int) -> tuple[dict[str, Any], bool]:
    """Outputs and classes, and whether their names are known."""
    names = _definitions(mapping_of(bundle.get("metadata")), "outputs", n_out)
    activation = _activation(bundle)
    has_background = bool(names) and names is not None and names[0].lower() == "background"
    if n_out == 1:
        activation = "sigmoid"
    if names is None:
        return classes_of(n_out, activation), False
    activation = activation or ("softmax" if has_background else "sigmoid")
    classes = classes_of(n_out, activation, has_background and n_out > 1)
    objects = names[1:] if has_background and n_out > 1 else names
    named = {"class_names": ("background", *objects), "outputs": tuple(names)}
    is_distinct = len({"background", *objects}) == len(objects) + 1
    return (classes | named, True) if is_distinct else (classes, False)


def _activation(bundle: Mapping[str, Any]) -> str:
    for name, values in _transforms(bundle.get("postprocessing")):
        if name == "Activations":
            for kind in ("sigmoid", "softmax"):
                if values.get(kind) is True or values.get(kind) == [True]:
                    return kind
        if name == "AsDiscrete" and values.get("argmax") in (True, [True], [True, False]):
            return "softmax"
    return ""


def _transforms(listed: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name without module and the final "d" of dictionaries, and arguments, of each transform."""
    for values in listed if isinstance(listed, Sequence) and not isinstance(listed, str) else ():
        if isinstance(values, Mapping) and isinstance(values.get("_target_"), str):
            name = values["_target_"].rpartition(".")[2].removesuffix("ict")
            yield name.removesuffix("d").removesuffix("D"), values


def _spacing(bundle: Mapping[str, Any], dims: int) -> tuple[float, ...] | None:
    """What images are resampled to, in mm, in the order of the bundle."""
    for name, values in _transforms(bundle.get("preprocessing")):
        pixdim = values.get("pixdim")
        if name == "Spacing" and isinstance(pixdim, list) and len(pixdim) == dims:
            sizes = tuple(float(size) for size in pixdim if _number(size) and size > 0)
            return sizes if len(sizes) == dims else None
    return None


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30


def _normalization(
    bundle: Mapping[str, Any], n_in: int
) -> tuple[Normalization, bool, tuple[str, ...]]:
    """How intensities become input, whether that is certain, and what could not be followed."""
    found: list[Normalization] = []
    odd: list[str] = []
    for name, values in _transforms(bundle.get("preprocessing")):
        if "Intensity" not in name:
            continue
        known = _READERS.get(name, lambda _values, _n: None)(values, n_in)
        if known is None:
            odd.append(name)
        else:
            found.append(known)
    if not found:
        default = Normalization(kind="zscore", eps=1e-8, clip=None)
        return default, False, _unfollowed(odd)
    names = [*odd, f"{len(found)} scalings in a row (the last was taken)"] if found[1:] else odd
    return found[-1], not names, _unfollowed(names)


def _unfollowed(names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        return ()
    return (f"The bundle prepares intensities by {', '.join(names)}, which is not done here.",)


def _affine(low: Any, high: Any) -> dict[str, Any]:
    """What 0 ... 1 has to be divided by to become `low` ... `high`."""
    if (low, high) in ((0, 1), (None, None)):
        return {}
    scale = 1 / (high - low)
    return {"offset": (-low * scale,), "scale": (scale,)}


def _range(values: Mapping[str, Any], n_in: int) -> Normalization | None:
    from_low, from_high = values.get("a_min"), values.get("a_max")
    low, high = values.get("b_min"), values.get("b_max")
    clip = values.get("clip") is True and low is not None
    if low is None and high is None:
        low, high = 0, 1
    bounds = [float(n) for n in (from_low, from_high, low, high) if n is not None and _number(n)]
    if len(bounds) < 4 or bounds[0] == bounds[1] or bounds[2] == bounds[3]:
        return None
    from_low, from_high, low, high = bounds
    scale = (from_high - from_low) / (high - low)
    return Normalization(
        kind="none",
        clip=None,
        offset=(from_low - low * scale,),
        scale=(scale,),
        raw_clip=((float(from_low), float(from_high)),) if clip else (),
    )


def _minmax(values: Mapping[str, Any], n_in: int) -> Normalization | None:
    low, high = values.get("minv", 0.0), values.get("maxv", 1.0)
    if low is None and high is None and _number(values.get("factor")):
        scale = 1 / (1 + values["factor"]) if values["factor"] != -1 else 1.0
        return Normalization(kind="none", clip=None, offset=(0.0,), scale=(scale,))
    if not (_number(low) and _number(high) and low != high):
        return None
    joint = values.get("channel_wise") is not True and n_in > 1
    return Normalization(kind="minmax", joint=joint, clip=None, **_affine(low, high))


def _zscore(values: Mapping[str, Any], n_in: int) -> Normalization | None:
    mean, width = values.get("subtrahend"), values.get("divisor")
    if mean is None and width is None:
        joint = values.get("channel_wise") is not True and n_in > 1
        nonzero = values.get("nonzero") is True
        return Normalization(kind="zscore", joint=joint, nonzero=nonzero, eps=1e-8, clip=None)
    means = mean if isinstance(mean, list) else [mean] * n_in
    widths = width if isinstance(width, list) else [width] * n_in
    if not (len(means) == len(widths) == n_in and all(map(_number, [*means, *widths]))):
        return None
    if 0 in widths:
        return None
    offset, scale = tuple(map(float, means)), tuple(map(float, widths))
    return Normalization(kind="none", clip=None, offset=offset, scale=scale)


def _percentiles(values: Mapping[str, Any], n_in: int) -> Normalization | None:
    percent, low, high = (
        (values.get("lower"), values.get("upper")),
        values.get("b_min"),
        values.get("b_max"),
    )
    is_whole = all(map(_number, percent)) and values.get("relative") is not True
    if not is_whole or not (low is None or _number(low)) or not (high is None or _number(high)):
        return None
    below, above = (float(p) for p in percent if p is not None)
    if not 0 <= below < above <= 100 or (low is None) != (high is None) or low == high != None:  # noqa: E711
        return None
    return Normalization(
        kind="percentile",
        low=below,
        high=above,
        joint=values.get("channel_wise") is not True and n_in > 1,
        clip=(0.0, 1.0)
        if values.get("clip") is True and (low, high) in ((0, 1), (None, None))
        else None,
        **_affine(low, high),
    )


_READERS = {
    "ScaleIntensityRange": _range,
    "ScaleIntensity": _minmax,
    "NormalizeIntensity": _zscore,
    "ScaleIntensityRangePercentiles": _percentiles,
}
