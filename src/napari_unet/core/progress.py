"""Long work is a generator that yields its progress and returns its result."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

__all__ = ["FinishEarly", "Progress", "Work", "finish", "passed_on"]

P = TypeVar("P")
Q = TypeVar("Q")
R = TypeVar("R")

Work: TypeAlias = Generator[P, None, R]
"""A piece of long work: yields progress of type `P`, returns a result of type `R`.

It knows no thread and no cancel flag: to stop it is to stop asking and to close it.
"""


class FinishEarly(Exception):
    """Thrown into a piece of work at a yield: stop here and return the best result so far.

    Only work that can have such a result catches it; for the rest it is the end.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a piece of work is: `done` of `total` steps, and a phrase for the user."""

    done: int
    total: int
    message: str = ""


def finish(work: Work[P, R], report: Callable[[P], object] | None = None) -> R:
    """Run `work` to its end, pass each progress to `report`, and return the result."""
    with closing(work):  # if `report` raises, the work ends now and not at some later time
        while True:
            try:
                progress = next(work)
            except StopIteration as end:
                result: R = end.value
                return result
            if report is not None:
                report(progress)


def passed_on(work: Work[P, R], change: Callable[[P], Q]) -> Work[Q, R]:
    """The same work with each progress changed on its way; whoever closes it closes `work`."""
    with closing(work):
        while True:
            try:
                progress = next(work)
            except StopIteration as end:
                result: R = end.value
                return result
            yield change(progress)
