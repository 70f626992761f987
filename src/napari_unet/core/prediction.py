"""An image to the probabilities of a network's outputs, window by window.

What the user looks at comes first, and every finished part stays. How a network is run is decided
by `engine.make_plan`, what becomes of it by `running`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from napari_unet.core.device import release_memory
from napari_unet.core.engine import Request, Source, make_plan
from napari_unet.core.engine.request import device_of
from napari_unet.core.errors import ImageError
from napari_unet.core.image import Image
from napari_unet.core.normalization import IntensityScale
from napari_unet.core.overlap import WriteBehind
from napari_unet.core.progress import Work
from napari_unet.core.regions import Region, check_places, nearest_planes, whole_planes
from napari_unet.core.rooms import Room
from napari_unet.core.running import Member, Run
from napari_unet.core.tiling import n_pixels

__all__ = ["TileDone", "member_for", "predict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TileDone:
    """`done` of `total` px are ready; the latest ones fill `region`.

    Attributes
    ----------
    message : what is going on, and what was done if the memory ran out.
    found : the probabilities of the region, `(output, *window)`, in the type of the result.
    waited : seconds that were spent waiting for reading and writing so far.
    """

    done: int
    total: int
    message: str
    region: Region
    found: npt.NDArray[np.floating[Any]]
    waited: float = 0.0


def member_for(
    request: Request,
    image: Image,
    scale: IntensityScale,
    focus: tuple[float, ...] | None = None,
) -> Member:
    """Plan how a network is run on an image, trying it on a piece of the image near `focus`.

    Raises
    ------
    ImageError
        If the network cannot take the image.
    UNetLiveError
        If the network cannot be used at all.
    """
    _check(request, image)
    dims = request.dims
    index = tuple(n // 2 for n in image.index_shape(dims))
    middle = tuple(n / 2 for n in image.spatial_shape(dims))
    if focus is not None:
        sizes = image.index_shape(dims)
        index = tuple(min(max(int(at), 0), n - 1) for at, n in zip(focus, sizes, strict=False))
        middle = focus[-dims:]
    source = Source(
        image=image, index=index, scale=scale, in_channels=request.in_channels,
        device=device_of(request.network),
    )  # fmt: skip

    def piece(shape: tuple[int, ...]) -> Tensor:
        spans = []
        for at, n, size in zip(middle, shape, image.spatial_shape(dims), strict=True):
            start = max(0, min(int(at) - n // 2, size - n))
            spans.append((start, start + n))
        return source.read(tuple(spans))

    request = replace(request, piece=piece)
    return Member(request=request, scale=scale, plan=make_plan(request))


def predict(
    members: Sequence[Member],
    image: Image,
    room: Room,
    *,
    focus: tuple[float, ...] | None = None,
    regions: Sequence[Region] | None = None,
) -> Work[TileDone, None]:
    """Fill `room` with probabilities, part by part; stopped half-way it keeps what is done.

    Parameters
    ----------
    members : the network, or several whose probabilities are averaged.
    image, room : what to work on, and where the result goes.
    focus : position in the label axes, in px, that the user looks at: its plane comes first,
        then the nearest ones; within a plane the nearest windows first.
    regions : what to work on; None for everything.

    Raises
    ------
    ImageError
        If a network cannot take the image, or it cannot be read.
    DeviceMemoryError
        If the memory does not suffice even for the smallest pieces.
    UNetLiveError
        If a network fails in another way.
    """
    dims = members[0].request.dims
    check_places(image, dims, focus, regions)
    regions = whole_planes(image, dims) if regions is None else list(regions)
    run = Run(members=list(members), image=image, room=room, focus=focus)
    total = sum(n_pixels(region.window) for region in regions)
    device = members[0].plan.device
    done = 0
    try:
        with WriteBehind(depth=1) as writer:
            for region in nearest_planes(regions, focus, dims):
                with closing(run.parts(region)) as parts:
                    for at, found in parts:
                        writer.put(room.write, at, found)
                        done += n_pixels(at.window)
                        step = TileDone(
                            done=done, total=total, message=run.message, region=at, found=found,
                            waited=writer.waited + sum(run.waited),
                        )  # fmt: skip
                        try:
                            yield step
                        except BaseException:  # stopped here: what was shown is kept
                            writer.flush()
                            raise
    finally:
        release_memory(device)


def _check(request: Request, image: Image) -> None:
    """Raise `ImageError` unless the network can take the image."""
    image.index_shape(request.dims)
    if image.n_channels not in (1, request.in_channels):
        raise ImageError(
            f"{image.name!r} has {image.n_channels} channels (axes {image.axes!r}), but the "
            f"network takes {request.in_channels}. Choose one of the channels, or a model made "
            f"for {image.n_channels}."
        )
