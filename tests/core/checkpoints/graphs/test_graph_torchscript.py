"""Programs in TorchScript files, against what PyTorch itself computes."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from graph_programs import Fitting, Residual, Sized, largest
from originals import randomised
from torch import Tensor, nn

from napari_unet.core.checkpoints.containers.source import Source
from napari_unet.core.checkpoints.graphs.torchscript import read_torchscript
from napari_unet.core.errors import ModelFileError

pytestmark = pytest.mark.filterwarnings("ignore")

SIZES = ((37, 45), (64, 33), (50, 31))


def written(program: torch.jit.ScriptModule) -> Source:
    """The file that PyTorch writes."""
    file = io.BytesIO()
    torch.jit.save(program, file)
    return Source.of_bytes(file.getvalue(), "network.pt")


def traced(network: nn.Module, *size: int) -> torch.jit.ScriptModule:
    """The network as a program recorded from one run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(network, torch.randn(1, 1, *size))


@pytest.mark.parametrize("kind", ["trace", "script"])
def test_sizes_that_follow_the_image(kind: str) -> None:
    network = randomised(Fitting())
    program = traced(network, 36, 48) if kind == "trace" else torch.jit.script(network)
    graph = read_torchscript(written(program))
    assert graph.about["activation"] == "sigmoid"
    assert graph.config.layers[-1].op == "conv"
    assert graph.names["layers.0.weight"] == ("first.0.weight",)
    assert largest(graph, network, *SIZES, probabilities=True) <= 1e-5


def test_steps_that_only_some_sizes_need() -> None:
    network = randomised(Sized())
    graph = read_torchscript(written(torch.jit.script(network)))
    assert largest(graph, network, *SIZES, (32, 48)) <= 1e-5


def test_a_frozen_program() -> None:
    network = randomised(Sized())
    frozen = torch.jit.freeze(torch.jit.script(network))
    graph = read_torchscript(written(frozen))
    assert largest(graph, frozen, *SIZES) <= 1e-5


def test_changes_in_place_are_seen_by_all() -> None:
    network = randomised(Residual())
    graph = read_torchscript(written(traced(network, 16, 24)))
    assert largest(graph, network, *SIZES) <= 1e-5


@pytest.mark.parametrize("kind", ["trace", "script"])
def test_unet_of_monai(kind: str) -> None:
    from monai.networks.nets import BasicUNet

    network = randomised(BasicUNet(2, 1, 2, (2, 4, 4, 4, 4, 2)))
    program = traced(network, 32, 48) if kind == "trace" else torch.jit.script(network)
    graph = read_torchscript(written(program))
    sizes = ((32, 48), (48, 64)) if kind == "trace" else ((33, 50), (47, 64))
    assert largest(graph, network, *sizes) <= 1e-5


def test_volumes() -> None:
    from monai.networks.nets import UNet

    network = randomised(UNet(3, 1, 2, (2, 4), (2,)))
    graph = read_torchscript(written(traced(network, 8, 12, 16)))
    assert graph.config.dims == 3
    assert largest(graph, network, (8, 12, 16), (16, 8, 8)) <= 1e-5


class Spectrum(nn.Module):
    """Does what no layer does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, image: Tensor) -> Tensor:
        """The spectrum of the features."""
        return torch.fft.rfft(self.conv(image)).abs()


class Deciding(Spectrum):
    """Looks at the values of the image."""

    def forward(self, image: Tensor) -> Tensor:
        """One thing or another."""
        if bool(image.mean() > 0):
            image = -image
        return self.conv(image)


class Endless(Spectrum):
    """Never ends."""

    def forward(self, image: Tensor) -> Tensor:
        """Counts."""
        n = 1
        while n > 0:
            n = n % 7 + 1
        return self.conv(image)


class Writing(Spectrum):
    """Reads a file of the computer."""

    def forward(self, image: Tensor) -> Tensor:
        """What is in the file."""
        return self.conv(image) + torch.from_file("/etc/hostname", False, 1)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (Spectrum(), "fft_rfft"),
        (Deciding(), "axes than those|decides"),
        (Endless(), "goes on far longer"),
        (Writing(), "from_file"),
    ],
)
def test_what_cannot_be_rebuilt_is_named(network: nn.Module, sentence: str) -> None:
    with pytest.raises(ModelFileError, match=sentence):
        read_torchscript(written(torch.jit.script(network)))


def test_a_changed_program_is_refused(tmp_path: Path) -> None:
    file = written(torch.jit.script(Spectrum()))
    target = tmp_path / "changed.pt"
    with file.open() as opened, zipfile.ZipFile(opened) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(".py"):
                content = content.replace(b"  def forward", b"  def forward(((")
            new.writestr(name, content)
    with pytest.raises(ModelFileError, match=r"changed\.pt: .*cannot be read"):
        read_torchscript(target)
