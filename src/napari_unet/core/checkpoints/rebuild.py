"""From what a file was understood to be to a model that works, or to the reason why not."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from napari_unet.core.architectures import architecture_of
from napari_unet.core.checkpoints.checks import (
    check_layers,
    check_numbers,
    first_line,
    try_out,
)
from napari_unet.core.checkpoints.containers.source import shown
from napari_unet.core.checkpoints.evidence import COUNTER, Evidence
from napari_unet.core.checkpoints.family import Understanding, classes_of
from napari_unet.core.checkpoints.origin import Origin
from napari_unet.core.device import choose_device
from napari_unet.core.errors import ModelFileError, SettingsError
from napari_unet.core.model import Description, Model, weights_id
from napari_unet.core.normalization import Normalization

__all__ = ["fill", "rebuild", "shape_words", "without_memory"]

N_SHOWN = 5
ALWAYS_OPEN = ("activation", "class_names", "inverted", "normalization", "pixel_size")
"""What the user may decide even where the file states it."""


def rebuild(
    evidence: Evidence,
    architecture: str,
    understood: Understanding,
    *,
    sha256: str = "",
    member: str = "",
    changes: Mapping[str, Any] | None = None,
) -> Model:
    """Build the network, fill it, try it out, and describe it.

    Parameters
    ----------
    evidence : what was read.
    architecture : name of the kind of network, see `core.architectures`.
    understood : what it was understood to be.
    sha256, member : of the file, hexadecimal; which of several models in it.
    changes : attributes of the config or the `Description` that the user has decided.

    Raises
    ------
    ModelFileError
        If tensors are missing, left over, of the wrong shape or no numbers, or if the network
        does not work.
    """
    kind = architecture_of(architecture)
    understood = _changed(understood, changes or {})
    empty = without_memory(kind.build, understood.config)
    expected = _expected(empty)
    tensors, origin = _assigned(evidence, kind.title, expected, understood)
    network = fill(empty, kind.build, understood.config, tensors)
    check_layers(network, evidence, kind.title)
    checked = [
        *check_numbers(network, evidence.name),
        *try_out(network, understood.config, evidence.name),
    ]
    extras = _leftovers(evidence, kind.title, expected, understood)
    notes = (*evidence.notes, *understood.notes, *_told(extras, understood))
    return Model(
        network=network,
        architecture=architecture,
        config=understood.config,
        description=_description(evidence, understood, changes or {}, (*notes, *checked)),
        device=choose_device("cpu"),
        id=weights_id(network),
        origin=replace(origin, sha256=sha256, member=member),
        extras=extras,
    )


# ---- what the user has decided


def _changed(understood: Understanding, changes: Mapping[str, Any]) -> Understanding:
    names = {field.name for field in fields(understood.config)}  # type: ignore[arg-type]
    own = {name: value for name, value in changes.items() if name in names}
    try:
        config = replace(understood.config, **own) if own else understood.config  # type: ignore[type-var]
    except (SettingsError, TypeError, ValueError) as error:
        raise ModelFileError(f"The network cannot be built with {own}: {error}") from error
    rest = {name: value for name, value in changes.items() if name not in names}
    return replace(understood, config=config, about={**understood.about, **rest})


# ---- names and shapes


@dataclass(frozen=True, slots=True)
class _Expected:
    """The tensors of a network: their shapes by name, and which are whole numbers."""

    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, torch.dtype]


def _expected(network: nn.Module) -> _Expected:
    state = network.state_dict()
    return _Expected(
        {name: tuple(value.shape) for name, value in state.items()},
        {name: value.dtype for name, value in state.items()},
    )


def without_memory(build: Any, config: Any) -> nn.Module:
    """A network without memory for its weights, to be given some by `fill`.

    Raises
    ------
    ModelFileError
        If there is no such network.
    """
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about tensors without elements
            network: nn.Module = build(config)
    except Exception as error:  # of shapes from a file that no network has
        raise ModelFileError(
            f"The tensors in the file have shapes that no such network has ({first_line(error)}). "
            f"The file is damaged, or of a variant that is not known here."
        ) from error
    return network


def _assigned(
    evidence: Evidence, title: str, expected: _Expected, understood: Understanding
) -> tuple[dict[str, Tensor], Origin]:
    """The tensor for each name of the network, and what it is called in the file."""
    tensors: dict[str, Tensor] = {}
    missing: list[str] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in expected.shapes.items():
        inner = [own for own in understood.names.get(name, (name,)) if own in evidence.tensors]
        own = understood.tensors or {}
        if name in own:
            tensors[name] = own[name]
        elif inner and understood.tensors is None:
            tensors[name] = evidence.tensors[inner[0]]
        elif name.endswith(COUNTER):
            tensors[name] = torch.zeros((), dtype=torch.int64)
        else:
            missing.append(name)
            continue
        if name.endswith(COUNTER) and tensors[name].numel() == 1:
            tensors[name] = tensors[name].reshape(())
        if inner and evidence.tensors[inner[0]].shape != shape:
            shapes[name] = tuple(evidence.tensors[inner[0]].shape)
    _complain_of_integers(evidence, tensors)
    _complain_of_missing(evidence, title, missing, len(expected.shapes))
    _complain_of_shapes(evidence, title, tensors, expected)
    origin = Origin(
        file=evidence.name,
        container=evidence.container,
        prefix=evidence.prefix,
        names=_names_in(evidence, expected, understood),
        shapes=shapes,
    )
    return {name: value.to(expected.types[name]) for name, value in tensors.items()}, origin


def _names_in(
    evidence: Evidence, expected: _Expected, understood: Understanding
) -> dict[str, tuple[str, ...]]:
    """The names that the file really has, where they differ from those of the network."""
    found = {}
    for name, names in understood.names.items():
        if name in expected.shapes:
            found[name] = tuple(own for own in names if own in evidence.tensors) or names
    return found


def _complain_of_integers(evidence: Evidence, tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        if value.ndim > 1 and not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise ModelFileError(
                f"{evidence.name} holds weights as whole numbers ({kind}, first: '{shown(name)}'): "
                f"it was quantised, and cannot be used so. Ask for the float version."
            )


def _complain_of_missing(
    evidence: Evidence, title: str, missing: Sequence[str], n_expected: int
) -> None:
    if missing:
        raise ModelFileError(
            f"{evidence.name} looks like a {title}, but {len(missing)} of its {n_expected} tensors "
            f"are missing (first: '{shown(missing[0])}'). It was perhaps saved in part: an encoder "
            f"alone cannot be used. Ask for the whole network."
        )


def _complain_of_shapes(
    evidence: Evidence, title: str, tensors: Mapping[str, Tensor], expected: _Expected
) -> None:
    wrong = [
        f"'{shown(name)}' is {shape_words(value.shape)} and should be "
        f"{shape_words(expected.shapes[name])}"
        for name, value in tensors.items()
        if tuple(value.shape) != expected.shapes[name]
    ]
    if wrong:
        more = f", and {len(wrong) - N_SHOWN} more" if len(wrong) > N_SHOWN else ""
        raise ModelFileError(
            f"{evidence.name} looks like a {title}, but {'; '.join(wrong[:N_SHOWN])}{more}. The "
            f"file is damaged, or of a variant that is not known here."
        )


def shape_words(shape: Sequence[int]) -> str:
    """A shape as people write it: 64 x 3 x 3 x 3."""
    return " x ".join(str(n) for n in shape) or "a single number"


def _leftovers(
    evidence: Evidence, title: str, expected: _Expected, understood: Understanding
) -> dict[str, Tensor]:
    """What in the file is not used: kept for whoever saves the model back as it was.

    Raises
    ------
    ModelFileError
        If it is a part of a network that is not known.
    """
    used = {own for name in expected.shapes for own in understood.names.get(name, (name,))}
    extras = {name: value for name, value in evidence.tensors.items() if name not in used}
    left = [name for name in extras if not _is_ignored(name, understood)]
    if sum(evidence.tensors[name].ndim >= 3 for name in left) > 1:
        raise ModelFileError(
            f"{evidence.name} looks like a {title}, but holds {len(left)} tensors that such a "
            f"network does not have (first: '{shown(left[0])}'): it is another, larger network, "
            f"which is not known here."
        )
    return extras


def _is_ignored(name: str, understood: Understanding) -> bool:
    patterns = (*understood.ignored, rf".*{COUNTER}")
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _told(extras: Mapping[str, Tensor], understood: Understanding) -> Iterator[str]:
    """Say what was not used, but for what never is."""
    left = [name for name in extras if not _is_ignored(name, understood)]
    if left:
        yield f"{len(left)} extra tensors were ignored: {', '.join(map(shown, left[:N_SHOWN]))}."


# ---- the network itself


def fill(network: nn.Module, build: Any, config: Any, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network, made by `without_memory`, with these weights: in evaluation mode, nothing of it
    to be trained. `build` and `config` make anew what files do not hold."""
    exact = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    network.load_state_dict(exact, strict=True, assign=True)
    for name, buffer in network.named_buffers():
        if buffer.is_meta:  # not stored in files: made anew
            parent, _, own = name.rpartition(".")
            fresh = build(config).get_buffer(name)
            network.get_submodule(parent).register_buffer(own, fresh, persistent=False)
    return network.eval().requires_grad_(False)


# ---- in words


def _description(
    evidence: Evidence,
    understood: Understanding,
    changes: Mapping[str, Any],
    notes: tuple[str, ...],
) -> Description:
    config = understood.config
    n_in = config.in_channels
    about = {
        "name": evidence.name.rsplit("/", 1)[-1].rsplit(".", 1)[0],
        "channels": "one channel" if n_in == 1 else f"{n_in} channels",
        "source": evidence.name,
        "normalization": Normalization(),
        **classes_of(config.out_channels),
        **understood.about,
    }
    about.update(dims=config.dims, in_channels=n_in)
    return Description(
        **about,
        assumed=tuple(dict.fromkeys(understood.assumed)),
        chosen=tuple(name for name in changes if name in {*understood.assumed, *ALWAYS_OPEN}),
        notes=tuple(dict.fromkeys(notes)),
    )
