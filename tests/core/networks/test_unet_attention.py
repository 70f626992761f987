"""Attention U-Net: gates and weights as in the paper, each against a second computation."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from originals import image_for, randomised
from torch import Tensor, nn
from unet_checks import (
    check_engine,
    check_gradients,
    check_stands_alone,
    n_parameters,
    on_meta,
    picture,
)

from napari_unet.core.errors import SettingsError
from napari_unet.core.networks import DeeplySupervised, Wanted, preset_of
from napari_unet.core.networks.unet_attention import AttentionUNet, AttentionUNetConfig

SMALL = AttentionUNetConfig(widths=(2, 3, 4, 5), out_channels=3)
PAPER = AttentionUNetConfig(dims=3, out_channels=2)
CONV = {2: F.conv2d, 3: F.conv3d}
MODE = {2: "bilinear", 3: "trilinear"}


def test_without_gates_it_has_as_many_weights_as_in_the_paper() -> None:
    with torch.device("meta"):
        plain = AttentionUNet(AttentionUNetConfig(dims=3, out_channels=1, first_gate=4))
        gated = AttentionUNet(AttentionUNetConfig(dims=3, out_channels=1))
    assert n_parameters(plain) == 5_885_505  # 5.88 M
    widths = (16, 32, 64, 128, 256)
    gates = [8 * n * n + n * below + n + n + 1 for n, below in pairwise(widths)]
    assert n_parameters(gated) == 5_885_505 + sum(gates[1:])
    assert n_parameters(on_meta(preset_of("unet-attention"), Wanted(dims=3))) == 6_101_013


def test_all_skips_but_the_first_have_gates() -> None:
    with torch.device("meta"):
        network = AttentionUNet(PAPER)
    assert list(network.gates) == ["1", "2", "3"]
    widths = (16, 32, 64, 128, 256)
    for name, gate in network.gates.items():
        n, n_below = widths[int(name)], widths[int(name) + 1]
        assert gate.of_skip.weight.shape == (n, n, 2, 2, 2)
        assert gate.of_skip.stride == (2, 2, 2)
        assert gate.of_skip.bias is None
        assert gate.of_gate.weight.shape == (n, n_below, 1, 1, 1)
        assert gate.psi.weight.shape == (1, n, 1, 1, 1)


def second(state: Mapping[str, Tensor], image: Tensor, n_levels: int) -> Tensor:
    """The network once more, from the formulas, one level inside the other."""
    dims = image.ndim - 2

    def double(features: Tensor, name: str) -> Tensor:
        for at in (0, 3):
            features = CONV[dims](features, state[f"{name}.{at}.weight"], padding=1)
            of = {key: state[f"{name}.{at + 1}.{key}"] for key in ("weight", "bias")}
            mean, var = (state[f"{name}.{at + 1}.running_{key}"] for key in ("mean", "var"))
            features = F.relu(F.batch_norm(features, mean, var, **of))
        return features

    def enlarged(features: Tensor) -> Tensor:
        return F.interpolate(features, scale_factor=2.0, mode=MODE[dims], align_corners=False)

    def level(features: Tensor, i: int) -> Tensor:
        x = double(features, f"encoder.{i}")
        if i == n_levels - 1:
            return x
        pooled = F.max_pool2d(x, 2) if dims == 2 else F.max_pool3d(x, 2)
        g = level(pooled, i + 1)
        if f"gates.{i}.psi.weight" in state:
            of = {key.split(".", 2)[2]: v for key, v in state.items() if f"gates.{i}." in key}
            q = CONV[dims](x, of["of_skip.weight"], stride=2)
            q = q + CONV[dims](g, of["of_gate.weight"], of["of_gate.bias"])
            q = CONV[dims](q.clamp(min=0), of["psi.weight"], of["psi.bias"])
            x = x * enlarged(1 / (1 + torch.exp(-q)))
        return double(torch.cat([x, enlarged(g)], dim=1), f"decoder.{i}")

    return CONV[dims](level(image, 0), state["head.weight"], state["head.bias"])


@pytest.mark.parametrize("first_gate", [0, 1, 9])
@pytest.mark.parametrize("dims", [2, 3])
def test_it_computes_what_the_paper_says(dims: Literal[2, 3], first_gate: int) -> None:
    config = AttentionUNetConfig(
        dims=dims, in_channels=2, out_channels=3, widths=(2, 3, 4), first_gate=first_gate
    )
    network = randomised(AttentionUNet(config)).double()
    image = image_for(2, *(12, 16, 8)[:dims]).double()
    with torch.no_grad():
        found = network(image)
        assert found.shape == (1, 3, *image.shape[2:])
        torch.testing.assert_close(found, second(network.state_dict(), image, 3))


def with_bias(network: nn.Module, bias: float) -> nn.Module:
    """The network with gates that are all open, or all closed."""
    for gate in network.gates.values():  # type: ignore[union-attr, operator]
        nn.init.constant_(gate.psi.bias, bias)
    return network


def test_open_gates_let_everything_through() -> None:
    network = with_bias(randomised(AttentionUNet(SMALL)), 1e4)
    plain = AttentionUNet(AttentionUNetConfig(widths=SMALL.widths, out_channels=3, first_gate=9))
    weights = {k: v for k, v in network.state_dict().items() if not k.startswith("gates.")}
    plain.eval().load_state_dict(weights, strict=True)
    image = image_for(1, 16, 24)
    with torch.no_grad():
        assert torch.equal(network(image), plain(image))


def test_closed_gates_let_nothing_through() -> None:
    """Then what the convolutions make of the skip does not matter."""
    network = with_bias(randomised(AttentionUNet(SMALL)), -1e4)
    image = image_for(1, 16, 16)
    with torch.no_grad():
        expected = network(image)
        for i, n in ((1, 3), (2, 4)):
            network.decoder[i][0].weight[:, :n] += 1.0  # type: ignore[index, union-attr]
        assert torch.equal(network(image), expected)
        with_bias(network, 1e4)
        assert not torch.equal(network(image), expected)


def test_gates_begin_open() -> None:
    torch.manual_seed(0)
    network = AttentionUNet(AttentionUNetConfig(widths=(4, 8, 16)))
    shares = []
    network.gates["1"].enlarge.register_forward_hook(lambda _m, given, _o: shares.append(given[0]))
    with torch.no_grad():
        network(image_for(1, 32, 32))
    assert float(shares[0].mean()) > 0.8
    assert float(shares[0].std()) > 0.01


@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_reach_every_weight(dims: Literal[2, 3]) -> None:
    torch.manual_seed(0)
    network = AttentionUNet(AttentionUNetConfig(dims=dims, widths=(3, 4, 5)))
    check_gradients(network, image_for(1, *(16,) * dims))


@pytest.mark.parametrize("first_gate", [0, 1])
def test_the_engine_gives_what_the_whole_image_gives(first_gate: int) -> None:
    config = AttentionUNetConfig(widths=(2, 3, 4, 5), in_channels=2, first_gate=first_gate)
    check_engine(AttentionUNet(config), picture(2, 61, 45), 8)


def test_the_engine_gives_what_the_whole_volume_gives() -> None:
    config = AttentionUNetConfig(dims=3, widths=(2, 2, 3), first_gate=0)
    check_engine(AttentionUNet(config), picture(1, 9, 22, 17), 4)


@pytest.mark.parametrize("config", [SMALL, AttentionUNetConfig(dims=3, widths=(2, 2))])
def test_it_stands_alone(config: AttentionUNetConfig) -> None:
    check_stands_alone("unet-attention", config, image_for(1, *(16,) * config.dims))


def test_width_and_channels_are_those_wanted() -> None:
    preset = preset_of("unet-attention")
    config = preset.config_for(Wanted(width=3, in_channels=2, out_channels=5))
    assert config == AttentionUNetConfig(in_channels=2, out_channels=5, widths=(3, 6, 12, 24, 48))
    assert preset.config_for(Wanted(dims=3)) == PAPER
    assert not isinstance(preset.build(Wanted(width=2)), DeeplySupervised)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"dims": 4}, "dims must be 2 or 3"),
        ({"out_channels": 0}, "out_channels"),
        ({"widths": (4,)}, "widths"),
        ({"widths": (4, 0)}, "widths"),
        ({"first_gate": -1}, "first_gate"),
    ],
)
def test_refuses_a_network_that_cannot_be(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        AttentionUNetConfig(**settings)
