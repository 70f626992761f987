"""Weights that are stored as the parts they are computed from, put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ["fused"]

_Parts = tuple[Tensor, ...]


def _with_norm(parts: _Parts) -> Tensor:
    """`g * v / |v|` (Salimans and Kingma, 2016); `g` `(out, 1, ...)` says which axes remain."""
    length, direction = parts
    axes = [axis for axis in range(direction.ndim) if length.shape[axis] == 1]
    if length.ndim != direction.ndim or not axes:
        axes = [*range(direction.ndim)]
    norms: Tensor = torch.linalg.vector_norm(direction, dim=axes, keepdim=True)
    return direction * (length / norms)


def _over_spectrum(parts: _Parts, axis: int = 0) -> Tensor:
    """`w / sigma` with `sigma = u W v` (Miyato et al., 2018), `W` with `axis` first."""
    weight, left, right = parts
    if weight.shape[axis] != left.numel():
        axis = 1  # transposed convolutions
    matrix = weight.movedim(axis, 0).flatten(1)  # (out, in * kernel)
    sigma: Tensor = torch.dot(left, matrix @ right)
    return weight / sigma


_NEW = "parametrizations.weight."
_RULES: tuple[tuple[tuple[str, ...], Callable[[_Parts], Tensor]], ...] = (
    (("weight_g", "weight_v"), _with_norm),
    (("weight_orig", "weight_u", "weight_v"), _over_spectrum),
    ((f"{_NEW}original0", f"{_NEW}original1"), _with_norm),
    ((f"{_NEW}original", f"{_NEW}0._u", f"{_NEW}0._v"), _over_spectrum),
)
"""The parts of a weight, the first of which stands for all, and what is computed from them."""


def fused(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """The tensors with weight and spectral normalisation computed, and for how many it was."""
    computed: dict[str, tuple[str, Tensor]] = {}
    used: set[str] = set()
    for name in tensors:
        for parts, compute in _RULES:
            layer = name.removesuffix(parts[0])
            names = [layer + part for part in parts]
            if not name.endswith(parts[0]) or (layer and layer[-1] != "."):
                continue
            if all(part in tensors for part in names):
                weight = _computed(compute, tuple(tensors[part] for part in names))
                if weight is not None:
                    computed[name] = (f"{layer}weight", weight)
                    used.update(names)
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name in computed:
            found[computed[name][0]] = computed[name][1]
        elif name not in used:
            found[name] = value
    return found, len(computed)


def _computed(compute: Callable[[_Parts], Tensor], parts: _Parts) -> Tensor | None:
    """The weight; `None` if the shapes of its parts do not fit."""
    try:
        return compute(parts)
    except (RuntimeError, IndexError):
        return None
