"""Keras files, compared with Keras itself, which runs on torch here."""

from __future__ import annotations

import base64
import io
import json
import os
import struct
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from napari_unet.core.checkpoints.graphs import Graph
from napari_unet.core.checkpoints.graphs.keras import read_keras
from napari_unet.core.checkpoints.graphs.keras_lambda import divisor_of
from napari_unet.core.errors import ModelFileError
from napari_unet.core.networks.layered import LayeredNetwork

h5py = pytest.importorskip("h5py")

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"  # Keras 3.15 beside numpy 2
)
FIXTURES = Path(__file__).parents[3] / "fixtures" / "checkpoints" / "keras"
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def keras() -> ModuleType:
    os.environ["KERAS_BACKEND"] = "torch"  # before the import, which chooses by it
    return pytest.importorskip("keras")


def randomise(model: Any) -> None:
    """Weights that show every mistake."""
    for variable in model.variables:
        shape, name = variable.shape, variable.path
        if "var" in name:
            value = RANDOM.uniform(0.5, 2, shape)
        elif "gamma" in name:
            value = RANDOM.uniform(0.5, 1.5, shape)
        elif len(shape) < 2:
            value = RANDOM.uniform(-0.5, 0.5, shape)
        else:
            value = RANDOM.normal(0, (1.6 / np.prod(shape[:-1])) ** 0.5, shape)
        if "seed" not in name and "count" not in name:
            variable.assign(value.astype(np.float32))


def network_of(graph: Graph) -> LayeredNetwork:
    network = LayeredNetwork(graph.config).eval()
    network.load_state_dict(dict(graph.tensors), strict=True)
    return network


@torch.inference_mode()
def compared(graph: Graph, model: Any, *size: int, activation: str = "") -> float:
    """Largest difference between ours and Keras for an image of a size."""
    image = RANDOM.uniform(0, 255, (2, *size)).astype(np.float32)
    wanted = torch.as_tensor(model(image)).detach().cpu().movedim(-1, 1)
    ours = torch.from_numpy(image).movedim(-1, 1)
    normalization = graph.about["normalization"]
    if normalization.scale and normalization.kind == "none":
        shape = (1, -1, *[1] * (ours.ndim - 2))
        offset, scale = (
            torch.tensor(one).view(shape) for one in (normalization.offset, normalization.scale)
        )
        ours = (ours - offset) / scale
    found = network_of(graph)(ours)
    if activation == "sigmoid":
        found = torch.sigmoid(found)
    elif activation == "softmax":
        found = torch.softmax(found, dim=1)
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max())


@pytest.mark.parametrize(
    "name", ["tutorial.h5", "tutorial.keras", "tutorial.weights.h5", "volumes.keras"]
)
def test_kept_files(name: str) -> None:
    """What Keras has written and computed, also where it is not installed."""
    known = np.load(FIXTURES / f"{name.split('.')[0]}.npz")
    graph = read_keras(FIXTURES / name)
    image = torch.from_numpy(known["input"]).movedim(-1, 1)
    if graph.about["normalization"].kind == "none":
        image = image / 255
    with torch.inference_mode():
        logits = network_of(graph)(image)
    found = logits.sigmoid() if graph.about["activation"] == "sigmoid" else logits.softmax(1)
    assert np.abs(found.movedim(1, -1).numpy() - known["output"]).max() <= 1e-5


def test_an_open_file_will_do() -> None:
    for name in ("tutorial.h5", "tutorial.keras"):
        graph = read_keras(io.BytesIO((FIXTURES / name).read_bytes()))
        assert graph.config == read_keras(FIXTURES / name).config


def saved(model: Any, folder: Path, suffix: str) -> Path:
    path = folder / f"model{suffix}"
    model.save(path)
    return path


