"""The `FlexibleUNet` of MONAI: a ResNet or EfficientNet, and a decoder of MONAI's own blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding
from napari_unet.core.checkpoints.monai.blocks import Up
from napari_unet.core.checkpoints.monai.bundles import about_of
from napari_unet.core.checkpoints.monai.layers import adn_of, keywords, read_style
from napari_unet.core.checkpoints.styles import CHOICES, Act, Norm, axes_of, named
from napari_unet.core.errors import ModelFileError
from napari_unet.core.networks.encoders import Encoder, build_encoder
from napari_unet.core.networks.encoders.efficientnet import ENDS, SIZES, STAGES, EfficientNet

__all__ = ["FAMILY", "MonaiFlexibleConfig", "MonaiFlexibleUNet"]

Interpolation = Literal["nearest", "bilinear", "bicubic"]
INTERPOLATIONS: tuple[Interpolation, ...] = ("nearest", "bilinear", "bicubic")

RESNETS: dict[tuple[str | int, ...], str] = {
    ("basic", 2, 2, 2, 2): "resnet18",
    ("basic", 3, 4, 6, 3): "resnet34",
    ("bottleneck", 3, 4, 6, 3): "resnet50",
    ("bottleneck", 3, 4, 23, 3): "resnet101",
    ("bottleneck", 3, 8, 36, 3): "resnet152",
}
"""Kind of block and number of blocks of each stage, of those that can be built here."""

THINNED = ("resnet18", "resnet34")
"""Those whose shortcuts have no weights in MONAI."""

DEFAULTS: dict[str, Any] = {
    "norm": ("batch", {"eps": 1e-3}),
    "act": "relu",
    "interp_mode": "nearest",
}
"""What arguments are if they are not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonaiFlexibleConfig:
    """What the network is.

    Attributes
    ----------
    in_channels, out_channels : channels of the input and of the output.
    backbone : the encoder, as MONAI calls it.
    widths : channels of each level on the way up, from the bottom.
    transposed : whether the image is enlarged by learned up-convolutions, else interpolated.
    halved : whether enlarging halves the channels, but at the last level.
    interpolation : how it is interpolated.
    bias : whether convolutions of the decoder have biases.
    norm, affine, groups, eps, act, slope, alpha : of the decoder, see
        `core.checkpoints.styles.Style`.
    """

    in_channels: int
    out_channels: int
    backbone: str
    widths: tuple[int, ...]
    transposed: bool = False
    halved: bool = True
    interpolation: Interpolation = "nearest"
    bias: bool = False
    norm: Norm = "batch"
    affine: bool = True
    groups: int = 1
    eps: float = 1e-3
    act: Act = "relu"
    slope: float = 0.01
    alpha: float = 1.0
    dims: Literal[2] = 2


class _Thinned(nn.Module):
    """Shortcut of MONAI's type "A": every so many pixels, and as many channels of zeros."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """`(b, n, y, x)` to `(b, 2 * n, y / stride, x / stride)`."""
        thinned = F.avg_pool2d(x, 1, self.stride)
        # NOTE: not `F.pad`, as the engine knows no padding of channels and would run in tiles
        return torch.cat([thinned, 0 * thinned], dim=1)


class _Stacked(EfficientNet):
    """An EfficientNet with its blocks in stacks, of which the first ends at half of the size."""

    def __init__(self, in_channels: int, name: str) -> None:
        size = SIZES[name.removeprefix("efficientnet-")]
        super().__init__(in_channels, len(ENDS) + 1, size=size)
        stacks, blocks = [], iter(self._blocks.named_children())
        for stage in size.stages():
            stacks.append(named(dict(next(blocks) for _ in stage)))
        self._blocks = nn.ModuleList(stacks)
        self._stops = tuple(end + 1 for end in ENDS)
        widths = (size.channels(STAGES[i][-1]) for i in (0, *ENDS))
        self.out_channels = (in_channels, *widths)

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """The stem with the first stack, and then one or two stacks each."""
        yield lambda x: self._blocks[0](F.silu(self._bn0(self._conv_stem(x))))
        for start, stop in pairwise((1, *self._stops)):
            yield nn.Sequential(*self._blocks[start:stop])


def _encoder(config: MonaiFlexibleConfig) -> Encoder:
    """The encoder with the names that it has in MONAI."""
    if config.backbone.startswith("efficientnet"):
        return _Stacked(config.in_channels, config.backbone)
    encoder = build_encoder(config.backbone, config.in_channels)
    if config.backbone in THINNED:
        for path, module in list(encoder.named_modules()):
            parent, _, name = path.rpartition(".")
            if name == "downsample" and isinstance(conv := module.get_submodule("0"), nn.Conv2d):
                encoder.get_submodule(parent).add_module(name, _Thinned(conv.stride[0]))
    return encoder


class _Up(Up):
    """Enlarge, join with what came across if there is something, convolve twice."""

    def __init__(self, config: MonaiFlexibleConfig, n_below: int, n_skip: int, n_out: int) -> None:
        halved = config.halved and n_skip > 0
        widths = (n_below // 2 if halved else n_below, n_out)
        super().__init__(config, n_below, n_skip, widths, shrunk=halved)
        if not config.transposed:
            self.upsample.upsample_non_trainable = nn.Upsample(
                scale_factor=2, mode=config.interpolation
            )

    def forward(self, below: Tensor, skip: Tensor | None) -> Tensor:
        """`(b, n_below, y / 2, x / 2)` and perhaps `(b, n_skip, y, x)` to `(b, n_out, y, x)`."""
        if skip is not None:
            return super().forward(below, skip)
        convolved: Tensor = self.convs(self.upsample(below))
        return convolved


class MonaiFlexibleUNet(nn.Module):
    """Image `(b, c, y, x)` to logits `(b, output, y, x)`; edges are multiples of 32 px."""

    def __init__(self, config: MonaiFlexibleConfig) -> None:
        super().__init__()
        self.encoder = _encoder(config)
        *skips, n_below = self.encoder.out_channels[1:]
        n_skips = (*reversed(skips), 0)
        ups = [
            _Up(config, n_in, n_skip, n_out)
            for n_in, n_skip, n_out in zip(
                (n_below, *config.widths), n_skips, config.widths, strict=False
            )
        ]
        self.decoder = named({"blocks": nn.ModuleList(ups)})
        head = nn.Conv2d(config.widths[-1], config.out_channels, 3, padding=1)
        self.segmentation_head = nn.Sequential(head)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image, of its size."""
        _, *skips, features = self.encoder(image)
        for up in self.decoder.get_submodule("blocks").children():
            features = up(features, skips.pop() if skips else None)
        logits: Tensor = self.segmentation_head(features)
        return logits


