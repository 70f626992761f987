"""The U-Nets of constantinpape/torch-em, in 2D, in 3D, and for volumes that are coarser along z.

The normalization is seen from the gaps between the indices of the layers; by which factors an
anisotropic network shrinks the image only from what its checkpoints say of their network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding, classes_of
from napari_unet.core.errors import ModelFileError
from napari_unet.core.normalization import Normalization

__all__ = ["FAMILY", "TorchEmConfig", "TorchEmUNet"]

Norm = Literal["none", "InstanceNorm", "InstanceNormTrackStats", "BatchNorm", "GroupNorm"]

OBJECTS = ("background", "object")


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchEmConfig:
    """What the network is.

    Attributes
    ----------
    dims : 2 or 3.
    in_channels, out_channels : channels of the input and of the output.
    widths : channels of each level, from full resolution down; the last one is the base.
    has_head : whether a 1x1 convolution makes the output, else it is what the last block gives.
    norm : the normalization before each 3x3 convolution.
    kernels : kernel size of each level, along the axes of the image.
    factors : by what each level is shrunk, along the axes of the image; if nothing says so, ().
    n_flat : then, how many of the first levels are shrunk along y and x only.
    padding : of the convolutions.
    linear : whether images are enlarged linearly, else by nearest neighbours.
    """

    dims: Literal[2, 3]
    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    has_head: bool
    norm: Norm
    kernels: tuple[tuple[int, ...], ...]
    factors: tuple[tuple[int, ...], ...] = ()
    n_flat: int = 0
    padding: int = 1
    linear: bool = True

    @property
    def steps(self) -> tuple[tuple[int, ...], ...]:
        """By what each level is shrunk, along the axes of the image."""
        flat, full = (1, *[2] * (self.dims - 1)), (2,) * self.dims
        assumed = tuple(flat if i < self.n_flat else full for i in range(len(self.widths) - 1))
        return self.factors or assumed


def _norm(config: TorchEmConfig, n_channels: int) -> nn.Module:
    """The normalization; `(b, c, [z,] y, x)` to the same shape."""
    is_flat = config.dims == 2
    if config.norm == "GroupNorm":
        return nn.GroupNorm(min(32, n_channels), n_channels)
    if config.norm == "BatchNorm":
        return (nn.BatchNorm2d if is_flat else nn.BatchNorm3d)(n_channels)
    has_weights = config.norm == "InstanceNormTrackStats"
    return (nn.InstanceNorm2d if is_flat else nn.InstanceNorm3d)(
        n_channels, affine=has_weights, track_running_stats=has_weights, momentum=0.01
    )


class _Block(nn.Module):
    """(normalization, convolution, ReLU) twice; `(b, n_in, ...)` to `(b, n_out, ...)`."""

    def __init__(self, config: TorchEmConfig, n_in: int, n_out: int, level: int) -> None:
        super().__init__()
        conv = nn.Conv2d if config.dims == 2 else nn.Conv3d
        kernel: Any = config.kernels[level]
        padding: Any = tuple(min(config.padding, size // 2) for size in kernel)
        layers: list[nn.Module] = []
        for n_from, n_to in ((n_in, n_out), (n_out, n_out)):
            layers += [] if config.norm == "none" else [_norm(config, n_from)]
            layers.append(conv(n_from, n_to, kernel, padding=padding))
            layers.append(nn.ReLU(inplace=True))
        self.block = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve twice."""
        convolved: Tensor = self.block(features)
        return convolved


