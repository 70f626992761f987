"""What the parsers of all commands have in common: options made from settings classes."""

from __future__ import annotations

import argparse
import glob
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NoReturn,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from napari_unet.cli.telling import USAGE
from napari_unet.core.errors import ChoiceNeeded, ModelFileError, SettingsError, TrustNeeded
from napari_unet.core.settings import SegmentSettings

if TYPE_CHECKING:
    from napari_unet.core.model import Model

__all__ = [
    "Parser",
    "add_command",
    "add_model",
    "add_models",
    "add_opening",
    "add_segment_settings",
    "add_settings",
    "chosen_settings",
    "expanded",
    "opened_model",
]

T = TypeVar("T")

HELPS = {
    "what": "number each object, or only say what each pixel is",
    "tile_size": "edge of a tile in px (default: chosen for the device)",
    "threshold": "smallest probability of not being background, 0 to 1",
    "min_size": "smallest object in px",
    "split": "how readily touching objects are split, 0 to 1",
    "smoothing": "sigma in px of a Gaussian put on the probabilities first",
    "fill_holes": "fill holes within single objects",
    "link": "link the objects of a 2D model through the planes of a stack",
    "precision": "auto: 16-bit arithmetic where it is faster and the labels stay the same",
    "augmentation": "average over flips, or flips and rotations, of the image",
}

AS_THE_MODEL_SAYS = ("threshold", "min_size", "split", "smoothing", "fill_holes", "link")


class Parser(argparse.ArgumentParser):
    """Says what is wrong on one line."""

    def error(self, message: str) -> NoReturn:
        """Leave with the exit code of wrong use."""
        self.exit(USAGE, f"napari-unet: error: {message} (try '{self.prog} --help')\n")


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    examples: str = "",
) -> argparse.ArgumentParser:
    """The parser of one command; `run` is given what was chosen, and returns the exit code."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options that say which network runs where."""
    parser.add_argument("--model", required=True, help="a built-in name ('nuclei') or a model file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add_opening(parser)


def add_models(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """The options for one or several networks, and where they run."""
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        required=required,
        help="a built-in name ('nuclei') or a model file; given several times, they are averaged",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add_opening(parser)


def add_opening(parser: argparse.ArgumentParser) -> None:
    """The options that answer what some model files ask."""
    parser.add_argument("--choose", metavar="NAME", help="which model, of a file with several")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run the program that the model file carries, if it cannot be opened otherwise; only "
        "if you trust the file: the program can do all that you can do on this computer",
    )


def opened_model(chosen: argparse.Namespace, name: str, device: str) -> Model:
    """A model with the answers that were given; what is still asked names the option for it.

    Raises
    ------
    ModelFileError
        If it cannot be opened.
    """
    from napari_unet.core.model import load_model

    try:
        return load_model(name, device, choose=chosen.choose, trust=chosen.trust)
    except ChoiceNeeded as error:
        first = shlex.quote(error.options[0]) if error.options else "NAME"
        raise ModelFileError(
            f"{error} Add --choose and its name, such as --choose {first}"
        ) from error
    except TrustNeeded as error:
        raise ModelFileError(
            f"{error} To run {error.program}, add --trust (SHA-256 of the file: {error.sha256})."
        ) from error


def add_segment_settings(parser: argparse.ArgumentParser) -> None:
    """An option for every setting of `segment`."""
    types = get_type_hints(SegmentSettings)
    for setting in fields(SegmentSettings):
        kinds = [kind for kind in get_args(types[setting.name]) if kind is not NoneType]
        kind = types[setting.name] if get_origin(types[setting.name]) is Literal else kinds[0]
        own = " (default: as the model says)" if setting.name in AS_THE_MODEL_SAYS else ""
        how: dict[str, Any] = {"type": kind, "metavar": "N" if kind is int else "F"}
        if get_origin(kind) is Literal:
            how = {"choices": get_args(kind)}
            own = f" (default: {setting.default})"
        elif kind is bool:
            how = {"action": argparse.BooleanOptionalAction}
        parser.add_argument(
            f"--{setting.name.replace('_', '-')}",
            default=setting.default,
            help=HELPS.get(setting.name, setting.name.replace("_", " ")) + own,
            **how,
        )


def expanded(names: Sequence[str]) -> list[Path]:
    """The files and folders meant; patterns are for shells that do not expand them (Windows)."""
    paths: list[Path] = []
    for name in names:
        is_pattern = any(sign in name for sign in "*?[") and not Path(name).exists()
        found = sorted(glob.glob(name)) if is_pattern else [name]
        paths += [Path(one) for one in found or [name]]
    return list(dict.fromkeys(paths))


def add_settings(parser: argparse.ArgumentParser, kind: type, helps: Mapping[str, str]) -> None:
    """One option for each named field of a settings class, whose defaults count."""
    for option in fields(kind):
        if option.name in helps:
            text, default = helps[option.name], option.default
            known = f" (default: {default})" if default not in (None, MISSING) else ""
            parser.add_argument(
                f"--{option.name.replace('_', '-')}",
                type=int if "int" in str(option.type) else float,
                default=default,
                metavar="N" if "int" in str(option.type) else "F",
                help=f"{text}{known}",
            )


def chosen_settings(kind: Callable[..., T], chosen: argparse.Namespace) -> T:
    """The settings that were chosen; a value that makes no sense is wrong use."""
    names = {option.name for option in fields(kind)}  # type: ignore[arg-type]
    try:
        return kind(**{name: value for name, value in vars(chosen).items() if name in names})
    except SettingsError as error:
        parser: argparse.ArgumentParser = chosen.parser
        parser.error(str(error))