def _recognise(evidence: Evidence) -> bool:
    return evidence.has(
        "decoder.blocks.0.convs.conv_0.conv.weight", "segmentation_head.0.weight"
    ) and any(name.startswith("encoder.") for name in evidence.tensors)


def _understand(evidence: Evidence) -> Understanding:
    backbone, first = _backbone(evidence)
    if axes_of(evidence.shape(first), evidence.name) != 2:
        raise _declined(evidence, "convolutions for volumes")
    if any(".pixelshuffle." in name for name in evidence.tensors):
        raise _declined(evidence, "enlarging by 'pixelshuffle'")
    told = keywords(evidence, "FlexibleUNet", "FlexUNet")
    conv = "decoder.blocks.0.convs.conv_0"
    known: dict[str, Any] = {**DEFAULTS, **told} if told else {}
    if evidence.has(f"{conv}.adn.N.running_mean"):
        known.setdefault("norm", DEFAULTS["norm"])
    style, assumed = read_style(evidence, adn_of(conv), known, ("relu", 0.01))
    n_levels = evidence.count(r"decoder\.blocks\.(\d+)\.convs\.conv_1\.conv\.weight")
    transposed = evidence.has("decoder.blocks.0.upsample.deconv.weight")
    interpolation, is_sure = _interpolation(evidence, known)
    config = MonaiFlexibleConfig(
        in_channels=evidence.n_in(first),
        out_channels=evidence.n_out("segmentation_head.0.weight"),
        backbone=backbone,
        widths=tuple(
            evidence.n_out(f"decoder.blocks.{i}.convs.conv_1.conv.weight") for i in range(n_levels)
        ),
        transposed=transposed,
        halved=transposed or evidence.has("decoder.blocks.0.upsample.preconv.weight"),
        interpolation=interpolation,
        bias=evidence.has(f"{conv}.conv.bias"),
        **style,
    )
    about = about_of(evidence, 2, config.in_channels, config.out_channels)
    unsure = () if transposed or is_sure else ("interpolation",)
    return Understanding(
        config=config,
        about=about.about,
        assumed=(*assumed, *unsure, *about.assumed),
        ignored=(r"encoder\._fc\..*",),
        notes=about.notes,
    )


def _backbone(evidence: Evidence) -> tuple[str, str]:
    """Its name, and that of the weights of its first convolution."""
    if evidence.has("encoder._conv_stem.weight"):
        n_blocks = evidence.count(r"encoder\._blocks\.\d+\.(\d+)\..*")
        found = (evidence.n_out("encoder._conv_head.weight"), n_blocks)
        for key, size in SIZES.items():
            if found == (size.head, sum(len(stage) for stage in size.stages())):
                return f"efficientnet-{key}", "encoder._conv_stem.weight"
    kind = "bottleneck" if evidence.has("encoder.layer1.0.conv3.weight") else "basic"
    counts = (evidence.count(rf"encoder\.layer{i}\.(\d+)\.conv1\.weight") for i in range(1, 5))
    backbone = RESNETS.get((kind, *counts))
    if backbone is None:
        known = ", ".join((*RESNETS.values(), *(f"efficientnet-{key}" for key in SIZES)))
        raise _declined(evidence, f"another backbone than {known}")
    return backbone, "encoder.conv1.weight"


def _interpolation(evidence: Evidence, known: dict[str, Any]) -> tuple[Interpolation, bool]:
    """How the image is enlarged, and whether that is known."""
    noted = evidence.setting("decoder.blocks.0.upsample.upsample_non_trainable", "mode")
    stated = noted or known.get("interp_mode")
    modes: dict[Any, Interpolation] = {"linear": "bilinear"}
    modes |= {mode: mode for mode in INTERPOLATIONS}
    if stated is None:
        return "nearest", False
    if not isinstance(stated, str) or stated not in modes:
        raise _declined(evidence, f"interpolation by {str(stated)[:40]!r}")
    return modes[stated], True


def _declined(evidence: Evidence, what: str) -> ModelFileError:
    return ModelFileError(
        f"{evidence.name} is a FlexibleUNet of MONAI with {what}, which cannot be rebuilt here "
        f"yet. Export the model as ONNX (torch.onnx.export) and open that file."
    )


FAMILY = Family(
    name="monai_flexible_unet",
    title="FlexibleUNet (MONAI)",
    config=MonaiFlexibleConfig,
    network=MonaiFlexibleUNet,
    recognise=_recognise,
    understand=_understand,
    choices={
        "interpolation": INTERPOLATIONS,
        **CHOICES,
    },
)
