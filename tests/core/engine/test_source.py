"""Pieces of an image as the network wants them, from any array, within and beyond its borders."""

from __future__ import annotations

import threading
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import pytest
import torch
import zarr
from networks import picture

from napari_unet.core.engine import Source, source
from napari_unet.core.errors import ImageError, UNetLiveError
from napari_unet.core.image import make_image
from napari_unet.core.normalization import (
    IntensityScale,
    Normalization,
    match_channels,
    normalise,
    scale_of,
)

WINDOWS = [((0, 40), (0, 50)), ((3, 9), (11, 12)), ((-7, 45), (-90, 120)), ((38, 60), (-3, 2)),
           ((40, 50), (50, 99)), ((-20, -10), (0, 50))]  # fmt: skip


def source_of(array: Any, axes: str = "yx", n: int = 1, **about: Any) -> Source:
    image = make_image(array, axes)
    scale = IntensityScale(offset=(0.2,) * image.n_channels, scale=(1.5,) * image.n_channels)
    return Source(
        **({"image": image, "index": (), "scale": scale, "in_channels": n,
            "device": torch.device("cpu")} | about)
    )  # fmt: skip


def expected(array: npt.NDArray[Any], spans: Any, scale: IntensityScale) -> npt.NDArray[np.float32]:
    """`(c, y, x)` as numpy would read it, mirrored far beyond the borders."""
    padded = np.pad(array, [(0, 0), (200, 200), (200, 200)], mode="reflect")
    parts = [slice(start + 200, stop + 200) for start, stop in spans]
    return normalise(padded[(slice(None), *parts)], scale)


@pytest.mark.parametrize("spans", WINDOWS)
@pytest.mark.parametrize("n", [1, 3])
def test_windows_within_and_beyond_the_borders(spans: Any, n: int) -> None:
    array = picture(n, 40, 50)
    one = source_of(array, "cyx", n)
    found = one.read(spans)
    assert found.dtype == torch.float32
    assert found.shape[:2] == (1, n)
    np.testing.assert_array_equal(found[0].numpy(), expected(array, spans, one.scale))


def test_an_image_of_one_px_is_everywhere() -> None:
    found = source_of(np.full((1, 1), 2.0, np.float32)).read(((-5, 9), (0, 30)))
    assert found.shape == (1, 1, 14, 30)
    np.testing.assert_allclose(found.numpy(), 1.2, rtol=1e-6)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", ">u2", "uint16", "int16", ">i4", "int32", "uint32",
              "int64", "uint64",              "float16", "float32", ">f8", "bool"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["percentile", "zscore", "minmax", "range"])
def test_all_types_are_scaled_as_normalise_does(dtype: str, kind: Any) -> None:
    values = np.random.default_rng(0).integers(0, 120, (2, 30, 20))
    array = values.astype(dtype)
    scale = scale_of(array.reshape(2, -1), Normalization(kind=kind))
    found = source_of(array, "cyx", 2, scale=scale).read(((0, 30), (0, 20)))
    np.testing.assert_allclose(found[0].numpy(), normalise(array, scale), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "float32", "float64"])
def test_small_differences_of_large_numbers_are_seen(dtype: str) -> None:
    array = (10_000_000 + np.arange(600).reshape(1, 20, 30)).astype(dtype)
    scale = IntensityScale(offset=(1e7,), scale=(600.0,))
    found = source_of(array, "cyx", scale=scale).read(((0, 20), (0, 30)))
    np.testing.assert_array_equal(found[0].numpy(), normalise(array, scale))
    assert len(np.unique(found.numpy())) == 600


def test_not_a_number_and_infinities() -> None:
    array = np.array([[np.nan, np.inf, -np.inf, 0.5]], np.float32)
    for dtype in (np.float16, np.float32, np.float64):
        found = source_of(array.astype(dtype)).read(((0, 1), (0, 4)))[0, 0, 0]
        np.testing.assert_allclose(found.numpy(), [0, 4, -1, 0.2], atol=1e-3)


def test_one_channel_is_repeated() -> None:
    found = source_of(picture(1, 8, 9)[0], n=3).read(((0, 8), (-2, 9)))
    assert found.shape == (1, 3, 8, 11)
    np.testing.assert_array_equal(found[0].numpy(), match_channels(found[0, :1].numpy(), 3))


