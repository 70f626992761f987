"""`napari-unet fine-tune`: painted corrections in, a new model out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unet.cli.parsing import (
    add_command,
    add_model,
    add_settings,
    chosen_settings,
    opened_model,
)
from napari_unet.cli.telling import OK, with_bar
from napari_unet.core.errors import CorrectionsError, ModelFileError
from napari_unet.core.settings import FineTuneSettings

if TYPE_CHECKING:
    from napari_unet.core.finetuning import TrainingImage
    from napari_unet.core.model import Model

__all__ = ["add_fine_tune"]

EXAMPLES = """
examples:
  napari-unet fine-tune --model nuclei --image a.tif --corrections a_painted.tif --out mine
  napari-unet fine-tune --model nuclei --project "My project" --out mine.safetensors --steps 400

Corrections are label images of the size of their image: 0 untouched, 1 background, 2 and up the
classes of the model. Only painted pixels are learned from. --image and --corrections may be
given several times, in pairs.
"""


def add_fine_tune(commands: Any) -> None:
    """Add the command `fine-tune`."""
    parser = add_command(
        commands, "fine-tune", _run_fine_tune,
        "train a copy of a model on painted corrections", EXAMPLES,
    )  # fmt: skip
    add_model(parser)
    pairs: dict[str, Any] = {"action": "append", "default": [], "type": Path}
    parser.add_argument("--image", metavar="IMAGE", help="an image that was painted on", **pairs)
    parser.add_argument("--corrections", metavar="LABELS", help="what was painted on it", **pairs)
    parser.add_argument("--axes", help="a letter for each dimension of the images: tcyx")
    parser.add_argument(
        "--project", type=Path, metavar="FOLDER", help="learn from all corrections of a project"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="the new model (.safetensors)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it is there")
    add_settings(
        parser,
        FineTuneSettings,
        {
            "steps": "training steps",
            "seed": "of all that is random",
            "learning_rate": "the highest one",
            "patch_size": "edge of a training patch in px",
            "batch_size": "patches in a step",
            "memory": "how strongly it is held to its old answers, 0 to 1",
            "held_out": "share of the corrections that is only scored on",
        },
    )


def _run_fine_tune(chosen: argparse.Namespace) -> int:
    settings = chosen_settings(FineTuneSettings, chosen)
    if len(chosen.image) != len(chosen.corrections):
        chosen.parser.error("each --image needs its --corrections, in the same order")
    if not chosen.image and chosen.project is None:
        chosen.parser.error("give --image and --corrections, or --project")
    out = _checked_out(chosen)
    from napari_unet.core.finetuning import fine_tuning
    from napari_unet.core.model import save_model

    model = opened_model(chosen, chosen.model, chosen.device)
    images = _training_images(chosen, len(model.description.class_names))
    n_blocks = sum(len(image.blocks) for image in images)
    print(f"Learning from {n_blocks} corrected blocks of {len(images)} images")
    tuned = with_bar(fine_tuning(model, images, settings), "Training")
    save_model(tuned, out)
    print(*_round_lines(tuned), f"Saved {out}", sep="\n")
    return OK


def _checked_out(chosen: argparse.Namespace) -> Path:
    """The file of the new model; better to complain now than after the training."""
    out: Path = chosen.out.expanduser()
    if out.suffix != ".safetensors":
        out = out.with_name(f"{out.name}.safetensors")
    if out.exists() and not chosen.overwrite:
        raise ModelFileError(f"{out} is there already. Add --overwrite to replace it.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelFileError(
            f"The folder {out.parent} cannot be made ({error.strerror or error}). "
            "Choose another place for --out."
        ) from error
    return out


def _training_images(chosen: argparse.Namespace, n_classes: int) -> list[TrainingImage]:
    """The corrections of the project and of the pairs of files."""
    from napari_unet.core.corrections import check_corrections
    from napari_unet.core.files import read_image, read_labels
    from napari_unet.core.finetuning import training_image
    from napari_unet.project import Project

    images: list[TrainingImage] = []
    if chosen.project is not None:
        project = Project.open(chosen.project)
        images += project.training_images()
        for problem in project.damaged:
            print(f"napari-unet: warning: {problem}", file=sys.stderr)
        if not images and not chosen.image:
            raise CorrectionsError(
                f"Nothing is painted yet in the project in {chosen.project}. "
                "Paint corrections in napari first."
            )
    for path, corrections_path in zip(chosen.image, chosen.corrections, strict=True):
        image, corrections = read_image(path, chosen.axes), read_labels(corrections_path)
        check_corrections(image, corrections, n_classes)
        images.append(training_image(image, corrections))
    return images


def _round_lines(model: Model) -> Iterator[str]:
    """What the last round of fine-tuning did and gained."""
    entry = model.history[-1]
    done = entry.settings.get("steps_done", "?")
    yield f"{entry.name}: {done} steps on {entry.n_corrected} painted px in {entry.seconds:.0f} s"
    for name, after in entry.scores_after.items():
        before = entry.scores_before.get(name)
        yield f"  {name}: {'?' if before is None else f'{before:.3f}'} -> {after:.3f}"
