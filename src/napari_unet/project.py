"""What is kept on disk: corrections, models and a little state, in a plain folder.

::

    My project/
        project.json                  format, version, name, created
        state.json                    the model to start with next time
        images/<fingerprint>/
            image.json                name, source, shape, dtype, axes, class names
            summary.npz               quantiles of the raw intensities, (c, n)
            blocks/0-3_256_512.corrections.npz   painted pixels of one block (y, x) of a plane
            blocks/0-3_256_512.image.npz         the raw image around it, written once; of
                                                 neighbouring slices too, for 3D models
            damaged/                  files that could not be read, moved aside
        models/round-0001.safetensors ...
        networks/<name>.safetensors   trained from masks, with the log of its training (.csv)
        training/<name>-<hash>/       state of a training from masks, so that it can go on
        removed/                      images that were taken out, never deleted

Every file is written whole or not at all (`disk.py`); `image_folder.py` says what blocks are named.
Two programs may work on one project at once: of each block the last one written stays, and
nothing is corrupted; neither sees the other's strokes before it opens the image again.
"""

from __future__ import annotations

import operator
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from napari_unet.core.corrections import CorrectedBlock
from napari_unet.core.errors import ModelFileError, ProjectError
from napari_unet.core.image import Image
from napari_unet.core.progress import Progress, Work
from napari_unet.core.volumes import DEPTH
from napari_unet.disk import (
    disk_errors,
    paths_in,
    read_json,
    remove_leftovers,
    rename_if_free,
    sync_folder,
    write_json,
)
from napari_unet.image_folder import VERSION, Corrections, ImageFolder, ProjectImage

if TYPE_CHECKING:
    from napari_unet.core.finetuning import TrainingImage
    from napari_unet.core.model import Model

__all__ = ["Project", "ProjectImage", "default_project", "default_projects_folder"]

