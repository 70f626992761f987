"""What live mode is about: an image and who watches it; and how its learning goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from napari_unet.core.corrections import Blocks
from napari_unet.core.image import Image
from napari_unet.core.settings import SegmentSettings
from napari_unet.works import Target

if TYPE_CHECKING:
    from napari_unet.core.live.states import State

__all__ = ["Blocks", "Point", "Scene", "View", "Watching", "is_enough", "name_of"]

N_NEEDED = 8
"""So many strokes are compared with as many before them to say whether more help."""
GAIN = 0.01
"""A rise of the score by less than this hardly matters."""

View = tuple[tuple[int, ...], tuple[slice, slice]]


class Watching(Protocol):
    """What is painted and looked at in a viewer, as live mode sees it."""

    on_painted: Callable[[Blocks], object] | None
    on_unsure: Callable[[], object] | None
    on_looked: Callable[[], object] | None
    on_pressed: Callable[[bool], object] | None

    def everything(self) -> Blocks:
        """Copies of all painted blocks."""

    def changes(self) -> Blocks:
        """Copies of the blocks that have changed since they were given last."""

    def view(self) -> View | None:
        """What is in view; None if nothing is."""

    def labels(self) -> Any:
        """The labels as they are shown."""

    def why_over(self) -> str:
        """Why there is nothing to watch any more; nothing if all is well."""

    @property
    def has_moved(self) -> bool:
        """Whether that is only because another image was chosen."""

    def others(self) -> Sequence[Image]:
        """The other images that are open and could be looked at."""

    def choose(self, image: Image) -> None:
        """Put one of those on stage, if it is still open."""

    def show_before(self, before: bool) -> None:
        """Show the result from before, or the newest one."""

    def look_at(self, index: tuple[int, ...], window: tuple[slice, slice]) -> None:
        """Bring a place into view."""

    def bind_keys(self, keys: Mapping[str, Callable[[], object]]) -> None:
        """Bind keys until `stop`."""

    def stop(self) -> None:
        """Watch no more."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """What live mode is about.

    Attributes
    ----------
    image, key : the image on stage, and what tells it from others.
    settings : how labels are made.
    target, before : where the newest result is shown, and that of the model from before, if that
        has none yet.
    watching : hears what happens in the viewer.
    """

    image: Image
    key: str
    settings: SegmentSettings
    target: Target
    before: Target | None
    watching: Watching


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A point of the curves.

    Attributes
    ----------
    step, loss, score : of the training.
    n_strokes : since live mode was switched on.
    n_corrected : image key to corrected px.
    """

    step: int
    loss: float | None
    score: float | None
    n_strokes: int
    n_corrected: Mapping[str, int]


def name_of(state: State) -> str:
    """A state in the words of the window."""
    if state.number == 0:
        return "the model from before"
    score = "" if state.score is None else f", score {state.score:.2f}"
    return f"state {state.number} (step {state.step}{score})"


def is_enough(curve: Sequence[Point]) -> bool | None:
    """Whether the last strokes have hardly raised the held-out score; None if nobody knows yet."""
    scored = [(point.n_strokes, point.score) for point in curve if point.score is not None]
    if not scored:
        return None
    n_strokes = scored[-1][0]
    first, middle = n_strokes - 2 * N_NEEDED, n_strokes - N_NEEDED
    if first < 0:
        return None if n_strokes < N_NEEDED // 2 else False
    before = [score for n, score in scored if first <= n < middle]
    after = [score for n, score in scored if n >= middle]
    if not before or not after:
        return False
    return max(after) - max(before) < GAIN
