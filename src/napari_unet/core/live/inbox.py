"""What the window tells the worker while it runs, and what scripts tell a session.

A deque is safe between two threads: messages are put in from any, and taken out by the worker
alone, which looks whenever it is between two short pieces of work.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

from napari_unet.core.corrections import CorrectedBlock
from napari_unet.core.live.images import LiveImage, PaintedBlock

__all__ = [
    "AlsoOpen",
    "Busy",
    "Forget",
    "GoBack",
    "Inbox",
    "Looking",
    "Message",
    "Painted",
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Painted:
    """Blocks whose paint has changed; each replaces the one at its place.

    An empty block takes its strokes out of training: that is what an undo sends.
    """

    image: LiveImage
    blocks: tuple[PaintedBlock | CorrectedBlock, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Looking:
    """What is in view from now on.

    Attributes
    ----------
    image : which image; None if none is in view.
    index : position along all label axes before `(y, x)`.
    window : `(y, x)` in px, inside the image.
    """

    image: LiveImage | None
    index: tuple[int, ...] = ()
    window: tuple[slice, slice] = (slice(0, 0), slice(0, 0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AlsoOpen:
    """Other images that are worth a look when the one in view is done; they replace those of the
    last such message."""

    images: tuple[LiveImage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """The mouse is pressed (pause, so that painting stays fluid) or not any more."""

    is_busy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """An image is gone.

    Attributes
    ----------
    key : of the image.
    strokes : whether its strokes go as well. Otherwise they stay in training: what was painted
        was true, whether its image is still open or not.
    """

    key: str
    strokes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GoBack:
    """Return to an earlier state of the weights, by its number."""

    state: int


Message: TypeAlias = Painted | Looking | AlsoOpen | Busy | Forget | GoBack


class Inbox:
    """Messages in the order they came."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()

    def put(self, message: Message) -> None:
        """Leave a message; from any thread, never waits."""
        self._messages.append(message)

    def take(self) -> list[Message]:
        """All messages so far, oldest first; they are gone from the inbox."""
        messages = []
        while self._messages:
            messages.append(self._messages.popleft())
        return messages
