"""Which arithmetic a network runs in: tried on a typical piece of the image."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from napari_unet.core.engine.fitting import Fit
from napari_unet.core.engine.graph import Graph, Shape
from napari_unet.core.engine.precision import (
    Precision,
    in_precision,
    probe_precision,
    reduced_type,
)
from napari_unet.core.engine.request import Request, device_of
from napari_unet.core.engine.streaming import Stream
from napari_unet.core.engine.symmetry import AS_IT_IS
from napari_unet.core.engine.tiles import run_network

__all__ = ["layers_precision", "network_precision", "replay"]

PROBE_SIZE = {2: 192, 3: 48}
"""Edge of the piece that both precisions are tried on, in px."""


def layers_precision(request: Request, graph: Graph, fit: Fit) -> Precision:
    """Full precision, or 16 bits where a piece of the image shows that they do."""
    verdict = _without_trying(request)
    if verdict is not None:
        return verdict
    dtype = reduced_type(device_of(request.network))
    assert dtype is not None and request.piece is not None
    image, frame = _probe_image(request, fit)
    whole = tuple((0, n) for n in fit_out(fit, frame))

    def logits(one: Graph) -> Callable[[], Tensor]:
        return lambda: replay(one, image, whole)

    return _probed(
        logits(in_precision(graph, torch.float32)), logits(in_precision(graph, dtype)), dtype
    )


def network_precision(request: Request, fit: Fit) -> Precision:
    """As above, for a network whose layers are not known."""
    verdict = _without_trying(request)
    if verdict is not None:
        return verdict
    dtype = reduced_type(device_of(request.network))
    assert dtype is not None
    image, _ = _probe_image(request, fit)

    def logits(one: torch.dtype) -> Callable[[], Tensor]:
        return lambda: run_network(request.network, image, AS_IT_IS, one)[0].float()

    return _probed(logits(torch.float32), logits(dtype), dtype)


def _probed(
    full: Callable[[], Tensor], reduced: Callable[[], Tensor], dtype: torch.dtype
) -> Precision:
    try:
        return probe_precision(full, reduced, dtype)
    except (RuntimeError, MemoryError) as error:  # a kind of layer, or the memory, is missing
        line = str(error).partition("\n")[0]
        return Precision(dtype=torch.float32, reason=f"fewer bits could not be tried ({line})")


def _without_trying(request: Request) -> Precision | None:
    if request.precision == "full":
        return Precision(dtype=torch.float32, reason="full precision was chosen")
    if reduced_type(device_of(request.network)) is None:
        return Precision(dtype=torch.float32, reason="this device gains nothing from fewer bits")
    if request.piece is None or math.prod(request.shape) < 4 * PROBE_SIZE[request.dims] ** (
        request.dims
    ):
        return Precision(dtype=torch.float32, reason="the image is too small to gain from less")
    return None


def _probe_image(request: Request, fit: Fit) -> tuple[Tensor, Shape]:
    """A typical piece of the image, of a size that fits the network."""
    edge = PROBE_SIZE[request.dims]
    frame = fit.size_for(tuple(min(edge, n) for n in request.shape))
    assert request.piece is not None
    return request.piece(frame), frame


def fit_out(fit: Fit, frame: Shape) -> Shape:
    """The size of the output for an input of the size `frame`."""
    return tuple(n - margin for n, margin in zip(frame, fit.margin, strict=True))


@torch.inference_mode()
def replay(graph: Graph, image: Tensor, window: tuple[tuple[int, int], ...]) -> Tensor:
    """Logits `(output, ...)` of a small picture."""
    found = Stream(graph, tuple(image.shape[2:]), window).push(image)
    assert found is not None
    return found[0].float()
