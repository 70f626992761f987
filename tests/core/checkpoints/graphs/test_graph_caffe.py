"""Freiburg's networks, compared with the network of the paper written down a second time.

Caffe itself is not to be had; layouts of the files are those that its sources and the plugin's
describe.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_unet.core.checkpoints.graphs import Graph
from napari_unet.core.checkpoints.graphs.caffe import is_freiburg, partner_names, read_freiburg
from napari_unet.core.checkpoints.graphs.caffe_text import parsed
from napari_unet.core.errors import ModelFileError
from napari_unet.core.networks.layered import LayeredNetwork

h5py = pytest.importorskip("h5py")

FIXTURES = Path(__file__).parents[3] / "fixtures" / "checkpoints" / "freiburg"
Weights = dict[str, tuple[Tensor, Tensor]]


def weights_of(
    n_levels: int, width: int = 2, n_in: int = 1, n_out: int = 2, last: int = 2, dims: int = 2
) -> Weights:
    """Random weights of Freiburg's network; `last` times the width on the uppermost level."""
    random = torch.Generator().manual_seed(n_levels)
    found: Weights = {}

    def add(name: str, n_from: int, n_to: int, kernel: int, transposed: bool = False) -> None:
        shape = (n_from, n_to) if transposed else (n_to, n_from)
        weight = torch.randn(*shape, *[kernel] * dims, generator=random)
        weight *= (1.6 / (n_from * kernel**dims)) ** 0.5
        found[name] = (weight, torch.randn(n_to, generator=random) * 0.2)

    before = n_in
    for level in range(n_levels):
        add(f"conv_d{level}a-b", before, width << level, 3)
        add(f"conv_d{level}b-c", width << level, width << level, 3)
        before = width << level
    for level in reversed(range(n_levels - 1)):
        step = "c" if level == n_levels - 2 else "d"
        way = "d" if level == n_levels - 2 else "u"
        n_up = width * last if level == 0 else width << level
        add(f"upconv_{way}{level + 1}{step}_u{level}a", before, n_up, 2, transposed=True)
        add(f"conv_u{level}b-c", n_up + (width << level), n_up, 3)
        add(f"conv_u{level}c-d", n_up, n_up, 3)
        before = n_up
    add("conv_u0d-score", before, n_out, 1)
    return found


def original(image: Tensor, weights: Weights, slope: float, offset: float) -> Tensor:
    """The network as the paper has it: no padding, and what comes across is cropped."""
    dims = image.ndim - 2
    conv = F.conv2d if dims == 2 else F.conv3d
    up = F.conv_transpose2d if dims == 2 else F.conv_transpose3d
    pool = F.max_pool2d if dims == 2 else F.max_pool3d
    n_levels = sum("a-b" in name for name in weights)
    x, skips = image + offset, []
    for level in range(n_levels):
        for step in ("a-b", "b-c"):
            x = F.leaky_relu(conv(x, *weights[f"conv_d{level}{step}"]), slope)
        skips.append(x)
        if level < n_levels - 1:
            x = pool(x, 2)
    skips.pop()
    for level in reversed(range(n_levels - 1)):
        name = next(one for one in weights if one.startswith("upconv") and f"_u{level}a" in one)
        x = F.leaky_relu(up(x, *weights[name], stride=2), slope)
        skip = skips.pop()
        for axis in range(2, 2 + dims):
            cut = (skip.shape[axis] - x.shape[axis]) // 2
            skip = skip.narrow(axis, cut, x.shape[axis])
        x = torch.cat([x, skip], dim=1)
        for step in ("b-c", "c-d"):
            x = F.leaky_relu(conv(x, *weights[f"conv_u{level}{step}"]), slope)
    return conv(x, *weights["conv_u0d-score"])


