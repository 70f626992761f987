"""Opening and saving models: one file per checkpoint family. Nothing in a file is executed."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

from napari_unet.core.checkpoints.native import read_native, write_native
from napari_unet.core.checkpoints.state_dict import read_state_dict
from napari_unet.core.device import choose_device
from napari_unet.core.errors import ModelFileError
from napari_unet.core.model import Model

__all__ = ["open_checkpoint", "place", "write_native"]

SUFFIXES = (".safetensors", ".pt", ".pth")


def open_checkpoint(path: Path, device: str = "auto") -> Model:
    """Open a model file by its first bytes, whatever its name.

    Raises
    ------
    ModelFileError
        If it does not exist, or is not a model that can be opened.
    """
    head = _head(path)
    if head[8:9] == b"{":  # NOTE: before the pickles, as the length before it may begin like one
        model = read_native(path)
    elif head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
        model = read_state_dict(path)
    else:
        raise ModelFileError(
            f"{path.name} is not a model that can be opened here: it is neither a safetensors "
            f"file nor a PyTorch state dict. Ask for the file as saved by napari-unet-live."
        )
    return place(model, device)


def _head(path: Path) -> bytes:
    """The first 16 bytes of a file that there is."""
    try:
        if path.is_dir():
            raise ModelFileError(f"{path} is a folder; a model is a file ({', '.join(SUFFIXES)}).")
        if path.exists() and not path.is_file():
            raise ModelFileError(f"{path} is not a file but a device; a model cannot be in it.")
        with path.open("rb") as file:
            return file.read(16)
    except FileNotFoundError as error:
        raise ModelFileError(
            f"There is no model file {path}. Check the path, or use the built-in 'nuclei'."
        ) from error
    except (OSError, ValueError) as error:  # NOTE: a path that holds a NUL is a ValueError
        raise ModelFileError(
            f"The model file {path} cannot be read ({getattr(error, 'strerror', None) or error}). "
            f"Check the path, and that you may read the file."
        ) from error


def place(model: Model, device: str) -> Model:
    """The same model on another device; the one passed in stays where it is."""
    chosen = choose_device(device)
    network = model.network
    if chosen.name != model.device.name:
        network = copy.deepcopy(network).to(chosen.torch_device)  # `to` alone works in place
    return replace(model, network=network, device=chosen)
