"""Which way is taken and why, found out once for a network and told in plain words."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import BY_NAME, picture, settled, unet
from running import plan_for, request_for, run
from torch import nn

from napari_unet.core.engine import Plan, facts, make_plan, plan
from napari_unet.core.engine.tiles import Blended, Tiled
from napari_unet.core.engine.ways import RowByRow


def fresh(name: str) -> nn.Module:
    """A network that nothing is known of yet."""
    return copy.deepcopy(BY_NAME[name].network())


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done to find out about networks."""
    found: list[str] = []
    for name in ("known_layers", "measured_fit", "measured_reach"):
        real = getattr(facts, name)

        def look(*about: Any, name: str = name, real: Any = real) -> Any:
            found.append(name)
            return real(*about)

        monkeypatch.setattr(facts, name, look)
    return found


# --- facts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unet 2d 2 batch transposed", "segnet", "group norm"])
def test_a_network_is_looked_at_once(name: str, looks: list[str]) -> None:
    network = fresh(name)
    plan_for(network, picture(1, 64, 64))
    assert looks
    looks.clear()
    for about in ({}, {"tile_size": 32}, {"views": "flips"}, {"activation": "softmax"}):
        plan_for(network, picture(1, 128, 60), **about)  # type: ignore[arg-type]
    assert looks == []
    plan_for(fresh(name), picture(1, 64, 64))
    assert looks != []


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network.head.bias.add_(1),
        lambda network: network.load_state_dict(
            {name: value + 0 for name, value in network.state_dict().items()}
        ),
        lambda network: setattr(network.head, "bias", nn.Parameter(torch.ones(3))),
        lambda network: network.encoder[0][1].running_mean.mul_(2),
        lambda network: torch.optim.SGD(network.parameters(), 0.1).step(),
        lambda network: network.encoder[0][0].weight.data.mul_(1.5),
    ],
    ids=[
        "in place",
        "state dict",
        "another parameter",
        "a statistic",
        "a step of training",
        "uncounted",
    ],
)
def test_weights_that_change_are_looked_at_again(change: Any) -> None:
    network = fresh("unet 2d 2 batch transposed").requires_grad_(True)
    array = picture(1, 40, 40)
    plan_for(network, array)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    with torch.no_grad():
        change(network)
    case = BY_NAME["unet 2d 2 batch transposed"]
    expected = case.whole(network, array)
    found = run(plan_for(network, array), array)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_weights_made_in_inference_mode_may_change_too() -> None:
    with torch.inference_mode():
        network = fresh("unet 2d 2 batch transposed")
        array = picture(1, 40, 40)
        plan_for(network, array)
        network.head.weight.mul_(2)
        expected = BY_NAME["unet 2d 2 batch transposed"].whole(network, array)
        found = run(plan_for(network, array), array)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_training_and_using_are_told_apart() -> None:
    network = fresh("unet 2d 2 batch transposed")
    array = picture(1, 40, 40)
    assert plan_for(network, array).name == "row by row"
    assert plan_for(network.train(), array).name == "in blended tiles"
    assert plan_for(network.eval(), array).name == "row by row"


def test_an_old_plan_keeps_its_weights_and_a_network_is_not_kept_alive() -> None:
    network = fresh("unet 2d 2 batch transposed")
    made = plan_for(network, picture(1, 40, 40))
    alive = weakref.ref(network)
    del network
    gc.collect()
    assert alive() is None
    assert run(made, picture(1, 40, 40)).shape == (3, 40, 40)


def test_the_network_stays_as_it_is() -> None:
    network = fresh("unet 2d 2 batch transposed")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    run(plan_for(network, picture(1, 40, 44)), picture(1, 40, 44))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(parameter.is_inference() for parameter in network.parameters())
    network.train().requires_grad_(True)
    network(torch.rand(1, 1, 16, 16)).sum().backward()


@pytest.mark.parametrize("name", ["unet 2d 2 batch transposed", "residual 2d", "segnet"])
def test_made_and_used_where_gradients_are_off(name: str) -> None:
    case = BY_NAME[name]
    array = picture(1, 37, 50)
    with torch.inference_mode():
        network = fresh(name)
        inside = plan_for(network, array)
        found = run(inside, array)
    made = plan_for(network, array)
    assert made.name == inside.name == case.way
    expected = case.whole(case.network(), array)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5)
    np.testing.assert_allclose(run(made, array), expected, rtol=0, atol=3e-5)


def test_sizes_that_a_network_takes_as_they_are_are_looked_at_once(looks: list[str]) -> None:
    network = fresh("padded up")
    for shape in ((37, 50), (41, 90), (37, 50)):  # all leave the same rest
        made = plan_for(network, picture(1, *shape))
        assert made.ways[0].fit.size_for(shape) == shape
    assert looks == ["known_layers"] * 2
    network = fresh("unet 2d 2 batch transposed")
    for _ in range(3):
        plan_for(network, picture(1, 37, 50))  # it does not take this, which is remembered
    assert looks == ["known_layers"] * 4


SUBPROCESS = """
import sys, torch
import numpy as np
from torch import nn
from napari_unet.core.engine import Request, make_plan
network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
                        nn.Conv2d(4, 2, 1)).eval()
made = make_plan(Request(network=network, dims=2, in_channels=1, activation="softmax",
                         shape=(100, 100)))
assert made.name == "row by row", made.reason
heavy = [name for name in sys.modules if name.startswith(("torch._dynamo", "torch._inductor"))]
assert not heavy, heavy[:3]
assert not {"napari", "qtpy"} & set(sys.modules)
"""