def prototxt(weights: Weights, slope: float = 0.1, offset: float = -0.5) -> str:
    """A definition in the way of the plugin, with what is for training only."""
    n_levels = sum("a-b" in name for name in weights)
    lines = [
        'name: "test" force_backward: true # a comment',
        "layer { top: 'data' top: 'labels' name: 'load' type: 'HDF5Data' "
        "hdf5_data_param { source: 'x' batch_size: 1 } include: { phase: TRAIN } }",
        "layer { bottom: 'data' bottom: 'def' top: 'data3' name: 'deform' "
        "type: 'ApplyDeformation' include { phase: TRAIN } }",
        "layer { bottom: 'data3' top: 'd0a' name: 'trafo' type: 'ValueTransformation' "
        f"value_transformation_param {{ offset {{ v: {offset} }} }} }}",
    ]

    def convolution(name: str, bottom: str, top: str, kind: str = "Convolution") -> None:
        weight = weights[name][0]
        n_out = weight.shape[kind == "Deconvolution"]
        stride = "stride: 2" if kind == "Deconvolution" else ""
        lines.append(
            f"layer {{ bottom: '{bottom}' top: '{top}' name: '{name}' type: '{kind}' "
            "param { lr_mult: 1 decay_mult: 1 } "
            f"convolution_param {{ num_output: {n_out} pad: 0 kernel_size: {weight.shape[-1]} "
            f"{stride} weight_filler {{ type: 'msra' }} }} }}"
        )
        if top != "score":
            lines.append(
                f"layer {{ bottom: '{top}' top: '{top}' name: 'relu_{top}' type: 'ReLU' "
                f"relu_param {{ negative_slope: {slope} }} }}"
            )

    for n in range(n_levels):
        convolution(f"conv_d{n}a-b", f"d{n}a", f"d{n}b")
        convolution(f"conv_d{n}b-c", f"d{n}b", f"d{n}c")
        if n < n_levels - 1:
            lines.append(
                f"layer {{ bottom: 'd{n}c' top: 'd{n + 1}a' name: 'pool{n}' type: 'Pooling' "
                "pooling_param { pool: MAX kernel_size: 2 stride: 2 } }"
            )
    source = f"d{n_levels - 1}c"
    for n in reversed(range(n_levels - 1)):
        convolution(f"upconv_{source}_u{n}a", source, f"u{n}a", "Deconvolution")
        lines.append(
            f"layer {{ bottom: 'u{n}a' bottom: 'd{n}c' top: 'u{n}b' name: 'c{n}' type: 'Concat' }}"
        )
        convolution(f"conv_u{n}b-c", f"u{n}b", f"u{n}c")
        convolution(f"conv_u{n}c-d", f"u{n}c", f"u{n}d")
        source = f"u{n}d"
    convolution("conv_u0d-score", source, "score")
    lines.append(
        "layer { bottom: 'score' bottom: 'labelcrop' top: 'loss' name: 'loss' "
        "type: 'SoftmaxWithLoss' }"
    )
    return "\n".join(lines)


def definition(path: Path, weights: Weights, **settings: Any) -> Path:
    """A `.modeldef.h5` as the plugin writes it."""
    with h5py.File(path, "w") as file:
        file[".unet-ident"] = "some-id"
        file["model_prototxt"] = np.bytes_(prototxt(weights).encode())
        for name, value in {"input_blob_name": "data3", **settings}.items():
            file[f"unet_param/{name}"] = value
    return path


def hdf5_weights(path: Path, weights: Weights) -> Path:
    """A `.caffemodel.h5`, with the empty groups that Caffe writes for layers without weights."""
    with h5py.File(path, "w") as file:
        for name, (weight, bias) in weights.items():
            file[f"data/{name}/0"], file[f"data/{name}/1"] = weight.numpy(), bias.numpy()
        file.create_group("data/relu_d0b")
    return path


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def part(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def binary_weights(weights: Weights, is_old: bool = False) -> bytes:
    """A binary `.caffemodel`, in the notation of 2014, or of 2013 with its four sizes."""
    found = part(1, b"a network")
    for name, tensors in weights.items():
        blobs = []
        for tensor in tensors:
            shape = [1] * (4 - tensor.ndim) + list(tensor.shape)
            sizes = b"".join(varint(at << 3) + varint(n) for at, n in enumerate(shape, start=1))
            shaped = part(7, part(1, b"".join(map(varint, tensor.shape))))
            values = struct.pack(f"<{tensor.numel()}f", *tensor.ravel().tolist())
            blobs.append((sizes if is_old else shaped) + part(5, values))
        name_field, blob_field, number = (4, 6, 2) if is_old else (1, 7, 100)
        layer = part(name_field, name.encode())
        found += part(number, layer + b"".join(part(blob_field, blob) for blob in blobs))
    return found


def network_of(graph: Graph) -> LayeredNetwork:
    network = LayeredNetwork(graph.config).eval()
    network.load_state_dict(dict(graph.tensors), strict=True)
    return network


@torch.inference_mode()
def difference(graph: Graph, weights: Weights, slope: float, offset: float, *size: int) -> float:
    random = torch.Generator().manual_seed(1)
    image = torch.rand(1, graph.config.in_channels, *size, generator=random)
    found, wanted = network_of(graph)(image), original(image, weights, slope, offset)
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max())


