"""ONNX files, against what onnxruntime computes."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graph_programs import Fitting, Residual, Sized, largest
from originals import import_smp, randomised
from torch import Tensor, nn
from torch.export import Dim

from napari_unet.core.checkpoints.containers.source import Source
from napari_unet.core.checkpoints.graphs.onnx import read_onnx
from napari_unet.core.errors import ModelFileError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore")

helper, TensorProto = onnx.helper, onnx.TensorProto


def exported(network: nn.Module, shape: tuple[int, ...], *, dynamo: bool, dynamic: bool) -> bytes:
    """The file that PyTorch writes."""
    image, file = torch.randn(shape), io.BytesIO()
    axes = range(2, len(shape))
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        if dynamo:
            sizes = (dict.fromkeys(axes, Dim.DYNAMIC),) if dynamic else None
            torch.onnx.export(network, (image,), dynamo=True, dynamic_shapes=sizes).save(file)
        else:
            named = {"image": {axis: f"n{axis}" for axis in axes}} if dynamic else None
            torch.onnx.export(
                network, (image,), file, dynamo=False, input_names=["image"], dynamic_axes=named
            )
    return file.getvalue()


def runtime(content: bytes) -> Callable[[Tensor], Tensor]:
    """What onnxruntime computes."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: torch.from_numpy(session.run(None, {name: image.numpy()})[0])


def source(content: bytes) -> Source:
    return Source.of_bytes(content, "network.onnx")


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("network", [Fitting(), Sized()])
def test_sizes_that_follow_the_image(network: nn.Module, dynamo: bool) -> None:
    randomised(network)
    content = exported(network, (1, 1, 36, 48), dynamo=dynamo, dynamic=True)
    graph, probabilities = read_onnx(source(content)), isinstance(network, Fitting)
    assert graph.names
    sizes = ((36, 48), (64, 32), (37, 45)) if probabilities else ((36, 48), (64, 32))
    assert largest(graph, runtime(content), *sizes, probabilities=probabilities) <= 1e-5


@pytest.mark.parametrize("dynamo", [True, False])
def test_a_network_for_one_size(dynamo: bool) -> None:
    network = randomised(Fitting())
    content = exported(network, (1, 1, 36, 48), dynamo=dynamo, dynamic=False)
    graph = read_onnx(source(content))
    assert largest(graph, runtime(content), (36, 48), probabilities=True) <= 1e-5
    assert largest(graph, network, (64, 32), probabilities=True) <= 1e-5


def test_unet_of_monai() -> None:
    from monai.networks.nets import UNet

    network = randomised(UNet(3, 1, 2, (2, 4), (2,), num_res_units=1))
    content = exported(network, (1, 1, 8, 8, 12), dynamo=False, dynamic=True)
    graph = read_onnx(source(content))
    assert graph.config.dims == 3
    assert largest(graph, runtime(content), (8, 8, 12), (12, 16, 8)) <= 1e-5


def test_unet_of_smp() -> None:
    widths = (8, 4, 4)
    network = import_smp().Unet(
        "resnet18", encoder_weights=None, encoder_depth=3, decoder_channels=widths
    )
    randomised(network)
    content = exported(network, (1, 3, 32, 32), dynamo=False, dynamic=False)
    graph = read_onnx(source(content))
    assert largest(graph, runtime(content), (32, 32)) <= 1e-5
    assert largest(graph, network, (64, 32)) <= 1e-5


def test_changes_in_place() -> None:
    network = randomised(Residual())
    content = exported(network, (1, 1, 16, 24), dynamo=False, dynamic=True)
    assert largest(read_onnx(source(content)), runtime(content), (16, 24), (9, 11)) <= 1e-5


def made(
    nodes: list[Any], *, image: list[Any] | None = None, version: int = 17, **tensors: np.ndarray
) -> bytes:
    """A file of nodes; the image is called "x", the output "y"; "w" is a convolution of 3 to 4."""
    random = np.random.default_rng(1)
    tensors.setdefault("w", random.normal(scale=0.2, size=(4, 3, 3, 3)).astype(np.float32))
    shape = image or [1, 3, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    sets = [helper.make_opsetid("", version)]
    return helper.make_model(graph, opset_imports=sets, ir_version=8).SerializeToString()


CONV = helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1])


@pytest.mark.parametrize(
    ("op", "values", "constants"),
    [
        ("LeakyRelu", {"alpha": 0.2}, ()),
        ("Elu", {"alpha": 0.7}, ()),
        ("Selu", {}, ()),
        ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, ()),
        ("HardSwish", {}, ()),
        ("Tanh", {}, ()),
        ("Softplus", {}, ()),
        ("PRelu", {}, (np.float32([[[0.1]], [[0.2]], [[0.3]], [[0.4]]]),)),
        ("Clip", {}, (np.float32(-0.5), np.float32(0.5))),
        ("Mul", {}, (np.float32([2]),)),
        ("Sub", {}, (np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1),)),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, ()),
        ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, ()),
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, ()),
        ("GlobalAveragePool", {}, ()),
        ("DepthToSpace", {"blocksize": 2}, ()),
        ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}, ()),
        ("Pad", {"mode": "reflect"}, (np.int64([0, 0, 1, 2, 0, 0, 3, 0]),)),
        ("Slice", {}, (np.int64([1, 2]), np.int64([-1, 1000]), np.int64([2, 3]))),
    ],
)
def test_an_operation(op: str, values: dict[str, Any], constants: tuple[np.ndarray, ...]) -> None:
    names = [f"k{i}" for i in range(len(constants))]
    node = helper.make_node(op, ["c", *names], ["y"], **values)
    content = made([CONV, node], **dict(zip(names, constants, strict=True)))
    graph = read_onnx(source(content))
    assert graph.config.in_channels == 3
    assert largest(graph, runtime(content), (9, 12), (16, 11)) <= 1e-5


