"""Images of every kind of array, read window by window."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import pytest
import zarr

from napari_unet.core.errors import ImageError
from napari_unet.core.image import ALL_PIXELS, Image, make_image

RNG = np.random.default_rng(0)


class Counted:
    """A lazy array `(z, y, x)` of known values that counts which chunks are computed."""

    def __init__(self, shape: tuple[int, ...], chunks: tuple[int, ...]) -> None:
        self.blocks: Counter[tuple[int, ...]] = Counter()
        self.shape = shape
        grid = da.core.normalize_chunks(chunks, shape)
        self.array = da.map_blocks(self._block, chunks=grid, dtype=np.uint16, meta=self._meta())

    def _meta(self) -> npt.NDArray[np.uint16]:
        return np.zeros((0,) * len(self.shape), np.uint16)

    def _block(self, block_info: Any = None) -> npt.NDArray[np.uint16]:
        info = block_info[None]
        self.blocks[info["chunk-location"]] += 1
        return values_at(tuple(slice(*part) for part in info["array-location"]), self.shape)


def values_at(window: tuple[slice, ...], shape: tuple[int, ...]) -> npt.NDArray[np.uint16]:
    """A value that follows from the place, `(z, y, x)` uint16."""
    z, y, x = np.ogrid[window]
    return ((z * shape[1] + y) * 31 + x * 7).astype(np.uint16)


def containers(array: npt.NDArray[Any]) -> dict[str, Any]:
    """The same pixels in each kind of array."""
    chunks = tuple(max(1, n // 2) for n in array.shape)
    stored = zarr.create_array(
        zarr.storage.MemoryStore(), shape=array.shape, chunks=chunks, dtype=array.dtype
    )
    stored[...] = array
    return {"numpy": array, "dask": da.from_array(array, chunks=chunks), "zarr": stored}


# --- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
@pytest.mark.parametrize("where", range(5))
def test_reads_one_window_wherever_the_channels_are(kind: str, where: int) -> None:
    reference = RNG.integers(0, 60000, (3, 2, 4, 9, 11)).astype(np.uint16)  # (c, t, z, y, x)
    array = np.moveaxis(reference, 0, where)
    axes = "tzyx"[:where] + "c" + "tzyx"[where:]
    image = Image(array=containers(array)[kind], axes=axes)
    window = (slice(2, 9), slice(0, 5))

    plane = image.read((1, 3), window)
    volume = image.read((1,), (slice(1, 4), *window))

    np.testing.assert_array_equal(plane, reference[:, 1, 3, 2:9, 0:5])
    np.testing.assert_array_equal(volume, reference[:, 1, 1:4, 2:9, 0:5])
    assert plane.flags.c_contiguous and volume.flags.c_contiguous
    assert image.n_channels == 3
    assert image.label_axes == "tzyx"
    assert image.label_shape == (2, 4, 9, 11)
    assert (image.index_shape(2), image.spatial_shape(2)) == ((2, 4), (9, 11))
    assert (image.index_shape(3), image.spatial_shape(3)) == ((2,), (4, 9, 11))


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
@pytest.mark.parametrize(
    "dtype", ["bool", "u1", ">u2", "<i2", "u4", ">i4", "u8", "f2", ">f4", "f8"]
)
def test_reads_every_number_type_in_native_byte_order(kind: str, dtype: str) -> None:
    array = (RNG.random((6, 8)) * 100).astype(dtype)
    image = make_image(containers(array)[kind])
    read = image.read((), (slice(1, 5), slice(0, 8)))
    assert read.dtype == np.dtype(dtype).newbyteorder("=")
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array[None, 1:5])


def test_reads_a_copy_of_any_memory_order() -> None:
    array = np.asfortranarray(RNG.random((6, 8, 3)))[::-1, ::2]
    image = make_image(array, "yxc")
    everything = (slice(0, 6), slice(0, 4))
    read = image.read((), everything)
    np.testing.assert_array_equal(read, array.transpose(2, 0, 1))
    assert read.flags.c_contiguous
    read[...] = -1
    assert not np.shares_memory(read, array)
    assert array.min() >= 0


def test_refuses_a_position_that_does_not_fit() -> None:
    with pytest.raises(ImageError, match=r"\(1, 2\).*'zyx'"):
        make_image(np.zeros((3, 4, 5)), "zyx").read((1, 2), (slice(0, 4), slice(0, 5)))


def test_has_no_volumes_without_z_next_to_y_and_x() -> None:
    for array, axes in ((np.zeros((3, 4, 5)), "tyx"), (np.zeros((2, 3, 4, 5)), "ztyx")):
        image = make_image(array, axes)
        assert image.index_shape(2) == array.shape[:-2]
        with pytest.raises(ImageError, match="works on volumes"):
            image.index_shape(3)


def test_computes_only_the_chunks_of_the_window() -> None:
    lazy = Counted((4, 512, 512), (1, 128, 128))
    read = make_image(lazy.array, "zyx").read((2,), (slice(100, 200), slice(256, 300)))
    np.testing.assert_array_equal(
        read[0], values_at((slice(2, 3), slice(100, 200), slice(256, 300)), lazy.shape)[0]
    )
    assert lazy.blocks == {(2, 0, 2): 1, (2, 1, 2): 1}


# --- axes and arrays ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((20, 30), "yx"),
        ((20, 3), "yx"),
        ((20, 30, 3), "yxc"),
        ((20, 30, 4), "yxc"),
        ((20, 30, 2), "zyx"),
        ((3, 20, 30), "zyx"),
        ((4, 3, 3), "zyx"),
        ((5, 6, 20, 30), "tzyx"),
        ((6, 20, 30, 3), "zyxc"),
        ((2, 3, 6, 20, 30), "tczyx"),
        ((2, 6, 20, 30, 3), "tzyxc"),
    ],
)
def test_guesses_axes_from_the_shape(shape: tuple[int, ...], axes: str) -> None:
    assert make_image(np.zeros(shape, np.uint8)).axes == axes


def test_takes_capital_axes() -> None:
    assert make_image(np.zeros((3, 4, 5)), " CYX").axes == "cyx"


@pytest.mark.parametrize("shape", [(), (7,), (1,) * 6])
def test_does_not_guess_what_it_cannot_know(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="cannot be guessed"):
        make_image(np.zeros(shape))


@pytest.mark.parametrize(
    ("axes", "problem"),
    [
        ("yx", "3 dimensions"),
        ("zzyx", "name 4"),
        ("yyx", "none of them twice"),
        ("1yx", "must be lower-case letters"),
        ("zxy", "must end with y and x"),
        ("yxt", "must end with y and x"),
        ("ytx", "must end with y and x"),
        ("tzy", "must end with y and x"),
    ],
)
def test_refuses_axes_that_do_not_fit(axes: str, problem: str) -> None:
    with pytest.raises(ImageError, match=problem):
        make_image(np.zeros((3, 4, 5)), axes, "my image")


def test_allows_channels_anywhere() -> None:
    shapes = [
        "".join(p) for p in permutations("zcyx") if "".join(p).replace("c", "").endswith("zyx")
    ]
    assert len(shapes) == 4
    for axes in shapes:
        assert make_image(np.zeros((2, 3, 4, 5)), axes).label_axes == "zyx"


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        ([[1, 2], [3, 4]], "is a list, not an array"),
        (np.zeros((3, 4), complex), "complex128"),
        (np.zeros((3, 4), object), "object"),
        (np.zeros((3, 4), "M8[s]"), "datetime64"),
        (np.zeros((3, 4), [("a", "u1")]), "whole or real numbers"),
        (np.zeros((3, 4), "U2"), "whole or real numbers"),
        (np.zeros((0, 4)), "is empty"),
        (da.zeros((3, 0)), "is empty"),
    ],
)
def test_refuses_what_is_no_image(array: Any, problem: str) -> None:
    with pytest.raises(ImageError, match=problem):
        make_image(array, "yx")


def test_refuses_a_shape_nobody_knows() -> None:
    array = da.ones((6, 4), chunks=2)
    with pytest.raises(ImageError, match="compute_chunk_sizes"):
        make_image(array[array[:, 0] > 0], "yx")


# --- samples -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
def test_samples_of_a_small_image_are_all_its_pixels(kind: str) -> None:
    array = RNG.integers(0, 255, (4, 50, 60, 3)).astype(np.uint8)
    samples = make_image(containers(array)[kind], "zyxc").samples(100)
    np.testing.assert_array_equal(samples, array.reshape(-1, 3).T)


def test_samples_of_a_big_image_are_few_and_from_everywhere() -> None:
    z, y, x = np.ogrid[:8, :1000, :1000]
    array = np.broadcast_to(z * 1_000_000 + y * 1000 + x, (8, 1000, 1000)).astype(np.uint32)
    assert array.size > ALL_PIXELS
    samples = make_image(array).samples(100_000)
    assert samples.shape[0] == 1
    assert 50_000 < samples.shape[1] < 200_000
    assert np.unique(samples // 1_000_000).tolist() == list(range(8))
    for values in (samples // 1000 % 1000, samples % 1000):
        counts, _ = np.histogram(values, 10, (0, 1000))
        assert counts.min() > 0.7 * counts.mean()
    again = make_image(array).samples(100_000)
    np.testing.assert_array_equal(samples, again)
    at = (1, 50, 99)
    np.testing.assert_allclose(np.percentile(samples, at), np.percentile(array, at), atol=80_000)


@pytest.mark.parametrize(
    "chunks", [(1, 512, 512), (8, 256, 256), (8, 100, 100), (1, 2048, 2048), (8, 2048, 2048)]
)
def test_samples_of_a_lazy_image_compute_few_chunks(chunks: tuple[int, ...]) -> None:
    lazy = Counted((8, 2048, 2048), chunks)
    samples = make_image(lazy.array, "zyx").samples(100_000)
    assert 20_000 < samples.shape[1] < 200_000
    assert max(lazy.blocks.values()) == 1
    n_pixels = len(lazy.blocks) * np.prod(chunks)
    assert n_pixels <= 32 * max(np.prod(chunks), 100_000)
    if len(lazy.blocks) > 4:
        assert len({block[1:] for block in lazy.blocks}) > 4 or chunks[1] == 2048
    true = values_at((slice(0, 8), slice(0, 2048), slice(0, 2048)), lazy.shape)
    np.testing.assert_allclose(
        np.percentile(samples, (1, 50, 99)), np.percentile(true, (1, 50, 99)), atol=6000
    )


def test_samples_of_one_deep_chunk_come_from_all_its_planes() -> None:
    array = np.broadcast_to(np.arange(80, dtype=np.uint8)[:, None, None], (80, 300, 300))
    samples = make_image(da.from_array(array, chunks=(80, 300, 300)), "zyx").samples(50_000)
    values = np.unique(samples)
    assert len(values) == 8
    assert values.min() < 10 and values.max() >= 70


# --- fingerprint -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 7), (300, 500), (2100, 2200)])
def test_fingerprint_is_that_of_the_pixels(shape: tuple[int, int]) -> None:
    array = RNG.integers(0, 60000, shape).astype(np.uint16)
    known = make_image(array).fingerprint()
    assert len(known) == 32 and int(known, 16) >= 0
    for same in (*containers(array).values(), array.astype(">u2"), np.asfortranarray(array)):
        assert make_image(same).fingerprint() == known


def test_fingerprint_tells_images_apart() -> None:
    array = RNG.integers(0, 200, (64, 3, 64)).astype(np.uint8)
    other_pixel = array.copy()
    other_pixel[63, 2, 63] += 1
    images = [
        make_image(array, "ycx"),
        make_image(array, "zyx"),
        make_image(array.astype(np.int16), "ycx"),
        make_image(array.view(np.int8), "ycx"),
        make_image(array[:63], "ycx"),
        make_image(other_pixel, "ycx"),
    ]
    assert len({image.fingerprint() for image in images}) == len(images)


def test_fingerprint_of_a_lazy_image_is_cheap() -> None:
    lazy = Counted((100, 2048, 2048), (1, 512, 512))
    make_image(lazy.array, "zyx").fingerprint()
    assert 8 < len(lazy.blocks) <= 16