@pytest.mark.parametrize("container", ["numpy", "memmap", "dask", "zarr"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("n_rows", [1, 7, 300])
def test_rows_come_in_order_from_any_container(
    container: str, axis: int, n_rows: int, tmp_path: Any
) -> None:
    array = picture(1, 40, 50)[0]
    held: Any = array
    if container == "memmap":
        np.save(tmp_path / "a.npy", array)
        held = np.load(tmp_path / "a.npy", mmap_mode="r")
    elif container == "dask":
        held = da.from_array(array, chunks=((13, 2, 25), (17, 33)))
    elif container == "zarr":
        held = zarr.create_array(tmp_path / "a.zarr", data=array, chunks=(11, 16))
    one = source_of(held)
    for spans in (((0, 40), (0, 50)), ((-9, 31), (5, 60)), ((17, 18), (20, 21))):
        pieces = list(one.rows(spans, n_rows, axis))
        assert all(piece.shape[axis + 2] <= n_rows for piece in pieces)
        whole = torch.cat(pieces, axis + 2)
        np.testing.assert_array_equal(whole[0].numpy(), expected(array[None], spans, one.scale))
    assert one.waited >= 0


def test_chunks_are_read_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, ...]] = []
    array = picture(1, 64, 48)[0]

    def block(block_info: Any = None) -> npt.NDArray[np.float32]:
        where = block_info[None]
        read.append(tuple(where["chunk-location"]))
        return array[tuple(slice(*span) for span in where["array-location"])]

    lazy = da.map_blocks(
        block, chunks=((16,) * 4, (16,) * 3), dtype=np.float32, meta=array[:0, :0]
    )  # fmt: skip
    for n_rows in (1, 5, 16, 40):
        read.clear()
        list(source_of(lazy).rows(((0, 64), (0, 48)), n_rows))
        if n_rows <= 16:
            assert sorted(read) == sorted(np.ndindex(4, 3))
        read.clear()
    monkeypatch.setattr(source, "BLOCK_BYTES", 4 * 48 * 16)
    list(source_of(lazy).rows(((0, 64), (0, 48)), 2))
    assert len(read) == len(set(read))


def test_a_lazy_image_is_read_ahead_and_stops_when_nobody_wants_more() -> None:
    started: list[int] = []

    class Lazy:
        shape, dtype, chunks = (40, 8), np.dtype(np.float32), (4, 8)

        def __getitem__(self, where: Any) -> npt.NDArray[np.float32]:
            started.append(where[0].start)
            return np.zeros((where[0].stop - where[0].start, 8), np.float32)

    rows = source_of(Lazy()).rows(((0, 40), (0, 8)), 4)
    next(rows)
    rows.close()
    assert started in ([0], [0, 4])
    assert not [one for one in threading.enumerate() if one.name.startswith("napari-unet")]


@pytest.mark.parametrize(
    "error", [OSError("the disk is gone"), RuntimeError("bad chunk"), ValueError("not a number"),
              KeyError("0.3"), EOFError("half a file")],
)  # fmt: skip
@pytest.mark.parametrize("is_ahead", [False, True])
def test_an_unreadable_image_is_a_sentence(error: Exception, is_ahead: bool) -> None:
    class Broken:
        shape, dtype = (40, 40), np.dtype(np.uint8)

        def __getitem__(self, where: object) -> None:
            raise error

    one = source_of(Broken(), image=make_image(Broken(), name="scan"))
    with pytest.raises(ImageError, match=r"'scan' could not be read: .*still there") as caught:
        list(one.rows(((0, 9), (0, 9)), 3)) if is_ahead else one.read(((0, 9), (0, 9)))
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [UNetLiveError("A sentence of its own."), MemoryError()])
def test_other_errors_are_what_they_are(error: Exception) -> None:
    class Broken:
        shape, dtype = (40, 40), np.dtype(np.uint8)

        def __getitem__(self, where: object) -> None:
            raise error

    with pytest.raises(type(error)) as caught:
        source_of(Broken()).read(((0, 9), (0, 9)))
    assert caught.value is error


def test_the_image_stays_as_it_is() -> None:
    array = picture(1, 20, 20)[0]
    before = array.copy()
    source_of(array).read(((0, 20), (0, 20))).fill_(7)
    np.testing.assert_array_equal(array, before)
