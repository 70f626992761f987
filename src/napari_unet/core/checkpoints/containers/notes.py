"""What a user is told of how a file was read."""

from __future__ import annotations

from collections.abc import Iterable

from napari_unet.core.checkpoints.containers.inert import runs_code
from napari_unet.core.checkpoints.containers.plainly import Plainly
from napari_unet.core.checkpoints.containers.source import shown
from napari_unet.core.checkpoints.containers.tensors import converted_note

__all__ = ["notes_of"]


def notes_of(kinds: Iterable[str], plainly: Plainly, script: bool = False) -> tuple[str, ...]:
    """Sentences on code the file carries or asks for, whole modules, and converted numbers."""
    notes: list[str] = []
    harmful = [kind for kind in kinds if runs_code(kind)]
    if harmful:
        more = f" and {len(harmful) - 1} more" if len(harmful) > 1 else ""
        notes.append(
            f"This file asks to run code on your computer ({shown(harmful[0])}{more}). Nothing was "
            f"run. Do not open it in other programs."
        )
    if script:
        notes.append(
            "This is a TorchScript model, which contains a program. Only its weights and layer "
            "settings were taken; the program was not run."
        )
    elif plainly.modules:
        notes.append(
            "Saved as a full Python object; only numbers and layer settings were read, no code."
        )
    return (*notes, *converted_note(plainly.storages.converted))
