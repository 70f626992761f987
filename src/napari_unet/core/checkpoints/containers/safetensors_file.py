"""Safetensors files, read by the library of that name, which checks everything they say."""

from __future__ import annotations

import json
import struct
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from napari_unet.core.checkpoints.containers.source import Source, shown
from napari_unet.core.checkpoints.containers.tensors import as_float32, converted_note, type_of
from napari_unet.core.checkpoints.evidence import Contents
from napari_unet.core.errors import ModelFileError

__all__ = ["read_safetensors"]


def read_safetensors(source: Source) -> Contents:
    """Read all tensors; raises `ModelFileError`.

    The tree is the state dict; with free text in the file it is `{"state_dict": ..., "metadata":
    ...}` instead.
    """
    try:
        stored = _from_path(source) if source.path else _from_memory(source)
        header = _header(source)
    except safetensors.SafetensorError as error:
        raise ModelFileError(
            f"It begins like a safetensors file, but is damaged or incomplete "
            f"({shown(str(error))}). Download or copy it again."
        ) from error
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ModelFileError(
            "It holds numbers of a kind that cannot be used here. Save it as float32."
        ) from error
    converted: set[str] = set()
    metadata = header.pop("__metadata__", None)
    tensors = {name: _checked(stored[name], name, converted) for name in header}
    return Contents(
        container="safetensors file",
        tree={"state_dict": tensors, "metadata": metadata} if metadata else tensors,
        notes=converted_note(converted),
    )


def _header(source: Source) -> dict[str, Any]:
    """Names in the order of the file, which the library does not keep; it has checked them."""
    n_header: int = struct.unpack("<Q", source.head(8))[0]
    header: dict[str, Any] = json.loads(source.head(8 + n_header)[8:])
    return header


def _from_path(source: Source) -> dict[str, Tensor]:
    with safetensors.safe_open(source.path, framework="pt") as file:
        # NOTE: copies, as the file may change or vanish while the model is open
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


def _from_memory(source: Source) -> dict[str, Tensor]:
    with source.open() as file:
        return safetensors.torch.load(file.read())


def _checked(value: Tensor, name: str, converted: set[str]) -> Tensor:
    type_of(str(value.dtype).removeprefix("torch."), name)
    return as_float32(value, converted)
