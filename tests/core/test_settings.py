"""Settings refuse what makes no sense, and the sentence names the field."""

from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest

from napari_unet.core.errors import SettingsError, UNetLiveError
from napari_unet.core.settings import (
    AugmentationSettings,
    FineTuneSettings,
    ObjectSettings,
    SegmentSettings,
)

KINDS = [AugmentationSettings, FineTuneSettings, ObjectSettings, SegmentSettings]
NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_valid_and_frozen(kind):
    settings = kind()
    assert settings == kind()
    with pytest.raises(FrozenInstanceError):
        setattr(settings, fields(kind)[0].name, 1)
    with pytest.raises(TypeError):
        kind(1)


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        (ObjectSettings, "threshold", (0, 1, -0.5, NAN)),
        (ObjectSettings, "min_size", (-1, 2.5, NAN)),
        (ObjectSettings, "split", (-0.1, 1.1, NAN)),
        (SegmentSettings, "what", ("pixels", "", None)),
        (SegmentSettings, "tile_size", (0, 15, -64, 64.5)),
        (SegmentSettings, "threshold", (0, 1, NAN)),
        (SegmentSettings, "min_size", (-1, 0.5)),
        (SegmentSettings, "split", (2, -1)),
        (AugmentationSettings, "elastic_points", (1, 0, 3.5)),
        (AugmentationSettings, "scale", (0.9, NAN, INFINITY)),
        (AugmentationSettings, "gamma", (0, NAN, INFINITY)),
        *(
            (AugmentationSettings, name, (-0.1, NAN, INFINITY))
            for name in (
                "elastic_sigma", "rotation", "brightness", "contrast", "noise", "blur", "color",
                "gray", "invert",
            )
        ),
        (FineTuneSettings, "steps", (0, -5, 1.5, "20", NAN)),
        (FineTuneSettings, "patch_size", (15, 100.5)),
        (FineTuneSettings, "batch_size", (0, 2.0)),
        (FineTuneSettings, "seed", (-1, 0.5, 2**63)),
        (FineTuneSettings, "learning_rate", (0, -1, 1.01, NAN, INFINITY)),
        (FineTuneSettings, "memory", (-0.1, 1.1, NAN)),
        (FineTuneSettings, "held_out", (-0.1, 1, NAN)),
    ],
)  # fmt: skip
def test_nonsense_is_refused_by_name(kind, name, values):
    for value in values:
        with pytest.raises(SettingsError, match=name) as caught:
            kind(**{name: value})
        assert isinstance(caught.value, UNetLiveError)
        assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (ObjectSettings, {"threshold": 0.001, "min_size": 0, "split": 0}),
        (ObjectSettings, {"threshold": 0.999, "split": 1}),
        (SegmentSettings, {"what": "classes", "tile_size": 16}),
        (FineTuneSettings, {"steps": 1, "batch_size": 1, "patch_size": 16, "held_out": 0}),
        (FineTuneSettings, {"memory": 0, "seed": 2**63 - 1}),
        (FineTuneSettings, {"steps": np.int64(3), "memory": np.float32(0.5)}),
        (AugmentationSettings, {"scale": 1, "gamma": 1, "elastic_sigma": 0, "rotation": 0}),
    ],
)
def test_the_limits_themselves_are_valid(kind, changes):
    assert all(getattr(kind(**changes), name) == value for name, value in changes.items())


def test_what_the_user_did_not_choose_comes_from_the_model():
    model = ObjectSettings(threshold=0.3, min_size=9, split=0.1)
    assert SegmentSettings().objects(model) == model
    assert SegmentSettings(min_size=0).objects(model) == replace(model, min_size=0)
    assert SegmentSettings(split=0.0, threshold=0.9).objects(model) == ObjectSettings(
        threshold=0.9, min_size=9, split=0.0
    )
