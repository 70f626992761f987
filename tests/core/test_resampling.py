"""Images at the pixel size of a model: a window is always the crop of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import pytest
import torch
import zarr

from napari_unet.core import interpolation
from napari_unet.core.errors import ImageError
from napari_unet.core.image import Image, make_image
from napari_unet.core.resampling import (
    Resampling,
    resampling_for,
    resampling_reason,
    wanted_sizes,
)

RNG = np.random.default_rng(0)


def resampled(
    array: Any,
    axes: str,
    pixel_size: dict[str, float],
    wanted: float | Sequence[float] = 1.0,
    dims: int = 2,
) -> Resampling:
    image = make_image(array, axes, pixel_size=pixel_size)
    found = resampling_for(image, dims, wanted)
    assert found is not None
    return found


def by_torch(array: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """The same by other people's code, `(y, x)`."""
    whole = torch.from_numpy(array.astype(np.float32))[None, None]
    found = torch.nn.functional.interpolate(whole, size, mode="bilinear", antialias=True)
    return found[0, 0].numpy()


def random_windows(shape: tuple[int, ...], n: int = 20) -> list[tuple[slice, ...]]:
    generator = np.random.default_rng(1)
    windows = []
    for _ in range(n):
        starts = [int(generator.integers(0, size)) for size in shape]
        sizes = zip(starts, shape, strict=True)
        windows.append(tuple(slice(a, int(generator.integers(a, size)) + 1) for a, size in sizes))
    return windows


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(0.5, 0.5), (0.25, 0.3), (2.0, 3.0), (0.37, 2.4), (0.06, 1.0)])
def test_is_what_others_compute_for_the_whole_image(sizes: tuple[float, float]) -> None:
    array = RNG.integers(0, 60000, (61, 47)).astype(np.uint16)
    small = resampled(array, "yx", {"y": sizes[0], "x": sizes[1]}).image
    expected = by_torch(array, small.label_shape)  # type: ignore[arg-type]
    assert small.label_shape == (round(61 * sizes[0]), round(47 * sizes[1]))
    np.testing.assert_allclose(small.array[...][0], expected, rtol=1e-5)


def test_halving_with_even_sizes_weights_a_tent_of_four() -> None:
    small = resampled(np.arange(8.0)[None] * np.ones((8, 1)), "yx", {"y": 0.5, "x": 0.5})
    row = small.image.array[0, 1]
    # px 1 lies between 2 and 3: (1 x 1 + 3 x 2 + 3 x 3 + 1 x 4) / 8
    np.testing.assert_allclose(row[1:3], [2.5, 4.5], rtol=1e-6)


def test_a_constant_image_stays_what_it_is() -> None:
    for size in (0.13, 0.4, 2.7):
        small = resampled(np.full((33, 41), 7, np.int16), "yx", {"y": size, "x": size}).image
        np.testing.assert_allclose(small.array[...], 7, rtol=1e-6)


def test_a_fine_pattern_is_not_aliased() -> None:
    stripes = np.indices((64, 64)).sum(axis=0) % 2 * 100.0
    small = resampled(stripes, "yx", {"y": 0.3, "x": 0.3}).image
    inside = small.array[0, 1:-1, 1:-1]
    np.testing.assert_allclose(inside, 50, atol=3)


def test_a_ramp_stays_a_ramp_of_the_same_extent() -> None:
    ramp = np.broadcast_to(np.arange(40) + 0.5, (40, 40))  # the place in px of the original
    for size, n in ((0.5, 20), (2.0, 80)):
        row = resampled(ramp, "yx", {"y": size, "x": size}).image.array[0, 0]
        places = (np.arange(n) + 0.5) * 40 / n
        np.testing.assert_allclose(row[3:-3], places[3:-3], rtol=1e-5)


# --- windows -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0.11, 0.5, 0.77, 1.6, 3.0])
def test_a_window_is_the_crop_of_the_whole(size: float) -> None:
    array = RNG.normal(100, 30, (70, 53)).astype(np.float32)
    small = resampled(array, "yx", {"y": size, "x": size * 1.3}).image
    whole = small.array[...]
    for window in random_windows(small.label_shape):
        np.testing.assert_array_equal(small.read((), window), whole[:, *window])


