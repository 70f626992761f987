"""Weights beside which it is stated which network of this project they are of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from napari_unet.core.architectures import architecture_of
from napari_unet.core.checkpoints.building import Wishes, as_decided
from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Understanding, classes_of, families
from napari_unet.core.checkpoints.plain import from_plain, to_json
from napari_unet.core.errors import ModelFileError, SettingsError
from napari_unet.core.model import Model
from napari_unet.core.networks import kinds

__all__ = ["STATEMENT", "config_stated", "stated_in", "statement_of"]

STATEMENT = "napari_unet"
"""What it is called in PyTorch files, beside "state_dict"."""


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
    return {"architecture": model.architecture, "config": json.loads(to_json(model.config))}


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
    understood = Understanding(
        config=config,
        about=classes_of(config.out_channels),
        assumed=("class_names", "activation", "normalization", "channels", "pixel_size"),
    )
    return as_decided(evidence, str(architecture), understood, wishes)
