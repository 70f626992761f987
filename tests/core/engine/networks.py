"""A zoo of small networks with random weights, and what each gives for a whole image.

Nothing here knows the engine: each case says by itself which sizes its network takes, and the
whole image is run through it in one go, continued by mirroring where its size does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_unet.core.networks import UNet, UNetConfig

ROW, TILED, BLENDED = "row by row", "in tiles", "in blended tiles"
N_OUTPUTS = 3


def layers(dims: int) -> Any:
    """The layers of 2D or of 3D."""
    names = ("Conv", "BatchNorm", "MaxPool", "AvgPool", "ConvTranspose", "InstanceNorm")
    return type("Layers", (), {name: getattr(nn, f"{name}{dims}d") for name in names})


def settled(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with batch norms that have seen something, and outputs of about size 1."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                draw(module.running_mean, -0.4, 0.4)
                draw(module.running_var, 0.4, 1.8)
                draw(module.weight, 0.6, 1.5)
                draw(module.bias, -0.4, 0.4)
            elif isinstance(module, nn.modules.conv._ConvNd):
                bound = (3.0 / module.weight[0].numel()) ** 0.5
                if module.transposed:
                    bound = (3.0 / module.weight.shape[0]) ** 0.5
                draw(module.weight, -1.4 * bound, 1.4 * bound)
                if module.bias is not None:
                    draw(module.bias, -0.2, 0.2)
    return network.eval().requires_grad_(False)


def double(
    dims: int, n_in: int, n_out: int, *, padding: int = 1, norm: bool = True,
    act: Callable[[], nn.Module] = nn.ReLU, **conv: Any,
) -> nn.Sequential:  # fmt: skip
    """(convolution 3x3, batch norm, activation) twice."""
    of = layers(dims)
    parts: list[nn.Module] = []
    for n in (n_in, n_out):
        parts.append(of.Conv(n, n_out, 3, padding=padding, bias=not norm, **conv))
        parts += [of.BatchNorm(n_out)] if norm else []
        parts.append(act())
    return nn.Sequential(*parts)


def cropped(image: Tensor, like: Tensor) -> Tensor:
    """The middle of `image`, of the size of `like`."""
    for axis in range(2, image.ndim):
        n = like.shape[axis]
        image = image.narrow(axis, (image.shape[axis] - n) // 2, n)
    return image


class ByHand(nn.Module):
    """A network whose forward is a function of it and the image."""

    def __init__(self, parts: dict[str, nn.Module], forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self._forward = forward

    def forward(self, image: Tensor) -> Any:
        return self._forward(self, image)


def unet(dims: int, depth: int, norm: Any, upsampling: Any, n_in: int = 1) -> nn.Module:
    """The project's own."""
    widths = (4, 4, 6, 6, 8)[: depth + 1] if dims == 2 else (2, 3, 4, 4, 4)[: depth + 1]
    config = UNetConfig(
        dims=dims, in_channels=n_in, out_channels=N_OUTPUTS, widths=widths, norm=norm,
        upsampling=upsampling,
    )  # fmt: skip
    return UNet(config)


def unpadded(dims: int) -> nn.Module:
    """Ronneberger 2015: no padding, skips cropped to the middle."""
    of = layers(dims)
    parts = {
        "one": double(dims, 1, 3, padding=0), "two": double(dims, 3, 4, padding=0),
        "three": double(dims, 4, 5, padding=0), "pool": of.MaxPool(2),
        "up2": of.ConvTranspose(5, 4, 2, 2), "four": double(dims, 8, 4, padding=0),
        "up1": of.ConvTranspose(4, 3, 2, 2), "five": double(dims, 6, 3, padding=0),
        "head": of.Conv(3, N_OUTPUTS, 1),
    }  # fmt: skip

    def forward(self: Any, image: Tensor) -> Tensor:
        one = self.one(image)
        two = self.two(self.pool(one))
        up = self.up2(self.three(self.pool(two)))
        up = self.up1(self.four(torch.cat([cropped(two, up), up], 1)))
        return self.head(self.five(torch.cat([cropped(one, up), up], 1)))

    return ByHand(parts, forward)


