"""16 bits where they say the same, and not where they do not."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from networks import BY_NAME, N_OUTPUTS, picture
from running import plan_for, request_for, run
from torch import nn

from napari_unet.core.engine import Plan, choosing, make_plan, precision
from napari_unet.core.engine.graph import fused
from napari_unet.core.engine.ops import Affine, Convolution, Transposed
from napari_unet.core.engine.precision import MOST_CHANGED, in_precision, probe_precision
from napari_unet.core.engine.tracing import trace

SURE = torch.tensor([0.0, 3.0, -2.0])[:, None, None].expand(3, 100, 100)


@pytest.fixture
def sixteen_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with bfloat16, for which small images are large enough."""
    monkeypatch.setattr(choosing, "reduced_type", lambda device: torch.bfloat16)
    monkeypatch.setattr(choosing, "PROBE_SIZE", {2: 40, 3: 12})


def planned(network: nn.Module, shape: tuple[int, ...] = (90, 100), **about: Any) -> Plan:
    """With a piece of noise to try it on."""
    array = picture(1, *shape)

    def piece(size: tuple[int, ...]) -> torch.Tensor:
        return torch.from_numpy(picture(1, *size, seed=5))[None]

    return make_plan(request_for(network, array, **({"precision": "auto", "piece": piece} | about)))


def types(network: nn.Module) -> list[torch.dtype]:
    """Of the weights of all layers, in their order, for bfloat16."""
    graph = in_precision(fused(trace(network, 1, (32, 32))), torch.bfloat16)
    found = []
    for layer in graph.layers:
        if isinstance(layer.op, Convolution | Transposed):
            found.append(layer.op.weight.dtype)
        elif isinstance(layer.op, Affine):
            found.append(layer.op.factor.dtype)
    return found


@pytest.mark.usefixtures("sixteen_bits")
@pytest.mark.parametrize("name", ["unet 2d 2 batch transposed", "stem 2d", "kernels 2d", "flat 2d"])
def test_it_is_taken_where_the_labels_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "MOST_CHANGED", 0.05)
    network = BY_NAME[name].network()
    made = planned(network)
    assert made.precision.dtype == torch.bfloat16
    assert "bfloat16" in made.precision.reason
    assert made.summary == "Exact, row by row, 16-bit arithmetic."
    array = picture(1, 90, 100)
    expected = BY_NAME[name].whole(network, array)
    difference = np.abs(run(made, array) - expected)
    assert 1e-6 < difference.mean() < 0.02
    assert (run(made, array).argmax(0) != expected.argmax(0)).mean() < 0.05


@pytest.mark.usefixtures("sixteen_bits")
def test_it_is_taken_in_tiles_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "MOST_CHANGED", 0.05)
    made = planned(BY_NAME["segnet"].network())
    assert made.precision.is_reduced
    assert made.ways[0].dtype == torch.bfloat16
    expected = BY_NAME["segnet"].whole(BY_NAME["segnet"].network(), picture(1, 90, 100))
    assert 1e-6 < np.abs(run(made, picture(1, 90, 100)) - expected).mean() < 0.1


@pytest.mark.usefixtures("sixteen_bits")
@pytest.mark.parametrize("name", ["unet 2d 2 batch transposed", "segnet", "group norm"])
def test_it_is_refused_where_labels_change(name: str) -> None:
    """Two outputs that differ by less than the rounding of either."""
    network = copy.deepcopy(BY_NAME[name].network())
    head = [one for one in network.modules() if isinstance(one, nn.Conv2d)][-1]
    head = getattr(network, "head", head)
    with torch.no_grad():
        head.weight[:] = head.weight[:1] * (1 + 1e-3 * torch.randn(head.weight.shape))
        head.bias.zero_()
    made = planned(network)
    assert made.precision.dtype == torch.float32
    assert "bfloat16 would change" in made.precision.reason
    assert "16-bit" not in made.summary
    assert f"float32; {made.precision.reason}." in str(made)


