"""Arithmetic with 16 bits where it is faster and says the same.

Whether it is faster follows from what is built into the device, and not from a measurement: on a
busy computer that would come out one way today and the other tomorrow, and the result with it.

The first convolution stays in float32: it sees the raw contrast of the image, and rounding there
changes ten times as many labels as rounding anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from napari_unet.core.device import processor_has_bfloat16
from napari_unet.core.engine.graph import Graph
from napari_unet.core.engine.ops import Convolution, Op, cast

__all__ = ["MOST_CHANGED", "Precision", "in_precision", "probe_precision", "reduced_type"]

MOST_CHANGED = 3e-4
"""Share of pixels whose label may change with 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """The arithmetic that is used, and why."""

    dtype: torch.dtype
    reason: str

    @property
    def is_reduced(self) -> bool:
        """Whether it is not full float32."""
        return self.dtype != torch.float32


def reduced_type(device: torch.device) -> torch.dtype | None:
    """The 16-bit type that a device computes with in hardware, if it has one."""
    if device.type == "cuda":
        return torch.float16
    if device.type == "cpu" and processor_has_bfloat16():
        return torch.bfloat16
    return None


def in_precision(graph: Graph, dtype: torch.dtype) -> Graph:
    """The network with its weights in `dtype`, but for the layers that see the image itself."""
    raw = {0}  # the image, and what is made of it without a convolution
    exact = {len(graph.layers)}
    for place, layer in enumerate(graph.layers, start=1):
        if raw & set(layer.inputs):
            exact.add(place)
            raw.update(() if isinstance(layer.op, Convolution) else (place,))
    places = iter(range(1, len(graph.layers) + 1))

    def change(op: Op) -> Op:
        return cast(op, torch.float32 if next(places) in exact else dtype)

    return graph.mapped(change)


def probe_precision(
    full: Callable[[], Tensor], reduced: Callable[[], Tensor], dtype: torch.dtype
) -> Precision:
    """Compare both on a piece of the image.

    Parameters
    ----------
    full, reduced : give logits `(output, [z,] y, x)` of the same piece, float32.
    dtype : the type of `reduced`.
    """
    name = str(dtype).removeprefix("torch.")
    exact, rounded = full(), reduced()
    if not bool(torch.isfinite(rounded).all()):
        return Precision(dtype=torch.float32, reason=f"{name} overflows in this network")
    changed = float((_labels(exact) != _labels(rounded)).float().mean())
    if changed > MOST_CHANGED:
        return Precision(
            dtype=torch.float32,
            reason=f"{name} would change {changed:.1e} of the labels of a piece of this image",
        )
    return Precision(
        dtype=dtype,
        reason=f"{name}, which is built into this device, changed {changed:.1e} of the labels of a "
        "piece of this image",
    )


def _labels(logits: Tensor) -> Tensor:
    return logits.argmax(0) if logits.shape[0] > 1 else logits[0] > 0
