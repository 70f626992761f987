"""Networks trained from masks, as the works of a session's jobs.

Plain generators that know no window. Whatever is slow to import is imported in them, on a
worker thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_unet.core.errors import TrainingError
from napari_unet.core.progress import Progress, Work
from napari_unet.project import Project

if TYPE_CHECKING:
    from napari_unet.core.datasets import Dataset
    from napari_unet.core.image import Image
    from napari_unet.core.model import Model
    from napari_unet.core.training.settings import TrainSettings

__all__ = [
    "Choice",
    "Lesson",
    "Looked",
    "Taught",
    "choices",
    "looking_at",
    "run_folder",
    "teaching",
]


WITH_ENCODER = ("smp", "fcn", "segnet")
"""Kinds of networks that have an encoder whose ImageNet weights others give away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A network to choose.

    Attributes
    ----------
    name, title, summary, paper : as its `Preset` says.
    dims : for how many dimensions it can be built.
    takes_imagenet : whether its encoder can begin with weights from ImageNet.
    """

    name: str
    title: str
    summary: str
    paper: str
    dims: tuple[int, ...]
    takes_imagenet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesson:
    """What a network is to learn from: a folder, or layers that are open.

    Attributes
    ----------
    folder : of images and masks, in one of the layouts of `napari_unet.core.datasets`.
    layers : instead, images and their masks, whole numbers in the label axes of the image.
    what : "objects" (the masks number the objects) or "classes".
    """

    folder: Path | None = None
    layers: tuple[tuple[Image, Any], ...] = ()
    what: Literal["objects", "classes"] = "objects"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Looked:
    """What was found in a lesson.

    Attributes
    ----------
    lesson : what was looked at.
    text : what is in it, in a few lines.
    problems : what is wrong, in sentences; those first that keep it from being used.
    is_usable : whether a network can be trained on it.
    """

    lesson: Lesson
    text: str = ""
    problems: tuple[str, ...] = ()
    is_usable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Taught:
    """A network that was trained, the file that it is kept in, and its scores."""

    model: Model
    path: Path
    scores: Mapping[str, float] = field(default_factory=dict)


def choices() -> Work[Progress, tuple[Choice, ...]]:
    """Every network that can be trained from scratch."""
    yield Progress(done=0, total=0, message="Listing the networks")
    from napari_unet.core.networks import presets

    return tuple(
        Choice(
            name=preset.name, title=preset.title, summary=preset.summary, paper=preset.paper,
            dims=preset.dims, takes_imagenet=preset.kind.name in WITH_ENCODER,
        )
        for preset in presets().values()
    )  # fmt: skip


def _opened(lesson: Lesson) -> Dataset:
    from napari_unet.core.datasets import of_arrays, open_dataset

    if lesson.folder is not None:
        return open_dataset(lesson.folder)
    if not lesson.layers:
        raise TrainingError("There are no masks to learn from. Choose an image and its masks.")
    return of_arrays(lesson.layers)


def looking_at(lesson: Lesson) -> Work[Progress, Looked]:
    """Find out what is in a lesson, and what is wrong with it."""
    yield Progress(done=0, total=0, message="Looking at the images and masks")
    from napari_unet.core.datasets import check, describe, surveying

    dataset = _opened(lesson)
    yield from surveying(dataset)
    problems = sorted(check(dataset, lesson.what), key=lambda problem: not problem.is_fatal)
    return Looked(
        lesson=lesson,
        text=describe(dataset, lesson.what) if dataset.pairs else "",
        problems=tuple(problem.sentence for problem in problems),
        is_usable=bool(dataset.pairs) and not any(problem.is_fatal for problem in problems),
    )


def run_folder(project: Project, name: str, lesson: Lesson, settings: TrainSettings) -> Path:
    """Where such a training keeps its state while it runs, so that the next one like it goes on."""
    said = [
        repr(settings),
        str(lesson.folder),
        *(image.fingerprint() for image, _ in lesson.layers),
    ]
    digest = hashlib.blake2b("\n".join(said).encode(), digest_size=4).hexdigest()
    return project.folder / "training" / f"{_file_name(name)}-{digest}"


def teaching(
    lesson: Lesson, settings: TrainSettings, project: Project, name: str, device: str,
    imagenet: Path | None = None,
) -> Work[Any, Taught]:  # fmt: skip
    """Train a new network, and keep it in the project, with the log of its training beside it.

    What was stopped or killed goes on where it was, if it is asked for once more.

    Parameters
    ----------
    lesson, settings : on what, and how.
    project, name : where it is kept, and what it is called.
    device : what it is trained on.
    imagenet : a file with the weights that its encoder begins with.
    """
    from napari_unet.core.training import training

    yield Progress(done=0, total=0, message="Reading the images and masks")
    pairs = _opened(lesson).pairs
    folder = run_folder(project, name, lesson, settings)
    model = yield from training(
        pairs, settings, folder=folder, device=device, name=name, imagenet=imagenet
    )
    path = project.save_network(model, _file_name(name))
    with contextlib.suppress(OSError):
        (folder / "log.csv").replace(path.with_suffix(".csv"))
    shutil.rmtree(folder, ignore_errors=True)
    return Taught(model=model, path=path, scores=model.description.scores.get("held out", {}))


def _file_name(name: str) -> str:
    """A name as that of a file or folder."""
    return re.sub(r"[^\w-]+", "-", name.strip()).strip("-") or "network"
