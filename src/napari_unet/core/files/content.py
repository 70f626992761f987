"""What every reader of files gives, and how it fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from napari_unet.core.errors import ImageError

__all__ = ["Content", "Typed", "Unread", "micrometres", "reading"]

MICROMETRES = {
    "pm": 1e-6, "picometer": 1e-6, "å": 1e-4, "angstrom": 1e-4, "nm": 1e-3, "nanometer": 1e-3,
    "µm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0,
    "mm": 1e3, "millimeter": 1e3, "cm": 1e4, "centimeter": 1e4, "m": 1e6, "meter": 1e6,
    "in": 25400.0, "inch": 25400.0,
}  # fmt: skip
"""How many µm a unit is, by its name in lower case."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Content:
    """An array, its axes (None if the file does not say) and its sizes of a px in µm."""

    array: Any
    axes: str | None = None
    pixel_sizes: Mapping[str, float] = field(default_factory=dict)


class Unread:
    """The shape and the type of an array of which only these were read."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)

    def __getitem__(self, selection: Any) -> NoReturn:
        raise ImageError("This image was only looked at. Open it with open_image to read it.")


class Typed:
    """An array that is read piece by piece, and turned into another type then."""

    def __init__(self, array: Any, dtype: Any) -> None:
        self._array = array
        self.shape = tuple(int(n) for n in array.shape)
        self.ndim = len(self.shape)
        self.dtype = np.dtype(dtype)

    def __getitem__(self, selection: Any) -> npt.NDArray[Any]:
        return np.asarray(self._array[selection]).astype(self.dtype, copy=False)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a reader stumbles over into a sentence."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except PermissionError as error:
        raise ImageError(f"You may not read {path}. Change its permissions.") from error
    except Exception as error:  # NOTE: a damaged file can make a reader raise anything
        if "imagecodecs" in str(error):
            raise ImageError(
                f"{path} is compressed in a way that needs one more package. Install it with "
                "'pip install imagecodecs', or save the file without compression."
            ) from error
        raise ImageError(
            f"{path} cannot be read ({error or type(error).__name__}). It is damaged or not what "
            "its name says; copy it again, or save it as TIFF with the program it comes from."
        ) from error


def micrometres(unit: str) -> float | None:
    """How many µm a unit is, however its µ is written; None if it is no length."""
    plain = unit.strip().replace("\\u00B5", "µ").replace("\u03bc", "µ")
    return MICROMETRES.get(plain.lower())
