"""Opening, explaining, changing and saving a model, as the works of a session's jobs.

Plain generators that know no window. What the Model step shows of a model is made here, on the
worker thread: the window itself never loads torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_unet.core.errors import ChoiceNeeded, ModelFileError, TrustNeeded
from napari_unet.core.progress import Progress
from napari_unet.project import Project
from napari_unet.rounds import saved_in, share_the_cores

if TYPE_CHECKING:
    from napari_unet.core.checkpoints.card import Line
    from napari_unet.core.fingerprint import Proposal
    from napari_unet.core.image import Image
    from napari_unet.core.model import Model

__all__ = [
    "ENDINGS",
    "FORMATS",
    "Explained",
    "Opened",
    "Question",
    "changing",
    "explained",
    "guessing",
    "moving_model",
    "named_ending",
    "opening_model",
    "option_name",
    "plain",
    "saving",
    "typed",
]

FORMATS = {
    "U-Net Live model (*.safetensors)": ".safetensors",
    "bioimage.io package (*.zip)": ".zip",
    "PyTorch state dict (*.pth)": ".pth",
    "ONNX (*.onnx)": ".onnx",
}
"""What a model can be saved as: filter of a file dialog to ending."""

ENDINGS = (
    ".safetensors", ".pt", ".pth", ".ckpt", ".pytorch", ".tar", ".zip", ".h5", ".hdf5", ".keras",
    ".onnx", ".pt2", ".caffemodel", ".model", ".bin",
)  # fmt: skip
"""What model files are usually called; those of `core.checkpoints.archives`, which loads torch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What the Model step shows of a model.

    Attributes
    ----------
    lines : of the card.
    notes : what was found out when the file was opened.
    can_guess : whether the network's statistics tell how images have to be prepared, and the
        file itself does not.
    proposal : what they said of the user's image, once it was asked.
    """

    lines: tuple[Line, ...] = ()
    notes: tuple[str, ...] = ()
    can_guess: bool = False
    proposal: Proposal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A model that was opened.

    Attributes
    ----------
    model, explained : the model, and what is shown of it.
    saved : key of each image of the project to its number of corrected px.
    is_remembered : whether what was changed will be so when the file is opened again.
    """

    model: Model
    explained: Explained
    saved: dict[str, int] = field(default_factory=dict)
    is_remembered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the user must say before a file can be opened.

    Attributes
    ----------
    kind : "choice" between the models of one file, or "trust" in a program that it carries.
    source, sentence : the file, and what is asked.
    options : to choose from.
    sha256, program, reason : of the file, what would run, and why nothing else helps.
    choose, trust : what was answered before; it goes along with the next answer.
    """

    kind: Literal["choice", "trust"]
    source: str
    sentence: str
    options: tuple[str, ...] = ()
    sha256: str = ""
    program: str = ""
    reason: str = ""
    choose: str | None = None
    trust: str = ""


def opening_model(
    source: str | Path,
    device: str,
    project: Project,
    choose: str | None = None,
    trust: str = "",
) -> Generator[Progress, None, Opened | Question]:
    """Open a model, or find out what must be asked first."""
    yield Progress(done=0, total=0, message="Opening the model")
    share_the_cores()
    from napari_unet.core import finetuning, segmentation  # noqa: F401  (slow imports)
    from napari_unet.core.model import load_model

    try:
        model = load_model(source, device, choose=choose, trust=trust)
    except ChoiceNeeded as asked:
        return Question(
            kind="choice", source=str(source), sentence=str(asked), options=asked.options,
            choose=choose, trust=trust,
        )  # fmt: skip
    except TrustNeeded as asked:
        return Question(
            kind="trust", source=str(source), sentence=str(asked), sha256=asked.sha256,
            program=asked.program, reason=asked.reason, choose=choose, trust=trust,
        )  # fmt: skip
    return Opened(model=model, explained=explained(model), saved=saved_in(project))


def explained(model: Model) -> Explained:
    """What is shown of a model."""
    from napari_unet.core.checkpoints.card import card_of
    from napari_unet.core.fingerprint import has_fingerprint

    about = model.description
    is_open = "normalization" in about.assumed
    return Explained(
        lines=card_of(model), notes=about.notes, can_guess=is_open and has_fingerprint(model)
    )


def moving_model(model: Model, device: str) -> Generator[Progress, None, Model]:
    """The same model on another device."""
    yield Progress(done=0, total=0, message="Moving the model")
    from napari_unet.core.model import load_model

    return load_model(model, device)


def changing(
    model: Model, name: str, value: Any, source: str | Path
) -> Generator[Progress, None, Opened]:
    """The model with another value for something that its file does not state; remembered.

    A file of this project says all of that itself: it is left as it is, until it is saved again.

    Parameters
    ----------
    model, source : the model, and what it was opened from.
    name, value : as in a `Line`.
    """
    yield Progress(done=0, total=0, message="Changing the model")
    from napari_unet.core.checkpoints.answers import answers_key, remember
    from napari_unet.core.checkpoints.card import changed

    other, origin = changed(model, name, value), model.origin
    is_remembered = origin is not None and bool(origin.sha256) and not _is_ours(source)
    if origin is not None and is_remembered:
        remember(answers_key(origin.sha256, origin.member), {name: value})
    return Opened(model=other, explained=explained(other), is_remembered=is_remembered)


def _is_ours(source: str | Path) -> bool:
    """Whether a model came from a file of this project, or from none."""
    from napari_unet.core.checkpoints.containers.source import Source
    from napari_unet.core.checkpoints.native import is_native
    from napari_unet.core.model import BUILT_IN

    path = BUILT_IN.get(str(source), Path(source))
    return not str(source) or (path.is_file() and is_native(Source.of_path(path)))


def guessing(model: Model, image: Image) -> Generator[Progress, None, Explained]:
    """Work out from an image how intensities have to be prepared for a model."""
    yield Progress(done=0, total=0, message="Working out the intensities")
    from napari_unet.core.fingerprint import guess_normalization

    return replace(explained(model), proposal=guess_normalization(model, image))


def saving(model: Model, path: Path) -> Generator[Progress, None, Path]:
    """Write a model in the format that the ending of `path` stands for."""
    yield Progress(done=0, total=0, message="Saving the model")
    if path.suffix not in FORMATS.values():
        raise ModelFileError(
            f"A model cannot be saved as {path.suffix or 'a file without an ending'}; "
            f"known are {', '.join(FORMATS.values())}. Choose one of those."
        )
    from napari_unet.core.model import save_model

    save_model(model, path)
    return path


def named_ending(path: Path, chosen_filter: str) -> Path:
    """The path with the ending of the chosen filter, unless it has one that says a format."""
    if path.suffix in FORMATS.values():
        return path
    return path.with_name(path.name + FORMATS.get(chosen_filter, ".safetensors"))


# ---- lines of the card as plain words


def plain(text: str, longest: int = 400) -> str:
    """Text from a file on one line, without control characters, and not endless."""
    shown = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def option_name(value: Any) -> str:
    """What a value of a line is called where it is typed, such as "true" or "2,2,4"."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(map(option_name, value))
    return str(value)


