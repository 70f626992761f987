"""Folders and zip files: packages that describe what they hold, or one model among the files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from napari_unet.core.checkpoints.building import Wishes
from napari_unet.core.checkpoints.containers.archive import Archive
from napari_unet.core.checkpoints.containers.source import Source, shown
from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.native import is_native
from napari_unet.core.checkpoints.packages.bioimageio import is_bioimageio, read_bioimageio
from napari_unet.core.checkpoints.packages.bioimageio_own import own_model
from napari_unet.core.checkpoints.packages.bioimageio_testing import tested
from napari_unet.core.checkpoints.packages.monai_bundle import is_monai_bundle, read_monai_bundle
from napari_unet.core.checkpoints.packages.nnunet_folder import (
    is_nnunet_folder,
    read_nnunet_folder,
)
from napari_unet.core.checkpoints.packages.smp_folder import is_smp_folder, read_smp_folder
from napari_unet.core.errors import ChoiceNeeded, ModelFileError, TrustNeeded
from napari_unet.core.model import Model

__all__ = ["SUFFIXES", "Opener", "open_archive"]

SUFFIXES = (
    ".safetensors", ".pt", ".pth", ".ckpt", ".pytorch", ".tar", ".zip", ".h5", ".hdf5", ".keras",
    ".onnx", ".pt2", ".caffemodel", ".model", ".bin",
)  # fmt: skip
"""What files with weights are usually called; what is in them decides."""


INSIDE = " → "
"""Between a file of an archive and one of several models in that file."""

Opener = Callable[[Source, Wishes], Model]
"""What opens one file: weights in a package are files, too."""


def open_archive(
    archive: Archive,
    wishes: Wishes,
    open_source: Opener,
    open_evidence: Callable[[Evidence, Wishes], Model],
) -> Model:
    """A package that describes what it holds, or a folder or zip file with one model in it."""
    names = archive.names()
    if is_bioimageio(names):
        return _open_bioimageio(archive, wishes, open_source)
    if is_nnunet_folder(names):
        return open_evidence(read_nnunet_folder(archive, wishes.choose), wishes)
    if is_monai_bundle(names):
        return open_evidence(read_monai_bundle(archive), wishes)
    if is_smp_folder(names):
        return open_evidence(read_smp_folder(archive), wishes)
    if any(name.rpartition("/")[2] == "saved_model.pb" for name in names):
        raise ModelFileError(
            f"{archive.name} is a TensorFlow SavedModel, whose network cannot be read without "
            f"TensorFlow. Export it as .keras, .h5 or ONNX, and open that."
        )
    return _open_member(archive, wishes, open_source)


def _open_member(archive: Archive, wishes: Wishes, open_source: Opener) -> Model:
    """The one model among the files, or the one that was chosen."""
    found = [name for name in archive.names() if name.lower().endswith(SUFFIXES)]
    member, _, inner = (wishes.choose or "").partition(INSIDE)
    if member in found:
        found = [member]
    if not found:
        raise ModelFileError(
            f"{archive.name} holds no model: none of its {len(archive.names())} files ends with "
            f"{', '.join(SUFFIXES[:8])}. Choose the model file itself."
        )
    if len(found) > 1:
        raise ChoiceNeeded(
            f"{archive.name} holds {len(found)} models: {', '.join(map(shown, found[:8]))}. "
            f"Choose one of them.",
            tuple(found),
        )
    source = archive.source(found[0])
    if is_native(source):
        raise ModelFileError(
            f"{archive.name} holds a model of napari-unet-live ('{shown(found[0])}'). Unpack it, "
            f"then open it."
        )
    config = {**_config_in(archive, found[0]), **wishes.config}
    try:
        return open_source(source, replace(wishes, choose=inner or None, config=config))
    except ChoiceNeeded as asked:
        options = tuple(f"{found[0]}{INSIDE}{option}" for option in asked.options)
        raise ChoiceNeeded(str(asked), options) from asked


def _config_in(archive: Archive, member: str) -> dict[str, Any]:
    """What a `config.json` in the same folder says."""
    name = f"{member.rpartition('/')[0]}/config.json".removeprefix("/")
    values = archive.json(name) if name in archive else None
    return {"beside": {"config.json": values}} if isinstance(values, dict) else {}


def _open_bioimageio(archive: Archive, wishes: Wishes, open_source: Opener) -> Model:
    package = read_bioimageio(archive)
    own = own_model(package, wishes)
    if own is not None:
        return tested(package, own)
    problem: ModelFileError | None = None
    config = {**wishes.config, **package.config, "about": dict(package.about)}
    for weights in package.weights:
        try:
            model = open_source(weights.source, replace(wishes, config=config, choose=None))
        except TrustNeeded as error:
            problem = error
        except ModelFileError as error:
            problem = problem or error
        else:
            return tested(package, model)
    raise problem or ModelFileError(
        f"{archive.name} is a bioimage.io package without weights that can be read here."
    )
