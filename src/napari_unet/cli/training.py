"""`napari-unet train`: images and their masks in, a new network out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from napari_unet.cli.parsing import add_command, add_opening, chosen_settings, opened_model
from napari_unet.cli.telling import FAILED, OK
from napari_unet.core.errors import ModelFileError, TrainingError
from napari_unet.core.progress import Work, finish
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
the score. With --folder, the same command goes on where it was stopped.
'napari-unet networks' lists the networks.
"""

HELPS = {
    "network": "a name from 'napari-unet networks'",
    "width": "channels of its first level (default: as in its paper)",
    "dims": "2 for slices, 3 for volumes",
    "what": "whether masks number objects or hold classes",
    "split": "how touching objects are kept apart",
    "outputs": "whether outputs compete or are each by themselves",
    "steps": "training steps at most",
    "minutes": "time at most (default: no limit)",
    "patience": "end when the score has not risen for so many measurements; 0 for never",
    "measure_every": "steps between measurements; 0 for a twentieth of the steps",
    "loss": "what is made small",
    "gamma": "exponent of the focal loss",
    "alpha": "weight of false positives in the Tversky loss",
    "beta": "weight of false negatives in the Tversky loss",
    "class_weights": "whether rare classes count as much as others",
    "separation": "w_0 of the separation map; 0 for none",
    "separation_sigma": "its sigma in px",
    "optimizer": "how weights are changed",
    "learning_rate": "the highest one",
    "momentum": "of sgd",
    "weight_decay": "how strongly weights are pulled to 0",
    "schedule": "of the learning rate",
    "clip": "largest norm of the gradient; 0 for no limit",
    "patch_size": "edge of a training patch in px",
    "batch_size": "patches in a step",
    "average": "decay of the running mean of the weights, at most; 0 for none",
    "normalization": "how intensities become input",
    "network_dropout": "share that the network drops (default: as it says)",
    "precision": "auto: 16-bit arithmetic where the device gains from it",
    "held_out": "share of the images that is only scored on",
    "n_folds": "instead: so many parts, of which one is held out; 0 for none",
    "fold": "which of them, from 0",
    "seed": "of all that is random",
    "elastic_sigma": "elastic deformation in px; 0 for none",
    "elastic_points": "its control points along each axis",
    "rotation": "largest rotation in degrees",
    "scale": "largest zoom, in and out; 1 for none",
    "flips": "mirror at random",
    "brightness": "largest shift of values",
    "contrast": "largest relative stretch of values",
    "gamma_change": "largest exponent of values; 1 for none",
    "noise": "largest standard deviation of added noise",
    "blur": "largest sigma of Gaussian blur in px",
    "color": "largest share of other channels mixed in",
    "gray": "share of images shown without colour",
    "invert": "share of images whose dark and bright are exchanged",
    "dropout": "largest share of a patch that is hidden",
    "images": "name of the folder of images, where there are several",
    "masks": "name of the folder of masks, where there are several",
    "axes": "a letter for each dimension of the images, if the files are wrong about them",
    "planes": "cut stacks into planes, or put the images of a folder upon each other as a volume",
    "block": "so many neighbouring planes or images are held out together; 0 for single images",
    "silver": "use masks made by computers where there are none made by hand",
    "threshold": "masks are 1 above this",
    "values": "what stands in the masks for class 0, 1, 2, ...: 0,128,255",
}

RENAMED = {"gamma": "gamma_change"}
"""Settings of augmentation whose option has a name of its own."""


def add_train(commands: Any, is_chosen: bool = True) -> None:
    """Add the command `train`; its options only if it is chosen, as they take time to import."""
    parser = add_command(
        commands, "train", _run_train, "train a network on images and their masks", EXAMPLES
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="a folder of images and masks")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="the new model (.safetensors)"
    )
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
    _add_all(parser.add_argument_group("training"), TrainSettings)
    _add_all(parser.add_argument_group("how patches are varied"), AugmentationSettings, RENAMED)
    if is_chosen:
        from napari_unet.core.datasets import DatasetSettings

        _add_all(parser.add_argument_group("how images and masks are read"), DatasetSettings)


def _add_all(group: Any, kind: type, renamed: Mapping[str, str] | None = None) -> None:
    """An option for each field of a settings class, with its default."""
    hints = get_type_hints(kind)
    for setting in fields(kind):
        if is_dataclass(hints[setting.name]):
            continue
        name = (renamed or {}).get(setting.name, setting.name)
        text = HELPS.get(name, name.replace("_", " "))
        if setting.default is None and "(default" not in text:
            text += " (default: as the network's paper says)" if kind is TrainSettings else ""
        elif setting.default not in ("", (), None) and not isinstance(setting.default, bool):
            text += f" (default: {setting.default})"
        group.add_argument(
            f"--{name.replace('_', '-')}", dest=name, default=setting.default,
            help=text.replace("%", "%%"), **_typed(hints[setting.name]),
        )  # fmt: skip


def _typed(hint: Any) -> dict[str, Any]:
    """How argparse reads a value of that annotation."""
    kind = next((one for one in get_args(hint) if one is not NoneType), hint)
    if get_origin(hint) is Literal:
        kind = hint
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return {"choices": choices, "type": type(choices[0])}
    if get_origin(hint) is tuple:
        return {"type": _numbers, "metavar": "N,N,..."}
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    return {"type": kind, "metavar": {int: "N", float: "F"}.get(kind, "TEXT")}


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.replace(",", " ").split())


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
    out = _checked_out(chosen)
    from napari_unet.core.datasets import open_dataset
    from napari_unet.core.model import save_model
    from napari_unet.core.training import training

    dataset = open_dataset(chosen.data, chosen.layout, reading)
    if not _tell(dataset, settings.what):
        return FAILED
    start = opened_model(chosen, chosen.start, chosen.device) if chosen.start else None
    names = [one.strip() for one in chosen.class_names.split(",")] if chosen.class_names else None
    work = training(
        dataset.pairs, settings, start=start, folder=chosen.folder, device=chosen.device,
        name=chosen.name or out.stem, class_names=names, imagenet=chosen.imagenet,
    )  # fmt: skip
    model = _with_bar(work)
    save_model(model, out)
    print(*_lines(model), f"Saved {out}", sep="\n")
    return OK


def _tell(dataset: Dataset, what: Literal["objects", "classes"]) -> bool:
    """Say what is in the data and what is wrong with it; whether it can be used."""
    from napari_unet.core.datasets import check, describe

    print(describe(dataset))
    problems = check(dataset, what)
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
    return True


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


def _with_bar(work: Work[TrainProgress, Model]) -> Model:
    """Train under a progress bar; where stderr is no terminal, a line for each measurement."""
    from tqdm import tqdm

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

        return finish(work, report)


def _tell_step(progress: TrainProgress, scores: str) -> None:
    """A line for a step at which something was measured."""
    if progress.score is not None and progress.loss == progress.loss:
        line = f"step {progress.done} of {progress.total}: loss {progress.loss:.3f}, {scores}"
        print(line, file=sys.stderr, flush=True)


def _lines(model: Model) -> Iterator[str]:
    """What was trained, and how good it is."""
    entry = model.history[-1]
    used = entry.settings
    yield (
        f"{model.description.name}: {used['steps_done']} steps on {used['n_images']} images in "
        f"{entry.seconds:.0f} s"
    )
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
