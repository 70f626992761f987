"""How weights are changed, and their running mean."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from napari_unet.core import device
from napari_unet.core.training.optimizing import (
    Average,
    arithmetic,
    learning_rate,
    needs_scaling,
    optimizer_for,
    seeded,
)
from napari_unet.core.training.pace import generator_of, seed_of
from napari_unet.core.training.settings import TrainSettings

CPU = torch.device("cpu")


def settings(**changes):
    return TrainSettings(**changes).completed({})


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_optimizers(name, kind):
    chosen = settings(optimizer=name, momentum=0.99, weight_decay=0.25, learning_rate=0.125)
    found = optimizer_for(nn.Linear(2, 2), chosen)
    assert type(found) is kind
    group = found.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.125, 0.25)
    if name == "sgd":
        assert (group["momentum"], group["nesterov"]) == (0.99, False)


def test_schedules():
    cosine = settings(learning_rate=1.0, schedule="cosine")
    assert learning_rate(cosine, 1, 0) == pytest.approx(0.1)
    assert learning_rate(cosine, 500, 0.5) == pytest.approx(0.51)
    assert learning_rate(cosine, 1000, 1) == pytest.approx(0.02)
    poly = settings(learning_rate=1.0, schedule="poly")
    assert learning_rate(poly, 5, 0) == pytest.approx(0.5)
    assert learning_rate(poly, 100, 0.75) == pytest.approx(0.25**0.9)
    assert learning_rate(poly, 100, 1) == 0
    constant = settings(learning_rate=1.0, schedule="constant")
    assert {learning_rate(constant, step, step / 100) for step in (1, 50, 100)} == {1.0}
    rates = [learning_rate(cosine, step, step / 100) for step in range(11, 100)]
    assert (np.diff(rates) < 0).all()


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(2, 3), nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.layer(x))


def test_the_running_mean_is_that_of_weights_and_of_batch_statistics():
    network = Normed()
    average = Average(network, 0.5)
    expected = copy.deepcopy(average.network.state_dict())
    for step in range(1, 40):
        network(torch.randn(4, 2))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in average.network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])
    assert average.network.norm.num_batches_tracked == 39
    assert not average.network.training and network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


def test_without_a_mean_the_weights_are_kept_as_they_are():
    network = Normed()
    average = Average(network, 0.0)
    with torch.no_grad():
        network.layer.weight.fill_(7)
    average.update(1)
    assert (average.network.layer.weight == 7).all()


def test_what_is_drawn_follows_from_the_seed_and_nothing_else_changes():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    drawn = []
    for seed in (1, 1, 2):
        with seeded(CPU, seed):
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_each_step_has_seeds_of_its_own():
    seeds = {
        seed_of(seed, step, use) for seed in (0, 1, 2**62) for step in range(50) for use in (0, 1)
    }
    assert len(seeds) == 300 and all(0 <= seed < 2**63 for seed in seeds)
    assert generator_of(0, 1).initial_seed() == seed_of(0, 1, 0)


def test_arithmetic(monkeypatch):
    monkeypatch.setattr(device, "processor_has_bfloat16", lambda: True)

    def kind(**changes):
        with arithmetic(CPU, settings(**changes)):
            return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype

    assert kind() == torch.bfloat16
    assert kind(precision="full") == torch.float32
    assert kind(dims=3) == torch.float32  # NOTE: see `autocast`


def test_float16_needs_its_gradients_scaled(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    cuda = torch.device("cuda")
    assert needs_scaling(cuda, settings())
    assert not needs_scaling(cuda, settings(precision="full"))
    assert not needs_scaling(CPU, settings())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert not needs_scaling(cuda, settings())
