"""What each kind of layer computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from napari_unet.core.engine.geometry import SAME, Spread, Window
from napari_unet.core.engine.ops import Affine, Convolution, Crop, Pooling, Transposed, cast


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("dims", [2, 3])
def test_convolutions(dims: int) -> None:
    image, size = drawn(1, 4, *[9] * dims), [3] * dims
    axes = (Window(extent=5, step=2, before=2, after=2),) * dims
    weight, bias = drawn(6, 2, *size), drawn(6)
    op = Convolution(axes=axes, weight=weight, bias=bias, dilation=(2,) * dims, groups=2)
    function = F.conv2d if dims == 2 else F.conv3d
    expected = function(image, weight, bias, stride=2, dilation=2, groups=2)
    torch.testing.assert_close(op.compute(image), expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_transposed_convolutions(dims: int) -> None:
    image, weight = drawn(1, 4, *[5] * dims), drawn(4, 3, *[4] * dims)
    op = Transposed(axes=(Spread(extent=4, step=2, before=1, after=1),) * dims, weight=weight,
                    bias=None, groups=2)  # fmt: skip
    function = F.conv_transpose2d if dims == 2 else F.conv_transpose3d
    torch.testing.assert_close(op.compute(image), function(image, weight, stride=2, groups=2))


@pytest.mark.parametrize("dims", [2, 3])
def test_poolings(dims: int) -> None:
    image, axes = drawn(1, 2, *[7] * dims), (Window(extent=3, step=2),) * dims
    largest = F.max_pool2d if dims == 2 else F.max_pool3d
    mean = F.avg_pool2d if dims == 2 else F.avg_pool3d
    assert torch.equal(Pooling(axes=axes, kind="max").compute(image), largest(image, 3, 2))
    assert torch.equal(Pooling(axes=axes, kind="mean").compute(image), mean(image, 3, 2))
    assert Pooling(axes=axes, kind="max").fill == float("-inf")


def test_a_factor_and_a_shift() -> None:
    image, factor, shift = drawn(1, 3, 4, 5), drawn(3), drawn(3)
    op = Affine(axes=(SAME, SAME), factor=factor, shift=shift)
    expected = image * factor[:, None, None] + shift[:, None, None]
    torch.testing.assert_close(op.compute(image), expected)


def test_other_types_keep_the_values_and_the_layout() -> None:
    weight, bias = drawn(4, 3, 3, 3), drawn(4)
    op = Convolution(axes=(Window(extent=3),) * 2, weight=weight, bias=bias, dilation=(1, 1))
    other = cast(op, torch.bfloat16)
    assert isinstance(other, Convolution)
    assert other.weight.dtype == torch.bfloat16
    assert other.bias is not None
    assert other.bias.dtype == torch.bfloat16
    assert other.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(other.weight.float(), weight, atol=0.02, rtol=0.01)
    assert op.weight.dtype == torch.float32
    factor = cast(Affine(axes=(), factor=drawn(3), shift=drawn(3)), torch.float16)
    assert isinstance(factor, Affine)
    assert factor.factor.dtype == factor.shift.dtype == torch.float16
    crop = Crop(axes=(SAME,))
    assert cast(crop, torch.float16) is crop