@pytest.mark.parametrize("rule", ["half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resizing_is_the_same_or_refused(mode: str, rule: str) -> None:
    values = {"mode": mode, "coordinate_transformation_mode": rule}
    if (mode, rule) == ("nearest", "asymmetric"):
        values["nearest_mode"] = "floor"
    node = helper.make_node("Resize", ["c", "", "s"], ["y"], **values)
    content = made([CONV, node], s=np.float32([1, 1, 2, 2]))
    if (mode, rule) in (("nearest", "align_corners"), ("linear", "asymmetric")):
        with pytest.raises(ModelFileError, match="resizes by the rule"):
            read_onnx(source(content))
        return
    assert largest(read_onnx(source(content)), runtime(content), (9, 12), (16, 11)) <= 1e-5


def test_channels_behind_the_pixels() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Transpose", ["c"], ["n"], perm=[0, 2, 3, 1]),
        helper.make_node("Add", ["n", "b"], ["a"]),
        helper.make_node("Softmax", ["a"], ["y"], axis=-1),
    ]
    content = made(nodes, image=[1, "h", "w", 3], b=np.float32([1, 2, 3, 4]))
    graph, computed = read_onnx(source(content)), runtime(content)
    assert (graph.config.in_channels, graph.about["activation"]) == (3, "softmax")

    def original(image: Tensor) -> Tensor:
        return computed(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    assert largest(graph, original, (9, 12), probabilities=True) <= 1e-5


def test_half_precision_and_loose_numbers() -> None:
    content = made([helper.make_node("Conv", ["x", "w"], ["y"])])
    model = onnx.load_from_string(content)
    loose = onnx.numpy_helper.to_array(model.graph.initializer[0]).ravel().tolist()
    half = helper.make_tensor("w", TensorProto.FLOAT16, (4, 3, 3, 3), loose)
    single = helper.make_tensor("w", TensorProto.FLOAT, (4, 3, 3, 3), loose)
    for tensor, tolerance in ((half, 1e-2), (single, 1e-5)):
        model.graph.initializer[0].CopyFrom(tensor)
        graph = read_onnx(source(model.SerializeToString()))
        assert largest(graph, runtime(content), (9, 12)) <= tolerance


def with_numbers_in(location: str, **places: int) -> Any:
    """A model whose weights are in another file."""
    model = onnx.load_from_string(made([helper.make_node("Conv", ["x", "w"], ["y"])]))
    tensor = model.graph.initializer[0]
    numbers = tensor.raw_data or np.asarray(tensor.float_data, "<f4").tobytes()
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **places}.items():
        tensor.external_data.add(key=key, value=str(value))
    return model, numbers


def test_numbers_in_a_file_beside_it(tmp_path: Path) -> None:
    model, numbers = with_numbers_in("net.onnx.data", offset=8, length=4 * 4 * 3 * 9)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "net.onnx.data").write_bytes(bytes(8) + numbers)
    graph = read_onnx(tmp_path / "net.onnx")
    (weights,) = graph.tensors.values()
    assert weights.numpy().tobytes() == numbers


@pytest.mark.parametrize(
    ("location", "places", "sentence"),
    [
        ("../../secret", {}, "another place on your disk"),
        ("/etc/hostname", {}, "another place on your disk"),
        ("inner\\secret", {}, "another place on your disk"),
        ("", {}, "another place on your disk"),
        ("missing", {}, "There is no model file"),
        ("link", {}, "a link"),
        ("short", {}, "should have"),
        ("short", {"offset": 4, "length": 10**6}, "too short"),
        ("short", {"offset": -1}, "makes no sense"),
    ],
)
def test_numbers_elsewhere_are_refused(
    location: str, places: dict[str, int], sentence: str, tmp_path: Path
) -> None:
    model, numbers = with_numbers_in(location, **places)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "real").write_bytes(numbers)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "short").write_bytes(numbers[:16])
    with pytest.raises(ModelFileError, match=sentence):
        read_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        (helper.make_node("Einsum", ["c"], ["y"], name="the one", equation="i"), "Einsum.*the one"),
        (helper.make_node("Relu", ["c"], ["y"], domain="my.own"), r"my\.own"),
        (helper.make_node("Relu", ["z"], ["y"]), "'z', which no node before it gives"),
        (helper.make_node("Relu", ["c"], ["c"]), "two nodes"),
        (helper.make_node("MatMul", ["c", "c"], ["y"]), "transformers"),
        (helper.make_node("Concat", ["c", "x"], ["y"], axis=2), "other than the channels"),
    ],
)
def test_what_cannot_be_rebuilt_is_named(node: Any, sentence: str) -> None:
    with pytest.raises(ModelFileError, match=sentence):
        read_onnx(source(made([CONV, node])))


def test_damaged_files_are_refused_with_a_sentence() -> None:
    content = made([CONV, helper.make_node("Relu", ["c"], ["y"])])
    random = np.random.default_rng(0)
    for i in range(150):
        bad = bytearray(content)
        if i % 2:
            bad = bad[: int(random.integers(len(bad)))]
        else:
            for at in random.integers(len(bad), size=3):
                bad[at] = int(random.integers(256))
        try:
            read_onnx(source(bytes(bad)))
        except ModelFileError as error:
            assert str(error).startswith("network.onnx: ")
