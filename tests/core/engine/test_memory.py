"""How much waits is counted right."""

from __future__ import annotations

import pytest
import torch
from networks import BY_NAME

from napari_unet.core.engine.graph import fused
from napari_unet.core.engine.memory import bytes_per_column
from napari_unet.core.engine.precision import in_precision
from napari_unet.core.engine.streaming import Stream
from napari_unet.core.engine.tracing import trace


def measured(name: str, dtype: torch.dtype) -> tuple[float, float]:
    """Bytes per column that are counted, and that were there at most, after a long time."""
    case = BY_NAME[name]
    stride = case.stride if isinstance(case.stride, int) else case.stride[0]
    base = tuple(case.frame((64, 64) if case.dims == 2 else (16, 24, 24)))
    graph = in_precision(fused(trace(case.network(), case.n_in, base)), dtype)
    size = (40 * 16, *base[1:])
    stream = Stream(graph, size, tuple((0, n) for n in size), 1)
    most, rows = 0, torch.zeros(1, case.n_in, 1, *base[1:])
    with torch.inference_mode():
        for at in range(size[0] // (1 if case.dims == 2 else 8)):
            stream.push(rows)
            most = max(most, stream.n_bytes() if at > 200 or case.dims == 3 else 0)
    columns = 1
    for n in base[1:]:
        columns *= n
    return bytes_per_column(graph, base, stride), most / columns


@pytest.mark.parametrize(
    "name", ["unet 2d 2 batch transposed", "unet 2d 3 batch linear", "nested 2d", "kernels 2d",
             "residual 2d", "dense 2d", "unet 3d 1 batch linear"],
)  # fmt: skip
def test_what_waits_is_about_what_is_counted(name: str) -> None:
    counted, found = measured(name, torch.float32)
    assert 0.5 * found < counted < 2 * found


def test_half_as_many_bits_need_about_half_as_much() -> None:
    full, _ = measured("unet 2d 3 batch linear", torch.float32)
    half, found = measured("unet 2d 3 batch linear", torch.bfloat16)
    assert 0.45 * full < half < 0.7 * full
    assert 0.5 * found < half < 2 * found


def test_deeper_networks_need_more_and_the_height_does_not_matter() -> None:
    shallow, _ = measured("unet 2d 1 none linear", torch.float32)
    deep, _ = measured("unet 2d 4 none transposed", torch.float32)
    assert deep > 3 * shallow
    case = BY_NAME["unet 2d 2 batch transposed"]
    graph = fused(trace(case.network(), 1, (64, 64)))
    assert bytes_per_column(graph, (64, 64), 4) == bytes_per_column(graph, (640, 64), 4)
