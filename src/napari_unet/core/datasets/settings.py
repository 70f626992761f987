"""What can be chosen when a dataset is opened, each default in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from napari_unet.core.errors import SettingsError

__all__ = ["DatasetSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSettings:
    """How a dataset is read. Every default is "as the files say".

    Attributes
    ----------
    images, masks : names of the folders (of the HDF5 datasets, of the OME-Zarr labels) to take
        where there are several; "" to find them by their names.
    axes : a letter for each dimension of the images, if the files are wrong about them; "" if
        they are right.
    planes : "planes" cuts stacks into planes; "volume" puts the pictures of a folder, which then
        are consecutive sections, one upon the other (those of each group, where they share
        groups), and in the Cell Tracking Challenge, whose frames are never stacked, makes one
        volume of all annotated slices of a frame, with -1 (unknown) between; "" leaves all as
        it is.
    block : so many consecutive planes of a stack, or pictures of a folder in natural order, make
        a group; a volume is cut into volumes of so many planes. 0 for no blocks. Sections that
        lie next to each other are near copies, and must not be trained and scored on.
    silver : whether masks made by computers ("_ST" in the Cell Tracking Challenge) stand in where
        there are none made by hand.
    threshold : masks are 1 where they are above this, for masks with blurred edges, or of several
        types; None to take their values as they are.
    values : what stands in the masks for class 0, 1, 2, ...; what is not named becomes 255,
        which is never trained on. Empty to take the values as they are.
    """

    images: str = ""
    masks: str = ""
    axes: str = ""
    planes: Literal["", "planes", "volume"] = ""
    block: int = 0
    silver: bool = False
    threshold: float | None = None
    values: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.planes not in ("", "planes", "volume"):
            raise SettingsError(f"planes must be 'planes', 'volume' or empty, not {self.planes!r}.")
        if self.block < 0:
            raise SettingsError(f"block must be 0 (no blocks) or more, not {self.block}.")
        if len(set(self.values)) != len(self.values) or len(self.values) > 255:
            raise SettingsError(
                f"values must name up to 255 values, none of them twice, not {self.values}."
            )
        if self.values and self.threshold is not None:
            raise SettingsError("Give either values or threshold: they say the same differently.")
