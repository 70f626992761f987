"""Runs of one program for several sizes, brought to the same steps.

Programs may pad only where sizes do not fit. A run in which they did not need to gets a step
there that pads by nothing, so that all runs have the same steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from napari_unet.core.checkpoints.graphs.probing import Run
from napari_unet.core.checkpoints.graphs.recording import Step
from napari_unet.core.errors import ModelFileError

__all__ = ["FITTING", "aligned"]

FITTING = ("pad", "crop", "resize")
"""Layers that a program may have or not, depending on the size of the image."""


def aligned(runs: Sequence[Run]) -> list[Run]:
    """The runs with the same steps, reading the same steps, in the same order.

    Raises
    ------
    ModelFileError
        If they differ in more than in how sizes are made to fit.
    """
    done = [runs[0]]
    for run in runs[1:]:
        if run.activation != runs[0].activation:
            raise _different()
        # Twice: once to learn all the steps there are, once to give them to those before.
        template, extended = _pair(done[0], run)
        done = [template, *(_pair(template, one)[1] for one in done[1:]), extended]
    return done


def _different() -> ModelFileError:
    return ModelFileError(
        "The program in this file does different things to images of different sizes, so that it "
        "cannot be rebuilt as a list of layers. Please save the weights alone (the state dict)."
    )


@dataclass(slots=True, eq=False)
class _Side:
    """One of two runs that are brought together.

    Attributes
    ----------
    run : as it was.
    at : the next of its steps.
    steps : what it becomes.
    number : of its old steps, their new numbers.
    idle : steps that were put in, which do nothing, and what they read.
    """

    run: Run
    at: int = 0
    steps: list[Step] = field(default_factory=list)
    number: dict[int, int] = field(default_factory=lambda: {-1: -1})
    idle: dict[int, int] = field(default_factory=dict)

    def next(self) -> Step | None:
        """The next step, reading by new numbers."""
        if self.at >= len(self.run.steps):
            return None
        step = self.run.steps[self.at]
        return replace(step, inputs=tuple(self.number[i] for i in step.inputs))

    def fitting(self) -> list[str]:
        """The operations next to come that make sizes fit, up to the first other one."""
        ops = [step.op for step in self.run.steps[self.at :]]
        return ops[: next((i for i, op in enumerate(ops) if op not in FITTING), len(ops))]

    def take(self, step: Step) -> None:
        """The next step is as given."""
        self.number[self.at] = len(self.steps)
        self.at += 1
        self.steps.append(step)

    def put_in(self, other: Step) -> None:
        """A step that does nothing, where another run does something."""
        (source, *_) = other.inputs
        shape = self.run.image_shape if source < 0 else self.steps[source].shape
        values: dict[str, Any] = dict(other.values)
        if "amounts" in values:
            values["amounts"] = (0,) * len(values["amounts"])
        if "size" in values:
            values["size"] = shape[2:]
        self.idle[len(self.steps)] = source
        self.steps.append(replace(other, values=values, shape=shape))

    def reaches(self, one: int, other: int) -> bool:
        """Whether a step is another one, but for steps that do nothing."""
        while one != other and one in self.idle:
            one = self.idle[one]
        return one == other


def _pair(one: Run, other: Run) -> tuple[Run, Run]:
    """Two runs with the same steps."""
    left, right = _Side(one), _Side(other)
    while True:
        first, second = left.next(), right.next()
        if first is None and second is None:
            break
        same = first and second and first.op == second.op and _joined(left, right, first, second)
        if first is not None and second is not None and same:
            left.take(replace(first, inputs=same))
            right.take(replace(second, inputs=same))
        elif first is not None and _is_extra(first, left, right):
            left.take(first)
            right.put_in(first)
        elif second is not None and _is_extra(second, right, left):
            right.take(second)
            left.put_in(second)
        else:
            raise _different()
    return replace(one, steps=tuple(left.steps)), replace(other, steps=tuple(right.steps))


def _is_extra(step: Step, here: _Side, there: _Side) -> bool:
    """Whether a step is one that the other run does not have."""
    if step.op not in FITTING or "scale" in step.values:
        return False
    return step.op not in there.fitting() or here.fitting() == there.fitting()


def _joined(left: _Side, right: _Side, first: Step, second: Step) -> tuple[int, ...]:
    """What two steps that are the same read; nothing if they cannot be the same."""
    if len(first.inputs) != len(second.inputs):
        return ()
    inputs = []
    for one, other in zip(first.inputs, second.inputs, strict=True):
        if right.reaches(one, other):
            inputs.append(one)
        elif left.reaches(other, one):
            inputs.append(other)
        else:
            return ()
    return tuple(inputs)
