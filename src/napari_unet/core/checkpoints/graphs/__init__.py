"""Files that hold a list of layers beside the weights: what each of their readers gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from napari_unet.core.networks.layered import LayeredConfig

__all__ = ["Graph"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Graph:
    """A network as a file describes it, with its weights.

    It becomes a `Model` of the architecture "layered", whose network is
    `LayeredNetwork(graph.config)`, filled with `tensors`.

    Attributes
    ----------
    config : the layers.
    tensors : float32 weights by their names in the network ("layers.3.weight").
    names : for each of them, what it is called in the file.
    about : attributes of `core.model.Description` that the file determines.
    assumed : names of attributes of `config` and `about` that it does not state.
    notes : sentences for the user.
    """

    config: LayeredConfig
    tensors: Mapping[str, Tensor]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
