"""The folder of a run: enough to go on after whatever happened, and a log to read.

- `settings.json`: what the run is; another run cannot use the folder.
- `state`: weights, their running mean, the optimizer, and how far it is; whole or not at all.
- `log.csv`: one line for each step.
- `best.safetensors`: the best model so far.

With the extra `tensorboard` the figures go to files that TensorBoard shows as well.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_unet.core.errors import TrainingError
from napari_unet.core.training.optimizing import Average
from napari_unet.core.training.progress import TrainProgress
from napari_unet.core.whole_file import write_whole

__all__ = ["Log", "State", "checked_folder", "load_state", "save_state"]

VERSION = 1
COLUMNS = ("step", "loss", "learning_rate", "seconds", "score", "iou", "f1")


@dataclass(slots=True, kw_only=True, eq=False)
class State:
    """Where a run is: all that changes while it trains.

    Attributes
    ----------
    network, average, optimizer, scaler : what is trained, and how.
    step : steps that are done.
    seconds : that it took.
    best : what decides which weights are best, higher is better; () if nothing was measured.
    best_weights, best_scores, best_step : of the best.
    n_worse : measurements since then.
    """

    network: nn.Module
    average: Average
    optimizer: torch.optim.Optimizer
    scaler: Any
    step: int = 0
    seconds: float = 0.0
    best: tuple[float, ...] = ()
    best_weights: dict[str, Tensor] | None = None
    best_scores: Mapping[str, float] = field(default_factory=dict)
    best_step: int = 0
    n_worse: int = 0


PLAIN = ("step", "seconds", "best", "best_scores", "best_step", "n_worse")


def checked_folder(folder: Path, what: Mapping[str, Any]) -> None:
    """Make the folder, and note in it what the run is.

    Parameters
    ----------
    folder : of the run.
    what : plain values by name; they must be those of the run that the folder belongs to.

    Raises
    ------
    TrainingError
        If it belongs to another run, or cannot be written.
    """
    path, wanted = folder / "settings.json", json.loads(json.dumps(what))
    try:
        known = json.loads(path.read_text()) if path.exists() else None
        if known is None:
            write_whole(path, json.dumps(wanted, indent=2).encode())
            return
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"The folder {folder} cannot be used for a run ({error}). Choose another one."
        ) from error
    names = [*wanted, *(name for name in known if name not in wanted)]
    differ = [name for name in names if known.get(name) != wanted.get(name)]
    if differ:
        was, now = known.get(differ[0]), wanted.get(differ[0])
        raise TrainingError(
            f"The folder {folder} holds a run with {differ[0]} {was!r}, but now it is {now!r}. Go "
            f"on with the settings and images of that run, or choose an empty folder."
        )


def save_state(folder: Path, state: State) -> None:
    """Write a state; it appears whole or not at all.

    Raises
    ------
    TrainingError
        If it cannot be written.
    """
    values = {name: getattr(state, name) for name in PLAIN}
    content = io.BytesIO()
    torch.save(
        {
            "version": VERSION,
            **values,
            "best_scores": dict(state.best_scores),
            "network": state.network.state_dict(),
            "average": state.average.network.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "scaler": state.scaler.state_dict(),
            "best_weights": state.best_weights,
        },
        content,
    )
    try:
        write_whole(folder / "state", content.getvalue())
    except OSError as error:
        raise TrainingError(
            f"The state of the training could not be written to {folder} "
            f"({error.strerror or error}). Choose a folder that has room, and start again."
        ) from error


def load_state(folder: Path, state: State, device: torch.device) -> bool:
    """Go on where the run in the folder was; returns whether there was one.

    Raises
    ------
    TrainingError
        If it is damaged.
    """
    path = folder / "state"
    if not path.exists():
        return False
    try:
        known = torch.load(path, map_location=device, weights_only=True)
        if known["version"] != VERSION:
            raise ValueError(f"version {known['version']}")
        state.network.load_state_dict(known["network"])
        state.average.network.load_state_dict(known["average"])
        state.optimizer.load_state_dict(known["optimizer"])
        state.scaler.load_state_dict(known["scaler"])
        for name in (*PLAIN, "best_weights"):
            setattr(state, name, known[name])
    except Exception as error:  # a damaged file fails in many ways
        raise TrainingError(
            f"The state of the run in {folder} is damaged or from another version ({error}). "
            f"Remove the folder to start again."
        ) from error
    state.best = tuple(state.best)
    return True


class Log:
    """The figures of a run, as `log.csv` and for TensorBoard; nothing without a folder.

    Parameters
    ----------
    folder : of the run; None for no log.
    step : lines of later steps are dropped: they are trained again.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        self._path = None if folder is None else folder / "log.csv"
        self._board: Any = None
        if folder is None or self._path is None:
            return
        lines = _lines_until(self._path, step)
        write_whole(self._path, "".join(lines).encode())
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, progress: TrainProgress, seconds: float) -> None:
        """Add a step."""
        if self._path is None:
            return
        figures = {
            "loss": progress.loss, "learning_rate": progress.learning_rate,
            "score": progress.score, **progress.scores,
        }  # fmt: skip
        row = {"step": progress.done, "seconds": f"{seconds:.2f}"}
        row |= {k: f"{v:.6g}" for k, v in figures.items() if v is not None and k in COLUMNS}
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
        for name, value in figures.items() if self._board is not None else ():
            if value is not None and math.isfinite(value):
                self._board.add_scalar(name, value, progress.done)

    def close(self) -> None:
        """Write what is not yet written."""
        if self._board is not None:
            self._board.close()


def _lines_until(path: Path, step: int) -> list[str]:
    """The head of a log and the whole lines of its steps up to `step`."""
    kept = [",".join(COLUMNS) + "\n"]
    if path.exists():
        for line in path.read_text().splitlines(keepends=True)[1:]:
            first = line.partition(",")[0]
            if line.endswith("\n") and first.isdigit() and int(first) <= step:
                kept.append(line)
    return kept
