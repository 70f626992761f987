"""From a path to a model: what is in the file, which network it is, and that network itself.

Nothing that a file carries is ever executed, unless the user has said so for this very file.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from napari_unet.core.checkpoints.answers import answers_for
from napari_unet.core.checkpoints.beside import config_beside
from napari_unet.core.checkpoints.card import decoded
from napari_unet.core.checkpoints.containers import read_contents, sniff
from napari_unet.core.checkpoints.containers.archive import Archive
from napari_unet.core.checkpoints.containers.finding import find_evidence
from napari_unet.core.checkpoints.containers.source import Source
from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding, families, recognised
from napari_unet.core.checkpoints.graphs import Graph
from napari_unet.core.checkpoints.native import is_native, read_native
from napari_unet.core.checkpoints.rebuild import rebuild, shown
from napari_unet.core.checkpoints.refusals import refusal_for
from napari_unet.core.device import choose_device
from napari_unet.core.errors import ChoiceNeeded, ModelFileError, SettingsError, TrustNeeded
from napari_unet.core.model import Model

__all__ = ["open_checkpoint", "place"]

SUFFIXES = (
    ".safetensors", ".pt", ".pth", ".ckpt", ".pytorch", ".tar", ".zip", ".h5", ".hdf5", ".keras",
    ".onnx", ".pt2", ".caffemodel", ".model", ".bin",
)  # fmt: skip
"""What files with weights are usually called; what is in them decides."""

BLOCK = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wishes:
    """What the caller has said beside the path."""

    choose: str | None = None
    trust: bool | str = False
    changes: Mapping[str, Any] | None = None
    sha256: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


def open_checkpoint(
    path: Path,
    device: str = "auto",
    *,
    choose: str | None = None,
    trust: bool | str = False,
    changes: Mapping[str, Any] | None = None,
) -> Model:
    """Open a model file by what is in it, whatever its name.

    Parameters
    ----------
    path : a file, or the folder of a package.
    device : where the model goes.
    choose : which model, for files that hold several.
    trust : True, or the SHA-256 of a file whose own program may be run, where it cannot be read
        otherwise.
    changes : attributes of the config or the `Description` that the file does not state, by name;
        None for what was remembered for this file.

    Raises
    ------
    ChoiceNeeded, TrustNeeded
        If `choose` or `trust` must be given first.
    ModelFileError
        If it does not exist, or is not a model that can be opened.
    """
    kind = _kind_on_disk(path)
    if kind == "folder":
        archive = Archive.of_path(path)
        wishes = _Wishes(choose=choose, trust=trust, changes=changes)
        return place(_open_archive(archive, wishes), device)
    source = Source.of_path(path)
    if is_native(source):
        return place(read_native(path), device)
    sha256 = _sha256(source)
    wishes = _Wishes(
        choose=choose, trust=trust, sha256=sha256, config=config_beside(path),
        changes=answers_for(sha256) if changes is None else changes,
    )  # fmt: skip
    return place(_open_source(source, wishes), device)


def _kind_on_disk(path: Path) -> str:
    """ "folder" or "file"; raises `ModelFileError` for anything else."""
    try:
        if path.is_dir():
            return "folder"
        if path.exists() and not path.is_file():
            raise ModelFileError(f"{path} is not a file but a device; a model cannot be in it.")
        with path.open("rb"):
            return "file"
    except FileNotFoundError as error:
        raise ModelFileError(
            f"There is no model file {path}. Check the path, or use the built-in 'nuclei'."
        ) from error
    except (OSError, ValueError) as error:  # NOTE: a path that holds a NUL is a ValueError
        raise ModelFileError(
            f"The model file {path} cannot be read ({getattr(error, 'strerror', None) or error}). "
            f"Check the path, and that you may read the file."
        ) from error


def _sha256(source: Source) -> str:
    digest = hashlib.sha256()
    with source.open() as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


# ---- one file


def _open_source(source: Source, wishes: _Wishes) -> Model:
    """Open what is in one file, by its first bytes."""
    kind = sniff(source)
    if kind in ("zip", "keras-zip", "hdf5", "onnx", "caffemodel"):
        return _OTHERS[kind](source, wishes)
    contents = read_contents(source)
    evidence = find_evidence(contents, source.name, choose=wishes.choose, is_known=_is_known)
    evidence = replace(evidence, config={**wishes.config, **evidence.config})
    return _from_evidence(evidence, source, kind, wishes)


def _is_known(evidence: Evidence) -> bool:
    family = recognised(evidence)
    return family is not None and not family.last


def _from_evidence(evidence: Evidence, source: Source | None, kind: str, wishes: _Wishes) -> Model:
    """By its family; else by the program beside the weights; else by pairing convolutions."""
    family = recognised(evidence)
    if family is None or family.last:
        refusal = refusal_for(evidence)
        if refusal is not None:
            raise ModelFileError(refusal)
        if kind in _PROGRAMS and source is not None:
            return _from_program(evidence, source, kind, wishes)
    if family is None:
        raise ModelFileError(_unknown(evidence))
    return _built(evidence, family, wishes)


def _built(evidence: Evidence, family: Family, wishes: _Wishes) -> Model:
    try:
        understood = family.understand(evidence)
    except (KeyError, IndexError) as error:
        missing = str(error.args[0]) if error.args else "a tensor"
        raise ModelFileError(
            f"{evidence.name} looks like a {family.title}, but {shown(missing)} is missing. It was "
            f"perhaps saved in part, or is of a variant that is not known here."
        ) from error
    except (SettingsError, ValueError) as error:
        raise ModelFileError(
            f"{evidence.name} looks like a {family.title}, but its tensors have shapes that no "
            f"U-Net has ({error}). The file is damaged."
        ) from error
    changes = _usable(wishes.changes, understood)
    understood = _as_packaged(understood, evidence)
    return rebuild(evidence, family.name, understood, sha256=wishes.sha256, changes=changes)


def _usable(changes: Mapping[str, Any] | None, understood: Understanding) -> dict[str, Any]:
    """What was decided, as values of the attributes; what no longer fits is left out."""
    return decoded(changes or {}, understood.config)


def _as_packaged(understood: Understanding, evidence: Evidence) -> Understanding:
    """What a package states goes before what its network's family assumes."""
    stated = evidence.config.get("about")
    if not isinstance(stated, Mapping):
        return understood
    assumed = tuple(name for name in understood.assumed if name not in stated)
    return replace(understood, about={**understood.about, **stated}, assumed=assumed)


