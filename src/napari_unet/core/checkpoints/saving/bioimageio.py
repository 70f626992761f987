"""A model as a package of the bioimage.io model zoo, for other programs to open."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml  # type: ignore[import-untyped]
from torch import nn

from napari_unet.core.checkpoints.saving.architecture import portable, stored
from napari_unet.core.checkpoints.saving.bioimageio_text import (
    description_of,
    environment,
    readme,
)
from napari_unet.core.checkpoints.saving.example import example_of, picture_of
from napari_unet.core.checkpoints.saving.onnx import can_write_onnx, onnx_bytes
from napari_unet.core.checkpoints.saving.sizes import Sizes, sizes_of
from napari_unet.core.errors import ModelFileError
from napari_unet.core.model import Model

__all__ = ["write_bioimageio"]

SAME = 1e-4
"""Results of two forms of one network that differ by less are the same."""


def write_bioimageio(
    model: Model,
    path: Path,
    image: npt.NDArray[np.generic] | None = None,
    authors: Sequence[str] = (),
) -> None:
    """Write a zip that programs of the bioimage.io community open (format 0.5).

    In it are the weights (as a state dict, as TorchScript, and as ONNX where the packages for it
    are installed), an example with its result, a picture, a text, and the description. The file
    appears whole or not at all.

    Parameters
    ----------
    path : where; the suffix `.zip` is added if it is missing.
    image : raw image `(c, [z,] y, x)` for the example; without one it is simulated.
    authors : names of the people who made the model.

    Raises
    ------
    ModelFileError
        If bioimage.io has no words for what the model does, or the file cannot be written.
    """
    if path.suffix.lower() != ".zip":
        path = path.with_name(f"{path.name}.zip")
    network = portable(model)
    sizes = sizes_of(network, model)
    example = example_of(network, model.description, sizes, image)
    files, left_out = _weight_files(network, sizes)
    files |= {
        "test_input.npy": _npy(example.image),
        "test_output.npy": _npy(example.result),
        "cover.png": picture_of(example, model.description),
        "environment.yaml": environment().encode(),
        "README.md": readme(model, sizes, example, left_out).encode(),
    }
    description = description_of(model, sizes, example, files, authors)
    text = yaml.safe_dump(description, sort_keys=False, allow_unicode=True, width=100)
    stored(path, _zip({"bioimageio.yaml": text.encode(), **files}))


def _weight_files(network: nn.Module, sizes: Sizes) -> tuple[dict[str, bytes], list[str]]:
    """The weights in all forms that are possible, and sentences on those that are not."""
    left_out: list[str] = []
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    files = {"weights.pt": file.getvalue()}
    try:
        files["weights.torchscript.pt"] = _torchscript(network, sizes)
    except (RuntimeError, ValueError, TypeError) as error:
        left_out.append(f"There are no TorchScript weights ({str(error).splitlines()[0]}).")
    if not can_write_onnx():
        return files, left_out
    try:
        files["weights.onnx"] = onnx_bytes(network, sizes)
    except ModelFileError as error:
        left_out.append(f"There are no ONNX weights. {error}")
    return files, left_out


def _torchscript(network: nn.Module, sizes: Sizes) -> bytes:
    """The network as it runs on one image, written down; checked on an image of another size."""
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")
        traced: Any = torch.jit.trace(network, sizes.image(), check_trace=False)
        for n_steps in (0, 1):
            image = sizes.image(n_steps)
            found, wanted = traced(image), network(image)
            if found.shape != wanted.shape or float((found - wanted).abs().max()) > SAME:
                raise ValueError("it works for images of one size only")
        file = io.BytesIO()
        torch.jit.save(traced, file)
    return file.getvalue()


def _npy(array: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _zip(files: Mapping[str, bytes]) -> bytes:
    """A zip, not packed, as weights hardly get smaller; equal files make an equal zip."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()
