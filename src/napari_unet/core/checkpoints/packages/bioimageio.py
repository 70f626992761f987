"""Packages of the bioimage.io model zoo: a description, weights in several formats, an example.

Formats 0.4 and 0.5 of the description. Program files in a package are never run: the name of the
network's class and its arguments are all that is taken from there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from napari_unet.core.checkpoints.packages.bioimageio_meaning import meaning_of, own_words
from napari_unet.core.checkpoints.packages.bioimageio_tensors import TensorNote, tensor_notes
from napari_unet.core.errors import ModelFileError

if TYPE_CHECKING:
    from napari_unet.core.checkpoints.containers.archive import Archive

__all__ = ["Package", "Weights", "is_bioimageio", "read_bioimageio"]

DESCRIPTIONS = ("bioimageio.yaml", "bioimageio.yml", "rdf.yaml", "rdf.yml", "model.yaml")
PREFERRED = ("pytorch_state_dict", "torchscript", "onnx", "keras_v3", "keras_hdf5")
"""Formats of weights that can be opened, the one that says most first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One of the files with weights.

    Attributes
    ----------
    kind : format as bioimage.io calls it, such as "pytorch_state_dict".
    name : of the file in the package.
    source : where it is read from, a `Source` of the containers.
    """

    kind: str
    name: str
    source: Any


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Package:
    """What a package says, and where its files are.

    Attributes
    ----------
    name, version : what it is called, and the format of its description, such as (0, 5, 4).
    weights : its files with weights, the one that says most first.
    about : attributes of `core.model.Description` that it states.
    config : for `Evidence.config`: "class" and "model" (the name of the network's class and its
        arguments) where they are stated; "architecture" and "config" (the name of a `Family`,
        and its config as plain values), and "assumed", for a package that was written here.
    input, output : what is said of the image that goes in and of the result.
    archive, folder : where its files are, and what the names of all of them begin with.
    notes : sentences for the user.
    """

    name: str
    version: tuple[int, ...]
    weights: tuple[Weights, ...]
    about: Mapping[str, Any]
    config: Mapping[str, Any]
    input: TensorNote
    output: TensorNote
    archive: Archive
    folder: str = ""
    notes: tuple[str, ...] = ()

    @property
    def min_size(self) -> tuple[int, ...]:
        """Smallest size `([z,] y, x)` that the network takes, in px; 0 where nothing is said."""
        return tuple(self.input.least[at] for at in self.input.space)

    @property
    def step(self) -> tuple[int, ...]:
        """What may be added to it any number of times, in px; 0 if the size is fixed."""
        return tuple(self.input.step[at] for at in self.input.space)

    @property
    def halo(self) -> tuple[int, ...]:
        """How many px at either end of the result are not to be trusted, `([z,] y, x)`."""
        return tuple(self.output.halo[at] for at in self.output.space)


def is_bioimageio(names: Collection[str]) -> bool:
    """Whether a folder or zip with files of these names is a package of bioimage.io."""
    return bool(_descriptions(names))


def _descriptions(names: Collection[str]) -> list[str]:
    """Files that may be the description, the likeliest first; at the top or in one folder."""
    found = []
    for name in names:
        path = PurePosixPath(name)
        is_plain = path.name in DESCRIPTIONS[:-1]
        if len(path.parts) <= 2 and (is_plain or re.search(r"\.bioimageio\.ya?ml$", path.name)):
            found.append(name)
    rank = {name: at for at, name in enumerate(DESCRIPTIONS)}
    return sorted(found, key=lambda name: (name.count("/"), rank.get(name.split("/")[-1], 9), name))


def read_bioimageio(archive: Archive) -> Package:
    """Read the description of a package; its weights are named, not read.

    Raises
    ------
    ModelFileError
        If it is damaged, describes no model, or its model cannot be used here.
    """
    name = next(iter(_descriptions(archive.names())), None)
    if name is None:
        raise ModelFileError(
            "This is no bioimage.io package: there is no bioimageio.yaml or rdf.yaml in it."
        )
    description, version = _description(archive, name)
    folder = name[: name.rfind("/") + 1]
    source = _one(tensor_notes(description, "inputs", version), "images go in")
    outputs = tensor_notes(description, "outputs", version)
    weights, missing = _weights(description, archive, folder)
    meaning = meaning_of(
        description, source, outputs[0], _documentation(description, archive, folder)
    )
    notes = [*missing, *meaning.notes]
    if len(outputs) > 1:
        notes.append(
            f"The network gives {len(outputs)} results; only the first of them, "
            f"{outputs[0].name!r}, is used."
        )
    return Package(
        name=str(description.get("name", "")) or "bioimage.io model",
        version=version,
        weights=weights,
        about=meaning.about,
        config=_architecture(description),
        input=source,
        output=outputs[0],
        archive=archive,
        folder=folder,
        notes=tuple(notes),
    )


def _description(archive: Archive, name: str) -> tuple[Mapping[str, Any], tuple[int, ...]]:
    description = archive.yaml(name)
    if not isinstance(description, Mapping):
        raise ModelFileError(f"{name} in the package is no description of a model.")
    kind = description.get("type", "model")
    if kind != "model":
        raise ModelFileError(
            f"This bioimage.io package holds no model but something of the type {kind!r}. "
            f"Download a model."
        )
    text = str(description.get("format_version", ""))
    version = tuple(int(part) for part in re.findall(r"\d+", text)[:3])
    if not (0, 3) <= version < (0, 6):
        raise ModelFileError(
            f"The package is described in format {text or 'unknown'} of bioimage.io; formats "
            f"0.4 and 0.5 can be read here. Download it again in one of these."
        )
    return description, version


def _one(notes: Sequence[TensorNote], what: str) -> TensorNote:
    if len(notes) > 1:
        named = ", ".join(repr(note.name) for note in notes)
        raise ModelFileError(
            f"This network wants several images at a time: {len(notes)} {what} ({named}). "
            f"Only networks that take one image (with channels) can be used here."
        )
    return notes[0]


# --- weights -----------------------------------------------------------------------------------


def _weights(
    description: Mapping[str, Any], archive: Archive, folder: str
) -> tuple[tuple[Weights, ...], list[str]]:
    """The files with weights that are there and can be opened, and notes on the others."""
    entries = description.get("weights")
    entries = entries if isinstance(entries, Mapping) else {}
    found, notes = [], []
    for kind in sorted(entries, key=lambda k: PREFERRED.index(k) if k in PREFERRED else 9):
        entry = entries[kind]
        source = str(entry.get("source", "")) if isinstance(entry, Mapping) else ""
        name = _inside(source, folder)
        if kind not in PREFERRED:
            notes.append(f"The weights in the format {kind!r} cannot be opened here.")
        elif re.match(r"[a-z]+://", source):
            notes.append(f"The weights {kind!r} are not in the package but at {source}.")
        elif name not in archive:
            notes.append(f"The weights {kind!r} are missing from the package ({source!r}).")
        else:
            found.append(Weights(kind=kind, name=name, source=archive.source(name)))
    if not found:
        raise ModelFileError(
            f"There are no weights in this bioimage.io package that could be opened. "
            f"{' '.join(notes) or 'It names none.'} Download the complete package; weights for "
            f"PyTorch, ONNX or Keras are needed."
        )
    return tuple(found), notes


def _inside(source: str, folder: str) -> str:
    """The name in the archive of a file that the description names."""
    return folder + re.sub(r"^(\./)+", "", source)


def _architecture(description: Mapping[str, Any]) -> dict[str, Any]:
    """Name of the network's class and its arguments, in the words of `Evidence.config`."""
    entry = description["weights"].get("pytorch_state_dict")
    entry = entry if isinstance(entry, Mapping) else {}
    said = entry.get("architecture")
    if isinstance(said, Mapping):  # since 0.5
        name, values = str(said.get("callable", "")), said.get("kwargs")
        where = str(said.get("import_from") or said.get("source") or "")
    else:
        where, _, name = str(said or "").rpartition(":")
        where, _, name = (where, "", name) if where else name.rpartition(".")
        values = entry.get("kwargs")
    values = dict(values) if isinstance(values, Mapping) else {}
    config: dict[str, Any] = {"class": name, "from": where} if name else {}
    if where.startswith("napari_unet.") and isinstance(values.get("config"), Mapping):
        own = {"architecture": values.get("architecture"), "config": values["config"]}
        return config | own | {"assumed": own_words(description).get("assumed", [])}
    return config | ({"model": values} if name and values else {})


def _documentation(description: Mapping[str, Any], archive: Archive, folder: str) -> str:
    """The longer text that comes with it, where it is in the package."""
    said = description.get("documentation")
    source = said.get("source") if isinstance(said, Mapping) else said
    name = _inside(str(source or ""), folder)
    if not name.endswith(".md") or name not in archive:
        return ""
    return archive.read(name)[:100_000].decode("utf-8", errors="replace")