def test_no_compiler_is_loaded() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    source = str(Path(plan.__file__).parents[3])
    environment["PYTHONPATH"] = os.pathsep.join([source, environment.get("PYTHONPATH", "")])
    answer = subprocess.run(
        [sys.executable, "-c", SUBPROCESS], capture_output=True, text=True, timeout=120,
        env=environment,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr


# --- in words ----------------------------------------------------------------------------------


def said(name: str, **about: Any) -> Plan:
    case = BY_NAME[name]
    shape = (100, 90) if case.dims == 2 else (20, 30, 24)
    return plan_for(case.network(), picture(case.n_in, *shape), **about)


def test_what_is_done_row_by_row() -> None:
    made = said("unet 2d 2 batch transposed")
    assert made.summary == "Exact, row by row."
    assert str(made).split("\n") == [
        "Exact, row by row.",
        "Why: all of its 17 layers are known, and each acts locally.",
        "Arithmetic: float32; full precision was chosen.",
        "Reach of the network: 22 x 22 px around blocks of 4 x 4 px.",
        "At once: windows of up to 100 x 90 px, on cpu.",
    ]


def test_what_is_done_in_tiles() -> None:
    text = str(said("mirrored", tile_size=32))
    assert text.startswith("Exact, in tiles.\n")
    assert "Why: a layer (reflection_pad2d) is of a kind that is not known here; tried out" in text
    assert "around blocks of 4 x 4 px" in text
    assert "windows of up to 32 x 32 px" in text


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("instance norm", "an instance normalisation uses statistics of the whole image"),
        ("group norm", "a layer (native_group_norm) uses statistics of the whole image"),
        ("squeeze", "a layer (mean) uses statistics of the whole image"),
        ("mirrored, with group norm", "is of a kind that is not known here, and every pixel "
                                      "depends on all others"),
    ],
)  # fmt: skip
def test_what_is_done_in_blended_tiles(name: str, reason: str) -> None:
    small, large = said(name), said(name, tile_size=64)
    assert reason in small.reason
    assert reason in large.reason
    assert small.summary == "Exact, in blended tiles."
    assert "the whole image fits into one tile" in str(small)
    assert large.summary == "Approximate, in blended tiles."
    assert "fits into one tile" not in str(large)


def test_views_are_told() -> None:
    assert said("nearest", views="rotations").summary == "Exact, row by row, average of 8 views."
    assert said("nearest 3d", views="flips").summary == "Exact, row by row, average of 8 views."


def test_a_way_is_left_where_a_view_cannot_be_had() -> None:
    made = said("shuffled", views="flips")
    assert made.name == "in tiles"
    assert made.is_exact
    assert "a layer turns channels into pixels" in made.reason


# --- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unet 2d 2 batch transposed", "segnet", "group norm"])
@pytest.mark.parametrize("views", ["none", "flips"])
def test_less_memory_step_by_step(name: str, views: str) -> None:
    made: Plan | None = said(name, views=views)
    largest: list[tuple[int, ...]] = []
    while made is not None:
        assert len(made.ways) == (4 if views == "flips" else 1)
        largest.append(made.largest)
        smallest, made = made, made.smaller()
    assert 1 < len(largest) < 12
    assert all(max(one) <= max(other) for one, other in zip(largest[1:], largest, strict=False))
    assert max(smallest.largest) <= 64


def test_blended_tiles_that_get_smaller_are_not_exact_any_more() -> None:
    made = said("group norm").smaller()
    assert made is not None
    assert not made.is_exact
    assert made.summary.startswith("Approximate")
    assert said("segnet").smaller().is_exact  # type: ignore[union-attr]


def test_large_images_are_worked_on_in_windows() -> None:
    network = BY_NAME["unet 2d 4 none transposed"].network()
    request = request_for(network, picture(1, 64, 64))
    small = make_plan(replace(request, shape=(64, 64)))
    tall = make_plan(replace(request, shape=(2**20, 2000)))
    wide = make_plan(replace(request, shape=(2**20, 2**19)))
    assert small.largest == (64, 64)
    assert tall.axis == wide.axis == 0
    assert tall.largest[0] == wide.largest[0] == 2**20
    assert wide.largest[1] < 2**19
    assert wide.largest[1] % 16 == 0
    assert make_plan(replace(request, shape=(300, 2**18))).axis == 1


def test_kinds_of_ways() -> None:
    for name, kind in (("nearest", RowByRow), ("segnet", Tiled), ("group norm", Blended)):
        assert type(said(name).ways[0]) is kind
    assert said("nearest").axis == 0
    assert said("segnet").axis is None


def test_networks_without_weights() -> None:
    array = picture(1, 30, 40)
    made = plan_for(nn.MaxPool2d(3, 1, 1), array)
    assert made.device == torch.device("cpu")
    with torch.no_grad():
        expected = nn.MaxPool2d(3, 1, 1)(torch.from_numpy(array)[None])[0].numpy()
    np.testing.assert_array_equal(run(made, array), expected)
    np.testing.assert_array_equal(run(plan_for(nn.Identity(), array), array), array)


def test_a_network_in_training_is_what_it_is_then() -> None:
    """Batch norm in training uses statistics of the whole image; the engine does not hide that."""
    network = settled(unet(2, 1, "batch", "transposed")).train()
    made = plan_for(network, picture(1, 40, 40))
    assert "whole image" in made.reason
