"""Raw intensities to network input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_unet.core.errors import SettingsError
from napari_unet.core.normalization import (
    CLIP,
    IntensityScale,
    Normalization,
    match_channels,
    normalise,
    scale_of,
    summary_of,
)


def test_percentiles_become_0_and_1() -> None:
    samples = np.stack([np.arange(1001), 10 * np.arange(1001)]).astype(np.uint16)
    scale = scale_of(samples, Normalization(kind="percentile", low=10, high=90))
    assert scale == IntensityScale(offset=(100.0, 1000.0), scale=(800.0, 8000.0))
    raw = np.array([[[100, 900, 500]], [[1000, 9000, 5000]]], np.uint16)  # (c, y, x)
    np.testing.assert_allclose(normalise(raw, scale), [[[0, 1, 0.5]]] * 2, atol=1e-7)


def test_zscore_gives_mean_0_and_deviation_1() -> None:
    raw = np.random.default_rng(0).normal(30, 5, (1, 50, 50))
    shown = normalise(raw, scale_of(raw, Normalization(kind="zscore")))
    inside = (shown > CLIP[0]) & (shown < CLIP[1])
    expected = (raw - raw.mean()) / raw.std()
    np.testing.assert_allclose(shown[inside], expected[inside], atol=1e-5)


def test_minmax_range_and_none() -> None:
    samples = np.array([[20, 120, 70]], np.uint8)
    assert scale_of(samples, Normalization(kind="minmax")) == IntensityScale(
        offset=(20.0,), scale=(100.0,)
    )
    assert scale_of(samples, Normalization(kind="range")).scale == (255.0,)
    assert scale_of(samples.astype(">u2"), Normalization(kind="range")).scale == (65535.0,)
    assert scale_of(samples / 255, Normalization(kind="range")).scale == (1.0,)
    assert scale_of(samples > 50, Normalization(kind="range")).scale == (1.0,)
    assert scale_of(samples, Normalization(kind="none")) == IntensityScale(
        offset=(0.0,), scale=(1.0,)
    )


@pytest.mark.parametrize("kind", ["percentile", "zscore", "minmax", "range", "none"])
@pytest.mark.parametrize("value", [0, 7, np.nan, np.inf])
def test_a_constant_channel_gives_finite_input(kind: Any, value: float) -> None:
    raw = np.full((1, 4, 4), value, np.float32)
    scale = scale_of(raw, Normalization(kind=kind))
    assert np.isfinite(scale.offset).all() and scale.scale == (1.0,)
    shown = normalise(raw, scale)
    assert np.isfinite(shown).all()
    assert np.unique(shown).size == 1


def test_what_is_not_a_number_does_not_count() -> None:
    finite = np.linspace(0, 10, 101)
    samples = np.concatenate([finite, [np.nan, np.inf, -np.inf]])[None]
    for kind in ("percentile", "zscore", "minmax"):
        normalization = Normalization(kind=kind)  # type: ignore[arg-type]
        assert scale_of(samples, normalization) == scale_of(finite[None], normalization)


def test_outliers_are_cut_and_not_a_number_is_0() -> None:
    raw = np.array([[[np.nan, np.inf, -np.inf, 1e6, -1e6, 0.25]]])
    shown = normalise(raw, IntensityScale(offset=(0.0,), scale=(1.0,)))
    assert shown.dtype == np.float32
    assert shown.ravel().tolist() == [0.0, CLIP[1], CLIP[0], CLIP[1], CLIP[0], 0.25]


@pytest.mark.parametrize(
    "dtype", ["bool", "u1", "i1", ">i2", "u4", "i8", "u8", "f2", ">f4", "f8", "g"]
)
def test_every_number_type_is_taken_and_left_alone(dtype: str) -> None:
    raw = (np.arange(24).reshape(2, 3, 4) % 2).astype(dtype)
    before = raw.copy()
    for normalization in (Normalization(kind="minmax"), Normalization()):
        summary = summary_of(raw.reshape(2, -1))
        assert summary.dtype == raw.dtype.newbyteorder("=")
        shown = normalise(raw, scale_of(summary, normalization))
        np.testing.assert_allclose(shown, before.astype(float), atol=1e-6)
    np.testing.assert_array_equal(raw, before)


FAR = {
    "u4": (4_000_000_000, 1),
    "i4": (-2_000_000_000, 2),
    "u8": (2**63, 2**50),
    "i8": (-(2**62), 2**40),
    "f4": (1e6, 0.5),
    "f8": (1e9, 1e-3),
    "tiny f8": (0, 1e-310),
    "tiny f4": (0, 1e-40),
    "huge f8": (0, 8e305),
    "huge f4": (0, 3e36),
    "huge g": (1e300, 1e298),
}


@pytest.mark.parametrize("kind", ["percentile", "zscore", "minmax"])
@pytest.mark.parametrize(("name", "place"), FAR.items(), ids=FAR)
def test_values_far_off_are_seen_as_near_ones_are(
    kind: Any, name: str, place: tuple[float, float]
) -> None:
    offset, step = place
    shades = np.random.default_rng(0).integers(-100, 100, (2, 30, 40))
    dtype = np.dtype(name.split()[-1])
    # Whole numbers stay whole: 2**63 plus an int64 would be a float64 of numpy's.
    as_number = dtype.type if dtype.kind == "f" else int
    raw = np.array([as_number(offset) + as_number(step) * as_number(n) for n in shades.ravel()])
    raw = raw.astype(dtype).reshape(shades.shape)
    normalization = Normalization(kind=kind)
    near, far = (scale_of(values, normalization) for values in (shades, raw))
    assert np.isfinite([*far.offset, *far.scale]).all()
    shown = normalise(raw, far)
    assert shown.dtype == np.float32
    np.testing.assert_allclose(shown, normalise(shades, near), atol=0.01)
    kept = scale_of(summary_of(raw.reshape(2, -1)), normalization)
    assert np.isfinite([*kept.offset, *kept.scale]).all()
    np.testing.assert_array_equal(normalise(raw[:, 3:9, 5:7], far), shown[:, 3:9, 5:7])


@pytest.mark.parametrize("kind", ["percentile", "zscore", "minmax", "range", "none"])
@pytest.mark.parametrize("dtype", ["i1", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "g"])
def test_the_ends_of_a_type_make_sense(dtype: str, kind: Any) -> None:
    about: Any = np.finfo(dtype) if np.dtype(dtype).kind == "f" else np.iinfo(dtype)
    raw = np.array([[about.min, about.max, 0, 1, about.min, about.max]], dtype)
    for values in (raw, raw[:, 2:3], raw[:, :1], raw[:, 1:2]):
        scale = scale_of(summary_of(values), Normalization(kind=kind))
        assert np.isfinite([*scale.offset, *scale.scale]).all() and scale.scale[0] > 0
        shown = normalise(values, scale)
        assert np.isfinite(shown).all()
    shown = normalise(raw, scale_of(raw, Normalization(kind=kind)))[0]
    assert shown[0] == shown[4] <= shown[2] <= shown[3] <= shown[1] == shown[5]
    assert kind == "none" or shown[0] < shown[1]


def test_a_span_beyond_float32_is_0_to_1() -> None:
    for dtype, end in (("f4", 3.4e38), ("f8", 1.7e308)):
        raw = np.linspace(-end / 2, end / 2, 101, dtype=dtype)[None] * 2
        scale = scale_of(raw, Normalization(kind="minmax"))
        np.testing.assert_allclose(scale.offset, -end, rtol=1e-6)
        if dtype == "f4":
            np.testing.assert_allclose(scale.scale, 2 * end, rtol=1e-6)
            np.testing.assert_allclose(normalise(raw, scale)[0], np.linspace(0, 1, 101), atol=1e-6)


def test_what_does_not_count_may_be_anywhere() -> None:
    raw = np.random.default_rng(0).random((2, 20, 20)).astype(np.float32)
    raw[1] = np.nan
    raw[0, 3] = np.inf
    scale = scale_of(summary_of(raw.reshape(2, -1)), Normalization())
    assert scale.offset[1] == 0 and scale.scale[1] == 1
    shown = normalise(raw, scale)
    assert (shown[1] == 0).all() and (shown[0, 3] == CLIP[1]).all()


def test_one_channel_is_shown_to_several() -> None:
    image = np.random.default_rng(0).random((1, 3, 4)).astype(np.float32)
    assert (match_channels(image, 3) == image).all()
    assert match_channels(image, 3).shape == (3, 3, 4)
    two = np.concatenate([image, image])
    assert match_channels(two, 2) is two
    assert match_channels(two, 3) is two


def test_a_summary_gives_the_same_scale_as_the_samples() -> None:
    samples = np.random.default_rng(0).gamma(2, 300, (2, 200_000)).astype(np.uint16)
    summary = summary_of(samples)
    assert summary.shape == (2, 1001)
    for normalization in (Normalization(), Normalization(kind="minmax")):
        exact, found = (scale_of(values, normalization) for values in (samples, summary))
        np.testing.assert_allclose(found.offset, exact.offset, atol=1)
        np.testing.assert_allclose(found.scale, exact.scale, rtol=0.01)


def test_a_summary_of_nothing_finite_is_zeros() -> None:
    assert (summary_of(np.full((1, 5), np.nan), 11) == np.zeros((1, 11))).all()


@pytest.mark.parametrize(
    "settings", [{"kind": "median"}, {"low": 60, "high": 40}, {"low": -1}, {"high": 101}]
)
def test_refuses_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(settings))):
        Normalization(**settings)


def test_the_range_of_a_type_is_that_of_the_raw_values():
    samples = np.array([[0, 100, 255]], np.uint8)
    plain = scale_of(samples, Normalization(kind="range", clip=None))
    cut = scale_of(samples, Normalization(kind="range", clip=None, raw_clip=((0.0, 200.0),)))
    assert plain.scale == cut.scale == (255.0,)
    assert cut.high == (200 / 255,)


def test_channels_have_scales_of_their_own():
    imagenet = Normalization(kind="range", offset=(0.4, 0.5), scale=(0.2, 0.25), clip=None)
    raw = np.array([[[51]], [[102]]], np.uint8)
    shown = normalise(raw, scale_of(raw.reshape(2, 1), imagenet, 2))
    np.testing.assert_allclose(shown.ravel(), [(0.2 - 0.4) / 0.2, (0.4 - 0.5) / 0.25], atol=1e-6)
    grey = normalise(raw[:1], scale_of(raw[:1].reshape(1, 1), imagenet, 2))
    np.testing.assert_allclose(grey.ravel(), [(0.2 - 0.4) / 0.2, (0.2 - 0.5) / 0.25], atol=1e-6)


def test_pixels_that_are_zero_need_not_count():
    raw = np.array([[0, 0, 0, 10, 20]], np.uint8)
    scale = scale_of(raw, Normalization(kind="zscore", nonzero=True, eps=1.0, clip=None))
    assert scale.offset == (15.0,)
    assert scale.scale == (6.0,)


def test_one_scale_for_all_channels():
    raw = np.array([[0, 10], [20, 30]], np.uint8)
    scale = scale_of(raw, Normalization(kind="minmax", joint=True, clip=None))
    assert scale.offset == (0.0, 0.0)
    assert scale.scale == (30.0, 30.0)
