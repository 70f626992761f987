"""What nnU-Net v2 leaves after training: plans, the description of the data, and folds of weights.

`nnUNetv2_export_model_to_zip` packs the same. A fold is a network trained on a part of the data;
nnU-Net averages what they say, here one of them is opened.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from napari_unet.core.checkpoints.containers import read_contents
from napari_unet.core.checkpoints.containers.archive import Archive
from napari_unet.core.checkpoints.containers.finding import find_evidence
from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import recognised
from napari_unet.core.errors import ChoiceNeeded, ModelFileError

__all__ = ["is_nnunet_folder", "read_nnunet_folder"]

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth")
"""Of those in a fold, the one that is opened: the first that is there."""


def is_nnunet_folder(names: Collection[str]) -> bool:
    """Whether an archive with such members is what nnU-Net leaves after training."""
    roots = {name.rpartition("/")[0] for name in names if name.rpartition("/")[2] == "plans.json"}
    return any(_inside(fold) in roots for fold in _folds(names))


def _inside(fold: str) -> str:
    """The folder that a fold lies in."""
    return fold.rpartition("/")[0]


def _folds(names: Collection[str]) -> list[str]:
    """All folders of folds that hold weights, fold_0 first."""
    folders = {
        folder
        for name in names
        if (parts := name.rpartition("/"))[2] in CHECKPOINTS and (folder := parts[0])
    }
    return sorted(folder for folder in folders if folder.rpartition("/")[2].startswith("fold_"))


def read_nnunet_folder(archive: Archive, fold: str | None = None) -> Evidence:
    """Weights and plans of one fold, nothing of which is executed.

    Parameters
    ----------
    archive : the folder or zip file.
    fold : which one, such as "fold_3", or the folder of it where there are several networks; by
        default the first.

    Raises
    ------
    ModelFileError
        If there is no such fold, or it cannot be read.
    ChoiceNeeded
        If there are several networks, such as a 2D and a 3D one.
    """
    chosen, notes = _chosen(archive, fold)
    root = _inside(chosen)
    names = set(archive.names())
    name = next(f"{chosen}/{own}" for own in CHECKPOINTS if f"{chosen}/{own}" in names)
    source = archive.source(name)
    evidence = find_evidence(read_contents(source), source.name, is_known=_is_known)
    return replace(
        evidence,
        name=archive.name,
        container=f"folder of nnU-Net, {name.rpartition('/')[2]}",
        config={**evidence.config, "init_args": _arguments(archive, root, evidence)},
        notes=(*evidence.notes, *notes),
    )


def _is_known(evidence: Evidence) -> bool:
    family = recognised(evidence)
    return family is not None and not family.last


def _chosen(archive: Archive, fold: str | None) -> tuple[str, tuple[str, ...]]:
    """The folder of the fold to open, and a sentence if there are others."""
    folds = _folds(archive.names())
    if fold is not None:
        wanted = fold.rstrip("/")
        folds = [own for own in folds if wanted in (own, own.rpartition("/")[2])]
        if not folds:
            raise ModelFileError(
                f"{archive.name} holds no {fold[:80]!r}. It holds: "
                f"{', '.join(_folds(archive.names())[:10])}."
            )
    networks = sorted({_inside(own) for own in folds})
    if len(networks) > 1:
        raise ChoiceNeeded(
            f"{archive.name} holds {len(networks)} networks of nnU-Net: "
            f"{', '.join(networks[:8])}. Choose one of them.",
            tuple(next(own for own in folds if _inside(own) == network) for network in networks),
        )
    siblings = [own for own in _folds(archive.names()) if _inside(own) == networks[0]]
    if len(siblings) == 1:
        return folds[0], ()
    name = folds[0].rpartition("/")[2]
    note = (
        f"There are {len(siblings)} folds, of which {name} was opened. nnU-Net averages all of "
        "them, which is slower and a little better."
    )
    return folds[0], (note,)


def _arguments(archive: Archive, root: str, evidence: Evidence) -> dict[str, Any]:
    """Plans, configuration and data set: those in the weights, else those in the folder."""
    told = evidence.config.get("init_args")
    arguments = dict(told) if isinstance(told, Mapping) else {}
    folder = f"{root}/" if root else ""
    names = set(archive.names())
    for key, file in (("plans", "plans.json"), ("dataset_json", "dataset.json")):
        if not isinstance(arguments.get(key), Mapping) and f"{folder}{file}" in names:
            arguments[key] = archive.json(f"{folder}{file}")
    if not isinstance(arguments.get("configuration"), str):
        # The folder is called trainer__plans__configuration.
        trainer = (root or archive.name).rpartition("/")[2].removesuffix(".zip")
        arguments["configuration"] = trainer.rpartition("__")[2]
    return arguments
