"""Every network that can be trained from scratch, by name.

Each file beside this one that has `PRESETS` is found by itself.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from napari_unet.core.errors import SettingsError
from napari_unet.core.networks.parts import check_channels

__all__ = ["DeeplySupervised", "Kind", "Preset", "Wanted", "kinds", "preset_of", "presets"]


FIRST = (
    "unet", "unet_2015", "unet_tutorial", "unet_3d", "fcn", "segnet", "unet_plusplus",
    "unet_attention", "unet_dense", "unet_recurrent", "unet_residual", "unet_added",
)  # fmt: skip
"""Files in the order in which their networks are listed; others follow, backbones last."""
LAST = ("backbones",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a network is wanted for.

    Attributes
    ----------
    dims : 2 for images `(y, x)`, 3 for volumes `(z, y, x)`.
    in_channels, out_channels : channels of the input and of the output.
    width : channels of the first level; None for as many as in the paper.
    """

    dims: int = 2
    in_channels: int = 1
    out_channels: int = 2
    width: int | None = None

    def __post_init__(self) -> None:
        check_channels(self)
        if self.width is not None and self.width < 1:
            raise SettingsError(f"width must be at least 1 channel, not {self.width}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A class of networks, by the name that model files give it.

    Attributes
    ----------
    name, title : in files, and for people.
    config : a frozen dataclass of plain values that says all there is to know.
    network : builds the network of a config, with random weights.
    """

    name: str
    title: str
    config: type
    network: Callable[[Any], nn.Module]

    def build(self, config: Any) -> nn.Module:
        """The network of a config, with random weights."""
        return self.network(config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A network of the literature: what people ask for by name.

    Attributes
    ----------
    name, title : what is typed, such as "unet-2015", and what is shown.
    paper : authors, title, where and when.
    summary : what makes it that network, in one sentence.
    kind : the class of networks that it is one of.
    configure : makes its config.
    dims : for how many dimensions it can be built.
    recipe : settings of training as in its paper, by their names in `TrainSettings`, which count
        where the user chose nothing.
    """

    name: str
    title: str
    paper: str
    summary: str
    kind: Kind
    configure: Callable[[Wanted], Any]
    dims: tuple[int, ...] = (2,)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def config_for(self, wanted: Wanted) -> Any:
        """The config of this network for what is wanted.

        Raises
        ------
        SettingsError
            If it cannot be built for that.
        """
        if wanted.dims not in self.dims:
            able = " and ".join(f"{n}D" for n in self.dims)
            raise SettingsError(
                f"The network {self.name!r} is one for {able}, not for {wanted.dims}D. Choose "
                f"another network, or set dims to {self.dims[0]}."
            )
        return self.configure(wanted)

    def build(self, wanted: Wanted) -> nn.Module:
        """This network with random weights."""
        return self.kind.build(self.config_for(wanted))


@runtime_checkable
class DeeplySupervised(Protocol):
    """A network with several outputs in training, all of which are held against the truth."""

    def all_logits(self, image: Tensor) -> list[Tensor]:
        """Logits `(b, class, [z,] y, x)` of each of its outputs, the usual one last."""
        ...


@cache
def presets() -> Mapping[str, Preset]:
    """Name to network: the classics first, then what came of them, then backbones."""
    import napari_unet.core.networks as folder

    found: list[Preset] = []
    names = {info.name for info in pkgutil.iter_modules(folder.__path__)}
    others = sorted(names - {*FIRST, *LAST, "registry", "parts"})
    for module in [*FIRST, *others, *LAST]:
        found += getattr(import_module(f"{folder.__name__}.{module}"), "PRESETS", ())
    return {preset.name: preset for preset in found}


@cache
def kinds() -> Mapping[str, Kind]:
    """Name in model files to the class of networks."""
    return {preset.kind.name: preset.kind for preset in presets().values()}


def preset_of(name: str) -> Preset:
    """The network of this name.

    Raises
    ------
    SettingsError
        If there is none.
    """
    if name not in presets():
        raise SettingsError(
            f"There is no network {name!r}. Known are {', '.join(presets())}; "
            f"'napari-unet networks' tells of each."
        )
    return presets()[name]
