"""A network from its name and config, and a copy of a model's network to be written."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from napari_unet.core.architectures import architecture_of
from napari_unet.core.checkpoints.plain import from_plain, to_json
from napari_unet.core.errors import ModelFileError, SettingsError
from napari_unet.core.model import Model
from napari_unet.core.whole_file import write_whole

__all__ = ["network", "plain_config", "portable", "stored"]


def network(architecture: str, config: Mapping[str, Any]) -> nn.Module:
    """A network with random weights, for programs that load the weights of a saved package.

    Parameters
    ----------
    architecture, config : name of a family of networks, and its config as plain values, as they
        stand in the package.

    Raises
    ------
    ModelFileError
        If there is no such family, or its config is another one.
    """
    kind = architecture_of(architecture)
    try:
        return kind.build(from_plain(kind.config, config))
    except (SettingsError, TypeError, ValueError, OverflowError) as error:
        raise ModelFileError(
            f"The settings of a network of the kind {architecture!r} do not make sense ({error})."
        ) from error


def plain_config(model: Model) -> dict[str, Any]:
    """The config of a model as `network` takes it: numbers, texts, lists."""
    values: dict[str, Any] = json.loads(to_json(model.config))
    return values


def portable(model: Model) -> nn.Module:
    """A copy of a model's network on the processor, in evaluation mode, for no training."""
    copied = copy.deepcopy(model.network).to("cpu", torch.float32)
    return copied.eval().requires_grad_(False)


def stored(path: Path, content: bytes) -> None:
    """Write a file; it appears whole or not at all.

    Raises
    ------
    ModelFileError
        If it cannot be written.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise ModelFileError(
            f"The model could not be written to {path} ({error.strerror or error}). "
            f"Choose a folder that you may write to and that has room."
        ) from error
