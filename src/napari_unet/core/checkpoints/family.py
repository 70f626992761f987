"""A family of networks: how its files are recognised, understood and rebuilt.

One file in `families/` is one family. It has a network whose parameters carry the very names
that they have in its files, a config that says all there is to know to build it, and two
functions: one that recognises the names, and one that reads the config off names and shapes.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.errors import ModelFileError

__all__ = ["Config", "Family", "Understanding", "classes_of", "families", "recognised"]


class Config(Protocol):
    """What every config says, whatever else it says; a frozen dataclass of plain values."""

    @property
    def dims(self) -> int:
        """2 for images `(y, x)`, 3 for volumes `(z, y, x)`."""

    @property
    def in_channels(self) -> int:
        """Channels of the input."""

    @property
    def out_channels(self) -> int:
        """Channels of the output."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Understanding:
    """What a file was understood to be.

    Attributes
    ----------
    config : builds the network.
    about : attributes of `core.model.Description` that the file or its kind determines. What is
        missing is filled in; the number of outputs and the like always are.
    assumed : names of the attributes of `config` and `about` that the file does not state, and
        that may thus be wrong. Leave out what cannot matter.
    tensors : the weights by their names in the network, if they are not simply those of the file.
    names : for each name in the network its names in the file, where they differ; a tensor that
        a file holds several times has several.
    ignored : regular expressions of further names in the file that belong to no network.
    notes : sentences for the user.
    """

    config: Config
    about: Mapping[str, Any] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    tensors: Mapping[str, Tensor] | None = None
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Family:
    """One family of networks.

    Attributes
    ----------
    name : its name in files of this project; never changes.
    title : its name for people, with where it is from.
    config : a frozen dataclass of plain values; see `Config`.
    network : builds the network with random weights. Its state dict has the names of the files.
    recognise : whether the names of some tensors are those of this family. Quick, and strict
        enough never to take the files of another family.
    understand : reads the config off names and shapes. Raises `ModelFileError` with a sentence;
        a `KeyError` or `IndexError` is taken for a file of which something is missing.
    choices : for attributes of the config that a file cannot state, the values to choose from.
    last : whether to ask only if no other family recognises a file.
    """

    name: str
    title: str
    config: type
    network: Callable[[Any], nn.Module]
    recognise: Callable[[Evidence], bool]
    understand: Callable[[Evidence], Understanding]
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    last: bool = False


@cache
def families() -> Mapping[str, Family]:
    """All families by name: `FAMILY`, or each of `FAMILIES`, of every file in `families/`."""
    from napari_unet.core.checkpoints import families as folder

    found: list[Family] = []
    for entry in sorted(pkgutil.iter_modules(folder.__path__), key=lambda entry: entry.name):
        module = importlib.import_module(f"{folder.__name__}.{entry.name}")
        found += getattr(module, "FAMILIES", ()) or [module.FAMILY]
    return {family.name: family for family in sorted(found, key=lambda family: family.last)}


def recognised(evidence: Evidence) -> Family | None:
    """The family that a file belongs to, if it belongs to one."""
    found = [family for family in families().values() if family.recognise(evidence)]
    sure = [family for family in found if not family.last] or found[:1]
    if len(sure) > 1:
        raise ModelFileError(
            f"{evidence.name} looks like several kinds of networks: "
            f"{', '.join(family.title for family in sure)}. Please report this file."
        )
    return sure[0] if sure else None


def classes_of(
    n_outputs: int, activation: str = "", background: bool | None = None
) -> dict[str, Any]:
    """Attributes of a `Description` for outputs of which no names are known.

    Parameters
    ----------
    n_outputs : channels of the output.
    activation : "softmax" or "sigmoid"; by default softmax for several outputs.
    background : whether the first output is the background; by default so for softmax.
    """
    activation = activation or ("sigmoid" if n_outputs == 1 else "softmax")
    if background is None:
        background = activation == "softmax"
    n_objects = n_outputs - background
    objects = ("object",) if n_objects == 1 else tuple(f"class {i + 1}" for i in range(n_objects))
    classes = ("background", *objects)
    return {
        "class_names": classes,
        "outputs": classes if background else objects,
        "output_class": tuple(range(0 if background else 1, len(classes))),
        "activation": activation,
    }
