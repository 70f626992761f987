"""Rows go in and rows come out, in pieces of any height, and little is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from networks import BY_NAME, CASES, ROW, Acting, Case
from torch import Tensor, nn

from napari_unet.core.engine.graph import Graph, fused
from napari_unet.core.engine.precision import in_precision
from napari_unet.core.engine.streaming import Stream
from napari_unet.core.engine.tracing import trace

KNOWN = [case for case in CASES if case.way == ROW]


def traced(case: Case, seed: int = 0) -> tuple[Graph, nn.Module, tuple[int, ...], Tensor]:
    """Layers, network, a size that fits, and an image of that size."""
    network = case.network(seed)
    size = case.frame((40, 52) if case.dims == 2 else (14, 12, 17))
    size = [n + case.stride if isinstance(case.stride, int) else n for n in size]
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn((1, case.n_in, *size), generator=generator)
    return fused(trace(network, case.n_in, tuple(size))), network, tuple(size), image


def pushed(stream: Stream, image: Tensor, heights: Any) -> Tensor:
    """All that comes out for an image that goes in in pieces of those heights."""
    inside = image[(slice(None), slice(None), *(slice(*span) for span in stream.wanted))]
    parts, start = [], 0
    while start < inside.shape[2]:
        n = int(next(heights))
        parts.append(stream.push(inside[:, :, start : start + n]))
        start += n
    found = [part for part in parts if part is not None]
    assert all(part.shape[2] > 0 for part in found)
    return torch.cat(found, 2)


@pytest.mark.parametrize("case", KNOWN, ids=lambda case: case.name)
@torch.inference_mode()
def test_rows_of_any_height_and_windows_of_any_size(case: Case) -> None:
    graph, network, size, image = traced(case)
    out = network(image)
    out = out["out"] if isinstance(out, dict) else out
    out = out[0] if isinstance(out, list | tuple) else out
    generator = np.random.default_rng(len(case.name))
    heights = iter(lambda: generator.integers(1, 9), None)
    for most_bytes in (1, 3000, 2**40):
        window = []
        for n in out.shape[2:]:
            start, stop = sorted(generator.choice(n + 1, 2, replace=False))
            window.append((int(start), int(stop)))
        stream = Stream(graph, size, tuple(window), most_bytes)
        found = pushed(stream, image, heights)
        expected = out[(slice(None), slice(None), *(slice(*span) for span in window))]
        torch.testing.assert_close(found, expected, atol=3e-5, rtol=0)


@torch.inference_mode()
def test_one_row_after_the_other_as_early_as_can_be() -> None:
    graph, _, size, image = traced(BY_NAME["unet 2d 2 batch transposed"])
    whole = tuple((0, n) for n in size)
    stream = Stream(graph, size, whole)
    n_out = 0
    for n_in in range(1, size[0] + 1):
        rows = stream.push(image[:, :, n_in - 1 : n_in])
        n_out += 0 if rows is None else int(rows.shape[2])
        assert n_out >= min(n_in, size[0]) // 4 * 4 - 24
        if n_in < size[0]:
            assert n_out < n_in, "it cannot know yet"
    assert n_out == size[0]


def height_of_memory(name: str, n_rows: int) -> int:
    """Most bytes that wait in a network while `n_rows` rows of 64 px go through it."""
    case = BY_NAME[name]
    graph = fused(trace(case.network(), case.n_in, (64, 64)))
    size = (n_rows, 64)
    stream = Stream(graph, size, tuple((0, n) for n in graph.sizes(size)[-1]), 2**14)
    most, rows = 0, torch.zeros(1, case.n_in, 4, 64)
    with torch.inference_mode():
        for _ in range(n_rows // 4):
            stream.push(rows)
            most = max(most, stream.n_bytes())
    return most


@pytest.mark.parametrize(
    "name", ["unet 2d 4 none transposed", "unet 2d 3 batch linear", "nested 2d", "residual 2d",
             "kernels 2d", "strided", "corners", "gates 2d"],
)  # fmt: skip
def test_memory_does_not_grow_with_the_height(name: str) -> None:
    assert height_of_memory(name, 1024) <= 1.05 * height_of_memory(name, 512)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["unet 2d 2 batch transposed", "gates 2d", "dense 2d", "stem 2d",
                                  "corners", "residual 3d", "act prelu",
                                  "act softmax"])  # fmt: skip
@torch.inference_mode()
def test_each_layer_computes_in_the_type_of_its_weights(name: str, dtype: torch.dtype) -> None:
    graph, network, size, image = traced(BY_NAME[name])
    stream = Stream(in_precision(graph, dtype), size, tuple((0, n) for n in size))
    found = pushed(stream, image, iter(lambda: 7, None))
    assert found.dtype == torch.float32  # the last layer, and so the result, is not rounded
    difference = (found - network(image)).abs()
    assert 0 < float(difference.mean()) < 0.02


@torch.inference_mode()
def test_rows_of_padding_come_before_any_row() -> None:
    """More rows of padding than a window has: nothing may be computed from them too early."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.ZeroPad2d((0, 1, 4, 2)), nn.Conv2d(3, 3, 1, padding=2),
        nn.ConstantPad2d((3, 0, 3, 5), 1.5), nn.MaxPool2d(3, 1, 1), nn.Conv2d(3, 2, 3),
    ).eval()  # fmt: skip
    image = torch.randn(1, 1, 20, 18)
    expected = network(image)
    graph = trace(network, 1, (20, 18))
    n_y, n_x = (int(n) for n in expected.shape[2:])
    for window in (
        ((0, n_y), (0, n_x)), ((0, 1), (0, 1)), ((n_y - 1, n_y), (n_x - 1, n_x)), ((0, 3), (5, 9)),
        ((n_y - 2, n_y), (0, 2)), ((1, 2), (n_x - 3, n_x)),
    ):  # fmt: skip
        stream = Stream(graph, (20, 18), window)
        found = pushed(stream, image, iter(lambda: 1, None))
        (top, bottom), (left, right) = window
        torch.testing.assert_close(found, expected[:, :, top:bottom, left:right])


