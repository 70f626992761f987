"""Images of every kind of array, read window by window."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from pathlib import Path
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
    stored = None
    if array.dtype.itemsize <= 8:
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


def test_has_no_volumes_without_z() -> None:
    for array, axes in ((np.zeros((3, 4, 5)), "tyx"), (np.zeros((2, 3, 4, 5)), "tcyx")):
        image = make_image(array, axes)
        assert image.index_shape(2) == array.shape[:1]
        with pytest.raises(ImageError, match="works on volumes"):
            image.index_shape(3)


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
@pytest.mark.parametrize("axes", ["".join(order) for order in permutations("czyx")])
def test_reads_axes_in_any_order(kind: str, axes: str) -> None:
    reference = RNG.integers(0, 60000, (2, 3, 6, 7)).astype(np.uint16)  # (c, z, y, x)
    array = reference.transpose(["czyx".index(axis) for axis in axes])
    image = make_image(containers(array)[kind], axes)
    window = (slice(2, 5), slice(1, 7))

    assert (image.label_axes, image.label_shape, image.n_channels) == ("zyx", (3, 6, 7), 2)
    plane = image.read((1,), window)
    np.testing.assert_array_equal(plane, reference[:, 1, *window])
    assert plane.flags.c_contiguous
    volume = image.read((), (slice(0, 2), *window))
    np.testing.assert_array_equal(volume, reference[:, 0:2, *window])
    np.testing.assert_array_equal(image.samples(), reference.reshape(2, -1))

    labels = np.arange(3 * 6 * 7).reshape(3, 6, 7)
    on_layer = image.to_layer_order(labels)
    letters = axes.replace("c", "")
    assert on_layer.shape == tuple(array.shape[axes.index(axis)] for axis in letters)
    assert on_layer[tuple({"z": 2, "y": 4, "x": 5}[a] for a in letters)] == labels[2, 4, 5]
    assert np.shares_memory(on_layer, labels)
    np.testing.assert_array_equal(on_layer, labels.transpose(image.label_order))
    np.testing.assert_array_equal(image.to_label_order(on_layer), labels)
    assert image.is_ordered == (letters == "zyx")
    assert not image.is_ordered or image.to_layer_order(labels) is labels


@pytest.mark.parametrize(
    ("axes", "label_axes", "order"),
    [
        ("yx", "yx", (0, 1)),
        ("xy", "yx", (1, 0)),
        ("xyc", "yx", (1, 0)),
        ("cxy", "yx", (1, 0)),
        ("xyz", "zyx", (2, 1, 0)),
        ("yxz", "zyx", (1, 2, 0)),
        ("yxt", "tyx", (1, 2, 0)),
        ("ytx", "tyx", (1, 0, 2)),
        ("ztyx", "tzyx", (1, 0, 2, 3)),
        ("tczyx", "tzyx", (0, 1, 2, 3)),
        ("xyzct", "tzyx", (3, 2, 1, 0)),
        ("zbyax", "bazyx", (2, 0, 3, 1, 4)),
    ],
)
def test_label_axes_have_those_of_space_last(
    axes: str, label_axes: str, order: tuple[int, ...]
) -> None:
    shape = tuple(2 + ord(axis) % 7 for axis in axes)
    image = make_image(np.zeros(shape), axes)
    assert (image.label_axes, image.label_order) == (label_axes, order)
    assert image.label_shape == tuple(2 + ord(axis) % 7 for axis in label_axes)
    if "z" in axes:
        assert image.spatial_shape(3) == image.label_shape[-3:]


def test_any_order_steps_through_what_is_not_space() -> None:
    array = RNG.random((4, 2, 5, 3)).astype(np.float32)  # (x, t, y, z)
    image = make_image(array, "xtyz")
    read = image.read((1, 2), (slice(0, 5), slice(1, 4)))  # (t, z), (y, x)
    np.testing.assert_array_equal(read[0], array[1:4, 1, 0:5, 2].T)


def test_computes_only_the_chunks_of_the_window_in_any_order() -> None:
    lazy = Counted((4, 512, 512), (1, 128, 128))
    image = make_image(lazy.array, "xzy")
    read = image.read((256,), (slice(100, 200), slice(2, 3)))
    assert read.shape == (1, 100, 1)
    assert lazy.blocks == {(2, 2, 0): 1, (2, 2, 1): 1}


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
        ("tzy", "must have y and x"),
        ("zxt", "must have y and x"),
        ("abc", "must have y and x"),
    ],
)
def test_refuses_axes_that_do_not_fit(axes: str, problem: str) -> None:
    with pytest.raises(ImageError, match=problem):
        make_image(np.zeros((3, 4, 5)), axes, "my image")


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


@pytest.mark.parametrize(
    ("sizes", "known"),
    [
        (None, {}),
        ({}, {}),
        ({"z": 2, "y": 0.5, "x": 0.25}, {"z": 2.0, "y": 0.5, "x": 0.25}),
        ({"y": 0.5, "t": 30.0, "c": 1.0, "u": 3.0}, {"y": 0.5}),
        ({"z": 0, "y": -1.0, "x": float("nan")}, {}),
        ({"y": float("inf"), "x": 0.5}, {"x": 0.5}),
    ],
)
def test_pixel_sizes_that_make_sense_are_known(
    sizes: dict[str, float] | None, known: dict[str, float]
) -> None:
    image = make_image(np.zeros((2, 3, 4, 5)), "tzyx", pixel_size=sizes)
    assert image.pixel_size == known
    assert image.fingerprint() == make_image(np.zeros((2, 3, 4, 5)), "tzyx").fingerprint()
    assert Image(array=np.zeros((4, 5)), axes="yx").pixel_size == {}


# --- odd values and odd arrays -----------------------------------------------------------------

DTYPES = ["?", "u1", "i1", "u2", ">i2", "u4", ">u4", "i8", ">u8", "f2", ">f2", "f4", ">f8", "g"]


def odd_arrays(array: npt.NDArray[Any], folder: Path) -> dict[str, Any]:
    """The same pixels in kinds of arrays that need care."""
    locked = array.copy()
    locked.flags.writeable = False
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    on_disk = np.memmap(folder / "array", array.dtype, "w+", shape=array.shape)
    on_disk[...] = array
    return {
        **containers(array),
        "locked": locked,
        "strided": wide[..., ::2],
        "backwards": array[..., ::-1].copy()[..., ::-1],
        "fortran": np.asfortranarray(array),
        "memmap": np.memmap(folder / "array", array.dtype, "r", shape=array.shape),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axes"), [((2, 9, 8), "cyx"), ((9, 8, 2), "xyz")])
def test_odd_arrays_give_what_plain_ones_do(
    dtype: str, shape: tuple[int, ...], axes: str, tmp_path: Path
) -> None:
    array = (RNG.random(shape) * 100).astype(dtype)
    plain = make_image(array.astype(array.dtype.newbyteorder("=")), axes)
    whole = tuple(slice(0, n) for n in plain.spatial_shape(2))
    index = (0,) * len(plain.index_shape(2))
    arrays = odd_arrays(array, tmp_path)
    if arrays["zarr"] is None:  # which knows no numbers of 16 bytes
        del arrays["zarr"]
    for kind, odd in arrays.items():
        image = make_image(odd, axes)
        assert image.fingerprint() == plain.fingerprint(), kind
        np.testing.assert_array_equal(image.samples(), plain.samples(), err_msg=kind)
        read = image.read(index, whole)
        np.testing.assert_array_equal(read, plain.read(index, whole), err_msg=kind)
        assert read.dtype.isnative and read.flags.c_contiguous and read.flags.writeable


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3)])
@pytest.mark.parametrize("n_leading", [0, 1, 3])
def test_sizes_of_1(shape: tuple[int, int], n_leading: int) -> None:
    array = RNG.random((*[1] * n_leading, *shape))
    image = make_image(array, "tcz"[:n_leading] + "yx")
    index = (0,) * len(image.index_shape(2))
    read = image.read(index, tuple(slice(0, n) for n in shape))
    np.testing.assert_array_equal(read.ravel(), array.ravel())
    assert image.samples().shape == (1, array.size)
    assert len(image.fingerprint()) == 32
    if n_leading == 3:
        assert image.spatial_shape(3) == (1, *shape)


def test_what_is_not_a_number_is_read_and_told_apart() -> None:
    array = np.zeros((9, 8), np.float32)
    prints = set()
    for value in (0, -0.0, np.nan, np.inf, -np.inf):
        array[3, 4] = value
        image = make_image(array.copy())
        prints.add(image.fingerprint())
        assert image.fingerprint() == make_image(da.from_array(array.copy())).fingerprint()
        np.testing.assert_array_equal(image.read((), (slice(3, 4), slice(4, 5))), [[[value]]])
        np.testing.assert_array_equal(image.samples(), array.reshape(1, -1))
    assert len(prints) == 5


def test_samples_of_a_big_image_in_another_order() -> None:
    x, y, z = np.ogrid[:1000, :1000, :8]
    array = np.broadcast_to(z * 1_000_000 + y * 1000 + x, (1000, 1000, 8)).astype(np.uint32)
    turned = make_image(array, "xyz").samples(100_000)
    straight = make_image(array.transpose(), "zyx").samples(100_000)
    np.testing.assert_array_equal(turned, straight)
    lazy = da.from_array(array, chunks=(100, 200, 8))
    found = make_image(lazy, "xyz").samples(100_000)
    assert 20_000 < found.shape[1] < 200_000
    np.testing.assert_array_equal(found, make_image(lazy.transpose(), "zyx").samples(100_000))


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


def ramp(shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    places = np.arange(np.prod(shape), dtype=np.uint64)
    return (places * 7919 % 251).reshape(shape).astype(dtype)


@pytest.mark.parametrize(
    ("shape", "axes", "dtype", "known"),
    [
        ((5, 7), "yx", "u1", "a3dd8108948421c2f7dd34efc050e19b"),
        ((300, 500), "yx", ">u2", "e86e818c95d2c7180da05c6b474670a2"),
        ((3, 40, 50), "cyx", "f4", "324b6fb3c5332806f27d12eab1bff9cf"),
        ((40, 50, 3), "yxc", "u1", "1486cf20fb208f89d968143fae64dd71"),
        ((4, 2, 30, 20), "tcyx", "i2", "668a72b98d540d3b78ec4b75ef9e649e"),
        ((2, 3, 5, 70, 90), "tzcyx", "u1", "99232de299e3ca70d554f0deb15ae5fc"),
        ((6, 2100, 900), "zyx", "u2", "676023e1bf56a9107f3b1af8d5c416a3"),
        ((30, 3, 20), "ycx", "f8", "f4e1d1a5d5bb9306567789fda22d1b3e"),
        ((3, 70, 70, 2), "zyxc", "?", "df0e6ef431758058278c2bf271beb5b7"),
    ],
)
def test_projects_of_version_0_1_know_their_images(
    shape: tuple[int, ...], axes: str, dtype: str, known: str
) -> None:
    assert make_image(ramp(shape, dtype), axes).fingerprint() == known


def test_fingerprint_tells_orders_apart() -> None:
    array = RNG.integers(0, 200, (6, 6, 6)).astype(np.uint8)
    prints = {
        make_image(array, "".join(order)).fingerprint()
        for letters in ("zyx", "tyx", "cyx")
        for order in permutations(letters)
    }
    assert len(prints) == 18
