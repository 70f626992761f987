"""`napari-unet info`: what was understood of a model file, and changing what was assumed."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from napari_unet.cli.parsing import add_command, add_opening, opened_model
from napari_unet.cli.telling import OK
from napari_unet.core.errors import ModelFileError

if TYPE_CHECKING:
    from napari_unet.core.checkpoints.card import Line
    from napari_unet.core.image import Image
    from napari_unet.core.model import Model
    from napari_unet.opening import Opened

__all__ = ["add_info"]

EXAMPLES = """
examples:
  napari-unet info colleague.pth
  napari-unet info colleague.pth --image cells.tif
  napari-unet info colleague.pth --set normalization=zscore --set class_names=background,cell

Each line says whether the file states it, whether it was assumed, or whether you chose it. Lines
with a name in brackets can be changed with --set NAME=VALUE, which is remembered for that file;
--set NAME= says what is possible. --image works out how intensities have to be prepared.
"""

MARKS = {"file": "from the file", "assumed": "assumed", "chosen": "your choice"}
WIDTH = 62
"""Letters of a line of text."""


def add_info(commands: Any) -> None:
    """Add the command `info`."""
    parser = add_command(
        commands, "info", _run_info, "say what a model is, and what had to be assumed", EXAMPLES
    )
    parser.add_argument("model", metavar="MODEL", help="a built-in name ('nuclei') or a model file")
    parser.add_argument("--image", metavar="IMAGE", help="rank normalizations on this image")
    parser.add_argument("--axes", help="a letter for each dimension of the image: tcyx")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="NAME=VALUE",
        help="change what was assumed; remembered for this file",
    )
    parser.add_argument(
        "--forget", action="store_true", help="forget what was changed before, for this file"
    )
    add_opening(parser)


def _run_info(chosen: argparse.Namespace) -> int:
    model = opened_model(chosen, chosen.model, "cpu")
    if chosen.forget and model.origin is not None:
        from napari_unet.core.checkpoints.answers import answers_key, forget

        forget(answers_key(model.origin.sha256, model.origin.member))
        model = opened_model(chosen, chosen.model, "cpu")
    is_remembered = True
    for change in chosen.changes:
        changed = _changed(model, change, chosen.model)
        model, is_remembered = changed.model, changed.is_remembered
    print(*_info_lines(model), sep="\n")
    if not is_remembered:
        print("\nNot remembered: this file says all of that itself, and was left as it is.")
    if chosen.image is not None:
        print(*_ranking(model, chosen.image, chosen.axes), sep="\n")
    return OK


def _changed(model: Model, change: str, source: str) -> Opened:
    """The model with one change, as typed; remembered for its file."""
    from napari_unet.core.checkpoints.card import card_of
    from napari_unet.core.progress import finish
    from napari_unet.opening import changing, typed

    name, _, text = change.partition("=")
    lines = {line.name: line for line in card_of(model) if line.name}
    name = name.strip().replace("-", "_")
    if name not in lines:
        raise ModelFileError(
            f"--set {change}: there is no {name!r} to change. Possible are {', '.join(lines)}."
        )
    return finish(changing(model, name, typed(lines[name], text), source))


def _info_lines(model: Model) -> Iterator[str]:
    from napari_unet.core.checkpoints.card import card_of
    from napari_unet.opening import plain

    about, lines = model.description, card_of(model)
    yield f"{plain(model.title)} finds {plain(about.segments)} (id {model.id})"
    yield ""
    yield from _card_lines(lines)
    known = {line.label for line in lines}
    if about.source != "unknown" and not any(about.source in line.text for line in lines):
        yield from _row("Source", about.source, "", _label_width(lines))
    width = _label_width(lines)
    if "Licence" not in known:
        yield from _row("Licence", about.licence, "", width)
    for kind, scores in about.scores.items():
        measured = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        yield from _row("Scores", f"{kind}: {measured}", "", width)
    for entry in model.history:
        painted = f"{entry.created}, {entry.name}, {entry.n_corrected} painted px"
        yield from _row("Fine-tuned", painted, "", width)
    for note in about.notes:
        yield from ("", *textwrap.wrap(f"Note: {plain(note, 2000)}", 99))
    if about.card:
        yield f"\n{_printable(about.card.strip())}"


def _card_lines(lines: Sequence[Line]) -> Iterator[str]:
    width = _label_width(lines)
    for line in lines:
        mark = MARKS.get(line.state, "not said")
        yield from _row(
            line.label, line.text, f"{mark} ({line.name})" if line.name else mark, width
        )


def _label_width(lines: Sequence[Line]) -> int:
    return max(len(line.label) for line in lines) + 2


def _row(label: str, text: str, mark: str, width: int) -> Iterator[str]:
    """A label, a text on as many lines as it needs, and a mark in the first of them."""
    from napari_unet.opening import plain

    first, *others = textwrap.wrap(plain(text), WIDTH) or [""]
    yield f"{label:<{width}}{first:<{WIDTH}}  {mark}".rstrip()
    for other in others:
        yield " " * width + other


def _printable(text: str) -> str:
    """Text from a file without what could steer the terminal."""
    return "".join(one for one in text if one.isprintable() or one == "\n")


def _ranking(model: Model, image: str, axes: str | None) -> Iterator[str]:
    """How well each way to prepare the intensities of an image suits the network."""
    from napari_unet.core.files import open_image
    from napari_unet.core.fingerprint import guess_normalization
    from napari_unet.opening import plain

    opened = open_image(image, axes).image
    proposal = guess_normalization(model, opened)
    yield f"\nIntensities of {plain(image)}, by how well they suit the network (0 is perfect):"
    for guess in proposal.guesses:
        yield f"  {guess.score:8.2f}  {guess.value:<14}{guess.text}"
    yield from textwrap.wrap(proposal.sentence(), 99)
    if proposal.best is not None and not proposal.is_strange:
        yield f"To take that: --set normalization={proposal.best.value}"
    yield from _other_rankings(model, opened)


def _other_rankings(model: Model, image: Image) -> Iterator[str]:
    """The same for what else of the network was assumed."""
    from napari_unet.core.checkpoints.card import card_of
    from napari_unet.core.fingerprint import guess_option
    from napari_unet.opening import option_name

    for line in card_of(model):
        if line.state == "assumed" and line.options and hasattr(model.config, line.name):
            yield f"\n{line.label} ({line.name}):"
            for guess in guess_option(model, image, line.name).guesses:
                yield f"  {guess.score:8.2f}  {option_name(guess.value):<14}{guess.text}"
