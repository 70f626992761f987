"""An image at the pixel size of a model, and the model's outputs at the size of the image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_unet.core.image import Image
from napari_unet.core.interpolation import AxisMap, ResampledArray, Window

__all__ = ["Resampling", "resampling_for", "resampling_reason", "wanted_sizes"]

TOLERANCE = 1.1 + 1e-9
"""Pixel sizes that differ by no more than this factor count as equal."""
MOST = 32.0
"""Pixel sizes that differ by more than this factor are a mistake, not a choice."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resampling:
    """An image at another pixel size; from `resampling_for`.

    "Small" is what has the model's pixel size, though it may be the larger of the two. Only
    the axes of space differ: channels, time and, for 2D models, z stay as they are.

    Attributes
    ----------
    original : the image.
    image : the same at the model's pixel size: lazy, float32, `(c, *label axes)`.
    dims : 2 if y and x are resampled, 3 if z is too.
    reason : a sentence for a plan.
    """

    original: Image
    image: Image
    dims: int
    reason: str

    def view(self, outputs: Any) -> ResampledArray:
        """Outputs of a network on the small image, seen at the size of the original.

        Parameters
        ----------
        outputs : `(output, *small label_shape)`, an array in memory or on disk.

        Returns
        -------
        ResampledArray `(output, *label_shape of the original)`
            Float32, interpolated linearly; what is written to `outputs` later is seen.
        """
        n_stepped = len(self.original.label_axes) - self.dims
        return ResampledArray(
            source=lambda window: np.asarray(outputs[window]),
            shape=(int(outputs.shape[0]), *self.original.label_shape),
            axes=(*[None] * (1 + n_stepped), *self._back()),
        )

    def window(self, small: Window) -> Window:
        """The `([z,] y, x)` of the original that are made of nothing but a small window.

        May be empty. Between two neighbouring small windows lies a seam of the original that
        needs both: it is in the window of their union.
        """
        return tuple(
            part if axis is None else axis.determined(part)
            for axis, part in zip(self._back(), small, strict=True)
        )

    def small_window(self, window: Window) -> Window:
        """The smallest small window that a window `([z,] y, x)` of the original is made of."""
        return tuple(
            part if axis is None else axis.needed(part)
            for axis, part in zip(self._back(), window, strict=True)
        )

    def small_position(self, position: Sequence[float]) -> tuple[float, ...]:
        """Where a position in the label axes of the original lies in the small image, in px."""
        sizes = zip(position, self.original.label_shape, self.image.label_shape, strict=True)
        return tuple(at if m == n else (at + 0.5) * m / n - 0.5 for at, n, m in sizes)

    def _back(self) -> list[AxisMap | None]:
        """How each axis of space of the small image becomes that of the original."""
        small = self.image.spatial_shape(self.dims)
        return [
            None if m == n else AxisMap(n_old=m, n_new=n, is_smooth=False)
            for m, n in zip(small, self.original.spatial_shape(self.dims), strict=True)
        ]


def resampling_for(
    image: Image, dims: int, pixel_size: float | Sequence[float] | None
) -> Resampling | None:
    """The image at the pixel size of a model; None if it is taken as it is.

    Parameters
    ----------
    image : with its own pixel size, if that is known.
    dims : of the network; a 2D one needs y and x resampled, a 3D one z too.
    pixel_size : of the images a model was trained on, in µm: one number for all axes, or
        `([z,] y, x)`; None if unknown.

    Raises
    ------
    ImageError
        If `dims` is 3 and there are no volumes in this image.

    Notes
    -----
    `resampling_reason` says why it is None. An axis whose pixel size is within 10 % of the
    model's stays as it is, and so does a z whose pixel size is unknown.
    """
    shape, reason = _decided(image, dims, pixel_size)
    if shape is None:
        return None
    return Resampling(original=image, image=_resampled(image, shape), dims=dims, reason=reason)


def resampling_reason(image: Image, dims: int, pixel_size: float | Sequence[float] | None) -> str:
    """A sentence on why an image is resampled for a model, or is not; see `resampling_for`."""
    return _decided(image, dims, pixel_size)[1]


def wanted_sizes(pixel_size: float | Sequence[float] | None, dims: int) -> dict[str, float]:
    """The pixel size a model wants along each axis of space, in µm; nothing if unknown.

    Parameters
    ----------
    pixel_size : one number for all axes, or `([z,] y, x)`; None if unknown.
    dims : of the network; a 2D one wants nothing of z.
    """
    if pixel_size is None:
        return {}
    sizes = list(pixel_size) if isinstance(pixel_size, Sequence) else [pixel_size] * dims
    pairs = zip(reversed("zyx"[-dims:]), reversed(sizes), strict=False)
    wanted = {axis: float(size) for axis, size in pairs if 0 < size < math.inf}
    return wanted if {"y", "x"} <= set(wanted) else {}


def _decided(
    image: Image, dims: int, pixel_size: float | Sequence[float] | None
) -> tuple[tuple[int, ...] | None, str]:
    """The shape along the label axes to resample to, if any, and why."""
    image.spatial_shape(dims)
    wanted = wanted_sizes(pixel_size, dims)
    if not wanted:
        return None, "Not resampled: the model does not say for which pixel size it was made."
    unknown = [axis for axis in "yx" if axis not in image.pixel_size]
    if unknown:
        which = " and ".join(unknown)
        return None, f"Not resampled: the pixel size of the image along {which} is unknown."
    wanted = {axis: size for axis, size in wanted.items() if axis in image.pixel_size}
    ratios = {axis: image.pixel_size[axis] / size for axis, size in wanted.items()}
    sizes = f"the px of the image are {_told(image.pixel_size, wanted)} µm, "
    sizes += f"those of the model {_told(wanted, wanted)} µm"
    if max(max(ratio, 1 / ratio) for ratio in ratios.values()) > MOST:
        return None, f"Not resampled: {sizes}; so far apart, one of them must be wrong."
    shape = tuple(
        _new_size(n, ratios.get(axis, 1.0))
        for axis, n in zip(image.label_axes, image.label_shape, strict=True)
    )
    if shape == image.label_shape:
        return None, f"Not resampled: {sizes}, which is near enough."
    return shape, f"Resampled: {sizes}."


def _new_size(n: int, ratio: float) -> int:
    """How many new px replace n px that are `ratio` new ones long each."""
    return n if 1 / TOLERANCE <= ratio <= TOLERANCE else max(1, round(n * ratio))


def _told(sizes: Mapping[str, float], axes: Iterable[str]) -> str:
    """Sizes of px in the order z, y, x, such as "2 x 0.5 x 0.5"."""
    return " x ".join(f"{sizes[axis]:.3g}" for axis in sorted(axes, reverse=True))


def _resampled(image: Image, shape: tuple[int, ...]) -> Image:
    """The image at another shape along its label axes, computed where it is read."""
    sizes = list(zip(image.label_axes, image.label_shape, shape, strict=True))
    array = ResampledArray(
        source=lambda window: image.take(window[1:])[window[0]],
        shape=(image.n_channels, *shape),
        axes=(None, *(_smooth_map(n, m) for _, n, m in sizes)),
    )
    pixel_size = {
        axis: image.pixel_size[axis] * n / m for axis, n, m in sizes if axis in image.pixel_size
    }
    axes = "c" + image.label_axes
    return Image(array=array, axes=axes, name=image.name, pixel_size=pixel_size)


def _smooth_map(n: int, m: int) -> AxisMap | None:
    return None if m == n else AxisMap(n_old=n, n_new=m, is_smooth=True)
