"""The command `napari-unet`: the same core from a terminal.

Nothing heavy is imported before it is needed, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from napari_unet import __version__
from napari_unet.cli.batch import add_batch
from napari_unet.cli.fine_tuning import add_fine_tune
from napari_unet.cli.info import add_info
from napari_unet.cli.networks import add_networks
from napari_unet.cli.parsing import Parser, add_command
from napari_unet.cli.scoring import add_score
from napari_unet.cli.segmenting import add_segment
from napari_unet.cli.telling import FAILED, INTERRUPTED, OK, USAGE, complain, sentence
from napari_unet.cli.training import add_train

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0: done. 1: an error, or some images failed. 2: wrong use. 130: interrupted with Ctrl+C.
    """
    typed = sys.argv[1:] if arguments is None else arguments
    parser = _parser(typed)
    chosen = parser.parse_args(typed, argparse.Namespace(typed=typed))
    if "run" not in chosen:
        parser.print_help(sys.stderr)
        return USAGE
    try:
        code: int = chosen.run(chosen)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        complain("stopped.")
        return INTERRUPTED
    except Exception as error:
        if chosen.debug:
            raise
        complain(sentence(error))
        return FAILED


def _parser(typed: Sequence[str]) -> argparse.ArgumentParser:
    description = "Segment images with a U-Net, train one, and fine-tune it on corrections."
    parser = Parser(prog="napari-unet", description=description)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    add_segment(commands)
    add_batch(commands)
    add_fine_tune(commands)
    add_train(commands, is_chosen="train" in typed)
    add_networks(commands)
    add_score(commands)
    add_info(commands)
    demo = add_command(commands, "demo", _run_demo, "open napari on a sample, ready to segment")
    demo.add_argument(
        "--offscreen",
        action="store_true",
        help="go through the whole loop without a screen and keep pictures of it",
    )
    demo.add_argument("--out", type=Path, metavar="FOLDER", help="where those pictures go")
    return parser


def _run_demo(chosen: argparse.Namespace) -> int:
    code = import_module("napari_unet.demo").run(chosen)
    return int(code or OK)