def test_model_of_the_plugin(tmp_path: Path) -> None:
    weights = weights_of(3, n_in=2, n_out=3)
    model = definition(
        tmp_path / "net.modeldef.h5",
        weights,
        name="cells",
        description="finds cells",
        normalization_type=np.int32([1]),
        element_size_um=np.float32([0.5, 0.25]),
        classNames=["Background", "A", "B"],
        padding="mirror",
    )
    graph = read_freiburg(model, hdf5_weights(tmp_path / "net.caffemodel.h5", weights))
    assert difference(graph, weights, 0.1, -0.5, 60, 68) <= 1e-5
    about = graph.about
    assert (about["name"], about["card"]) == ("cells", "finds cells")
    assert about["class_names"] == ("Background", "A", "B")
    assert about["pixel_size"] == 0.25
    assert about["activation"] == "softmax"
    assert about["normalization"].kind == "minmax"
    assert about["normalization"].joint
    assert graph.assumed == ()
    at = next(i for i, one in enumerate(graph.config.layers) if one.name == "conv_d0a-b")
    assert graph.names[f"layers.{at}.weight"] == ("data/conv_d0a-b/0",)


def test_the_order_of_both_files_does_not_matter(tmp_path: Path) -> None:
    weights = weights_of(2)
    files = (
        definition(tmp_path / "net.modeldef.h5", weights),
        hdf5_weights(tmp_path / "net.caffemodel.h5", weights),
    )
    one, other = read_freiburg(*files), read_freiburg(*reversed(files))
    assert one.config == other.config
    assert {"class_names", "pixel_size", "normalization"} == set(one.assumed)


@pytest.mark.parametrize(
    ("number", "kind"), [(0, "none"), (1, "minmax"), (2, "zscore"), (3, "minmax")]
)
def test_normalizations_of_the_plugin(tmp_path: Path, number: int, kind: str) -> None:
    weights = weights_of(2)
    model = definition(tmp_path / "net.modeldef.h5", weights, normalization_type=number)
    graph = read_freiburg(model, hdf5_weights(tmp_path / "net.caffemodel.h5", weights))
    assert graph.about["normalization"].kind == kind
    assert ("normalization" in graph.assumed) == (number == 3)
    assert bool(graph.notes) == (number == 3)


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("has_text", [False, True])
def test_binary_weights(tmp_path: Path, is_old: bool, has_text: bool) -> None:
    weights = weights_of(3)
    path = tmp_path / "phseg.caffemodel"
    path.write_bytes(binary_weights(weights, is_old))
    text = tmp_path / "phseg.prototxt"
    text.write_text(prototxt(weights, 0.0, 0.0))
    graph = read_freiburg(path, text if has_text else None)
    assert difference(graph, weights, 0.0, 0.0, 64, 60) <= 1e-5
    assert ("layers" in graph.assumed) is not has_text


def test_weights_of_the_plugin_alone(tmp_path: Path) -> None:
    weights = weights_of(2, dims=3)
    graph = read_freiburg(hdf5_weights(tmp_path / "net.caffemodel.h5", weights))
    assert difference(graph, weights, 0.1, -0.5, 20, 24, 22) <= 1e-5
    assert "layers" in graph.assumed
    assert "net.modeldef.h5" in graph.notes[0]


@pytest.mark.parametrize(("size", "wanted"), [(540, 356), (572, 388)])
def test_sizes_of_the_papers(size: int, wanted: int) -> None:
    weights = weights_of(5, width=1)
    graph = read_freiburg(io.BytesIO(binary_weights(weights)))
    with torch.inference_mode():
        found = network_of(graph)(torch.zeros(1, 1, size, 188))
    assert found.shape == (1, 2, wanted, 4)


def test_a_tile_of_the_kept_files() -> None:
    """Files of both kinds that lie beside the tests, and the result that belongs to them."""
    known: Mapping[str, Any] = np.load(FIXTURES / "small.npz")
    pairs = (
        (FIXTURES / "small.modeldef.h5", FIXTURES / "small.caffemodel.h5"),
        (FIXTURES / "small.caffemodel", FIXTURES / "small.prototxt"),
    )
    for pair in pairs:
        with torch.inference_mode():
            found = network_of(read_freiburg(*pair))(torch.from_numpy(known["input"]))
        assert np.abs(found.numpy() - known["output"]).max() <= 1e-5


