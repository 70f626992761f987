"""What a user has said of a file that it does not say itself, remembered by its contents."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from napari_unet.core.checkpoints.plain import to_json
from napari_unet.core.whole_file import write_whole

__all__ = ["answers_for", "answers_key", "forget", "remember"]


def _file(key: str) -> Path:
    chosen = os.environ.get("NAPARI_UNET_ANSWERS")
    data = platformdirs.user_data_path("napari-unet-live", appauthor=False)
    return (Path(chosen) if chosen else data / "answers") / f"{key[:32]}.json"


def answers_key(sha256: str, member: str = "") -> str:
    """What answers are kept by: the hash of a file, and which of several models in it."""
    if not sha256 or not member:
        return sha256
    return hashlib.sha256(f"{sha256} {member}".encode()).hexdigest()


def answers_for(key: str) -> dict[str, Any]:
    """What was said of a file, by name of the attribute; {} if nothing."""
    try:
        kept = json.loads(_file(key).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def remember(key: str, answers: Mapping[str, Any]) -> None:
    """Keep what was said, beside what was said before. A disk that is full is no harm."""
    if not key:
        return
    try:
        _file(key).parent.mkdir(parents=True, exist_ok=True)
        # The latest answer comes last: it may undo what followed from an earlier one.
        kept = {name: one for name, one in answers_for(key).items() if name not in answers}
        write_whole(_file(key), to_json({**kept, **answers}).encode())
    except OSError:
        return


def forget(key: str) -> None:
    """Forget what was said of a file."""
    _file(key).unlink(missing_ok=True)
