"""ResNet (He et al. 2016), ResNeXt (Xie et al. 2017) and Wide ResNet, with torchvision's names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from napari_unet.core.networks.encoders.base import Encoder, EncoderConfig

__all__ = ["RESNETS", "ResNet"]


class _Residual(nn.Module):
    """Convolutions beside a shortcut; `(b, n_in, y, x)` to `(b, n_out, y / stride, x / stride)`."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.downsample: nn.Module | None = None
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def shortcut(self, x: Tensor) -> Tensor:
        """What is added to what the convolutions give."""
        return x if self.downsample is None else self.downsample(x)


class _Basic(_Residual):
    """Two convolutions 3x3."""

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__(n_in, width, stride)
        self.conv1 = nn.Conv2d(n_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class _Bottleneck(_Residual):
    """Convolutions 1x1, 3x3 (perhaps in groups) and 1x1; four times wider outside than inside."""

    def __init__(
        self, n_in: int, width: int, stride: int, groups: int = 1, group_width: int = 64
    ) -> None:
        n_out, inner = 4 * width, width * group_width // 64 * groups
        super().__init__(n_in, n_out, stride)
        self.conv1 = nn.Conv2d(n_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, n_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        return F.relu(self.bn3(self.conv3(inner)) + self.shortcut(x))


class ResNet(Encoder):
    """Stages of residual blocks after a convolution 7x7.

    Parameters
    ----------
    in_channels, depth : of the image, and how often the resolution is halved.
    counts : blocks of each of the four stages.
    block : makes a block of channels in, width and stride.
    expansion : channels that a block gives, in widths.
    """

    def __init__(
        self,
        in_channels: int,
        depth: int,
        *,
        counts: tuple[int, int, int, int],
        block: Callable[[int, int, int], nn.Module],
        expansion: int,
    ) -> None:
        super().__init__()
        self.depth = depth
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        n_in = 64
        for i, count in enumerate(counts):
            width, stride = 64 << i, 1 if i == 0 else 2
            blocks = [block(n_in, width, stride)]
            n_in = expansion * width
            blocks += [block(n_in, width, 1) for _ in range(1, count)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.out_channels = (in_channels, 64, *(expansion * (64 << i) for i in range(4)))[
            : depth + 1
        ]

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Stem; pooling and the first stage of blocks; the others."""
        part = self.get_submodule
        yield lambda x: F.relu(self.bn1(self.conv1(x)))
        yield lambda x: part("layer1")(F.max_pool2d(x, 3, stride=2, padding=1))
        yield from (part("layer2"), part("layer3"), part("layer4"))

    def late(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The last two stages of blocks."""
        return [self.get_submodule("layer3")], [self.get_submodule("layer4")]


def _config(
    name: str, counts: tuple[int, int, int, int], groups: int = 1, group_width: int = 64
) -> EncoderConfig:
    basic = name in ("resnet18", "resnet34")
    expansion = 1 if basic else 4
    block: Callable[[int, int, int], nn.Module] = _Basic
    if not basic:
        block = partial(_Bottleneck, groups=groups, group_width=group_width)
    return EncoderConfig(
        name=name,
        first="conv1.weight",
        widths=(64, 64 * expansion, 128 * expansion, 256 * expansion, 512 * expansion),
        network=partial(ResNet, counts=counts, block=block, expansion=expansion),
    )


RESNETS: tuple[EncoderConfig, ...] = (
    _config("resnet18", (2, 2, 2, 2)),
    _config("resnet34", (3, 4, 6, 3)),
    _config("resnet50", (3, 4, 6, 3)),
    _config("resnet101", (3, 4, 23, 3)),
    _config("resnet152", (3, 8, 36, 3)),
    _config("resnext50_32x4d", (3, 4, 6, 3), 32, 4),
    _config("resnext101_32x4d", (3, 4, 23, 3), 32, 4),
    _config("resnext101_32x8d", (3, 4, 23, 3), 32, 8),
    _config("resnext101_32x16d", (3, 4, 23, 3), 32, 16),
    _config("resnext101_32x32d", (3, 4, 23, 3), 32, 32),
    _config("resnext101_32x48d", (3, 4, 23, 3), 32, 48),
    _config("wide_resnet50_2", (3, 4, 6, 3), 1, 128),
    _config("wide_resnet101_2", (3, 4, 23, 3), 1, 128),
)
"""Those of torchvision, and the wider ones that were trained on pictures of Instagram."""
