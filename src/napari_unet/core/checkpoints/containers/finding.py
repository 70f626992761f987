"""Finds the network among what a checkpoint holds, and brings its names to their plain form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from napari_unet.core.checkpoints.containers.candidates import (
    Candidate,
    candidates_in,
    has_optimizer,
    is_average,
)
from napari_unet.core.checkpoints.containers.fusing import fused
from napari_unet.core.checkpoints.containers.prefixes import stages
from napari_unet.core.checkpoints.containers.sidelines import config_of, training_note
from napari_unet.core.checkpoints.containers.source import named, shown
from napari_unet.core.checkpoints.evidence import Contents, Evidence, LayerNote
from napari_unet.core.errors import ChoiceNeeded, ModelFileError

__all__ = ["find_evidence"]

_IsKnown = Callable[[Evidence], bool]
_LAYERS_KNOWN = 0.9  # of the weights, for stored layers to be those of a state dict


def find_evidence(
    contents: Contents,
    name: str,
    choose: str | None = None,
    is_known: _IsKnown | None = None,
) -> Evidence:
    """What is known of the network in a file.

    Parameters
    ----------
    contents : what was read from it.
    name : of the file, for people.
    choose : which network, if it holds several.
    is_known : whether a family recognises the names. Prefixes are only taken away as long as
        nothing is recognised, since some networks' own names begin like one.

    Raises
    ------
    ChoiceNeeded
        If it holds several networks, and it is not clear which one is meant.
    ModelFileError
        If it holds none.
    """
    with named(name):
        found = candidates_in(contents.tree)
        if not found:
            raise ModelFileError(_nothing_in(contents))
        config = config_of(contents)
        blank = Evidence(
            name=name, container=contents.container, tensors={}, config=config, notes=contents.notes
        )
        evidences = {
            candidate.name: _evidence(candidate, contents, blank, is_known) for candidate in found
        }
        chosen, said = _chosen(found, evidences, choose, is_known)
        evidence = evidences[chosen]
        training = training_note(contents.tree)
        return replace(evidence, notes=(*evidence.notes, *said, *training))


def _nothing_in(contents: Contents) -> str:
    warning = next((note for note in contents.notes if "asks to run code" in note), "")
    if has_optimizer(contents.tree):
        return (
            "It contains the state of the optimiser, not the network. Look for a file called "
            "model, best or weights next to it."
        )
    held = ""
    if isinstance(contents.tree, Mapping):
        keys = ", ".join(str(key) for key in list(contents.tree)[:8])
        held = f" It holds: {shown(keys, 200)}." if keys else ""
    return (
        f"{warning} No network was found in it.{held} Ask for the file with the weights "
        f"(torch.save(model.state_dict(), ...))."
    ).strip()


def _chosen(
    found: tuple[Candidate, ...],
    evidences: Mapping[str, Evidence],
    choose: str | None,
    is_known: _IsKnown | None,
) -> tuple[str, tuple[str, ...]]:
    """The name of the network to use, and what to tell of the choice."""
    names = tuple(candidate.name for candidate in found)
    if choose is not None:
        if choose not in names:
            raise ChoiceNeeded(
                f"It holds no network called {shown(choose)!r}, but {_listed(names)}.", names
            )
        return choose, ()
    if len(names) == 1:
        return names[0], ()
    known = [name for name in names if _is_known(evidences[name], is_known)]
    left = known if is_known is not None and known else list(names)
    averages = [name for name in left if is_average(name)]
    same = len({_signature(evidences[name]) for name in left}) == 1
    if len(left) == 1:
        return left[0], (f"The file holds {_listed(names)}; {shown(left[0])!r} was used.",)
    if same and averages:
        return averages[0], (
            f"The file holds {_listed(names)}; {shown(averages[0])!r}, averaged over the training, "
            f"was used, as it is usually the better one.",
        )
    usual = [candidate.name for candidate in found if candidate.name in left and candidate.usual]
    if len(usual) == 1 or (same and usual):
        return usual[0], (f"The file holds {_listed(names)}; {shown(usual[0])!r} was used.",)
    raise ChoiceNeeded(f"It holds {_listed(left)}. Say which one to open.", tuple(left))


def _listed(names: list[str] | tuple[str, ...]) -> str:
    listed = ", ".join(repr(shown(name, 40)) for name in names[:10])
    return f"{len(names)} networks ({listed})"


def _is_known(evidence: Evidence, is_known: _IsKnown | None) -> bool:
    try:
        return is_known is not None and is_known(evidence)
    except ModelFileError:
        return True  # several families claim it: a matter for whoever asks them


def _signature(evidence: Evidence) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the convolutions."""
    return frozenset(
        (name, tuple(value.shape)) for name, value in evidence.tensors.items() if value.ndim > 2
    )


def _evidence(
    candidate: Candidate, contents: Contents, blank: Evidence, is_known: _IsKnown | None
) -> Evidence:
    """One candidate with its parts fused and its prefix away."""
    tensors, n_fused = fused(candidate.tensors)
    notes = [*blank.notes]
    if n_fused:
        notes.append(f"The normalisation of {n_fused} weights was computed into them.")
    if candidate.filled:
        notes.append(
            f"{candidate.filled} tensors that the average does not hold are those of the last step."
        )
    layers = _layers_of(candidate, contents)
    whole = replace(blank, tensors=tensors, layers=layers, notes=tuple(notes))
    steps = [_without(whole, prefix) for prefix, _ in stages(tensors)]
    known = next((step for step in steps if _is_known(step, is_known)), None)
    if known is not None:
        return known
    usual = [step for step, (_, sure) in zip(steps, stages(tensors), strict=True) if sure]
    return usual[-1]


def _without(evidence: Evidence, prefix: str) -> Evidence:
    """The same without a prefix, and without what does not have it."""
    if not prefix:
        return evidence
    inner = {
        name.removeprefix(prefix): value
        for name, value in evidence.tensors.items()
        if name.startswith(prefix)
    }
    others = [name for name in evidence.tensors if not name.startswith(prefix)]
    notes = evidence.notes
    if others:
        listed = ", ".join(shown(name, 40) for name in others[:3])
        notes = (*notes, f"{len(others)} tensors beside the network were left out: {listed}.")
    return replace(
        evidence,
        tensors=inner,
        prefix=prefix,
        layers=_layers_without(evidence.layers, prefix),
        notes=notes,
    )


def _layers_without(layers: Mapping[str, LayerNote], prefix: str) -> dict[str, LayerNote]:
    root = prefix.rstrip(".")
    return {
        path.removeprefix(root).removeprefix("."): note
        for path, note in layers.items()
        if path == root or path.startswith(prefix)
    }


def _layers_of(candidate: Candidate, contents: Contents) -> dict[str, LayerNote]:
    """The stored layers of a candidate: at its own place, or of the same network elsewhere."""
    if not contents.layers:
        return {}
    own = ".".join(candidate.path)
    here = _layers_without(contents.layers, f"{own}.") if own else dict(contents.layers)
    if _fit(here, candidate.tensors):
        return here
    first = next(iter(candidate.tensors)).rpartition(".")[0]
    for path in contents.layers:
        if path.endswith(f".{first}"):
            there = _layers_without(contents.layers, path.removesuffix(first))
            if _fit(there, candidate.tensors):
                return there
    return {}


def _fit(layers: Mapping[str, LayerNote], tensors: Mapping[str, Tensor]) -> bool:
    """Whether nearly all tensors belong to one of the layers."""
    owners = [name.rpartition(".")[0] for name in tensors]
    return bool(layers) and sum(o in layers for o in owners) >= _LAYERS_KNOWN * len(owners)
