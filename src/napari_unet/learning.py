"""Live mode as the work of a session's job: what was painted before, what is seen, and the round.

Plain generators that know no window. What the network says of a window is made into labels here,
on the worker thread, so that the window has nothing to do but to draw them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_unet.core.progress import FinishEarly, Work
from napari_unet.core.regions import Region
from napari_unet.core.settings import SegmentSettings
from napari_unet.numbering import Numbers, Tiles
from napari_unet.rounds import Trial

if TYPE_CHECKING:
    from napari_unet.core.image import Image
    from napari_unet.core.live.images import LiveImage
    from napari_unet.core.live.inbox import Inbox
    from napari_unet.core.live.living import LiveProgress
    from napari_unet.core.live.settings import LiveSettings
    from napari_unet.core.live.uncertainty import Place
    from napari_unet.core.live.viewing import Seen
    from napari_unet.core.model import Description, Model
    from napari_unet.project import Project

__all__ = ["Desk", "Look", "News", "OnStage", "Shown", "learning", "measuring"]

PLACE_SIZE = 160
"""Edge of the places to look at next, in px."""
N_PLACES = 3

Labels = npt.NDArray[np.integer]
Window = tuple[slice, slice]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """Labels `(y, x)` for a region of the image on stage; shaped like `SegmentProgress`.

    Attributes
    ----------
    key : of the image.
    region, labels : where, and what.
    is_untrained : whether the model from before says so.
    """

    key: str
    region: Region
    labels: Labels
    is_untrained: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class News:
    """What live mode tells the window.

    Attributes
    ----------
    done, total, message : as in `Progress`.
    live : how the training is; None before it begins.
    shown : labels of a window by the newest weights, if there are new ones.
    places : where to look next, the best first; None unless that was asked for.
    """

    done: int = 0
    total: int = 0
    message: str = ""
    live: LiveProgress | None = None
    shown: Shown | None = None
    places: tuple[Place, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Look:
    """A question: where to look next, but not in `looked_at`.

    Attributes
    ----------
    keys : of the images that are open.
    looked_at : windows `(y, x)` by image key and plane.
    """

    keys: frozenset[str]
    looked_at: Mapping[tuple[str, tuple[int, ...]], tuple[Window, ...]] = field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OnStage:
    """The image whose labels are made.

    Attributes
    ----------
    key, settings : which, and how.
    labels : gives the labels as they are shown, in its label axes; the worker only reads them.
    """

    key: str
    settings: SegmentSettings
    labels: Callable[[], Labels]


@dataclass(slots=True, kw_only=True, eq=False)
class Desk:
    """What window and worker have in common; each end of a deque belongs to one of them.

    Attributes
    ----------
    inbox : what is painted and looked at.
    on_stage : replaced by the window when another image comes on stage.
    questions : from the window, taken by the worker.
    is_over : set by the worker when all is done, also what comes after the training.
    """

    inbox: Inbox
    on_stage: OnStage
    questions: deque[Look] = field(default_factory=deque)
    is_over: bool = False


def measuring(image: Image, key: str | None) -> Work[Any, LiveImage]:
    """Find out what is needed to read and normalise an image that is open; `key` as there."""
    from napari_unet.core.live.images import live_image

    yield News(message="Looking at the image")
    return live_image(image, key)


def learning(
    model: Model, project: Project, desk: Desk, settings: LiveSettings | None = None
) -> Work[News, Trial]:
    """Learn until it is enough (`FinishEarly`), then keep what was learned as a round.

    Parameters
    ----------
    model : where to start; it is not changed.
    project : its corrections of other images are learned from as well, and rounds are kept in it.
    desk : messages from the window.

    Returns
    -------
    Trial
        Its path is None if nothing was learned.
    """
    try:
        return (yield from _learned(model, project, desk, settings))
    finally:
        desk.is_over = True


def _learned(
    model: Model, project: Project, desk: Desk, settings: LiveSettings | None
) -> Work[News, Trial]:
    from napari_unet.core.live.inbox import Painted
    from napari_unet.core.live.living import living

    try:
        yield News(message="Gathering the corrections")
        for image, blocks in _painted_before(project, desk.on_stage.key, model.description):
            desk.inbox.put(Painted(image=image, blocks=blocks))
            yield News(message="Gathering the corrections")
    except FinishEarly:
        return Trial(before=model, after=model, path=None)
    outcome = yield from _told(living(model, desk.inbox, settings), _Teller(model, desk))
    if outcome.n_steps == 0 or outcome.model is model:
        return Trial(before=model, after=model, path=None)
    return Trial(before=model, after=outcome.model, path=project.save_round(outcome.model))


def _painted_before(
    project: Project, key: str, about: Description
) -> Iterator[tuple[LiveImage, tuple[Any, ...]]]:
    """The corrections of the project's other images that fit the model."""
    from napari_unet.core.live.images import LiveImage

    n_classes = len(about.class_names)
    for found in project.training_images():
        blocks = tuple(b for b in found.blocks if int(b.corrections.max(initial=0)) <= n_classes)
        if found.key != key and blocks and found.summary.shape[0] in (1, about.in_channels):
            image = LiveImage(key=found.key, image=None, summary=found.summary, slices=found.slices)
            yield image, blocks


