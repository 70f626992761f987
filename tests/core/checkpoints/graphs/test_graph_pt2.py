"""Programs of torch.export, against what PyTorch itself computes."""

from __future__ import annotations

import io
import json
import zipfile

import pytest
import torch
from graph_programs import Fitting, Residual, largest
from originals import randomised
from torch import nn
from torch.export import Dim

from napari_unet.core.checkpoints.containers.source import Source
from napari_unet.core.checkpoints.graphs.pt2 import read_pt2
from napari_unet.core.errors import ModelFileError

pytestmark = pytest.mark.filterwarnings("ignore")


def written(network: nn.Module, *, dynamic: bool, decomposed: bool = False) -> bytes:
    """The file that PyTorch writes."""
    shapes = ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC},) if dynamic else None
    program = torch.export.export(network, (torch.randn(1, 1, 36, 48),), dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(program.run_decompositions() if decomposed else program, file)
    return file.getvalue()


def test_sizes_that_follow_the_image() -> None:
    network = randomised(Fitting())
    graph = read_pt2(Source.of_bytes(written(network, dynamic=True), "network.pt2"))
    assert graph.names["layers.0.weight"] == ("first.0.weight",)
    assert largest(graph, network, (36, 48), (37, 45), (64, 33), probabilities=True) <= 1e-5


def test_a_program_for_one_size() -> None:
    network = randomised(Fitting())
    graph = read_pt2(Source.of_bytes(written(network, dynamic=False), "network.pt2"))
    assert "36 x 48" in graph.notes[0]
    assert largest(graph, network, (36, 48), (64, 32), probabilities=True) <= 1e-5


@pytest.mark.parametrize("network", [Fitting(), Residual()])
def test_a_decomposed_program(network: nn.Module) -> None:
    randomised(network)
    file = written(network, dynamic=False, decomposed=True)
    graph = read_pt2(Source.of_bytes(file, "network.pt2"))
    probabilities = isinstance(network, Fitting)
    assert largest(graph, network, (36, 48), probabilities=probabilities) <= 1e-5


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("torch.ops.aten.cat.default", "torch.ops.aten.fft_fft.default", "fft_fft"),
        ("torch.ops.aten.cat.default", "os.system", r"os\.system"),
        ('"nodes"', '"knots"', "not as torch.export writes it"),
    ],
)
def test_changed_programs_are_refused(old: str, new: str, sentence: str) -> None:
    changed = io.BytesIO()
    file = written(randomised(Fitting()), dynamic=True)
    with zipfile.ZipFile(io.BytesIO(file)) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("models/model.json"):
                assert old in content.decode()
                content = content.decode().replace(old, new).encode()
                json.loads(content)
            target.writestr(name, content)
    with pytest.raises(ModelFileError, match=sentence):
        read_pt2(Source.of_bytes(changed.getvalue(), "network.pt2"))
