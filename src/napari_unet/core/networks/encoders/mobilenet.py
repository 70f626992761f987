"""MobileNetV2 (Sandler et al. 2018), with torchvision's names."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from napari_unet.core.networks.encoders.base import Encoder, EncoderConfig

__all__ = ["MOBILENETS", "MobileNetV2"]

GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""How often wider inside, channels, number of blocks, stride of the first of them."""

STOPS = (2, 4, 7, 14, 19)
"""Before which of its layers each stage ends."""


def _conv(n_in: int, n_out: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU that ends at 6."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU6(inplace=True),
    )


class _Inverted(nn.Module):
    """Residual block that is wide inside, where each channel is convolved by itself."""

    def __init__(self, n_in: int, n_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.has_shortcut = stride == 1 and n_in == n_out
        inner = n_in * expansion
        self.conv = nn.Sequential(
            *([] if expansion == 1 else [_conv(n_in, inner, 1)]),
            _conv(inner, inner, 3, stride, groups=inner),
            nn.Conv2d(inner, n_out, 1, bias=False),
            nn.BatchNorm2d(n_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.conv(x)
        return x + inner if self.has_shortcut else inner


class MobileNetV2(Encoder):
    """17 blocks between two plain convolutions, for an image of `in_channels`."""

    def __init__(self, in_channels: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        layers: list[nn.Module] = [_conv(in_channels, 32, 3, stride=2)]
        n_in = 32
        for expansion, width, count, stride in GROUPS:
            for i in range(count):
                layers.append(_Inverted(n_in, width, stride if i == 0 else 1, expansion))
                n_in = width
        layers.append(_conv(n_in, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.out_channels = (in_channels, 16, 24, 32, 96, 1280)[: depth + 1]

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Slices of the list of layers."""
        for start, stop in zip((0, *STOPS), STOPS, strict=False):
            yield self.features[start:stop]

    def late(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The last two of these slices."""
        layers = list(self.features.children())
        return layers[7:14], layers[14:]


MOBILENETS: tuple[EncoderConfig, ...] = (
    EncoderConfig(
        name="mobilenet_v2",
        first="features.0.0.weight",
        widths=(16, 24, 32, 96, 1280),
        network=MobileNetV2,
    ),
)
"""That of torchvision."""
