"""A model: a network and everything that must be known to use it rightly."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from napari_unet.core.checkpoints.family import Config
from napari_unet.core.checkpoints.origin import Origin
from napari_unet.core.device import Device
from napari_unet.core.errors import ModelFileError
from napari_unet.core.normalization import Normalization
from napari_unet.core.outcomes import Outcome
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
    output_class : the class that each output counts towards; -1 for none. If none counts
        towards 0, what no output claims is background.
    inside : the output that marks the inside of objects as opposed to their border, if any.
    border : the output that marks the borders between objects, if any.
    activation : how logits become probabilities: "softmax" if the outputs compete, "sigmoid" if
        each is by itself, "none" if they are probabilities already.
    inverted : the outputs are probabilities of the opposite (with "sigmoid").
    normalization : how intensities become input.
    objects : how probabilities become objects, unless the user chooses otherwise.
    pixel_size : pixel size of the training images in µm, if known.
    licence, source, card : terms, origin, and a longer text (Markdown).
    scores : measured figures, by kind of image, then by measure.
    assumed : names of attributes, of this or of the config, that the file did not state and
        that were assumed.
    chosen : those among them that the user has decided.
    notes : what was found out when the file was opened, in sentences.
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
    border: int | None = None
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    inverted: bool = False
    normalization: Normalization = field(default_factory=Normalization)
    objects: ObjectSettings = field(default_factory=ObjectSettings)
    pixel_size: float | None = None
    licence: str = "unknown"
    source: str = "unknown"
    card: str = ""
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.outputs) != len(self.output_class):
            raise ModelFileError(
                f"The model names {len(self.outputs)} outputs but says for "
                f"{len(self.output_class)} which class they are; the file is inconsistent."
            )
        n_classes = max(1, *self.output_class) + 1
        if len(self.class_names) != n_classes:
            raise ModelFileError(
                f"The model names {len(self.class_names)} classes, but its outputs make "
                f"{n_classes}; the file is inconsistent."
            )
        if set(self.output_class) - {-1, 0} != set(range(1, n_classes)):
            raise ModelFileError(
                f"The outputs of the model count towards the classes {self.output_class}, but "
                f"each of 1 to {n_classes - 1} needs one; the file is inconsistent."
            )
        if self.activation not in ("softmax", "sigmoid", "none"):
            raise ModelFileError(
                f"The activation must be 'softmax', 'sigmoid' or 'none', but the model says "
                f"{self.activation!r}; the file is inconsistent."
            )
        if self.activation == "softmax" and 0 not in self.output_class:
            raise ModelFileError(
                "The outputs of the model compete (softmax), but none of them is the background; "
                "the file is inconsistent."
            )
        if self.inverted and self.activation != "sigmoid":
            raise ModelFileError(
                f"Only outputs that are each by themselves (sigmoid) can be inverted, but the "
                f"activation is {self.activation!r}; the file is inconsistent."
            )
        for marks in (self.inside, self.border):
            if marks is not None and marks not in range(len(self.outputs)):
                raise ModelFileError(
                    f"The inside or border of objects is said to be output {marks}, but the model "
                    f"has {len(self.outputs)}, counted from 0; the file is inconsistent."
                )

    @property
    def separator(self) -> int | None:
        """The output that tells touching objects apart, for `core.instances`: that of their
        inside, or `~i` for an output `i` that marks their borders."""
        if self.inside is not None or self.border is None:
            return self.inside
        return ~self.border

    @property
    def outcome(self) -> Outcome:
        """What the engine makes of logits."""
        return "inverted" if self.inverted else self.activation


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

    A model is a value: whatever changes it makes a new one. `origin` and `extras` are for going
    back: the file it is from, and the tensors in it that the network does not use.
    """

    network: nn.Module
    architecture: str
    config: Config
    description: Description
    device: Device
    id: str
    history: tuple[Round, ...] = ()
    origin: Origin | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)

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


def load_model(
    source: str | Path | Model,
    device: str = "auto",
    *,
    choose: str | None = None,
    trust: bool | str = False,
) -> Model:
    """Open a model by built-in name or by file, on the best device. Runs no code from the file.

    Parameters
    ----------
    source : "nuclei", or a path to a model file of any library that
        `napari_unet.core.checkpoints` knows, or to the folder of such a package. A `Model` is
        moved to `device`.
    device : "auto", "cpu", "cuda", "cuda:N" or "mps".
    choose : which model, for files that hold several.
    trust : True, or the SHA-256 of the file: where a file can only be opened by running a program
        that it carries, run it. It could do whatever you can do on this computer.

    Raises
    ------
    ChoiceNeeded
        If the file holds several models, and `choose` names none of them.
    TrustNeeded
        If it can only be opened by running a program that it carries.
    ModelFileError
        If there is no such file, or it is not such a model.
    """
    from napari_unet.core.checkpoints.opening import open_checkpoint, place

    if isinstance(source, Model):
        return place(source, device)
    if not str(source).strip():
        raise ModelFileError("No model was named. Give 'nuclei', or the path of a model file.")
    path = BUILT_IN.get(str(source), Path(source))
    return open_checkpoint(path, device, choose=choose, trust=trust)


def save_model(model: Model, path: str | Path, half: bool = False) -> None:
    """Write a model; the ending of the file says in which format.

    `.safetensors` (or none) is this project's own format, with description and history, all in
    one file. `.zip` is a bioimage.io package, `.onnx` is ONNX (with the extra `onnx`), and `.pth`
    or `.pt` a plain PyTorch state dict whose tensors have the names that they had in the file the
    model was opened from. The file appears whole or not at all.

    Parameters
    ----------
    model : what to save.
    path : where.
    half : keep the weights as float16, for a file of half the size (own format only).

    Raises
    ------
    ModelFileError
        If the file cannot be written, or the model cannot be put into that format.
    """
    from napari_unet.core.checkpoints import saving
    from napari_unet.core.checkpoints.native import write_native

    path = Path(path)
    writers = {
        ".zip": saving.write_bioimageio, ".onnx": saving.write_onnx,
        ".pth": saving.write_plain, ".pt": saving.write_plain,
    }  # fmt: skip
    if path.suffix in writers:
        writers[path.suffix](model, path)
    else:
        write_native(model, path, half=half)
