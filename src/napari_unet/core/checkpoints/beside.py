"""What lies beside a file with weights and says more about them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

__all__ = ["config_beside"]

NAMES = (
    "config_train.yml", "config_train.yaml", "train_config.yml", "train_config.yaml",
    "config.yml", "config.yaml", "config.json", "hparams.yaml", "plans.json", "dataset.json",
)  # fmt: skip
MAX_BYTES = 1_000_000


def config_beside(path: Path) -> dict[str, Any]:
    """Plain values of the small files that training programs leave beside their weights.

    `"beside"` holds all of them by file name. Those of the first that has a section for the model
    with arguments in it, or says what the output is, are there under their own names, too.
    """
    found = dict(_read(path))
    if not found:
        return {}
    first = next((values for values in found.values() if _is_about_model(values)), {})
    said = {name: value for name, value in first.items() if name != "about"}  # that of packages
    config: dict[str, Any] = {**said, "beside": found}
    section = config.get("model")
    if isinstance(section, Mapping) and isinstance(section.get("name"), str):
        config["class"] = section["name"]
    return config


def _is_about_model(values: Mapping[str, Any]) -> bool:
    return isinstance(values.get("model"), Mapping) or "output_type" in values


def _read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    own = [f"{path.stem}{ending}" for ending in (".yml", ".yaml", ".json")]
    for name in dict.fromkeys([*own, *NAMES]):
        for folder in (path.parent, path.parent.parent):
            values = _plain(folder / name)
            if values is not None:
                yield name, values
                break


def _plain(path: Path) -> dict[str, Any] | None:
    """The values of a small JSON or YAML file; None if it is not there, or is none."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    return values if isinstance(values, dict) else None
