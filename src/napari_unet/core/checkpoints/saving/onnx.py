"""Networks as ONNX, which most programs run without Python."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.saving.architecture import portable, stored
from napari_unet.core.checkpoints.saving.sizes import Sizes, sizes_of
from napari_unet.core.errors import ModelFileError
from napari_unet.core.model import Model

__all__ = ["OPSET", "can_write_onnx", "onnx_bytes", "opset_of", "write_onnx"]

OPSET = 17
"""Version of the operators: one that programs of the last years know."""
NEEDED = ("onnx", "onnxscript")
MAX_BYTES = 2**31 - 1
"""A single file cannot be larger in this format."""


def can_write_onnx() -> bool:
    """Whether the packages for it are installed."""
    return all(importlib.util.find_spec(name) is not None for name in NEEDED)


def write_onnx(model: Model, path: Path) -> None:
    """Write the network as ONNX: normalised image `input` to logits `output`, of any fitting size.

    The file appears whole or not at all. What is done to an image before, and to the logits
    after, is not in it.

    Parameters
    ----------
    path : where; the suffix `.onnx` is added if it is missing.

    Raises
    ------
    ModelFileError
        If the packages for it are missing, if ONNX cannot say what the network does, or if the
        file cannot be written.
    """
    if path.suffix.lower() != ".onnx":
        path = path.with_name(f"{path.name}.onnx")
    network = portable(model)
    stored(path, onnx_bytes(network, sizes_of(network, model)))


def onnx_bytes(network: nn.Module, sizes: Sizes) -> bytes:
    """A network on the processor, in evaluation mode, as ONNX.

    Raises
    ------
    ModelFileError
        If the packages for it are missing, or ONNX cannot say what the network does.
    """
    if not can_write_onnx():
        raise ModelFileError(
            "To write ONNX files the packages onnx and onnxscript are needed, and they are not "
            "installed. Run: pip install 'napari-unet-live[onnx]'"
        )
    n_bytes = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    if n_bytes > MAX_BYTES:
        raise ModelFileError(
            f"The network is too large for an ONNX file ({n_bytes / 1e9:.1f} GB; 2 GB at most). "
            f"Save it as .safetensors or as plain PyTorch weights instead."
        )
    problem: Exception | None = None
    # The tracing exporter takes a tenth of the time of its successor, which knows more networks.
    for dynamo in (False, True):
        try:
            with _quiet():
                return _exported(network, sizes, dynamo)
        except Exception as error:  # NOTE: of the exporters' own, of many kinds
            problem = error
    first = str(problem).strip().splitlines()
    raise ModelFileError(
        f"This network cannot be written as ONNX ({first[0] if first else type(problem).__name__}"
        f"). Save it as .safetensors or as plain PyTorch weights instead."
    ) from problem


def opset_of(content: bytes) -> int:
    """The version of the operators in an ONNX file."""
    onnx = importlib.import_module("onnx")
    return max(int(entry.version) for entry in onnx.load_from_string(content).opset_import)


def _exported(network: nn.Module, sizes: Sizes, dynamo: bool) -> bytes:
    image = sizes.image()
    space = range(2, image.ndim)
    common: dict[str, Any] = {
        "input_names": ["input"], "output_names": ["output"], "verbose": False, "dynamo": dynamo,
    }  # fmt: skip
    if dynamo:
        free = {0: torch.export.Dim.DYNAMIC, **dict.fromkeys(space, torch.export.Dim.DYNAMIC)}
        common |= {"dynamic_shapes": (free,), "external_data": False}
    else:
        letters = "zyx"[-len(space) :]
        named = {0: "batch", **dict(zip(space, letters, strict=True))}
        axes = {"input": named, "output": {at: f"{name}_out" for at, name in named.items()}}
        axes["output"][0] = "batch"
        common |= {"dynamic_axes": axes, "opset_version": OPSET}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        torch.onnx.export(network, (image,), path, **common)
        content = path.read_bytes()
    _check(content, network, sizes)
    return content


def _check(content: bytes, network: nn.Module, sizes: Sizes) -> None:
    """Raise an error unless what was written is sound and, if it can be tried, does the same."""
    onnx = importlib.import_module("onnx")
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    if importlib.util.find_spec("onnxruntime") is None:
        return
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    for image in (sizes.image(), sizes.image(1)):
        found = torch.from_numpy(session.run(None, {"input": image.numpy()})[0])
        _check_alike(found, network(image))


def _check_alike(found: Tensor, wanted: Tensor) -> None:
    if found.shape != wanted.shape:
        raise ValueError(f"it gives {tuple(found.shape)} instead of {tuple(wanted.shape)}")
    difference = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1))
    if not difference < 1e-3:
        raise ValueError(f"its results differ by {difference:.2g}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' talk, which is not for users."""
    names = ("torch.onnx", "onnxscript", "onnx_ir")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            for name in names:
                logging.getLogger(name).setLevel(logging.CRITICAL)
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
