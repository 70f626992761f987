"""Every kind of network that can be built, by the name that model files give it."""

from __future__ import annotations

from napari_unet.core.errors import ModelFileError
from napari_unet.core.networks import Kind, kinds

__all__ = ["architecture_of"]


def architecture_of(name: str) -> Kind:
    """The kind of network of this name: one of our own, or of a family that files bring.

    Raises
    ------
    ModelFileError
        If there is none.
    """
    from napari_unet.core.checkpoints.family import families

    if name in kinds():
        return kinds()[name]
    if name in families():
        family = families()[name]
        return Kind(name=name, title=family.title, config=family.config, network=family.network)
    known = ", ".join(dict.fromkeys([*kinds(), *families()]))
    raise ModelFileError(
        f"The architecture {name!r} is not known here; known are {known}. "
        f"A newer version of napari-unet-live may know it."
    )
