"""The sample images: napari takes them, and what needs the internet says so."""

import subprocess
import sys

import numpy as np
import pytest
from napari.layers import Image, Labels, Layer

from napari_unet import samples
from napari_unet.core.errors import ImageError


def layers_of(layer_data):
    return [Layer.create(*one) for one in layer_data]


def test_stained_tissue_is_rgb_and_works_offline():
    (layer,) = layers_of(samples.stained_tissue())
    assert isinstance(layer, Image)
    assert layer.rgb
    assert layer.data.shape == (512, 512, 3)
    assert layer.data.dtype == np.uint8
    assert layer.name == "stained tissue"
    assert layer.axis_labels == ("y", "x")
    assert "skimage.data.immunohistochemistry" in layer.metadata["source"]
    assert layer.metadata["licence"] == "no known copyright restrictions"


def test_simulated_nuclei_come_with_a_hidden_truth():
    image, truth = layers_of(samples.simulated_nuclei())
    assert isinstance(image, Image)
    assert isinstance(truth, Labels)
    assert image.visible
    assert not truth.visible
    assert "truth" in truth.name
    assert image.data.shape == truth.data.shape
    assert truth.data.max() > 50
    inside = image.data[truth.data > 0]
    assert np.median(inside) > 2 * np.median(image.data[truth.data == 0])


def test_cells_are_split_into_channels_with_their_scale(monkeypatch):
    cells = np.arange(3 * 2 * 4 * 5, dtype=np.uint16).reshape(3, 2, 4, 5)  # (z, c, y, x)
    monkeypatch.setattr("skimage.data.cells3d", lambda: cells)
    membranes, nuclei = layers_of(samples.cells_3d())
    np.testing.assert_array_equal(membranes.data, cells[:, 0])
    np.testing.assert_array_equal(nuclei.data, cells[:, 1])
    for layer, word in ((membranes, "membranes"), (nuclei, "nuclei")):
        assert word in layer.name
        np.testing.assert_array_equal(layer.scale, (0.29, 0.26, 0.26))
        assert [str(unit) for unit in layer.units] == ["micrometer"] * 3
        assert layer.axis_labels == ("z", "y", "x")
        assert set(layer.metadata) == {"source", "licence"}


def test_nuclei(monkeypatch):
    monkeypatch.setattr("skimage.data.human_mitosis", lambda: np.zeros((6, 7), np.uint8))
    (layer,) = layers_of(samples.nuclei())
    assert layer.name == "nuclei"
    assert layer.data.shape == (6, 7)
    assert layer.metadata["licence"] == "CC0-1.0"


@pytest.mark.parametrize(
    "error",
    [ConnectionError("gitlab"), TimeoutError(), ValueError("hash"), ModuleNotFoundError("pooch")],
)
@pytest.mark.parametrize(
    ("sample", "function"), [("nuclei", "human_mitosis"), ("cells_3d", "cells3d")]
)
def test_no_internet_is_said_in_a_sentence(monkeypatch, error, sample, function):
    def no_internet():
        raise error

    monkeypatch.setattr(f"skimage.data.{function}", no_internet)
    with pytest.raises(ImageError, match="could not be fetched from the internet") as caught:
        getattr(samples, sample)()
    message = str(caught.value)
    assert type(error).__name__ in message
    assert "'Stained tissue' or 'Simulated nuclei'" in message
    assert caught.value.__cause__ is error


def test_opening_a_sample_imports_no_torch():
    script = (
        "import sys; from napari_unet import samples; "
        "samples.simulated_nuclei(); samples.stained_tissue(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
