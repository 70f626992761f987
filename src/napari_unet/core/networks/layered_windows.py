"""Layers of a layer list that look at windows: convolutions, poolings, resizing, borders.

Amounts at borders ("padding", "amounts") are given as in ONNX: first those before each axis, then
those behind each axis, so `(top, left, bottom, right)` for images. A padding may also be "same",
which gives `ceil(n / stride)` px, one more px being added behind than before if their number is
odd (TensorFlow's rule), or "same_lower", where the odd one is added before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "avg_pool",
    "build_conv",
    "build_transposed",
    "concat",
    "crop",
    "max_pool",
    "pad",
    "pixel_shuffle",
    "resize",
    "run_conv",
    "run_transposed",
]

Values = Mapping[str, Any]


def _per_axis(values: Values, name: str, dims: int, default: int = 1) -> tuple[int, ...]:
    """A value for each axis, where one may stand for all."""
    value = values.get(name, default)
    return tuple(value) if isinstance(value, tuple) else (value,) * dims


def _borders(image: Tensor, values: Values, kernel: Sequence[int]) -> list[tuple[int, int]]:
    """How much a window needs before and behind each axis of an image."""
    dims = image.ndim - 2
    padding = values.get("padding", 0)
    if isinstance(padding, int):
        padding = (padding,) * (2 * dims)
    if not isinstance(padding, str):
        return list(zip(padding[:dims], padding[dims:], strict=True))
    stride = _per_axis(values, "stride", dims)
    dilation = _per_axis(values, "dilation", dims)
    borders = []
    for n, k, s, d in zip(image.shape[2:], kernel, stride, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        small, large = total // 2, total - total // 2
        borders.append((large, small) if padding == "same_lower" else (small, large))
    return borders


def _padded(image: Tensor, borders: Sequence[tuple[int, int]], fill: float = 0.0) -> Tensor:
    """The image with constant borders; negative ones take px away."""
    if not any(n for pair in borders for n in pair):
        return image
    return F.pad(image, [n for pair in reversed(borders) for n in pair], value=fill)


def _cropped(image: Tensor, size: Sequence[int], offset: Sequence[int] | None = None) -> Tensor:
    """A window of an image; by default from its centre."""
    for axis, n in enumerate(size, start=2):
        if image.shape[axis] != n:
            start = offset[axis - 2] if offset else (image.shape[axis] - n) // 2
            image = image.narrow(axis, start, n)
    return image


def build_conv(values: Values, dims: int) -> nn.Module:
    """A convolution without padding of its own."""
    return _built(nn.Conv2d if dims == 2 else nn.Conv3d, values, dims)


def build_transposed(values: Values, dims: int) -> nn.Module:
    """A transposed convolution that cuts off nothing by itself."""
    return _built(nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d, values, dims)


def _built(kind: Any, values: Values, dims: int) -> nn.Module:
    layer: nn.Module = kind(
        values["in_channels"],
        values["out_channels"],
        values["kernel"],
        stride=_per_axis(values, "stride", dims),
        dilation=_per_axis(values, "dilation", dims),
        groups=values.get("groups", 1),
        bias=values.get("bias", True),
    )
    return layer


def run_conv(module: Any, values: Values, inputs: Sequence[Tensor]) -> Tensor:
    """Convolve `(b, c, ...)` with the borders it needs."""
    image = inputs[0]
    borders = _borders(image, values, module.kernel_size)
    is_even = all(before == after >= 0 for before, after in borders)
    if not is_even:
        image, borders = _padded(image, borders), [(0, 0)] * len(borders)
    convolve = F.conv2d if image.ndim == 4 else F.conv3d
    return convolve(
        image,
        module.weight,
        module.bias,
        module.stride,
        [before for before, _ in borders],
        module.dilation,
        module.groups,
    )


def _transposed_borders(values: Values, kernel: Sequence[int]) -> list[tuple[int, int]]:
    """How much of all that the input adds to is cut off before and behind each axis."""
    dims = len(kernel)
    stride, dilation = _per_axis(values, "stride", dims), _per_axis(values, "dilation", dims)
    padding = values.get("padding", 0)
    if isinstance(padding, str):
        totals = [d * (k - 1) + 1 - s for k, s, d in zip(kernel, stride, dilation, strict=True)]
        small = [max(total, 0) // 2 for total in totals]
        cuts = [(first, total - first) for first, total in zip(small, totals, strict=True)]
        return [(b, a) for a, b in cuts] if padding == "same_lower" else cuts
    if isinstance(padding, int):
        padding = (padding,) * (2 * dims)
    more = _per_axis(values, "output_padding", dims, 0)
    pairs = zip(padding[:dims], padding[dims:], more, strict=True)
    return [(before, after - extra) for before, after, extra in pairs]


def run_transposed(module: Any, values: Values, inputs: Sequence[Tensor]) -> Tensor:
    """Spread `(b, c, ...)` and cut off the borders."""
    borders = _transposed_borders(values, module.kernel_size)
    convolve = F.conv_transpose2d if inputs[0].ndim == 4 else F.conv_transpose3d
    enlarged = convolve(
        inputs[0],
        module.weight,
        module.bias,
        module.stride,
        [before for before, _ in borders],
        [max(before - after, 0) for before, after in borders],
        module.groups,
        module.dilation,
    )
    return _padded(enlarged, [(0, min(before - after, 0)) for before, after in borders])


def _rounded_up(
    image: Tensor, values: Values, borders: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Borders that let a window begin wherever one can begin inside the image or before it."""
    dims = image.ndim - 2
    kernel = _per_axis(values, "kernel", dims)
    stride = _per_axis(values, "stride", dims)
    dilation = _per_axis(values, "dilation", dims)
    wider = []
    for n, k, s, d, (before, after) in zip(
        image.shape[2:], kernel, stride, dilation, borders, strict=True
    ):
        extent = d * (k - 1) + 1
        steps = -(-(n + before + after - extent) // s)
        steps -= steps * s >= n + before
        wider.append((before, max(after, steps * s + extent - n - before)))
    return wider


def _pool_borders(image: Tensor, values: Values) -> list[tuple[int, int]]:
    borders = _borders(image, values, _per_axis(values, "kernel", image.ndim - 2))
    return _rounded_up(image, values, borders) if values.get("ceil", False) else borders


def max_pool(_module: Any, values: Values, inputs: Sequence[Tensor]) -> Tensor:
    """The largest value of each window; what is outside does not count."""
    image, dims = inputs[0], inputs[0].ndim - 2
    image = _padded(image, _pool_borders(image, values), -math.inf)
    pool = F.max_pool2d if dims == 2 else F.max_pool3d
    names = ("kernel", "stride", "dilation")
    kernel, stride, dilation = (_per_axis(values, name, dims) for name in names)
    return pool(image, kernel, stride, 0, dilation)


def avg_pool(_module: Any, values: Values, inputs: Sequence[Tensor]) -> Tensor:
    """The mean of each window."""
    image, dims = inputs[0], inputs[0].ndim - 2
    borders = _pool_borders(image, values)
    kernel, stride = (_per_axis(values, name, dims) for name in ("kernel", "stride"))
    pool = F.avg_pool2d if dims == 2 else F.avg_pool3d
    pooled = pool(_padded(image, borders), kernel, stride)
    if values.get("count_include_pad", False) or not any(n for pair in borders for n in pair):
        return pooled
    share = pool(_padded(torch.ones_like(image[:1, :1]), borders), kernel, stride)
    return pooled / share


def resize(_module: Any, values: Values, inputs: Sequence[Tensor]) -> Tensor:
    """Enlarge or shrink `(b, c, ...)`."""
    image, dims = inputs[0], inputs[0].ndim - 2
    kind = values.get("mode", "nearest")
    mode = {"nearest": "nearest", "nearest_exact": "nearest-exact"}.get(
        kind, "bilinear" if dims == 2 else "trilinear"
    )
    corners = bool(values.get("align_corners", False)) if kind == "linear" else None
    scale: Any = _per_axis(values, "scale", dims)
    size: Any = values.get("size")
    if len(inputs) > 1:
        size, scale = tuple(inputs[1].shape[2:]), None
    elif size is not None:
        scale = None
    elif all(float(one).is_integer() for one in scale):
        size = tuple(n * int(one) for n, one in zip(image.shape[2:], scale, strict=True))
        scale = None
    return F.interpolate(image, size=size, scale_factor=scale, mode=mode, align_corners=corners)


def pixel_shuffle(_module: Any, values: Values, inputs: Sequence[Tensor]) -> Tensor:
    """`(b, c factor^2, y, x)` to `(b, c, y factor, x factor)`."""
    image, factor = inputs[0], int(values["factor"])
    if values.get("order", "crd") == "dcr":  # TensorFlow's: the place in a block varies slowest
        n = image.shape[1] // factor**2
        image = image.unflatten(1, (factor**2, n)).transpose(1, 2).flatten(1, 2)
    return F.pixel_shuffle(image, factor)


def concat(_module: Any, values: Values, inputs: Sequence[Tensor]) -> Tensor:
    """One behind the other along the channels."""
    kind = values.get("crop")
    pieces = list(inputs)
    if kind is not None:
        sizes = [piece.shape[2:] for piece in pieces]
        size = sizes[0] if kind == "first" else [min(ns) for ns in zip(*sizes, strict=True)]
        pieces = [_cropped(piece, size) for piece in pieces]
    return torch.cat(pieces, dim=1)


def pad(_module: Any, values: Values, inputs: Sequence[Tensor]) -> Tensor:
    """Borders of one value, of mirrored or of repeated px."""
    image, amounts = inputs[0], values["amounts"]
    dims = image.ndim - 2
    borders = list(zip(amounts[:dims], amounts[dims:], strict=True))
    mode = values.get("mode", "zero")
    if mode == "zero":
        return _padded(image, borders, float(values.get("value", 0.0)))
    return F.pad(image, [n for pair in reversed(borders) for n in pair], mode=mode)


def crop(_module: Any, values: Values, inputs: Sequence[Tensor]) -> Tensor:
    """A window of `(b, c, ...)`."""
    image = inputs[0]
    dims = image.ndim - 2
    if len(inputs) > 1:
        return _cropped(image, inputs[1].shape[2:], values.get("offset"))
    amounts = values["amounts"]
    sizes = zip(image.shape[2:], amounts[:dims], amounts[dims:], strict=True)
    return _cropped(image, [n - before - after for n, before, after in sizes], amounts[:dims])
