"""Sizes and windows of all layers, and what becomes of batch norm and ReLU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from networks import BY_NAME, CASES, ROW, Case
from torch import nn

from napari_unet.core.engine.choosing import replay
from napari_unet.core.engine.graph import Graph, UnsupportedError, fused, joined
from napari_unet.core.engine.ops import Affine, Convolution, Transposed
from napari_unet.core.engine.tracing import trace

KNOWN = [case for case in CASES if case.way == ROW]


def traced(case: Case) -> tuple[Graph, tuple[int, ...]]:
    size = tuple(case.frame((40,) * case.dims if case.dims == 2 else (12,) * case.dims))
    return trace(case.network(), case.n_in, size), size


@pytest.mark.parametrize("case", KNOWN, ids=lambda case: case.name)
def test_folding_changes_nothing_but_the_number_of_layers(case: Case) -> None:
    graph, size = traced(case)
    one = fused(graph)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, case.n_in, *size, generator=generator)
    whole = tuple((0, n) for n in graph.sizes(size)[-1])
    torch.testing.assert_close(
        replay(one, image, whole), replay(graph, image, whole), atol=1e-5, rtol=1e-5
    )
    assert len(one.layers) <= len(graph.layers)
    assert one.out_channels == graph.out_channels


@pytest.mark.parametrize("name", ["unet 2d 3 batch linear", "unpadded 2d", "gates 2d"])
def test_batch_norms_and_their_relus_are_gone(name: str) -> None:
    graph, _ = traced(BY_NAME[name])
    one = fused(graph)
    assert any(isinstance(layer.op, Affine) for layer in graph.layers)
    assert not any(isinstance(layer.op, Affine) for layer in one.layers)
    convolutions = [one.op for one in one.layers if isinstance(one.op, Convolution)]
    assert sum(one.relu for one in convolutions) > len(convolutions) // 2


def test_what_two_layers_read_is_not_folded() -> None:
    """A batch norm whose convolution is also skipped past, and one with its ReLU in between."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.norm.running_mean += 0.3

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            first = self.conv(image)
            return self.norm(first) + self.norm(torch.relu(first))

    graph = fused(trace(Both().eval(), 1, (8, 8)))
    assert sum(isinstance(layer.op, Affine) for layer in graph.layers) == 2
    assert not any(getattr(layer.op, "relu", False) for layer in graph.layers)


def test_a_batch_norm_behind_a_relu_is_not_folded_into_the_convolution_before_it() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)
    ).eval()
    nn.init.normal_(network[2].running_mean)
    graph = fused(trace(network, 1, (12, 12)))
    assert [type(layer.op) for layer in graph.layers][:2] == [Convolution, Affine]
    image = torch.randn(1, 1, 12, 12)
    with torch.no_grad():
        expected = network(image)[0]
    torch.testing.assert_close(replay(graph, image, ((0, 10), (0, 10))), expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_batch_norm_behind_a_transposed_convolution(groups: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.ConvTranspose2d(4, 6, 2, 2, groups=groups), nn.BatchNorm2d(6),
        nn.MaxPool2d(2),
    ).eval()  # fmt: skip
    nn.init.uniform_(network[2].running_var, 0.5, 2)
    nn.init.normal_(network[2].bias)
    graph = fused(trace(network, 1, (8, 8)))
    assert [type(layer.op) for layer in graph.layers][:2] == [Convolution, Transposed]
    assert len(graph.layers) == 3
    image = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        expected = network(image)[0]
    torch.testing.assert_close(replay(graph, image, ((0, 8), (0, 8))), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", KNOWN, ids=lambda case: case.name)
def test_sizes_are_those_of_the_network(case: Case) -> None:
    graph, size = traced(case)
    assert graph.sizes(size)[0] == size
    assert graph.sizes(size)[-1] == tuple(n - case.margin for n in size)
    whole = tuple((0, n) for n in graph.sizes(size)[-1])
    needs = graph.needs(graph.sizes(size), whole)
    assert all(spans is not None for spans in needs)
    assert needs[-1] == whole


def test_a_window_needs_its_surroundings_and_no_more() -> None:
    graph, _ = traced(BY_NAME["unet 2d 2 batch transposed"])
    sizes = graph.sizes((400, 400))
    needs = graph.needs(sizes, ((200, 204), (0, 4)))
    assert needs[0] == ((200 - 22, 204 + 22), (0, 4 + 22))
    for spans, size in zip(needs, sizes, strict=True):
        assert spans is not None
        assert all(0 <= start < stop <= n for (start, stop), n in zip(spans, size, strict=True))


def test_what_does_not_fit_is_said() -> None:
    graph, _ = traced(BY_NAME["unet 2d 2 batch transposed"])
    with pytest.raises(UnsupportedError, match=r"\(18, 20\) px leads to sizes that do not fit"):
        graph.sizes((18, 20))
    with pytest.raises(UnsupportedError, match=r"\(20, 20\) px is too small"):
        traced(BY_NAME["unpadded 2d"])[0].sizes((20, 20))


def test_layers_can_be_changed_one_by_one() -> None:
    graph, _ = traced(BY_NAME["kernels 2d"])
    changed = graph.mapped(lambda op: replace(op, fill=2.5))
    assert [layer.op.fill for layer in changed.layers] == [2.5] * len(graph.layers)
    assert [layer.inputs for layer in changed.layers] == [layer.inputs for layer in graph.layers]


def test_who_reads_what() -> None:
    graph, _ = traced(BY_NAME["residual 2d"])
    readers = graph.consumers()
    assert readers[-1] == []
    assert sum(map(len, readers)) == sum(len(layer.inputs) for layer in graph.layers)
    assert max(map(len, readers)) >= 2


def test_pieces_one_behind_the_other() -> None:
    first, second = torch.zeros(1, 2, 3, 4), torch.ones(1, 2, 5, 4)
    assert joined([first], 2) is first
    assert torch.equal(joined([first, second], 2), torch.cat([first, second], 2))