@pytest.mark.usefixtures("sixteen_bits")
def test_it_is_not_tried_where_it_cannot_help(monkeypatch: pytest.MonkeyPatch) -> None:
    network = BY_NAME["unet 2d 1 none linear"].network()
    assert planned(network, precision="full").precision.reason == "full precision was chosen"
    assert "too small" in planned(network, (30, 30)).precision.reason
    monkeypatch.setattr(choosing, "reduced_type", lambda device: None)
    assert "gains nothing" in planned(network).precision.reason


@pytest.mark.usefixtures("sixteen_bits")
def test_a_failing_trial_is_a_reason_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*about: object) -> None:
        raise RuntimeError("could not create a primitive\nand more")

    monkeypatch.setattr(choosing, "probe_precision", fails)
    made = planned(BY_NAME["unet 2d 1 none linear"].network())
    assert made.precision.dtype == torch.float32
    assert "could not be tried (could not create a primitive)" in made.precision.reason


def test_the_first_convolution_and_the_last_layer_are_not_rounded() -> None:
    found = types(BY_NAME["unet 2d 2 batch transposed"].network())
    assert found[0] == found[-1] == torch.float32
    assert set(found[1:-1]) == {torch.bfloat16}


def test_what_comes_before_the_first_convolution_is_not_rounded_either() -> None:
    network = nn.Sequential(
        nn.BatchNorm2d(1), nn.LeakyReLU(), nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 2, 1),
    ).eval()  # fmt: skip
    full, half = torch.float32, torch.bfloat16
    assert types(network) == [full, full, half, full]
    assert types(BY_NAME["dense 2d"].network())[:3] == [full, full, half]


def test_full_precision_leaves_all_as_it_is() -> None:
    graph = trace(BY_NAME["kernels 2d"].network(), 1, (32, 32))
    for layer in in_precision(graph, torch.float32).layers:
        assert getattr(layer.op, "weight", torch.zeros(1)).dtype == torch.float32


# --- the verdict -------------------------------------------------------------------------------


def verdict(exact: torch.Tensor, rounded: torch.Tensor) -> precision.Precision:
    return probe_precision(lambda: exact, lambda: rounded, torch.bfloat16)


def test_the_share_of_labels_that_may_change() -> None:
    most = math.floor(MOST_CHANGED * SURE[0].numel())
    for n_changed, dtype in (
        (0, torch.bfloat16),
        (most, torch.bfloat16),
        (most + 1, torch.float32),
    ):
        other = SURE.clone()
        other[0].view(-1)[:n_changed] = 5
        assert verdict(SURE, other).dtype == dtype
        assert f"{n_changed / 10_000:.1e}" in verdict(SURE, other).reason


def test_a_single_output_counts_by_its_sign() -> None:
    logits = torch.randn(1, 50, 50, generator=torch.Generator().manual_seed(0)).abs() + 1
    assert verdict(logits, logits / 2).is_reduced
    assert not verdict(logits, -logits).is_reduced


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_overflows_is_refused(value: float) -> None:
    other = SURE.clone()
    other[1, 3, 3] = value
    found = verdict(SURE, other)
    assert not found.is_reduced
    assert found.reason == "bfloat16 overflows in this network"


def test_the_type_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, expected in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr(precision, "processor_has_bfloat16", lambda has=has: has)
        assert precision.reduced_type(torch.device("cpu")) == expected
    assert precision.reduced_type(torch.device("cuda")) == torch.float16
    assert precision.reduced_type(torch.device("mps")) is None


@pytest.mark.usefixtures("sixteen_bits")
def test_views_have_the_same_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "MOST_CHANGED", 0.05)
    network = BY_NAME["unet 2d 1 none linear"].network()
    made = planned(network, views="flips")
    assert made.precision.is_reduced
    kinds = [[layer.op.weight.dtype for layer in way.graph.layers if hasattr(layer.op, "weight")]
             for way in made.ways]  # fmt: skip
    assert kinds == kinds[:1] * 4
    full = run(plan_for(network, picture(1, 90, 100), views="flips"), picture(1, 90, 100))
    assert full.shape == (N_OUTPUTS, 90, 100)
    assert np.abs(run(made, picture(1, 90, 100)) - full).mean() < 0.02