FORMAT = "napari-unet-live project"
DEFAULT_NAME = "My project"
OWN_FOLDERS = ("images", "models", "networks", "training")
ROUND_NAME = re.compile(r"round-(\d+)\.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project folder; made by `Project.open` and `Project.create`.

    Attributes
    ----------
    folder, name : where it is, and what people call it.
    damaged : a sentence for each file that could not be read; grows while reading.
    """

    folder: Path
    name: str
    damaged: list[str] = field(default_factory=list, compare=False, repr=False)

    @classmethod
    def open(cls, folder: str | Path) -> Project:
        """Open a project and tidy up what a crash left behind.

        Raises
        ------
        ProjectError
            If there is no project in `folder`, or a newer version made it.
        """
        folder = Path(folder).expanduser().absolute()
        file = folder / "project.json"
        if not file.is_file():
            raise ProjectError(
                f"There is no project in {folder}: it holds no {file.name}. Choose the folder "
                "of a project, or create a new one."
            )
        damaged: list[str] = []
        about = read_json(file, damaged)
        if about.get("format", FORMAT) != FORMAT:
            raise ProjectError(f"{file} belongs to another program. Choose another folder.")
        version = about.get("version")
        if isinstance(version, int) and version > VERSION:
            raise ProjectError(
                f"The project in {folder} was made by a newer version of napari-unet-live "
                f"(format {version}, known here: {VERSION}). Update the plugin."
            )
        project = cls(folder=folder, name=str(about.get("name", folder.name)), damaged=damaged)
        if not file.exists():  # it was damaged and is aside now; all else is still there
            project._write_about()
        remove_leftovers(folder)
        return project

    @classmethod
    def create(cls, folder: str | Path, name: str | None = None) -> Project:
        """Make a new project in a new or empty folder; `name` is the folder's if None.

        Raises
        ------
        ProjectError
            If there is something in the folder already, or it cannot be written to.
        """
        folder = Path(folder).expanduser().absolute()
        with disk_errors("The project could not be created in", folder):
            folder.mkdir(parents=True, exist_ok=True)
            names = sorted(path.name for path in folder.iterdir())
        # A project that lost its project.json, or died before it was written, is taken up again.
        strange = [n for n in names if not n.startswith(".") and n not in OWN_FOLDERS]
        if strange:
            raise ProjectError(
                f"{folder} is not empty (it holds {strange[0]!r}). Choose a new or empty folder "
                "for the project, or open it if it is a project."
            )
        project = cls(folder=folder, name=name or folder.name)
        project._write_about()
        return project

    def _write_about(self) -> None:
        created = datetime.now(UTC).isoformat(timespec="seconds")
        about = {"format": FORMAT, "version": VERSION, "name": self.name, "created": created}
        write_json(self.folder / "project.json", about)

    def _image_folder(self, key: str) -> ImageFolder:
        if not re.fullmatch(r"\w+", key):
            raise ProjectError(f"{key!r} is not the fingerprint of an image.")
        return ImageFolder(path=self.folder / "images" / key, damaged=self.damaged)

    # ---- saving corrections

    def save_blocks(
        self,
        image: Image,
        blocks: Iterable[CorrectedBlock],
        *,
        class_names: Iterable[str] = (),
        source: str | Path = "",
        key: str | None = None,
        depth: int = 0,
    ) -> Work[Progress, int]:
        """Write blocks of corrections; a block without any is taken off the disk.

        When the work yields, one more block is on the disk for good.

        Parameters
        ----------
        image : the image that was painted on.
        blocks : what to write; made one by one if they come from a generator.
        class_names : of the model it was painted for, background first.
        source : the file of the image, if it is known.
        key : its fingerprint, if that is known already.
        depth : how many slices before and behind a painted one to keep, for networks of volumes.

        Returns
        -------
        int
            How many blocks were written or removed.

        Raises
        ------
        ProjectError
            If the folder cannot be written to; blocks yielded before stay.
        """
        folder = self._image_folder(image.fingerprint() if key is None else key)
        total, done, saved = operator.length_hint(blocks), 0, []
        folder.save_about(image, tuple(class_names), str(source))
        for done, block in enumerate(blocks, start=1):
            folder.save_block(block)
            saved += [block] if depth else []
            yield Progress(done=done, total=max(done, total), message="Saving corrections")
        folder.save_summary(image)  # strokes come first
        for block in saved:
            folder.save_slices(image, block, depth)
            yield Progress(done=done, total=done, message="Keeping the slices around")
        return done

    # ---- reading corrections

    def load_corrections(self, key: str) -> list[CorrectedBlock]:
        """All blocks of an image, with the image around them, but for those in `damaged`."""
        return self._image_folder(key).load()

    def restore(self, key: str, label_shape: tuple[int, ...]) -> Corrections:
        """The corrections of a whole image, `label_shape`; zeros where nothing was painted."""
        return self._image_folder(key).restore(label_shape)

    def images(self) -> list[ProjectImage]:
        """What the project knows about each of its images, the last painted one first."""
        keys = [path.name for path in paths_in(self.folder / "images") if path.is_dir()]
        known = [self._image_folder(key).about() for key in keys if re.fullmatch(r"\w+", key)]
        return sorted(known, key=lambda image: image.changed, reverse=True)

    def all_blocks(self) -> dict[str, list[CorrectedBlock]]:
        """The blocks of every image that has some, by its key."""
        keys = [image.key for image in self.images() if image.n_blocks]
        loaded = {key: self.load_corrections(key) for key in sorted(keys)}
        return {key: blocks for key, blocks in loaded.items() if blocks}

    def keep_slices(self, image: Image, key: str, depth: int = DEPTH) -> Work[Progress, None]:
        """Keep what lies around painted slices of an open image, unless that was done before.

        Networks of volumes need it. `save_blocks` does it too, if it is told a depth.

        Raises
        ------
        ProjectError
            If the folder cannot be written to.
        """
        folder = self._image_folder(key)
        blocks = folder.load() if "z" in image.axes else []
        for done, block in enumerate(blocks, start=1):
            folder.save_slices(image, block, depth)
            yield Progress(done=done, total=len(blocks), message="Keeping the slices around")

    def training_images(self) -> list[TrainingImage]:
        """The corrections of all images, as `fine_tuning` takes them."""
        from napari_unet.core.finetuning import TrainingImage

        found = []
        for key, blocks in self.all_blocks().items():
            folder = self._image_folder(key)
            summary = folder.summary(blocks)
            found.append(
                TrainingImage(key=key, summary=summary, blocks=blocks, slices=folder.slices())
            )
        return found

    def forget(self, key: str) -> Path:
        """Take an image out of the project: its folder moves to `removed`; returns where to."""
        entry, removed = self._image_folder(key).path, self.folder / "removed"
        target, n = removed / key, 1
        while target.exists():
            n += 1
            target = removed / f"{key}-{n}"
        with disk_errors("The project could not move", entry):
            removed.mkdir(exist_ok=True)
            entry.rename(target)
        return target

    # ---- models and state

    def save_round(self, model: Model) -> Path:
        """Keep a model under the next free number; returns its file.

        Raises
        ------
        ProjectError
            If it cannot be written.
        """
        folder = self.folder / "models"
        numbers = count(max(_rounds_in(folder), default=0) + 1)
        return _kept(model, folder, (f"round-{number:04}" for number in numbers))

    def save_network(self, model: Model, name: str) -> Path:
        """Keep a network that was trained from masks under its name, or the next free one.

        Raises
        ------
        ProjectError
            If it cannot be written.
        """
        names = chain([name], (f"{name}-{number}" for number in count(2)))
        return _kept(model, self.folder / "networks", names)

    def round_paths(self) -> list[Path]:
        """The kept models, oldest first."""
        numbered = _rounds_in(self.folder / "models")
        return [numbered[number] for number in sorted(numbered)]

    def read_state(self) -> dict[str, Any]:
        """What `write_state` wrote last; empty if nothing, or if it is damaged."""
        return read_json(self.folder / "state.json", self.damaged)

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Remember a few values for next time; they replace all those before.

        Raises
        ------
        ProjectError
            If they cannot be written.
        """
        write_json(self.folder / "state.json", state)


def default_projects_folder() -> Path:
    """Where projects are kept unless the user says otherwise."""
    chosen = os.environ.get("NAPARI_UNET_PROJECTS")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return platformdirs.user_data_path("napari-unet-live", appauthor=False) / "projects"


def default_project() -> Project:
    """The project that is used when nobody chose one; made if it is not there.

    Raises
    ------
    ProjectError
        If it can neither be opened nor made.
    """
    folder = default_projects_folder() / DEFAULT_NAME
    exists = (folder / "project.json").is_file()
    return Project.open(folder) if exists else Project.create(folder)


def _rounds_in(folder: Path) -> dict[int, Path]:
    """Number to file of the kept models."""
    matches = [(ROUND_NAME.fullmatch(path.name), path) for path in paths_in(folder)]
    return {int(match.group(1)): path for match, path in matches if match}


def _kept(model: Model, folder: Path, names: Iterator[str]) -> Path:
    """Write a model under the first of these names that is free, never over another file."""
    from napari_unet.core.model import save_model

    temporary = folder / f".{secrets.token_hex(4)}.part.safetensors"
    try:
        save_model(model, temporary)
    except ModelFileError as error:
        raise ProjectError(
            f"The new model could not be kept in {folder}. Check that the disk is not full "
            f"and that you may write there, or choose another project folder. ({error})"
        ) from error
    try:
        with disk_errors("The project could not write to", folder):
            return _renamed(temporary, folder, names)
    finally:
        temporary.unlink(missing_ok=True)


def _renamed(temporary: Path, folder: Path, names: Iterator[str]) -> Path:
    """Give a finished model file the first name that is free."""
    for name in names:
        path = folder / f"{name}.safetensors"
        try:
            rename_if_free(temporary, path)
        except FileExistsError:  # another program may just have taken it
            continue
        sync_folder(folder)
        return path
    raise AssertionError("names never end")