@torch.inference_mode()
def test_what_lies_wholly_beyond_the_border() -> None:
    """A window of nothing but padding, which the layer before has no part in."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ConstantPad2d(5, 2.0), nn.Conv2d(2, 1, 1))
    image = torch.randn(1, 1, 6, 7)
    expected, graph = network(image), trace(network, 1, (6, 7))
    for rows in ((0, 3), (13, 16), (4, 12)):
        for columns in ((0, 2), (14, 17), (3, 13)):
            stream = Stream(graph, (6, 7), (rows, columns))
            found = pushed(stream, image, iter(lambda: 2, None))
            torch.testing.assert_close(found, expected[:, :, slice(*rows), slice(*columns)])


@torch.inference_mode()
def test_steps_that_are_wider_than_windows() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1, stride=3), nn.Conv2d(2, 2, 1, 2), nn.MaxPool2d(1, 2))
    image = torch.randn(1, 1, 41, 30)
    graph = trace(network, 1, (41, 30))
    expected = network(image)
    n_y, n_x = expected.shape[2:]
    for height in (1, 2, 5, 50):
        stream = Stream(graph, (41, 30), ((0, n_y), (1, n_x)))
        found = pushed(stream, image, iter(lambda n=height: n, None))
        torch.testing.assert_close(found, expected[:, :, :, 1:])


@torch.inference_mode()
def test_the_image_and_what_was_given_out_stay_as_they_are() -> None:
    """Layers that work in place work on what is theirs."""
    network = nn.Sequential(Acting(lambda x: x * 1), nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(True))
    graph = fused(trace(network, 1, (12, 12)))
    image = torch.randn(1, 1, 12, 12)
    before = image.clone()
    stream = Stream(graph, (12, 12), ((0, 12), (0, 12)))
    first = stream.push(image[:, :, :6])
    assert first is not None
    kept = first.clone()
    stream.push(image[:, :, 6:])
    assert torch.equal(image, before)
    assert torch.equal(first, kept)
