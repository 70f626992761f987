"""What training would see of an open image, as the work of a job of the session.

Plain functions that know no window. Whatever is slow to import is imported in them, on a
worker thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_unet.core.corrections import (
    IGNORE,
    CorrectedBlock,
    corrections_from_classes,
    corrections_from_objects,
    target_of,
)
from napari_unet.core.progress import Progress, Work
from napari_unet.core.settings import AugmentationSettings, FineTuneSettings
from napari_unet.core.volumes import DEPTH

if TYPE_CHECKING:
    from napari_unet.core.engine.facts import Facts
    from napari_unet.core.engine.fitting import Fit
    from napari_unet.core.image import Image
    from napari_unet.core.model import Model
    from napari_unet.core.patches import PatchPlan

__all__ = ["OFF", "Picture", "PreviewRequest", "Shown", "Summary", "previewing"]

N_PICTURES = 6
NEAR = 512
"""Paint is looked for so many px around the middle of the view, then everywhere."""
OFF = AugmentationSettings(
    elastic_sigma=0, rotation=0, scale=1, flips=False, brightness=0, contrast=0, gamma=1, noise=0,
)  # fmt: skip
"""Nothing is varied."""

Summary = npt.NDArray[np.generic]
"""Raw quantiles `(c, n)` of an image."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreviewRequest:
    """What to show.

    Attributes
    ----------
    model : whose input the pictures are.
    image, key : the chosen image, and what tells it from others.
    focus : where the user looks, in px of the label axes of the image.
    corrections : what is painted, in those axes, 0 where nothing is; or None.
    is_painted : whether anything is painted at all: then it is looked for in other planes too.
    labels, what : a segmentation to show if nothing is painted, in those axes, and whether it
        is one of "objects" or "classes"; or None.
    settings : of the training.
    seed : which of all that training may draw.
    spacing : px between the lines of a grid that bends with the pictures; 0 for none.
    draw : makes of the pictures, and of whether they are painted, what is put on the screen; it
        is called on the worker thread, and must know no widget.
    """

    model: Model
    image: Image
    key: str
    focus: tuple[float, ...]
    corrections: Any = None
    is_painted: bool = False
    labels: Any = None
    what: Literal["objects", "classes"] = "objects"
    settings: FineTuneSettings
    seed: int = 0
    spacing: int = 0
    draw: Callable[[Sequence[Picture], bool], Any] | None = None


class Picture(NamedTuple):
    """One picture; of a volume its middle slice.

    Attributes
    ----------
    image : `(c, y, x)`, float32, as the network gets it.
    target : `(y, x)`, uint8, the class of each px, `IGNORE` where it is not known.
    lines : `(y, x)`, uint8, 1 on lines that were straight and evenly spaced before.
    """

    image: npt.NDArray[np.float32]
    target: npt.NDArray[np.uint8]
    lines: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """What came of a request.

    Attributes
    ----------
    request : what was asked for.
    pictures : the first as it is, the others as training varies it.
    source : what the target is: "painted", "segmented", or "nothing".
    index, center : the plane, as a position along the label axes before `(y, x)`, and the middle
        of the pictures in it, `(y, x)` in px.
    size : of what training draws, `([z,] y, x)`, in px.
    drawn : what `request.draw` has made of the pictures.
    """

    request: PreviewRequest
    pictures: tuple[Picture, ...]
    source: Literal["painted", "segmented", "nothing"]
    index: tuple[int, ...]
    center: tuple[int, int]
    size: tuple[int, ...]
    drawn: Any = None


