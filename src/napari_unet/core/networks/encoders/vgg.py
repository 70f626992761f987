"""VGG (Simonyan & Zisserman 2015), with torchvision's names.

Its first layers work at full resolution, so its first feature map is not the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from torch import Tensor, nn

from napari_unet.core.networks.encoders.base import Encoder, EncoderConfig

__all__ = ["VGG", "VGGS"]

WIDTHS = (64, 128, 256, 512, 512)


class VGG(Encoder):
    """Convolutions 3x3 with poolings between, then a last pooling.

    Parameters
    ----------
    in_channels, depth : of the image, and how often the resolution is halved.
    counts : convolutions of each of the five stages.
    norm : whether there is a batch norm after each.
    """

    def __init__(
        self, in_channels: int, depth: int, *, counts: tuple[int, int, int, int, int], norm: bool
    ) -> None:
        super().__init__()
        self.depth = depth
        layers: list[nn.Module] = []
        self._starts = [0]
        n_in = in_channels
        for count, width in zip(counts, WIDTHS, strict=True):
            for _ in range(count):
                layers.append(nn.Conv2d(n_in, width, 3, padding=1))
                layers += [nn.BatchNorm2d(width)] if norm else []
                layers.append(nn.ReLU(inplace=True))
                n_in = width
            self._starts.append(len(layers))
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.out_channels = (*WIDTHS, WIDTHS[-1])[: depth + 1]

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Each begins with a pooling, except the first, which stays at full resolution."""
        for start, stop in zip(self._starts, [*self._starts[1:], None], strict=True):
            yield self.features[start:stop]

    def forward(self, image: Tensor) -> list[Tensor]:
        """The feature maps `(b, out_channels[i], y / 2^i, x / 2^i)`, the image not among them."""
        features = [image]
        for stage, _ in zip(self.stages(), range(self.depth + 1), strict=False):
            features.append(stage(features[-1]))
        return features[1:]


def _configs(n_layers: int, counts: tuple[int, int, int, int, int]) -> list[EncoderConfig]:
    return [
        EncoderConfig(
            name=f"vgg{n_layers}{'_bn' if norm else ''}",
            first="features.0.weight",
            widths=(128, 256, 512, 512, 512),
            network=partial(VGG, counts=counts, norm=norm),
        )
        for norm in (False, True)
    ]


VGGS: tuple[EncoderConfig, ...] = (
    *_configs(11, (1, 1, 2, 2, 2)),
    *_configs(13, (2, 2, 2, 2, 2)),
    *_configs(16, (2, 2, 3, 3, 3)),
    *_configs(19, (2, 2, 4, 4, 4)),
)
"""Those of torchvision."""
