"""Scores on held-out images, what is measured of them, and how long it may take."""

import numpy as np
import pytest
import torch
from torch import nn

from napari_unet.core.engine.fitting import Fit
from napari_unet.core.model import Description
from napari_unet.core.normalization import Normalization
from napari_unet.core.settings import ObjectSettings
from napari_unet.core.training.measuring import MAX_PICTURES, Measurer, _affordable
from napari_unet.core.training.outputs import outputs_for
from napari_unet.core.training.pictures import pictures_of
from napari_unet.core.training.settings import TrainSettings

FIT = Fit(base=(16, 16), stride=(16, 16), margin=(0, 0))
ABOUT = Description(name="a", objects=ObjectSettings(min_size=5, split=0))


class Bright(nn.Module):
    """An object is whatever is brighter than half of the range."""

    def __init__(self, turn=1.0):
        super().__init__()
        self.turn = turn

    def forward(self, image):
        logits = 50 * self.turn * (image - 0.5)
        return torch.cat([-logits, logits], dim=1)


def measurer(pairs, n_trained=10**9, about=ABOUT, **changes):
    settings = TrainSettings(precision="full", **changes).completed({})
    n = len(about.class_names)
    pictures = list(pictures_of(pairs, settings, outputs_for(settings, n), Normalization(), 1))
    return Measurer(pictures, settings, about, FIT, n_trained, torch.device("cpu"))


@pytest.fixture
def apart(make_image):
    """Pairs without touching objects: a network can find them all."""
    from napari_unet.core.datasets import of_arrays

    given = []
    for seed in range(3):
        image, labels = make_image(seed, 50)
        image[labels == 2], labels[labels == 2] = 200, 0
        given.append((image, labels))
    return of_arrays(given).pairs


def test_a_perfect_network(apart):
    found = measurer(apart).measure(Bright())
    assert found.scores == {"iou": 1.0, "f1": 1.0}
    assert found.sample.truth.max() == 3 and found.sample.predicted.max() == 2
    np.testing.assert_array_equal(found.sample.truth > 0, found.sample.predicted > 0)
    assert found.sample.image.dtype == np.uint16
    assert found.sample.key == "image 1"


def test_a_network_that_is_always_wrong(apart):
    assert measurer(apart).measure(Bright(-1)).scores == {"iou": 0.0, "f1": 0.0}


def test_classes_have_no_objects(apart, monkeypatch):
    for pair in apart:
        pair.labels._labels = None
    from napari_unet.core.datasets import of_arrays

    given = [(np.asarray(pair.image.array), np.asarray(pair.image.array) > 500) for pair in apart]
    found = measurer(of_arrays(given).pairs, what="classes")
    assert found.score_name == "iou"
    assert found.measure(Bright()).scores == {"iou": 1.0}


def test_what_is_not_known_does_not_count(apart):
    from napari_unet.core.datasets import Pair

    pair = apart[0]
    labels = np.asarray(pair.labels).astype(np.int32)
    labels[labels == 1] = -1
    wrong = Pair(key="a", group="a", image=pair.image, labels=labels)
    found = measurer([wrong]).measure(Bright())
    assert found.scores == {"iou": 1.0, "f1": 1.0}


def test_nothing_held_out():
    found = measurer([])
    assert found.n_pictures == 0
    assert found.measure(Bright()).scores == {}


def test_measuring_costs_a_share_of_training():
    class Sized:
        def __init__(self, *shape):
            self.shape = shape

    big = [Sized(2000, 2000)] * 40
    for n_px, most in ((10**9, MAX_PICTURES * 1024**2), (8 * 10**6, 8 * 10**6), (0, 8 * 128**2)):
        chosen, size = _affordable(big, 2, n_px)
        assert 0 < len(chosen) * np.prod(size) <= 1.05 * most
        assert min(size) >= 128 and max(size) <= 1024
    assert _affordable([], 2, 100)[0] == []
    few = [Sized(100, 100)] * 3
    assert len(_affordable(few, 2, 10**6)[0]) == 3
    chosen, size = _affordable([Sized(100, 800, 800)] * 4, 3, 10**6)
    assert len(size) == 3 and np.prod(size) * len(chosen) <= 1.2 * 10**6
