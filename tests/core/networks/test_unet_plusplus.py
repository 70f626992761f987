"""U-Net++: nodes, outputs and weights as in the papers, and what is left after pruning."""

from __future__ import annotations

import re
from typing import Any, Literal

import pytest
import torch
from originals import image_for, largest_difference, randomised
from torch import nn
from unet_checks import check_engine, check_stands_alone, n_parameters, on_meta, picture

from napari_unet.core.checkpoints.families.nested_unet import NestedConfig, NestedUNet
from napari_unet.core.errors import SettingsError
from napari_unet.core.networks import DeeplySupervised, Wanted, preset_of
from napari_unet.core.networks.unet_plusplus import UNetPlusPlus, UNetPlusPlusConfig, pruned
from napari_unet.core.training.settings import TrainSettings

SMALL = UNetPlusPlusConfig(widths=(2, 3, 4, 5), out_channels=3)
PAPER = UNetPlusPlusConfig(out_channels=1)


def small(**about: Any) -> UNetPlusPlus:
    network = UNetPlusPlus(
        UNetPlusPlusConfig(**{"widths": (2, 3, 4, 5), "out_channels": 3} | about)
    )
    randomised(network)
    return network


@pytest.mark.parametrize(("supervised", "n"), [(False, 9_041_601), (True, 9_041_700)])
def test_it_has_as_many_weights_as_in_the_paper(supervised: bool, n: int) -> None:
    config = UNetPlusPlusConfig(out_channels=1, deep_supervision=supervised)
    with torch.device("meta"):
        assert n_parameters(UNetPlusPlus(config)) == n  # 9.04 M
    assert n_parameters(on_meta(preset_of("unet++"), Wanted(out_channels=1))) == 9_041_700


def test_every_node_sees_all_to_its_left_and_the_one_below() -> None:
    widths = (32, 64, 128, 256, 512)
    with torch.device("meta"):
        network = UNetPlusPlus(PAPER)
    assert set(network.nodes) == {f"{i}_{j}" for i in range(4) for j in range(1, 5 - i)}
    for name, node in network.nodes.items():
        i, j = map(int, name.split("_"))
        up, first, second = node.up, node.conv[0], node.conv[2]
        assert (up.in_channels, up.out_channels, up.stride) == (widths[i + 1], widths[i], (2, 2))
        assert (first.in_channels, first.out_channels) == ((j + 1) * widths[i], widths[i])
        assert (second.in_channels, second.out_channels) == (widths[i], widths[i])


@pytest.mark.parametrize("supervised", [True, False])
def test_it_is_the_one_that_others_built(supervised: bool) -> None:
    """The copy most files come from enlarges between corners, and its biases do nothing more."""
    widths = (3, 4, 5, 6)
    original = NestedUNet(
        NestedConfig(in_channels=2, out_channels=2, widths=widths, supervised=supervised)
    )
    original.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    randomised(original)
    weights = {}
    for name, value in original.state_dict().items():
        if re.search(r"conv\d\.bias", name):
            value.zero_()  # ours has none before a batch norm
            continue
        weights[_our_name(name)] = value
    config = UNetPlusPlusConfig(
        in_channels=2, widths=widths, norm="batch", upsampling="linear", deep_supervision=False
    )
    network = UNetPlusPlus(config).eval()
    network.load_state_dict(weights, strict=True)
    assert largest_difference(network, original, image_for(2, 24, 40)) < 1e-5


def _our_name(name: str) -> str:
    name = re.sub(r"^final(\d?)", "heads.3", name)
    name = re.sub(r"^conv(\d)_0\.", r"encoder.\1.", name)
    name = re.sub(r"^conv(\d_\d)\.", r"nodes.\1.conv.", name)
    places = {"conv1": "0", "bn1": "1", "conv2": "3", "bn2": "4"}
    return re.sub(r"\.(conv\d|bn\d)\.", lambda found: f".{places[found[1]]}.", name)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("upsampling", ["transposed", "linear"])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_outputs_are_as_large_as_the_input(dims: Literal[2, 3], upsampling: Any, norm: Any) -> None:
    network = small(dims=dims, in_channels=2, norm=norm, upsampling=upsampling)
    image = torch.rand(2, 2, *(8, 16, 24)[:dims])
    with torch.no_grad():
        assert network(image).shape == (2, 3, *image.shape[2:])
        assert [one.shape for one in network.all_logits(image)] == [(2, 3, *image.shape[2:])] * 3


def test_the_output_is_the_mean_of_all_or_the_last_one() -> None:
    network, image = small(), image_for(1, 16, 24)
    assert isinstance(network, DeeplySupervised)
    last = UNetPlusPlus(UNetPlusPlusConfig(widths=(2, 3, 4, 5), out_channels=3, output="last"))
    last.load_state_dict(network.state_dict())
    with torch.no_grad():
        found = network.all_logits(image)
        torch.testing.assert_close(network(image), torch.stack(found).mean(0))
        assert torch.equal(last(image), found[-1])
    assert len({float(one.sum()) for one in found}) == 3


@pytest.mark.parametrize(("dims", "norm"), [(2, "none"), (2, "batch"), (3, "none")])
def test_a_pruned_network_gives_the_same_with_less(
    dims: Literal[2, 3], norm: Literal["none", "batch"]
) -> None:
    network, image = small(dims=dims, norm=norm), image_for(1, *(16, 24, 8)[:dims])
    sizes = []
    for level in (1, 2, 3):
        short = pruned(network, level)
        with torch.no_grad():
            assert torch.equal(short(image), network.all_logits(image)[level - 1])
            assert len(short.all_logits(image)) == 1
        assert len(short.encoder) == level + 1
        assert len(short.nodes) == level * (level + 1) // 2
        sizes.append(n_parameters(short))
    assert sizes == sorted(set(sizes))
    assert sizes[0] < sizes[-1] / 3
    assert sizes[-1] < n_parameters(network)  # which has more outputs


