"""FC-DenseNet: a U-Net of dense blocks.

After Jégou et al.: "The One Hundred Layers Tiramisu: Fully Convolutional DenseNets for Semantic
Segmentation", CVPR workshops 2017, on DenseNet of Huang et al., CVPR 2017. Each layer (batch norm,
ReLU, 3x3 convolution, dropout) sees the outputs of all layers before it in its block, and adds
`growth` channels to them. On the way down a block hands on all channels, its input included; on
the way up only the new ones, or the number of channels would explode where sizes are large.

FC-DenseNet56 has 1 376 795 weights with 3 channels in and the 11 classes of the paper, which says
1.5 M; FC-DenseNet103 has 9 322 091, of which it says 9.4 M. Channels are those of its table 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from napari_unet.core.errors import SettingsError
from napari_unet.core.networks.parts import check_channels, check_dims, check_share, check_widths
from napari_unet.core.networks.registry import Kind, Preset, Wanted

__all__ = ["PRESETS", "DenseUNet", "DenseUNetConfig"]


LAYERS_56 = (4, 4, 4, 4, 4, 4)
LAYERS_103 = (4, 5, 7, 10, 12, 15)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseUNetConfig:
    """What the network is: enough to build it again.

    Attributes
    ----------
    dims : 2 for images `(y, x)`, 3 for volumes `(z, y, x)`.
    in_channels, out_channels : channels of the input and of the output.
    first_width : channels of the first convolution.
    growth : channels that each layer adds.
    layers : layers of the dense block of each level, from full resolution down to the bottom; on
        the way up the same. FC-DenseNet56 has (4, 4, 4, 4, 4, 4) and growth 12, FC-DenseNet103
        (4, 5, 7, 10, 12, 15) and growth 16.
    dropout : share of values dropped behind each convolution while training.
    """

    dims: Literal[2, 3] = 2
    in_channels: int = 1
    out_channels: int = 2
    first_width: int = 48
    growth: int = 12
    layers: tuple[int, ...] = LAYERS_56
    dropout: float = 0.2

    def __post_init__(self) -> None:
        check_dims(self.dims)
        check_channels(self)
        if self.first_width < 1 or self.growth < 1:
            raise SettingsError("first_width and growth must be at least 1.")
        check_widths(self.layers, 2, name="layers")
        check_share("dropout", self.dropout)

    @property
    def n_skipped(self) -> tuple[int, ...]:
        """Channels behind the dense block of each level on the way down: those of its skip."""
        n, found = self.first_width, []
        for n_layers in self.layers:
            n += n_layers * self.growth
            found.append(n)
        return tuple(found)


def _activated(config: DenseUNetConfig, n_in: int, n_out: int, kernel: int) -> list[nn.Module]:
    """Batch norm, ReLU, convolution, dropout: `(b, n_in, ...)` to `(b, n_out, ...)`."""
    is_flat = config.dims == 2
    conv, norm = (nn.Conv2d, nn.BatchNorm2d) if is_flat else (nn.Conv3d, nn.BatchNorm3d)
    return [
        norm(n_in),
        nn.ReLU(inplace=True),
        conv(n_in, n_out, kernel_size=kernel, padding=kernel // 2),
        nn.Dropout(config.dropout),
    ]


class _DenseBlock(nn.Module):
    """Layers each of which sees all before it."""

    def __init__(self, config: DenseUNetConfig, n_in: int, n_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(*_activated(config, n_in + i * config.growth, config.growth, 3))
            for i in range(n_layers)
        )

    def forward(self, features: Tensor) -> list[Tensor]:
        """`(b, n_in, y, x)` to itself and what each layer adds, `(b, growth, y, x)`."""
        found = [features]
        for layer in self.layers:
            found.append(layer(torch.cat(found, dim=1)))  # of (b, n_in + i growth, y, x)
        return found


class _Up(nn.Module):
    """Transition up: a transposed 3x3 convolution with stride 2."""

    def __init__(self, dims: int, n: int) -> None:
        super().__init__()
        conv = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
        self.conv = conv(n, n, kernel_size=3, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        """`(b, n, y, x)` to `(b, n, 2 y, 2 x)`.

        The convolution gives a px more, which the authors' code cuts off at the far end.
        """
        enlarged: Tensor = self.conv(features)  # (b, n, 2 y + 1, 2 x + 1)
        for axis in range(2, features.ndim):
            enlarged = enlarged.narrow(axis, 0, 2 * features.shape[axis])
        return enlarged


class DenseUNet(nn.Module):
    """U-Net of dense blocks: `(b, c, [z,] y, x)` to logits `(b, class, [z,] y, x)`.

    Each spatial size must be a multiple of `2 ** (len(config.layers) - 1)`.
    """

    def __init__(self, config: DenseUNetConfig) -> None:
        super().__init__()
        self.config = config
        dims, layers, skipped = config.dims, config.layers, config.n_skipped
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        pool = nn.MaxPool2d if dims == 2 else nn.MaxPool3d
        self.first = conv(config.in_channels, config.first_width, kernel_size=3, padding=1)
        self.encoder = nn.ModuleList(
            _DenseBlock(config, n_in, n_layers)
            for n_in, n_layers in zip((config.first_width, *skipped[:-1]), layers, strict=True)
        )
        self.down = nn.ModuleList(
            nn.Sequential(*_activated(config, n, n, 1), pool(2)) for n in skipped[:-1]
        )
        new = [n_layers * config.growth for n_layers in layers]
        above = list(reversed(range(len(layers) - 1)))  # levels on the way up
        self.up = nn.ModuleList(_Up(dims, new[i + 1]) for i in above)
        self.decoder = nn.ModuleList(
            _DenseBlock(config, new[i + 1] + skipped[i], layers[i]) for i in above
        )
        self.head = conv(new[1] + skipped[0] + new[0], config.out_channels, kernel_size=1)
        self._initialise()

    def _initialise(self) -> None:
        """Draw weights as He et al. 2015, from a uniform distribution."""
        kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        for module in self.modules():
            # NOTE: drawing numbers for weights without memory loads torch's compiler, for a second.
            if isinstance(module, kinds) and not module.weight.is_meta:
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(b, class, [z,] y, x)` of `image` `(b, c, [z,] y, x)`."""
        features: Tensor = self.first(image)
        skips = []
        for block, down in zip(self.encoder, self.down, strict=False):
            skips.append(torch.cat(block(features), dim=1))  # (b, n_skipped, y / 2^i, x / 2^i)
            features = down(skips[-1])
        parts = self.encoder[-1](features)
        for up, block in zip(self.up, self.decoder, strict=True):
            new = torch.cat(parts[1:], dim=1)  # without the input of the block
            parts = block(torch.cat([up(new), skips.pop()], dim=1))
        logits: Tensor = self.head(torch.cat(parts, dim=1))
        return logits


