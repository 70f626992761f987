"""Where probabilities are kept: arrays, on disk or in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_unet.core.errors import ImageError
from napari_unet.core.regions import Region

__all__ = ["ArrayRoom", "Room"]


class Room(Protocol):
    """Where probabilities go."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the probabilities."""

    def chunk(self, axis: int) -> int:
        """Pieces that end on multiples of this many px are written best; `axis` is negative."""

    def write(self, region: Region, found: npt.NDArray[np.floating[Any]]) -> None:
        """Keep the probabilities of a region; called in order, perhaps by another thread."""


@dataclass(frozen=True, slots=True, eq=False)
class ArrayRoom:
    """An array `(output, *label_shape)` in memory, or anything that is assigned to like one."""

    array: Any

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    def chunk(self, axis: int) -> int:
        """The size of a chunk, if the array has chunks."""
        chunks = getattr(self.array, "chunks", None)
        return int(chunks[axis]) if isinstance(chunks, tuple) else 1

    def write(self, region: Region, found: npt.NDArray[np.floating[Any]]) -> None:
        """Assign the region."""
        where: tuple[Any, ...] = (slice(None), *region.index, *region.window)
        shape = (self.array.shape[0], *(part.stop - part.start for part in region.window))
        if found.shape != shape:
            raise ImageError(
                f"The network gives {found.shape} (output, ...) for a window, but there is room "
                f"for {shape}. The model must have as many outputs as its description says."
            )
        self.array[where] = found
