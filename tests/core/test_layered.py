"""Networks as lists of layers: each kind of layer against torch, and lists that mean harm."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_unet.core.checkpoints.family import families
from napari_unet.core.errors import ModelFileError
from napari_unet.core.networks.layered import INPUT, Layer, LayeredConfig, LayeredNetwork


def layer(op: str, *inputs: str, name: str = "", **values: Any) -> Layer:
    return Layer(name=name or op, op=op, inputs=inputs or (INPUT,), values=values)


def network(*layers: Layer, dims: Any = 2, n_in: int = 2) -> LayeredNetwork:
    config = LayeredConfig(dims=dims, in_channels=n_in, out_channels=1, layers=layers)
    return LayeredNetwork(config).eval()


def image(*size: int, n: int = 2) -> Tensor:
    return torch.randn(1, n, *size, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def run(given: Tensor, op: str, *more: Tensor, **values: Any) -> Tensor:
    """One layer, with `more` as its weights in order."""
    net = network(layer(op, **values), dims=given.ndim - 2, n_in=given.shape[1])
    for value, new in zip(net.state_dict().values(), more, strict=False):
        value.copy_(new)
    result: Tensor = net(given)
    return result


CONV = {"in_channels": 2, "out_channels": 3, "bias": False}
KERNEL = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(1))
UP = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(2))


def test_convolutions_and_their_borders() -> None:
    x = image(9, 8)
    settings = {**CONV, "kernel": (3, 3)}
    assert run(x, "conv", KERNEL, **settings).equal(F.conv2d(x, KERNEL))
    wanted = F.conv2d(x, KERNEL, padding=(1, 2))
    assert run(x, "conv", KERNEL, **settings, padding=(1, 2, 1, 2)).equal(wanted)
    wanted = F.conv2d(F.pad(x, (0, 1, 2, -1)), KERNEL)
    assert run(x, "conv", KERNEL, **settings, padding=(2, 0, -1, 1)).equal(wanted)
    wanted = F.conv2d(F.pad(x, (0, 1, 1, 1)), KERNEL, stride=2)  # 9 px need one more than 8
    assert run(x, "conv", KERNEL, **settings, padding="same", stride=2).equal(wanted)
    wanted = F.conv2d(F.pad(x, (1, 0, 1, 1)), KERNEL, stride=2)
    assert run(x, "conv", KERNEL, **settings, padding="same_lower", stride=2).equal(wanted)
    wanted = F.conv2d(x, KERNEL, padding=2, dilation=2)
    assert run(x, "conv", KERNEL, **settings, padding="same", dilation=2).equal(wanted)


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(7, 8), (9, 12)])
def test_same_gives_as_many_as_fit(stride: int, size: tuple[int, int]) -> None:
    settings = {"kernel": (3, 3), "stride": stride, "padding": "same"}
    wanted = tuple(-(-n // stride) for n in size)
    assert run(image(*size), "conv", KERNEL, **CONV, **settings).shape[2:] == wanted
    assert run(image(*size), "max_pool", **settings).shape[2:] == wanted
    assert run(image(*size), "avg_pool", **settings).shape[2:] == wanted
    up = run(image(*size), "transposed_conv", UP, **CONV, **settings)
    assert up.shape[2:] == tuple(n * stride for n in size)


def test_transposed_convolutions_are_cut() -> None:
    x = image(5, 4)
    settings = {**CONV, "kernel": (3, 3), "stride": 2}
    whole = F.conv_transpose2d(x, UP, stride=2)
    assert run(x, "transposed_conv", UP, **settings).equal(whole)
    found = run(x, "transposed_conv", UP, **settings, padding="same")
    torch.testing.assert_close(found, whole[:, :, :-1, :-1])
    found = run(x, "transposed_conv", UP, **settings, padding=(1, 0, 2, 0))
    torch.testing.assert_close(found, whole[:, :, 1:-2])
    wanted = F.conv_transpose2d(x, UP, stride=2, padding=1, output_padding=1)
    found = run(x, "transposed_conv", UP, **settings, padding=1, output_padding=1)
    torch.testing.assert_close(found, wanted)
    with_hole = run(x, "transposed_conv", UP, **{**settings, "stride": 4}, padding="same")
    torch.testing.assert_close(with_hole, F.conv_transpose2d(x, UP, stride=4, output_padding=1))


def test_poolings() -> None:
    x = image(9, 10) - 10  # zeros beside the image would show
    settings = {"kernel": (3, 3), "stride": (2, 2)}
    assert run(x, "max_pool", **settings).equal(F.max_pool2d(x, 3, 2))
    assert run(x, "max_pool", **settings, padding=1).equal(F.max_pool2d(x, 3, 2, 1))
    for padding in (0, 1):
        wanted = F.max_pool2d(x, 3, 2, padding, ceil_mode=True)
        assert run(x, "max_pool", **settings, padding=padding, ceil=True).equal(wanted)
    wanted = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    torch.testing.assert_close(run(x, "avg_pool", **settings, padding=1), wanted)
    wanted = F.avg_pool2d(x, 3, 2, 1)
    found = run(x, "avg_pool", **settings, padding=1, count_include_pad=True)
    torch.testing.assert_close(found, wanted)
    wanted = F.max_pool3d(image(5, 6, 7), (1, 2, 3))
    settings = {"kernel": (1, 2, 3), "stride": (1, 2, 3)}
    assert run(image(5, 6, 7), "max_pool", **settings).equal(wanted)
    assert run(x, "global_avg_pool").shape == (1, 2, 1, 1)
    assert run(x, "global_max_pool").flatten().equal(x.amax((0, 2, 3)))


def test_resizing() -> None:
    x = image(3, 4)
    doubled = x.repeat_interleave(2, 2).repeat_interleave(3, 3)
    assert run(x, "resize", scale=(2, 3)).equal(doubled)
    wanted = F.interpolate(x, (6, 8), mode="bilinear", align_corners=True)
    assert run(x, "resize", scale=2, mode="linear", align_corners=True).equal(wanted)
    wanted = F.interpolate(x, scale_factor=1.5, mode="bilinear")
    assert run(x, "resize", scale=1.5, mode="linear").equal(wanted)
    wanted = F.interpolate(x, (5, 7), mode="nearest-exact")
    assert run(x, "resize", size=(5, 7), mode="nearest_exact").equal(wanted)
    wanted = F.interpolate(image(2, 3, 4), (4, 6, 8), mode="trilinear")
    assert run(image(2, 3, 4), "resize", scale=2, mode="linear").equal(wanted)
    net = network(
        layer("max_pool", kernel=(2, 2), stride=2),
        layer("resize", "max_pool", INPUT, mode="linear"),
    )
    assert net(image(7, 9)).shape[2:] == (7, 9)


def test_pixels_from_channels() -> None:
    x = torch.arange(8.0).view(1, 8, 1, 1)
    wanted = torch.tensor([[[0, 1], [2, 3]], [[4, 5], [6, 7]]])[None]
    assert run(x, "pixel_shuffle", factor=2).equal(wanted.float())
    wanted = torch.tensor([[[0, 2], [4, 6]], [[1, 3], [5, 7]]])[None]
    assert run(x, "pixel_shuffle", factor=2, order="dcr").equal(wanted.float())


def test_joining_crops_from_the_centre() -> None:
    x = image(7, 8)
    inner = layer("crop", amounts=(1, 1, 2, 3))
    assert network(inner)(x).equal(x[:, :, 1:5, 1:5])
    found = network(inner, layer("concat", "crop", INPUT, crop="first"))(x)
    assert found.equal(torch.cat([x[:, :, 1:5, 1:5], x[:, :, 1:5, 2:6]], 1))
    found = network(inner, layer("concat", INPUT, "crop", crop="smallest"))(x)
    assert found.equal(torch.cat([x[:, :, 1:5, 2:6], x[:, :, 1:5, 1:5]], 1))
    found = network(inner, layer("crop", INPUT, "crop", name="like", offset=(3, 0)))(x)
    assert found.equal(x[:, :, 3:7, :4])


def test_arithmetic() -> None:
    x = image(3, 4)
    twice = layer("add", INPUT, INPUT, name="twice")
    for op, wanted in {
        "add": 3 * x, "sub": -x, "mul": 2 * x * x, "div": torch.full_like(x, 0.5),
        "maximum": torch.maximum(x, 2 * x), "minimum": torch.minimum(x, 2 * x), "average": 1.5 * x,
    }.items():  # fmt: skip
        torch.testing.assert_close(network(twice, layer(op, INPUT, "twice"))(x), wanted)
    assert run(x, "sub", value=1.0).equal(x - 1)
    assert run(x, "sub", value=1.0, reversed=True).equal(1 - x)
    assert run(x, "div", value=2.0, reversed=True).equal(2 / x)
    assert run(x, "pow", value=2.0).equal(x**2)
    assert run(x.abs(), "sqrt").equal(x.abs().sqrt())
    assert run(x.abs(), "log").equal(x.abs().log())
    assert run(x, "maximum", value=0.0).equal(x.clamp(min=0))
    constant = Layer(name="c", op="constant", inputs=(), values={"shape": (1, 2, 1, 1)})
    net = network(constant, layer("mul", INPUT, "c"))
    net.get_submodule("layers.0").get_buffer("value").copy_(torch.tensor([2.0, 3]).view(1, 2, 1, 1))
    assert net(x).equal(x * torch.tensor([2.0, 3]).view(1, 2, 1, 1))
    found = run(x, "scale_shift", torch.tensor([2.0, 3]), torch.tensor([1.0, -1]), channels=2)
    torch.testing.assert_close(found[:, 1], 3 * x[:, 1] - 1)


def test_borders() -> None:
    x = image(5, 6)
    wanted = F.pad(x, (2, 0, 1, 3), value=7.0)
    assert run(x, "pad", amounts=(1, 2, 3, 0), value=7.0).equal(wanted)
    for mode in ("reflect", "replicate"):
        wanted = F.pad(x, (2, 0, 1, 3), mode=mode)
        assert run(x, "pad", amounts=(1, 2, 3, 0), mode=mode).equal(wanted)
    assert run(x, "channels", start=1, stop=2).equal(x[:, 1:2])


@pytest.mark.parametrize(
    ("op", "values", "wanted"),
    [
        ("relu", {}, F.relu),
        ("leaky_relu", {"slope": 0.3}, lambda x: F.leaky_relu(x, 0.3)),
        ("elu", {"alpha": 0.5}, lambda x: F.elu(x, 0.5)),
        ("selu", {}, F.selu),
        ("gelu", {}, F.gelu),
        ("gelu", {"approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh")),
        ("silu", {}, F.silu),
        ("sigmoid", {}, torch.sigmoid),
        ("tanh", {}, torch.tanh),
        ("softmax", {}, lambda x: F.softmax(x, 1)),
        ("softplus", {}, F.softplus),
        ("hard_sigmoid", {}, F.hardsigmoid),
        ("hard_sigmoid", {"slope": 0.2}, lambda x: (0.2 * x + 0.5).clamp(0, 1)),
        ("hard_swish", {}, F.hardswish),
        ("clip", {"min": 0.0, "max": 0.5}, lambda x: x.clamp(0, 0.5)),
        ("clip", {"max": 0.5}, lambda x: x.clamp(max=0.5)),
        ("identity", {}, lambda x: x),
        ("abs", {}, torch.abs),
        ("neg", {}, torch.neg),
        ("exp", {}, torch.exp),
        ("mish", {}, F.mish),
        ("softsign", {}, F.softsign),
        ("channel_mean", {}, lambda x: x.mean(1, keepdim=True)),
        ("channel_max", {}, lambda x: x.amax(1, keepdim=True)),
        ("prelu", {"channels": 2}, lambda x: F.prelu(x, torch.tensor([0.25, 0.25]))),
        ("instance_norm", {"channels": 2, "eps": 1e-3}, lambda x: F.instance_norm(x, eps=1e-3)),
        (
            "group_norm",
            {"channels": 2, "groups": 1, "eps": 1e-3},
            lambda x: F.group_norm(x, 1, eps=1e-3),
        ),
        (
            "layer_norm",
            {"channels": 2, "eps": 1e-3},
            lambda x: F.layer_norm(x.movedim(1, -1), (2,), eps=1e-3).movedim(-1, 1),
        ),
        ("batch_norm", {"channels": 2, "eps": 1e-3}, lambda x: x / 1.001**0.5),
    ],
)
def test_functions(op: str, values: Any, wanted: Any) -> None:
    for x in (image(4, 5), image(3, 4, 5)):
        torch.testing.assert_close(run(3 * x, op, **values), wanted(3 * x))


def small() -> LayeredNetwork:
    torch.manual_seed(0)
    return network(
        layer("conv", in_channels=2, out_channels=4, kernel=(3, 3), padding="same", name="a"),
        layer("batch_norm", "a", channels=4, eps=1e-3),
        layer("relu", "batch_norm"),
        layer("max_pool", "relu", kernel=(2, 2), stride=(2, 2)),
        layer("resize", "max_pool", scale=(2, 2)),
        layer("concat", "resize", "relu"),
        layer("conv", "concat", in_channels=8, out_channels=1, kernel=(1, 1), name="b"),
    )


def test_weights_are_called_after_their_place_in_the_list() -> None:
    assert {"layers.0.weight", "layers.1.running_var", "layers.6.bias"} <= set(small().state_dict())


def test_it_trains_can_be_copied_and_leaves_its_input_alone() -> None:
    net, x = small(), image(8, 8)
    before = x.clone()
    twin = copy.deepcopy(net).train()
    twin(x).square().mean().backward()
    assert all(one.grad is not None for one in twin.parameters())
    assert all(one.grad is None for one in net.parameters())
    assert x.equal(before)
    assert net(x).shape == (1, 1, 8, 8)


def test_the_input_may_be_the_output_of_a_layer_that_is_read_again() -> None:
    net = network(layer("relu"), layer("add", "relu", INPUT), layer("mul", "add", "add", "relu"))
    x = image(3, 3)
    assert net(x).equal((x.relu() + x) * (x.relu() + x) * x.relu())


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ((), "lists 0 layers"),
        ((("relu", ("other",)),), "'other'"),
        ((("relu", (INPUT,)), ("relu", (INPUT,))), "two layers"),
        ((("max_pool", (INPUT,), {"kernel": (2, 2), "stride": (2, 2, 2)}),), "2 axes"),
        ((("max_pool", (INPUT,), {"kernel": (2, 2), "stride": (-1, 2)}),), "2 axes"),
        ((("resize", (INPUT,), {"size": (10_000, 10_000)}),), "no image needs"),
        ((("resize", (INPUT,), {"scale": (100, 100)}),), "times as wide"),
        ((("pad", (INPUT,), {"amounts": (1 << 15, 0, 0, 0)}),), "no image needs"),
        ((("relu", (INPUT, INPUT)),), "2 inputs"),
        ((("whirl", (INPUT,)),), "not known"),
        ((("mul", (INPUT,), {"value": float("nan")}),), "no image needs"),
    ],
)
def test_lists_that_make_no_sense(layers: Any, words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        network(*(layer(op, *inputs, **dict(*more)) for op, inputs, *more in layers))


def test_enlarging_step_by_step_is_noticed() -> None:
    steps = [layer("resize", f"r{n - 1}" if n else INPUT, name=f"r{n}", scale=4) for n in range(4)]
    with pytest.raises(ModelFileError, match="times as wide"):
        network(*steps)


def test_a_network_that_goes_down_and_up_again_enlarges_nothing() -> None:
    layers: list[Layer] = []
    for n in range(14):
        before = layers[-1].name if layers else INPUT
        values = {"scale": (1, 2)} if n % 2 else {"kernel": (1, 2), "stride": (1, 2)}
        layers.append(layer("resize" if n % 2 else "max_pool", before, name=f"l{n}", **values))
    assert network(*layers)(image(4, 6)).shape == (1, 2, 4, 6)


def test_it_is_a_family_that_recognises_nothing() -> None:
    assert families()["layered"].config is LayeredConfig
