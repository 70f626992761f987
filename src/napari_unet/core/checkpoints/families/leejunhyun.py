"""The four networks of LeeJunHyun/Image_Segmentation: U-Net, Attention U-Net, R2U-Net, and both.

Attention gates are those of Oktay et al. (2018), recurrent residual blocks those of Alom et al.
(2018). Most files of "Attention U-Net" and "R2U-Net" are of this origin, or of the copy
bigmb/Unet-Segmentation-Pytorch-Nest-of-Unets, which renames the 1x1 convolutions and whose
recurrent block adds its input to itself instead of to the last result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.evidence import Evidence
from napari_unet.core.checkpoints.family import Family, Understanding, classes_of
from napari_unet.core.normalization import Normalization

__all__ = ["FAMILY", "LeeConfig", "LeeUNet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeeConfig:
    """What the network is.

    Attributes
    ----------
    in_channels, out_channels : channels of the input and of the output.
    widths : channels of each level, from full resolution down.
    attention : channels inside the attention gate of each level but the lowest, from full
        resolution down; () for no gates.
    recurrent : whether the blocks are recurrent and residual.
    steps : how often a recurrent convolution is repeated; `t` in the original.
    point : what the files call the 1x1 convolutions.
    """

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    attention: tuple[int, ...] = ()
    recurrent: bool = False
    steps: int = 2
    point: Literal["Conv_1x1", "Conv"] = "Conv_1x1"
    dims: Literal[2] = 2


def _convolved(n_in: int, n_out: int, kernel: int = 3) -> list[nn.Module]:
    """Convolution, batch norm and ReLU."""
    convolution = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2)
    return [convolution, nn.BatchNorm2d(n_out), nn.ReLU()]


class _Double(nn.Module):
    """(convolution 3x3, batch norm, ReLU) twice."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(*_convolved(n_in, n_out), *_convolved(n_out, n_out))

    def forward(self, features: Tensor) -> Tensor:
        """`(b, n_in, y, x)` to `(b, n_out, y, x)`."""
        convolved: Tensor = self.conv(features)
        return convolved


class _Recurrent(nn.Module):
    """One convolution, repeated on the sum of its input and its last result."""

    def __init__(self, width: int, steps: int, adds_itself: bool) -> None:
        super().__init__()
        self.steps, self.adds_itself = steps, adds_itself
        self.conv = nn.Sequential(*_convolved(width, width))

    def forward(self, features: Tensor) -> Tensor:
        """`(b, width, y, x)` to the same."""
        result: Tensor = self.conv(features)
        if self.adds_itself:
            # NOTE: the copy computes this `steps` times over, from the same input.
            result = self.conv(result + result)
        for _ in range(0 if self.adds_itself else self.steps):
            result = self.conv(features + result)
        return result


class _Residual(nn.Module):
    """A 1x1 convolution, and what two recurrent convolutions add to it."""

    def __init__(self, config: LeeConfig, n_in: int, n_out: int) -> None:
        super().__init__()
        adds_itself = config.point == "Conv"
        self.RCNN = nn.Sequential(*(_Recurrent(n_out, config.steps, adds_itself) for _ in range(2)))
        self.add_module(config.point, nn.Conv2d(n_in, n_out, 1))
        self.point = config.point

    def forward(self, features: Tensor) -> Tensor:
        """`(b, n_in, y, x)` to `(b, n_out, y, x)`."""
        straight: Tensor = self.get_submodule(self.point)(features)
        both: Tensor = straight + self.RCNN(straight)
        return both


