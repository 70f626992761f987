"""Bundles of MONAI: weights with a description of the network, its images and its outputs.

MONAI itself evaluates texts that begin with "$" and makes whatever a "_target_" names. Here they
are plain data: a "$" is never evaluated, only networks and transforms known by name are read, and
a reference ("@") may only lead to a plain value.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from napari_unet.core.checkpoints.containers import read_contents
from napari_unet.core.checkpoints.containers.archive import Archive
from napari_unet.core.checkpoints.containers.finding import find_evidence
from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import recognised
from napari_unet.core.errors import ModelFileError

__all__ = ["is_monai_bundle", "plain_config", "read_monai_bundle"]

METADATA = "configs/metadata.json"
CONFIGS = ("inference", "evaluate", "train")
"""What the files are called that describe the network, in the order in which they are asked."""

WEIGHTS = ("model.pt", "model.safetensors", "model.pth", "model.ts")
NETWORKS = frozenset(
    {
        "UNet",
        "BasicUNet",
        "BasicUNetPlusPlus",
        "AttentionUnet",
        "DynUNet",
        "FlexibleUNet",
        "SegResNet",
    }
)
"""Networks whose arguments are understood, by the names that bundles use."""

_ALIASES = {
    "Unet": "UNet",
    "BasicUnet": "BasicUNet",
    "DynUnet": "DynUNet",
    "FlexUNet": "FlexibleUNet",
}
_ENUM = re.compile(r"\$@?monai\.networks\.layers\.(?:factories\.)?(?:Norm|Act)\.([A-Za-z_0-9]+)")
_UNKNOWN = object()
MAX_VALUES = 20_000
MAX_DEPTH = 30


def is_monai_bundle(names: Collection[str]) -> bool:
    """Whether an archive with such members is a bundle of MONAI."""
    root = _root(names)
    return root is not None and any(name.startswith(f"{root}models/") for name in names)


def _root(names: Collection[str]) -> str | None:
    """What the names of all members begin with."""
    found = sorted(
        (name for name in names if name == METADATA or name.endswith(f"/{METADATA}")), key=len
    )
    return found[0].removesuffix(METADATA) if found else None


def read_monai_bundle(archive: Archive) -> Evidence:
    """Weights and description of a bundle, nothing of which is executed.

    Raises
    ------
    ModelFileError
        If it holds no weights that can be read, or is damaged.
    """
    root = _root(archive.names()) or ""
    metadata = archive.json(f"{root}{METADATA}")
    source = archive.source(_weights(archive, root))
    evidence = find_evidence(read_contents(source), source.name, is_known=_is_known)
    configs, notes = _configs(archive, root)
    config: dict[str, Any] = {"bundle": {"metadata": metadata if _is_dict(metadata) else {}}}
    for values in configs:
        for key, value in _described(values).items():
            config.setdefault(key, value)
        for key, value in _transforms(values).items():
            config["bundle"].setdefault(key, value)
    return replace(
        evidence,
        name=archive.name,
        container="MONAI bundle",
        config={**evidence.config, **config},
        notes=(*evidence.notes, *notes),
    )


def _is_dict(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_known(evidence: Evidence) -> bool:
    family = recognised(evidence)
    return family is not None and not family.last


def _weights(archive: Archive, root: str) -> str:
    """The file with the weights."""
    names = set(archive.names())
    usual = [f"{root}models/{name}" for name in WEIGHTS]
    endings = tuple(name.removeprefix("model") for name in WEIGHTS)
    others = sorted(
        name for name in names if name.startswith(f"{root}models/") and name.endswith(endings)
    )
    found = [name for name in (*usual, *others) if name in names]
    if not found:
        raise ModelFileError(
            f"{archive.name} is a MONAI bundle without weights (models/model.pt). They are often "
            "fetched separately: download the whole bundle, or open its ONNX file by itself."
        )
    return found[0]


def _configs(archive: Archive, root: str) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The descriptions that can be read, and a sentence on each that cannot."""
    found: list[Mapping[str, Any]] = []
    notes: list[str] = []
    names = set(archive.names())
    for stem in CONFIGS:
        for ending, read in (("json", archive.json), ("yaml", archive.yaml), ("yml", archive.yaml)):
            name = f"{root}configs/{stem}.{ending}"
            if name not in names:
                continue
            try:
                values = read(name)
            except ModelFileError as error:
                notes.append(f"A part of the bundle was left out: {error}")
                continue
            found += [values] if isinstance(values, Mapping) else []
    return found, notes