def two_levels(
    dims: int, down: nn.Module, up: nn.Module, *, join: str = "cat", act: Any = nn.ReLU,
    wide: int = 4, **conv: Any,
) -> nn.Module:  # fmt: skip
    """One level down and up again, by any means; `up` keeps the channels."""
    n_joined = 2 * wide if join == "cat" else wide
    parts = {
        "first": double(dims, 1, wide, act=act, **conv), "down": down,
        "bottom": double(dims, wide, wide, act=act, **conv), "up": up,
        "last": double(dims, n_joined, wide, act=act, **conv),
        "head": layers(dims).Conv(wide, N_OUTPUTS, 1),
    }  # fmt: skip

    def forward(self: Any, image: Tensor) -> Tensor:
        skip = self.first(image)
        up = self.up(self.bottom(self.down(skip)))
        return self.head(self.last(torch.cat([skip, up], 1) if join == "cat" else skip + up))

    return ByHand(parts, forward)


def residual(dims: int) -> nn.Module:
    """Blocks with a way past them, changed in place, as ResNets have."""
    of = layers(dims)
    body = double(dims, 4, 4)
    parts = {
        "stem": of.Conv(1, 4, 3, padding=1), "one": body[:5], "two": double(dims, 4, 4)[:5],
        "down": of.Conv(4, 6, 3, stride=2, padding=1), "way": of.Conv(4, 6, 1, stride=2),
        "up": of.ConvTranspose(6, 4, 2, 2), "head": of.Conv(4, N_OUTPUTS, 1),
    }  # fmt: skip

    def forward(self: Any, image: Tensor) -> Tensor:
        image = self.stem(image)
        skip = F.relu(self.one(image) + image)
        low = F.relu_(self.down(skip) + self.way(skip))
        up = self.up(low)
        up += skip
        out = self.two(up)
        out += up
        return self.head(F.relu(out, inplace=True))

    return ByHand(parts, forward)


def gated(dims: int) -> nn.Module:
    """Attention U-Net (Oktay et al. 2018): the skip weighted by what lies below."""
    of = layers(dims)
    mode = "bilinear" if dims == 2 else "trilinear"
    parts = {
        "first": double(dims, 1, 4), "pool": of.MaxPool(2), "bottom": double(dims, 4, 4),
        "theta": of.Conv(4, 3, 2, stride=2, bias=False), "phi": of.Conv(4, 3, 1),
        "psi": of.Conv(3, 1, 1), "up": of.ConvTranspose(4, 4, 2, 2), "last": double(dims, 8, 4),
        "head": of.Conv(4, N_OUTPUTS, 1),
    }  # fmt: skip

    def forward(self: Any, image: Tensor) -> Tensor:
        skip = self.first(image)
        low = self.bottom(self.pool(skip))
        gate = torch.sigmoid(self.psi(F.relu(self.theta(skip) + self.phi(low), inplace=True)))
        gate = F.interpolate(gate, scale_factor=2, mode=mode, align_corners=False)
        return self.head(self.last(torch.cat([skip * gate, self.up(low)], 1)))

    return ByHand(parts, forward)


def nested(dims: int) -> nn.Module:
    """U-Net++ (Zhou et al. 2018)."""
    of = layers(dims)
    mode = "bilinear" if dims == 2 else "trilinear"
    parts = {
        "x00": double(dims, 1, 2), "x10": double(dims, 2, 3), "x20": double(dims, 3, 4),
        "x01": double(dims, 5, 2), "x11": double(dims, 7, 3), "x02": double(dims, 7, 2),
        "pool": of.MaxPool(2), "up": nn.Upsample(scale_factor=2, mode=mode, align_corners=True),
        "head": of.Conv(2, N_OUTPUTS, 1),
    }  # fmt: skip

    def forward(self: Any, image: Tensor) -> Tensor:
        x00 = self.x00(image)
        x10 = self.x10(self.pool(x00))
        x01 = self.x01(torch.cat([x00, self.up(x10)], 1))
        x20 = self.x20(self.pool(x10))
        x11 = self.x11(torch.cat([x10, self.up(x20)], 1))
        return self.head(self.x02(torch.cat([x00, x01, self.up(x11)], 1)))

    return ByHand(parts, forward)


