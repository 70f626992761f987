"""Weights beside which it is stated which network of this project they are of."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, get_type_hints

from torch import Tensor

from napari_unet.core.architectures import architecture_of
from napari_unet.core.checkpoints.building import Wishes, as_decided
from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Understanding, classes_of, families
from napari_unet.core.checkpoints.plain import checked, from_plain, to_json
from napari_unet.core.errors import ModelFileError, SettingsError
from napari_unet.core.model import Description, Model
from napari_unet.core.networks import kinds

__all__ = ["STATEMENT", "config_stated", "stated_in", "statement_of"]

STATEMENT = "napari_unet"
"""What it is called in PyTorch files, beside "state_dict"."""

MEANING = ("class_names", "outputs", "output_class", "inside", "border", "activation", "inverted")
"""Attributes of a `Description` that only go together."""
BY_THEMSELVES = ("normalization", "objects", "pixel_size")


def config_stated(name: object, said: object) -> Any:
    """The config of a network; None if it is none that is known here."""
    if not isinstance(name, str) or not isinstance(said, Mapping):
        return None
    try:
        return from_plain(architecture_of(name).config, said)
    except (ModelFileError, SettingsError, TypeError, ValueError, OverflowError):
        return None


def statement_of(model: Model) -> dict[str, Any] | None:
    """What is stated beside plain weights; None where their names tell it."""
    if model.architecture in families() or model.architecture not in kinds():
        return None
    about = {name: getattr(model.description, name) for name in (*MEANING, *BY_THEMSELVES)}
    said = {"architecture": model.architecture, "config": model.config, "description": about}
    plain: dict[str, Any] = json.loads(to_json(said))
    return plain


def _about_stated(said: object, n_outputs: int) -> dict[str, Any]:
    """What is stated of a `Description`; what is missing or wrong is left out."""
    found: dict[str, Any] = {}
    hints = get_type_hints(Description)
    for name in (*MEANING, *BY_THEMSELVES) if isinstance(said, Mapping) else ():
        try:
            found[name] = checked(hints[name], said[name], name)  # type: ignore[index]
        except (KeyError, SettingsError, TypeError, ValueError, OverflowError):
            continue
    size = found.get("pixel_size")
    if size is None or not 0 < size < math.inf:
        found.pop("pixel_size", None)
    try:
        Description(name="", **{name: found[name] for name in MEANING})
        is_meant = len(found["outputs"]) == n_outputs
    except (KeyError, ModelFileError):
        is_meant = False
    return {name: one for name, one in found.items() if is_meant or name not in MEANING}


def stated_in(tree: object, name: str, wishes: Wishes) -> Model | None:
    """The model in a PyTorch file that was written here; None for the files of others.

    Parameters
    ----------
    tree : what is in the file.
    name, wishes : of the file, and what the user has said of it.

    Raises
    ------
    ModelFileError
        If the weights are not those of the network.
    """
    said = tree.get(STATEMENT) if isinstance(tree, Mapping) else None
    if not isinstance(said, Mapping) or not isinstance(tree, Mapping):
        return None
    weights, architecture = tree.get("state_dict"), said.get("architecture")
    config = config_stated(architecture, said.get("config"))
    if config is None or not isinstance(weights, Mapping):
        return None
    tensors = {str(k): value for k, value in weights.items() if isinstance(value, Tensor)}
    evidence = Evidence(name=name, container="PyTorch zip", tensors=tensors)
    about = _about_stated(said.get("description"), config.out_channels)
    open_ones = ("class_names", "activation", "normalization", "channels", "pixel_size")
    understood = Understanding(
        config=config,
        about={**classes_of(config.out_channels), **about},
        assumed=tuple(name for name in open_ones if name not in about),
    )
    return as_decided(evidence, str(architecture), understood, wishes)