class _Enlarged(nn.Module):
    """Every pixel four times, then a convolution."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), *_convolved(n_in, n_out))

    def forward(self, features: Tensor) -> Tensor:
        """`(b, n_in, y, x)` to `(b, n_out, 2 y, 2 x)`."""
        enlarged: Tensor = self.up(features)
        return enlarged


class _Gate(nn.Module):
    """Weakens what comes across where what comes from below finds nothing."""

    def __init__(self, width: int, n_inside: int) -> None:
        super().__init__()
        self.W_g = nn.Sequential(*_convolved(width, n_inside, kernel=1)[:2])
        self.W_x = nn.Sequential(*_convolved(width, n_inside, kernel=1)[:2])
        self.psi = nn.Sequential(*_convolved(n_inside, 1, kernel=1)[:2], nn.Sigmoid())

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """Two times `(b, width, y, x)` to the second one, weakened."""
        weakened: Tensor = skip * self.psi(torch.relu(self.W_g(below) + self.W_x(skip)))
        return weakened


class LeeUNet(nn.Module):
    """Image `(b, c, y, x)` to logits `(b, output, y, x)`; edges are multiples of 2^poolings."""

    def __init__(self, config: LeeConfig) -> None:
        super().__init__()
        widths, self.n_levels = config.widths, len(config.widths)
        self.down, self.up = ("RRCNN", "Up_RRCNN") if config.recurrent else ("Conv", "Up_conv")
        self.has_gates, self.point = bool(config.attention), config.point

        def block(n_in: int, n_out: int) -> nn.Module:
            return _Residual(config, n_in, n_out) if config.recurrent else _Double(n_in, n_out)

        self.Maxpool = nn.MaxPool2d(2)
        n_in = config.in_channels
        for i, width in enumerate(widths, start=1):
            self.add_module(f"{self.down}{i}", block(n_in, width))
            n_in = width
        for i in range(self.n_levels, 1, -1):
            width = widths[i - 2]
            self.add_module(f"Up{i}", _Enlarged(widths[i - 1], width))
            if config.attention:
                self.add_module(f"Att{i}", _Gate(width, config.attention[i - 2]))
            self.add_module(f"{self.up}{i}", block(2 * width, width))
        self.add_module(config.point, nn.Conv2d(widths[0], config.out_channels, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image, of its size."""
        skips = [self.get_submodule(f"{self.down}1")(image)]
        for i in range(2, self.n_levels + 1):
            skips.append(self.get_submodule(f"{self.down}{i}")(self.Maxpool(skips[-1])))
        features = skips.pop()
        for i in range(self.n_levels, 1, -1):
            enlarged, skip = self.get_submodule(f"Up{i}")(features), skips.pop()
            if self.has_gates:
                skip = self.get_submodule(f"Att{i}")(enlarged, skip)
            features = self.get_submodule(f"{self.up}{i}")(torch.cat([skip, enlarged], dim=1))
        logits: Tensor = self.get_submodule(self.point)(features)
        return logits


def _recognise(evidence: Evidence) -> bool:
    if not evidence.has("Up2.up.1.weight", "Up2.up.2.running_mean"):
        return False
    if evidence.has("Conv1.conv.0.weight", "Conv1.conv.4.running_mean", "Up_conv2.conv.0.weight"):
        return evidence.has("Conv_1x1.weight") or evidence.has("Conv.weight")
    return evidence.has("RRCNN1.RCNN.0.conv.0.weight", "Up_RRCNN2.RCNN.0.conv.0.weight") and any(
        evidence.has(f"{point}.weight", f"RRCNN1.{point}.weight") for point in ("Conv_1x1", "Conv")
    )


def _steps_of(evidence: Evidence) -> int | None:
    """What the arguments beside the weights, or the stored layers, say of repetitions."""
    arguments = evidence.config.get("model")
    said = arguments.get("t") if isinstance(arguments, Mapping) else None
    said = evidence.setting("RRCNN1.RCNN.0", "t") if said is None else said
    return said if type(said) is int and 1 <= said <= 16 else None


def _config_of(evidence: Evidence) -> LeeConfig:
    """Read off names and shapes."""
    recurrent = evidence.has("RRCNN1.RCNN.0.conv.0.weight")
    point: Literal["Conv_1x1", "Conv"] = "Conv_1x1" if evidence.has("Conv_1x1.weight") else "Conv"
    first = f"RRCNN{{}}.{point}.weight" if recurrent else "Conv{}.conv.0.weight"
    levels = range(1, evidence.count(r"(?:Conv|RRCNN)(\d+)\..*") + 1)
    has_gates = evidence.has("Att2.psi.0.weight")
    return LeeConfig(
        in_channels=evidence.n_in(first.format(1)),
        out_channels=evidence.n_out(f"{point}.weight"),
        widths=tuple(evidence.n_out(first.format(i)) for i in levels),
        attention=tuple(evidence.n_out(f"Att{i}.W_g.0.weight") for i in levels[1:])
        if has_gates
        else (),
        recurrent=recurrent,
        steps=_steps_of(evidence) or 2,
        point=point,
    )


def _understand(evidence: Evidence) -> Understanding:
    config = _config_of(evidence)
    halves = (0.5,) * config.in_channels
    normalization = Normalization(kind="range", offset=halves, scale=halves, clip=None)
    about: dict[str, Any] = {**classes_of(config.out_channels), "normalization": normalization}
    assumed = ["normalization", "class_names"]
    # The original has one output, with a sigmoid.
    assumed += ["activation"] if config.out_channels > 1 else []
    matters = config.recurrent and config.point == "Conv_1x1"
    assumed += ["steps"] if matters and _steps_of(evidence) is None else []
    return Understanding(config=config, about=about, assumed=tuple(assumed))


FAMILY = Family(
    name="leejunhyun",
    title="Image_Segmentation (LeeJunHyun): U-Net, Attention U-Net, R2U-Net",
    config=LeeConfig,
    network=LeeUNet,
    recognise=_recognise,
    understand=_understand,
    choices={"steps": (2, 3, 1, 4)},
)
