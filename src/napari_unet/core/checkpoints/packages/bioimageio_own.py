"""Packages of bioimage.io that were written here: rebuilt just as they were."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from napari_unet.core.checkpoints.building import Wishes, as_decided
from napari_unet.core.checkpoints.containers import read_contents
from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Understanding
from napari_unet.core.checkpoints.packages.bioimageio import Package
from napari_unet.core.checkpoints.stated import config_stated
from napari_unet.core.model import Model

__all__ = ["own_model"]


def own_model(package: Package, wishes: Wishes) -> Model | None:
    """The model of a package that was written here, with all that its weights do not tell.

    Parameters
    ----------
    wishes : what the user has said of it.

    Returns
    -------
    None for a package that others wrote, or that says of a network that is not known here.

    Raises
    ------
    ModelFileError
        If its weights are damaged, or are not those of its network.
    """
    weights = next((one for one in package.weights if one.kind == "pytorch_state_dict"), None)
    name, said = package.config.get("architecture"), package.config.get("config")
    config = config_stated(name, said)
    if weights is None or config is None:
        return None
    contents = read_contents(weights.source)
    if not isinstance(contents.tree, Mapping):
        return None
    tensors = {str(k): value for k, value in contents.tree.items() if isinstance(value, Tensor)}
    evidence = Evidence(
        name=weights.name, container="bioimage.io package", tensors=tensors, notes=contents.notes
    )
    named = package.config.get("assumed")
    assumed = tuple(str(one) for one in named) if isinstance(named, list) else ()
    understood = Understanding(config=config, about=package.about, assumed=assumed)
    return as_decided(evidence, str(name), understood, wishes)
