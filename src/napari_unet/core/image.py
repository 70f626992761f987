"""One image of any size, read window by window, and never all at once if it is big."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_unet.core.errors import ImageError

__all__ = ["Image", "make_image"]

ALL_PIXELS = 4 * 2**20
"""Up to this many px (per channel) an image is measured from all of its pixels."""
N_LAZY_WINDOWS = 32
N_WINDOWS = 1024
MAX_WINDOW_SIZE = 2048
MAX_POSITIONS = 8
N_FINGERPRINT_WINDOWS = 16
FINGERPRINT_WINDOW_SIZE = 64

Window = tuple[slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Image:
    """An array and what its axes mean.

    Attributes
    ----------
    array : numpy, dask or zarr array, or anything else with `shape`, `dtype` and slicing;
        of whole or real numbers, or bool.
    axes : a lower-case letter for each dimension, in any order. "y" and "x" are needed; "z" is
        the third direction of space, "c" the channels; every other letter ("t", ...) is
        stepped through.
    name : what messages call the image.
    pixel_size : letter of an axis of space ("z", "y", "x") to the size of a px along it, in µm;
        a letter that is missing is one whose size is unknown.

    Notes
    -----
    The array is kept as it is. Everything made from it (labels, windows, positions) has the
    *label axes*: all but the channels, those of space last and in the order z, y, x. Where the
    array has another order, windows are turned round after they are read, which copies nothing
    but the window; `to_layer_order` turns labels round for display, which copies nothing.

    Raises
    ------
    ImageError
        If the array holds something else than numbers, or the axes do not fit it.
    """

    array: Any
    axes: str
    name: str = "image"
    pixel_size: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_array(self.array, self.name)
        _check_axes(self.axes, tuple(self.array.shape), self.name)
        object.__setattr__(self, "pixel_size", _known_sizes(self.pixel_size, self.axes))

    @property
    def n_channels(self) -> int:
        """Number of channels; 1 if there is no such axis."""
        return int(self.array.shape[self.axes.index("c")]) if "c" in self.axes else 1

    @property
    def label_axes(self) -> str:
        """The axes of what is made from this image: no channels, those of space last (z, y, x)."""
        stepped = "".join(axis for axis in self.axes if axis not in "czyx")
        return stepped + "".join(axis for axis in "zyx" if axis in self.axes)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Size along each of the label axes, in px."""
        sizes = dict(zip(self.axes, self.array.shape, strict=True))
        return tuple(int(sizes[axis]) for axis in self.label_axes)

    @property
    def label_order(self) -> tuple[int, ...]:
        """For each axis of the array but the channels, in their order: which label axis it is.

        `labels.transpose(image.label_order)` lies on the array as it is; `(0, 1, ...)` for
        nearly all images. The image "xyzc" has the label axes "zyx" and the order (2, 1, 0).
        """
        return tuple(self.label_axes.index(axis) for axis in self.axes if axis != "c")

    @property
    def is_ordered(self) -> bool:
        """Whether the array has the order of the label axes already, as nearly all have."""
        return self.label_order == tuple(range(len(self.label_order)))

    def to_layer_order(self, labels: Any) -> Any:
        """A view of labels `(*label_shape)` whose axes have the order of the array."""
        return labels if self.is_ordered else labels.transpose(self.label_order)

    def to_label_order(self, painted: Any) -> Any:
        """A view in the label axes of what has the order of the array."""
        places = tuple(int(place) for place in np.argsort(self.label_order))
        return painted if self.is_ordered else painted.transpose(places)

    def index_shape(self, dims: int) -> tuple[int, ...]:
        """Sizes of the axes that a network of `dims` dimensions steps through.

        Raises
        ------
        ImageError
            If `dims` is 3 and there are no volumes `(z, y, x)` in this image.
        """
        self._check_dims(dims)
        return self.label_shape[:-dims]

    def spatial_shape(self, dims: int) -> tuple[int, ...]:
        """Size `([z,] y, x)` of one plane or volume, in px; raises as `index_shape` does."""
        self._check_dims(dims)
        return self.label_shape[-dims:]

    def _check_dims(self, dims: int) -> None:
        if dims == 3 and "z" not in self.axes:
            raise ImageError(
                f"The network works on volumes, but the axes of {self.name!r} are {self.axes!r}. "
                "Open a stack that has a z axis, say which axis that is, or choose a 2D model."
            )

    def read(self, index: tuple[int, ...], window: Window) -> npt.NDArray[Any]:
        """Compute and copy one window.

        Parameters
        ----------
        index : position along the label axes before those of `window`.
        window : `([z,] y, x)` in px, inside the image; 2 slices for a plane, 3 for a volume.

        Returns
        -------
        array `(c, [z,] y, x)`
            Raw values: the image's own type in native byte order, C-contiguous, a copy.
        """
        if len(index) != len(self.index_shape(len(window))):
            raise ImageError(
                f"The position {index} does not fit the axes {self.label_axes!r} of "
                f"{self.name!r}; give one number for each axis before the last {len(window)}."
            )
        return self.take((*(int(i) for i in index), *window))

    def take(self, selection: tuple[int | slice, ...]) -> npt.NDArray[Any]:
        """Raw `(c, ...)` at a selection along the label axes; an integer drops its axis.

        The image's own type in native byte order, C-contiguous, a copy.
        """
        by_axis = dict(zip(self.label_axes, selection, strict=True))
        part = np.asarray(self.array[tuple(by_axis.get(axis, slice(None)) for axis in self.axes)])
        kept = [axis for axis in self.axes if isinstance(by_axis.get(axis, slice(None)), slice)]
        order = [kept.index(axis) for axis in "c" + self.label_axes if axis in kept]
        part = part.transpose(order)  # (c, ...), or (...) without channels
        if "c" not in self.axes:
            part = part[np.newaxis]  # (1, ...)
        return np.array(part, dtype=part.dtype.newbyteorder("="), order="C")

    def samples(self, n: int = 1_000_000) -> npt.NDArray[Any]:
        """Raw values `(c, m)` from all over the image, always the same ones.

        Of an image of up to 4 Mpx these are all pixels. A bigger one in memory is sampled in
        1024 small windows; one on disk or yet to be computed in at most 32 windows that begin
        and end where chunks do (no more than 2048 px a side). m is then about `n`.
        """
        if math.prod(self.label_shape) <= ALL_PIXELS:
            everything = self.take((slice(None),) * len(self.label_shape))
            return everything.reshape(self.n_channels, -1)  # (c, m)
        is_lazy = not isinstance(self.array, np.ndarray) or isinstance(self.array, np.memmap)
        n_windows = N_LAZY_WINDOWS if is_lazy else N_WINDOWS
        edge = math.ceil(math.sqrt(n / n_windows))
        grid = [1] * (len(self.label_shape) - 2) + [edge, edge]
        if is_lazy:
            chunks = self.chunk_shape()
            grid = [-(-size // chunk) * chunk for size, chunk in zip(grid, chunks, strict=True)]
        windows = _spread_windows(self.label_shape, grid, n_windows)
        parts = []
        for window in windows:
            part = self.take(_thinned(window)).reshape(self.n_channels, -1)  # (c, m)
            step = part.shape[1] * len(windows) // n | 1  # odd: not always the same columns
            parts.append(part[:, ::step])
        return np.concatenate(parts, axis=1)

    def chunk_shape(self) -> tuple[int, ...]:
        """Size of a chunk along each label axis, in px; 1 where the array has no chunks."""
        chunks = getattr(self.array, "chunksize", None) or getattr(self.array, "chunks", None)
        if not isinstance(chunks, tuple) or len(chunks) != len(self.axes):
            chunks = (1,) * len(self.axes)
        by_axis = dict(zip(self.axes, chunks, strict=True))
        return tuple(int(by_axis[axis]) for axis in self.label_axes)

    def fingerprint(self) -> str:
        """32 hex digits: the same for the same pixels, whatever kind of array holds them.

        Made from shape, type, axes, and the pixels of up to 16 windows of up to 64 px a side
        whose places follow from the shape alone. Byte and memory order do not matter.
        """
        dtype = np.dtype(self.array.dtype).newbyteorder("=")
        shape = tuple(int(n) for n in self.array.shape)
        about: tuple[Any, ...] = (shape, dtype.name, self.axes)
        if not self.is_ordered:
            about += (self.label_axes,)  # so places along label axes always mean the same
        digest = hashlib.blake2b(repr(about).encode(), digest_size=16)
        edge = FINGERPRINT_WINDOW_SIZE
        grid = [1] * (len(self.label_shape) - 2) + [edge, edge]
        for window in _spread_windows(self.label_shape, grid, N_FINGERPRINT_WINDOWS):
            digest.update(self.take(window).tobytes())
        return digest.hexdigest()


def _spread_windows(shape: tuple[int, ...], grid: list[int], n: int) -> list[Window]:
    """Cut `shape` into windows of size `grid` and choose at most `n`, spread evenly.

    The places are the R-sequence (Roberts 2018), which fills a box of any number of
    dimensions evenly with any number of points.
    """
    counts = [-(-size // step) for size, step in zip(shape, grid, strict=True)]
    if math.prod(counts) <= n:
        cells = list(np.ndindex(*counts))
    else:
        golden = 1.5
        for _ in range(50):
            golden = (1 + golden) ** (1 / (len(shape) + 1))
        steps = [golden ** -(axis + 1) for axis in range(len(shape))]
        points = [[(0.5 + i * step) % 1 for step in steps] for i in range(n)]
        cells = sorted(
            {tuple(int(p * k) for p, k in zip(point, counts, strict=True)) for point in points}
        )
    return [
        tuple(
            slice(at * step, min((at + 1) * step, size))
            for at, step, size in zip(cell, grid, shape, strict=True)
        )
        for cell in cells
    ]


def _thinned(window: Window) -> Window:
    """At most 8 positions along each stepped axis, and the middle 2048 px of y and x."""
    thinned = []
    for part in window[:-2]:
        step = -(-(part.stop - part.start) // MAX_POSITIONS)
        thinned.append(slice(part.start + (step - 1) // 2, part.stop, step))
    for part in window[-2:]:
        start = part.start + max(0, part.stop - part.start - MAX_WINDOW_SIZE) // 2
        thinned.append(slice(start, min(part.stop, start + MAX_WINDOW_SIZE)))
    return tuple(thinned)


def make_image(
    array: Any,
    axes: str | None = None,
    name: str = "image",
    pixel_size: Mapping[str, float] | None = None,
) -> Image:
    """Say what the axes of an array mean, and check that it can be segmented.

    Parameters
    ----------
    array : numpy, dask or zarr array of numbers.
    axes : a letter for each dimension, such as "yx", "cyx", "xyz" or "tzyxc". None to guess:
        two axes are "yx", three "zyx", four "tzyx", five "tczyx". But if the last axis has 3 or
        4 entries and the two before it have more, it holds colours: "yxc", "zyxc", "tzyxc".
        A channel axis in any other place is never guessed.
    name : what messages call the image.
    pixel_size : letter of an axis to the size of a px along it, in µm; None if unknown.

    Raises
    ------
    ImageError
        If there is nothing to segment in the array, or the axes do not fit it.
    """
    _check_array(array, name)
    chosen = _guessed_axes(tuple(array.shape), name) if axes is None else axes.strip().lower()
    return Image(array=array, axes=chosen, name=name, pixel_size=pixel_size or {})


def _guessed_axes(shape: tuple[int, ...], name: str) -> str:
    has_colours = len(shape) >= 3 and shape[-1] in (3, 4) and min(shape[-3:-1]) > 4
    guesses = {3: "yxc", 4: "zyxc", 5: "tzyxc"} if has_colours else {}
    guesses = {2: "yx", 3: "zyx", 4: "tzyx", 5: "tczyx"} | guesses
    if len(shape) not in guesses:
        raise ImageError(
            f"{name!r} has the shape {shape}, and what {len(shape)} axes mean cannot be guessed. "
            "An image has at least y and x; give axes, a letter for each dimension."
        )
    return guesses[len(shape)]


def _check_array(array: Any, name: str) -> None:
    """Raise `ImageError` unless `array` is an array of numbers that has some."""
    if not all(hasattr(array, part) for part in ("shape", "dtype", "__getitem__")):
        raise ImageError(
            f"{name!r} is a {type(array).__name__}, not an array. "
            "Give a numpy, dask or zarr array, for example numpy.asarray(...) of it."
        )
    try:
        kind = np.dtype(array.dtype).kind
    except TypeError:
        kind = "?"
    if kind not in "biuf":
        raise ImageError(
            f"The values of {name!r} are of the type {array.dtype}; whole or real numbers are "
            "needed. Convert them first, for example with abs(...) or .astype('float32')."
        )
    shape = tuple(array.shape)
    if any(math.isnan(n) for n in shape):
        raise ImageError(
            f"The shape {shape} of {name!r} is not known yet. "
            "Call compute_chunk_sizes() on the dask array first."
        )
    if 0 in shape:
        raise ImageError(
            f"{name!r} is empty: its shape is {shape}. Choose an image that has pixels."
        )


def _check_axes(axes: str, shape: tuple[int, ...], name: str) -> None:
    """Raise `ImageError` unless `axes` name the dimensions of `shape` in a usable order."""
    if len(axes) != len(shape):
        raise ImageError(
            f"{name!r} has {len(shape)} dimensions {shape}, but the axes {axes!r} name "
            f"{len(axes)}. Give one letter for each dimension."
        )
    if not (axes.isascii() and axes.isalpha() and axes.islower() and len(set(axes)) == len(axes)):
        raise ImageError(
            f"The axes {axes!r} of {name!r} must be lower-case letters, none of them twice."
        )
    if not {"y", "x"} <= set(axes):
        raise ImageError(
            f"The axes {axes!r} of {name!r} must have y and x, the two directions of a picture. "
            "Say which two axes these are."
        )


def _known_sizes(pixel_size: Mapping[str, float] | None, axes: str) -> dict[str, float]:
    """The sizes of a px along axes of space that make sense: above 0 and finite."""
    return {
        axis: float(size)
        for axis, size in (pixel_size or {}).items()
        if axis in axes and axis in "zyx" and 0 < size < math.inf
    }
