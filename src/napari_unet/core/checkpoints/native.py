"""This project's own format: safetensors weights, the description as JSON in the header.

The header's metadata holds `format`, `version`, `architecture`, and as JSON `config`,
`description` and `history`. The network is rebuilt from the file alone, and strictly.
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

from napari_unet.core.device import choose_device
from napari_unet.core.errors import ModelFileError
from napari_unet.core.model import Description, Model, Round, weights_id
from napari_unet.core.networks import NETWORKS, UNetConfig, build_network
from napari_unet.core.normalization import Normalization
from napari_unet.core.settings import ObjectSettings
from napari_unet.core.whole_file import write_whole

__all__ = ["build_with_weights", "read_history", "read_native", "write_native"]

FORMAT = "napari-unet-live"
VERSION = 1
MAX_LEVELS = 16


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
    architecture = metadata["architecture"]
    if architecture not in NETWORKS:
        build_network(architecture, NETWORKS["unet"][0]())  # raises the sentence for it
    config = _config_from(NETWORKS[architecture][0], json.loads(metadata["config"]))
    network = build_with_weights(architecture, config, weights)
    return Model(
        network=network,
        architecture=architecture,
        config=config,
        description=_description_from(json.loads(metadata["description"])),
        device=choose_device("cpu"),
        id=weights_id(network),
        history=tuple(Round(**values) for values in json.loads(metadata["history"])),
    )


def _config_from(kind: type[UNetConfig], values: dict[str, Any]) -> UNetConfig:
    numbers = (values["dims"], values["in_channels"], values["out_channels"], *values["widths"])
    if not all(type(number) is int for number in numbers):
        raise ValueError(f"not all of {numbers} are whole numbers")
    if len(values["widths"]) > MAX_LEVELS:
        raise ValueError(f"{len(values['widths'])} levels are more than any image can be halved")
    return kind(**{**values, "widths": tuple(values["widths"])})


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
    with torch.device("meta"):
        network = build_network(architecture, config)
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
    network.load_state_dict(exact, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor is dense, real, and has a value of its own for each element."""
    return (
        value.layout is torch.strided
        and value.device.type == "cpu"
        and not (value.is_complex() or value.is_quantized)
        and value.untyped_storage().nbytes() >= value.numel() * value.element_size()
    )


def _description_from(values: dict[str, Any]) -> Description:
    values = dict(values)
    for name in ("name", "segments", "channels", "licence", "source", "card"):
        if not isinstance(values.get(name, ""), str):
            raise TypeError(f"{name} is no text")
    values["normalization"] = Normalization(**values["normalization"])
    values["objects"] = ObjectSettings(**values["objects"])
    for name in ("class_names", "outputs", "output_class", "assumed"):
        values[name] = tuple(values[name])
    return Description(**values)


def write_native(model: Model, path: Path, half: bool = False) -> None:
    """Write `model` to `path`; the file appears whole or not at all."""
    if path.suffix != ".safetensors":
        path = path.with_name(path.name + ".safetensors")
    weights = {
        name: _stored(value.detach().cpu(), half).contiguous()
        for name, value in model.network.state_dict().items()
    }
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "architecture": model.architecture,
        "config": _json(asdict(model.config)),
        "description": _json(asdict(model.description)),
        "history": _json([asdict(entry) for entry in model.history]),
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


def _json(values: Any) -> str:
    """JSON text; numpy's numbers become plain ones."""
    return json.dumps(values, default=lambda number: number.item())
