"""Chunks as files that are whole or not there, whoever reads or dies at whatever moment.

NOTE: zarr itself writes chunks in place before 3.1.4, and never flushes them to the disk.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
import zarr.codecs
import zarr.storage

from napari_unet.core.whole_file import write_whole

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer

__all__ = ["ChunkFiles", "create_array", "open_array", "write_file"]

N_ATTEMPTS = 10
RETRY_SECONDS = 0.02


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole, flush it to the disk, and put it in the place of the one before.

    NOTE: Windows refuses to replace a file while somebody reads it, which is soon over.
    """
    for _ in range(N_ATTEMPTS - 1):
        try:
            return write_whole(path, content)
        except PermissionError:
            time.sleep(RETRY_SECONDS)
    return write_whole(path, content)


class ChunkFiles(zarr.storage.LocalStore):
    """A zarr store in a folder whose files are written by `write_file`."""

    async def set(self, key: str, value: Buffer) -> None:
        """Write one file; what zarr calls for each chunk, in a thread of its own."""
        self._check_writable()
        await asyncio.to_thread(self.set_sync, key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """The same for versions of zarr that write without an event loop."""
        self._check_writable()
        write_file(self.root / key, value.to_bytes())

    async def get(self, key: str, *args: Any, **kwargs: Any) -> Buffer | None:
        """Read one file; on Windows it cannot be opened at the instant it is replaced."""
        for _ in range(N_ATTEMPTS - 1):
            try:
                return await super().get(key, *args, **kwargs)
            except PermissionError:
                await asyncio.sleep(RETRY_SECONDS)
        return await super().get(key, *args, **kwargs)


def create_array(
    folder: Path,
    path: str,
    *,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: Any,
    axes: tuple[str, ...],
) -> None:
    """Make an array of zeros at `path` in a folder; takes no room until something is written."""
    # Measured on one core: LZ4 packs probabilities 1.7 times as fast as Zstandard, and they are
    # mostly noise for both; of labels Zstandard makes a fifth of what LZ4 does, at 1 GB/s.
    codecs = zarr.codecs
    if np.dtype(dtype).kind == "f":
        codec: Any = codecs.BloscCodec(cname="lz4", clevel=1, shuffle="shuffle")
    else:
        codec = codecs.ZstdCodec(level=1)
    zarr.create_array(
        ChunkFiles(folder),
        name=path,
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        compressors=codec,
        fill_value=0,
        dimension_names=axes,
        zarr_format=3,
    )


def open_array(folder: Path, path: str) -> Any:
    """An array that `create_array` made, to be read and written."""
    return zarr.open_array(ChunkFiles(folder), path=path, mode="r+", zarr_format=3)
