"""What a bioimage.io description says of the meaning of a network: classes, input, origin."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_unet.core.checkpoints.family import classes_of
from napari_unet.core.checkpoints.packages.bioimageio_normalization import (
    normalization_of,
    steps_of,
)
from napari_unet.core.checkpoints.packages.bioimageio_processing import Step
from napari_unet.core.checkpoints.packages.bioimageio_tensors import TensorNote
from napari_unet.core.checkpoints.plain import from_plain
from napari_unet.core.errors import ModelFileError, SettingsError
from napari_unet.core.normalization import Normalization
from napari_unet.core.settings import ObjectSettings

__all__ = ["KEY", "LISTS", "MARKS", "TEXTS", "Meaning", "meaning_of", "own_words"]

KEY = "napari_unet"
"""Under "config", what only this project understands."""
TEXTS = ("name", "segments", "channels", "activation", "licence", "source")
LISTS = {"class_names": str, "outputs": str, "output_class": int}
MARKS = ("inside", "border")
BORDER = r"bound|border|edge|membrane|contour|outline"
UNCOUNTED = r"affinit|dist|flow|offset|embedding|vector|gradient|flux"
BACKGROUND = r"back ?ground|^bg$"
NUMBERED = r"(?i)(channel|ch|c|output|class)?[ _-]?\d*"
"""Names of channels that say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """Attributes of a `Description`, and sentences for the user."""

    about: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def meaning_of(
    description: Mapping[str, Any], source: TensorNote, output: TensorNote, text: str
) -> Meaning:
    """What is said of a network by its description.

    Parameters
    ----------
    source, output : what is said of the image that goes in, and of the result.
    text : the longer text that comes with it (Markdown).

    Raises
    ------
    ModelFileError
        If a step before or after the network is said that cannot be done here.
    """
    dims = len(source.space)
    about: dict[str, Any] = {
        "name": str(description.get("name") or "bioimage.io model"),
        "dims": dims,
        "normalization": normalization_of(source.steps, source.n_channels or 1, dims),
        **_origin(description, text),
    }
    if source.n_channels:
        about["in_channels"] = source.n_channels
    if source.channels and not all(re.fullmatch(NUMBERED, name) for name in source.channels):
        about["channels"] = ", ".join(source.channels)
    if source.pixel_size:
        about["pixel_size"] = source.pixel_size
    after, notes = _after(output)
    about |= after
    about |= _classes(output, after.get("activation", ""))
    about |= _own_words(description, source)
    if not source.steps:
        notes.append("The package says of no step before the network: it takes images as they are.")
    return Meaning(about=about, notes=tuple(notes))


# --- after the network -------------------------------------------------------------------------


def _after(output: TensorNote) -> tuple[dict[str, Any], list[str]]:
    """How logits become probabilities, by the steps after the network."""
    about: dict[str, Any] = {}
    notes: list[str] = []
    for step in output.steps:
        if step.name in ("sigmoid", "softmax"):
            about["activation"] = step.name
        elif step.name == "binarize":
            about |= _threshold(step)
        elif step.name == "scale_linear" and _inverts(step) and about.get("activation"):
            about["inverted"] = True
        elif step.name in ("stardist_postprocessing", "cellpose_flow_dynamics"):
            program = step.name.split("_")[0]
            raise ModelFileError(
                f"This network does not say where objects are but gives what {program} makes "
                f"objects from ({step.name}). Open it with the plugin for {program}."
            )
        elif step.name not in ("ensure_dtype", "clip"):
            notes.append(
                f"The package has a step after the network, {step.name!r}, that is left out here."
            )
    return about, notes


def _threshold(step: Step) -> dict[str, Any]:
    """A threshold for the probabilities."""
    values = set(step.numbers("threshold", 0.5))
    if len(values) != 1 or not 0 < min(values) < 1:
        return {}
    return {"objects": ObjectSettings(threshold=min(values))}


def _inverts(step: Step) -> bool:
    """Whether a step makes probabilities those of the opposite."""
    return set(step.numbers("gain", 1)) == {-1.0} and set(step.numbers("offset", 0)) == {1.0}


