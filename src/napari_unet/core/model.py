"""A model: a network and everything that must be known to use it rightly."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from napari_unet.core.device import Device
from napari_unet.core.errors import ModelFileError
from napari_unet.core.networks import UNetConfig
from napari_unet.core.normalization import Normalization
from napari_unet.core.settings import ObjectSettings

__all__ = ["BUILT_IN", "Description", "Model", "Round", "load_model", "save_model", "weights_id"]

_MODELS = Path(__file__).parent.parent / "models"

BUILT_IN: dict[str, Path] = {"nuclei": _MODELS / "nuclei.safetensors"}
"""Name to file of the models that come with the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a model does, in words for people and in values for the program.

    Attributes
    ----------
    name, segments : a short name, and what it finds, in plain words.
    dims : 2 for slices `(y, x)`, 3 for volumes `(z, y, x)`.
    in_channels, channels : how many channels go in, and what they are, in plain words.
    class_names : what can be painted; the first one is the background.
    outputs : what each output channel of the network is.
    output_class : the class that each output counts towards.
    inside : the output that marks the inside of objects as opposed to their border, if any.
    activation : how logits become probabilities.
    normalization : how intensities become input.
    objects : how probabilities become objects, unless the user chooses otherwise.
    pixel_size : pixel size of the training images in µm, if known.
    licence, source, card : terms, origin, and a longer text (Markdown).
    scores : measured figures, by kind of image, then by measure.
    assumed : names of attributes that the file did not state and that were assumed.
    """

    name: str
    segments: str = "objects"
    dims: Literal[2, 3] = 2
    in_channels: int = 1
    channels: str = "one channel"
    class_names: tuple[str, ...] = ("background", "object")
    outputs: tuple[str, ...] = ("background", "object")
    output_class: tuple[int, ...] = (0, 1)
    inside: int | None = None
    activation: Literal["softmax", "sigmoid"] = "softmax"
    normalization: Normalization = field(default_factory=Normalization)
    objects: ObjectSettings = field(default_factory=ObjectSettings)
    pixel_size: float | None = None
    licence: str = "unknown"
    source: str = "unknown"
    card: str = ""
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.outputs) != len(self.output_class):
            raise ModelFileError(
                f"The model names {len(self.outputs)} outputs but says for "
                f"{len(self.output_class)} which class they are; the file is inconsistent."
            )
        n_classes = 2 if len(self.output_class) == 1 else max(self.output_class) + 1
        if len(self.class_names) != n_classes:
            raise ModelFileError(
                f"The model names {len(self.class_names)} classes, but its outputs make "
                f"{n_classes}; the file is inconsistent."
            )
        counted = set(self.output_class) | ({0} if len(self.output_class) == 1 else set())
        if counted != set(range(n_classes)):
            raise ModelFileError(
                f"The outputs of the model count towards the classes {self.output_class}, but "
                f"each of 0 to {n_classes - 1} needs one; the file is inconsistent."
            )
        wanted = "sigmoid" if len(self.outputs) == 1 else "softmax"
        if self.activation != wanted:
            raise ModelFileError(
                f"A model with {len(self.outputs)} output(s) needs the activation {wanted!r}, "
                f"but says {self.activation!r}; the file is inconsistent."
            )
        if self.inside is not None and self.inside not in range(len(self.outputs)):
            raise ModelFileError(
                f"The inside of objects is said to be output {self.inside}, but the model has "
                f"{len(self.outputs)}, counted from 0; the file is inconsistent."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of fine-tuning: where it started, what it did, what it gained.

    Attributes
    ----------
    id, parent : `Model.id` after and before.
    name, created : a name for people, and the time (ISO 8601, UTC).
    settings : the settings that were used.
    scores_before, scores_after : on held-out corrections, measured alike.
    n_corrected : corrected pixels that were trained on, in px.
    seconds : duration, in s.
    """

    id: str
    parent: str
    name: str
    created: str
    settings: Mapping[str, Any]
    scores_before: Mapping[str, float]
    scores_after: Mapping[str, float]
    n_corrected: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """A network in evaluation mode on its device, its description and its history.

    A model is a value: whatever changes it makes a new one.
    """

    network: nn.Module
    architecture: str
    config: UNetConfig
    description: Description
    device: Device
    id: str
    history: tuple[Round, ...] = ()

    def __post_init__(self) -> None:
        said = (self.description.dims, self.description.in_channels, len(self.description.outputs))
        built = (self.config.dims, self.config.in_channels, self.config.out_channels)
        if said != built:
            raise ModelFileError(
                f"The description of {self.description.name!r} says dims, input channels and "
                f"outputs are {said}, but the network has {built}; the file is inconsistent."
            )

    @property
    def title(self) -> str:
        """Name with the number of rounds of fine-tuning, for people."""
        if not self.history:
            return self.description.name
        return f"{self.description.name}, {self.history[-1].name}"

    def described(self, **changes: Any) -> Model:
        """The same network with a changed description."""
        return replace(self, description=replace(self.description, **changes))


def weights_id(network: nn.Module) -> str:
    """Twelve hexadecimal digits that stand for the weights; equal weights, equal id."""
    digest = hashlib.blake2b(digest_size=6)
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def load_model(source: str | Path | Model, device: str = "auto") -> Model:
    """Open a model by built-in name or by file, on the best device. Runs no code from the file.

    Parameters
    ----------
    source : "nuclei", or a path to a `.safetensors` file of this project or to a PyTorch
        state dict (`.pt`, `.pth`) of this project's U-Net. A `Model` is moved to `device`.
    device : "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises
    ------
    ModelFileError
        If there is no such file, or it is not such a model.
    """
    from napari_unet.core.checkpoints import open_checkpoint, place

    if isinstance(source, Model):
        return place(source, device)
    path = BUILT_IN.get(str(source), Path(source))
    return open_checkpoint(path, device)


def save_model(model: Model, path: str | Path, half: bool = False) -> None:
    """Write a model with its description and history, all in one `.safetensors` file.

    The file appears whole or not at all.

    Parameters
    ----------
    model : what to save.
    path : where; the suffix `.safetensors` is added if it is missing.
    half : keep the weights as float16, for a file of half the size.

    Raises
    ------
    ModelFileError
        If the file cannot be written.
    """
    from napari_unet.core.checkpoints import write_native

    write_native(model, Path(path), half=half)
