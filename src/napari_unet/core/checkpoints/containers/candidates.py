"""Looks for state dicts in the tree of a checkpoint."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from torch import Tensor

from napari_unet.core.checkpoints.containers.inert import Inert
from napari_unet.core.checkpoints.containers.plainly import is_optimizer

__all__ = ["Candidate", "candidates_in", "has_optimizer", "is_average"]

MAX_DEPTH = 6
MAX_VISITED = 100_000
MAX_CANDIDATES = 50
N_CONVOLUTIONS = 4  # that make a part of a state dict a network of its own

_USUAL_NAMES = """
    state_dict model_state_dict model_state network_weights model net network weights params
    params_ema module generator segmentor teacher student ema model_ema state_dict_ema
    ema_state_dict averaged_model
"""
USUAL = tuple(_USUAL_NAMES.split())
"""What people call the entry that holds the network, most common first."""

_ASIDE = re.compile(
    r"(optim|lr_sched|sched|scaler|grad_scaler|amp|rng|cuda_rng|loops|callbacks|loss|criterion"
    r"|discriminator).*",
    re.IGNORECASE,
)
_AVERAGE = re.compile(r"(^|[._])(ema|swa|averaged?|shadow|teacher)([._]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A state dict in a checkpoint.

    Attributes
    ----------
    name : for people, and to choose it by.
    path : names that lead to it.
    tensors : by name, with whatever prefix they have.
    usual : whether it is where a network usually is.
    filled : how many tensors were taken from the last step, as an average did not hold them.
    """

    name: str
    path: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    usual: bool = False
    filled: int = 0


def is_average(name: str) -> bool:
    """Whether a name says that the weights are an average over the training."""
    return _AVERAGE.search(name) is not None


def candidates_in(tree: Any) -> tuple[Candidate, ...]:
    """All state dicts, those in usual places first."""
    found = [
        Candidate(name=".".join(path) or "the network", path=path, tensors=tensors)
        for path, tensors in islice(_state_dicts(tree), MAX_CANDIDATES)
    ]
    networks = [each for each in found if _n_convolutions(each.tensors)]
    found = networks or found
    split = [part for each in found for part in _split(each)]
    ranked = sorted((replace(each, usual=_rank(each) < len(USUAL)) for each in split), key=_rank)
    return tuple(_completed(each, ranked) for each in _distinct(ranked))


def has_optimizer(tree: Any) -> bool:
    """Whether the state of an optimiser or a schedule is in it."""
    if not isinstance(tree, Mapping):
        return False
    named = any(is_optimizer(key, value) for key, value in tree.items())
    return named or "param_groups" in tree or {"base_lrs", "last_epoch"} <= set(tree)


def _rank(candidate: Candidate) -> int:
    last = candidate.path[-1] if candidate.path else USUAL[0]
    return USUAL.index(last) if last in USUAL else len(USUAL)


def _state_dicts(tree: Any) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every mapping that mostly holds tensors, with the names that lead to it."""
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), tree)])
    visited: set[int] = set()
    while waiting and len(visited) < MAX_VISITED:
        path, value = waiting.popleft()
        if isinstance(value, Inert):
            value = value.state
        if isinstance(value, (list, tuple)) and len(path) < 2 and len(value) < 100:
            value = {str(i): item for i, item in enumerate(value)}
        if not isinstance(value, Mapping) or id(value) in visited or len(path) > MAX_DEPTH:
            continue
        visited.add(id(value))
        tensors = _tensors_of(value)
        if tensors is not None:
            yield path, tensors
            continue
        for key, inner in value.items():
            if isinstance(inner, Tensor) or not isinstance(key, str):
                continue
            if not _ASIDE.fullmatch(key[:100]) and not is_optimizer(key, inner):
                waiting.append(((*path, key), inner))


def _tensors_of(value: Mapping[Any, Any]) -> dict[str, Tensor] | None:
    """The tensors of a mapping if it is a state dict, which may hold a few other things."""
    tensors = {
        name: inner
        for name, inner in value.items()
        if isinstance(name, str) and isinstance(inner, Tensor)
    }
    n_mappings = sum(isinstance(inner, Mapping) for inner in value.values())
    if not tensors or n_mappings > 0.5 * len(tensors):
        return None
    if 2 * len(tensors) < len(value) and _n_convolutions(tensors) < N_CONVOLUTIONS:
        return None
    return tensors


def _n_convolutions(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.ndim in (3, 4, 5) and value.is_floating_point() for value in tensors.values())


def _split(candidate: Candidate) -> list[Candidate]:
    """The networks in one state dict, if it holds the same one twice (student and teacher)."""
    groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, value in candidate.tensors.items():
        groups[name.partition(".")[0]][name] = value
    networks = {
        first: tensors
        for first, tensors in groups.items()
        if _n_convolutions(tensors) >= N_CONVOLUTIONS
    }
    twins: dict[frozenset[str], list[str]] = defaultdict(list)
    for first, tensors in networks.items():
        twins[_core(tensors)].append(first)
    firsts = next((firsts for firsts in twins.values() if len(firsts) > 1), [])
    if not any(is_average(first) or first in USUAL for first in firsts):
        return [candidate]  # branches of one network may well be alike
    return [
        replace(
            candidate,
            name=f"{'.'.join(candidate.path)}.{first}".lstrip("."),
            tensors=networks[first],
        )
        for first in firsts
    ]


def _core(tensors: Mapping[str, Tensor]) -> frozenset[str]:
    """Names of the convolutions without what wrappers put before them."""
    return frozenset(
        re.sub(r"^[^.]+\.(module\.|_orig_mod\.|model\.|ema_model\.)*", "", name)
        for name, value in tensors.items()
        if value.ndim >= 3
    )


def _distinct(candidates: list[Candidate]) -> list[Candidate]:
    """Without those that hold nothing but tensors of an earlier one."""
    kept: list[Candidate] = []
    seen: set[int] = set()
    for candidate in candidates:
        ids = {id(value) for value in candidate.tensors.values()}
        if not ids <= seen:
            kept.append(candidate)
        seen |= ids
    return kept


def _completed(candidate: Candidate, others: list[Candidate]) -> Candidate:
    """An average of the parameters alone, with the buffers of the network itself."""
    if not is_average(candidate.name):
        return candidate
    for other in others:
        missing = set(other.tensors) - set(candidate.tensors)
        if other is not candidate and missing and set(candidate.tensors) < set(other.tensors):
            tensors = {**other.tensors, **candidate.tensors}
            return replace(candidate, tensors=tensors, filled=len(missing))
    return candidate
