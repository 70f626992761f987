"""What `save_pretrained` of segmentation_models_pytorch writes: weights, and how to build them.

Any class that is derived from Hugging Face's mixin writes the same two files, so the weights
decide in the end which network it is.
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

__all__ = ["is_smp_folder", "read_smp_folder"]

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Today, and until the end of 2023."""


def is_smp_folder(names: Collection[str]) -> bool:
    """Whether an archive with such members is a folder of this kind, or holds just one."""
    return _root(names) is not None


def _root(names: Collection[str]) -> str | None:
    """What the names of config and weights begin with, if there is one such pair."""
    roots = [
        name.removesuffix(CONFIG)
        for name in names
        if name.rpartition("/")[2] == CONFIG
        and any(name.removesuffix(CONFIG) + weights in names for weights in WEIGHTS)
    ]
    return roots[0] if len(roots) == 1 else None


def read_smp_folder(archive: Archive) -> Evidence:
    """Weights and the arguments of their network; nothing is executed, nothing downloaded.

    Raises
    ------
    ModelFileError
        If the folder is damaged, or holds no network.
    """
    names = archive.names()
    root = _root(names) or ""
    weights = next((root + name for name in WEIGHTS if root + name in names), root + WEIGHTS[0])
    source = archive.source(weights)
    evidence = find_evidence(read_contents(source), source.name, is_known=_is_known)
    config = _config(archive.json(root + CONFIG))
    is_smp = "encoder_name" in config["model"]
    return replace(
        evidence,
        name=archive.name,
        container=f"folder of segmentation_models_pytorch ({weights.rpartition('/')[2]})"
        if is_smp
        else f"folder with {CONFIG} and {weights.rpartition('/')[2]}",
        config={**evidence.config, **config},
    )


def _is_known(evidence: Evidence) -> bool:
    family = recognised(evidence)
    return family is not None and not family.last


def _config(values: Any) -> dict[str, Any]:
    """For `Evidence.config`: arguments of the network, and the name of its class."""
    model = dict(values) if isinstance(values, Mapping) else {}
    kind = model.pop("_model_class", None)
    return {"model": model} | ({"class": kind} if isinstance(kind, str) else {})
