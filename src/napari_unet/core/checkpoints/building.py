"""From evidence, once its family is known, to a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from napari_unet.core.checkpoints.card import decoded
from napari_unet.core.checkpoints.containers.source import Source, shown
from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding, recognised
from napari_unet.core.checkpoints.graphs import Graph
from napari_unet.core.checkpoints.rebuild import rebuild
from napari_unet.core.errors import ModelFileError, SettingsError
from napari_unet.core.model import Model

__all__ = ["Wishes", "as_decided", "built", "from_graph", "is_known", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is known or wanted beside what is in the file.

    Attributes
    ----------
    choose, trust, changes : see `open_checkpoint`.
    sha256, member : of the file, hexadecimal; which of several models in it.
    config : plain values that lie beside it.
    """

    choose: str | None = None
    trust: bool | str = False
    changes: Mapping[str, Any] | None = None
    sha256: str = ""
    member: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


def is_known(evidence: Evidence) -> bool:
    """Whether a family recognises a file for sure."""
    family = recognised(evidence)
    return family is not None and not family.last


def built(evidence: Evidence, family: Family, wishes: Wishes) -> Model:
    """The model of a file whose family is known; raises `ModelFileError`."""
    try:
        understood = family.understand(evidence)
    except (KeyError, IndexError) as error:
        missing = str(error.args[0]) if error.args else "a tensor"
        raise ModelFileError(
            f"{evidence.name} looks like a {family.title}, but '{shown(missing)}' is missing. It "
            f"was perhaps saved in part, or is of a variant that is not known here."
        ) from error
    except (SettingsError, ValueError) as error:
        raise ModelFileError(
            f"{evidence.name} looks like a {family.title}, but its tensors have shapes that no "
            f"U-Net has ({error}). The file is damaged."
        ) from error
    return as_decided(evidence, family.name, _as_packaged(understood, evidence), wishes)


def as_decided(
    evidence: Evidence, architecture: str, understood: Understanding, wishes: Wishes
) -> Model:
    """The model, with what the user has said of its file; raises `ModelFileError`."""
    changes = _usable(wishes.changes, understood)
    return rebuild(
        evidence, architecture, understood, sha256=wishes.sha256, member=wishes.member,
        changes=changes,
    )  # fmt: skip


def _usable(changes: Mapping[str, Any] | None, understood: Understanding) -> dict[str, Any]:
    """What was decided, as values of the attributes; what no longer fits is left out."""
    kept = dict(changes or {})
    if kept.get("activation", "") == understood.about.get("activation"):
        del kept["activation"]  # as the file says, with the classes that it names
    return decoded(kept, understood.config)


def _as_packaged(understood: Understanding, evidence: Evidence) -> Understanding:
    """What a package states goes before what its network's family assumes."""
    stated = evidence.config.get("about")
    if not isinstance(stated, Mapping):
        return understood
    assumed = tuple(name for name in understood.assumed if name not in stated)
    return replace(understood, about={**understood.about, **stated}, assumed=assumed)


def unknown(evidence: Evidence) -> str:
    """What to say of tensors that no family knows."""
    convolutions = [name for name, value in evidence.tensors.items() if value.ndim in (4, 5)]
    if not convolutions:
        return (
            f"{evidence.name} holds {len(evidence.tensors)} tensors, but no convolution of images: "
            f"it is no network for segmentation. Look for a file called model, best or weights."
        )
    return (
        f"{evidence.name} holds a network with {len(convolutions)} convolutions that is not known "
        f"here (first: '{shown(convolutions[0])}', last: '{shown(convolutions[-1])}'). Ask for it "
        f"as an ONNX file or a bioimage.io package, which say how the layers are connected."
    )


def from_graph(
    graph: Graph,
    source: Source,
    wishes: Wishes,
    about: Mapping[str, Any] | None = None,
    container: str = "list of layers",
) -> Model:
    """The model of a file that says how its layers are connected; raises `ModelFileError`."""
    evidence = Evidence(
        name=source.name,
        container=graph.about.get("container", container),
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
    return as_decided(evidence, "layered", _as_packaged(understood, evidence), wishes)