def _classes(output: TensorNote, activation: str) -> dict[str, Any]:
    """What the channels of the result are, by their names."""
    names = output.channels
    if not names or len(set(names)) < len(names) or all(re.fullmatch(NUMBERED, n) for n in names):
        named = output.n_channels and activation
        return classes_of(output.n_channels or 1, activation) if named else {}
    activation = activation or ("sigmoid" if len(names) == 1 else "")
    if not activation:
        return {"outputs": names}
    if len(names) == 1:
        return classes_of(1, "sigmoid")
    is_border = [bool(re.search(BORDER, name.lower())) for name in names]
    counts = [
        not (border or re.search(UNCOUNTED, name.lower()))
        for name, border in zip(names, is_border, strict=True)
    ]
    backs = [bool(re.search(BACKGROUND, name.lower())) for name in names]
    if activation == "softmax" and not any(backs):
        backs[0] = True  # by custom
    classes, numbers = ["background"], []
    for name, counted, back in zip(names, counts, backs, strict=True):
        if counted and not back:
            classes.append(name)
        numbers.append(0 if back else len(classes) - 1 if counted else -1)
    if len(classes) == 1:
        return {**classes_of(len(names), activation), "outputs": names}
    borders = [at for at, border in enumerate(is_border) if border]
    found = {"class_names": tuple(classes), "outputs": names, "output_class": tuple(numbers)}
    return {**found, "activation": activation, "border": borders[0] if len(borders) == 1 else None}


# --- where it is from --------------------------------------------------------------------------


def _origin(description: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Licence, authors, and what is to be cited."""
    authors = [str(a.get("name", "")) for a in _entries(description, "authors")]
    cite = [_citation(entry) for entry in _entries(description, "cite")]
    where = str(description.get("git_repo") or description.get("id") or "")
    source = "; ".join(part for part in (", ".join(filter(None, authors)), where) if part)
    lines = [str(description.get("description") or ""), text]
    lines += ["Please cite:", *[f"- {entry}" for entry in cite]] if cite else []
    about: dict[str, Any] = {"source": source or "unknown"}
    licence = description.get("license")
    if isinstance(licence, str) and licence:
        about["licence"] = licence
    about["card"] = "\n\n".join(line for line in lines if line)
    return about


def _entries(description: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    entries = description.get(name)
    return [e for e in entries if isinstance(e, Mapping)] if isinstance(entries, list) else []


def _citation(entry: Mapping[str, Any]) -> str:
    parts = (entry.get("text"), entry.get("doi"), entry.get("url"))
    return " ".join(str(part) for part in parts if part)


def own_words(description: Mapping[str, Any]) -> Mapping[str, Any]:
    """What this project wrote into a description for itself, unchecked; {} if it did not."""
    config = description.get("config")
    said = config.get(KEY) if isinstance(config, Mapping) else None
    return said if isinstance(said, Mapping) else {}


def _own_words(description: Mapping[str, Any], source: TensorNote) -> dict[str, Any]:
    """What this project said of a model that it saved."""
    said = own_words(description)
    found: dict[str, Any] = {name: said[name] for name in TEXTS if isinstance(said.get(name), str)}
    for name, kind in LISTS.items():
        values = said.get(name)
        if isinstance(values, list) and all(type(value) is kind for value in values):
            found[name] = tuple(values)
    found |= {name: said[name] for name in MARKS if type(said.get(name)) is int}
    if isinstance(said.get("inverted"), bool):
        found["inverted"] = said["inverted"]
    try:
        found["objects"] = from_plain(ObjectSettings, said["objects"])
        normalization = from_plain(Normalization, said["normalization"])
        steps = steps_of(normalization, source.n_channels or 1, np.dtype(source.kind))
    except (KeyError, TypeError, ValueError, OverflowError, SettingsError, ModelFileError):
        return found
    # A range of values is said for one type of images; it holds for all, unless the steps differ.
    is_same = [_key(step, source) for step in steps] == [_key(s, source) for s in source.steps]
    return found | ({"normalization": normalization} if is_same else {})


def _key(step: Step, source: TensorNote) -> tuple[str, dict[str, Any], set[str]]:
    """Equal for equal steps."""
    values = {name: value for name, value in step.values.items() if name != "axis"}
    return step.name, values, set(step.axes) & set(source.axes)
