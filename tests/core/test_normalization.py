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


@pytest.mark.parametrize("dtype", ["bool", "u1", "i1", ">i2", "u4", "i8", "f2", ">f4", "f8"])
def test_every_number_type_is_taken_and_left_alone(dtype: str) -> None:
    raw = (np.arange(24).reshape(2, 3, 4) % 2).astype(dtype)
    before = raw.copy()
    for normalization in (Normalization(kind="minmax"), Normalization()):
        summary = summary_of(raw.reshape(2, -1))
        assert summary.dtype == raw.dtype.newbyteorder("=")
        shown = normalise(raw, scale_of(summary, normalization))
        np.testing.assert_allclose(shown, before.astype(float), atol=1e-6)
    np.testing.assert_array_equal(raw, before)


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
