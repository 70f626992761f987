"""From a path to a model: what is in the file, which network it is, and that network itself.

Nothing that a file carries is ever executed, unless the user has said so for this very file.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_unet.core.checkpoints.answers import answers_for, answers_key
from napari_unet.core.checkpoints.archives import SUFFIXES, open_archive
from napari_unet.core.checkpoints.beside import config_beside
from napari_unet.core.checkpoints.building import Wishes, built, is_known, unknown
from napari_unet.core.checkpoints.containers import read_contents, sniff
from napari_unet.core.checkpoints.containers.archive import Archive
from napari_unet.core.checkpoints.containers.finding import find_evidence
from napari_unet.core.checkpoints.containers.source import Source
from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import recognised
from napari_unet.core.checkpoints.native import is_native, read_native
from napari_unet.core.checkpoints.programs import LISTS, PROGRAMS, from_program
from napari_unet.core.checkpoints.refusals import refusal_by_config, refusal_for
from napari_unet.core.checkpoints.stated import stated_in
from napari_unet.core.device import choose_device
from napari_unet.core.errors import ModelFileError
from napari_unet.core.model import Model

__all__ = ["SUFFIXES", "open_checkpoint", "place"]

MOST_HASHED = 2 << 30
"""Files of a folder up to this many bytes are told apart by what is in them."""
LONGEST = 3000
"""Letters of a sentence; a table of convolutions may be in it."""


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
    try:
        wishes = Wishes(choose=choose, trust=trust, changes=changes)
        return place(_opened(path, wishes), device)
    except ModelFileError as error:  # with whatever names are in the file
        error.args = (_readable(str(error)),)
        raise


def _readable(sentence: str) -> str:
    """A sentence without control characters, and not endless."""
    clean = "".join(sign if sign.isprintable() or sign == "\n" else "?" for sign in sentence)
    return clean if len(clean) <= LONGEST else f"{clean[: LONGEST - 1]}…"


def _opened(path: Path, wishes: Wishes) -> Model:
    if _is_folder(path):
        archive = Archive.of_path(path)
        return _open_folder(archive, _with_answers(wishes, _digest_of(archive)))
    source = Source.of_path(path, "Check the path, or use the built-in 'nuclei'.")
    if is_native(source):
        return read_native(path)
    sniff(source)  # what is no model is declined before all of it is read
    wishes = replace(wishes, config=config_beside(path))
    return _open_source(source, _with_answers(wishes, source.sha256()))


def _with_answers(wishes: Wishes, sha256: str) -> Wishes:
    """With the hash of the file, and what was said of it before, if nothing is said now."""
    member = wishes.choose or ""
    said = answers_for(answers_key(sha256, member)) if wishes.changes is None else wishes.changes
    return replace(wishes, sha256=sha256, member=member, changes=said)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # `Source.of_path` says what is wrong with it
        return False


def _digest_of(archive: Archive) -> str:
    """Stands for a folder: the names and contents of all files in it, as far as they are small
    enough to be those of a model; of larger ones the size."""
    digest = hashlib.sha256()
    for name in sorted(archive.names()):
        size = archive.size(name)
        inner = archive.source(name).sha256() if size <= MOST_HASHED else str(size)
        digest.update(f"{name}\0{inner}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _open_folder(archive: Archive, wishes: Wishes) -> Model:
    return open_archive(archive, wishes, _open_source, _open_evidence)


def _open_source(source: Source, wishes: Wishes) -> Model:
    """Open what is in one file, by its first bytes."""
    kind = sniff(source)
    if kind == "zip":
        return _open_folder(Archive.of_source(source), wishes)
    if kind in LISTS:
        if source.name.lower().startswith("weights"):  # what StarDist and CSBDeep call theirs
            _check_config(wishes)
        return LISTS[kind](source, wishes)
    contents = read_contents(source)
    own = stated_in(contents.tree, source.name, wishes)
    if own is not None:
        return own
    evidence = find_evidence(contents, source.name, choose=wishes.choose, is_known=is_known)
    evidence = replace(evidence, config={**wishes.config, **evidence.config})
    return _from_evidence(evidence, source, kind, wishes)


def _check_config(wishes: Wishes) -> None:
    """Decline what the files beside it say that it is, such as a network of StarDist."""
    beside = wishes.config.get("beside", {}).values()
    said = {name: value for values in beside for name, value in values.items()}
    said.update(wishes.config)
    refusal = refusal_by_config(said)
    if refusal is not None:
        raise ModelFileError(refusal)


def _open_evidence(evidence: Evidence, wishes: Wishes) -> Model:
    """What a package has found out about its weights."""
    return _from_evidence(evidence, None, "", wishes)


def _from_evidence(evidence: Evidence, source: Source | None, kind: str, wishes: Wishes) -> Model:
    """By its family; else by the program beside the weights; else by pairing convolutions."""
    family = recognised(evidence)
    program = source if kind in PROGRAMS else None
    if family is not None and not family.last:
        try:
            return built(evidence, family, wishes)
        except ModelFileError:
            if program is None:
                raise
            return from_program(evidence, program, kind, wishes)
    refusal = refusal_for(evidence)
    if refusal is not None:
        raise ModelFileError(refusal)
    if program is not None:
        return from_program(evidence, program, kind, wishes)
    if family is None:
        raise ModelFileError(unknown(evidence))
    return built(evidence, family, wishes)


def place(model: Model, device: str) -> Model:
    """The same model on another device; the one passed in stays where it is."""
    chosen = choose_device(device)
    network = model.network
    if chosen.name != model.device.name:
        network = copy.deepcopy(network).to(chosen.torch_device)  # `to` alone works in place
    return replace(model, network=network, device=chosen)
