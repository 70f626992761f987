"""Plain PyTorch weights under the names of the file that a model came from."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor

from napari_unet.core.checkpoints.evidence import COUNTER
from napari_unet.core.checkpoints.origin import Origin
from napari_unet.core.checkpoints.saving.architecture import stored
from napari_unet.core.checkpoints.stated import STATEMENT, statement_of
from napari_unet.core.errors import ModelFileError
from napari_unet.core.model import Model

__all__ = ["plain_weights", "write_plain"]

SUFFIXES = (".pt", ".pth")
FROM_TORCH = ("PyTorch", "TorchScript", "ONNX", "torch")
"""Kinds of files in which tensors have the names of a PyTorch network, more or less."""


def write_plain(model: Model, path: Path) -> None:
    """Write the weights as a PyTorch state dict, which `load_state_dict` of the original takes.

    Names and shapes are those of the file that the model was opened from, prefix and all, or
    those of the network for a model made here. `torch.load(path, weights_only=True)` reads it, as
    nothing but tensors is in the file; only for networks that no other library has, they are in
    its "state_dict", and beside it stands which network it is, how intensities become its input and
    what its outputs mean. It appears whole or not at all.

    Parameters
    ----------
    path : where; the suffix `.pt` is added unless it is `.pt` or `.pth`.

    Raises
    ------
    ModelFileError
        If the file cannot be written, or if the model is from another library than PyTorch.
    """
    _check_names(model)
    if path.suffix.lower() not in SUFFIXES:
        path = path.with_name(f"{path.name}.pt")
    file = io.BytesIO()
    weights, statement = plain_weights(model), statement_of(model)
    torch.save(
        weights if statement is None else {"state_dict": weights, STATEMENT: statement}, file
    )
    stored(path, file.getvalue())


def _check_names(model: Model) -> None:
    """A state dict is of use only to a PyTorch network that has the same names."""
    origin = model.origin
    if model.architecture != "layered" or origin is None:
        return
    names = [name for own in origin.names.values() for name in own]
    if not origin.container.startswith(FROM_TORCH) or any("::" in name for name in names):
        raise ModelFileError(
            f"{model.description.name} was opened from a {origin.container or 'list of layers'}, "
            f"whose weights no PyTorch network has the names of. Save it as a model of U-Net Live, "
            f"as a bioimage.io package or as ONNX."
        )


def plain_weights(model: Model) -> OrderedDict[str, Tensor]:
    """The weights by their names in the file that the model was opened from."""
    origin = model.origin or Origin(file="")
    weights: OrderedDict[str, Tensor] = OrderedDict()
    for name, value in model.network.state_dict().items():
        # NOTE: a copy, as `torch.save` writes all of the memory that a tensor is a view of
        tensor = value.detach().cpu().clone().contiguous()
        tensor = tensor.reshape(origin.shapes.get(name, tensor.shape))
        for given in _names_of(name, origin):
            weights[origin.prefix + given] = tensor
    for name, value in model.extras.items():
        weights[origin.prefix + name] = value.detach().cpu().clone().contiguous()
    return weights


def _names_of(name: str, origin: Origin) -> tuple[str, ...]:
    """What a tensor is called in the file; a counter that files leave out, as what is beside it."""
    if name in origin.names or not name.endswith(COUNTER):
        return origin.names.get(name, (name,))
    beside = origin.names.get(f"{name.removesuffix(COUNTER)}running_mean", ())
    return tuple(f"{one.removesuffix('running_mean')}{COUNTER}" for one in beside) or (name,)
