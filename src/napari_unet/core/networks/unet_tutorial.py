"""The U-Net of the tutorials: a small one for nuclei, trained in minutes.

Kjetil Åmdal-Sævik: "Keras U-Net starter - LB 0.277", Kaggle, Data Science Bowl 2018, from which
countless tutorials descend; after Ronneberger, Fischer, Brox: "U-Net", MICCAI 2015. A quarter of
the paper's channels, padded convolutions, ELU (Clevert et al. 2015; most of its descendants have
ReLU), dropout between the two convolutions of every level, a single output with a sigmoid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from napari_unet.core.errors import SettingsError
from napari_unet.core.networks.parts import MAX_LEVELS, check_channels, check_choice, doubling
from napari_unet.core.networks.registry import Kind, Preset, Wanted

__all__ = ["PRESETS", "TutorialUNet", "TutorialUNetConfig"]


TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal distribution that is cut at -2 and 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TutorialUNetConfig:
    """What the network is: enough to build it again.

    Attributes
    ----------
    in_channels, out_channels : channels of the input and of the output.
    widths : channels of each level, from full resolution down to the bottom.
    dropouts : share of values dropped in training, of each level, on the way down and up.
    activation : "elu" as in the original, or "relu" as in most of its descendants.
    """

    in_channels: int = 3
    out_channels: int = 1
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    dropouts: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2, 0.3)
    activation: Literal["elu", "relu"] = "elu"
    dims: Literal[2] = 2

    def __post_init__(self) -> None:
        if self.dims != 2:
            raise SettingsError(f"dims must be 2, not {self.dims}.")
        check_channels(self)
        if len(self.widths) < 1 or min(self.widths) < 1:
            raise SettingsError(f"widths must be positive numbers, not {self.widths}.")
        if len(self.widths) > MAX_LEVELS:
            raise SettingsError(f"{len(self.widths)} levels are more than any image can be halved.")
        if len(self.dropouts) != len(self.widths):
            raise SettingsError(
                f"dropouts must be one number for each of {len(self.widths)} levels, "
                f"not {len(self.dropouts)}."
            )
        if not all(0 <= share < 1 for share in self.dropouts):
            raise SettingsError(f"dropouts must be in [0, 1), not {self.dropouts}.")
        check_choice("activation", self.activation, ("elu", "relu"))

    @property
    def stride(self) -> int:
        """Sizes that fit are multiples of this, in px."""
        return 1 << (len(self.widths) - 1)


def _double_conv(config: TutorialUNetConfig, n_in: int, n_out: int, share: float) -> nn.Sequential:
    """Convolution 3x3, dropout, convolution 3x3; `(b, n_in, y, x)` to `(b, n_out, y, x)`."""
    activation = nn.ELU if config.activation == "elu" else nn.ReLU
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel_size=3, padding=1),
        activation(inplace=True),
        nn.Dropout(share),
        nn.Conv2d(n_out, n_out, kernel_size=3, padding=1),
        activation(inplace=True),
    )


class TutorialUNet(nn.Module):
    """Image `(b, c, y, x)` to logits `(b, output, y, x)`; sizes must be multiples of `stride`."""

    def __init__(self, config: TutorialUNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, shares = config.widths, config.dropouts
        self.pool = nn.MaxPool2d(2)
        self.encoder = nn.ModuleList(
            _double_conv(config, n_in, n_out, share)
            for (n_in, n_out), share in zip(
                pairwise((config.in_channels, *widths)), shares, strict=True
            )
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(n_below, n, kernel_size=2, stride=2)
            for n_below, n in pairwise(widths[::-1])
        )
        self.decoder = nn.ModuleList(
            _double_conv(config, 2 * n, n, share)
            for n, share in zip(widths[-2::-1], shares[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], config.out_channels, kernel_size=1)
        self._initialise()

    def _initialise(self) -> None:
        """Draw weights as Keras does for the original; biases are zero.

        3x3 convolutions: N(0, sqrt(2 / N)) cut at two standard deviations (He et al. 2015);
        others, where the original says nothing: uniformly (Glorot, Bengio 2010).
        """
        for module in self.modules():
            # NOTE: drawing numbers for weights without memory loads torch's compiler, for a second.
            if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d) or module.weight.is_meta:
                continue
            if module.kernel_size == (3, 3):
                std = math.sqrt(2 / module.weight[0].numel()) / TRUNCATED_STD
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            else:
                nn.init.xavier_uniform_(module.weight)
            assert module.bias is not None
            nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(b, output, y, x)` of `image` `(b, c, y, x)`."""
        skips = [self.encoder[0](image)]
        for level in list(self.encoder)[1:]:
            skips.append(level(self.pool(skips[-1])))  # (b, width, y / 2^i, x / 2^i)
        features = skips.pop()
        for up, decoder in zip(self.up, self.decoder, strict=True):
            joined = torch.cat([up(features), skips.pop()], dim=1)  # (b, 2 width, 2 y, 2 x)
            features = decoder(joined)  # (b, width, 2 y, 2 x)
        logits: Tensor = self.head(features)
        return logits


def _configured(wanted: Wanted) -> TutorialUNetConfig:
    width = wanted.width or 16
    return TutorialUNetConfig(
        in_channels=wanted.in_channels,
        out_channels=wanted.out_channels,
        widths=doubling(width, 5),
    )


PRESETS = (
    Preset(
        name="unet-tutorial",
        title="U-Net of the tutorials",
        paper="Kjetil Åmdal-Sævik: Keras U-Net starter, Kaggle, Data Science Bowl 2018; after "
        "Ronneberger, Fischer, Brox: U-Net, MICCAI 2015",
        summary="16 to 256 channels, padded, dropout everywhere, one output with a sigmoid.",
        kind=Kind(
            name="unet_tutorial", title="U-Net of the tutorials", config=TutorialUNetConfig,
            network=TutorialUNet,
        ),
        configure=_configured,
        recipe={
            "outputs": "sigmoid",
            "loss": "cross-entropy",
            "separation": 0.0,
            "optimizer": "adam",
            "learning_rate": 1e-3,
            "weight_decay": 0.0,
            "schedule": "constant",
            "batch_size": 16,
            "patch_size": 128,
            "clip": 0.0,
            "average": 0.0,
        },
    ),
)  # fmt: skip