def _unknown(evidence: Evidence) -> str:
    convolutions = [name for name, value in evidence.tensors.items() if value.ndim in (4, 5)]
    if not convolutions:
        return (
            f"{evidence.name} holds {len(evidence.tensors)} tensors, but no convolution of images: "
            f"it is no network for segmentation. Look for a file called model, best or weights."
        )
    return (
        f"{evidence.name} holds a network with {len(convolutions)} convolutions that is not known "
        f"here (first: {shown(convolutions[0])}, last: {shown(convolutions[-1])}). Ask for it as "
        f"an ONNX file or a bioimage.io package, which say how the layers are connected."
    )


# ---- files that say how their layers are connected


def _from_graph(
    graph: Graph, source: Source, wishes: _Wishes, about: Mapping[str, Any] | None = None
) -> Model:
    evidence = Evidence(
        name=source.name,
        container=graph.about.get("container", "layer list"),
        tensors={
            (graph.names.get(name) or (name,))[0]: value for name, value in graph.tensors.items()
        },
        config={"about": dict(about or {})},
    )
    understood = Understanding(
        config=graph.config,
        about={name: value for name, value in graph.about.items() if name != "container"},
        assumed=graph.assumed,
        tensors=graph.tensors,
        names=graph.names,
        notes=graph.notes,
    )
    changes = _usable(wishes.changes, understood)
    understood = _as_packaged(understood, evidence)
    return rebuild(evidence, "layered", understood, sha256=wishes.sha256, changes=changes)


def _from_program(evidence: Evidence, source: Source, kind: str, wishes: _Wishes) -> Model:
    """A program that came along, read as a list of layers; run only if the user trusts it."""
    about = evidence.config.get("about")
    try:
        return _from_graph(_PROGRAMS[kind](source), source, wishes, about)
    except TrustNeeded:
        raise
    except ModelFileError as error:
        generic = recognised(evidence)
        if generic is not None:
            try:
                return _built(evidence, generic, wishes)
            except ModelFileError:
                pass
        if kind != "torchscript":
            raise
        return _run_by_trust(source, wishes, str(error))


def _run_by_trust(source: Source, wishes: _Wishes, reason: str) -> Model:
    from napari_unet.core.checkpoints.trusted import run_torchscript

    sha256 = wishes.sha256 or _sha256(source)
    if wishes.trust is not True and wishes.trust != sha256:
        raise TrustNeeded(
            f"{source.name} carries a program (TorchScript), and its network cannot be read "
            f"without running it: {reason} Run it only if you trust where the file comes from: a "
            f"program can do whatever you can do on this computer.",
            sha256,
            f"the TorchScript program in {source.name}, by torch.jit.load",
        )
    return run_torchscript(source, sha256)


def _read_torchscript(source: Source) -> Graph:
    from napari_unet.core.checkpoints.graphs.torchscript import read_torchscript

    return read_torchscript(source)


def _read_pt2(source: Source) -> Graph:
    from napari_unet.core.checkpoints.graphs.pt2 import read_pt2

    return read_pt2(source)


def _open_onnx(source: Source, wishes: _Wishes) -> Model:
    from napari_unet.core.checkpoints.graphs.onnx import read_onnx

    return _from_graph(read_onnx(source), source, wishes, wishes.config.get("about"))


