"""Small networks that do what programs of U-Nets do, and how ours are compared with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_unet.core.checkpoints.graphs import Graph
from napari_unet.core.networks.layered import LayeredNetwork

__all__ = ["Fitting", "Residual", "Sized", "largest", "rebuilt"]


class Block(nn.Sequential):
    """Convolution, batch norm, ReLU in place."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(
            nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)
        )


class Fitting(nn.Module):
    """Pads and cuts by half of what is missing, and resizes to the size of something else."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pool, self.second = Block(1, 4), nn.MaxPool2d(2), Block(4, 8)
        self.up, self.third = nn.ConvTranspose2d(8, 4, 2, 2), Block(8, 4)
        self.norm, self.valid = nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities of an image of any size."""
        skip = self.first(image)
        up = self.up(self.second(self.pool(skip)))
        dy, dx = skip.size(2) - up.size(2), skip.size(3) - up.size(3)
        up = F.pad(up, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        joined = self.third(torch.cat([skip, up], 1))
        small = F.interpolate(
            self.pool(joined), size=joined.shape[2:], mode="bilinear", align_corners=False
        )
        inner = self.valid(self.norm(joined))
        h, w = inner.shape[2:]
        y, x = (joined.shape[2] - h) // 2, (joined.shape[3] - w) // 2
        inner = F.pad(inner + joined[:, :, y : y + h, x : x + w], (1, 1, 1, 1))
        return torch.sigmoid(self.last(inner + small))


class Sized(nn.Module):
    """Pads only where it must, as scripted programs may."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(1, 4), Block(4, 4)])
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.norm, self.drop, self.leaky = nn.InstanceNorm2d(4), nn.Dropout(), nn.LeakyReLU(0.1)

    def forward(self, image: Tensor) -> Tensor:
        """Features of an image of any size."""
        for block in self.blocks:
            image = block(image)
        up = self.up(self.leaky(self.drop(self.norm(F.max_pool2d(image, 2)))))
        dy, dx = image.shape[2] - up.shape[2], image.shape[3] - up.shape[3]
        if dy > 0 or dx > 0:
            up = F.pad(up, [0, dx, 0, dy])
        nearest = F.interpolate(up, size=image.shape[2:], mode="nearest")
        return torch.cat([image, up, nearest], 1)


class Residual(nn.Module):
    """Changes in place what it needs again later."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        """The sum sees the rectified features, twice."""
        features = self.one(image)
        rectified = F.relu_(features)
        weights = torch.softmax(self.two(rectified).mean((2, 3), keepdim=True), 1)
        return (features * 2 + 1 - rectified / 4) * weights


def rebuilt(graph: Graph) -> LayeredNetwork:
    """The network of a graph with its weights."""
    network = LayeredNetwork(graph.config)
    counters = {n: v for n, v in network.state_dict().items() if n.endswith("batches_tracked")}
    network.load_state_dict({**counters, **graph.tensors})
    return network.eval()


@torch.inference_mode()
def largest(
    graph: Graph,
    original: Callable[[Tensor], Any],
    *sizes: Iterable[int],
    probabilities: bool = False,
) -> float:
    """The largest difference between the two over images of several sizes."""
    network, found = rebuilt(graph), 0.0
    random = torch.Generator().manual_seed(3)
    for size in sizes:
        image = torch.randn(1, graph.config.in_channels, *size, generator=random)
        ours, theirs = network(image), original(image)
        if probabilities:
            ours = ours.sigmoid() if graph.about["activation"] == "sigmoid" else ours.softmax(1)
        assert ours.shape == theirs.shape
        found = max(found, float((ours - theirs).abs().max()))
    return found
