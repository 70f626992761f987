"""Tensors that a file holds under several names, because its network held a layer twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from napari_unet.core.checkpoints.evidence import Evidence

__all__ = ["merged"]


def merged(
    evidence: Evidence, canonical: Callable[[str], str]
) -> tuple[Evidence, Mapping[str, tuple[str, ...]]]:
    """The evidence with each tensor once, and the names it had in the file.

    Some writers keep only one of the names, and not always the same one. Where two of them have
    different numbers, a note says so.

    Parameters
    ----------
    evidence : what is known of the file.
    canonical : name in the file to name in the network; the same for all names of one tensor.
    """
    names: dict[str, tuple[str, ...]] = {}
    tensors: dict[str, Tensor] = {}
    differing: list[str] = []
    for name, tensor in evidence.tensors.items():
        known = canonical(name)
        if not _same(tensors.setdefault(known, tensor), tensor):
            differing.append(known)
            tensors[known] = tensor if name == known else tensors[known]
        # The own name comes first, so that it is the one that is read.
        names[known] = (
            (name, *names.get(known, ())) if name == known else (*names.get(known, ()), name)
        )
    layers = {canonical(f"{path}.")[:-1]: note for path, note in evidence.layers.items()}
    renamed = {known: given for known, given in names.items() if given != (known,)}
    notes = evidence.notes
    if differing:
        notes = (
            *notes,
            f"The file holds {len(differing)} tensors twice, with different numbers (first: "
            f"{differing[0][:80]!r}). One of each was taken; the file may be damaged.",
        )
    return replace(evidence, tensors=tensors, layers=layers, notes=notes), renamed


def _same(one: Tensor, other: Tensor) -> bool:
    is_alike = one.shape == other.shape and one.dtype == other.dtype
    return is_alike and bool(torch.allclose(one, other, rtol=0, atol=0, equal_nan=True))