def _open_keras(source: Source, wishes: _Wishes) -> Model:
    from napari_unet.core.checkpoints.graphs.keras import read_keras

    return _from_graph(read_keras(source), source, wishes, wishes.config.get("about"))


def _open_hdf5(source: Source, wishes: _Wishes) -> Model:
    from napari_unet.core.checkpoints.graphs.caffe import is_freiburg

    return (_open_caffe if is_freiburg(source) else _open_keras)(source, wishes)


def _open_caffe(source: Source, wishes: _Wishes) -> Model:
    from napari_unet.core.checkpoints.graphs.caffe import partner_names, read_freiburg

    folder = None if source.path is None else source.path.parent
    names = partner_names(source.name) if folder is not None else ()
    partner = next((folder / name for name in names if (folder / name).is_file()), None)  # type: ignore[operator]
    return _from_graph(read_freiburg(source, partner), source, wishes)


_PROGRAMS: dict[str, Callable[[Source], Graph]] = {
    "torchscript": _read_torchscript,
    "pt2": _read_pt2,
}


# ---- folders and zip files


def _open_zip(source: Source, wishes: _Wishes) -> Model:
    return _open_archive(Archive.of_source(source), wishes)


def _open_archive(archive: Archive, wishes: _Wishes) -> Model:
    """A package that describes what it holds, or a folder or zip file with one model in it."""
    from napari_unet.core.checkpoints.packages.bioimageio import is_bioimageio
    from napari_unet.core.checkpoints.packages.monai_bundle import (
        is_monai_bundle,
        read_monai_bundle,
    )
    from napari_unet.core.checkpoints.packages.nnunet_folder import (
        is_nnunet_folder,
        read_nnunet_folder,
    )
    from napari_unet.core.checkpoints.packages.smp_folder import is_smp_folder, read_smp_folder

    names = archive.names()
    if is_bioimageio(names):
        return _open_bioimageio(archive, wishes)
    if is_nnunet_folder(names):
        return _from_evidence(read_nnunet_folder(archive, wishes.choose), None, "", wishes)
    if is_monai_bundle(names):
        return _from_evidence(read_monai_bundle(archive), None, "", wishes)
    if is_smp_folder(names):
        return _from_evidence(read_smp_folder(archive), None, "", wishes)
    if any(name.rpartition("/")[2] == "saved_model.pb" for name in names):
        raise ModelFileError(
            f"{archive.name} is a TensorFlow SavedModel, whose network cannot be read without "
            f"TensorFlow. Export it as .keras, .h5 or ONNX, and open that."
        )
    return _open_member(archive, wishes)


def _open_member(archive: Archive, wishes: _Wishes) -> Model:
    """The one model among the files, or the one that was chosen."""
    found = [name for name in archive.names() if name.lower().endswith(SUFFIXES)]
    if wishes.choose in found:
        found = [str(wishes.choose)]
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
            f"{archive.name} holds a model of napari-unet-live ({shown(found[0])}). Unpack it, "
            f"then open it."
        )
    return _open_source(source, replace(wishes, choose=None, sha256=wishes.sha256))


def _open_bioimageio(archive: Archive, wishes: _Wishes) -> Model:
    from napari_unet.core.checkpoints.packages.bioimageio import read_bioimageio
    from napari_unet.core.checkpoints.packages.bioimageio_own import own_model
    from napari_unet.core.checkpoints.packages.bioimageio_testing import tested

    package = read_bioimageio(archive)
    own = own_model(package, sha256=wishes.sha256, changes=wishes.changes)
    if own is not None:
        return tested(package, own)
    problem: ModelFileError | None = None
    config = {**wishes.config, **package.config, "about": dict(package.about)}
    for weights in package.weights:
        try:
            model = _open_source(weights.source, replace(wishes, config=config, choose=None))
        except TrustNeeded as error:
            problem = error
        except ModelFileError as error:
            problem = problem or error
        else:
            return tested(package, model)
    raise problem or ModelFileError(
        f"{archive.name} is a bioimage.io package without weights that can be read here."
    )


_OTHERS: dict[str, Callable[[Source, _Wishes], Model]] = {
    "zip": _open_zip,
    "keras-zip": _open_keras,
    "hdf5": _open_hdf5,
    "onnx": _open_onnx,
    "caffemodel": _open_caffe,
}


# ---- where it runs


def place(model: Model, device: str) -> Model:
    """The same model on another device; the one passed in stays where it is."""
    chosen = choose_device(device)
    network = model.network
    if chosen.name != model.device.name:
        network = copy.deepcopy(network).to(chosen.torch_device)  # `to` alone works in place
    return replace(model, network=network, device=chosen)


def known_families() -> Mapping[str, str]:
    """Name and title of every family of networks that files are recognised as."""
    return {name: family.title for name, family in families().items()}