def dense(dims: int) -> nn.Module:
    """Batch norm before ReLU before convolution, each on all that came before."""
    of = layers(dims)

    def block(n_in: int) -> nn.Sequential:
        return nn.Sequential(of.BatchNorm(n_in), nn.ReLU(), of.Conv(n_in, 2, 3, padding=1))

    parts = {
        "norm": of.BatchNorm(1), "stem": of.Conv(1, 3, 3, padding=1), "a": block(3),
        "b": block(5), "pool": of.AvgPool(2), "c": block(7),
        "up": of.ConvTranspose(9, 3, 2, 2), "head": of.Conv(10, N_OUTPUTS, 1),
    }  # fmt: skip

    def forward(self: Any, image: Tensor) -> Tensor:
        x = self.stem(self.norm(image))
        x = torch.cat([x, self.a(x)], 1)
        x = torch.cat([x, self.b(x)], 1)
        low = self.pool(x)
        low = torch.cat([low, self.c(low)], 1)
        return self.head(torch.cat([x, self.up(low)], 1))

    return ByHand(parts, forward)


def kernels(dims: int) -> nn.Module:
    """5x5, 7x7, 1x3, dilated, grouped and depthwise convolutions, one behind the other."""
    of = layers(dims)
    flat = (1, 3) if dims == 2 else (1, 3, 3)
    side = (0, 1) if dims == 2 else (0, 1, 1)
    return nn.Sequential(
        of.Conv(1, 4, 5, padding=2), nn.ReLU(), of.Conv(4, 4, 3, padding=3, dilation=3),
        nn.LeakyReLU(0.1), of.Conv(4, 4, flat, padding=side), of.BatchNorm(4), nn.ReLU(),
        of.Conv(4, 8, 3, padding=1, groups=4), nn.ReLU6(),
        of.Conv(8, 8, 7 if dims == 2 else 3, padding=3 if dims == 2 else 1, groups=8),
        of.Conv(8, 4, 1), of.ConvTranspose(4, 4, 1, groups=2), of.BatchNorm(4), nn.ReLU(),
        of.Conv(4, N_OUTPUTS, 3, padding=1),
    )  # fmt: skip