def unet_of_the_tutorial(keras: ModuleType, n_channels: int = 3, scaled: Any = None) -> Any:
    layers = keras.layers
    image = layers.Input((None, None, n_channels))
    x = layers.Rescaling(1 / 255)(image) if scaled is None else scaled(image)
    skips = []
    for level in range(3):
        for _ in range(2):
            x = layers.Conv2D(2 << level, 3, activation="relu", padding="same")(x)
            x = layers.Dropout(0.1)(x)
        skips.append(x)
        if level < 2:
            x = layers.MaxPooling2D(2)(x)
    for level in (1, 0):
        x = layers.Conv2DTranspose(2 << level, 2, strides=2, padding="same")(x)
        x = layers.concatenate([x, skips[level]])
        for _ in range(2):
            x = layers.Conv2D(2 << level, 3, activation="relu", padding="same")(x)
    model = keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid")(x))
    randomise(model)
    return model


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_unet_of_the_tutorial(keras: ModuleType, tmp_path: Path, suffix: str) -> None:
    model = unet_of_the_tutorial(keras)
    graph = read_keras(saved(model, tmp_path, suffix))
    assert compared(graph, model, 16, 24, 3, activation="sigmoid") <= 1e-5
    assert graph.about["activation"] == "sigmoid"
    assert graph.about["normalization"].scale == (255.0, 255.0, 255.0)
    assert "normalization" not in graph.assumed
    assert graph.config.layers[0].op == "conv"
    assert all(name.startswith("layers.") for name in graph.names)


BODIES: dict[str, Any] = {
    "even kernels": lambda k, x: k.Conv2D(3, (2, 4), padding="same", activation="elu")(x),
    "steps": lambda k, x: k.Conv2D(3, 3, strides=2, padding="same", activation="selu")(x),
    "steps and even kernels": lambda k, x: k.Conv2D(3, 4, strides=2, padding="same")(x),
    "unpadded steps": lambda k, x: k.Conv2D(3, 3, strides=2, activation="swish")(x),
    "dilated": lambda k, x: k.Conv2D(3, 3, dilation_rate=2, padding="same", use_bias=False)(x),
    "groups": lambda k, x: k.Conv2D(4, 3, groups=2, activation="hard_sigmoid")(x),
    "depthwise": lambda k, x: k.DepthwiseConv2D(3, depth_multiplier=2, padding="same")(x),
    "separable": lambda k, x: k.SeparableConv2D(3, 3, depth_multiplier=2, padding="same")(x),
    "up 2": lambda k, x: k.Conv2DTranspose(3, 2, strides=2, activation="tanh")(x),
    "up 3 same": lambda k, x: k.Conv2DTranspose(3, 3, strides=2, padding="same")(x),
    "up 3 valid": lambda k, x: k.Conv2DTranspose(3, 3, strides=2)(x),
    "up 4 same": lambda k, x: k.Conv2DTranspose(3, 4, strides=2, padding="same")(x),
    "batch norm": lambda k, x: k.BatchNormalization()(x),
    "batch norm, no scale": lambda k, x: k.BatchNormalization(scale=False, epsilon=1e-5)(x),
    "group norm": lambda k, x: k.GroupNormalization(2)(x),
    "layer norm": lambda k, x: k.LayerNormalization()(x),
    "leaky": lambda k, x: k.LeakyReLU()(x),
    "leaky inside": lambda k, x: k.Conv2D(3, 3, activation="leaky_relu")(x),
    "prelu": lambda k, x: k.PReLU(shared_axes=[1, 2])(x),
    "elu": lambda k, x: k.ELU(0.7)(x),
    "relu 6": lambda k, x: k.ReLU(max_value=6)(x),
    "relu with slope": lambda k, x: k.ReLU(negative_slope=0.1)(x),
    "gelu": lambda k, x: k.Activation("gelu")(x),
    "softplus": lambda k, x: k.Activation("softplus")(x),
    "max": lambda k, x: k.MaxPooling2D(3, strides=2, padding="same")(x),
    "max of one size": lambda k, x: k.MaxPooling2D()(x),
    "mean": lambda k, x: k.AveragePooling2D((2, 3))(x),
    "nearest": lambda k, x: k.UpSampling2D((2, 3))(x),
    "bilinear": lambda k, x: k.UpSampling2D(2, interpolation="bilinear")(x),
    "padded": lambda k, x: k.ZeroPadding2D(((1, 2), (0, 3)))(x),
    "cropped": lambda k, x: k.Cropping2D(((1, 2), (0, 3)))(x),
    "sum": lambda k, x: k.Add()([x, k.Dropout(0.5)(x)]),
    "product": lambda k, x: k.Multiply()([x, k.Activation("sigmoid")(x)]),
    "difference": lambda k, x: k.Subtract()([x, k.Activation("relu")(x)]),
    "mean of two": lambda k, x: k.Average()([x, k.Activation("relu")(x)]),
    "numbers": lambda k, x: 1.0 - x * 2.0 + 0.5,
    "channel attention": lambda k, x: k.Multiply()(
        [
            x,
            k.Reshape((1, 1, 4))(
                k.Dense(4, activation="sigmoid")(k.GlobalAveragePooling2D()(x)),
            ),
        ]
    ),
}


