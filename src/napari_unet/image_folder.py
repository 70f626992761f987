"""One image in a project: its corrections, block by block, and what is known about it.

A block's name says where it is: position of its plane along the leading axes ("plane" if there
are none), then `y` and `x` in px. The slices around a painted one, which networks of volumes
look at as well, are kept in the same way, but for the corrections that they do not have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_unet.core.corrections import BLOCK_SIZE, CorrectedBlock
from napari_unet.core.image import Image
from napari_unet.core.normalization import summary_of
from napari_unet.core.volumes import DEPTH, Slices, slices_of
from napari_unet.disk import (
    arrays_in,
    changed_at,
    disk_errors,
    npz,
    paths_in,
    read,
    read_json,
    sync_folder,
    write,
    write_json,
)

__all__ = ["Corrections", "ImageFolder", "ProjectImage"]

VERSION = 1
"""Of the format of a project, written into its files."""

BLOCK_NAME = re.compile(r"(plane|\d+(?:-\d+)*)_(\d+)_(\d+)\.corrections\.npz")

Corrections = npt.NDArray[np.uint8]
Place = tuple[tuple[int, ...], int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectImage:
    """What a project knows about one image.

    Attributes
    ----------
    key : its fingerprint.
    name, source : what it was called, and its file; "" where that is not known.
    shape, dtype, axes : of the image; empty if that file was lost.
    class_names : what could be painted, background first.
    n_corrected : painted value to number of px.
    n_blocks : blocks with corrections.
    changed : when it was last painted on (ISO 8601, UTC); "" if it has no corrections.
    """

    key: str
    name: str
    source: str
    shape: tuple[int, ...]
    dtype: str
    axes: str
    class_names: tuple[str, ...]
    n_corrected: Mapping[int, int]
    n_blocks: int
    changed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder:
    """The folder of one image; it need not be there yet.

    Attributes
    ----------
    path : its name is the fingerprint of the image.
    damaged : a sentence for each file that could not be read; grows while reading.
    """

    path: Path
    damaged: list[str] = field(compare=False, repr=False)

    def save_about(self, image: Image, class_names: tuple[str, ...], source: str) -> None:
        """Write image.json if it says anything new."""
        before = read_json(self.path / "image.json", self.damaged)
        about = {
            "version": VERSION,
            "name": image.name,
            "source": source or str(before.get("source", "")),
            "shape": [int(n) for n in image.array.shape],
            "dtype": np.dtype(image.array.dtype).name,
            "axes": image.axes,
            "class_names": list(class_names) or before.get("class_names", []),
        }
        if about != before:
            write_json(self.path / "image.json", about)

    def save_block(self, block: CorrectedBlock) -> None:
        """Write one block; one without any corrections is taken off the disk."""
        folder, path = self.path / "blocks", self._file_of(block, block.index)
        if not block.corrections.any():
            if path.exists():
                with disk_errors("The project could not remove", path):
                    path.unlink(missing_ok=True)
                    sync_folder(folder)
            return
        window = _window_of(path)
        if not window.exists():  # goes first: corrections on the disk always have their image
            _write_window(window, block.image, block)
        write(path, npz(np.savez_compressed, corrections=block.corrections))

    def save_slices(self, image: Image, block: CorrectedBlock, depth: int = DEPTH) -> None:
        """Keep the slices around a painted one, of an image that has a z axis, if they are not."""
        slices = slices_of(image)
        if slices is None or not block.corrections.any():
            return
        first, last = max(0, block.index[-1] - depth), min(slices.n, block.index[-1] + depth + 1)
        missing = {
            z: path for z in range(first, last) if not (path := self._slice(block, z)).exists()
        }
        if missing:
            planes = slices.read(block, range(min(missing), max(missing) + 1))
            for z, path in missing.items():
                _write_window(path, planes[z], block)

    def slices(self) -> Slices | None:
        """The slices that are kept around the painted ones; None if the image has no z axis."""
        about = read_json(self.path / "image.json", self.damaged)
        sizes = dict(zip(str(about.get("axes", "")), _list(about.get("shape")), strict=False))
        return Slices(n=int(sizes["z"]), read=self._kept) if "z" in sizes else None

    def _kept(self, block: CorrectedBlock, wanted: range) -> dict[int, npt.NDArray[np.generic]]:
        """Those of the slices `wanted` around a block that are kept, `(c, y, x)`."""
        kept = {}
        for z in wanted:
            found = read(self._slice(block, z), _window_in, self.damaged)
            if found is not None and found[1] == block.image_origin:
                kept[z] = found[0]
        return kept

    def _slice(self, block: CorrectedBlock, z: int) -> Path:
        """The file of what slice `z` shows where a block is."""
        return _window_of(self._file_of(block, (*block.index[:-1], z)))

    def _file_of(self, block: CorrectedBlock, index: tuple[int, ...]) -> Path:
        """The file of the corrections where a block is, in the plane `index`."""
        plane = "-".join(str(i) for i in index) or "plane"
        return self.path / "blocks" / f"{plane}_{block.origin[0]}_{block.origin[1]}.corrections.npz"

    def save_summary(self, image: Image) -> None:
        """Keep the quantiles of the image if that has not been done; this may take a while."""
        path = self.path / "summary.npz"
        if not path.exists():
            summary = summary_of(image.samples())
            write(path, npz(np.savez_compressed, summary=summary))

    def painted(self) -> Iterator[tuple[Path, Place, Corrections]]:
        """File, place and painted pixels of each block that can be read, in order of place."""
        found = []
        for path in paths_in(self.path / "blocks"):
            match = BLOCK_NAME.fullmatch(path.name)
            if match:
                plane, y, x = match.groups()
                index = () if plane == "plane" else tuple(int(i) for i in plane.split("-"))
                found.append(((index, int(y), int(x)), path))
        for place, path in sorted(found):
            painted = read(path, _corrections_in, self.damaged)
            if painted is not None:
                yield path, place, painted

    def load(self) -> list[CorrectedBlock]:
        """All blocks, with the image around them, but for those in `damaged`."""
        blocks = []
        for path, (index, y, x), painted in self.painted():
            window = _window_of(path)
            if not window.exists():
                self.damaged.append(f"{window} is missing; its block cannot be learned from.")
                continue
            around = read(window, _window_in, self.damaged)
            if around is not None:
                image, origin = around
                blocks.append(
                    CorrectedBlock(
                        index=index,
                        origin=(y, x),
                        corrections=painted,
                        image=image,
                        image_origin=origin,
                    )
                )
        return blocks

    def restore(self, label_shape: tuple[int, ...]) -> Corrections:
        """The corrections of a whole image, `label_shape`; zeros where nothing was painted."""
        whole = np.zeros(label_shape, np.uint8)
        for path, (index, y, x), painted in self.painted():
            height, width = painted.shape
            fits = len(index) == len(label_shape) - 2
            ends = (*(i + 1 for i in index), y + height, x + width)
            if fits and all(end <= n for end, n in zip(ends, label_shape, strict=True)):
                plane = whole[index]  # (y, x), a view
                plane[y : y + height, x : x + width] = painted
            else:
                self.damaged.append(f"{path} lies outside an image of the shape {label_shape}.")
        return whole

    def about(self) -> ProjectImage:
        """What is known about the image."""
        about = read_json(self.path / "image.json", self.damaged)
        n_corrected: dict[int, int] = {}
        times = []
        for path, _, painted in self.painted():
            for value, n in zip(*np.unique(painted[painted > 0], return_counts=True), strict=True):
                n_corrected[int(value)] = n_corrected.get(int(value), 0) + int(n)
            times.append(changed_at(path))
        return ProjectImage(
            key=self.path.name,
            name=str(about.get("name", f"image {self.path.name[:8]}")),
            source=str(about.get("source", "")),
            shape=tuple(_list(about.get("shape"))),
            dtype=str(about.get("dtype", "")),
            axes=str(about.get("axes", "")),
            class_names=tuple(str(name) for name in _list(about.get("class_names"))),
            n_corrected=dict(sorted(n_corrected.items())),
            n_blocks=len(times),
            changed=max(times, default=""),
        )

    def summary(self, blocks: list[CorrectedBlock]) -> npt.NDArray[np.generic]:
        """Quantiles `(c, n)` of the image; of its saved windows if that file was lost."""
        path = self.path / "summary.npz"
        summary = read(path, lambda content: arrays_in(content)["summary"], self.damaged)
        if summary is not None and summary.shape[0] == blocks[0].image.shape[0]:
            return summary
        n_channels = blocks[0].image.shape[0]
        windows = [block.image.reshape(n_channels, -1) for block in blocks]  # (c, m) each
        return summary_of(np.concatenate(windows, axis=1))


def _window_of(path: Path) -> Path:
    """The file of the image around the corrections in `path`."""
    return path.with_name(path.name.replace(".corrections.", ".image."))


def _write_window(path: Path, image: npt.NDArray[np.generic], block: CorrectedBlock) -> None:
    """Keep what a plane shows in the window of a block, raw `(c, y, x)`."""
    origin = np.array(block.image_origin, np.int64)
    write(path, npz(np.savez, image=image, origin=origin))


def _corrections_in(content: bytes) -> Corrections:
    corrections = arrays_in(content)["corrections"]
    if corrections.dtype != np.uint8 or corrections.ndim != 2:
        raise ValueError("it holds no corrections")
    if max(corrections.shape) > BLOCK_SIZE:
        raise ValueError(f"its block is larger than {BLOCK_SIZE} px")
    return corrections


def _window_in(content: bytes) -> tuple[npt.NDArray[np.generic], tuple[int, int]]:
    arrays = arrays_in(content)
    image, (y, x) = arrays["image"], arrays["origin"]
    if image.ndim != 3:
        raise ValueError("it holds no image (c, y, x)")
    return image, (int(y), int(x))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
