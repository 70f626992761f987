"""What the user prefers, across projects: napari's preferences, and recent models."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs

__all__ = ["preference", "recent_models", "remember_model"]

N_RECENT = 8


def preference(group: str, name: str, default: Any) -> Any:
    """A value from Preferences > U-Net Live; `default` with a napari that has none of these."""
    try:
        return getattr(getattr(_settings(), group), name)
    except (ImportError, AttributeError, KeyError, ValueError):
        return default


@cache
def _settings() -> Any:
    """Napari's object for these settings, which stays up to date; finding it takes 0.3 s."""
    from napari.settings import get_plugin_settings

    return get_plugin_settings("napari-unet-live")


def _file() -> Path:
    override = os.environ.get("NAPARI_UNET_PROJECTS")
    folder = Path(override) if override else platformdirs.user_data_path("napari-unet-live")
    return folder / "recent-models.json"


def recent_models() -> list[Path]:
    """Model files opened lately that are still there, the latest first."""
    try:
        paths = [Path(path) for path in json.loads(_file().read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []
    return [path for path in paths if path.exists()]


def remember_model(path: Path) -> None:
    """Put a model file first among the recent ones; a folder that cannot be written is no harm."""
    path = path.absolute()
    paths = [path, *(other for other in recent_models() if other != path)][:N_RECENT]
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        _file().write_text(json.dumps([str(path) for path in paths]), encoding="utf-8")
    except OSError:
        return