@pytest.mark.parametrize("kind", BODIES)
def test_layers(keras: ModuleType, tmp_path: Path, kind: str) -> None:
    layers = keras.layers
    image = layers.Input((None, None, 2))
    x = layers.Conv2D(4, 3, padding="same")(image)
    x = BODIES[kind](layers, x)
    model = keras.Model(image, layers.Conv2D(2, 1, activation="softmax")(x))
    randomise(model)
    graph = read_keras(saved(model, tmp_path, ".keras"))
    sizes = [(12, 16)] if "size" in kind else [(12, 16), (11, 17)]
    scale = 1 / 255
    for size in sizes:
        image = RANDOM.uniform(0, 255, (1, *size, 2)).astype(np.float32) * np.float32(scale)
        wanted = torch.as_tensor(model(image)).detach().movedim(-1, 1)
        with torch.inference_mode():
            found = network_of(graph)(torch.from_numpy(image).movedim(-1, 1)).softmax(1)
        assert found.shape == wanted.shape
        assert float((found - wanted).abs().max()) <= 1e-5
    assert graph.about["activation"] == "softmax"


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_volumes(keras: ModuleType, tmp_path: Path, suffix: str) -> None:
    layers = keras.layers
    image = layers.Input((8, 8, 8, 1))
    a = layers.Conv3D(2, 3, padding="same", activation="elu")(image)
    x = layers.MaxPooling3D(2)(a)
    x = layers.BatchNormalization()(layers.Conv3D(4, 3, padding="same")(x))
    x = layers.concatenate([layers.Conv3DTranspose(2, 2, strides=2, padding="same")(x), a])
    x = layers.UpSampling3D(2)(layers.AveragePooling3D(2)(x))
    model = keras.Model(image, layers.Conv3D(3, 1, activation="softmax")(x))
    randomise(model)
    graph = read_keras(saved(model, tmp_path, suffix))
    assert graph.config.dims == 3
    assert compared(graph, model, 8, 8, 8, 1, activation="softmax") <= 1e-5


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_models_in_models_and_layers_used_twice(
    keras: ModuleType, tmp_path: Path, suffix: str
) -> None:
    layers = keras.layers

    def block(name: str) -> Any:
        steps = [layers.Conv2D(3, 3, padding="same"), layers.BatchNormalization(), layers.ELU()]
        return keras.Sequential(steps, name=name)

    inside = layers.Input((None, None, 3))
    functional = keras.Model(inside, layers.Add()([inside, block("deep")(inside)]), name="inner")
    image = layers.Input((None, None, 3))
    shared = layers.Conv2D(3, 3, padding="same", activation="relu")
    x = functional(block("first")(image))
    x = layers.concatenate([shared(x), shared(shared(x))])
    model = keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid")(x))
    randomise(model)
    graph = read_keras(saved(model, tmp_path, suffix))
    network = network_of(graph)
    image = RANDOM.normal(0, 1, (1, 9, 8, 3)).astype(np.float32)
    wanted = torch.as_tensor(model(image)).detach().movedim(-1, 1)
    with torch.inference_mode():
        found = network(torch.from_numpy(image).movedim(-1, 1)).sigmoid()
    assert float((found - wanted).abs().max()) <= 1e-5


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_sequential(keras: ModuleType, tmp_path: Path, suffix: str) -> None:
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(2, 3, padding="same", activation="relu"),
            layers.Conv2D(2, 1),
            layers.Softmax(),
        ]
    )
    randomise(model)
    graph = read_keras(saved(model, tmp_path, suffix))
    assert graph.about["activation"] == "softmax"
    assert {"normalization", "class_names"} <= set(graph.assumed)
    assert graph.about["normalization"].kind == "range"


