"""What shape a layer gives, without computing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from napari_unet.core.networks.layered_ops import OPS

__all__ = ["shape_after"]

SAME = frozenset({
    "identity", "relu", "selu", "silu", "mish", "sigmoid", "tanh", "softplus", "softsign",
    "hard_swish", "abs", "neg", "exp", "log", "sqrt", "softmax", "leaky_relu", "elu", "gelu",
    "hard_sigmoid", "clip", "prelu", "batch_norm", "instance_norm", "group_norm", "layer_norm",
    "scale_shift",
})  # fmt: skip
"""Layers that give the shape that they are given, whose weights the recorder has checked."""


def shape_after(
    op: str,
    shapes: Sequence[tuple[int, ...]],
    values: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    dims: int,
) -> tuple[int, ...]:
    """The shape that a layer gives, computed where there are no numbers.

    Raises
    ------
    RuntimeError, ValueError, TypeError, IndexError
        If shapes do not fit.
    """
    if op in SAME:
        return shapes[0]
    with torch.device("meta"):
        module = OPS[op].build(values, dims)
        for role, weight in weights.items():
            if getattr(module, role).shape != weight.shape:
                raise ValueError(f"{role} is of shape {tuple(weight.shape)}")
        inputs = [torch.empty(shape) for shape in shapes]
        return tuple(OPS[op].run(module.eval(), values, inputs).shape)
