"""The parts of images that a batch of patches is read from, cut to one size and stacked.

A window may stick out of its image. There the image goes on mirrored, as `grid_sample` and scipy
mirror it (the outer px is not repeated), the target is `IGNORE` and the weight 0; so the places
of a patch always lie inside its window, and nothing has to be asked about borders afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from napari_unet.core.augmentation.placing import Placement, bounds
from napari_unet.core.corrections import IGNORE

__all__ = ["image_windows", "target_windows", "weight_windows", "windows_of"]


def windows_of(
    placement: Placement, sizes: Sequence[tuple[int, ...]]
) -> tuple[Tensor, tuple[int, int]]:
    """Windows of one size that hold all that each patch reads.

    Parameters
    ----------
    placement : of the patches.
    sizes : `(y, x)` of each image, in px: windows stay inside if they can.

    Returns
    -------
    tuple of Tensor and tuple of int
        First px of each window `(b, axis)`, int64, and their size `(y, x)`, in px.
    """
    low, high = bounds(placement)
    size = (high - low + 1).amax(dim=0)
    room = torch.tensor([tuple(one[-2:]) for one in sizes]) - size
    starts = torch.maximum(torch.minimum(low, room), high - size + 1)
    return starts, (int(size[0]), int(size[1]))


def image_windows(
    images: Sequence[Tensor], slices: Tensor, starts: Tensor, size: tuple[int, int]
) -> Tensor:
    """Windows `(b, z, c, y, x)`, float32, of images `(c, [z,] y, x)` of any type."""
    n, depth = slices.shape
    stack = torch.empty(n, depth, images[0].shape[0], *size, device=images[0].device)
    for into, image, planes, start in zip(
        stack, images, slices.tolist(), starts.tolist(), strict=True
    ):
        _fill(into, image if image.ndim == 4 else image[:, None], planes, start)
    return stack


def _fill(into: Tensor, image: Tensor, planes: list[int], start: Sequence[int]) -> None:
    """Write the window `(z, c, y, x)` of `(c, z, y, x)` that begins at `start` `(y, x)`.

    What sticks out is copied from inside the window, where nearly always all of it is: then only
    strips are copied twice. From a window that lies mostly outside, it is gathered px by px.
    """
    edges = list(zip(start, into.shape[-2:], image.shape[-2:], strict=True))
    if not all(_is_mirror_inside(*edge) for edge in edges):
        for axis, (first, n, _) in enumerate(edges, start=2):
            image = _gathered(image, axis, range(first, first + n))
        into.copy_(_gathered(image, 1, planes).transpose(0, 1))
        return
    (to_y, from_y), (to_x, from_x) = (_overlap(*edge) for edge in edges)
    image = image[..., from_y, from_x]
    if planes != [*range(image.shape[1])]:
        image = _gathered(image, 1, planes)
    into[..., to_y, to_x] = image.transpose(0, 1)
    _mirror(into, -2, to_y)
    _mirror(into, -1, to_x)


def _gathered(image: Tensor, axis: int, indices: Sequence[int]) -> Tensor:
    """The px at `indices` of an axis, continued by mirroring."""
    period = max(1, 2 * (image.shape[axis] - 1))
    wanted = torch.tensor(indices, device=image.device)
    return image.index_select(axis, torch.minimum(wanted % period, -wanted % period))


def _is_mirror_inside(first: int, n: int, have: int) -> bool:
    """Whether a window shows all px that its parts outside are mirrored from."""
    before, after = -first, first + n - have  # px outside
    end, begin = min(first + n, have), max(first, 0)
    return end > max(before, begin) and begin <= have - 1 - max(after, 0)


def _mirror(into: Tensor, axis: int, inner: slice) -> None:
    """Fill what lies before and behind the `inner` part of an axis."""
    before, after = inner.start, into.shape[axis] - inner.stop
    if before:
        strip = into.narrow(axis, inner.start + 1, before).flip(axis)
        into.narrow(axis, 0, before).copy_(strip)
    if after:
        strip = into.narrow(axis, inner.stop - 1 - after, after).flip(axis)
        into.narrow(axis, inner.stop, after).copy_(strip)


def target_windows(
    targets: Sequence[Tensor],
    slices: Tensor,
    starts: Tensor,
    size: tuple[int, int],
    dtype: torch.dtype = torch.uint8,
) -> Tensor:
    """Windows `(b, z, y, x)` of targets `([z,] y, x)`, in the type that they are to be read in."""
    return _bounded(targets, slices, starts, size, dtype, IGNORE)


def weight_windows(
    weights: Sequence[Tensor], slices: Tensor, starts: Tensor, size: tuple[int, int]
) -> Tensor:
    """Windows `(b, z, y, x)`, float32, of weights `([z,] y, x)`."""
    return _bounded(weights, slices, starts, size, torch.float32, 0)


def _bounded(
    maps: Sequence[Tensor], slices: Tensor, starts: Tensor, size: tuple[int, int],
    dtype: torch.dtype, outside: int,
) -> Tensor:  # fmt: skip
    shape = (*slices.shape, *size)
    stack = torch.full(shape, outside, dtype=dtype, device=maps[0].device)
    for into, map_, planes, start in zip(
        stack, maps, slices.tolist(), starts.tolist(), strict=True
    ):
        whole = map_ if map_.ndim == 3 else map_[None]
        to_y, from_y = _overlap(start[0], size[0], whole.shape[1])
        to_x, from_x = _overlap(start[1], size[1], whole.shape[2])
        to_z, from_z = _overlap(min(planes), len(planes), whole.shape[0])
        part = whole[from_z, from_y, from_x]
        if planes[0] > planes[-1]:
            to_z = slice(len(planes) - to_z.stop, len(planes) - to_z.start)
            part = part.flip(0)
        into[to_z, to_y, to_x] = part
    return stack


def _overlap(first: int, n: int, have: int) -> tuple[slice, slice]:
    """Where the inner part of a window that begins at `first` lies in it, and in what there is."""
    begin = min(max(first, 0), first + n)
    end = max(begin, min(first + n, have))
    return slice(begin - first, end - first), slice(begin, end)