def test_measured_normalization_is_taken_off(keras: ModuleType, tmp_path: Path) -> None:
    def scaled(image: Any) -> Any:
        layer = keras.layers.Normalization(mean=[100.0, 90, 80], variance=[400.0, 100, 25])
        return layer(image)

    model = unet_of_the_tutorial(keras, scaled=scaled)
    graph = read_keras(saved(model, tmp_path, ".keras"))
    assert graph.about["normalization"].offset == (100.0, 90.0, 80.0)
    assert graph.about["normalization"].scale == (20.0, 10.0, 5.0)
    assert compared(graph, model, 8, 12, 3, activation="sigmoid") <= 1e-5


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="other bytecode; see the test below")
@pytest.mark.parametrize("constant", ["255", "255.0", "127"])
def test_division_in_python_is_recognised_and_not_run(
    keras: ModuleType, tmp_path: Path, constant: str
) -> None:
    function = eval(f"lambda x: x / {constant}")
    model = unet_of_the_tutorial(keras, 1, keras.layers.Lambda(function))
    graph = read_keras(saved(model, tmp_path, ".h5"))
    assert graph.about["normalization"].scale == (float(constant),)
    assert "normalization" not in graph.assumed
    assert compared(graph, model, 8, 12, 1, activation="sigmoid") <= 1e-5


def test_other_python_is_refused_by_name(keras: ModuleType, tmp_path: Path) -> None:
    layer = keras.layers.Lambda(lambda x: x**3 - 2.0 * x, name="cubed")
    path = saved(unet_of_the_tutorial(keras, 1, layer), tmp_path, ".keras")
    with pytest.raises(ModelFileError, match=r"'cubed'.*not executed"):
        read_keras(path)


@pytest.mark.parametrize(
    "code",
    [
        "7c0000640100 1b53",
        "7c006401 1b005300",
        "97007c006401 7a0b0000 5300",
        "950055005301 2d0b0000 2400",
    ],
)
@pytest.mark.parametrize("constant", [b"i" + struct.pack("<i", 100), b"g" + struct.pack("<d", 100)])
def test_division_in_the_bytecode_of_each_python(code: str, constant: bytes) -> None:
    body = bytes.fromhex(code)
    blob = b"c...s" + struct.pack("<I", len(body)) + body + b")\x02N" + constant + b"..."
    text = base64.b64encode(blob).decode()
    assert divisor_of({"function": [text, None, None]}) == (100.0, True)
    stored = {"class_name": "__lambda__", "config": {"code": text}}
    assert divisor_of({"function": stored}) == (100.0, True)
    zero = base64.b64encode(blob.replace(constant[1:], bytes(len(constant) - 1))).decode()
    assert divisor_of({"function": [zero, None, None]}) is None


def test_python_that_holds_255_is_assumed_to_divide_by_it() -> None:
    assert divisor_of({"function": ["bm90IGNvZGU=", None, None]}) is None
    assert divisor_of({"function": ["/wAAAA==", None, None]}) == (255.0, False)
    assert divisor_of({"function": "a_function_elsewhere"}) is None


