"""The decoders of the U-Net (Ronneberger et al. 2015) and of U-Net++ (Zhou et al. 2018).

Files have the names of segmentation_models_pytorch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_unet.core.networks.decoders.layers import (
    Attention,
    AttentionKind,
    Interpolation,
    Norm,
    centre,
    conv_relu,
)

__all__ = ["UNetDecoder", "UNetPlusPlusDecoder"]


class Block(nn.Module):
    """Enlarge, join with what came across, convolve twice."""

    def __init__(
        self,
        n_in: int,
        n_skip: int,
        n_out: int,
        *,
        norm: Norm,
        attention: AttentionKind,
        interpolation: Interpolation,
    ) -> None:
        super().__init__()
        self.interpolation: Interpolation = interpolation
        self.conv1 = conv_relu(n_in + n_skip, n_out, 3, norm)
        self.attention1 = Attention(n_in + n_skip, attention)
        self.conv2 = conv_relu(n_out, n_out, 3, norm)
        self.attention2 = Attention(n_out, attention)

    def forward(self, below: Tensor, size: Sequence[int], *skips: Tensor) -> Tensor:
        """`(b, n_in, y / 2, x / 2)` and several `(b, ..., y, x)` to `(b, n_out, y, x)`."""
        features = F.interpolate(below, size=tuple(size), mode=self.interpolation)
        if skips:
            # Without anything to join, the first attention has weights but is left out.
            features = self.attention1(torch.cat([features, *skips], dim=1))
        out: Tensor = self.attention2(self.conv2(self.conv1(features)))
        return out


class UNetDecoder(nn.Module):
    """Feature maps of an encoder to one at full resolution.

    Parameters
    ----------
    encoder_channels : of the feature maps, from full resolution down. The first is not used.
    widths : channels of each block, from the deepest up.
    norm : after each convolution.
    center : whether there are two more convolutions at the bottom.
    attention : how channels and pixels are weighed in each block.
    interpolation : how images are enlarged.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        widths: Sequence[int],
        *,
        norm: Norm = "batch",
        center: bool = False,
        attention: AttentionKind = "none",
        interpolation: Interpolation = "nearest",
    ) -> None:
        super().__init__()
        deepest, *skips = encoder_channels[:0:-1]
        self.center = centre(deepest, norm, center)
        self.blocks = nn.ModuleList(
            Block(n_in, n_skip, n_out, norm=norm, attention=attention, interpolation=interpolation)
            for n_in, n_skip, n_out in zip(
                (deepest, *widths[:-1]), (*skips, 0), widths, strict=True
            )
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """`(b, widths[-1], y, x)`."""
        deepest, *skips = features[:0:-1]
        below: Tensor = self.center(deepest)
        sizes = [one.shape[2:] for one in features[-2::-1]]
        for i, (block, size) in enumerate(zip(self.blocks, sizes, strict=True)):
            below = block(below, size, *skips[i : i + 1])
        return below


class UNetPlusPlusDecoder(nn.Module):
    """Feature maps of an encoder to one at full resolution, by way of many.

    Block `x_i_j` works at the resolution of skip `j`, the deepest being 0. It enlarges what lies
    to its left and joins it with all of its resolution that was there before: blocks
    `x_k_j` with `k > i`, and the feature map of the encoder. Parameters as for `UNetDecoder`.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        widths: Sequence[int],
        *,
        norm: Norm = "batch",
        center: bool = False,
        attention: AttentionKind = "none",
        interpolation: Interpolation = "nearest",
    ) -> None:
        super().__init__()
        deepest, *skips = encoder_channels[:0:-1]
        # NOTE: it has the layers but never runs them; files of VGG hold them all the same.
        self.center = centre(deepest, norm, center)
        self.n_skips = len(skips)
        inputs = (deepest, *widths[:-1])
        self.blocks = nn.ModuleDict()
        for j, n_skip in enumerate(skips):
            for i in range(j + 1):
                n_in, n_out = (inputs[j], widths[j]) if i == 0 else (skips[j - 1], n_skip)
                self.blocks[f"x_{i}_{j}"] = Block(
                    n_in,
                    n_skip * (j + 1 - i),
                    n_out,
                    norm=norm,
                    attention=attention,
                    interpolation=interpolation,
                )
        self.blocks[f"x_0_{self.n_skips}"] = Block(
            inputs[-1],
            0,
            widths[-1],
            norm=norm,
            attention=attention,
            interpolation=interpolation,
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """`(b, widths[-1], y, x)`."""
        maps = features[::-1]
        known: dict[tuple[int, int], Tensor] = {}
        for j in range(self.n_skips):
            for i in range(j, -1, -1):
                left = maps[j] if i == j else known[i, j - 1]
                beside = [known[k, j] for k in range(i + 1, j + 1)]
                joined = (*beside, maps[j + 1])
                known[i, j] = self.blocks[f"x_{i}_{j}"](left, maps[j + 1].shape[2:], *joined)
        left = known[0, self.n_skips - 1]
        last: Tensor = self.blocks[f"x_0_{self.n_skips}"](left, maps[-1].shape[2:])
        return last
