"""FCN-32s, FCN-16s and FCN-8s: figures of the paper, and what skips and upsampling do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from encoder_checks import (
    check_engine,
    check_preset,
    furthest,
    n_parameters,
    picture,
    reach_of,
)
from originals import image_for, import_smp, randomised
from torch import nn

from napari_unet.core.errors import ImageError, SettingsError
from napari_unet.core.losses import class_log_probabilities, masked_cross_entropy
from napari_unet.core.networks import Wanted, preset_of
from napari_unet.core.networks.fcn import FCN, FCNConfig, bilinear
from napari_unet.core.training.settings import TrainSettings

STRIDES = {"fcn-32s": 32, "fcn-16s": 16, "fcn-8s": 8}
TRUNK = 14_714_688
FC6, FC7 = 512 * 49 * 4096 + 4096, 4096 * 4096 + 4096


def small(**about: Any) -> FCN:
    """A small one with weights that matter, in evaluation mode."""
    network = randomised(FCN(FCNConfig(width=2, **about)))
    assert isinstance(network, FCN)
    return network


@pytest.mark.parametrize("name", [*STRIDES, "fcn-8s-bn"])
def test_shapes_gradients_files_and_copies(name: str) -> None:
    wanted = Wanted(in_channels=3, out_channels=4, width=2)
    check_preset(preset_of(name), wanted, (64, 32), (32, 96))


def test_parameters_are_those_of_the_paper() -> None:
    assert FC6 + FC7 == 119_545_856
    scores = 4096 * 21 + 21
    assert n_parameters("fcn-32s", in_channels=3, out_channels=21) == TRUNK + FC6 + FC7 + scores
    fourth = 512 * 21 + 21 + 21 * 21 * 16
    third = 256 * 21 + 21 + 21 * 21 * 16
    assert n_parameters("fcn-16s", in_channels=3, out_channels=21) == 134_346_581 + fourth
    assert n_parameters("fcn-8s", in_channels=3, out_channels=21) == 134_346_581 + fourth + third


def test_the_trunk_is_vgg_16() -> None:
    import_smp()
    from torchvision import models

    with torch.device("meta"):
        found = FCN(FCNConfig(in_channels=3)).encoder.state_dict()
        wanted = models.vgg16().features.state_dict()
        normed = FCN(FCNConfig(in_channels=3, norm="batch")).encoder.state_dict()
        wanted_normed = models.vgg16_bn().features.state_dict()
    for own, theirs in ((found, wanted), (normed, wanted_normed)):
        shapes = {name.removeprefix("features."): value.shape for name, value in own.items()}
        assert shapes == {name: value.shape for name, value in theirs.items()}
    assert sum(value.numel() for value in found.values()) == TRUNK


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_engine_gives_the_same(stride: Any, norm: Any) -> None:
    network = small(stride=stride, norm=norm, out_channels=3)
    plan = check_engine(network, picture(1, 75, 101), 32)
    assert plan.name == "row by row"


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_the_halo_is_exact(stride: Any) -> None:
    network = small(stride=stride)
    # Half of the 404 px that the paper gives as the receptive field, and half a block of scores.
    assert reach_of(network) == furthest(network, 32, 19) == 202 + 16


def test_it_begins_as_fcn_32s() -> None:
    torch.manual_seed(0)
    fine = FCN(FCNConfig(width=2, stride=8)).eval()
    coarse = FCN(FCNConfig(width=2, stride=32)).eval()
    shared = {name: v for name, v in fine.state_dict().items() if name != "last.weight"}
    coarse.load_state_dict(shared, strict=False)
    image = image_for(1, 96, 96)
    with torch.no_grad():
        found, wanted = fine(image), coarse(image)
    assert found.std() > 1e-3
    # Linear steps of 2, 2 and 8 are not quite one of 32.
    assert float((found - wanted).abs().mean()) < 0.2 * float(wanted.std())


def test_scores_of_pooled_layers_are_added() -> None:
    network = FCN(FCNConfig(width=2)).eval()
    image = image_for(1, 128, 128)
    with torch.no_grad():
        before = network(image)
        for score, value in zip(network.pooled_scores, (0.5, 0.25), strict=True):
            score.bias.fill_(value)
        shift = network(image) - before
    inner = shift[..., 32:96, 32:96]  # beyond the border there are zeros
    torch.testing.assert_close(inner, torch.full_like(inner, 0.75))


@pytest.mark.parametrize("stride", [16, 8])
def test_scores_of_pooled_layers_see_finer(stride: Any) -> None:
    """FCN-16s adds scores of the fourth pooled layer, FCN-8s those of the third as well."""
    network = small(stride=stride)
    seen: list[tuple[int, ...]] = []
    for score in network.pooled_scores:
        score.register_forward_hook(lambda _, given, out: seen.append(tuple(out.shape[2:])))
    network(image_for(1, 64, 96))
    assert seen == [(4, 6), (8, 12)][: len(seen)]
    assert len(seen) == {16: 1, 8: 2}[stride]


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_upsampling_begins_as_linear_interpolation(factor: int) -> None:
    x = image_for(1, 6, 7)
    found = nn.functional.conv_transpose2d(
        x, bilinear(factor)[None, None], stride=factor, padding=factor // 2
    )
    wanted = nn.functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    rim = factor  # beyond the border there are zeros
    torch.testing.assert_close(found[..., rim:-rim, rim:-rim], wanted[..., rim:-rim, rim:-rim])


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("size", [(64, 64), (75, 101), (33, 7)])
def test_the_padding_of_the_authors_takes_any_size(stride: Any, size: tuple[int, int]) -> None:
    network = small(stride=stride, padding="100")
    with torch.no_grad():
        assert network(image_for(1, *size)).shape == (1, 2, *size)


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("padding", ["same", "100"])
def test_the_result_lies_where_the_image_lies(stride: Any, padding: Any) -> None:
    """All that is cut off is cut off at the right place: what a px matters to is around it."""
    network = small(stride=stride, padding=padding)
    moves = []
    for at in range(288, 320):
        image = image_for(1, 32, 608)
        image[..., at] = torch.nan
        with torch.no_grad():
            touched = network(image)[0].isnan().any(dim=0).any(dim=0).nonzero()
        moves.append(float(touched.min() + touched.max()) / 2 - at)
    assert abs(sum(moves) / len(moves)) <= 0.5


def test_it_learns_from_scratch() -> None:
    """Without the weights of VGG-16, and without a batch norm."""
    torch.manual_seed(0)
    network = FCN(FCNConfig(width=4, dropout=0.0)).train()
    image = image_for(1, 64, 64)
    target = (torch.arange(64) // 16 % 2).expand(1, 64, 64).to(torch.uint8)
    image = image + 2 * target[:, None]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(30):
        log_probabilities = class_log_probabilities(network(image), (0, 1))
        loss = masked_cross_entropy(log_probabilities, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 < 0.5 < losses[0]


def test_the_recipe_is_one_that_learns_from_scratch() -> None:
    for name in STRIDES:
        settings = TrainSettings(network=name).completed(preset_of(name).recipe)
        assert (settings.optimizer, settings.learning_rate) == ("adam", 1e-4)
        assert settings.normalization == "zscore"
    assert preset_of("fcn-8s-bn").recipe == {}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"dims": 3}, "dims must be 2"),
        ({"in_channels": 0}, "in_channels"),
        ({"stride": 4}, "stride must be 8, 16 or 32"),
        ({"width": 0}, "width"),
        ({"norm": "layer"}, "norm"),
        ({"padding": "valid"}, "padding"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_what_cannot_be_built_is_said(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        FCNConfig(**settings)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ImageError, match="multiples of 32 px, but this one has 40 × 64 px"):
        small()(image_for(1, 40, 64))
    with pytest.raises(SettingsError, match="2D"):
        preset_of("fcn-8s").build(Wanted(dims=3))