def _described(values: Mapping[str, Any]) -> dict[str, Any]:
    """The class of the network and its arguments, if they are plain."""
    for key in ("network_def", "net_def", "network", "net"):
        described = values.get(key)
        if not isinstance(described, Mapping):
            continue
        name = str(described.get("_target_", "")).rpartition(".")[2]
        name = _ALIASES.get(name, name)
        if name in NETWORKS:
            arguments = plain_config(
                {key: value for key, value in described.items() if not key.startswith("_")}, values
            )
            return {"class": name, "model": arguments}
    return {}


def _transforms(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is done to images before the network and to its outputs after it."""
    wanted = {
        "preprocessing": ("preprocessing", "pre_transforms", "preprocessing_transforms"),
        "postprocessing": ("postprocessing", "post_transforms", "postprocessing_transforms"),
    }
    found = {name: _listed(values, keys) for name, keys in wanted.items()}
    return {name: transforms for name, transforms in found.items() if transforms}


def _listed(values: Mapping[str, Any], keys: tuple[str, ...]) -> list[Any]:
    places: list[Mapping[str, Any]] = [values]
    nested = (values.get(name) for name in ("validate", "train"))
    places += [part for part in nested if isinstance(part, Mapping)]
    for place in places:
        for key in keys:
            listed = place.get(key)
            if isinstance(listed, Mapping):
                listed = listed.get("transforms")
            listed = plain_config({"all": listed}, values).get("all")
            if isinstance(listed, list) and listed:
                return [step for step in listed if _is_dict(step) and not step.get("_disabled_")]
    return []


def plain_config(described: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a part of a configuration.

    What would have to be evaluated is left out, and so is what refers to it.

    Parameters
    ----------
    described : the part.
    config : all of the configuration, to which references lead.
    """
    found = _Resolver(config).plain(described, MAX_DEPTH)
    return found if isinstance(found, dict) else {}


@dataclass(slots=True)
class _Resolver:
    """Follows references to plain values, and counts, since they can multiply without end."""

    config: Mapping[str, Any]
    n_values: int = 0

    def plain(self, value: Any, depth: int) -> Any:
        """The value without references; `_UNKNOWN` if it would have to be evaluated."""
        self.n_values += 1
        if self.n_values > MAX_VALUES or depth == 0:
            return _UNKNOWN
        if isinstance(value, str):
            return self._text(value, depth)
        if isinstance(value, Mapping):
            return dict(self._items(value, depth))
        if isinstance(value, (list, tuple)):
            items = [self.plain(item, depth - 1) for item in value]
            is_steps = any(isinstance(item, dict) and "_target_" in item for item in items)
            known = [item for item in items if item is not _UNKNOWN]
            return known if is_steps or len(known) == len(items) else _UNKNOWN
        return value if value is None or isinstance(value, (bool, int, float)) else _UNKNOWN

    def _items(self, values: Mapping[Any, Any], depth: int) -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            plain = self.plain(value, depth - 1)
            if plain is not _UNKNOWN:
                yield str(key), plain

    def _text(self, text: str, depth: int) -> Any:
        if (word := _ENUM.fullmatch(text)) is not None:
            return word[1].lower()
        if text.startswith("@") or re.fullmatch(r"\$@[\w:#]+", text):
            return self._referred(text.lstrip("$@"), depth)
        return _UNKNOWN if text.startswith(("$", "%")) else text

    def _referred(self, path: str, depth: int) -> Any:
        value: Any = self.config
        for part in re.split("::|#", path):
            if isinstance(value, Mapping) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                return _UNKNOWN
        if isinstance(value, Mapping) and "_target_" in value:
            return _UNKNOWN  # an object, which is never made
        return self.plain(value, depth - 1)
