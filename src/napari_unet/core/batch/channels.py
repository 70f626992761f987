"""Some of the channels of an image, for models that know nothing of the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_unet.core.errors import ImageError
from napari_unet.core.image import Image

__all__ = ["with_channels"]


def with_channels(image: Image, channels: tuple[int, ...] | None) -> Image:
    """The image with only some of its channels, in the order given, without reading it.

    Raises
    ------
    ImageError
        If it does not have all of them.
    """
    if channels is None:
        return image
    if max(channels) >= image.n_channels:
        raise ImageError(
            f"{image.name!r} has {image.n_channels} channel(s), counted from 0, so there is no "
            f"channel {max(channels)}. Choose others."
        )
    if "c" not in image.axes:
        return image
    at = image.axes.index("c")
    if isinstance(image.array, np.ndarray) and not isinstance(image.array, np.memmap):
        return replace(image, array=image.array.take(channels, axis=at))
    return replace(image, array=_Chosen(image.array, at, channels))


class _Chosen:
    """Entries of an array along one axis, read when they are asked for."""

    def __init__(self, array: Any, at: int, chosen: tuple[int, ...]) -> None:
        self._array, self._at, self._chosen = array, at, chosen
        self.shape = (*array.shape[:at], len(chosen), *array.shape[at + 1 :])
        self.dtype = array.dtype
        chunks = getattr(array, "chunksize", None) or getattr(array, "chunks", None)
        if isinstance(chunks, tuple) and len(chunks) == len(self.shape):
            self.chunks = (*chunks[:at], 1, *chunks[at + 1 :])

    def __getitem__(self, selection: Any) -> npt.NDArray[Any]:
        parts: list[Any] = list(selection if isinstance(selection, tuple) else (selection,))
        at = parts.index(Ellipsis) if Ellipsis in parts else len(parts)
        rest = [slice(None)] * (len(self.shape) - len(parts) + (at < len(parts)))
        parts = [*parts[:at], *rest, *parts[at + 1 :]]
        which = np.asarray(self._chosen)[parts[self._at]]
        if which.ndim == 0:
            return self._read(parts, int(which))
        n_before = sum(isinstance(part, slice) for part in parts[: self._at])
        return np.stack([self._read(parts, int(one)) for one in which], axis=n_before)

    def _read(self, parts: list[Any], channel: int) -> npt.NDArray[Any]:
        before, after = parts[: self._at], parts[self._at + 1 :]
        return np.asarray(self._array[(*before, channel, *after)])
