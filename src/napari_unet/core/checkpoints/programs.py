"""Files that say how their layers are connected: lists of layers, and programs read as such."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from napari_unet.core.checkpoints.building import Wishes, built, from_graph
from napari_unet.core.checkpoints.card import decoded
from napari_unet.core.checkpoints.containers.source import Source
from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import recognised
from napari_unet.core.checkpoints.graphs import Graph
from napari_unet.core.errors import ModelFileError, TrustNeeded
from napari_unet.core.model import Model

__all__ = ["LISTS", "PROGRAMS", "from_program"]


def from_program(evidence: Evidence, source: Source, kind: str, wishes: Wishes) -> Model:
    """A program that came along, read as a list of layers; run only if the user trusts it."""
    about = evidence.config.get("about")
    try:
        graph = PROGRAMS[kind](source)
        return from_graph(graph, source, wishes, about, container=evidence.container)
    except TrustNeeded:
        raise
    except ModelFileError as error:
        generic = recognised(evidence)
        if generic is not None and generic.last:
            try:
                return built(evidence, generic, wishes)
            except ModelFileError:
                pass
        if kind != "torchscript":
            raise
        return _run_by_trust(source, wishes, str(error))


def _run_by_trust(source: Source, wishes: Wishes, reason: str) -> Model:
    from napari_unet.core.checkpoints.trusted import run_torchscript

    sha256 = source.sha256()  # of the very file, whatever folder or archive it is in
    if wishes.trust is not True and wishes.trust != sha256:
        raise TrustNeeded(
            f"{source.name} carries a program (TorchScript), and its network cannot be read "
            f"without running it: {reason} Run it only if you trust where the file comes from: a "
            f"program can do whatever you can do on this computer.",
            sha256,
            f"the TorchScript program in {source.name}, by torch.jit.load",
            reason,
        )
    model = run_torchscript(source, wishes.sha256, wishes.member)
    said = decoded(wishes.changes or {}, model.config)
    said = {name: value for name, value in said.items() if not hasattr(model.config, name)}
    return model.described(**said, chosen=tuple(said)) if said else model


def _read_torchscript(source: Source) -> Graph:
    from napari_unet.core.checkpoints.graphs.torchscript import read_torchscript

    return read_torchscript(source)


def _read_pt2(source: Source) -> Graph:
    from napari_unet.core.checkpoints.graphs.pt2 import read_pt2

    return read_pt2(source)


def _open_onnx(source: Source, wishes: Wishes) -> Model:
    from napari_unet.core.checkpoints.graphs.onnx import read_onnx

    about = wishes.config.get("about")
    return from_graph(read_onnx(source), source, wishes, about, container="ONNX file")


def _open_keras(source: Source, wishes: Wishes) -> Model:
    from napari_unet.core.checkpoints.graphs.keras import read_keras

    return from_graph(read_keras(source), source, wishes, wishes.config.get("about"))


def _open_hdf5(source: Source, wishes: Wishes) -> Model:
    from napari_unet.core.checkpoints.graphs.caffe import is_freiburg

    return (_open_caffe if is_freiburg(source) else _open_keras)(source, wishes)


def _open_caffe(source: Source, wishes: Wishes) -> Model:
    from napari_unet.core.checkpoints.graphs.caffe import partner_names, read_freiburg

    folder = None if source.path is None else source.path.parent
    names = partner_names(source.name) if folder is not None else ()
    partner = next((folder / name for name in names if (folder / name).is_file()), None)  # type: ignore[operator]
    return from_graph(read_freiburg(source, partner), source, wishes)


PROGRAMS: dict[str, Callable[[Source], Graph]] = {
    "torchscript": _read_torchscript,
    "pt2": _read_pt2,
}
"""Programs that lie beside weights: tried where no family knows the weights."""

LISTS: Mapping[str, Callable[[Source, Wishes], Model]] = {
    "keras-zip": _open_keras,
    "hdf5": _open_hdf5,
    "onnx": _open_onnx,
    "caffemodel": _open_caffe,
}
"""Kinds of files that are lists of layers, and what opens them."""
