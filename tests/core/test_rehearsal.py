"""Pictures to remember by: of the right form, scaled as the model wants it, always the same."""

import pytest
import torch

from napari_unet.core.device import choose_device
from napari_unet.core.model import Description, Model
from napari_unet.core.networks import UNet, UNetConfig
from napari_unet.core.normalization import Normalization
from napari_unet.core.rehearsal import RADII, rehearsal_images


def model_for(n_channels, dims=2, kind="percentile"):
    config = UNetConfig(dims=dims, in_channels=n_channels, widths=(4,))
    description = Description(
        name="m", dims=dims, in_channels=n_channels, normalization=Normalization(kind=kind)
    )
    return Model(
        network=UNet(config), architecture="unet", config=config, description=description,
        device=choose_device("cpu"), id="0",
    )  # fmt: skip


def test_gray_pictures_are_simulated():
    pictures = rehearsal_images(model_for(1))
    assert len(pictures) == len(RADII)
    for picture in pictures:
        assert picture.dtype == torch.float32
        assert picture.shape == (1, 320, 320)
        assert 0.005 < (picture <= 0).float().mean() < 0.05  # the lowest percent is 0
        assert picture.max() > 1
        assert picture.std() > 0.1


def test_colour_pictures_have_tissue_too():
    pictures = rehearsal_images(model_for(3))
    is_gray = [bool((picture[0] == picture[1]).all()) for picture in pictures]
    assert is_gray == [True] * len(RADII) + [False] * 4
    assert {tuple(picture.shape) for picture in pictures} == {(3, 320, 320)}


@pytest.mark.parametrize(("n_channels", "dims"), [(2, 2), (4, 2), (1, 3), (3, 3)])
def test_no_pictures_for_models_of_other_things(n_channels, dims):
    assert rehearsal_images(model_for(n_channels, dims)) == []


def test_they_are_the_same_every_time_and_belong_to_the_caller():
    model = model_for(3)
    first = rehearsal_images(model)
    copies = [picture.clone() for picture in first]
    for picture in first:
        picture.zero_()
    for again, copy in zip(rehearsal_images(model), copies, strict=True):
        assert torch.equal(again, copy)


def test_they_are_scaled_as_the_model_wants():
    scaled = rehearsal_images(model_for(1, kind="minmax"))
    for picture in scaled:
        assert (float(picture.min()), float(picture.max())) == (0.0, pytest.approx(1.0))
    for picture in rehearsal_images(model_for(1, kind="zscore")):
        # NOTE: outliers are cut, so that mean and deviation are a little off
        assert float(picture.mean()) == pytest.approx(0, abs=0.1)
