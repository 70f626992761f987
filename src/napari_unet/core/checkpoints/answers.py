"""What a user has said of a file that it does not say itself, remembered by its contents."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from napari_unet.core.checkpoints.plain import to_json
from napari_unet.core.whole_file import write_whole

__all__ = ["answers_for", "forget", "remember"]


def _file(sha256: str) -> Path:
    chosen = os.environ.get("NAPARI_UNET_ANSWERS")
    data = platformdirs.user_data_path("napari-unet-live", appauthor=False)
    return (Path(chosen) if chosen else data / "answers") / f"{sha256[:32]}.json"


def answers_for(sha256: str) -> dict[str, Any]:
    """What was said of the file with this hash, by name of the attribute; {} if nothing."""
    try:
        kept = json.loads(_file(sha256).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def remember(sha256: str, answers: Mapping[str, Any]) -> None:
    """Keep what was said, beside what was said before. A disk that is full is no harm."""
    if not sha256:
        return
    try:
        _file(sha256).parent.mkdir(parents=True, exist_ok=True)
        write_whole(_file(sha256), to_json({**answers_for(sha256), **answers}).encode())
    except OSError:
        return


def forget(sha256: str) -> None:
    """Forget what was said of a file."""
    _file(sha256).unlink(missing_ok=True)
