"""What the parsers of all commands have in common: options made from settings classes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, NoReturn, TypeVar

from napari_unet.cli.telling import USAGE
from napari_unet.core.errors import SettingsError

__all__ = ["Parser", "add_command", "add_model", "add_settings", "chosen_settings"]

T = TypeVar("T")


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
