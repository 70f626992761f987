"""Networks put together at random give in pieces what they give for the whole image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from networks import N_OUTPUTS, ROW, TILED, layers, picture, settled
from running import plan_for, run, with_strips
from torch import Tensor, nn

N_CHANNELS = 3


class Drawn(nn.Module):
    """A network of several levels, all of whose layers are drawn by lot."""

    def __init__(self, generator: np.random.Generator, dims: int) -> None:
        super().__init__()
        self._draw, self._dims, self._of = generator, dims, layers(dims)
        depth = int(generator.integers(0, 4 if dims == 2 else 3))
        self.factors = [self._factor() for _ in range(depth)]
        self.joins = [str(generator.choice(["cat", "add", "gate", "none"])) for _ in range(depth)]
        self.first = nn.ModuleList(self._block(N_CHANNELS if at else 1) for at in range(depth))
        self.down = nn.ModuleList(self._down(factor) for factor in self.factors)
        self.bottom = self._block(N_CHANNELS if depth else 1)
        self.up = nn.ModuleList(self._up(factor) for factor in self.factors)
        self.last = nn.ModuleList(
            self._block(2 * N_CHANNELS if join == "cat" else N_CHANNELS) for join in self.joins
        )
        self.head = self._of.Conv(N_CHANNELS, N_OUTPUTS, 1)

    @property
    def stride(self) -> tuple[int, ...]:
        return tuple(math.prod(one) for one in zip(*self.factors, (1,) * self._dims, strict=False))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self._level(image, 0))

    def _level(self, image: Tensor, at: int) -> Tensor:
        if at == len(self.factors):
            return self.bottom(image)
        skip = self.first[at](image)
        low = self.up[at](self._level(self.down[at](skip), at + 1))
        joined = {
            "cat": lambda: torch.cat([skip, low], 1), "add": lambda: skip + low,
            "gate": lambda: skip * torch.sigmoid(low), "none": lambda: low,
        }[self.joins[at]]()  # fmt: skip
        return self.last[at](joined)

    def _one_of(self, *choices: object) -> object:
        return choices[int(self._draw.integers(len(choices)))]

    def _factor(self) -> tuple[int, ...]:
        if self._draw.random() < 0.6:
            return (2,) * self._dims
        return (2, *(int(n) for n in self._draw.choice([1, 2, 3, 4], self._dims - 1)))

    def _block(self, n_in: int) -> nn.Sequential:
        parts: list[nn.Module] = []
        for n in [n_in, N_CHANNELS][: int(self._draw.integers(1, 3))]:
            parts += [self._of.BatchNorm(n)] if self._draw.random() < 0.2 else []
            parts += self._convolution(n)
            parts += [self._of.BatchNorm(N_CHANNELS)] if self._draw.random() < 0.5 else []
            parts.append(self._one_of(
                nn.ReLU(), nn.ReLU(True), nn.LeakyReLU(0.1, True), nn.ELU(), nn.PReLU(N_CHANNELS),
                nn.SiLU(True), self._of.MaxPool(3, 1, 1),
            ))  # type: ignore[arg-type]  # fmt: skip
        return nn.Sequential(*parts)

    def _convolution(self, n_in: int) -> list[nn.Module]:
        kind, conv = int(self._draw.integers(6)), self._of.Conv
        if kind == 0:
            wide = int(self._draw.integers(2, 4))
            return [conv(n_in, N_CHANNELS, 3, padding=wide, dilation=wide)]
        if kind == 1 and n_in == N_CHANNELS:
            return [conv(n_in, n_in, 3, padding=1, groups=n_in)]
        if kind == 2:  # any kernel, with any padding that keeps the size
            kernel = [int(n) for n in self._draw.choice([1, 2, 3, 5], self._dims)]
            before = [int(self._draw.integers(n)) for n in kernel]
            sides = [(b, n - 1 - b) for b, n in zip(before, kernel, strict=True)]
            pad = nn.ConstantPad2d if self._dims == 2 else nn.ConstantPad3d
            amounts = tuple(n for side in reversed(sides) for n in side)
            return [pad(amounts, 0.5), conv(n_in, N_CHANNELS, tuple(kernel))]
        if kind == 3:
            return [self._of.ConvTranspose(n_in, N_CHANNELS, 3, 1, 1)]
        return [conv(n_in, N_CHANNELS, 3 if kind == 4 else 1, padding=1 if kind == 4 else 0)]

    def _down(self, factor: tuple[int, ...]) -> nn.Module:
        n, of = N_CHANNELS, self._of
        choices = [of.AvgPool(factor), of.MaxPool(factor), of.Conv(n, n, factor, factor),
                   of.Conv(n, n, 1, factor)]  # fmt: skip
        if set(factor) == {2}:
            choices += [of.MaxPool(3, 2, 1), of.Conv(n, n, 3, 2, 1)]
        return self._one_of(*choices)  # type: ignore[return-value]

    def _up(self, factor: tuple[int, ...]) -> nn.Module:
        n, of = N_CHANNELS, self._of
        scale = tuple(float(one) for one in factor)
        mode = "bilinear" if self._dims == 2 else "trilinear"
        choices = [
            of.ConvTranspose(n, n, factor, factor), nn.Upsample(scale_factor=scale),
            nn.Upsample(scale_factor=scale, mode=mode, align_corners=False),
            nn.Upsample(scale_factor=scale, mode=mode, align_corners=True),
        ]  # fmt: skip
        if set(factor) == {2}:
            choices += [of.ConvTranspose(n, n, 4, 2, 1),
                        of.ConvTranspose(n, n, 3, 2, 1, output_padding=1)]  # fmt: skip
        return self._one_of(*choices)  # type: ignore[return-value]


def drawn(seed: int) -> tuple[Drawn, np.random.Generator]:
    """A network that is always the same for one seed, and a generator for what follows."""
    generator = np.random.default_rng(seed)
    dims = 2 if generator.random() < 0.7 else 3
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Drawn(generator, dims)
    settled(network, seed)
    return network, generator


def whole(network: Drawn, array: np.ndarray) -> np.ndarray:
    """Logits of one run, the image continued by mirroring where its size does not fit."""
    shape = array.shape[1:]
    missing = [(0, -n % step) for n, step in zip(shape, network.stride, strict=True)]
    shown = np.pad(array, [(0, 0), *missing], mode="reflect")
    with torch.no_grad():
        found = network(torch.from_numpy(shown)[None])[0]
    return found[(slice(None), *(slice(0, n) for n in shape))].numpy()


@pytest.mark.parametrize("seed", range(40))
def test_row_by_row(seed: int) -> None:
    network, generator = drawn(seed)
    dims = len(network.stride)
    size = (8, 80) if dims == 2 else (5, 24)
    array = picture(1, *(int(n) for n in generator.integers(*size, dims)))
    expected = whole(network, array)
    tolerance = 3e-5 * max(1.0, float(np.abs(expected).max()))
    made = plan_for(network, array, tile_size=[None, 16][seed % 2])
    assert made.name == ROW, made.reason
    for _ in range(2):
        spans = [sorted(generator.choice(n + 1, 2, replace=False)) for n in array.shape[1:]]
        window = tuple((int(start), int(stop)) for start, stop in spans)
        found = run(with_strips(made, int(2 ** generator.uniform(3, 16))), array, window)
        inside = expected[(slice(None), *(slice(*span) for span in window))]
        np.testing.assert_allclose(found, inside, rtol=0, atol=tolerance)
    if max(network.stride) <= 16:
        views = run(plan_for(network, array, views="rotations"), array)
        assert np.isfinite(views).all()


@pytest.mark.parametrize("seed", range(60, 72))
def test_in_tiles(seed: int) -> None:
    """The same networks, behind something that is not known."""
    network, generator = drawn(seed)
    if len(network.stride) == 3 or max(network.stride) > 16:
        network, generator = drawn(seed + 100)
    dims = len(network.stride)
    array = picture(
        1, *(int(n) for n in generator.integers(*((20, 80) if dims == 2 else (8, 20)), dims))
    )

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: Tensor) -> Tensor:
            return self.network(image.flip(-1).flip(-1))

    made = plan_for(Hidden().eval(), array, tile_size=16)
    knows_corners = any(isinstance(up, nn.Upsample) and up.align_corners for up in network.up)
    assert made.name == TILED or knows_corners, made.reason
    if made.name == TILED:
        expected = whole(network, array)
        tolerance = 3e-5 * max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(run(made, array), expected, rtol=0, atol=tolerance)
