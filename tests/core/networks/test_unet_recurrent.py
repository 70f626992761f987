"""R2U-Net, against the copy that most files come from."""

from __future__ import annotations

import re
from typing import Any, Literal

import pytest
import torch
from originals import image_for, largest_difference, randomised
from torch import Tensor, nn
from unet_checks import check_engine, check_stands_alone, n_parameters, on_meta, picture

from napari_unet.core.checkpoints.families.leejunhyun import LeeConfig, LeeUNet
from napari_unet.core.engine.facts import general_facts
from napari_unet.core.errors import SettingsError
from napari_unet.core.networks import Wanted, preset_of
from napari_unet.core.networks.unet_recurrent import RecurrentUNet, RecurrentUNetConfig

SMALL = RecurrentUNetConfig(widths=(2, 3, 4), out_channels=3)


def test_it_has_as_many_weights_as_the_best_known_copy() -> None:
    network = on_meta(preset_of("unet-r2"), Wanted(in_channels=3, out_channels=1))
    assert n_parameters(network) == 39_091_393


def _our_name(name: str, n_levels: int) -> str:
    name = re.sub(r"^Conv_1x1", "head", name)
    name = re.sub(r"^Up_RRCNN(\d)", lambda at: f"decoder.{n_levels - int(at[1])}", name)
    name = re.sub(r"^RRCNN(\d)", lambda at: f"encoder.{int(at[1]) - 1}", name)
    name = re.sub(r"^Up(\d)\.up", lambda at: f"up.{n_levels - int(at[1])}", name)
    return name.replace("RCNN", "around").replace("Conv_1x1", "straight")


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_it_is_the_one_that_others_built(steps: int) -> None:
    widths = (3, 4, 5, 6)
    original = LeeUNet(
        LeeConfig(in_channels=2, out_channels=2, widths=widths, recurrent=True, steps=steps)
    )
    randomised(original)
    config = RecurrentUNetConfig(in_channels=2, widths=widths, steps=steps)
    network = RecurrentUNet(config).eval()
    weights = {_our_name(name, 4): value for name, value in original.state_dict().items()}
    network.load_state_dict(weights, strict=True)
    image = image_for(2, 24, 40)
    assert largest_difference(network, original, image) == 0
    network.train(), original.train()
    assert largest_difference(network, original, image) == 0
    for name, value in original.state_dict().items():  # running means of each time, too
        assert torch.equal(network.state_dict()[_our_name(name, 4)], value), name


def test_the_same_weights_are_used_at_each_time() -> None:
    networks = [RecurrentUNet(RecurrentUNetConfig(widths=(2, 3), steps=n)) for n in (0, 2)]
    assert n_parameters(networks[0]) == n_parameters(networks[1])
    calls: list[nn.Module] = []
    conv = networks[1].encoder[0].around[0].conv[0]
    conv.register_forward_hook(lambda module, _given, _output: calls.append(module))
    networks[1](image_for(1, 8, 8))
    assert len(calls) == 3


def test_one_unit_by_hand() -> None:
    """x, then y = f(x), y = f(x + y), y = f(x + y)."""
    unit = randomised(RecurrentUNet(SMALL)).encoder[0].around[0]  # type: ignore[index, union-attr]
    image = image_for(2, 8, 8)

    def f(features: Tensor) -> Tensor:
        return torch.relu(unit.conv[1](unit.conv[0](features)))

    with torch.no_grad():
        first = f(image)
        assert torch.equal(unit(image), f(image + f(image + first)))


def test_it_sees_further_the_more_often_it_looks() -> None:
    reaches = []
    for steps in (0, 1, 2):
        network = RecurrentUNet(RecurrentUNetConfig(widths=(2, 2), steps=steps)).eval()
        facts = general_facts(network, 1, 2)
        assert facts.reach is not None
        reaches.append(facts.reach[0])
    assert reaches[0] < reaches[1] < reaches[2]


@pytest.mark.parametrize("dims", [2, 3])
def test_the_output_is_as_large_as_the_input(dims: Literal[2, 3]) -> None:
    network = RecurrentUNet(RecurrentUNetConfig(dims=dims, in_channels=2, widths=(2, 3, 4))).eval()
    image = torch.rand(2, 2, *(8, 16, 12)[:dims])
    with torch.no_grad():
        assert network(image).shape == (2, 2, *image.shape[2:])


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_reach_every_weight(dims: Literal[2, 3], is_training: bool) -> None:
    """In training, biases before a batch norm are taken away again and get no gradient."""
    network = RecurrentUNet(RecurrentUNetConfig(dims=dims, widths=(3, 4, 5)))
    randomised(network).train(is_training)
    image = image_for(1, *(16,) * dims).requires_grad_()
    logits = network(image)
    (
        logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    ).sum().backward()
    for name, weights in network.named_parameters():
        assert weights.grad is not None, name
        is_taken_away = re.search(r"(conv\.0|up\.\d\.1)\.bias", name) is not None
        if not (is_training and is_taken_away):
            assert float(weights.grad.abs().max()) > 1e-5, name
    assert image.grad is not None
    assert float(image.grad.abs().min()) > 0


@pytest.mark.parametrize("steps", [1, 2])
def test_the_engine_gives_what_the_whole_image_gives(steps: int) -> None:
    config = RecurrentUNetConfig(widths=(2, 3, 4), in_channels=2, steps=steps)
    check_engine(RecurrentUNet(config), picture(2, 61, 45), 4)


def test_the_engine_gives_what_the_whole_volume_gives() -> None:
    check_engine(
        RecurrentUNet(RecurrentUNetConfig(dims=3, widths=(2, 2))), picture(1, 9, 14, 17), 2
    )


@pytest.mark.parametrize("config", [SMALL, RecurrentUNetConfig(dims=3, widths=(2, 2), steps=1)])
def test_it_stands_alone(config: RecurrentUNetConfig) -> None:
    check_stands_alone("unet-r2", config, image_for(1, *(16,) * config.dims))


def test_width_and_channels_are_those_wanted() -> None:
    config = preset_of("unet-r2").config_for(Wanted(width=3, in_channels=2, out_channels=5))
    assert config == RecurrentUNetConfig(
        in_channels=2, out_channels=5, widths=(3, 6, 12, 24, 48), steps=2
    )
    assert preset_of("unet-r2").config_for(Wanted(dims=3)).widths == (64, 128, 256, 512)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"dims": 4}, "dims must be 2 or 3"),
        ({"out_channels": 0}, "out_channels"),
        ({"widths": ()}, "widths"),
        ({"widths": (4, 0)}, "widths"),
        ({"steps": -1}, "steps"),
        ({"steps": 17}, "steps"),
    ],
)
def test_refuses_a_network_that_cannot_be(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        RecurrentUNetConfig(**settings)