def _configured(wanted: Wanted, layers: tuple[int, ...], growth: int) -> DenseUNetConfig:
    width = wanted.width or 48
    return DenseUNetConfig(
        dims=3 if wanted.dims == 3 else 2,
        in_channels=wanted.in_channels,
        out_channels=wanted.out_channels,
        first_width=width,
        growth=max(1, round(width * growth / 48)),
        layers=layers,
    )


def _configured_56(wanted: Wanted) -> DenseUNetConfig:
    return _configured(wanted, LAYERS_56, 12)


def _configured_103(wanted: Wanted) -> DenseUNetConfig:
    return _configured(wanted, LAYERS_103, 16)


PAPER = (
    "Jégou, Drozdzal, Vazquez, Romero, Bengio: The One Hundred Layers Tiramisu: Fully "
    "Convolutional DenseNets for Semantic Segmentation, CVPR workshops 2017"
)
KIND = Kind(
    name="unet-dense", title="U-Net of dense blocks", config=DenseUNetConfig, network=DenseUNet
)
# The paper's RMSprop (1e-3, 0.5 % less each epoch) divides by a running mean of squared gradients,
# as Adam does: of the optimizers here that is the nearest. Its crops are 224 px, 3 in a batch.
RECIPE = {
    "loss": "cross-entropy",
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "weight_decay": 1e-4,
    "batch_size": 3,
}
PRESETS = (
    Preset(
        name="unet-dense",
        title="Dense U-Net (FC-DenseNet56)",
        paper=PAPER,
        summary="Every layer of a block sees all before it; few weights, much memory.",
        kind=KIND,
        configure=_configured_56,
        dims=(2, 3),
        recipe=RECIPE,
    ),
    Preset(
        name="unet-dense-103",
        title="Dense U-Net (FC-DenseNet103)",
        paper=PAPER,
        summary="The same with 103 layers, the largest of the paper.",
        kind=KIND,
        configure=_configured_103,
        dims=(2, 3),
        recipe=RECIPE,
    ),
)