class _Encoder(nn.Module):
    """The way down."""

    def __init__(self, config: TorchEmConfig) -> None:
        super().__init__()
        self.config = config
        widths = (config.in_channels, *config.widths)
        self.blocks = nn.ModuleList(
            _Block(config, widths[i], widths[i + 1], i) for i in range(len(config.steps))
        )

    def forward(self, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features below, and of each level."""
        pool = F.max_pool2d if self.config.dims == 2 else F.max_pool3d
        skips = []
        for block, factor in zip(self.blocks, self.config.steps, strict=True):
            skips.append(block(features))
            features = pool(skips[-1], list(factor))
        return features, skips


class _Sampler(nn.Module):
    """Enlarge, then a 1x1 convolution."""

    def __init__(self, config: TorchEmConfig, level: int) -> None:
        super().__init__()
        conv = nn.Conv2d if config.dims == 2 else nn.Conv3d
        self.factor = [float(by) for by in config.steps[level]]
        self.mode = "nearest"
        if config.linear:
            self.mode = "bilinear" if config.dims == 2 else "trilinear"
        self.conv = conv(config.widths[level + 1], config.widths[level], 1)

    def forward(self, features: Tensor) -> Tensor:
        """`(b, n_below, [z,] y, x)` to `(b, width, ...)`, enlarged."""
        corners = None if self.mode == "nearest" else False
        enlarged = F.interpolate(
            features, scale_factor=self.factor, mode=self.mode, align_corners=corners
        )
        convolved: Tensor = self.conv(enlarged)
        return convolved


class _Decoder(nn.Module):
    """The way up."""

    def __init__(self, config: TorchEmConfig) -> None:
        super().__init__()
        levels = range(len(config.steps) - 1, -1, -1)
        self.samplers = nn.ModuleList(_Sampler(config, i) for i in levels)
        self.blocks = nn.ModuleList(
            _Block(config, 2 * config.widths[i], config.widths[i], i) for i in levels
        )

    def forward(self, features: Tensor, skips: list[Tensor]) -> Tensor:
        """Features of full resolution."""
        for sampler, block, skip in zip(self.samplers, self.blocks, skips[::-1], strict=True):
            enlarged = sampler(features)
            features = block(torch.cat([enlarged, _cropped(skip, enlarged)], dim=1))
        return features


def _cropped(skip: Tensor, to: Tensor) -> Tensor:
    """The middle of what came across."""
    for axis in range(2, skip.ndim):
        excess = skip.shape[axis] - to.shape[axis]
        if excess:
            skip = skip.narrow(axis, excess // 2, to.shape[axis])
    return skip


class TorchEmUNet(nn.Module):
    """Image `(b, c, [z,] y, x)`, divisible by all factors, to logits `(b, output, [z,] y, x)`."""

    def __init__(self, config: TorchEmConfig) -> None:
        super().__init__()
        conv = nn.Conv2d if config.dims == 2 else nn.Conv3d
        self.encoder = _Encoder(config)
        self.base = _Block(config, config.widths[-2], config.widths[-1], len(config.steps))
        self.decoder = _Decoder(config)
        self.out_conv: nn.Module = nn.Identity()
        if config.has_head:
            self.out_conv = conv(config.widths[0], config.out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image."""
        features, skips = self.encoder(image)
        logits: Tensor = self.out_conv(self.decoder(self.base(features), skips))
        return logits


def _recognise(evidence: Evidence) -> bool:
    has_blocks = any(evidence.matches(r"encoder\.blocks\.0\.block\.\d\.weight"))
    has_rest = any(evidence.matches(r"base\.block\.\d\.weight")) and any(
        evidence.matches(r"decoder\.blocks\.0\.block\.\d\.weight")
    )
    return has_blocks and has_rest and evidence.has("decoder.samplers.0.conv.weight")


def _understand(evidence: Evidence) -> Understanding:
    model = evidence.config.get("model")
    told: Mapping[str, Any] = model if isinstance(model, Mapping) else {}
    n_levels = evidence.count(r"encoder\.blocks\.(\d+)\..*")
    n_up = evidence.count(r"decoder\.blocks\.(\d+)\..*")
    if n_levels != n_up:
        raise ModelFileError(
            f"{evidence.name} has {n_levels} levels on the way down and {n_up} on the way up, but "
            "needs as many. Is the file complete?"
        )
    norm, first = _norm_of(evidence, told)
    assumed: list[str] = []
    blocks = [f"encoder.blocks.{i}.block.{first}.weight" for i in range(n_levels)]
    base = f"base.block.{first}.weight"
    dims: Literal[2, 3] = 2 if evidence.tensors[base].ndim == 4 else 3
    kernels = tuple(evidence.shape(name)[2:] for name in (*blocks, base))
    factors = _factors(evidence, told, dims, n_levels)
    assumed += [] if factors else ["n_flat"]
    assumed += [] if told or evidence.layers else ["padding", "linear"]
    heads = sorted(int(found[1]) for found in evidence.matches(r"out_conv\.(\d+)\.weight"))
    head = f"out_conv.{heads[-1]}" if heads else "out_conv"
    has_head = evidence.has(f"{head}.weight")
    config = TorchEmConfig(
        dims=dims,
        in_channels=evidence.n_in(blocks[0]),
        out_channels=evidence.n_out(f"{head}.weight" if has_head else blocks[0]),
        widths=tuple(evidence.n_out(name) for name in (*blocks, base)),
        has_head=has_head,
        norm=norm,
        kernels=kernels,
        factors=factors,
        # An anisotropic network may have flat kernels, on all levels if on any.
        n_flat=0 if factors else int(kernels[0][0] == 1),
        padding=_padding(evidence, told, first),
        linear=_mode(evidence, told) != "nearest",
    )
    about, guessed = _about(evidence, told, config.out_channels)
    return Understanding(
        config=config,
        about=about,
        assumed=(*assumed, *guessed),
        # Of several outputs, one for each level, the last one is of full resolution.
        names={f"out_conv.{kind}": (f"{head}.{kind}",) for kind in ("weight", "bias")}
        if heads
        else {},
        ignored=tuple(rf"out_conv\.{i}\.(weight|bias)" for i in heads[:-1]),
    )


def _norm_of(evidence: Evidence, told: Mapping[str, Any]) -> tuple[Norm, int]:
    """The normalization, and the index of the first convolution."""
    path = "encoder.blocks.0.block"
    if evidence.has(f"{path}.0.running_mean"):
        if told.get("norm") == "InstanceNormTrackStats":
            return "InstanceNormTrackStats", 1
        # Once trained, the other normalization with the same names does just the same.
        return "BatchNorm", 1
    if not evidence.has(f"{path}.0.weight"):
        return "InstanceNorm", 1
    if evidence.tensors[f"{path}.0.weight"].ndim == 1:
        return "GroupNorm", 1
    return "none", 0


def _factors(
    evidence: Evidence, told: Mapping[str, Any], dims: int, n_levels: int
) -> tuple[tuple[int, ...], ...]:
    """By what each level is shrunk if anything says so, else ()."""
    stored = [evidence.setting(f"encoder.poolers.{i}", "kernel_size") for i in range(n_levels)]
    given = stored if all(stored) else told.get("scale_factors")
    if isinstance(given, (list, tuple)) and len(given) == n_levels:
        each = [
            (by,) * dims
            if isinstance(by, int)
            else tuple(by)
            if isinstance(by, (list, tuple))
            else ()
            for by in given
        ]
        if all(len(by) == dims and all(isinstance(n, int) for n in by) for by in each):
            return tuple(each)
    is_isotropic = dims == 2 or str(evidence.config.get("class", "")).endswith("UNet3d")
    return ((2,) * dims,) * n_levels if is_isotropic else ()


def _padding(evidence: Evidence, told: Mapping[str, Any], first: int) -> int:
    found = evidence.setting(f"base.block.{first}", "padding", told.get("padding", 1))
    sizes = found if isinstance(found, (list, tuple)) else [found]
    return max(sizes) if sizes and all(isinstance(size, int) for size in sizes) else 1


def _mode(evidence: Evidence, told: Mapping[str, Any]) -> str:
    return str(evidence.setting("decoder.samplers.0", "mode", told.get("mode", "linear")))


def _about(
    evidence: Evidence, told: Mapping[str, Any], n_outputs: int
) -> tuple[dict[str, Any], list[str]]:
    """Attributes of the description, and the names of those that are assumed."""
    assumed = ["outputs", "class_names", "normalization", "pixel_size"]
    note = evidence.layers.get("final_activation")
    final = str(note.kind if note else told.get("final_activation") or "")
    is_softmax = final == "Softmax" or (bool(told) and not final and n_outputs > 1)
    if final not in ("Sigmoid", "Softmax"):
        assumed.append("activation")
    about = classes_of(n_outputs, "softmax" if is_softmax else "sigmoid")
    if n_outputs == 2 and not is_softmax:
        # What its training examples and most networks that come from it do.
        about = {
            "class_names": OBJECTS,
            "outputs": ("foreground", "boundary"),
            "output_class": (1, -1),
            "border": 1,
            "activation": "sigmoid",
        }
        assumed.append("border")
    return {**about, "normalization": Normalization(kind="zscore", eps=1e-7, clip=None)}, assumed


FAMILY = Family(
    name="torch_em",
    title="torch-em (Pape et al.)",
    config=TorchEmConfig,
    network=TorchEmUNet,
    recognise=_recognise,
    understand=_understand,
    choices={"n_flat": (0, 1, 2, 3), "padding": (1, 0), "linear": (True, False)},
)
