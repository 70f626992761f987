"""What BasicUNet and BasicUNetPlusPlus of MONAI are made of."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_unet.core.checkpoints.monai.layers import convolution
from napari_unet.core.checkpoints.styles import Style, named

__all__ = ["Blocks", "Up", "double"]


class Blocks(Style, Protocol):
    """What a config says of such blocks.

    Attributes
    ----------
    bias : whether convolutions have biases.
    transposed : whether the image is enlarged by learned up-convolutions, else linearly.
    """

    @property
    def bias(self) -> bool: ...  # noqa: D102
    @property
    def transposed(self) -> bool: ...  # noqa: D102


def double(config: Blocks, n_in: int, n_out: int) -> nn.Sequential:
    """Two convolutions; `(b, n_in, [z,] y, x)` to `(b, n_out, [z,] y, x)`."""
    three, once = (3,) * config.dims, (1,) * config.dims
    return named(
        {
            "conv_0": convolution(config, (n_in, n_out), three, once, bias=config.bias),
            "conv_1": convolution(config, (n_out, n_out), three, once, bias=config.bias),
        }
    )


class Up(nn.Module):
    """Enlarge, join with what came across, convolve twice.

    Parameters
    ----------
    config : see `Blocks`.
    n_below, n_skip : channels from below and across.
    widths : channels of the enlarged image and of the result.
    shrunk : for linear enlarging, whether a convolution changes the channels before it.
    """

    def __init__(
        self, config: Blocks, n_below: int, n_skip: int, widths: tuple[int, int], *, shrunk: bool
    ) -> None:
        super().__init__()
        n_up, n_out = widths
        if config.transposed:
            kind = getattr(nn, f"ConvTranspose{config.dims}d")
            self.upsample = named({"deconv": kind(n_below, n_up, 2, stride=2)})
        else:
            shrink = {"preconv": getattr(nn, f"Conv{config.dims}d")(n_below, n_up, 1)}
            mode = "bilinear" if config.dims == 2 else "trilinear"
            enlarge = nn.Upsample(scale_factor=2, mode=mode, align_corners=True)
            self.upsample = named({**(shrink if shrunk else {}), "upsample_non_trainable": enlarge})
        self.convs = double(config, n_skip + n_up, n_out)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """`(b, n_below, [z / 2,] y / 2, x / 2)` and `(b, n_skip, ...)` to `(b, n_out, ...)`."""
        enlarged = self.upsample(below)
        missing = [
            size - found for size, found in zip(skip.shape[2:], enlarged.shape[2:], strict=True)
        ]
        # Pooling an odd size lost a row, which is taken from its neighbour.
        rims = [rim for size in reversed(missing) for rim in (0, size)]
        if any(rims):
            enlarged = F.pad(enlarged, rims, mode="replicate")
        joined: Tensor = self.convs(torch.cat([skip, enlarged], dim=1))
        return joined