def test_pictures_that_differ_along_the_depth(tmp_path: Path) -> None:
    """Fine levels of volumes that are coarse along z: kernels (1, 3, 3), poolings (1, 2, 2)."""
    random = torch.Generator().manual_seed(0)
    weights = {
        "a": (torch.randn(2, 1, 1, 3, 3, generator=random), torch.zeros(2)),
        "b": (torch.randn(2, 3, 1, 2, 2, generator=random), torch.zeros(3)),
    }
    text = """
    layer { bottom: 'data' bottom: 'def' top: 'd0a' name: 'd' type: 'ApplyDeformation' }
    layer { bottom: 'd0a' top: 'x' name: 'a' type: 'Convolution'
      convolution_param { num_output: 2 pad: 0 kernel_size: 1 kernel_size: 3 kernel_size: 3
        engine: CAFFE bias_filler { type: 'constant' value:-0.5 } } }
    layer { bottom: 'x' top: 'y' name: 'p' type: 'Pooling'
      pooling_param { pool: MAX kernel_size: [1, 2, 2] stride: 1 stride: 2 stride: 2 } }
    layer { bottom: 'y' top: 'score' name: 'b' type: 'Deconvolution' convolution_param {
      num_output: 3 kernel_size: 1 kernel_size: 2 kernel_size: 2 stride: [1, 2, 2] } }
    layer { bottom: 'score' top: 'p' name: 's' type: 'Softmax' }
    """
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    graph = read_freiburg(path, io.BytesIO(binary_weights(weights)))
    image = torch.rand(1, 1, 3, 10, 12)
    with torch.inference_mode():
        found = network_of(graph)(image)
        pooled = F.max_pool3d(F.conv3d(image, *weights["a"]), (1, 2, 2))
        wanted = F.conv_transpose3d(pooled, *weights["b"], stride=(1, 2, 2))
    assert torch.equal(found, wanted)
    assert graph.about["activation"] == "softmax"


def test_other_layers_of_caffe(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    kernel = torch.randn(2, 1, 3, 3, generator=random)
    mean, variance = torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.5])
    factor, shift = torch.tensor([1.5, -0.5]), torch.tensor([0.25, 1.0])
    weights: Any = {
        "c": (kernel, torch.tensor([0.1, -0.1])),
        "n": (mean * 4, variance * 4, torch.tensor([4.0])),
        "s": (factor, shift),
        "r": (torch.tensor([0.2, 0.3]),),
    }
    text = """
    input: "data" input_shape { dim: [1, 1, 8, 8] }
    layer { bottom: 'data' top: 'a' name: 'c' type: 'Convolution'
      convolution_param { num_output: 2 pad: 1 kernel_h: 3 kernel_w: 3 } }
    layer { bottom: 'a' top: 'b' name: 'n' type: 'BatchNorm' batch_norm_param { eps: 0.01 } }
    layer { bottom: 'b' top: 'b' name: 's' type: 'Scale' scale_param { bias_term: true } }
    layer { bottom: 'b' top: 'b2' name: 'r' type: 'PReLU' }
    layer { bottom: 'b2' top: 'q' name: 'q' type: 'Power' power_param { scale: 2 shift: 1 } }
    layer { bottom: 'q' bottom: 'a' top: 'e' name: 'e' type: 'Eltwise' }
    layer { bottom: 'e' top: 'm' name: 'm' type: 'Pooling'
      pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
    layer { bottom: 'e' bottom: 'm' top: 'x' name: 'x' type: 'Crop' crop_param { offset: 1 } }
    layer { bottom: 'x' bottom: 'm' top: 'z' name: 'z' type: 'Eltwise'
      eltwise_param { operation: MAX } }
    """
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    graph = read_freiburg(path, io.BytesIO(binary_weights(weights)))
    image = torch.rand(1, 1, 8, 9)
    with torch.inference_mode():
        found = network_of(graph)(image)
        a = F.conv2d(image, kernel, weights["c"][1], padding=1)
        b = F.batch_norm(a, mean, variance, eps=0.01) * factor.view(2, 1, 1) + shift.view(2, 1, 1)
        e = F.prelu(b, weights["r"][0]) * 2 + 1 + a
        m = F.max_pool2d(e, 3, 2, ceil_mode=True)
        wanted = torch.maximum(e[:, :, 1 : m.shape[2] + 1, 1 : m.shape[3] + 1], m)
    assert float((found - wanted).abs().max()) <= 1e-5


