"""Small images with round objects, some of which touch."""

import numpy as np
import pytest

from napari_unet.core.datasets import of_arrays
from napari_unet.core.settings import AugmentationSettings
from napari_unet.core.training.settings import TrainSettings

STILL = AugmentationSettings(
    elastic_sigma=0, rotation=0, scale=1, flips=False, brightness=0, contrast=0, gamma=1, noise=0
)
"""Patches as they are."""


@pytest.fixture
def still():
    return STILL


@pytest.fixture
def make_image():
    """Makes an image `(y, x)` uint16 and its objects: discs of radius 6, two of which touch."""

    def make(seed=0, size=48):
        random = np.random.default_rng(seed)
        y, x = np.mgrid[:size, :size]
        labels = np.zeros((size, size), np.uint16)
        centers = [(10, 10), (10, 22), (*random.integers(28, size - 8, 2),)]
        for number, (cy, cx) in enumerate(centers, start=1):
            labels[(y - cy) ** 2 + (x - cx) ** 2 <= 36] = number
        image = np.where(labels > 0, 900, 200) + random.normal(0, 30, labels.shape)
        return image.clip(0).astype(np.uint16), labels

    return make


@pytest.fixture
def make_pairs(make_image):
    """Makes pairs of a dataset of such images."""

    def make(n=5, size=48):
        return of_arrays([make_image(seed, size) for seed in range(n)]).pairs

    return make


@pytest.fixture
def make_settings():
    """Makes settings of a training that takes no time."""

    def make(**changes):
        return TrainSettings(
            **{"width": 2, "steps": 6, "patch_size": 32, "batch_size": 2, **changes}
        )

    return make
