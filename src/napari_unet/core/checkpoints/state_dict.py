"""A plain PyTorch state dict of this project's own U-Net, as `torch.save` writes it.

Read with `weights_only=True`: tensors and plain containers, no code. What the tensors cannot
tell (classes, normalisation) is assumed, and the description says so.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_unet.core.checkpoints.native import build_with_weights
from napari_unet.core.device import choose_device
from napari_unet.core.errors import ModelFileError, SettingsError
from napari_unet.core.model import Description, Model, weights_id
from napari_unet.core.networks import UNetConfig

__all__ = ["read_state_dict"]

WRAPPERS = ("state_dict", "model_state_dict", "model", "network")
ASSUMED = ("class_names", "activation", "normalization", "channels", "pixel_size")


def read_state_dict(path: Path) -> Model:
    """Read a state dict onto the processor and rebuild the U-Net from its shapes.

    Raises
    ------
    ModelFileError
        If the file is damaged, holds more than tensors, or is no U-Net of this project.
    """
    weights = _tensors(_read(path), path)
    try:
        config = _config_of(weights, path)
        network = build_with_weights("unet", config, weights)
    except (SettingsError, IndexError, RuntimeError) as error:
        raise ModelFileError(
            f"The tensors in {path.name} have shapes that no U-Net has ({error})."
        ) from error
    return Model(
        network=network,
        architecture="unet",
        config=config,
        description=_description_of(config, path),
        device=choose_device("cpu"),
        id=weights_id(network),
    )


def _read(path: Path) -> Any:
    try:
        _check_unpacked_size(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelFileError(
            f"{path.name} holds more than weights: opening it would run code that it carries, "
            f"which is never done here. Ask for the state dict alone "
            f"(torch.save(model.state_dict(), ...)), or for a safetensors file."
        ) from error
    except Exception as error:  # NOTE: a damaged pickle can trip the unpickler in any way
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelFileError(
            f"{path.name} is damaged or is no PyTorch file ({first_line}). Copy it again."
        ) from error


def _check_unpacked_size(path: Path) -> None:
    """Raise `ValueError` if a zip file unpacks to more than its own size; torch never packs."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
                raise ValueError("it is a compressed archive")


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict itself, taken out of the usual wrappers."""
    for _ in range(3):  # NOTE: not for ever, a dict can hold itself
        inner = content if isinstance(content, dict) else {}
        found = (inner[key] for key in WRAPPERS if isinstance(inner.get(key), dict))
        content = next(found, content)
    if not isinstance(content, dict) or not content:
        raise ModelFileError(f"{path.name} holds no state dict but a {type(content).__name__}.")
    if not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelFileError(f"{path.name} holds other things than tensors; no network is in it.")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def _config_of(weights: dict[str, Tensor], path: Path) -> UNetConfig:
    """Read depth, widths, channels and kind of layers off the names and shapes."""
    first = re.compile(r"encoder\.(\d+)\.0\.weight")
    levels = {int(found[1]): weights[name] for name in weights if (found := first.fullmatch(name))}
    head = weights.get("head.weight")
    if not levels or head is None or sorted(levels) != list(range(len(levels))):
        raise ModelFileError(
            f"{path.name} is a state dict, but not of this project's U-Net (its first tensor is "
            f"{next(iter(weights))!r}). Other U-Nets cannot be opened yet."
        )
    if head.ndim not in (4, 5) or any(level.ndim != head.ndim for level in levels.values()):
        raise ModelFileError(f"{path.name}: the convolutions are neither all 2D nor all 3D.")
    return UNetConfig(
        dims=2 if head.ndim == 4 else 3,
        in_channels=levels[0].shape[1],
        out_channels=head.shape[0],
        widths=tuple(levels[i].shape[0] for i in range(len(levels))),
        norm="batch" if "encoder.0.1.running_mean" in weights else "none",
        upsampling="linear" if "up.0.1.weight" in weights else "transposed",
    )


def _description_of(config: UNetConfig, path: Path) -> Description:
    n_outputs = config.out_channels
    n_objects = max(1, n_outputs - 1)
    names = ("object",) if n_objects == 1 else tuple(f"class {i + 1}" for i in range(n_objects))
    classes = ("background", *names)
    return Description(
        name=path.stem,
        dims=config.dims,
        in_channels=config.in_channels,
        channels="one channel" if config.in_channels == 1 else f"{config.in_channels} channels",
        class_names=classes,
        outputs=classes if n_outputs > 1 else names,
        output_class=tuple(range(n_outputs)) if n_outputs > 1 else (1,),
        activation="softmax" if n_outputs > 1 else "sigmoid",
        source=str(path.name),
        assumed=ASSUMED,
    )
