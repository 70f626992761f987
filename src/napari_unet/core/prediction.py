"""An image to the probabilities of a network's outputs, tile by tile, exactly.

The result is that of the network run once on the whole image: see `tiling`. The tile the user
looks at comes first, every finished tile stays, and when the memory of the device runs out the
rest goes on in smaller tiles.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from napari_unet.core.device import release_memory
from napari_unet.core.errors import DeviceMemoryError, ImageError, SettingsError, UNetLiveError
from napari_unet.core.image import Image, make_image
from napari_unet.core.networks import UNetConfig
from napari_unet.core.normalization import IntensityScale, match_channels, normalise
from napari_unet.core.progress import Work
from napari_unet.core.tiling import Tile, mirrored, nearest_first, padded_size, tiles

__all__ = ["Activation", "Region", "TileDone", "predict"]

Activation = Literal["softmax", "sigmoid", "none"]

SECONDS_PER_TILE = 0.7
SMALLEST_TILE = 64
LARGEST_TILE = 1024
QUICK_TILE = {2: 192, 3: 64}
"""Edge of the smallest tile that is chosen by itself, in px, by number of dimensions."""
PROBE_SIZE = {2: 128, 3: 32}
"""Edge of the piece that the speed is measured on, in px, by number of dimensions."""
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A part of a result: `labels[index][window]`, or `out[(slice(None), *index, *window)]`."""

    index: tuple[int, ...]
    window: tuple[slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TileDone:
    """`done` of `total` tiles are ready; the latest one fills `region`.

    `total` grows if the memory runs out and the rest is cut into smaller tiles.
    """

    done: int
    total: int
    message: str
    region: Region


def predict(
    network: nn.Module,
    image: Image,
    scale: IntensityScale,
    out: npt.NDArray[np.floating[Any]],
    *,
    activation: Activation = "softmax",
    tile_size: int | None = None,
    focus: tuple[float, ...] | None = None,
    indices: Sequence[tuple[int, ...]] | None = None,
) -> Work[TileDone, None]:
    """Fill `out` with probabilities, tile by tile; stopped half-way it keeps what is done.

    Parameters
    ----------
    network : in eval mode, on its device; `network.config` has dims, in_channels, stride, halo.
    image, scale : what to show to the network, and how its intensities are scaled.
    out : `(output, *image.label_shape)`, float16 or float32.
    activation : what turns logits into probabilities; "none" keeps the logits.
    tile_size : edge of the part of the result that one tile fills, in px. None: so that a tile
        takes about 0.3 s here, from 128 px (2D) or 64 px (3D) to 1024 px.
    focus : position in the label axes, in px, that the user looks at: its plane comes first,
        then the nearest ones; within a plane the nearest tiles first.
    indices : the planes (or volumes, for a 3D network) to work on; None for all of them.

    Raises
    ------
    ImageError
        If the network cannot take the image, or it cannot be read.
    DeviceMemoryError
        If the memory does not suffice even for tiles of 64 px.
    UNetLiveError
        If the network fails in another way.
    """
    config = cast(UNetConfig, network.config)
    _check(image, config, out, focus)
    shape = image.spatial_shape(config.dims)
    planes = _planes(image, config.dims, focus, indices)
    near = None if focus is None else focus[-config.dims :]
    device = _device_of(network)
    try:
        size = min(tile_size or _quick_tile_size(network, config, shape), max(shape))
        done = 0
        for n_planes_left, index in zip(reversed(range(len(planes))), planes, strict=True):
            waiting = deque(nearest_first(tiles(shape, size, config.halo, config.stride), near))
            n_tiles_later = n_planes_left * len(waiting)
            while waiting:
                found = _probabilities(network, image, index, scale, waiting[0], activation)
                if found is None:
                    size = _smaller(size, device)
                    waiting = deque(nearest_first(_recut(waiting, shape, size, config), near))
                    n_tiles_later = n_planes_left * len(tiles(shape, size, 0, config.stride))
                    continue
                tile = waiting.popleft()
                _write(out, index, tile, found)
                done += 1
                yield TileDone(
                    done=done, total=done + len(waiting) + n_tiles_later, message="Segmenting",
                    region=Region(index=index, window=tile.keep),
                )  # fmt: skip
    finally:
        release_memory(device)


def _check(
    image: Image,
    config: UNetConfig,
    out: npt.NDArray[np.floating[Any]],
    focus: tuple[float, ...] | None,
) -> None:
    """Raise a sentence unless network, image, room for the result and focus fit together."""
    image.index_shape(config.dims)
    if image.n_channels not in (1, config.in_channels):
        raise ImageError(
            f"{image.name!r} has {image.n_channels} channels (axes {image.axes!r}), but the "
            f"network takes {config.in_channels}. Choose one of the channels, or a model made "
            f"for {image.n_channels}."
        )
    if tuple(out.shape[1:]) != image.label_shape:
        raise ImageError(
            f"The room for the result has the shape {tuple(out.shape)}, but {image.name!r} needs "
            f"(output, {', '.join(map(str, image.label_shape))})."
        )
    if focus is not None and len(focus) != len(image.label_shape):
        raise SettingsError(
            f"focus must have a number for each of the axes {image.label_axes!r}, not {focus}."
        )


def _planes(
    image: Image,
    dims: int,
    focus: tuple[float, ...] | None,
    indices: Sequence[tuple[int, ...]] | None,
) -> list[tuple[int, ...]]:
    """Positions along the axes that are stepped through, those nearest to the focus first."""
    planes = list(np.ndindex(*image.index_shape(dims))) if indices is None else list(indices)
    if focus is None:
        return planes
    at = focus[:-dims]
    return sorted(planes, key=lambda i: sum((a - b) ** 2 for a, b in zip(i, at, strict=True)))


def _device_of(network: nn.Module) -> torch.device:
    weights = next(network.parameters(), None)
    return torch.device("cpu") if weights is None else weights.device


def _quick_tile_size(network: nn.Module, config: UNetConfig, shape: tuple[int, ...]) -> int:
    """The largest tile that takes no longer than `SECONDS_PER_TILE`, in px."""
    smallest, longest = QUICK_TILE[config.dims], max(shape)
    if longest <= smallest:
        return smallest
    n_pixels = SECONDS_PER_TILE * _pixels_per_second(network, config)
    n_tiles = -(-longest // LARGEST_TILE)  # along the longest axis
    while (size := -(-longest // n_tiles)) > smallest:
        if math.prod(min(n, size + 2 * config.halo) for n in shape) <= n_pixels:
            return size
        n_tiles += 1
    return smallest


def _pixels_per_second(network: nn.Module, config: UNetConfig) -> float:
    """Measured on a small piece; 0 if there is no memory even for that."""
    shape = (padded_size(PROBE_SIZE[config.dims], config.stride),) * config.dims
    piece = make_image(np.zeros(shape, np.float32), "zyx"[-config.dims :])
    (tile,) = tiles(shape, shape[0], 0, config.stride)
    scale = IntensityScale(offset=(0.0,), scale=(1.0,))
    seconds = 0.0
    for _ in range(2):  # NOTE: the first run also prepares what later ones reuse
        start = time.perf_counter()
        if _probabilities(network, piece, (), scale, tile, "none") is None:
            return 0.0
        seconds = time.perf_counter() - start
    return math.prod(shape) / max(seconds, 1e-9)


def _read(image: Image, index: tuple[int, ...], tile: Tile) -> npt.NDArray[Any]:
    """Raw `(c, [z,] y, x)` of `tile.read`, mirrored past the far ends of the image.

    Raises
    ------
    ImageError
        If the file behind a lazy image cannot be read.
    """
    shape = image.spatial_shape(len(tile.read))
    sources = [mirrored(part, size) for part, size in zip(tile.read, shape, strict=True)]
    window = tuple(slice(int(at.min()), int(at.max()) + 1) for at in sources)
    try:
        raw = image.read(index, window)
    except (RuntimeError, OSError) as error:
        raise ImageError(
            f"A part of {image.name!r} could not be read: {error}. "
            "Check that its file is complete and still there."
        ) from error
    for axis, (at, part) in enumerate(zip(sources, window, strict=True), start=1):
        if tile.read[axis - 1].stop > shape[axis - 1]:
            raw = np.take(raw, at - part.start, axis=axis)  # (c, [z,] y, x), as tile.read
    return raw


def _probabilities(
    network: nn.Module,
    image: Image,
    index: tuple[int, ...],
    scale: IntensityScale,
    tile: Tile,
    activation: Activation,
) -> npt.NDArray[np.float32] | None:
    """Probabilities `(output, *keep)` of one tile; None if the memory does not suffice.

    NOTE: the lack of memory is a value, not an error: an error would hold on to the very
    tensors that fill the memory.
    """
    config = cast(UNetConfig, network.config)
    try:
        raw = _read(image, index, tile)
        shown = match_channels(normalise(raw, scale), config.in_channels)
        return _forward(network, shown, tile, activation)
    except (RuntimeError, MemoryError) as error:
        if _is_out_of_memory(error):
            return None
        sizes = " x ".join(str(part.stop - part.start) for part in tile.read)
        raise UNetLiveError(
            f"The network failed on a tile of {sizes} px ({str(error).partition(chr(10))[0]}). "
            "Choose another model, or load this one with device='cpu'."
        ) from error


@torch.inference_mode()
def _forward(
    network: nn.Module, image: npt.NDArray[np.float32], tile: Tile, activation: Activation
) -> npt.NDArray[np.float32]:
    """One run of the network in float32: `(c, [z,] y, x)` to `(output, *keep)`."""
    # NOTE: inference mode must never be on while a generator waits at a yield: it would stay
    # on in a thread whose work is stopped there, and the next training in it would fail.
    batch = torch.from_numpy(image)[None].to(_device_of(network))  # (1, c, [z,] y, x)
    if batch.device.type in ("cpu", "cuda"):  # where this layout is known to be faster
        layout = torch.channels_last if batch.ndim == 4 else torch.channels_last_3d
        batch = batch.to(memory_format=layout)
    logits: Tensor = network(batch)[(0, slice(None), *tile.inner)]  # (output, *keep)
    if activation == "softmax":
        logits = logits.softmax(dim=0)
    elif activation == "sigmoid":
        logits = logits.sigmoid()
    return logits.float().cpu().numpy()


def _is_out_of_memory(error: Exception) -> bool:
    """Whether this is how numpy, torch's devices or the processor's allocator say so."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(phrase in text for phrase in OUT_OF_MEMORY)


def _smaller(tile_size: int, device: torch.device) -> int:
    """Half the tile size; frees what the failed attempt held.

    Raises
    ------
    DeviceMemoryError
        If the tiles are as small as is sensible already.
    """
    release_memory(device)
    if tile_size > SMALLEST_TILE:
        return max(SMALLEST_TILE, tile_size // 2)
    kind = "this computer" if device.type == "cpu" else f"the GPU ({device})"
    advice = "" if device.type == "cpu" else ", or load the model with device='cpu'"
    raise DeviceMemoryError(
        f"The memory of {kind} does not suffice even for a tile of {tile_size} px. "
        f"Close other programs that use it{advice}."
    )


def _recut(
    waiting: Sequence[Tile], shape: tuple[int, ...], size: int, config: UNetConfig
) -> list[Tile]:
    """The same parts of the result in smaller tiles."""
    return [
        smaller
        for tile in waiting
        for smaller in tiles(shape, size, config.halo, config.stride, within=tile.keep)
    ]


def _write(
    out: npt.NDArray[np.floating[Any]],
    index: tuple[int, ...],
    tile: Tile,
    found: npt.NDArray[np.float32],
) -> None:
    where: tuple[Any, ...] = (slice(None), *index, *tile.keep)
    room = (out.shape[0], *(part.stop - part.start for part in tile.keep))
    if found.shape != room:
        raise ImageError(
            f"The network gives {found.shape} (output, ...) for a tile, but there is room for "
            f"{room}. The model must have as many outputs as its description says."
        )
    out[where] = found
