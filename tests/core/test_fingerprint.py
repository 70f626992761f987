"""The statistics that a network keeps tell how the images looked that it was trained on."""

import numpy as np
import pytest
import torch
from torch import nn

from napari_unet.core.checkpoints.normalizations import NORMALIZATIONS, normalization_words
from napari_unet.core.device import choose_device
from napari_unet.core.errors import ModelFileError
from napari_unet.core.fingerprint import (
    STRANGE,
    guess_normalization,
    guess_option,
    has_fingerprint,
    mismatch,
)
from napari_unet.core.image import make_image
from napari_unet.core.model import Description, Model, load_model, weights_id
from napari_unet.core.networks import UNet, UNetConfig
from napari_unet.core.normalization import Normalization, match_channels, normalise, scale_of
from napari_unet.core.simulation import SimulationSettings, simulate


def picture(seed, peak=255):
    """A simulated field of nuclei, uint16 `(y, x)`, as a camera gives it."""
    raw = simulate(SimulationSettings(size=192, n_nuclei=30), seed).image.astype(np.float64)
    return (raw / raw.max() * peak).astype(np.uint16 if peak > 255 else np.uint8)


def trained(normalization, n_channels=1):
    """A U-Net whose statistics are those of pictures prepared in one way."""
    torch.manual_seed(0)
    config = UNetConfig(in_channels=n_channels, widths=(6, 12, 12))
    network = UNet(config).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all that it has seen
    with torch.no_grad():
        for seed in range(6):
            raw = picture(seed)[None]
            scale = scale_of(raw, normalization, n_channels)
            network(torch.from_numpy(match_channels(normalise(raw, scale), n_channels))[None])
    network.eval().requires_grad_(False)
    about = Description(
        name="fingerprint", in_channels=n_channels, assumed=("normalization",),
        normalization=Normalization(),
    )  # fmt: skip
    return Model(
        network=network, architecture="unet", config=config, description=about,
        device=choose_device("cpu"), id=weights_id(network),
    )  # fmt: skip


@pytest.mark.parametrize("key", ["range", "zscore", "minmax", "percentile", "none", "centred"])
def test_the_right_way_is_found(key):
    model = trained(NORMALIZATIONS[key][0])
    proposal = guess_normalization(model, make_image(picture(99), "yx"))
    twins = {"range": {"range", "divide-255"}}.get(key, {key})
    near = {"minmax": {"minmax", "percentile"}, "percentile": {"minmax", "percentile"}}
    assert proposal.guesses[0].value in twins | near.get(key, set())
    right = next(guess for guess in proposal.guesses if guess.value == key)
    assert right.score < 0.7
    assert not proposal.is_strange


def test_what_is_right_already_is_left_alone():
    model = trained(NORMALIZATIONS["zscore"][0])
    model = model.described(normalization=NORMALIZATIONS["zscore"][0])
    proposal = guess_normalization(model, make_image(picture(99), "yx"))
    assert proposal.best is None
    assert "fits this image" in proposal.sentence()


def test_a_better_way_is_proposed_in_words():
    model = trained(NORMALIZATIONS["zscore"][0])
    model = model.described(normalization=NORMALIZATIONS["none"][0])
    proposal = guess_normalization(model, make_image(picture(99), "yx"))
    assert proposal.best is not None
    assert proposal.best.value.startswith("zscore")
    assert "standard deviation 1" in proposal.sentence()


def test_an_image_like_none_before_is_called_strange():
    model = trained(NORMALIZATIONS["range"][0])
    checks = np.indices((192, 192)).sum(axis=0) % 2 * 255
    proposal = guess_normalization(model, make_image(checks.astype(np.uint8), "yx"))
    assert proposal.is_strange
    assert min(guess.score for guess in proposal.guesses) > STRANGE
    assert "nothing that the network has seen" in proposal.sentence()


def test_means_of_colours_are_for_networks_that_take_colours():
    image = make_image(np.stack([picture(99)] * 3, axis=-1), "yxc")
    keys = {
        n: {guess.value for guess in guess_normalization(trained(Normalization(), n), one).guesses}
        for n, one in ((1, make_image(picture(99), "yx")), (3, image))
    }
    assert "imagenet" in keys[3] - keys[1]


def test_a_stack_is_looked_at_in_its_middle():
    model = trained(NORMALIZATIONS["range"][0])
    stack = np.stack([np.zeros_like(picture(0)), picture(99), np.zeros_like(picture(0))])
    alone = guess_normalization(model, make_image(picture(99), "yx"))
    within = guess_normalization(model, make_image(stack, "zyx"))
    assert within.guesses[0].value in ("range", "divide-255")
    assert abs(within.guesses[0].score - alone.guesses[0].score) < 0.2


def test_a_tiny_image_and_an_even_one_do_no_harm():
    model = trained(Normalization())
    for array in (np.zeros((1, 1), np.uint8), np.full((5, 300), 7, np.uint16)):
        scores = [g.score for g in guess_normalization(model, make_image(array, "yx")).guesses]
        assert np.isfinite(scores).all()


def test_the_network_is_left_as_it_was():
    model = trained(Normalization())
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    guess_normalization(model, make_image(picture(99), "yx"))
    assert not any(module._forward_pre_hooks for module in model.network.modules())
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, before[name])


def test_without_statistics_nothing_can_be_worked_out(tiny_model):
    assert not has_fingerprint(tiny_model)
    with pytest.raises(ModelFileError, match="no batch normalisation"):
        guess_normalization(tiny_model, make_image(picture(0), "yx"))


def test_the_score_is_the_formula():
    norm = nn.BatchNorm2d(1).eval()
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(4.0)
    image = torch.tensor([[[0.0, 2.0], [0.0, 2.0]]])  # mean 1, variance 1
    expected = abs(np.log((1 + norm.eps) / (4 + norm.eps)))
    assert mismatch(nn.Sequential(norm), [image]) == pytest.approx(expected, rel=1e-6)
    shifted = abs(3 / np.sqrt(4 + norm.eps)) + expected
    assert mismatch(nn.Sequential(norm), [image + 3]) == pytest.approx(shifted, rel=1e-6)


def test_options_of_the_network_are_ranked_too(tmp_path):
    from pathlib import Path

    path = Path(__file__).parents[1] / "fixtures" / "checkpoints" / "jvanvugt"
    model = load_model(path / "valid_norm_upsample.pt", "cpu")
    image = make_image(np.stack([picture(9)] * 3), "cyx")
    proposal = guess_option(model, image, "padding")
    assert {guess.value for guess in proposal.guesses} == {"valid", "same"}


def test_every_way_has_words_of_its_own():
    words = [text for _, text in NORMALIZATIONS.values()]
    assert len(set(words)) == len(words)
    for normalization, text in NORMALIZATIONS.values():
        assert normalization_words(normalization) == text
    other = Normalization(
        kind="zscore", raw_clip=((-100.0, 400.0),), nonzero=True, joint=True, offset=(1.0,),
        scale=(2.0,), clip=(-3.0, 3.0),
    )  # fmt: skip
    for part in ("-100", "400", "not 0", "together", "minus 1", "divided by 2", "-3 and 3"):
        assert part in normalization_words(other)
