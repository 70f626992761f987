"""Small files and outputs of the networks that others wrote, and what is asked of all families."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding
from napari_unet.core.checkpoints.plain import from_plain, to_json
from napari_unet.core.errors import ModelFileError

FOLDER = Path(__file__).parents[3] / "fixtures" / "checkpoints"
CLASSICS = (
    "milesial", "brain_segmentation", "jvanvugt", "jaxony", "usuyama", "leejunhyun", "nested_unet",
)  # fmt: skip
REFUSALS = (KeyError, IndexError, ModelFileError)
"""What may be raised for a file of which something is missing or strange."""


def fixtures(*folders: str) -> list[str]:
    """The fixtures in some folders, as "folder/variant"."""
    found = [path for folder in folders for path in sorted((FOLDER / folder).glob("*.pt"))]
    assert found, folders
    return [f"{path.parent.name}/{path.stem}" for path in found]


def evidence_of(fixture: str, **known: Any) -> Evidence:
    """What is in the file of a fixture."""
    stored = torch.load(FOLDER / f"{fixture}.pt", weights_only=True)
    tensors = {name: value for name, value in stored.items() if isinstance(value, Tensor)}
    return Evidence(name=f"{fixture}.pt", container="PyTorch file", tensors=tensors, **known)


def without(evidence: Evidence, *names: str) -> Evidence:
    """The same with some tensors missing."""
    left = {name: value for name, value in evidence.tensors.items() if name not in names}
    return replace(evidence, tensors=left)


def weights_for(network: nn.Module, evidence: Evidence, found: Understanding) -> dict[str, Tensor]:
    """The tensors of a file by their names in the network; every one of them is used or ignored."""
    tensors = dict(found.tensors or evidence.tensors)
    weights = {}
    for name in network.state_dict():
        places = found.names.get(name, (name,))
        weights[name] = tensors.pop(places[0])
    left = set(tensors) - _ignored(evidence, found)
    assert not left, sorted(left)[:5]
    return weights


def _ignored(evidence: Evidence, found: Understanding) -> set[str]:
    return {match[0] for pattern in found.ignored for match in evidence.matches(pattern)}


def rebuilt(family: Family, evidence: Evidence, **chosen: Any) -> nn.Module:
    """The network of a file, in evaluation mode."""
    found = family.understand(evidence)
    with torch.device("meta"):
        network = family.network(replace(found.config, **chosen))
    network.load_state_dict(weights_for(network, evidence, found), strict=True, assign=True)
    return network.eval()


def pairs(fixture: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Images, and the outputs of the original."""
    with np.load(FOLDER / f"{fixture}.npz") as arrays:
        for name in arrays.files:
            if name.startswith("input"):
                output = arrays[name.replace("input", "output")]
                yield torch.from_numpy(arrays[name]), torch.from_numpy(output)


@torch.inference_mode()
def difference(network: nn.Module, fixture: str) -> float:
    """The largest difference from the outputs of the original."""
    largest = 0.0
    for image, wanted in pairs(fixture):
        output = network(image)
        assert output.shape == wanted.shape
        assert float(wanted.std()) > 0.01
        largest = max(largest, float((output - wanted).abs().max()))
    return largest


def is_sound(network: nn.Module, image: Tensor) -> bool:
    """Whether it can be copied and trained, and leaves its input alone."""
    before, twin = image.clone(), copy.deepcopy(network)
    with torch.inference_mode():
        same = torch.equal(network(image), twin(image))
    twin.train()(image).square().mean().backward()
    unused = [name for name, value in twin.named_parameters() if value.grad is None]
    return same and not unused and torch.equal(before, image)


def is_plain(config: Any) -> bool:
    """Whether a config comes back from JSON as it was."""
    return from_plain(type(config), json.loads(to_json(config))) == config


def damaged(evidence: Evidence) -> Iterator[Evidence]:
    """The same, with one tensor missing, or of another number of axes, one after the other."""
    for name in evidence.tensors:
        if name.endswith(("weight", "bias")):
            yield without(evidence, name)
            for shape in ((97,), (2, 1, 3)):
                changed = {**evidence.tensors, name: torch.zeros(shape)}
                yield replace(evidence, tensors=changed)


def refuses(family: Family, evidence: Evidence) -> bool:
    """Whether a damaged file is seen to be none of a family, or not to fit its network.

    Whatever else is raised than what says that something is missing goes through.
    """
    if not family.recognise(evidence):
        return True
    try:
        found = family.understand(evidence)
    except REFUSALS:
        return True
    expected = _shapes(family, found.config)
    places = {name: found.names.get(name, (name,))[0] for name in expected}
    shapes = {name: value.shape for name, value in evidence.tensors.items()}
    fits = all(shapes.get(places[name]) == shape for name, shape in expected.items())
    return not fits or bool(set(shapes) - set(places.values()) - _ignored(evidence, found))


@cache
def _shapes(family: Family, config: Any) -> dict[str, torch.Size]:
    """The shapes of all tensors of a network, by their names in it."""
    with torch.device("meta"):
        state = family.network(config).state_dict()
    return {name: value.shape for name, value in state.items()}