def typed(line: Line, text: str) -> Any:
    """What somebody typed for a line of the card, as a value for `core.checkpoints.card.changed`.

    Parameters
    ----------
    line : with a `name`.
    text : the name of an option, see `option_name`; names with commas between them; or a number.

    Raises
    ------
    ModelFileError
        If it is none of those that are possible; the message lists them.
    """
    text = text.strip()
    if line.kind == "number":
        return _number(line, text)
    if line.kind == "text":
        return _names(line, text)
    for option in line.options:
        if option_name(option.value).lower() == "".join(text.lower().split()):
            return option.value
    possible = "; ".join(f"{option_name(one.value)} ({one.text})" for one in line.options)
    raise ModelFileError(f"{line.label}: {text!r} is not possible. Possible are: {possible}.")


def _number(line: Line, text: str) -> float | None:
    if text.lower() in ("", "none", "unknown"):
        return None
    try:
        plain_number = text.replace("μ", "µ").removesuffix("µm").removesuffix("um").strip()
        if re.fullmatch(r"\d+,\d{3}", plain_number):  # a thousand, or one and a bit?
            raise ValueError(text)
        number = float(plain_number.replace(",", "."))
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ModelFileError(
            f"{line.label}: {text!r} is not possible. Give a number above 0, in µm, or nothing if "
            f"it is not known."
        )
    return number


def _names(line: Line, text: str) -> list[str]:
    names = [one.strip() for one in text.split(",")]
    wanted = len(line.value)
    if len(names) != wanted or not all(names) or len(set(names)) < wanted:
        raise ModelFileError(
            f"{line.label}: {text!r} is not possible. Give {wanted} different names with commas "
            f"between them, that of the background first."
        )
    return names