def _told(work: Work[LiveProgress, Any], teller: _Teller) -> Work[News, Any]:
    """The same work with its progress told as news; being finished early is passed on to it."""
    is_early = False
    try:
        while True:
            try:
                progress = work.throw(FinishEarly()) if is_early else next(work)
            except StopIteration as end:
                return end.value
            try:
                yield teller.tell(progress)
                is_early = False
            except FinishEarly:
                is_early = True
    finally:
        work.close()


class _Teller:
    """Makes labels of what is seen, and remembers where the network is in doubt."""

    def __init__(self, model: Model, desk: Desk) -> None:
        self._about, self._desk = model.description, desk
        self._numbered: tuple[OnStage, Numbers] | None = None
        self._doubts: dict[str, Tiles] = {}
        self._temperature = 1.0

    def tell(self, progress: LiveProgress) -> News:
        """News of one progress."""
        shown = None
        if progress.temperature is not None:
            self._temperature = progress.temperature
        if progress.seen is not None:
            on_stage = self._desk.on_stage  # the window may replace it meanwhile
            if progress.seen.key == on_stage.key:
                shown = self._shown(progress.seen, on_stage)
            self._note_doubt(progress.seen)
        return News(
            done=progress.done, total=progress.total, message=progress.message, live=progress,
            shown=shown, places=self._places(),
        )  # fmt: skip

    def _shown(self, seen: Seen, on_stage: OnStage) -> Shown:
        from napari_unet.core.instances import classes_of, objects_of

        settings, about = on_stage.settings, self._about
        chosen = settings.objects(about.objects)
        region = Region(index=seen.index, window=seen.window)
        if settings.what == "classes":
            labels: Labels = classes_of(seen.outputs, about.output_class, chosen.threshold)
        else:
            found = objects_of(seen.outputs, about.output_class, chosen, about.inside)
            if self._numbered is None or self._numbered[0] is not on_stage:
                self._numbered = on_stage, Numbers(on_stage.labels)
            labels = self._numbered[1].renumbered(region, found)
        return Shown(key=seen.key, region=region, labels=labels, is_untrained=seen.n_steps == 0)

    def _note_doubt(self, seen: Seen) -> None:
        from napari_unet.core.live.uncertainty import uncertain

        doubts = self._doubts.setdefault(seen.key, Tiles(seen.shape, np.uint8))
        doubt = 255 * uncertain(seen.outputs, self._about.output_class, self._temperature)
        doubts.write(seen.index, seen.window, doubt.astype(np.uint8))

    def _places(self) -> tuple[Place, ...] | None:
        """The answer to the newest question; None if none was asked."""
        asked = None
        while self._desk.questions:
            asked = self._desk.questions.popleft()
        if asked is None:
            return None
        places = [
            place
            for key, doubts in self._doubts.items()
            if key in asked.keys
            for index, hull in doubts.hulls().items()
            for place in _in_doubt(
                doubts.read(index, hull), hull, key, index, asked.looked_at.get((key, index), ())
            )
        ]
        return tuple(sorted(places, key=lambda place: -place.score)[:N_PLACES])


def _in_doubt(
    doubt: npt.NDArray[np.uint8], hull: Window, key: str, index: tuple[int, ...],
    looked_at: Iterable[Window],
) -> Iterator[Place]:  # fmt: skip
    """Places in the part of a plane that was seen, `hull`."""
    from napari_unet.core.live.uncertainty import regions

    top, left = (part.start for part in hull)
    done = [(_from(rows, top), _from(columns, left)) for rows, columns in looked_at]
    for place in regions(doubt / np.float32(255), done, PLACE_SIZE, N_PLACES):
        y, x = place.window
        moved = slice(y.start + top, y.stop + top), slice(x.start + left, x.stop + left)
        yield replace(place, window=moved, key=key, index=index)


def _from(part: slice, start: int) -> slice:
    return slice(max(0, part.start - start), max(0, part.stop - start))
