"""The options of `napari-unet train`, made from the settings classes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from napari_unet.core.training.settings import TrainSettings

__all__ = ["HELPS", "RENAMED", "add_all"]

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
    "planes": "cut stacks into planes, or make volumes: of the sections in a folder, or of the "
    "annotated slices of the Cell Tracking Challenge",
    "block": "so many neighbouring planes or images are held out together; 0 for single images",
    "silver": "use masks made by computers where there are none made by hand",
    "threshold": "masks are 1 above this",
    "values": "what stands in the masks for class 0, 1, 2, ...: 0,128,255",
}

RENAMED = {"gamma": "gamma_change"}
"""Settings of augmentation whose option has a name of its own."""


def add_all(group: Any, kind: type, renamed: Mapping[str, str] | None = None) -> None:
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
    """Whole numbers between commas."""
    try:
        return tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"whole numbers with commas between them are needed, such as 0,128,255, not {text!r}"
        ) from error
