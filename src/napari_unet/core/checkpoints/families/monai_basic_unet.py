"""The `BasicUNet` of MONAI: two convolutions at each of five levels, pooling between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding
from napari_unet.core.checkpoints.monai.blocks import Up, double
from napari_unet.core.checkpoints.monai.bundles import about_of
from napari_unet.core.checkpoints.monai.layers import adn_of, keywords, read_style
from napari_unet.core.checkpoints.styles import (
    CHOICES,
    Act,
    Norm,
    axes_of,
    named,
)
from napari_unet.core.errors import ModelFileError

__all__ = ["FAMILY", "MonaiBasicConfig", "MonaiBasicUNet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonaiBasicConfig:
    """What the network is.

    Attributes
    ----------
    dims, in_channels, out_channels : axes of the image, channels of the input and of the output.
    down : channels of each level, from full resolution down.
    up : for each level on the way up, from the bottom, channels of the enlarged image and of the
        result.
    transposed : whether the image is enlarged by learned up-convolutions, else linearly.
    shrunk : for linear enlarging, whether a convolution changes the channels before it, by level.
    bias : whether convolutions have biases.
    norm, affine, groups, eps, act, slope, alpha : see `core.checkpoints.styles.Style`.
    """

    dims: Literal[2, 3]
    in_channels: int
    out_channels: int
    down: tuple[int, ...]
    up: tuple[tuple[int, int], ...]
    transposed: bool
    shrunk: tuple[bool, ...] = ()
    bias: bool = True
    norm: Norm = "instance"
    affine: bool = True
    groups: int = 1
    eps: float = 1e-5
    act: Act = "leakyrelu"
    slope: float = 0.1
    alpha: float = 1.0


class MonaiBasicUNet(nn.Module):
    """Image `(b, c, [z,] y, x)` of any size from 16 px to logits `(b, output, [z,] y, x)`."""

    def __init__(self, config: MonaiBasicConfig) -> None:
        super().__init__()
        down, pool = config.down, getattr(nn, f"MaxPool{config.dims}d")
        self.n_levels = len(down)
        self.conv_0 = double(config, config.in_channels, down[0])
        for i in range(1, self.n_levels):
            below = {"max_pooling": pool(2), "convs": double(config, down[i - 1], down[i])}
            self.add_module(f"down_{i}", named(below))
        n_below = down[-1]
        for i, (_, n_out) in enumerate(config.up):
            up = Up(
                config, n_below, down[-2 - i], config.up[i], shrunk=any(config.shrunk[i : i + 1])
            )
            self.add_module(f"upcat_{len(config.up) - i}", up)
            n_below = n_out
        self.final_conv = getattr(nn, f"Conv{config.dims}d")(n_below, config.out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image, of its size."""
        skips = [self.conv_0(image)]
        for i in range(1, self.n_levels):
            skips.append(self.get_submodule(f"down_{i}")(skips[-1]))
        features = skips.pop()
        for i in range(self.n_levels - 1, 0, -1):
            features = self.get_submodule(f"upcat_{i}")(features, skips.pop())
        logits: Tensor = self.final_conv(features)
        return logits


def _recognise(evidence: Evidence) -> bool:
    return evidence.has(
        "conv_0.conv_0.conv.weight",
        "down_1.convs.conv_0.conv.weight",
        "upcat_1.convs.conv_0.conv.weight",
        "final_conv.weight",
    )


def _understand(evidence: Evidence) -> Understanding:
    if any(".pixelshuffle." in name for name in evidence.tensors):
        raise ModelFileError(
            f"{evidence.name} is a MONAI BasicUNet that enlarges by 'pixelshuffle', which is not "
            "supported; 'deconv' and 'nontrainable' are."
        )
    n_down = evidence.count(r"down_(\d+)\.convs\.conv_0\.conv\.weight")
    downs = ("conv_0", *(f"down_{i}.convs" for i in range(1, n_down + 1)))
    down = tuple(evidence.n_out(f"{path}.conv_1.conv.weight") for path in downs)
    shape = evidence.shape("conv_0.conv_0.conv.weight")
    levels = range(n_down, 0, -1)
    told = keywords(evidence, "BasicUNet", "BasicUnet")
    style, assumed = read_style(evidence, adn_of("conv_0.conv_0"), told, ("leakyrelu", 0.1))
    transposed = evidence.has("upcat_1.upsample.deconv.weight")
    config = MonaiBasicConfig(
        dims=axes_of(shape, evidence.name),
        in_channels=shape[1],
        out_channels=evidence.n_out("final_conv.weight"),
        down=down,
        up=tuple(
            (
                evidence.n_in(f"upcat_{i}.convs.conv_0.conv.weight") - down[i - 1],
                evidence.n_out(f"upcat_{i}.convs.conv_1.conv.weight"),
            )
            for i in levels
        ),
        transposed=transposed,
        shrunk=()
        if transposed
        else tuple(evidence.has(f"upcat_{i}.upsample.preconv.weight") for i in levels),
        bias=evidence.has("conv_0.conv_0.conv.bias"),
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
    name="monai_basic_unet",
    title="BasicUNet (MONAI)",
    config=MonaiBasicConfig,
    network=MonaiBasicUNet,
    recognise=_recognise,
    understand=_understand,
    choices=CHOICES,
)