def previewing(
    request: PreviewRequest, summaries: dict[str, Summary] | None = None
) -> Work[Progress, Shown]:
    """Cut out what is painted and vary it as fine-tuning does.

    Only the part of the image that is shown is read, and what its intensities are measured from.

    Parameters
    ----------
    request : what to show.
    summaries : key of an image to its raw quantiles `(c, n)`, as far as they are known from
        earlier previews; those of this image are added.

    Raises
    ------
    UNetLiveError
        If the image does not fit the model.
    """
    yield Progress(done=0, total=0, message="Looking at the network")
    from napari_unet.core.engine.facts import general_facts
    from napari_unet.core.normalization import summary_of
    from napari_unet.core.training_images import TrainingImage, input_of

    about = request.model.config
    request.image.index_shape(about.dims)  # raises if there are no volumes
    facts = general_facts(request.model.network, about.in_channels, about.dims)
    yield Progress(done=0, total=0, message="Measuring the intensities")
    known = {} if summaries is None else summaries
    if request.key not in known:
        known[request.key] = summary_of(request.image.samples())
    yield Progress(done=0, total=0, message="Cutting out what is painted")
    size = request.settings.patch_size
    index, middle, is_painted = _place(request, size)
    plan = _plan(request, facts)
    block, source = _cut(request, plan, index, middle, is_painted)
    training_image = TrainingImage(key=request.key, summary=known[request.key], blocks=[block])
    image = input_of(request.model, training_image, block)
    yield Progress(done=0, total=0, message="Varying it")
    place = (*index[len(index) + 2 - about.dims :], *middle)
    sides = zip(place, block.image_origin, plan.shape, strict=True)
    center = tuple(at - start - (1 - n % 2) / 2 for at, start, n in sides)  # px n // 2 shows `at`
    pictures = tuple(
        _flat(_learned(picture, facts.fit))
        for picture in _pictures(request, plan, block, image, center)
    )
    draw = request.draw
    return Shown(
        request=request, pictures=pictures, source=source, index=index, center=middle,
        size=plan.shape, drawn=None if draw is None else draw(pictures, is_painted),
    )  # fmt: skip


def _place(request: PreviewRequest, size: int) -> tuple[tuple[int, ...], tuple[int, int], bool]:
    """The plane and the middle of what is shown, and whether that is painted."""
    shape = request.image.label_shape
    at = [min(max(round(f), 0), n - 1) for f, n in zip(request.focus, shape, strict=True)]
    index, (y, x) = tuple(at[:-2]), at[-2:]
    found = None
    for plane in _planes(request, index):
        found = _painted_near(request.corrections[plane], (y, x), size)
        if found is not None:
            index, (y, x) = plane, found
            break
    half = size // 2  # show no more of what is outside than must be
    inside = [
        n // 2 if n <= size else min(max(at, half), n - half)
        for at, n in zip((y, x), shape[-2:], strict=True)
    ]
    return index, (inside[0], inside[1]), found is not None


