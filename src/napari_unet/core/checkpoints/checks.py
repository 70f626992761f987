"""Whether a rebuilt network is what it should be, and works."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.containers.source import shown
from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.engine.fitting import sizes_to_try
from napari_unet.core.errors import ModelFileError

__all__ = ["check_layers", "check_numbers", "first_line", "try_out"]

NOTED = (
    "kernel_size", "stride", "padding", "dilation", "groups", "output_padding", "padding_mode",
    "eps", "num_groups", "negative_slope", "mode", "align_corners", "ceil_mode",
)  # fmt: skip
"""Settings of layers that weights do not show, but a stored object does."""


def check_layers(network: nn.Module, evidence: Evidence, title: str) -> None:
    """Compare the rebuilt layers with those that the file noted down, if it did.

    Raises
    ------
    ModelFileError
        If one differs: somebody has changed the network and kept its names.
    """
    modules = dict(network.named_modules())
    for path, note in evidence.layers.items():
        ours = modules.get(path)
        if ours is None or not type(ours).__module__.startswith("torch.nn"):
            continue
        theirs = {name: note.values[name] for name in NOTED if name in note.values}
        if isinstance(getattr(nn, note.kind, None), type) and not list(ours.children()):
            theirs["kind"] = _plain_kind(note.kind)
        for name, value in theirs.items():
            is_kind = name == "kind"
            own = _plain_kind(type(ours).__name__) if is_kind else getattr(ours, name, value)
            if not _is_same(own, value):
                raise ModelFileError(
                    f"{evidence.name} has the names of a {title}, but its layer '{shown(path)}' "
                    f"was changed: its {name} is {value}, where that network has {own}. Such a "
                    f"variant cannot be rebuilt from its names; ask for it as ONNX or TorchScript."
                )


def _plain_kind(name: str) -> str:
    """What a layer does when it predicts, whatever its class is called."""
    if "Dropout" in name:
        return "Identity"
    if "BatchNorm" in name:  # the shapes tell the dimensions
        return "BatchNorm"
    return "Upsample" if name.startswith("Upsampl") else name


def _is_same(own: Any, theirs: Any) -> bool:
    """Whether two settings mean the same: 1 and (1, 1), None and False."""
    if isinstance(own, tuple) or isinstance(theirs, tuple | list):
        one, other = (
            tuple(value) if isinstance(value, tuple | list) else None for value in (own, theirs)
        )
        length = len(one or other or ())
        return (one or (own,) * length) == (other or (theirs,) * length)
    return bool(own == theirs) or (not own and not theirs)


def check_numbers(network: nn.Module, file: str) -> Iterator[str]:
    """A sentence if a network looks untrained.

    Raises
    ------
    ModelFileError
        If some weights are no numbers.
    """
    state = {name: value for name, value in network.state_dict().items() if value.numel()}
    broken = [
        name
        for name, value in state.items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if broken:
        raise ModelFileError(
            f"{len(broken)} of the {len(state)} tensors in {file} contain invalid numbers (NaN or "
            f"infinity), first '{shown(broken[0])}': its training went astray, and whatever it "
            f"predicts would be empty. Ask for an earlier state of the network."
        )
    means = [value for name, value in state.items() if name.endswith("running_mean")]
    weights = [value for value in state.values() if value.ndim >= 3]
    if means and not any(bool(value.any()) for value in means):
        yield "The network looks untrained: its statistics are those of a new one."
    elif weights and all(bool((value == value.flatten()[0]).all()) for value in weights):
        yield "The network looks untrained: all weights of each layer are the same."


@torch.inference_mode()
def try_out(network: nn.Module, config: Any, file: str) -> Iterator[str]:
    """Run the network on a small image; a sentence if what it says is odd.

    Raises
    ------
    ModelFileError
        If it takes no image, or gives something else than one value per output and pixel.
    """
    random = torch.Generator().manual_seed(0)
    problem = "it takes no image"
    for size in sizes_to_try(config.dims):
        image = torch.randn(1, config.in_channels, *size, generator=random)
        try:
            found = network(image)
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            problem = first_line(error)
            continue
        if not isinstance(found, Tensor) or found.shape[:2] != (1, config.out_channels):
            problem = "it does not give one value per output and pixel"
            break
        if not bool(found.isfinite().all()):
            yield "Tried on noise, the network gave values that are no numbers."
        elif found.numel() > 1 and float(found.std()) == 0:
            yield "Tried on noise, the network said the same everywhere; it may be untrained."
        return
    raise ModelFileError(
        f"The network in {file} was rebuilt, but does not work: {problem}. "
        f"Ask where it comes from, and please report this file."
    )


def first_line(error: Exception) -> str:
    """What torch says of an error, short enough to be shown."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
