"""What is read off one run of a network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import N_OUTPUTS, Acting, unet
from torch import Tensor, nn

from napari_unet.core.engine.geometry import Enlarge, Spread, Window
from napari_unet.core.engine.graph import Graph, UnsupportedError, WholeImageError
from napari_unet.core.engine.ops import (
    Affine,
    Convolution,
    Crop,
    Join,
    Pointwise,
    Pooling,
    Resize,
    Transposed,
)
from napari_unet.core.engine.tracing import picture_in, trace


def layer(function: Callable[[Tensor], Any], channels: int = 4) -> Graph:
    """What is recorded of a function, behind a convolution 1x1."""
    network = nn.Sequential(nn.Conv2d(1, channels, 1), Acting(function))
    return trace(network.eval(), 1, (24, 24))


@pytest.mark.parametrize(
    ("part", "kind", "axes"),
    [
        (nn.Conv2d(4, 4, (3, 5), padding=(1, 0), stride=(1, 2)), Convolution,
         (Window(extent=3, before=1, after=1), Window(extent=5, step=2))),
        (nn.Conv2d(4, 4, 3, dilation=2, padding="same"), Convolution,
         (Window(extent=5, before=2, after=2),) * 2),
        (nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1), Transposed,
         (Spread(extent=3, step=2, before=1, after=0),) * 2),
        (nn.MaxPool2d(3, 2, 1), Pooling, (Window(extent=3, step=2, before=1, after=1),) * 2),
        (nn.AvgPool2d((1, 2)), Pooling, (Window(), Window(extent=2, step=2))),
        (nn.Upsample(scale_factor=2), Resize, (Enlarge(factor=2),) * 2),
        (nn.UpsamplingBilinear2d(scale_factor=3), Resize,
         (Enlarge(factor=3, kind="corners"),) * 2),
        (nn.Upsample(size=(24, 48), mode="bilinear"), Resize,
         (Enlarge(factor=1, kind="linear"), Enlarge(factor=2, kind="linear"))),
        (nn.ZeroPad2d((1, 2, 3, 4)), Crop,
         (Window(before=3, after=4), Window(before=1, after=2))),
        (nn.ConstantPad2d(-1, 2.0), Crop, (Window(before=-1, after=-1),) * 2),
        (Acting(lambda x: x[:, :, 2:-3]), Crop, (Window(before=-2, after=-3), Window())),
        (nn.BatchNorm2d(4), Affine, (Window(),) * 2),
        (nn.PixelShuffle(2), Pointwise, (Enlarge(factor=2),) * 2),
        (nn.Sigmoid(), Pointwise, (Window(),) * 2),
        (Acting(lambda x: torch.cat([x, x], 1)), Join, (Window(),) * 2),
        (Acting(lambda x: torch.cat([x, x], -3)), Join, (Window(),) * 2),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)  # fmt: skip
def test_kinds_of_layers(part: nn.Module, kind: type, axes: Any) -> None:
    graph = trace(nn.Sequential(nn.Conv2d(1, 4, 1), part).eval(), 1, (24, 24))
    assert [type(one.op) for one in graph.layers] == [Convolution, kind]
    assert graph.layers[1].op.axes == axes
    assert set(graph.layers[1].inputs) == {1}


def test_a_padding_keeps_its_value() -> None:
    graph = layer(lambda x: F.pad(x, (1, 1, 1, 1), value=3.5))
    assert graph.layers[-1].op.fill == 3.5
    assert layer(lambda x: F.pad(x, (1, 1))).layers[-1].op.fill == 0


@pytest.mark.parametrize("dims", [2, 3])
def test_a_u_net_is_known_with_its_skips(dims: int) -> None:
    network = unet(dims, 2, "batch", "transposed").eval()
    graph = trace(network, 1, (16,) * dims)
    joins = [one for one in graph.layers if isinstance(one.op, Join)]
    assert len(joins) == 2
    assert all(len(one.inputs) == 2 for one in joins)
    assert graph.out_channels == N_OUTPUTS
    assert sum(isinstance(one.op, Convolution) for one in graph.layers) == 11
    assert graph.in_channels == 1


def test_what_is_changed_in_place_is_followed() -> None:
    def function(image: Tensor) -> Tensor:
        image.mul_(2)
        skip = image.clone()
        image.relu_()
        skip += image
        return skip

    names = [getattr(one.op, "name", "") for one in layer(function).layers]
    assert names == ["", "mul", "relu", "add"]


def test_nothing_is_recorded_of_what_does_nothing() -> None:
    graph = layer(lambda x: F.dropout(x.contiguous().detach(), training=False).view(x.shape))
    assert len(graph.layers) == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mean(dim=(2, 3), keepdim=True) * x,
        lambda x: x - x.mean(),
        lambda x: x / x.amax((1, 2, 3), keepdim=True),
        lambda x: x * x.var(dim=-1, keepdim=True),
        lambda x: x * x.max(),
        lambda x: F.instance_norm(x),
        lambda x: F.group_norm(x, 2),
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: F.softmax(x, dim=2),
        lambda x: x * F.adaptive_avg_pool2d(x, 1),
        lambda x: F.interpolate(F.adaptive_max_pool2d(x, 3), scale_factor=8),
    ],
)
def test_statistics_of_the_whole_image(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(WholeImageError, match="the whole image"):
        layer(function)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), "of a kind that is not known"),
        (lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2), "of a kind that is not known"),
        (lambda x: x.flip(2), "of a kind that is not known"),
        (lambda x: F.avg_pool2d(x, 3, 1, 1), "of means is padded"),
        (lambda x: F.max_pool2d(x, 3, ceil_mode=True), "rounds sizes up"),
        (lambda x: F.max_pool2d(x, 3, dilation=2), "is dilated"),
        (lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), "second result"),
        (lambda x: F.interpolate(x, scale_factor=1.5), "resizes 24 px to 36"),
        (lambda x: x[:, :, ::2], "leaves out pixels"),
        (lambda x: torch.cat([x, x], 2), "joins pieces"),
        (lambda x: torch.cat([x, torch.ones(1, 4, 24, 24)], 1), "with a picture of its own"),
        (lambda x: x + torch.linspace(0, 1, 24), "a picture of its own"),
        (lambda x: x * torch.rand(1, 4, 24, 24), "a picture of its own"),
        (lambda x: x + x[:, :, :1], "images of different size"),
        (lambda x: x.split(12, dim=2)[0], "splits the image"),
        (lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)), "pads channels"),
        (lambda x: x + x.mean(1)[None], "drops an axis"),
        (lambda x: torch.rand(1, 4, 24, 24), "does not come from a layer"),
    ],
)
def test_what_is_not_known(function: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message) as caught:
        layer(function)
    assert type(caught.value) is UnsupportedError


def test_a_network_that_looks_at_its_numbers_is_not_known() -> None:
    with pytest.raises(UnsupportedError, match="_local_scalar_dense"):
        layer(lambda x: x if float(x[:1, :1, :1, :1].detach()) > 0 else -x)


def test_what_the_output_does_not_depend_on_does_not_matter() -> None:
    heads = []

    def function(image: Tensor) -> tuple[Tensor, ...]:
        guess = image.mean(dim=(2, 3))
        heads.append(guess.sigmoid())
        aside = F.pad(image, (1, 1, 1, 1), mode="reflect").relu()
        result = image.exp()
        return result, guess, aside[:, :, ::4], image.tanh()

    graph = layer(function)
    assert [getattr(one.op, "name", "") for one in graph.layers] == ["", "exp"]
    assert [one.inputs for one in graph.layers] == [(0,), (1,)]


def test_means_over_the_channels_are_local() -> None:
    graph = layer(lambda x: x.mean(1, keepdim=True) + x.amax(-3, keepdim=True) + x.max(1, True)[0])
    names = [getattr(one.op, "name", "") for one in graph.layers]
    assert sorted(names) == ["", "add", "add", "amax", "max", "mean"]


# --- the picture among what comes out ----------------------------------------------------------

PICTURE, SMALL = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 4, 4)


@pytest.mark.parametrize(
    "output",
    [
        PICTURE, [PICTURE, SMALL], (SMALL, PICTURE), {"aux": SMALL, "out": PICTURE},
        OrderedDict(a=[SMALL], b=(torch.zeros(3), {"c": PICTURE})),
        [PICTURE, torch.ones(1, 2, 8, 8)],
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), PICTURE), [None, PICTURE, 3],
    ],
)  # fmt: skip
def test_the_picture_is_the_first_of_the_largest(output: Any) -> None:
    assert picture_in(output, 4) is PICTURE


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (None, "gives a NoneType, in which there is no picture"),
        ([], "gives a list"),
        ((torch.zeros(3), torch.zeros(2, 2)), "gives a tuple"),
        ({"scores": torch.zeros(1, 5)}, "gives a dict"),
        (torch.zeros(1, 10), r"gives a Tensor of shape \(1, 10\)"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.int32), r"of shape \(1, 1, 4, 4\)"),
    ],
)
def test_no_picture(output: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        picture_in(output, 4)