def test_a_window_is_the_crop_of_the_whole_where_values_are_missing() -> None:
    array = RNG.normal(100, 30, (70, 53)).astype(np.float32)
    array[RNG.random(array.shape) < 0.1] = np.nan
    array[20:35, 10:30] = np.nan
    array[5, 5], array[60, 40] = np.inf, -np.inf
    for size in (0.4, 1.7):
        small = resampled(array, "yx", {"y": size, "x": size}).image
        whole = small.array[...]
        assert np.isfinite(whole).mean() > 0.8
        for window in random_windows(small.label_shape):
            found = small.read((), window)
            np.testing.assert_allclose(found, whole[:, *window], rtol=1e-5)


def test_what_is_not_finite_does_not_spread() -> None:
    array = np.full((40, 40), 8.0)
    array[10:30, 10:30] = np.nan
    array[0, 0] = np.inf
    whole = resampled(array, "yx", {"y": 0.5, "x": 0.5}).image.array[0]
    assert np.isnan(whole[6:14, 6:14]).all()
    np.testing.assert_allclose(whole[np.isfinite(whole)], 8, rtol=1e-6)
    assert np.isfinite(whole[:5]).all() and np.isfinite(whole[16:]).all()
    nothing = resampled(np.full((20, 20), -np.inf), "yx", {"y": 0.5, "x": 0.5}).image
    assert (nothing.array[...] == -np.inf).all()


def test_is_computed_in_parts_if_it_is_made_of_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    array = RNG.normal(0, 1, (3, 64, 90)).astype(np.float32)
    small = resampled(array, "cyx", {"y": 0.3, "x": 0.2}).image
    whole = small.array[...]
    monkeypatch.setattr(interpolation, "PART_LIMIT", 500)
    np.testing.assert_array_equal(small.array[...], whole)
    monkeypatch.setattr(interpolation, "PART_LIMIT", 1)
    np.testing.assert_array_equal(small.array[...], whole)