def _planes(request: PreviewRequest, index: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Planes that may be painted on: that in view, then the others, the nearest first."""
    if request.corrections is None:
        return
    yield index
    if request.is_painted:
        others = np.ndindex(*request.corrections.shape[:-2])
        yield from sorted(others, key=lambda one: math.dist(one, index))[1:]


def _painted_near(
    plane: npt.NDArray[np.integer[Any]], at: tuple[int, int], size: int
) -> tuple[int, int] | None:
    """The middle of what is painted around the painted px nearest to `at`."""
    for reach in (size, NEAR, max(plane.shape)):
        part = tuple(slice(max(0, i - reach), i + reach + 1) for i in at)
        offset = [side.start for side in part]
        known = np.argwhere(plane[part]) + offset  # (px, 2)
        if len(known):
            nearest = known[np.square(known - at).sum(axis=1).argmin()]
            around = known[(abs(known - nearest) < size // 2).all(axis=1)]
            y, x = around.mean(axis=0).round().astype(int)
            return int(y), int(x)
    return None


def _cut(
    request: PreviewRequest,
    plan: PatchPlan,
    index: tuple[int, ...],
    middle: tuple[int, int],
    is_painted: bool,
) -> tuple[CorrectedBlock, Literal["painted", "segmented", "nothing"]]:
    """The part of the image that a varied picture can reach, with what is known of it."""
    dims = request.model.config.dims
    window = _window(request, plan, (*index, *middle)[-dims:])
    before = index[: len(index) + 2 - dims]
    raw = request.image.read(before, window)
    origin = tuple(side.start for side in window)
    painted = np.zeros(raw.shape[1:], np.uint8)
    source: Literal["painted", "segmented", "nothing"] = "nothing"
    if is_painted:
        source = "painted"
        painted = np.array(request.corrections[(*before, *window)], np.uint8)
    elif request.labels is not None:
        source = "segmented"
        painted = _as_paint(request, np.asarray(request.labels[(*before, *window)]))
    block = CorrectedBlock(
        index=before, origin=origin, corrections=painted, image=raw, image_origin=origin
    )
    return block, source


def _as_paint(request: PreviewRequest, labels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if request.what == "classes":
        return corrections_from_classes(labels)
    return corrections_from_objects(labels)


def _window(request: PreviewRequest, plan: PatchPlan, places: tuple[int, ...]) -> tuple[slice, ...]:
    """What is read around `places`, `([z,] y, x)` in px, inside the image."""
    varied = plan.augmentation
    # Half of a patch's diagonal, zoomed out, and a displacement that hardly any exceeds.
    reach = math.ceil(math.hypot(*plan.shape[-2:]) / 2 * varied.scale + 4 * varied.elastic_sigma)
    reaches = (DEPTH, reach + 2, reach + 2)[-len(places) :]
    sizes = request.image.spatial_shape(len(places))
    sides = zip(places, reaches, sizes, strict=True)
    return tuple(slice(max(0, at - n), min(size, at + n + 1)) for at, n, size in sides)


def _plan(request: PreviewRequest, facts: Facts) -> PatchPlan:
    """What fine-tuning would draw."""
    import torch

    from napari_unet.core.patches import TrainingBlock, plan_for

    dims = request.model.config.dims
    depth = min(2 * DEPTH + 1, request.image.spatial_shape(dims)[0])  # of a volume that is cut out
    target = torch.zeros((depth, 1, 1)[-dims:], dtype=torch.uint8)
    block = TrainingBlock(image=target[None], target=target, places={})
    return plan_for(request.settings, facts, [block], has_memories=False)


def _pictures(
    request: PreviewRequest,
    plan: PatchPlan,
    block: CorrectedBlock,
    image: Any,
    center: tuple[float, ...],
) -> list[Picture]:
    """The part around `center` as it is, and varied, each of the axes `([z,] y, x)`."""
    import torch

    from napari_unet.core.augmentation import augment_batch

    target = torch.from_numpy(target_of(block))
    weights = torch.from_numpy(_lines(tuple(target.shape), request.spacing)).float()
    # NOTE: `preview` of the core would show another place in each picture.
    varied = replace(plan.augmentation, dropout=0.0)  # fine-tuning hides nothing
    found: list[Picture] = []
    for settings, n in ((OFF, 1), (varied, N_PICTURES - 1)):
        batch = augment_batch(
            [image] * n, [target] * n, [weights] * n, [center] * n, plan.shape, settings,
            torch.Generator().manual_seed(request.seed),
        )  # fmt: skip
        assert batch.weights is not None
        for parts in zip(batch.image, batch.target, batch.weights.to(torch.uint8), strict=True):
            found.append(Picture(*(part.numpy() for part in parts)))
    return found


def _lines(shape: tuple[int, ...], spacing: int) -> npt.NDArray[np.uint8]:
    """A grid of lines in the plane; 2 px wide, since narrower ones would come out in dashes."""
    from napari_unet.core.augmentation import grid_lines

    if not spacing:
        return np.zeros(shape, np.uint8)
    lines = grid_lines(shape, spacing)
    lines |= np.roll(lines, (1, 1), axis=(-2, -1))
    return lines


def _learned(picture: Picture, fit: Fit) -> Picture:
    """With a target only where a network without padding has an answer."""
    target = np.full_like(picture.target, IGNORE)
    sides = zip(fit.before, fit.margin, target.shape, strict=True)
    inner = tuple(slice(before, n - margin + before) for before, margin, n in sides)
    target[inner] = picture.target[inner]
    return picture._replace(target=target)


def _flat(picture: Picture) -> Picture:
    """Of a volume the middle slice, a plane as it is."""
    if picture.target.ndim == 2:
        return picture
    depth = len(picture.target)
    # NOTE: there are two in the middle of an even number, and a flip exchanges them.
    places = (depth // 2, depth - 1 - depth // 2)
    z = max(places, key=lambda at: int((picture.target[at] != IGNORE).sum()))
    return Picture(picture.image[:, z], picture.target[z], picture.lines[z])
