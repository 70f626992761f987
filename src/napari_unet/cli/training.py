"""`napari-unet train`: images and their masks in, a new network out."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unet.cli.parsing import add_command, add_opening, chosen_settings, opened_model
from napari_unet.cli.telling import INTERRUPTED, OK, complain
from napari_unet.cli.training_options import RENAMED, add_all
from napari_unet.core.errors import ModelFileError, TrainingError
from napari_unet.core.progress import Work
from napari_unet.core.settings import AugmentationSettings
from napari_unet.core.training.settings import TrainSettings

if TYPE_CHECKING:
    from napari_unet.core.datasets import Dataset, DatasetSettings
    from napari_unet.core.model import Model
    from napari_unet.core.training import TrainProgress

__all__ = ["add_train"]

EXAMPLES = """
examples:
  napari-unet train cells --out cells.safetensors
  napari-unet train cells --out cells --network unet-2015 --width 32 --minutes 30 --folder run
  napari-unet train organelles --out organelles --what classes --class-names er,nucleus

DATA is a folder with the folders 'images' and 'masks', or one laid out as in the Data Science Bowl
2018 or the Cell Tracking Challenge, or OME-Zarr or HDF5 with labels. Whole images are held out for
the score. Ctrl+C ends the training after the step that is being done: the best network so far is
saved, or with --folder the same command goes on there.
'napari-unet networks' lists the networks.
"""

OWN = ".safetensors"
ENDINGS = (OWN, ".zip", ".pth", ".pt", ".onnx")
"""Of the files that a model can be saved as."""


def add_train(commands: Any, is_chosen: bool = True) -> None:
    """Add the command `train`; its options only if it is chosen, as they take time to import."""
    parser = add_command(
        commands, "train", _run_train, "train a network on images and their masks", EXAMPLES
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="a folder of images and masks")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE",
        help="the new model: .safetensors (or no ending), .zip (bioimage.io), .pth, .pt or .onnx",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it is there")
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="RUN",
        help="keep the run there, or go on with it",
    )
    parser.add_argument("--start", metavar="MODEL", help="go on from a model file or 'nuclei'")
    parser.add_argument(
        "--imagenet", type=Path, metavar="FILE", help="weights of the encoder from ImageNet"
    )
    parser.add_argument("--name", default="", help="of the new model")
    parser.add_argument("--class-names", metavar="A,B,...", help="of the classes in the masks")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--layout", default="auto", help="of DATA (default: recognised)")
    add_opening(parser)
    add_all(parser.add_argument_group("training"), TrainSettings)
    add_all(parser.add_argument_group("how patches are varied"), AugmentationSettings, RENAMED)
    if is_chosen:
        from napari_unet.core.datasets import DatasetSettings

        add_all(parser.add_argument_group("how images and masks are read"), DatasetSettings)


def _settings(chosen: argparse.Namespace) -> tuple[TrainSettings, DatasetSettings]:
    """What was chosen; a value that makes no sense is wrong use."""
    from napari_unet.core.datasets import DatasetSettings

    typed = vars(chosen)
    names = {setting.name: RENAMED.get(setting.name, setting.name) for setting in
             fields(AugmentationSettings)}  # fmt: skip
    own = argparse.Namespace(parser=chosen.parser, **{k: typed[v] for k, v in names.items()})
    rest = {**typed, "augmentation": chosen_settings(AugmentationSettings, own)}
    return (
        chosen_settings(TrainSettings, argparse.Namespace(**rest)),
        chosen_settings(DatasetSettings, chosen),
    )


def _run_train(chosen: argparse.Namespace) -> int:
    settings, reading = _settings(chosen)
    _check_start(chosen)
    out = _checked_out(chosen)
    from napari_unet.core.datasets import open_dataset
    from napari_unet.core.training import training
    from napari_unet.core.training.stopping import Stopped

    dataset = open_dataset(chosen.data, chosen.layout, reading)
    _tell(dataset, settings)
    start = opened_model(chosen, chosen.start, chosen.device) if chosen.start else None
    names = [one.strip() for one in chosen.class_names.split(",")] if chosen.class_names else None
    work = training(
        dataset.pairs, settings, start=start, folder=chosen.folder, device=chosen.device,
        name=chosen.name or out.stem, class_names=names, imagenet=chosen.imagenet,
    )  # fmt: skip
    try:
        model = _with_bar(work, is_kept=chosen.folder is not None)
    except Stopped as stop:
        print(f"Stopped after step {stop.step}; the same command goes on.", file=sys.stderr)
        return INTERRUPTED
    out = _saved(model, out)
    print(*_lines(model), f"Saved {out}", sep="\n")
    return OK


def _check_start(chosen: argparse.Namespace) -> None:
    """A model that training starts from has its network: another one is wrong use."""
    is_named = any(typed.partition("=")[0] == "--network" for typed in chosen.typed)
    given = {"--network": is_named, "--width": chosen.width, "--imagenet": chosen.imagenet}
    wrong = [name for name, value in given.items() if value]
    if chosen.start and wrong:
        chosen.parser.error(
            f"{wrong[0]} is for a new network, but --start goes on with that of a model. "
            f"Leave out one of them."
        )


def _saved(model: Model, out: Path) -> Path:
    """Where the model was saved: if its format cannot hold it, in the one that holds all."""
    from napari_unet.core.model import save_model

    try:
        save_model(model, out)
    except ModelFileError as error:
        other = out.with_name(f"{out.name}{OWN}")
        if out.suffix == OWN or other.exists():
            raise
        save_model(model, other)
        complain(f"{error} The model was saved as {other.name} instead.")
        return other
    return out


def _tell(dataset: Dataset, settings: TrainSettings) -> None:
    """Say what is in the data and what is wrong with it; some of that keeps it from being used."""
    from napari_unet.core.datasets import check, describe

    print(describe(dataset, settings.what))
    problems = check(dataset, settings.what, settings.dims)
    for problem in sorted(problems, key=lambda problem: not problem.is_fatal):
        kind = "error" if problem.is_fatal else "warning"
        where = f"{problem.path}: " if problem.path is not None else ""
        print(f"napari-unet: {kind}: {where}{problem.sentence}", file=sys.stderr)
    n_fatal = sum(problem.is_fatal for problem in problems)
    if n_fatal:
        raise TrainingError(
            f"{n_fatal} problem{'s keep' if n_fatal > 1 else ' keeps'} the data from being used. "
            f"Mend or remove the files that are named above."
        )


def _checked_out(chosen: argparse.Namespace) -> Path:
    """The file of the new model; better to complain now than after the training."""
    from napari_unet.core.checkpoints.saving.onnx import can_write_onnx

    out: Path = chosen.out.expanduser()
    if not out.suffix:
        out = out.with_name(f"{out.name}{OWN}")
    if out.suffix not in ENDINGS:
        raise ModelFileError(
            f"{out.name} ends in {out.suffix!r}, which is no kind of model file. End the name of "
            f"--out in one of {', '.join(ENDINGS)}."
        )
    if out.suffix == ".onnx" and not can_write_onnx():
        raise ModelFileError(
            f"{out.name} is to be an ONNX file, for which the extra 'onnx' is missing. Install it "
            f"with: pip install 'napari-unet-live[onnx]', or choose another ending for --out."
        )
    if out.is_dir():
        raise ModelFileError(f"{out} is a folder. Choose another name for --out.")
    if out.exists() and not chosen.overwrite:
        raise ModelFileError(f"{out} is there already. Add --overwrite to replace it.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=out.parent, prefix=".napari-unet-"):
            pass
    except OSError as error:
        raise ModelFileError(
            f"Nothing can be written to the folder {out.parent} ({error.strerror or error}). "
            "Choose another place for --out."
        ) from error
    return out


def _with_bar(work: Work[TrainProgress, Model], is_kept: bool = False) -> Model:
    """Train under a progress bar; where stderr is no terminal, a line for each measurement."""
    from tqdm import tqdm

    from napari_unet.core.training.stopping import finish_or_stop

    with tqdm(leave=False, dynamic_ncols=True, disable=None) as bar:
        phase, last = "", ""

        def report(progress: TrainProgress) -> None:
            nonlocal phase, last
            if progress.message != phase:
                phase = progress.message
                bar.reset(progress.total)
                bar.set_description_str(phase, refresh=False)
            bar.total = progress.total
            bar.update(progress.done - bar.n)
            if progress.score is not None:
                last = ", ".join(f"{name} {value:.3f}" for name, value in progress.scores.items())
            if bar.disable:
                _tell_step(progress, last)
            elif progress.loss == progress.loss:  # a number
                bar.set_postfix_str(f"loss {progress.loss:.3f} {last}", refresh=False)

        def end_early(step: int) -> None:
            bar.clear()
            print(f"Stopped after step {step}; the best network so far is saved.", file=sys.stderr)

        return finish_or_stop(work, report, is_kept=is_kept, end_early=end_early)


def _tell_step(progress: TrainProgress, scores: str) -> None:
    """A line for a step at which something was measured."""
    if progress.score is not None and progress.loss == progress.loss:
        line = f"step {progress.done} of {progress.total}: loss {progress.loss:.3f}, {scores}"
        print(line, file=sys.stderr, flush=True)


def _lines(model: Model) -> Iterator[str]:
    """What was trained, and how good it is."""
    entry = model.history[-1]
    used = entry.settings
    n_images = f"{used['n_images']} image{'' if used['n_images'] == 1 else 's'}"
    yield (
        f"{model.description.name}: {used['steps_done']} steps on {n_images} in "
        f"{entry.seconds:.0f} s"
    )
    yield from (f"  {note}" for note in model.description.notes)
    if not entry.scores_after and used["n_held_out"]:
        yield "  nothing was measured yet: how good it is on other images is not known"
        return
    if not entry.scores_after:
        yield "  nothing was held out: how good it is on other images is not known"
        return
    n_held_out = used["n_held_out"]
    plural = "" if n_held_out == 1 else "s"
    yield f"  on {n_held_out} held-out image{plural}, best at step {used['best_step']}:"
    for name, after in entry.scores_after.items():
        before = entry.scores_before.get(name)
        yield (
            f"    {name:<4} " + (f"{before:.3f} -> " if before is not None else "") + f"{after:.3f}"
        )
