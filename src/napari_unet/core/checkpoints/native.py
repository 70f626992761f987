"""This project's own format: safetensors weights, the description as JSON in the header.

The header's metadata holds `format`, `version`, `architecture`, and as JSON `config`,
`description`, `history` and `origin`. The network is rebuilt from the file alone, and strictly.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from napari_unet.core.architectures import architecture_of
from napari_unet.core.checkpoints.containers.source import Source
from napari_unet.core.checkpoints.origin import Origin
from napari_unet.core.checkpoints.plain import from_plain, to_json
from napari_unet.core.checkpoints.rebuild import fill
from napari_unet.core.device import choose_device
from napari_unet.core.errors import ModelFileError
from napari_unet.core.model import Description, Model, Round, weights_id
from napari_unet.core.whole_file import write_whole

__all__ = ["build_with_weights", "is_native", "read_history", "read_native", "write_native"]

FORMAT = "napari-unet-live"
MAX_HEADER = 1 << 20
EXTRA = "extra:"
"""Before the names of tensors that the network does not use."""
PROGRAM = "torchscript"
"""The architecture of networks that are programs, run because their user trusts them."""
VERSION = 2
"""1: without origin, with fewer settings of objects and of normalization."""


def read_native(path: Path) -> Model:
    """Read a model file of this project onto the processor.

    Raises
    ------
    ModelFileError
        If the file is damaged, is another kind of safetensors file, or is too new.
    """
    metadata, weights = _read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise ModelFileError(
            f"{path.name} is a safetensors file, but not one of napari-unet-live: it does not "
            f"say which network its {len(weights)} tensors belong to. Ask for the model as "
            f"saved by napari-unet-live."
        )
    try:
        if int(metadata["version"]) > VERSION:
            raise ModelFileError(
                f"{path.name} was written by a newer version of napari-unet-live "
                f"(format {metadata['version']}, known here: {VERSION}). Update the plugin."
            )
        return _rebuild(metadata, weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelFileError(
            f"The description inside {path.name} is damaged ({error}). "
            f"Save the model again, or use another copy."
        ) from error


def is_native(source: Source) -> bool:
    """Whether a file is one of this project, whatever its name, as its first bytes say."""
    with source.open() as file:
        head = file.read(MAX_HEADER)
    n_bytes = int.from_bytes(head[:8], "little")
    return (
        head[8:9] == b"{"
        and b'"__metadata__"' in head
        and f'"{FORMAT}"'.encode() in head[8 : 8 + n_bytes]
    )


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(
            f"{path.name} is damaged or incomplete ({error}). Copy or download it again."
        ) from error
    return metadata, weights


def _rebuild(metadata: dict[str, str], weights: dict[str, Tensor]) -> Model:
    kind = architecture_of(metadata["architecture"])
    config: Any = from_plain(kind.config, json.loads(metadata["config"]))
    extras = {
        name.removeprefix(EXTRA): weights.pop(name) for name in [*weights] if name.startswith(EXTRA)
    }
    network = build_with_weights(kind.name, config, weights)
    origin = json.loads(metadata.get("origin", "null"))
    return Model(
        network=network,
        architecture=kind.name,
        config=config,
        description=from_plain(Description, json.loads(metadata["description"])),
        device=choose_device("cpu"),
        id=weights_id(network),
        history=tuple(Round(**values) for values in json.loads(metadata["history"])),
        origin=None if origin is None else from_plain(Origin, origin),
        extras=extras,
    )


def read_history(path: Path) -> tuple[Round, ...]:
    """The rounds of fine-tuning of a model file, read from its header alone; () if damaged."""
    try:
        with safe_open(str(path), framework="np") as file:
            entries = json.loads((file.metadata() or {}).get("history", "[]"))
        return tuple(Round(**values) for values in entries)
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError):
        return ()


def build_with_weights(architecture: str, config: Any, weights: dict[str, Tensor]) -> nn.Module:
    """Build a network around `weights`, strictly; no memory is taken before all fits.

    Raises
    ------
    ModelFileError
        If names or shapes differ from those of the network.
    """
    build = architecture_of(architecture).build
    with torch.device("meta"):
        network = build(config)
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if not all(_is_plain(value) for value in weights.values()):
        raise ModelFileError("The file holds tensors that are not plain arrays of numbers.")
    if expected != found:
        odd = sorted(set(expected.items()) ^ set(found.items()))[0][0]
        raise ModelFileError(
            f"The weights do not fit the network they claim to be: {odd!r} is "
            f"{found.get(odd, 'missing')} in the file and {expected.get(odd, 'unknown')} in the "
            f"network. The file is damaged, or from another version."
        )
    exact = {
        name: weights[name].to(torch.float32 if value.is_floating_point() else value.dtype)
        for name, value in network.state_dict().items()
    }
    return fill(network, build, config, exact)


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor is dense, real, and has a value of its own for each element."""
    return (
        value.layout is torch.strided
        and value.device.type == "cpu"
        and not (value.is_complex() or value.is_quantized)
        and value.untyped_storage().nbytes() >= value.numel() * value.element_size()
    )


def write_native(model: Model, path: Path, half: bool = False) -> None:
    """Write `model` to `path`; the file appears whole or not at all."""
    if path.suffix != ".safetensors":
        path = path.with_name(path.name + ".safetensors")
    if model.architecture == PROGRAM:
        raise ModelFileError(
            f"{model.description.name} is a program that only its own file can run, so that it "
            f"cannot be saved as a model of U-Net Live. Keep its file."
        )
    extras = {EXTRA + name: value for name, value in model.extras.items()}
    weights = {
        name: _stored(value.detach().cpu(), half).clone().contiguous()
        for name, value in {**model.network.state_dict(), **extras}.items()
    }
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "architecture": model.architecture,
        "config": to_json(model.config),
        "description": to_json(model.description),
        "history": to_json([asdict(entry) for entry in model.history]),
        "origin": to_json(model.origin),
    }
    try:
        write_whole(path, save(weights, metadata=metadata))
    except OSError as error:
        raise ModelFileError(
            f"The model could not be written to {path} ({error.strerror or error}). "
            f"Choose a folder that you may write to and that has room."
        ) from error


def _stored(value: Tensor, half: bool) -> Tensor:
    """A tensor as it is kept; one that float16 cannot hold stays float32."""
    if not value.is_floating_point():
        return value
    smaller = value.half()
    return smaller if half and torch.isfinite(smaller).all() else value.float()