def stemmed(dims: int) -> nn.Module:
    """The beginning of a ResNet: 7x7 with step 2, then pooling 3x3 with step 2 and padding."""
    of = layers(dims)
    k = 7 if dims == 2 else 3
    parts = {
        "stem": nn.Sequential(of.Conv(1, 4, k, 2, k // 2, bias=False), of.BatchNorm(4), nn.ReLU()),
        "pool": of.MaxPool(3, 2, 1), "bottom": double(dims, 4, 4),
        "up2": nn.Upsample(scale_factor=2, mode="nearest"), "two": double(dims, 8, 4),
        "up1": of.ConvTranspose(4, 4, 4, 2, 1), "one": double(dims, 4, 4),
        "head": of.Conv(4, N_OUTPUTS, 3, padding=1),
    }  # fmt: skip

    def forward(self: Any, image: Tensor) -> Tensor:
        stem = self.stem(image)
        low = self.bottom(self.pool(stem))
        return self.head(self.one(self.up1(self.two(torch.cat([stem, self.up2(low)], 1)))))

    return ByHand(parts, forward)


def milesial(dims: int = 2, mode: str = "constant", norm: Any = None) -> nn.Module:
    """What comes up is padded to the size of the skip, so that any size goes in."""
    of = layers(dims)
    padding: dict[str, Any] = {} if mode == "constant" else {"padding_mode": mode}
    parts = {
        "one": double(dims, 1, 4, **padding), "two": double(dims, 4, 5, **padding),
        "three": double(dims, 5, 5, **padding), "pool": of.MaxPool(2),
        "up2": of.ConvTranspose(5, 5, 2, 2), "four": double(dims, 10, 4, **padding),
        "up1": of.ConvTranspose(4, 4, 2, 2), "five": double(dims, 8, 4, **padding),
        "head": of.Conv(4, N_OUTPUTS, 1), "norm": norm or nn.Identity(),
    }  # fmt: skip

    def onto(up: Tensor, skip: Tensor) -> Tensor:
        amounts = []
        for axis in reversed(range(2, up.ndim)):
            missing = skip.shape[axis] - up.shape[axis]
            amounts += [missing // 2, missing - missing // 2]
        return torch.cat([skip, F.pad(up, amounts)], 1)

    def forward(self: Any, image: Tensor) -> Tensor:
        one = self.one(image)
        two = self.two(self.pool(one))
        low = self.norm(self.three(self.pool(two)))
        up = self.four(onto(self.up2(low), two))
        return self.head(self.five(onto(self.up1(up), one)))

    return ByHand(parts, forward)


def heads(kind: str) -> nn.Module:
    """A network that gives more than its result: a list, a dictionary, a picture of a class."""
    parts = {
        "first": double(2, 1, 4), "pool": nn.MaxPool2d(2), "bottom": double(2, 4, 4),
        "up": nn.ConvTranspose2d(4, 4, 2, 2), "last": double(2, 8, 4),
        "head": nn.Conv2d(4, N_OUTPUTS, 1), "deep": nn.Conv2d(4, N_OUTPUTS, 1),
        "guess": nn.Linear(4, 2),
    }  # fmt: skip

    def forward(self: Any, image: Tensor) -> Any:
        skip = self.first(image)
        low = self.bottom(self.pool(skip))
        deep, guess = self.deep(low), self.guess(low.mean(dim=(2, 3)))
        out = self.head(self.last(torch.cat([skip, self.up(low)], 1)))
        if kind == "dict":
            return {"out": out, "aux": deep, "guess": guess}
        return [out, deep] if kind == "list" else (out, guess)

    return ByHand(parts, forward)


def shuffled() -> nn.Module:
    """Pixel shuffle in place of a transposed convolution."""
    up = nn.Sequential(nn.Conv2d(4, 16, 1), nn.PixelShuffle(2))
    return two_levels(2, nn.MaxPool2d(2), up)


def segnet(pool: Any = 2) -> nn.Module:
    """SegNet (Badrinarayanan et al. 2015): unpooled to where the largest values were."""
    parts = {
        "first": double(2, 1, 4), "pool": nn.MaxPool2d(pool, return_indices=True),
        "bottom": double(2, 4, 4), "unpool": nn.MaxUnpool2d(pool), "last": double(2, 4, 4),
        "head": nn.Conv2d(4, N_OUTPUTS, 1),
    }  # fmt: skip

    def forward(self: Any, image: Tensor) -> Tensor:
        low, places = self.pool(self.first(image))
        return self.head(self.last(self.unpool(self.bottom(low), places)))

    return ByHand(parts, forward)


def with_middle(middle: nn.Module, dims: int = 2) -> nn.Module:
    """Some layer between two others; it keeps 4 channels."""
    of = layers(dims)
    return nn.Sequential(
        double(dims, 1, 4), middle, of.Conv(4, 4, 3, padding=1), nn.ReLU(), of.Conv(4, N_OUTPUTS, 1)
    )


class Acting(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor], **parameters: Tensor) -> None:
        super().__init__()
        self._function = function
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, image: Tensor) -> Tensor:
        return self._function(image, **dict(self.named_parameters()))  # type: ignore[call-arg]


class Squeeze(nn.Module):
    """Squeeze and excitation (Hu et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 4)

    def forward(self, image: Tensor) -> Tensor:
        weights = torch.sigmoid(self.up(F.relu(self.down(image.mean(dim=(2, 3))))))
        return image * (2 * weights[:, :, None, None])


class Pyramid(nn.Module):
    """Means over whole parts of the image (Zhao et al. 2017)."""

    def forward(self, image: Tensor) -> Tensor:
        size = image.shape[2:]
        for n in (1, 2, 3):
            pooled = F.adaptive_avg_pool2d(image, n)
            image = image + F.interpolate(pooled, size=size, mode="bilinear", align_corners=False)
        return image


def of_channels(image: Tensor) -> Tensor:
    """Spatial attention (Woo et al. 2018): mean and largest value over the channels."""
    return image * torch.sigmoid(image.mean(dim=1, keepdim=True) - image.amax(1, keepdim=True))


def normed(image: Tensor) -> Tensor:
    """Layer normalisation over the channels of each px, as ConvNeXt has it."""
    mean = image.mean(1, keepdim=True)
    spread = (image - mean).pow(2).mean(1, keepdim=True)
    return (image - mean) / torch.sqrt(spread + 0.1)


def picture_of(found: Any) -> Tensor:
    """The result among what a network of the zoo gives."""
    if isinstance(found, dict):
        found = found["out"]
    return found[0] if isinstance(found, list | tuple) else found


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A network, which way it should be run, and which sizes it takes.

    Sizes that fit are `least + k * stride`; the output is `margin` px smaller.
    """

    name: str
    build: Callable[[], nn.Module]
    way: Literal["row by row", "in tiles", "in blended tiles"] = ROW
    dims: Literal[2, 3] = 2
    stride: int | tuple[int, ...] = 1
    margin: int = 0
    rest: int = 0
    n_in: int = 1

    @cache  # noqa: B019  (the zoo lives as long as the tests)
    def network(self, seed: int = 0) -> nn.Module:
        """Always the same for one seed; whoever changes it takes a copy."""
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            network = settled(self.build(), seed + 1)
            size = self.frame((48,) * self.dims if self.dims == 2 else (16,) * self.dims)
            spread = picture_of(network(torch.randn(1, self.n_in, *size))).std()
            last = [m for m in network.modules() if isinstance(m, nn.modules.conv._ConvNd)][-1]
            last = getattr(network, "head", last)
            last.weight /= spread
            if last.bias is not None:
                last.bias /= spread
            return network

    def frame(self, shape: Sequence[int]) -> list[int]:
        """The smallest size that fits and gives at least `shape`."""
        steps = (self.stride,) * self.dims if isinstance(self.stride, int) else self.stride
        return [
            self.rest + -(-(n + self.margin - self.rest) // step) * step
            for n, step in zip(shape, steps, strict=True)
        ]

    def whole(self, network: nn.Module, image: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Logits `(output, [z,] y, x)` of one run on all of `image` `(c, [z,] y, x)`."""
        shape = image.shape[1:]
        before = self.margin // 2
        around = [
            (before, size - n - before) for n, size in zip(shape, self.frame(shape), strict=True)
        ]
        shown = np.pad(image, [(0, 0), *around], mode="reflect")
        with torch.no_grad():
            found = network(torch.from_numpy(shown)[None])
        return picture_of(found)[0][(slice(None), *(slice(0, n) for n in shape))].numpy()


def _case(name: str, build: Callable[[], nn.Module], **about: Any) -> Case:
    return Case(name=name, build=build, **about)


def _unets() -> list[Case]:
    return [
        _case(
            f"unet {dims}d {depth} {norm} {up}",
            lambda d=dims, n=depth, o=norm, u=up: unet(d, n, o, u),
            dims=dims, stride=2**depth,
        )
        for dims, depth, norm, up in [
            (2, 0, "batch", "transposed"), (2, 1, "none", "linear"), (2, 2, "batch", "transposed"),
            (2, 3, "batch", "linear"), (2, 4, "none", "transposed"), (2, 4, "batch", "linear"),
            (3, 0, "none", "linear"), (3, 1, "batch", "linear"), (3, 2, "none", "transposed"),
            (3, 2, "batch", "linear"),
        ]
    ]  # fmt: skip


def _up(kind: str, dims: int = 2, **about: Any) -> nn.Module:
    if kind == "nearest":
        return nn.Upsample(scale_factor=2, mode="nearest")
    mode = "bilinear" if dims == 2 else "trilinear"
    return nn.Upsample(scale_factor=2, mode=mode, align_corners=kind == "corners")


def _pointwise() -> list[Case]:
    acts: dict[str, Callable[[], nn.Module]] = {
        "prelu": lambda: nn.PReLU(4), "elu": nn.ELU, "gelu": nn.GELU, "silu": nn.SiLU,
        "leaky": lambda: nn.LeakyReLU(0.2, inplace=True), "hardswish": nn.Hardswish,
        "mish": nn.Mish, "softplus": nn.Softplus, "tanh": nn.Tanh, "celu": nn.CELU,
        "selu": nn.SELU, "sigmoid": nn.Sigmoid, "hardtanh": nn.Hardtanh,
        "relu in place": lambda: nn.ReLU(inplace=True), "logsigmoid": nn.LogSigmoid,
        "softmax": lambda: nn.Softmax(1), "identity": nn.Identity, "dropout": nn.Dropout2d,
        "scalar": lambda: Acting(lambda x, a: x * a, a=torch.tensor(0.7)),
        "per channel": lambda: Acting(lambda x, a: x + a, a=torch.randn(4, 1, 1)),
        "chunked": lambda: Acting(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)),
        "gated": lambda: Acting(
            lambda x: x.split(2, 1)[0].sigmoid().mul(x[:, 2:]).repeat_interleave(2, 1)
        ),
        "swapped": lambda: Acting(lambda x: torch.cat([x[:, 2:], x[:, :2]], 1)),
        "square": lambda: Acting(lambda x: (x * x - 2 * x).abs().add(1).sqrt()),
        "over channels": lambda: Acting(of_channels), "layer norm": lambda: Acting(normed),
        "clamped": lambda: Acting(lambda x: x.clamp(-0.5, 0.5).neg() / 2),
        "cloned": lambda: Acting(lambda x: x.clone().mul_(0.5) + x.contiguous()),
    }  # fmt: skip
    tiled = {"gated"}
    return [
        _case(f"act {name}", lambda a=act: with_middle(a()), way=TILED if name in tiled else ROW)
        for name, act in acts.items()
    ]


CASES = [
    *_unets(),
    _case("unet 3 channels", lambda: unet(2, 2, "batch", "transposed", 3), stride=4, n_in=3),
    _case("unpadded 2d", lambda: unpadded(2), stride=4, margin=40),
    _case("unpadded 3d", lambda: unpadded(3), dims=3, stride=4, margin=40),
    _case("added", lambda: two_levels(2, nn.MaxPool2d(2), nn.ConvTranspose2d(4, 4, 2, 2),
                                      join="add"), stride=2),
    _case("residual 2d", lambda: residual(2), stride=2),
    _case("residual 3d", lambda: residual(3), dims=3, stride=2),
    _case("corners", lambda: two_levels(2, nn.MaxPool2d(2), _up("corners")), stride=2),
    _case("corners 3d", lambda: two_levels(3, nn.MaxPool3d(2), _up("corners", 3), wide=3),
          dims=3, stride=2),
    _case("corners by 4", lambda: two_levels(2, nn.MaxPool2d(4), nn.Upsample(
        scale_factor=4, mode="bilinear", align_corners=True)), stride=4),
    _case("nearest", lambda: two_levels(2, nn.MaxPool2d(2), _up("nearest")), stride=2),
    _case("nearest 3d", lambda: two_levels(3, nn.MaxPool3d(2), _up("nearest"), wide=3),
          dims=3, stride=2),
    _case("linear by 3", lambda: two_levels(2, nn.MaxPool2d(3), nn.Upsample(
        scale_factor=3, mode="bilinear", align_corners=False)), stride=3),
    _case("gates 2d", lambda: gated(2), stride=2),
    _case("gates 3d", lambda: gated(3), dims=3, stride=2),
    _case("nested 2d", lambda: nested(2), stride=4),
    _case("nested 3d", lambda: nested(3), dims=3, stride=4),
    _case("dense 2d", lambda: dense(2), stride=2),
    _case("dense 3d", lambda: dense(3), dims=3, stride=2),
    _case("strided", lambda: two_levels(2, nn.Conv2d(4, 4, 3, 2, 1), nn.ConvTranspose2d(
        4, 4, 3, 2, 1, output_padding=1)), stride=2),
    _case("strided 3d", lambda: two_levels(3, nn.Conv3d(3, 3, 2, 2), nn.ConvTranspose3d(
        3, 3, 4, 2, 1), wide=3), dims=3, stride=2),
    _case("up by 4 with overlap", lambda: two_levels(2, nn.MaxPool2d(4), nn.ConvTranspose2d(
        4, 4, 8, 4, 2, groups=2)), stride=4),
    _case("up with gaps", lambda: two_levels(2, nn.MaxPool2d(2), nn.ConvTranspose2d(
        4, 4, 1, 2, 0, output_padding=1)), stride=2, way=TILED),
    _case("kernels 2d", lambda: kernels(2)),
    _case("kernels 3d", lambda: kernels(3), dims=3),
    _case("even kernels", lambda: nn.Sequential(
        nn.ZeroPad2d((1, 0, 0, 1)), nn.Conv2d(1, 4, 2), nn.ReLU(),
        nn.Conv2d(4, 4, (2, 4), padding=(1, 2)), nn.ReLU(), nn.Conv2d(4, N_OUTPUTS, (2, 2))),
        rest=0),
    _case("stem 2d", lambda: stemmed(2), stride=4),
    _case("stem 3d", lambda: stemmed(3), dims=3, stride=4),
    _case("flat 3d", lambda: two_levels(3, nn.MaxPool3d((1, 2, 2)), nn.ConvTranspose3d(
        3, 3, (1, 2, 2), (1, 2, 2)), wide=3), dims=3, stride=(1, 2, 2)),
    _case("flat 2d", lambda: two_levels(2, nn.AvgPool2d((3, 2)), nn.Upsample(
        scale_factor=(3, 2), mode="bilinear", align_corners=False)), stride=(3, 2)),
    _case("averages", lambda: two_levels(2, nn.AvgPool2d(3, 1), nn.ConvTranspose2d(4, 4, 3)),),
    _case("averages 3d", lambda: two_levels(3, nn.AvgPool3d(2), _up("linear", 3), wide=3),
          dims=3, stride=2),
    _case("shuffled", shuffled, stride=2),
    _case("heads in a list", lambda: heads("list"), stride=2),
    _case("heads in a dict", lambda: heads("dict"), stride=2),
    _case("heads in a tuple", lambda: heads("tuple"), stride=2),
    _case("padded up", milesial, stride=1),
    _case("padded up 3d", lambda: milesial(3), dims=3, stride=1),
    *_pointwise(),
    # Not known layer by layer, but local: tiles.
    _case("segnet", segnet, stride=2, way=TILED),
    _case("segnet 3 x 2", lambda: segnet((3, 2)), stride=(3, 2), way=TILED),
    _case("mirrored", lambda: milesial(2, "reflect"), way=TILED),
    _case("replicated 3d", lambda: milesial(3, "replicate"), dims=3, way=TILED),
    _case("bicubic", lambda: two_levels(2, nn.MaxPool2d(2), nn.Upsample(
        scale_factor=2, mode="bicubic", align_corners=False)), stride=2, way=TILED),
    _case("unshuffled", lambda: nn.Sequential(
        nn.PixelUnshuffle(2), double(2, 4, 8), nn.Conv2d(8, 4 * N_OUTPUTS, 1), nn.PixelShuffle(2)),
        stride=2, way=TILED),
    _case("averages with padding", lambda: with_middle(nn.AvgPool2d(3, 1, 1)), way=TILED),
    _case("largest of two", lambda: with_middle(Acting(
        lambda x: torch.where(x > 0.3, x, 0.1 * x))), way=TILED),
    # Statistics of the whole image: blended.
    _case("instance norm", lambda: with_middle(nn.InstanceNorm2d(4, affine=True)), way=BLENDED),
    _case("instance norm 3d", lambda: with_middle(nn.InstanceNorm3d(4), 3), dims=3, way=BLENDED),
    _case("group norm", lambda: with_middle(nn.GroupNorm(2, 4)), way=BLENDED),
    _case("no running statistics", lambda: with_middle(nn.BatchNorm2d(
        4, affine=False, track_running_stats=False)), way=BLENDED),
    _case("squeeze", lambda: with_middle(Squeeze()), way=BLENDED),
    _case("pyramid", lambda: with_middle(Pyramid()), way=BLENDED),
    _case("mirrored, with group norm", lambda: milesial(2, "reflect", nn.GroupNorm(1, 5)),
          way=BLENDED),
]  # fmt: skip
BY_NAME = {case.name: case for case in CASES}
EXACT = [case for case in CASES if case.way != BLENDED]


def picture(*shape: int, seed: int = 1) -> npt.NDArray[np.float32]:
    """Noise on waves, `(c, [z,] y, x)` float32 in -1 ... 4."""
    generator = np.random.default_rng(seed)
    waves = sum(np.cos(np.arange(n) / 7 + at).reshape(-1, *[1] * (len(shape) - 1 - at))
                for at, n in enumerate(shape))  # fmt: skip
    noise = generator.normal(0.6, 0.8, shape)
    return np.clip(noise + 0.5 * np.asarray(waves), -1, 4).astype(np.float32)
