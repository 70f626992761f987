"""What the indices of layers, and layers that were stored whole, tell of a U-Net of any names."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any, Literal, cast

from napari_unet.core.checkpoints.evidence import COUNTER, Evidence, LayerNote
from napari_unet.core.checkpoints.matching.items import Item, Items
from napari_unet.core.checkpoints.matching.network import Step
from napari_unet.core.checkpoints.matching.pairing import Pairing, Placed

__all__ = ["names_of", "settings_of", "step_of"]

NORM_PARTS = ("weight", "bias", "running_mean", "running_var", COUNTER)


def step_of(placed: Placed) -> Step:
    """The convolution of a place."""
    item = placed.item
    first, second = item.shape[:2]
    n_in, n_out = (first, second) if placed.transposed else (second, first)
    return Step(
        n_in=n_in,
        n_out=n_out,
        kernel=item.kernel,
        bias=item.bias,
        norm=bool(item.norm),
        transposed=placed.transposed,
    )


def names_of(evidence: Evidence, pairing: Pairing) -> dict[str, tuple[str, ...]]:
    """For each name in the network its name in the file."""
    found: dict[str, tuple[str, ...]] = {}
    numbers: Counter[tuple[str, int]] = Counter()
    for placed in pairing.placed:
        number = numbers[placed.kind, placed.level]
        numbers[placed.kind, placed.level] += 1
        path = f"{placed.kind}.{placed.level}.{number}"
        if placed.kind in ("up", "down"):
            path = f"{placed.kind}.{placed.level}"
        elif placed.kind in ("bottom", "head"):
            path = f"{placed.kind}.{number}"
        for part in ("weight", "bias"):
            found[f"{path}.conv.{part}"] = (f"{placed.item.path}.{part}",)
        for part in NORM_PARTS if placed.item.norm else ():
            found[f"{path}.norm.{part}"] = (f"{placed.item.norm}.{part}",)
    return {ours: names for ours, names in found.items() if evidence.has(*names)}


def settings_of(
    evidence: Evidence, items: Items, pairing: Pairing
) -> tuple[dict[str, Any], list[str]]:
    """Attributes of the config beyond the convolutions, and the names of the assumed ones."""
    assumed: list[str] = []
    settings: dict[str, Any] = {}
    for name, value, is_known in (
        *_norms(evidence, items, pairing),
        *_orders(items, pairing),
        *_stored(evidence, pairing),
    ):
        settings[name] = value
        assumed += [] if is_known else [name]
    if pairing.layout.join == "add":
        settings["join"] = "add"
    else:
        assumed.append("join")
    return settings, assumed


def _gap(first: str, second: str) -> int | None:
    """By how much the index of a layer is larger than that of another one of the same list."""
    (parent, _, one), (other_parent, _, other) = first.rpartition("."), second.rpartition(".")
    if parent != other_parent or not (one.isdecimal() and other.isdecimal()):
        return None
    return int(other) - int(one)


def _inner_gaps(pairing: Pairing) -> set[int]:
    """By how much the indices of convolutions of the same place grow."""
    gaps = {
        _gap(one.item.path, other.item.path)
        for one, other in pairwise(pairing.placed)
        if (one.kind, one.level) == (other.kind, other.level) and one.kind != "head"
    }
    return cast(set[int], gaps - {None})


def _norms(evidence: Evidence, items: Items, pairing: Pairing) -> list[tuple[str, Any, bool]]:
    """What normalizes, and in how many groups."""
    if items.norm == "batch":
        return [("norm", "batch", True)]
    if items.norm == "group":
        path = next(item.norm for item in items.convs if item.norm)
        note = evidence.layers.get(path)
        if note and note.kind.startswith("InstanceNorm"):
            return [("norm", "instance", True)]
        groups = note.values.get("num_groups") if note else None
        return [("norm", "group", note is not None), ("groups", groups or 8, groups is not None)]
    stored = {note.kind for note in evidence.layers.values()}
    if stored:
        has_norm = any(kind.startswith("InstanceNorm") for kind in stored)
        return [("norm", "plain_instance" if has_norm else "none", True)]
    # Between two convolutions are the activation, and a normalization without weights or a dropout.
    is_wide = min(_inner_gaps(pairing), default=0) >= 3
    has_bias = pairing.placed[0].item.bias
    return [("norm", "plain_instance" if is_wide and not has_bias else "none", not is_wide)]


def _orders(items: Items, pairing: Pairing) -> list[tuple[str, Any, bool]]:
    """The order of convolution, normalization and activation, and whether all have one."""
    inner = min(_inner_gaps(pairing), default=None)
    every = inner is None or inner > (1 if items.norm == "none" else 2)
    found: list[tuple[str, Any, bool]] = [("every", every, True)]
    if items.norm == "none":
        return found
    first, second = ("norm", "path") if items.norm_first else ("path", "norm")
    pairs = [
        _gap(getattr(item, first), getattr(item, second))
        for item in items.convs
        if item.norm and max(item.kernel) > 1
    ]
    gaps = {gap for gap in pairs if gap is not None}
    apart = min(gaps, default=1) > 1
    after = "conv act norm" if apart else "conv norm act"
    before = "norm act conv" if apart else "norm conv act"
    return [*found, ("order", before if items.norm_first else after, bool(gaps))]


def _stored(evidence: Evidence, pairing: Pairing) -> list[tuple[str, Any, bool]]:
    """What layers tell that were stored whole, else what is usual."""
    notes = list(evidence.layers.values())
    found: list[tuple[str, Any, bool]] = []
    found.append(_nonlinearity(notes))
    padding = evidence.setting(_first_wide(pairing).path, "padding")
    is_valid = padding == 0 or (isinstance(padding, (tuple, list)) and not any(padding))
    found.append(("padding", "valid" if is_valid else "same", padding is not None))
    if not pairing.layout.has_down:
        is_mean = any(note.kind.startswith("AvgPool") for note in notes)
        is_known = any("Pool" in note.kind for note in notes)
        found.append(("pooling", "mean" if is_mean else "max", is_known))
    if any(placed.kind == "up" and placed.transposed for placed in pairing.placed):
        return [*found, ("up_activation", False, False)]
    if pairing.layout.has_up:
        found.append(("up_activation", False, _has_norm(pairing, "up")))
    modes = [note for note in notes if note.kind.startswith("Upsampl")]
    mode = "linear"
    if modes:
        values = modes[0].values
        corners = modes[0].kind == "UpsamplingBilinear2d" or values.get("align_corners")
        is_linear = "linear" in str(values.get("mode", "nearest")).lower()
        mode = ("linear_corners" if corners else "linear") if is_linear else "nearest"
    return [*found, ("enlarging", mode, bool(modes))]


def _nonlinearity(
    notes: list[LayerNote],
) -> tuple[Literal["nonlinearity"], str, bool]:
    for note in notes:
        if note.kind == "LeakyReLU":
            slope = float(note.values.get("negative_slope", 0.01))
            named = min((0.01, 0.1, 0.2), key=lambda known: abs(known - slope))
            return "nonlinearity", f"leaky_relu_{named}", abs(named - slope) < 1e-6
        if note.kind in ("ReLU", "ELU"):
            return "nonlinearity", note.kind.lower(), True
    return "nonlinearity", "relu", False


def _first_wide(pairing: Pairing) -> Item:
    """The first convolution for which padding matters."""
    wide = [placed.item for placed in pairing.placed if max(placed.item.kernel) > 1]
    return (wide or [pairing.placed[0].item])[0]


def _has_norm(pairing: Pairing, kind: str) -> bool:
    return all(placed.item.norm for placed in pairing.placed if placed.kind == kind)
