"""The `SegResNet` of MONAI: residual blocks, whose results are added on the way up.

Myronenko (2018), https://arxiv.org/abs/1810.11654, with or without its variational part, which
serves training alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from napari_unet.core.checkpoints.aliases import merged
from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding
from napari_unet.core.checkpoints.monai.bundles import about_of
from napari_unet.core.checkpoints.monai.layers import convolution, keywords, read_style
from napari_unet.core.checkpoints.styles import (
    CHOICES,
    Act,
    Norm,
    activation,
    axes_of,
    named,
    normalizer,
)
from napari_unet.core.errors import ModelFileError

__all__ = ["FAMILY", "MonaiSegResConfig", "MonaiSegResNet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonaiSegResConfig:
    """What the network is.

    Attributes
    ----------
    dims, in_channels, out_channels : axes of the image, channels of the input and of the output.
    widths : channels of each level, from full resolution down.
    n_down : residual blocks of each level on the way down.
    n_up : residual blocks of each level on the way up, from the bottom.
    transposed : whether the image is enlarged by learned up-convolutions, else linearly.
    norm, affine, groups, eps, act, slope, alpha : see `core.checkpoints.styles.Style`.
    """

    dims: Literal[2, 3]
    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    n_down: tuple[int, ...]
    n_up: tuple[int, ...]
    transposed: bool
    norm: Norm = "group"
    affine: bool = True
    groups: int = 8
    eps: float = 1e-5
    act: Act = "relu"
    slope: float = 0.01
    alpha: float = 1.0


def _conv(config: MonaiSegResConfig, n_in: int, n_out: int, size: int, stride: int) -> nn.Module:
    kernel, steps = (size,) * config.dims, (stride,) * config.dims
    return convolution(config, (n_in, n_out), kernel, steps, bias=False, only=True)


class _Block(nn.Module):
    """Normalization, activation, convolution, twice, added to what went in."""

    def __init__(self, config: MonaiSegResConfig, n: int) -> None:
        super().__init__()
        self.norm1 = normalizer(config, n) or nn.Identity()
        self.norm2 = normalizer(config, n) or nn.Identity()
        self.act = activation(config) or nn.Identity()
        self.conv1 = _conv(config, n, n, 3, 1)
        self.conv2 = _conv(config, n, n, 3, 1)

    def forward(self, features: Tensor) -> Tensor:
        """`(b, c, [z,] y, x)` to the same."""
        convolved = self.conv1(self.act(self.norm1(features)))
        added: Tensor = features + self.conv2(self.act(self.norm2(convolved)))
        return added


def _enlarging(config: MonaiSegResConfig, n_below: int, n: int) -> nn.Sequential:
    if config.transposed:
        kind = getattr(nn, f"ConvTranspose{config.dims}d")
        enlarge = named({"deconv": kind(n, n, 2, stride=2)})
    else:
        mode = "bilinear" if config.dims == 2 else "trilinear"
        linear = nn.Upsample(scale_factor=2, mode=mode, align_corners=False)
        enlarge = named({"upsample_non_trainable": linear})
    return nn.Sequential(_conv(config, n_below, n, 1, 1), enlarge)


class MonaiSegResNet(nn.Module):
    """Image `(b, c, [z,] y, x)`, halved at each level, to logits of its size."""

    def __init__(self, config: MonaiSegResConfig) -> None:
        super().__init__()
        widths = config.widths
        self.convInit = _conv(config, config.in_channels, widths[0], 3, 1)
        downs = []
        for i, (n, n_blocks) in enumerate(zip(widths, config.n_down, strict=True)):
            smaller = _conv(config, widths[i - 1], n, 3, 2) if i else nn.Identity()
            downs.append(nn.Sequential(smaller, *(_Block(config, n) for _ in range(n_blocks))))
        self.down_layers = nn.ModuleList(downs)
        above = widths[-2::-1]
        self.up_samples = nn.ModuleList(
            _enlarging(config, n_below, n) for n_below, n in zip(widths[:0:-1], above, strict=True)
        )
        self.up_layers = nn.ModuleList(
            nn.Sequential(*(_Block(config, n) for _ in range(n_blocks)))
            for n, n_blocks in zip(above, config.n_up, strict=True)
        )
        last = getattr(nn, f"Conv{config.dims}d")(widths[0], config.out_channels, 1)
        self.conv_final = nn.Sequential(
            normalizer(config, widths[0]) or nn.Identity(),
            activation(config) or nn.Identity(),
            named({"conv": last}),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(b, output, [z,] y, x)` of an image."""
        features = self.convInit(image)
        skips = []
        for down in self.down_layers:
            features = down(features)
            skips.append(features)
        skips.pop()
        for enlarge, blocks in zip(self.up_samples, self.up_layers, strict=True):
            features = blocks(enlarge(features) + skips.pop())
        logits: Tensor = self.conv_final(features)
        return logits


def _canonical(name: str) -> str:
    """The last activation is held twice."""
    return f"conv_final.1.{name[8:]}" if name.startswith("act_mod.") else name


def _recognise(evidence: Evidence) -> bool:
    return evidence.has(
        "convInit.conv.weight",
        "down_layers.0.1.conv1.conv.weight",
        "up_samples.0.0.conv.weight",
        "conv_final.2.conv.weight",
    )


def _understand(evidence: Evidence) -> Understanding:
    if any(".pixelshuffle." in name for name in evidence.tensors):
        raise ModelFileError(
            f"{evidence.name} is a MONAI SegResNet that enlarges by 'pixelshuffle', which is not "
            "supported; 'deconv' and 'nontrainable' are."
        )
    evidence, names = merged(evidence, _canonical)
    n_levels = evidence.count(r"down_layers\.(\d+)\..*")
    block = "down_layers.0.1"
    style, assumed = read_style(
        evidence,
        (f"{block}.conv1.conv", f"{block}.norm1", f"{block}.act"),
        keywords(evidence, "SegResNet", "SegResNetVAE"),
        ("relu", 0.01),
    )
    if "groups" in assumed:
        style |= {"norm": "group", "groups": 8}
    shape = evidence.shape("convInit.conv.weight")
    below = (evidence.n_out(f"down_layers.{i}.0.conv.weight") for i in range(1, n_levels))
    config = MonaiSegResConfig(
        dims=axes_of(shape, evidence.name),
        in_channels=shape[1],
        out_channels=evidence.n_out("conv_final.2.conv.weight"),
        widths=(shape[0], *below),
        n_down=tuple(
            evidence.count(rf"down_layers\.{i}\.(\d+)\.conv1\..*") for i in range(n_levels)
        ),
        n_up=tuple(
            evidence.count(rf"up_layers\.{i}\.(\d+)\.conv1\..*") for i in range(n_levels - 1)
        ),
        transposed=evidence.has("up_samples.0.1.deconv.weight"),
        **style,
    )
    about = about_of(evidence, config.dims, config.in_channels, config.out_channels)
    return Understanding(
        config=config,
        about=about.about,
        assumed=(*assumed, *about.assumed),
        names=names,
        ignored=(r"vae_.*",),
        notes=(*evidence.notes, *about.notes),
    )


FAMILY = Family(
    name="monai_segresnet",
    title="SegResNet (MONAI)",
    config=MonaiSegResConfig,
    network=MonaiSegResNet,
    recognise=_recognise,
    understand=_understand,
    choices=CHOICES,
)
