"""Files as PyTorch writes them, compared with what was saved."""

import argparse
import collections
import datetime
import functools
import io
import pathlib
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.containers import Inert, Source, read_contents
from napari_unet.core.checkpoints.evidence import Contents


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n_classes = 2
        self.names = ["a", "b"]
        self.activation = torch.relu
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4, eps=1e-3))
        self.slope = nn.LeakyReLU(0.2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.last = nn.Conv2d(4, 2, 1)
        self.register_buffer("passing", torch.zeros(3), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.last(self.up(self.slope(self.first(image))))
        return result


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def read(content: bytes) -> Contents:
    return read_contents(Source.of_bytes(content, "net.pth"))


def assert_same(found: Any, wanted: dict[str, Tensor], ordered: bool = True) -> None:
    assert list(found) == list(wanted) if ordered else set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("as_zip", [True, False])
def test_state_dicts_of_all_ages(net: Net, protocol: int, as_zip: bool) -> None:
    content = saved(
        net.state_dict(), pickle_protocol=protocol, _use_new_zipfile_serialization=as_zip
    )
    contents = read(content)
    assert_same(contents.tree, net.state_dict())
    assert contents.container.startswith("PyTorch file")
    assert not contents.notes
    assert not contents.layers


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles(net: Net, protocol: int) -> None:
    weights = net.state_dict()
    assert_same(read(pickle.dumps(dict(weights), protocol)).tree, weights)
    arrays = {name: value.numpy() for name, value in weights.items()}
    assert_same(read(pickle.dumps(arrays, protocol)).tree, weights)
    assert_same(read(pickle.dumps(net, protocol)).tree, weights)


@pytest.mark.parametrize("as_zip", [True, False])
def test_whole_modules_tell_their_settings(net: Net, as_zip: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        contents = read(saved(net, _use_new_zipfile_serialization=as_zip))
    assert_same(contents.tree, net.state_dict())
    assert "Saved as a full Python object" in contents.notes[0]
    layers = contents.layers
    assert layers[""].kind == "Net"
    assert layers[""].values["n_classes"] == 2
    assert layers[""].values["names"] == ["a", "b"]
    assert layers[""].values["activation"].endswith(".relu")
    assert layers["first.0"].kind == "Conv2d"
    assert layers["first.0"].values["padding"] == (1, 1)
    assert layers["first.1"].values["eps"] == 1e-3
    assert layers["slope"].values["negative_slope"] == 0.2
    assert layers["up"].values["align_corners"] is True
    assert layers["up"].values["mode"] == "bilinear"


def test_modules_within_a_checkpoint(net: Net) -> None:
    contents = read(saved({"epoch": 3, "model": net}))
    assert contents.tree["epoch"] == 3
    assert_same(contents.tree["model"], net.state_dict())
    assert contents.layers["model"].kind == "Net"
    assert contents.layers["model.first.0"].values["padding"] == (1, 1)


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.filterwarnings("ignore")  # deprecated, but many files are of this kind
def test_torchscript_is_read_and_not_run(net: Net, traced: bool) -> None:
    network = nn.Sequential(net.first, net.slope, net.up, net.last)
    program = torch.jit.trace(network, torch.ones(1, 1, 8, 8))
    file = io.BytesIO()
    torch.jit.save(program if traced else torch.jit.script(network), file)
    contents = read(file.getvalue())
    assert_same(contents.tree, network.state_dict())
    assert contents.container == "TorchScript file"
    assert "the program was not run" in contents.notes[0]
    assert contents.layers["0.0"].kind == "Conv2d"
    assert contents.layers["0.0"].values["padding"] == (1, 1)
    assert contents.layers["0.1"].values["eps"] == 1e-3
    assert contents.layers["1"].values["negative_slope"] == 0.2
    assert contents.layers["2"].values["align_corners"] is True


def test_exported_programs(net: Net) -> None:
    file = io.BytesIO()
    torch.export.save(torch.export.export(net, (torch.ones(1, 1, 8, 8),)), file)
    contents = read(file.getvalue())
    assert_same(contents.tree, net.state_dict())
    assert "was not run" in contents.notes[0]


def test_safetensors(net: Net, tmp_path: pathlib.Path) -> None:
    weights = net.state_dict()
    path = tmp_path / "net.bin"
    safetensors.torch.save_file(weights, path, {"who": "me"})
    for source in (Source.of_path(path), Source.of_bytes(path.read_bytes(), "net.bin")):
        tree = read_contents(source).tree
        assert tree["metadata"] == {"who": "me"}
        assert_same(tree["state_dict"], weights, ordered=False)
    assert_same(read(safetensors.torch.save(weights)).tree, weights, ordered=False)


def test_version_0_1(net: Net) -> None:
    from test_container_mutants import tar_of_version_0_1

    contents = read(tar_of_version_0_1())
    assert contents.container == "PyTorch file (version 0.1)"
    assert torch.equal(contents.tree["weight"], torch.arange(36.0).reshape(2, 2, 3, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("as_zip", [True, False])
def test_other_precisions_become_float32(dtype: torch.dtype, as_zip: bool) -> None:
    value = torch.linspace(-2, 2, 12).reshape(3, 4).to(dtype)
    contents = read(saved({"a": value, "b": value.t()}, _use_new_zipfile_serialization=as_zip))
    assert_same(contents.tree, {"a": value.float(), "b": value.t().float()})
    assert contents.notes == (
        f"The weights are stored as {str(dtype).removeprefix('torch.')} and were converted to "
        f"float32.",
    )


@pytest.mark.parametrize("as_zip", [True, False])
def test_views_and_other_types(as_zip: bool) -> None:
    whole = torch.arange(60.0).reshape(3, 4, 5)
    tensors = {
        "view": whole[1:, ::2, 1:3],
        "turned": whole.permute(2, 0, 1),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "truth": torch.tensor([True, False]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "parameter": nn.Parameter(whole[0]),
    }
    contents = read(saved(tensors, _use_new_zipfile_serialization=as_zip))
    assert_same(contents.tree, tensors)


def test_values_beside_the_weights_come_out_plain() -> None:
    said = {
        "args": argparse.Namespace(lr=0.1, folder=pathlib.Path("/data/x"), inner={"a": None}),
        "loss": np.float32(0.5),
        "epoch": np.int64(3),
        "flag": np.bool_(True),
        "sizes": np.arange(3),
        "names": np.array(["a", "bc"]),
        "default": collections.defaultdict(list, {"a": [1]}),
        "set": {1},
        "device": torch.device("cuda:1"),
        "size": torch.Size([2, 3]),
        "dtype": torch.float16,
        "bytes": b"\xff\x00",
        "large": 2**40,
    }
    for content in (saved(said), *(pickle.dumps(said, protocol) for protocol in (0, 2, 5))):
        tree = read(content).tree
        assert tree["args"] == {"lr": 0.1, "folder": "/data/x", "inner": {"a": None}}
        assert (tree["loss"], tree["epoch"], tree["flag"]) == (0.5, 3, True)
        assert (tree["sizes"], tree["names"]) == ([0, 1, 2], ["a", "bc"])
        assert (tree["default"], tree["set"]) == ({"a": [1]}, [1])
        assert (tree["device"], tree["size"]) == ("cuda:1", (2, 3))
        assert (tree["dtype"], tree["bytes"], tree["large"]) == (
            "torch.float16",
            b"\xff\x00",
            2**40,
        )


def test_objects_are_written_down() -> None:
    when = datetime.datetime(2020, 1, 2)
    said = {"class": nn.ReLU, "call": functools.partial(max, 1), "when": when}
    tree = read(saved(said)).tree
    assert isinstance(tree["class"], Inert)
    assert (tree["class"].kind, tree["class"].args) == ("torch.nn.modules.activation.ReLU", None)
    assert tree["call"].kind == "functools.partial"
    assert tree["when"].kind == "datetime.datetime"


def test_states_of_optimizers_are_not_read(net: Net) -> None:
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 1, 8, 8)).sum().backward()
    optimizer.step()
    tree = read(saved({"model": net.state_dict(), "optim_state": optimizer.state_dict()})).tree
    assert_same(tree["model"], net.state_dict())
    assert not any(isinstance(value, Tensor) for value in tree["optim_state"]["state"][0].values())
    assert tree["optim_state"]["param_groups"][0]["lr"] == 0.001


def test_files_on_the_disk_are_read_once(net: Net, tmp_path: pathlib.Path) -> None:
    for name, options in (("new", {}), ("old", {"_use_new_zipfile_serialization": False})):
        torch.save(net.state_dict(), tmp_path / name, **options)
        contents = read_contents(Source.of_path(tmp_path / name))
        (tmp_path / name).unlink()
        assert_same(contents.tree, net.state_dict())


def test_files_without_checksums_are_read(net: Net) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        content = saved(net.state_dict())
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(read(content).tree, net.state_dict())
