"""What a file says of a network, before anybody knows which network it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

__all__ = ["COUNTER", "Contents", "Evidence", "LayerNote"]

COUNTER = "num_batches_tracked"
"""A count of training steps, which old files lack; nothing depends on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNote:
    """What a stored Python object says of one layer.

    Attributes
    ----------
    kind : name of its class without module, such as "Conv2d".
    values : its plain attributes: `kernel_size`, `padding`, `align_corners`, `eps` ...
    """

    kind: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """All that was read from one file, nothing of it executed.

    Attributes
    ----------
    container : the kind of file in plain words, such as "PyTorch file".
    tree : plain values (dicts, lists, texts, numbers, None), tensors among them, and an `Inert`
        object wherever the file asks for a class or function. The state dict is somewhere in it.
    layers : dotted path to layer, where whole modules were stored.
    notes : sentences for the user: what was converted, what was left alone.
    """

    container: str
    tree: Any
    layers: Mapping[str, LayerNote] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """What is known of one network: its tensors by name, and whatever lies beside them.

    Attributes
    ----------
    name : file name, for people.
    container : the kind of file in plain words.
    tensors : float32 or integer tensors, on the processor, by their names in the file without
        `prefix`, in the order of the file.
    prefix : what all names in the file begin with ("module.", "model.unet." ...).
    layers : dotted path, without `prefix`, to layer, where whole modules were stored.
    config : plain values found in or beside the file that may say more: hyperparameters, plans,
        a training configuration. By convention `config["model"]` holds the keyword arguments of
        the network where they are known, and `config["class"]` the name of its class.
    notes : sentences for the user.
    """

    name: str
    container: str
    tensors: Mapping[str, Tensor]
    prefix: str = ""
    layers: Mapping[str, LayerNote] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def has(self, *names: str) -> bool:
        """Whether there are tensors of all these names."""
        return all(name in self.tensors for name in names)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; raises `KeyError` if there is none of that name."""
        return tuple(self.tensors[name].shape)

    def n_in(self, name: str) -> int:
        """Channels that a convolution of this name takes (second axis of its weights)."""
        return self.shape(name)[1]

    def n_out(self, name: str) -> int:
        """Channels that a convolution of this name gives (first axis of its weights)."""
        return self.shape(name)[0]

    def matches(self, pattern: str) -> Iterator[re.Match[str]]:
        """The names that match a regular expression from begin to end."""
        return (found for name in self.tensors if (found := re.fullmatch(pattern, name)))

    def count(self, pattern: str) -> int:
        """How many different texts the first group of a pattern matches, over all names."""
        return len({found[1] for found in self.matches(pattern)})

    def setting(self, path: str, name: str, default: Any = None) -> Any:
        """An attribute of the stored layer at a dotted path, where modules were stored whole."""
        note = self.layers.get(path)
        return default if note is None else note.values.get(name, default)
