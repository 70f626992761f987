"""ONNX files do what the network does, for images of any fitting size."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from originals import image_for, randomised
from torch import nn

from napari_unet.core.checkpoints.saving import onnx as saving
from napari_unet.core.checkpoints.saving import write_onnx
from napari_unet.core.checkpoints.saving.sizes import Sizes
from napari_unet.core.device import choose_device
from napari_unet.core.errors import ModelFileError
from napari_unet.core.model import Description, Model, weights_id
from napari_unet.core.networks import UNet, UNetConfig


def model_of(**config: Any) -> Model:
    made = UNetConfig(**config)
    network = randomised(UNet(made)).requires_grad_(False)
    about = Description(name="own", dims=made.dims, in_channels=made.in_channels)
    return Model(
        network=network, architecture="unet", config=made, description=about,
        device=choose_device("cpu"), id=weights_id(network),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        ({"widths": (2, 4, 8), "in_channels": 2}, [(4, 4), (12, 20), (36, 8)]),
        ({"widths": (2, 4), "upsampling": "linear"}, [(8, 8), (34, 22)]),
        ({"widths": (2, 4), "dims": 3, "norm": "none"}, [(2, 4, 6), (8, 8, 8)]),
    ],
)
def test_onnx_gives_the_same_logits(
    config: dict[str, Any], sizes: list[tuple[int, ...]], tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = model_of(**config)
    write_onnx(model, tmp_path / "saved")
    session = onnxruntime.InferenceSession(
        tmp_path / "saved.onnx", providers=["CPUExecutionProvider"]
    )
    for size in sizes:
        image = image_for(model.config.in_channels, *size)
        found = session.run(["output"], {"input": image.numpy()})[0]
        assert np.abs(found - model.network(image).numpy()).max() <= 1e-5
    two = torch.cat([image_for(model.config.in_channels, *sizes[0], seed=at) for at in (1, 2)])
    found = session.run(["output"], {"input": two.numpy()})[0]
    assert np.abs(found - model.network(two).numpy()).max() <= 1e-5


def test_all_is_in_one_file_with_its_opset(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    write_onnx(model_of(widths=(2, 4)), tmp_path / "saved.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["saved.onnx"]
    loaded = onnx.load(tmp_path / "saved.onnx")
    assert saving.opset_of((tmp_path / "saved.onnx").read_bytes()) == saving.OPSET
    assert [one.name for one in loaded.graph.input] == ["input"]


def test_the_model_stays_as_it_was(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model = model_of(widths=(2, 4))
    model.network.requires_grad_(True)
    write_onnx(model, tmp_path / "saved.onnx")
    assert weights_id(model.network) == model.id
    assert not model.network.training
    assert all(weight.requires_grad for weight in model.network.parameters())


def test_without_the_packages_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name)
    )
    with pytest.raises(ModelFileError, match=r"pip install 'napari-unet-live\[onnx\]'"):
        write_onnx(model_of(widths=(2, 4)), tmp_path / "saved.onnx")
    assert not list(tmp_path.iterdir())


class _Fickle(nn.Module):
    """Does what no list of layers can say."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(image)
        if float(image.sum()) > 0:
            raise ValueError("not today")
        return torch.linalg.eigvals(result).real


def test_a_network_that_onnx_cannot_say_is_refused() -> None:
    pytest.importorskip("onnx")
    sizes = Sizes(in_channels=1, least=(8, 8), step=(8, 8), margin=(0, 0), halo=(0, 0))
    with pytest.raises(ModelFileError, match="cannot be written as ONNX"):
        saving.onnx_bytes(_Fickle().eval(), sizes)