def test_one_of_both_files_is_missing(tmp_path: Path) -> None:
    weights = weights_of(2)
    model = definition(tmp_path / "net.modeldef.h5", weights)
    with pytest.raises(ModelFileError, match=r"'net\.caffemodel\.h5'"):
        read_freiburg(model)
    path = hdf5_weights(tmp_path / "other.caffemodel.h5", {"conv1": weights["conv_d0a-b"]})
    with pytest.raises(ModelFileError, match=r"'other\.modeldef\.h5'"):
        read_freiburg(path)
    with pytest.raises(ModelFileError, match="belong together"):
        read_freiburg(model, path)


def test_files_of_different_networks(tmp_path: Path) -> None:
    model = definition(tmp_path / "net.modeldef.h5", weights_of(2, width=3))
    path = hdf5_weights(tmp_path / "net.caffemodel.h5", weights_of(2, width=2))
    with pytest.raises(ModelFileError, match="otherwise than its weights"):
        read_freiburg(model, path)


def test_files_of_caffe_are_told_from_others(tmp_path: Path) -> None:
    assert is_freiburg(FIXTURES / "small.modeldef.h5")
    assert is_freiburg(FIXTURES / "small.caffemodel.h5")
    assert not is_freiburg(FIXTURES.parent / "keras" / "tutorial.h5")
    with h5py.File(tmp_path / "state.solverstate.h5", "w") as file:
        file["iter"], file["history/0"] = 5, np.ones(3)
    assert is_freiburg(tmp_path / "state.solverstate.h5")
    with pytest.raises(ModelFileError, match=r"state of a training"):
        read_freiburg(tmp_path / "state.solverstate.h5")
    with h5py.File(tmp_path / "image.h5", "w") as file:
        file["data"] = np.ones((4, 4))
    assert not is_freiburg(tmp_path / "image.h5")


def test_names_of_partners() -> None:
    assert partner_names("a.modeldef.h5")[0] == "a.caffemodel.h5"
    assert partner_names("a.caffemodel.h5")[0] == "a.modeldef.h5"
    assert "a-train.prototxt" in partner_names("a.caffemodel")


@pytest.mark.parametrize("cut", [1, 7, 40, 300, -1])
def test_cut_binaries(cut: int) -> None:
    content = binary_weights(weights_of(2))[:cut]
    with pytest.raises(ModelFileError):
        read_freiburg(io.BytesIO(content))


def test_more_weights_than_there_are() -> None:
    blob = part(7, part(1, varint(1 << 40))) + part(5, bytes(8))
    content = part(100, part(1, b"conv_d0a-b") + part(7, blob))
    with pytest.raises(ModelFileError, match="says it has 1099511627776 weights"):
        read_freiburg(io.BytesIO(content))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layer { name: ", "line 1"),
        ("layer { name: 'x'", "braces"),
        ("layer { name: 'x' }\n }", "line 2"),
        ("layer {" * 100, "line 1"),
        ("a: [1, 2", "line 1"),
        ("a: %", "line 1"),
    ],
)
def test_damaged_definitions(text: str, words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        parsed(text)


def test_nonsense_anywhere_in_a_definition_is_a_sentence() -> None:
    weights = weights_of(2)
    text, blobs = prototxt(weights), binary_weights(weights)
    n_refused = 0
    for at in range(300, len(text), 23):
        for odd in ("1e999 ", "{", "}", "'x' ", ": -5 "):
            bad = text[:at] + odd + text[at + len(odd) :]
            try:
                read_freiburg(io.BytesIO(blobs), io.BytesIO(bad.encode()))
            except ModelFileError:
                n_refused += 1
    assert n_refused > 100


def test_definitions() -> None:
    found = parsed("a: 1 a: -2.5e1 b < c: 'x' \"y\" > # d: 1\n e: [1, TRAIN]; f: true")
    assert found.numbers("a") == (1.0, -25.0)
    assert found.message("b").text("c") == "xy"
    assert "d" not in found
    assert found.all("e") == [1.0, "TRAIN"]
    assert found.number("f", 0) == 1


def test_unknown_layers_are_refused_by_name(tmp_path: Path) -> None:
    weights = weights_of(2)
    path = tmp_path / "net.prototxt"
    path.write_text(
        prototxt(weights) + "\nlayer { name: 'odd' type: 'Python' bottom: 'score' top: 'x' }"
    )
    with pytest.raises(ModelFileError, match=r"'odd'.*Python"):
        read_freiburg(path, hdf5_weights(tmp_path / "net.caffemodel.h5", weights))
