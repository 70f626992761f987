"""A program followed for images of several sizes, so that what depends on the size is seen.

Programs compute with sizes: "pad by half of what is missing". Followed for images of different
sizes, each such computation gives plain numbers; comparing them shows what they follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from napari_unet.core.checkpoints.graphs.recording import Outcome, Recorder, Step, View
from napari_unet.core.errors import ModelFileError

__all__ = ["Program", "Run", "image_shapes", "runs_of"]

Program = Callable[[Recorder], Any]
"""Follows a program from `Recorder.image` on and returns what it gives."""

SIZES = {
    2: ((256, 320), (320, 192), (217, 283), (238, 205), (301, 251), (572, 444), (227, 291)),
    3: ((96, 160, 128), (128, 96, 192), (101, 131, 118), (122, 99, 111), (132, 148, 116)),
}
"""Sizes of images to follow programs for: multiples of 32, odd ones, and such as fit networks of
unpadded convolutions."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """What a program does with an image of one size.

    Attributes
    ----------
    image_shape : `(b, c, [z,] y, x)`.
    steps : only those that the output depends on; the last one gives it.
    activation : what it ends in, taken off: "softmax", "sigmoid" or "none".
    notes : sentences for the user.
    """

    image_shape: tuple[int, ...]
    steps: tuple[Step, ...]
    activation: str = "none"
    notes: tuple[str, ...] = ()

    def shape(self, step: int) -> tuple[int, ...]:
        """Of what a step gives; -1 is the image."""
        return self.image_shape if step < 0 else self.steps[step].shape


def image_shapes(dims: int, n_channels: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of images to follow a program for."""
    return tuple((1, n_channels, *size) for size in SIZES[dims])


def runs_of(program: Program, options: Sequence[Sequence[tuple[int, ...]]]) -> list[Run]:
    """Follow a program for images of several shapes; sizes that it cannot take are left out.

    Parameters
    ----------
    options : lists of shapes of images; the first list counts of which it takes more than one,
        or the only one.

    Raises
    ------
    ModelFileError
        If it can take none of them: what stopped it where it came farthest.
    """
    stopped: list[tuple[int, ModelFileError]] = []
    for shapes in options:
        runs = [run for shape in shapes if (run := _tried(program, shape, stopped))]
        if len(runs) >= min(2, len(shapes)):
            return runs
    raise max(stopped, key=lambda one: one[0])[1]


def _tried(
    program: Program, shape: tuple[int, ...], stopped: list[tuple[int, ModelFileError]]
) -> Run | None:
    recorder = Recorder(shape)
    try:
        with torch.no_grad():
            return _run(recorder, program(recorder))
    except ModelFileError as error:
        if recorder.hopeless:
            raise
        stopped.append((len(recorder.steps), error))
        return None


def _run(recorder: Recorder, output: Any) -> Run:
    recorder.where = ""
    output, notes = _first(recorder, output)
    feature = recorder.feature(
        _channels_first(output.value if isinstance(output, Outcome) else output)
    )
    steps = _without_chains(recorder.steps)
    last, activation = feature.step, "none"
    if isinstance(output, Outcome):
        activation = output.activation
    elif last >= 0 and steps[last].op in ("sigmoid", "softmax"):
        activation, last = steps[last].op, steps[last].inputs[0]
    if last < 0:
        raise recorder.refuse("it does nothing with the image")
    return Run(
        image_shape=recorder.image_shape,
        steps=_needed(steps, last),
        activation=activation,
        notes=notes,
    )


def _first(recorder: Recorder, output: Any) -> tuple[Any, tuple[str, ...]]:
    """The first of several outputs."""
    notes: tuple[str, ...] = ()
    while isinstance(output, list | tuple | Mapping):
        values = list(output.values()) if isinstance(output, Mapping) else list(output)
        if not values:
            raise recorder.refuse("it has no output")
        if len(values) > 1:
            notes = (f"The network has {len(values)} outputs; the first one is used.",)
        output = values[0]
    return output, notes


def _channels_first(output: Any) -> Any:
    if isinstance(output, View) and output.order == (0, *range(2, len(output.shape)), 1):
        return output.base
    return output


def _without_chains(steps: Sequence[Step]) -> list[Step]:
    """Crops of crops, and zeros around zeros, as one: programs treat one axis at a time."""
    joined: list[Step] = []
    for step in steps:
        before = joined[step.inputs[0]] if step.inputs and step.inputs[0] >= 0 else None
        while before is not None and _is_chain(before, step):
            pairs = zip(before.values["amounts"], step.values["amounts"], strict=True)
            amounts = tuple(one + other for one, other in pairs)
            values = {**step.values, "amounts": amounts}
            step = replace(step, inputs=before.inputs, values=values)
            before = joined[step.inputs[0]] if step.inputs[0] >= 0 else None
        joined.append(step)
    return joined


def _is_chain(before: Step, step: Step) -> bool:
    if before.op != step.op or step.op not in ("pad", "crop"):
        return False
    if min(*before.values["amounts"], *step.values["amounts"]) < 0:
        return False
    same = {key: before.values[key] for key in before.values if key != "amounts"}
    return step.values.get("mode", "zero") == "zero" and all(
        step.values.get(key) == value for key, value in same.items()
    )


def _needed(steps: Sequence[Step], last: int) -> tuple[Step, ...]:
    """The steps that a result depends on, numbered anew."""
    needed: set[int] = set()
    open_ends = [last]
    while open_ends:
        at = open_ends.pop()
        if at >= 0 and at not in needed:
            needed.add(at)
            open_ends += steps[at].inputs
    number = {at: i for i, at in enumerate(sorted(needed))} | {-1: -1}
    return tuple(
        replace(steps[at], inputs=tuple(number[i] for i in steps[at].inputs))
        for at in sorted(needed)
    )