def plain_weights(model: Any, path: Path) -> None:
    """`save_weights` as Keras 2 wrote it: the groups of a model file, at the root."""
    model.save(path.with_suffix(".whole.h5"))
    with h5py.File(path.with_suffix(".whole.h5")) as whole, h5py.File(path, "w") as file:
        for name in whole["model_weights"]:
            whole.copy(f"model_weights/{name}", file)
        for name, value in whole["model_weights"].attrs.items():
            file.attrs[name] = value


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
def test_weights_alone_of_the_tutorial(keras: ModuleType, tmp_path: Path, suffix: str) -> None:
    model = unet_of_the_tutorial(keras)
    path = tmp_path / f"only{suffix}"
    plain_weights(model, path) if suffix == ".h5" else model.save_weights(path)
    graph = read_keras(path)
    assert compared(graph, model, 16, 8, 3, activation="sigmoid") <= 1e-5
    assert {"layers", "normalization", "activation"} <= set(graph.assumed)
    assert "without a list of layers" in graph.notes[0]


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
def test_weights_alone_of_the_membrane_net(keras: ModuleType, tmp_path: Path, suffix: str) -> None:
    layers = keras.layers

    def conv(x: Any, width: int, size: int = 3) -> Any:
        return layers.Conv2D(width, size, activation="relu", padding="same")(x)

    image = layers.Input((None, None, 1))
    skip = conv(conv(image, 3), 3)
    x = conv(conv(layers.MaxPooling2D()(skip), 6), 6)
    x = layers.concatenate([skip, conv(layers.UpSampling2D()(x), 3, 2)])
    x = conv(conv(conv(x, 3), 3), 2)
    model = keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid")(x))
    randomise(model)
    path = tmp_path / f"only{suffix}"
    plain_weights(model, path) if suffix == ".h5" else model.save_weights(path)
    network = network_of(read_keras(path))
    image = RANDOM.normal(0, 1, (1, 10, 8, 1)).astype(np.float32)
    wanted = torch.as_tensor(model(image)).detach().movedim(-1, 1)
    with torch.inference_mode():
        found = network(torch.from_numpy(image).movedim(-1, 1)).sigmoid()
    assert float((found - wanted).abs().max()) <= 1e-5


def test_other_weights_alone_are_refused(keras: ModuleType, tmp_path: Path) -> None:
    model = keras.Sequential([keras.layers.Input((8, 8, 1)), keras.layers.Conv2D(2, 3)])
    model.save_weights(tmp_path / "only.weights.h5")
    with pytest.raises(ModelFileError, match="only weights"):
        read_keras(tmp_path / "only.weights.h5")


