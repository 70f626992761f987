"""Models as the works of a session's jobs: opened, moved, trained, and kept round by round.

Plain generators that know no window. Whatever is slow to import is imported in them, on a
worker thread.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unet.core.progress import Progress
from napari_unet.core.settings import FineTuneSettings
from napari_unet.project import Project

if TYPE_CHECKING:
    from napari_unet.core.image import Image
    from napari_unet.core.model import Model, Round

__all__ = [
    "Kept",
    "Trial",
    "rounds_of",
    "saved_in",
    "share_the_cores",
    "training",
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """A model fresh from training and the one it came from, until the user decides."""

    before: Model
    after: Model
    path: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One round of fine-tuning that is kept in the project."""

    path: Path
    round: Round


def training(
    model: Model,
    project: Project,
    settings: FineTuneSettings,
    opened: Mapping[str, Image] | None = None,
) -> Generator[Any, None, Trial]:
    """Train a copy of a model on all corrections of a project, and keep it there.

    Parameters
    ----------
    model, project, settings : what to train, on what, and how.
    opened : the images that are open, by key: a network of volumes needs the slices around what
        was painted.
    """
    yield Progress(done=0, total=0, message="Gathering the corrections")
    from napari_unet.core.checkpoints.native import PROGRAM
    from napari_unet.core.errors import TrainingError
    from napari_unet.core.finetuning import fine_tuning

    if model.architecture == PROGRAM:
        raise TrainingError(
            f"{model.description.name} is a program that only its own file can run: what it "
            f"learns could not be kept. Ask for the weights alone (a state dict), and open those."
        )
    if model.description.dims == 3:
        for key, image in (opened or {}).items():
            yield from project.keep_slices(image, key)
    after = yield from fine_tuning(model, project.training_images(), settings)
    return Trial(before=model, after=after, path=project.save_round(after))


def rounds_of(project: Project) -> tuple[Kept, ...]:
    """The rounds of fine-tuning that a project keeps, oldest first."""
    from napari_unet.core.checkpoints.native import read_history

    histories = [(path, read_history(path)) for path in project.round_paths()]
    return tuple(Kept(path=path, round=history[-1]) for path, history in histories if history)


def saved_in(project: Project) -> dict[str, int]:
    """Corrected px of each image of a project."""
    return {image.key: sum(image.n_corrected.values()) for image in project.images()}


def share_the_cores() -> None:
    """Let torch's threads sleep while they wait for each other; must come before torch.

    NOTE: by default they spin. As soon as the window, its drawing or another program needs a
    core too, the spinning ones keep the one they wait for from running: on two busy cores
    segmenting took three to seven times as long.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
