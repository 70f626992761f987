"""The `BasicUNetPlusPlus` of MONAI: every level is enlarged, not only the lowest.

Zhou et al. (2018), https://arxiv.org/abs/1807.10165. A block is named by its level and by how
many enlargements lie before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding
from napari_unet.core.checkpoints.monai.blocks import Up, double
from napari_unet.core.checkpoints.monai.bundles import about_of
from napari_unet.core.checkpoints.monai.layers import adn_of, keywords, read_style
from napari_unet.core.checkpoints.styles import CHOICES, Act, Norm, axes_of, named

__all__ = ["FAMILY", "MonaiPlusPlusConfig", "MonaiPlusPlusUNet"]

N_LEVELS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class MonaiPlusPlusConfig:
    """What the network is.

    Attributes
    ----------
    dims, in_channels, out_channels : axes of the image, channels of the input and of the output.
    widths : channels of each of the five levels, from full resolution down.
    last : channels before the output.
    transposed : whether the image is enlarged by learned up-convolutions, else linearly.
    bias : whether convolutions have biases.
    norm, affine, groups, eps, act, slope, alpha : see `core.checkpoints.styles.Style`.
    """

    dims: Literal[2, 3]
    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    last: int
    transposed: bool
    bias: bool = True
    norm: Norm = "instance"
    affine: bool = True
    groups: int = 1
    eps: float = 1e-5
    act: Act = "leakyrelu"
    slope: float = 0.1
    alpha: float = 1.0


def _up(config: MonaiPlusPlusConfig, level: int, at: int) -> Up:
    n, n_below = config.widths[level : level + 2]
    n_up = n_below // 2 if level else n_below
    n_out = config.last if at == N_LEVELS - 1 else n
    return Up(config, n_below, n * at, (n_up, n_out), shrunk=n_up != n_below)


class MonaiPlusPlusUNet(nn.Module):
    """Image `(b, c, [z,] y, x)` of any size from 16 px to logits `(b, output, [z,] y, x)`.

    The outputs of blocks before the last, made for training, are kept but not used.
    """

    def __init__(self, config: MonaiPlusPlusConfig) -> None:
        super().__init__()
        widths, pool = config.widths, getattr(nn, f"MaxPool{config.dims}d")
        self.conv_0_0 = double(config, config.in_channels, widths[0])
        for i in range(1, N_LEVELS):
            below = {"max_pooling": pool(2), "convs": double(config, widths[i - 1], widths[i])}
            self.add_module(f"conv_{i}_0", named(below))
        output = getattr(nn, f"Conv{config.dims}d")
        for at in range(1, N_LEVELS):
            for level in range(N_LEVELS - at):
                self.add_module(f"upcat_{level}_{at}", _up(config, level, at))
            n_out = config.last if at == N_LEVELS - 1 else widths[0]
            self.add_module(f"final_conv_0_{at}", output(n_out, config.out_channels, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image, of its size."""
        found = [[self.conv_0_0(image)]]
        for i in range(1, N_LEVELS):
            found.append([self.get_submodule(f"conv_{i}_0")(found[-1][0])])
        for at in range(1, N_LEVELS):
            for level in range(N_LEVELS - at):
                up = self.get_submodule(f"upcat_{level}_{at}")
                across = torch.cat(found[level], dim=1)
                found[level].append(up(found[level + 1][at - 1], across))
        logits: Tensor = self.get_submodule(f"final_conv_0_{N_LEVELS - 1}")(found[0][-1])
        return logits


def _recognise(evidence: Evidence) -> bool:
    return evidence.has(
        "conv_0_0.conv_0.conv.weight",
        "upcat_0_4.convs.conv_0.conv.weight",
        "final_conv_0_4.weight",
    )


def _understand(evidence: Evidence) -> Understanding:
    shape = evidence.shape("conv_0_0.conv_0.conv.weight")
    told = keywords(evidence, "BasicUNetPlusPlus", "BasicUnetPlusPlus")
    style, assumed = read_style(evidence, adn_of("conv_0_0.conv_0"), told, ("leakyrelu", 0.1))
    below = (evidence.n_out(f"conv_{i}_0.convs.conv_1.conv.weight") for i in range(1, N_LEVELS))
    config = MonaiPlusPlusConfig(
        dims=axes_of(shape, evidence.name),
        in_channels=shape[1],
        out_channels=evidence.n_out("final_conv_0_4.weight"),
        widths=(shape[0], *below),
        last=evidence.n_in("final_conv_0_4.weight"),
        transposed=evidence.has("upcat_0_1.upsample.deconv.weight"),
        bias=evidence.has("conv_0_0.conv_0.conv.bias"),
        **style,
    )
    about = about_of(evidence, config.dims, config.in_channels, config.out_channels)
    return Understanding(
        config=config,
        about=about.about,
        assumed=(*assumed, *about.assumed),
        notes=about.notes,
    )


FAMILY = Family(
    name="monai_basic_unet_plusplus",
    title="BasicUNetPlusPlus (MONAI)",
    config=MonaiPlusPlusConfig,
    network=MonaiPlusPlusUNet,
    recognise=_recognise,
    understand=_understand,
    choices=CHOICES,
)
