"""Every kind of network that can be built, by the name that model files give it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from napari_unet.core.errors import ModelFileError
from napari_unet.core.networks import kinds

__all__ = ["Architecture", "architecture_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One kind of network.

    Attributes
    ----------
    name, title : in files, and for people.
    config : a frozen dataclass of plain values that says all there is to know.
    """

    name: str
    title: str
    config: type
    _network: Any

    def build(self, config: Any) -> nn.Module:
        """The network with random weights."""
        network: nn.Module = self._network(config)
        return network


def architecture_of(name: str) -> Architecture:
    """The kind of network of this name: one of our own, or of a family that files bring.

    Raises
    ------
    ModelFileError
        If there is none.
    """
    from napari_unet.core.checkpoints.family import families

    if name in kinds():
        kind = kinds()[name]
        return Architecture(name=name, title=kind.title, config=kind.config, _network=kind.network)
    if name in families():
        family = families()[name]
        return Architecture(
            name=name, title=family.title, config=family.config, _network=family.network
        )
    known = ", ".join(dict.fromkeys([*kinds(), *families()]))
    raise ModelFileError(
        f"The architecture {name!r} is not known here; known are {known}. "
        f"A newer version of napari-unet-live may know it."
    )
