"""Attention U-Net: gates weaken what comes across where the coarser picture finds nothing.

After Oktay et al.: "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018. Built
as in that paper, with grid attention: the gating signal g of a skip x is the decoder's feature
map of the level below, which has half the resolution; x is brought to that resolution by a
convolution with stride 2, and the coefficients back to that of x by linear interpolation:

    q = psi(ReLU(W_x x + W_g g + b_g)) + b_psi         (b, 1, y / 2, x / 2)
    output = x * enlarged(sigmoid(q))                   (b, c, y, x)

The first skip has no gate: its features are of too low a level to tell where to look. The copy that
is best known in 2D (LeeJunHyun/Image_Segmentation, and MONAI's `AttentionUnet`) instead enlarges g
first and gates at the resolution of x, at every level. Files with its weights can be opened all the
same; new networks are those of the paper.

With the paper's widths, 16-32-64-128-256 in 3D, the U-Net without gates has 5.88 M weights, as in
its table. With gates as in its formulas there are 6.10 M; the table has 6.40 M, and the authors'
code of today 6.21 M or 6.47 M, as it also puts 1x1 convolutions behind each gate and before the
lowest one, and an output at each level, which the formulas do not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from napari_unet.core.errors import SettingsError
from napari_unet.core.networks.parts import check_channels, check_dims, check_widths, doubling, he_
from napari_unet.core.networks.registry import Kind, Preset, Wanted

__all__ = ["PRESETS", "AttentionUNet", "AttentionUNetConfig"]


OPEN = 3.0
"""What gates begin with: sigmoid(3) is 0.95."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionUNetConfig:
    """What the network is: enough to build it again.

    Attributes
    ----------
    dims : 2 for images `(y, x)`, 3 for volumes `(z, y, x)`.
    in_channels, out_channels : channels of the input and of the output.
    widths : channels of each level, from full resolution down to the bottom.
    first_gate : the highest level whose skip has a gate; 0 is full resolution, in the paper it
        is 1.
    """

    dims: Literal[2, 3] = 2
    in_channels: int = 1
    out_channels: int = 2
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    first_gate: int = 1

    def __post_init__(self) -> None:
        check_dims(self.dims)
        check_channels(self)
        check_widths(self.widths, 2)
        if self.first_gate < 0:
            raise SettingsError(f"first_gate must be at least 0, not {self.first_gate}.")


def _double_conv(dims: int, n_in: int, n_out: int) -> nn.Sequential:
    """(convolution 3x3, batch norm, ReLU) twice; `(b, n_in, ...)` to `(b, n_out, ...)`."""
    conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
    layers: list[nn.Module] = []
    for n_from in (n_in, n_out):
        layers.append(conv(n_from, n_out, kernel_size=3, padding=1, bias=False))
        layers += [norm(n_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _enlarged(dims: int) -> nn.Upsample:
    """Twice the size, by linear interpolation."""
    mode = "bilinear" if dims == 2 else "trilinear"
    return nn.Upsample(scale_factor=2, mode=mode, align_corners=False)


class _Gate(nn.Module):
    """Additive grid attention: a skip, weakened where the gating signal finds nothing."""

    def __init__(self, dims: int, n_skip: int, n_gate: int) -> None:
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.of_skip = conv(n_skip, n_skip, kernel_size=2, stride=2, bias=False)
        self.of_gate = conv(n_gate, n_skip, kernel_size=1)
        self.psi = conv(n_skip, 1, kernel_size=1)
        self.enlarge = _enlarged(dims)

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        """`skip` `(b, c, y, x)`, `gate` `(b, c_below, y / 2, x / 2)` to the weakened skip."""
        both = torch.relu(self.of_skip(skip) + self.of_gate(gate))  # (b, c, y / 2, x / 2)
        share = torch.sigmoid(self.psi(both))  # (b, 1, y / 2, x / 2)
        weakened: Tensor = skip * self.enlarge(share)  # (b, c, y, x)
        return weakened


class AttentionUNet(nn.Module):
    """U-Net with gates on its skips: `(b, c, [z,] y, x)` to logits `(b, class, [z,] y, x)`.

    Each spatial size must be a multiple of `2 ** (len(config.widths) - 1)`.
    """

    def __init__(self, config: AttentionUNetConfig) -> None:
        super().__init__()
        self.config = config
        dims, widths = config.dims, config.widths
        self.pool = (nn.MaxPool2d if dims == 2 else nn.MaxPool3d)(2)
        self.enlarge = _enlarged(dims)
        self.encoder = nn.ModuleList(
            _double_conv(dims, n_in, n_out)
            for n_in, n_out in zip((config.in_channels, *widths[:-1]), widths, strict=True)
        )
        levels = range(len(widths) - 1)
        self.gates = nn.ModuleDict(
            {
                str(i): _Gate(dims, widths[i], widths[i + 1])
                for i in levels
                if i >= config.first_gate
            }
        )
        self.decoder = nn.ModuleList(
            _double_conv(dims, widths[i] + widths[i + 1], widths[i]) for i in levels
        )
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.head = conv(widths[0], config.out_channels, kernel_size=1)
        self._initialise()

    def _initialise(self) -> None:
        """Draw weights from N(0, sqrt(2 / N)) (He et al. 2015), as the authors' code does.

        As in the paper gates begin open, everywhere.
        """
        he_(self)
        for gate in self.gates.values():
            assert isinstance(gate, _Gate)
            if gate.psi.bias is not None and not gate.psi.bias.is_meta:
                nn.init.constant_(gate.psi.bias, OPEN)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(b, class, [z,] y, x)` of `image` `(b, c, [z,] y, x)`."""
        skips = [self.encoder[0](image)]
        for encode in list(self.encoder)[1:]:
            skips.append(encode(self.pool(skips[-1])))  # (b, width, y / 2^i, x / 2^i)
        features: Tensor = skips.pop()
        for i in reversed(range(len(skips))):
            skip = skips.pop()
            if str(i) in self.gates:
                skip = self.gates[str(i)](skip, features)
            joined = torch.cat([skip, self.enlarge(features)], dim=1)  # (b, both, y, x)
            features = self.decoder[i](joined)
        logits: Tensor = self.head(features)
        return logits


def _configured(wanted: Wanted) -> AttentionUNetConfig:
    width = wanted.width or 16
    return AttentionUNetConfig(
        dims=3 if wanted.dims == 3 else 2,
        in_channels=wanted.in_channels,
        out_channels=wanted.out_channels,
        widths=doubling(width, 5),
    )


PRESETS = (
    Preset(
        name="unet-attention",
        title="Attention U-Net",
        paper="Oktay et al.: Attention U-Net: Learning Where to Look for the Pancreas, MIDL 2018",
        summary="Gates on the skips let through what the coarser picture finds worth a look.",
        kind=Kind(
            name="unet-attention",
            title="Attention U-Net",
            config=AttentionUNetConfig,
            network=AttentionUNet,
        ),
        configure=_configured,
        dims=(2, 3),
        recipe={
            "loss": "dice",
            "optimizer": "adam",
            "learning_rate": 1e-4,
            "schedule": "constant",
        },
    ),
)
