"""What can be chosen about a batch, besides how to segment."""

from __future__ import annotations

from dataclasses import dataclass

from napari_unet.core.errors import SettingsError

__all__ = ["ENDINGS", "BatchSettings"]

ENDINGS = {"tiff": ".tif", "png": ".png", "ome-zarr": ".ome.zarr"}
"""Format to what the names of label files end with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """Which images, and how results are kept.

    Attributes
    ----------
    pattern : which files of a folder, such as "*.tif"; None for all that can be images.
    recursive : also the folders in it.
    axes : a letter for each dimension, if the files are wrong about them.
    channels : which channels the model is shown, counted from 0; None for all. All channels
        are measured in any case.
    file_format : "tiff", "png" or "ome-zarr".
    probabilities : write those, too.
    overwrite : begin anew, and replace what is there.
    stop_at_error : let the first error end everything, instead of going on with other images.
    command : what was typed, for the report.
    """

    pattern: str | None = None
    recursive: bool = False
    axes: str | None = None
    channels: tuple[int, ...] | None = None
    file_format: str = "tiff"
    probabilities: bool = False
    overwrite: bool = False
    stop_at_error: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        if self.file_format not in ENDINGS:
            raise SettingsError(
                f"file_format must be one of {', '.join(ENDINGS)}, not {self.file_format!r}."
            )
        chosen = self.channels
        if chosen is not None and (not chosen or min(chosen) < 0 or len({*chosen}) < len(chosen)):
            raise SettingsError(f"channels must be different numbers from 0, not {chosen}.")