class Watched:
    """An array that knows the largest part that was asked for."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.dtype, self.most = shape, np.dtype(np.uint8), 0

    def __getitem__(self, key: Any) -> npt.NDArray[np.uint8]:
        shape = [len(range(n)[k]) for n, k in zip(self.shape, key, strict=True)]
        self.most = max(self.most, int(np.prod(shape)))
        return np.zeros(shape, np.uint8)


def test_reads_no_more_than_a_window_is_made_of() -> None:
    lazy = Watched((30_000, 30_000))
    small = resampled(lazy, "yx", {"y": 0.25, "x": 0.25}).image
    assert small.label_shape == (7500, 7500)
    small.read((), (slice(5000, 5100), slice(0, 100)))
    assert lazy.most <= 408**2
    lazy.most = 0
    small.read((), (slice(0, 7500), slice(0, 4)))
    assert lazy.most <= 30_000 * 24
    small.samples(100_000)
    small.fingerprint()


# --- what is asked for -------------------------------------------------------------------------


def test_is_indexed_as_other_arrays_are() -> None:
    array = RNG.normal(0, 1, (2, 3, 40, 30)).astype(np.float32)
    lazy = resampled(array, "tcyx", {"y": 0.5, "x": 0.5}).image.array
    whole = np.asarray(lazy)
    assert (lazy.shape, lazy.dtype, lazy.ndim, lazy.size) == ((3, 2, 20, 15), "f4", 4, 1800)
    keys: list[Any] = [
        (...,),
        1,
        (slice(None), 0),
        (0, 1, 2, 3),
        (-1, ..., -2),
        (slice(1, 3), slice(None), slice(2, 19, 3), slice(None, None, 4)),
        (0, slice(None, None, 2), 5),
        (slice(0, 0),),
        (0, 0, slice(7, 7), 4),
        (np.int64(2), np.uint8(1), slice(-5, None)),
    ]
    for key in keys:
        np.testing.assert_array_equal(lazy[key], whole[key], err_msg=str(key))
        assert lazy[key].shape == whole[key].shape
    for key in (3, (0, 0, 20), (0, 0, 0, 0, 0), (0, 0, slice(None, None, -1))):
        with pytest.raises(IndexError):
            lazy[key]
    assert np.asarray(lazy, np.float64).dtype == np.float64


@pytest.mark.parametrize("dtype", ["?", "u1", ">u2", "i4", "u8", "f2", ">f4", "f8"])
@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
def test_every_number_type_and_array_becomes_float32(dtype: str, kind: str) -> None:
    array = (RNG.random((24, 30)) * 100).astype(dtype)
    expected = by_torch(array.astype(np.float32), (12, 15))
    container: Any = array
    if kind == "dask":
        container = da.from_array(array, chunks=7)
    if kind == "zarr":
        container = zarr.create_array({}, shape=array.shape, chunks=(7, 7), dtype=array.dtype)
        container[...] = array
    small = resampled(container, "yx", {"y": 0.5, "x": 0.5}).image
    found = small.read((), (slice(0, 12), slice(0, 15)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("axes", "order"), [("tczyx", (0, 1, 2, 3, 4)), ("xyzct", (4, 3, 2, 1, 0))]
)
def test_2d_leaves_all_axes_but_y_and_x(axes: str, order: tuple[int, ...]) -> None:
    reference = RNG.normal(0, 1, (2, 3, 4, 20, 26)).astype(np.float32)  # (t, c, z, y, x)
    image = make_image(reference.transpose(order), axes, pixel_size={"z": 5, "y": 0.5, "x": 0.5})
    small = resampling_for(image, 2, 1.0)
    assert small is not None and (small.image.axes, small.image.n_channels) == ("ctzyx", 3)
    assert small.image.label_shape == (2, 4, 10, 13)
    assert small.image.pixel_size == {"z": 5.0, "y": 1.0, "x": 1.0}
    found = small.image.read((1, 2), (slice(0, 10), slice(0, 13)))
    for c in range(3):
        expected = by_torch(reference[1, c, 2], (10, 13))
        np.testing.assert_allclose(found[c], expected, rtol=1e-5, atol=1e-5)


def test_3d_resamples_z_too() -> None:
    array = RNG.normal(0, 1, (2, 6, 20, 26)).astype(np.float32)
    sizes = {"z": 2.0, "y": 0.5, "x": 0.5}
    small = resampled(array, "tzyx", sizes, 1.0, dims=3)
    assert small.image.label_shape == (2, 12, 10, 13)
    whole = small.image.array[0, 1]
    for y in range(10):  # z and x of a plane that was made by resampling y alone
        plane = resampled(array[1], "zyx", {"y": 0.5, "x": 1.0}).image.array[0][:, y]
        np.testing.assert_allclose(whole[:, y], by_torch(plane, (12, 13)), rtol=1e-4, atol=1e-5)
    flat = resampled(array, "tzyx", sizes, (2.0, 1.0, 1.0), dims=3)
    assert flat.image.label_shape == (2, 6, 10, 13)
    without_z = resampled(array, "tzyx", {"y": 0.5, "x": 0.5}, 1.0, dims=3)
    assert without_z.image.label_shape == (2, 6, 10, 13)


# --- back to the original ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [0.11, 0.5, 0.77, 1.6, 3.0])
def test_outputs_are_seen_at_the_size_of_the_original(size: float) -> None:
    small = resampled(np.zeros((70, 53), np.uint8), "yx", {"y": size, "x": size * 1.3})
    outputs = RNG.random((2, *small.image.label_shape)).astype(np.float16)
    view = small.view(outputs)
    whole = view[...]
    assert (view.shape, whole.shape, view.dtype) == ((2, 70, 53), (2, 70, 53), np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(outputs.astype(np.float32))[None], (70, 53), mode="bilinear"
    )[0].numpy()
    np.testing.assert_allclose(whole, expected, atol=1e-5)
    for window in random_windows((70, 53)):
        np.testing.assert_array_equal(view[(slice(None), *window)], whole[:, *window])
    outputs[...] = 0.5
    assert (view[1, 30:40, 20] == 0.5).all()  # what is written later is seen


def test_outputs_of_volumes_and_stacks() -> None:
    sizes = {"z": 2.0, "y": 0.5, "x": 0.5}
    array = np.zeros((2, 6, 20, 26), np.uint8)
    flat = resampled(array, "tzyx", sizes)
    outputs = RNG.random((3, *flat.image.label_shape)).astype(np.float32)
    view = flat.view(outputs)
    assert view.shape == (3, 2, 6, 20, 26)
    alone = resampled(array[0, 0], "yx", sizes).view(outputs[:, 1, 4])
    np.testing.assert_array_equal(view[:, 1, 4], alone[...])
    deep = resampled(array, "tzyx", sizes, dims=3)
    outputs = RNG.random((3, *deep.image.label_shape)).astype(np.float32)
    view = deep.view(zarr.array(outputs))
    whole = view[...]
    assert whole.shape == (3, 2, 6, 20, 26)
    window = (slice(2, 5), slice(3, 19), slice(0, 7))
    np.testing.assert_array_equal(view[:, 1, *window], whole[:, 1, *window])


@pytest.mark.parametrize("size", [0.11, 0.5, 0.77, 1.6, 3.0])
def test_a_finished_small_window_determines_just_its_window(size: float) -> None:
    small = resampled(np.zeros((70, 53), np.uint8), "yx", {"y": size, "x": size * 1.3})
    shape = small.image.label_shape
    is_empty = []
    for done in [*random_windows(shape), tuple(slice(0, n) for n in shape)]:
        outputs = np.full((1, *shape), np.nan, np.float32)
        marked = np.zeros((1, *shape), np.float32)
        marked[:, *done] = 1
        # Values that differ by where they come from: exactly 1 where nothing else counts.
        is_determined = np.isclose(small.view(marked)[0], 1, atol=1e-6)
        expected = np.zeros((70, 53), bool)
        expected[small.window(done)] = True
        np.testing.assert_array_equal(is_determined, expected)
        outputs[:, *done] = 0.25
        assert (small.view(outputs)[0, *small.window(done)] == 0.25).all()
        is_empty.append(not expected.any())
        if expected.any():
            back = small.small_window(small.window(done))
            for part, limit in zip(back, done, strict=True):
                assert limit.start <= part.start < part.stop <= limit.stop
    assert small.window(tuple(slice(0, n) for n in shape)) == (slice(0, 70), slice(0, 53))
    assert not all(is_empty)


def test_a_window_of_the_original_needs_its_small_window() -> None:
    for size in (0.2, 0.6, 1.9):
        small = resampled(np.zeros((70, 53), np.uint8), "yx", {"y": size, "x": size})
        for window in random_windows((70, 53)):
            found = small.window(small.small_window(window))
            for part, wanted in zip(found, window, strict=True):
                assert part.start <= wanted.start and wanted.stop <= part.stop
        assert small.small_window((slice(5, 5), slice(0, 3)))[0] == slice(0, 0)


def test_a_position_in_the_small_image() -> None:
    small = resampled(np.zeros((5, 40, 60), np.uint8), "tyx", {"y": 0.5, "x": 0.25})
    assert small.image.label_shape == (5, 20, 15)
    assert small.small_position((3, 0.5, 58.0 - 0.5)) == (3, 0.0, 14.0)
    assert small.small_position((0, -0.5, 59.5)) == (0, -0.5, 14.5)


# --- whether at all ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "wanted", "dims", "reason"),
    [
        ({"y": 0.5, "x": 0.5}, None, 2, "model does not say"),
        ({"y": 0.5, "x": 0.5}, 0.0, 2, "model does not say"),
        ({"y": 0.5, "x": 0.5}, float("nan"), 2, "model does not say"),
        ({"y": 0.5, "x": 0.5}, (1.0,), 2, "model does not say"),
        ({}, 1.0, 2, "along y and x is unknown"),
        ({"y": 0.5, "z": 1.0}, 1.0, 3, "along x is unknown"),
        ({"y": 0.5, "x": 0.5}, 0.55, 2, "0.5 x 0.5 µm, those of the model 0.55 x 0.55 µm, which"),
        ({"y": 0.5, "x": 0.5}, 0.455, 2, "near enough"),
        ({"z": 3.0, "y": 0.5, "x": 0.5}, 0.5, 2, "near enough"),
        ({"z": 3.0, "y": 0.5, "x": 0.5}, (3, 0.5, 0.5), 3, "3 x 0.5 x 0.5 µm, which is near"),
        ({"y": 500.0, "x": 500.0}, 0.5, 2, "must be wrong"),
        ({"y": 0.5, "x": 0.5}, 500, 2, "must be wrong"),
    ],
)
def test_says_why_an_image_is_taken_as_it_is(
    sizes: dict[str, float], wanted: Any, dims: int, reason: str
) -> None:
    image = make_image(np.zeros((5, 20, 30)), "zyx", pixel_size=sizes)
    assert resampling_for(image, dims, wanted) is None
    assert resampling_reason(image, dims, wanted).startswith("Not resampled")
    assert reason in resampling_reason(image, dims, wanted)


def test_says_why_an_image_is_resampled() -> None:
    image = make_image(np.zeros((20, 30)), pixel_size={"y": 0.325, "x": 0.325})
    found = resampling_for(image, 2, 0.65)
    assert found is not None
    assert found.reason == resampling_reason(image, 2, 0.65)
    assert found.reason == (
        "Resampled: the px of the image are 0.325 x 0.325 µm, those of the model 0.65 x 0.65 µm."
    )


def test_axes_near_enough_stay() -> None:
    small = resampled(np.zeros((20, 30)), "yx", {"y": 0.5, "x": 0.95})
    assert small.image.label_shape == (10, 30)
    assert small.window((slice(0, 5), slice(3, 9)))[1] == slice(3, 9)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3)])
@pytest.mark.parametrize("size", [0.05, 0.4, 3.0])
def test_images_of_hardly_any_px(shape: tuple[int, int], size: float) -> None:
    image = make_image(RNG.random(shape), pixel_size={"y": size, "x": size})
    small = resampling_for(image, 2, 1.0)
    if small is None:
        assert min(shape) == 1 == max(shape)
        return
    whole = small.image.array[...]
    assert np.isfinite(whole).all() and min(small.image.label_shape) >= 1
    view = small.view(np.ones((1, *small.image.label_shape), np.float32))
    np.testing.assert_allclose(view[...], np.ones((1, *shape)), rtol=1e-6)


def test_no_volumes_no_volumes_resampled() -> None:
    image = make_image(np.zeros((5, 20, 30)), "tyx", pixel_size={"y": 0.5, "x": 0.5})
    with pytest.raises(ImageError, match="works on volumes"):
        resampling_for(image, 3, 1.0)


def test_sizes_a_model_wants() -> None:
    assert wanted_sizes(0.5, 2) == {"y": 0.5, "x": 0.5}
    assert wanted_sizes(0.5, 3) == {"z": 0.5, "y": 0.5, "x": 0.5}
    assert wanted_sizes([2, 0.5, 0.4], 2) == {"y": 0.5, "x": 0.4}
    assert wanted_sizes((2, 0.5, 0.4), 3) == {"z": 2.0, "y": 0.5, "x": 0.4}
    assert wanted_sizes((0.5, 0.4), 3) == {"y": 0.5, "x": 0.4}
    assert wanted_sizes((float("inf"), 0.5, 0.4), 3) == {"y": 0.5, "x": 0.4}
    assert wanted_sizes(None, 2) == wanted_sizes((), 2) == wanted_sizes(-1.0, 2) == {}


def test_the_image_of_a_resampling_is_an_image() -> None:
    image = make_image(RNG.random((20, 30)), name="cells", pixel_size={"y": 0.5, "x": 0.5})
    small = resampling_for(image, 2, 1.0)
    assert small is not None and isinstance(small.image, Image)
    assert (small.image.name, small.original, small.dims) == ("cells", image, 2)
    np.testing.assert_array_equal(small.image.samples(), small.image.array[...].reshape(1, -1))