def test_groups_without_names_are_counted(keras: ModuleType, tmp_path: Path) -> None:
    """Early versions of Keras 3 called groups after classes and did not name the layers."""
    model = unet_of_the_tutorial(keras)
    path = saved(model, tmp_path, ".keras")
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    weights = io.BytesIO(parts["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        for group in file["layers"].values():
            del group["vars"].attrs["name"]
    parts["model.weights.h5"] = weights.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    assert compared(read_keras(path), model, 8, 8, 3, activation="sigmoid") <= 1e-5


KERAS_2 = {
    "class_name": "Model",
    "config": {
        "name": "model_1",
        "layers": [
            {
                "name": "input_1",
                "class_name": "InputLayer",
                "config": {"batch_input_shape": [None, 8, 8, 1], "name": "input_1"},
                "inbound_nodes": [],
            },
            {
                "name": "tf.math.truediv",
                "class_name": "TFOpLambda",
                "config": {"name": "tf.math.truediv", "function": "math.truediv"},
                "inbound_nodes": [["input_1", 0, 0, {"y": 255.0, "name": None}]],
            },
            {
                "name": "conv2d_1",
                "class_name": "Conv2D",
                "config": {
                    "name": "conv2d_1",
                    "filters": 2,
                    "kernel_size": [3, 3],
                    "strides": [1, 1],
                    "padding": "same",
                    "data_format": "channels_last",
                    "dilation_rate": [1, 1],
                    "activation": "hard_sigmoid",
                    "use_bias": True,
                },
                "inbound_nodes": [[["tf.math.truediv", 0, 0, {}]]],
            },
            {
                "name": "leaky_re_lu_1",
                "class_name": "LeakyReLU",
                "config": {"name": "leaky_re_lu_1", "alpha": {"type": "ndarray", "value": 0.25}},
                "inbound_nodes": [[["conv2d_1", 0, 0, {}]]],
            },
        ],
        "input_layers": [["input_1", 0, 0]],
        "output_layers": [["leaky_re_lu_1", 0, 0]],
    },
}


def old_file(path: Path, config: Any = KERAS_2, version: str = "2.2.4") -> Path:
    """A model file as Keras 2 wrote it: texts as bytes, names ending in ":0"."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version.encode()
        file.attrs["model_config"] = json.dumps(config).encode()
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = [b"input_1", b"conv2d_1", b"leaky_re_lu_1"]
        layer = weights.create_group("conv2d_1")
        layer.attrs["weight_names"] = [b"conv2d_1/kernel:0", b"conv2d_1/bias:0"]
        layer["conv2d_1/kernel:0"] = np.arange(18, dtype=np.float32).reshape(3, 3, 1, 2) / 18
        layer["conv2d_1/bias:0"] = np.ones(2, np.float32)
    return path


def test_files_of_keras_2(tmp_path: Path) -> None:
    graph = read_keras(old_file(tmp_path / "old.h5"))
    assert graph.about["normalization"].scale == (255.0,)
    assert [layer.op for layer in graph.config.layers] == ["conv", "hard_sigmoid", "leaky_relu"]
    assert graph.config.layers[1].values == {"slope": 0.2, "shift": 0.5}  # Keras 3 has others
    assert graph.config.layers[2].values == {"slope": 0.25}
    weight = graph.tensors["layers.0.weight"]
    assert weight.shape == (2, 1, 3, 3)
    assert float(weight[1, 0, 2, 1]) == pytest.approx((2 * 6 + 1 * 2 + 1) / 18)
    assert graph.names["layers.0.bias"] == ("model_weights/conv2d_1/conv2d_1/bias:0",)
    assert "activation" in graph.assumed


def changed(**changes: Any) -> Any:
    config = json.loads(json.dumps(KERAS_2))
    config["config"].update(changes)
    return config


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"class_name": "MyUNet", "config": {}}, "class of its own"),
        ([], "damaged"),
        (changed(layers=[]), "damaged"),
        (changed(output_layers=[["conv2d_1", 0, 0], ["input_1", 0, 0]]), "2 outputs"),
        (changed(layers=KERAS_2["config"]["layers"][1:]), "missing"),
        (changed(output_layers=[["input_1", 0, 0]]), "without convolutions"),
    ],
)
def test_damaged_lists_of_layers(tmp_path: Path, config: Any, words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        read_keras(old_file(tmp_path / "bad.h5", config))


def test_unknown_layers_are_refused_by_name(tmp_path: Path) -> None:
    config = changed()
    config["config"]["layers"][3]["class_name"] = "Custom>Whirl"
    with pytest.raises(ModelFileError, match=r"'leaky_re_lu_1'.*Whirl"):
        read_keras(old_file(tmp_path / "bad.h5", config))


ODD: tuple[Any, ...] = (
    None, -1, 10**30, float("nan"), "x", [], {}, [1] * 99, [[]], True, [None], {"class_name": 1},
)  # fmt: skip


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """All (container, key) in nested lists and dictionaries."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    for inner in (value[key] for key in keys):
        found += places_in(inner) if isinstance(inner, dict | list) else []
    return found


@pytest.mark.parametrize("odd", range(len(ODD)))
def test_nonsense_anywhere_in_the_list_is_a_sentence(tmp_path: Path, odd: int) -> None:
    path, n_refused = old_file(tmp_path / "bad.h5"), 0
    for at in range(len(places_in(KERAS_2))):
        config = changed()
        owner, key = places_in(config)[at]
        owner[key] = ODD[odd]
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = json.dumps(config)
        try:
            read_keras(path)
        except ModelFileError:
            n_refused += 1
    assert n_refused > 10


def test_nested_without_end(tmp_path: Path) -> None:
    config = "[" * 20_000
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file.attrs["model_config"] = config
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_keras(tmp_path / "bad.h5")


def test_missing_weights(tmp_path: Path) -> None:
    path = old_file(tmp_path / "bad.h5")
    with h5py.File(path, "r+") as file:
        file["model_weights/conv2d_1"].attrs["weight_names"] = [b"conv2d_1/bias:0"]
    with pytest.raises(ModelFileError, match=r"'kernel' of layer 'conv2d_1'"):
        read_keras(path)


def test_archives_that_claim_too_much(tmp_path: Path) -> None:
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", bytes(1 << 25))
    with pytest.raises(ModelFileError, match="claims to unpack"):
        read_keras(path)


def test_archives_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("data.pkl", "")
    with pytest.raises(ModelFileError, match=r"config\.json"):
        read_keras(tmp_path / "other.keras")
    (tmp_path / "cut.keras").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ModelFileError, match="damaged or incomplete"):
        read_keras(tmp_path / "cut.keras")
