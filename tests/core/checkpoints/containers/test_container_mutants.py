"""Mutants of valid files: each is read or declined with a sentence, and nothing else happens."""

import io
import pickle
import random
import resource
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from napari_unet.core.checkpoints.containers import Source, read_contents, sniff
from napari_unet.core.checkpoints.containers.finding import find_evidence
from napari_unet.core.errors import ModelFileError

N_MUTANTS = 300
MAX_GROWTH = 200_000  # kB


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1)
    ).eval()


def checkpoint() -> dict[str, Any]:
    weights = network().state_dict()
    return {
        "epoch": np.int64(3),
        "state_dict": {f"module.{name}": value for name, value in weights.items()},
        "hyper_parameters": {"lr": 0.1, "sizes": np.arange(3), "device": torch.device("cpu")},
    }


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def deflated(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return file.getvalue()


def scripted() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but many files are of this kind
        torch.jit.save(torch.jit.trace(network(), torch.zeros(1, 1, 8, 8)), file)
    return file.getvalue()


def exported() -> bytes:
    file = io.BytesIO()
    torch.export.save(torch.export.export(network(), (torch.zeros(1, 1, 8, 8),)), file)
    return file.getvalue()


def tar_of_version_0_1() -> bytes:
    numbers = np.arange(36, dtype="<f4")
    storages = pickle.dumps(1, 2) + pickle.dumps((7, "cpu", torch.FloatStorage), 2)
    storages += np.int64(36).tobytes() + numbers.tobytes() + pickle.dumps([], 2)
    tensors = pickle.dumps(1, 2) + pickle.dumps((8, 7, torch.FloatTensor), 2)
    tensors += np.array([4, 0], "<i4").tobytes() + np.array([2, 2, 3, 3], "<i8").tobytes()
    tensors += np.array([18, 9, 3, 1], "<i8").tobytes() + np.int64(0).tobytes()
    parts = {
        "storages": storages,
        "tensors": tensors,
        "pickle": b"\x80\x02}X\x06\x00\x00\x00weightK\x08Qs.",
    }
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


MAKERS: dict[str, Callable[[], bytes]] = {
    "torch": lambda: saved(checkpoint()),
    "torch, deflated": lambda: deflated(saved(checkpoint())),
    "torch, whole module": lambda: saved(network()),
    "torch-legacy": lambda: saved(checkpoint(), _use_new_zipfile_serialization=False),
    "torch-tar": tar_of_version_0_1,
    "pickle, oldest": lambda: pickle.dumps(network(), 0),
    "pickle, newest": lambda: pickle.dumps(checkpoint(), 5),
    "torchscript": scripted,
    "pt2": exported,
    "safetensors": lambda: safetensors.torch.save(network().state_dict(), {"a": "b"}),
}


@pytest.fixture(scope="module", params=MAKERS)
def valid(request: pytest.FixtureRequest) -> tuple[str, bytes]:
    return request.param.partition(",")[0], MAKERS[request.param]()


def mutant(content: bytes, draw: random.Random) -> bytes:
    """A copy with bytes changed, cut off, put in or taken out, or with a number made large."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(len(changed))
        match draw.randrange(6):
            case 0:
                changed[at] ^= 1 << draw.randrange(8)
            case 1:
                changed[at] = draw.randrange(256)
            case 2:
                del changed[at : at + draw.choice((1, 4, 100))]
            case 3:
                changed[at:at] = draw.randbytes(draw.choice((1, 4, 100)))
            case 4:
                n_bytes = draw.choice((1, 4, 8))
                changed[at : at + n_bytes] = b"\xff" * (n_bytes - 1) + b"\x7f"
            case 5 if len(changed) > 20:
                del changed[-draw.randrange(1, len(changed) // 2) :]
        if not changed:
            changed = bytearray(b"P")
    return bytes(changed)


def opened(content: bytes) -> Any:
    return find_evidence(read_contents(Source.of_bytes(content, "model.pth")), "model.pth")


def test_the_originals_are_read(valid: tuple[str, bytes]) -> None:
    kind, content = valid
    assert sniff(Source.of_bytes(content, "model.pth")) == kind
    assert any(value.ndim == 4 for value in opened(content).tensors.values())


def test_mutants_are_read_or_declined(valid: tuple[str, bytes]) -> None:
    kind, content = valid
    draw = random.Random(f"mutants of {kind}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    n_declined = 0
    for _ in range(N_MUTANTS):
        try:
            opened(mutant(content, draw))
        except ModelFileError as error:
            n_declined += 1
            assert str(error).startswith("model.pth: ")
            assert len(str(error)) < 600
            assert "not foreseen" not in str(error)
    assert n_declined > 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_GROWTH


@pytest.mark.parametrize("name", ["torch", "torch, whole module", "torchscript"])
def test_mutants_of_the_pickle_alone(name: str) -> None:
    """Within the zip, so that they are not caught by the checksum."""
    content = MAKERS[name]()
    draw = random.Random(f"pickles of {name}")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {member: archive.read(member) for member in archive.namelist()}
    (pickled,) = [member for member in parts if member.endswith("data.pkl")]
    n_read = n_declined = 0
    for _ in range(N_MUTANTS):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for member, part in parts.items():
                archive.writestr(member, mutant(part, draw) if member == pickled else part)
        try:
            opened(file.getvalue())
            n_read += 1
        except ModelFileError:
            n_declined += 1
    assert n_read > 5
    assert n_declined > 50