def test_a_pruned_network_takes_images_that_the_whole_one_does_not() -> None:
    short = pruned(small(), 1)
    with torch.no_grad():
        assert short(torch.rand(1, 1, 10, 6)).shape == (1, 3, 10, 6)


def test_a_pruned_network_shares_nothing_with_the_whole_one() -> None:
    network, image = small(), image_for(1, 16, 16)
    short = pruned(network, 2)
    assert not short.training
    with torch.no_grad():
        expected = short(image)
        for weights in network.parameters():
            weights.zero_()
        assert torch.equal(short(image), expected)
    check_stands_alone("unet++", short.config, image)


def test_only_where_there_is_an_output_it_can_be_cut_off() -> None:
    with pytest.raises(SettingsError, match="no output at level 2, only at 3"):
        pruned(small(deep_supervision=False), 2)
    with pytest.raises(SettingsError, match="only at 1, 2, 3"):
        pruned(small(), 4)


def test_every_output_alone_trains_the_weights_it_needs() -> None:
    network = small(norm="batch").train()
    image = image_for(1, 32, 32)
    for level, logits in enumerate(network.all_logits(image), start=1):
        network.zero_grad()
        (logits * torch.randn(logits.shape)).sum().backward(retain_graph=True)
        moved = {name for name, p in network.named_parameters() if p.grad is not None}
        assert moved == set(dict(pruned(network, level).named_parameters()))


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_reach_every_weight(dims: Literal[2, 3], norm: Any) -> None:
    network = small(dims=dims, norm=norm).train()
    image = image_for(1, *(16,) * dims).requires_grad_()
    (network(image) ** 2).sum().backward()
    for name, weights in network.named_parameters():
        assert weights.grad is not None and float(weights.grad.abs().max()) > 1e-6, name
    assert image.grad is not None and float(image.grad.abs().min()) > 0


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"norm": "batch", "upsampling": "linear"},
        {"output": "last", "in_channels": 2},
        {"deep_supervision": False, "prune": 2},
    ],
)
def test_the_engine_gives_what_the_whole_image_gives(about: dict[str, Any]) -> None:
    network = small(**about)
    check_engine(network, picture(about.get("in_channels", 1), 61, 45), 1 << network.config.depth)


def test_the_engine_gives_what_the_whole_volume_gives() -> None:
    check_engine(small(dims=3, widths=(2, 2, 3)), picture(1, 9, 22, 17), 4)


@pytest.mark.parametrize(
    "config", [SMALL, UNetPlusPlusConfig(dims=3, widths=(2, 2), norm="batch", output="last")]
)
def test_it_stands_alone(config: UNetPlusPlusConfig) -> None:
    check_stands_alone("unet++", config, image_for(1, *(16,) * config.dims))


def test_weights_are_drawn_as_by_he() -> None:
    torch.manual_seed(0)
    network = UNetPlusPlus(UNetPlusPlusConfig(widths=(16, 32)))
    weight = network.nodes["0_1"].conv[2].weight.detach()
    assert float(weight.std()) == pytest.approx((2 / (9 * 16)) ** 0.5, rel=0.1)
    assert not network.nodes["0_1"].conv[2].bias.any()


def test_it_learns_with_its_own_settings() -> None:
    """Every output learns what is bright, from the first weights on."""
    torch.manual_seed(0)
    settings = TrainSettings().completed(preset_of("unet++").recipe)
    assert (settings.optimizer, settings.outputs) == ("adam", "sigmoid")
    network = preset_of("unet++").build(Wanted(out_channels=1, width=4))
    assert isinstance(network, UNetPlusPlus)
    image = nn.functional.avg_pool2d(image_for(1, 36, 36), 5, 1)
    truth = (image > 0).float()
    assert settings.learning_rate == 3e-4
    optimizer = torch.optim.Adam(network.parameters(), lr=10 * settings.learning_rate)
    loss_of = nn.BCEWithLogitsLoss()
    first: list[float] = []
    for _ in range(30):
        losses = [loss_of(logits, truth) for logits in network.all_logits(image)]
        first = first or [loss.item() for loss in losses]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
    for before, loss in zip(first, losses, strict=True):
        assert loss.item() < 0.8 * min(before, 0.69)


def test_width_and_channels_are_those_wanted() -> None:
    config = preset_of("unet++").config_for(Wanted(width=3, in_channels=2, out_channels=5))
    assert config.widths == (3, 6, 12, 24, 48)
    assert (config.in_channels, config.out_channels, config.deep_supervision) == (2, 5, True)
    config = preset_of("unet++").config_for(Wanted(dims=3))
    assert (config.dims, config.widths) == (3, (32, 64, 128, 256))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"dims": 4}, "dims must be 2 or 3"),
        ({"in_channels": 0}, "in_channels"),
        ({"widths": (4,)}, "widths"),
        ({"widths": (4, 0)}, "widths"),
        ({"norm": "layer"}, "norm"),
        ({"upsampling": "cubic"}, "upsampling"),
        ({"output": "first"}, "output"),
        ({"prune": 0}, "prune must be a level from 1 to 4"),
        ({"prune": 5}, "prune must be a level from 1 to 4"),
    ],
)
def test_refuses_a_network_that_cannot_be(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        UNetPlusPlusConfig(**settings)
