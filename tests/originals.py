"""Networks as other libraries build them, filled with numbers that show every mistake."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_KEPT: list[Any] = []
"""The library of operators must outlive the import."""


def import_smp() -> Any:
    """`segmentation_models_pytorch`, also beside a torch for which torchvision was not built."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not hasattr(torch.ops.torchvision, "nms"):
            library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _KEPT.append(library)
        import segmentation_models_pytorch

        return segmentation_models_pytorch


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in evaluation mode, all its weights and statistics drawn so that they matter."""
    random = torch.Generator().manual_seed(seed)

    def uniform(value: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(value.shape, generator=random)

    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_mean"):
                value.copy_(uniform(value, -0.5, 0.5))
            elif name.endswith("running_var"):
                value.copy_(uniform(value, 0.5, 2.0))
            elif not value.is_floating_point():
                value.fill_(7)
            elif value.ndim <= 1:
                is_weight = name.endswith("weight")
                value.copy_(uniform(value, 0.5, 1.5) if is_weight else uniform(value, -0.3, 0.3))
            else:
                fan_in = max(1, value[0].numel())
                value.copy_(torch.randn(value.shape, generator=random) * (1.6 / fan_in) ** 0.5)
    return network.eval()


def image_for(n_channels: int, *size: int, seed: int = 1) -> Tensor:
    """An image `(1, c, [z,] y, x)` of normally distributed values."""
    return torch.randn(1, n_channels, *size, generator=torch.Generator().manual_seed(seed))


def saved(content: Any) -> bytes:
    """What `torch.save` writes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@torch.inference_mode()
def largest_difference(ours: nn.Module, original: Callable[[Tensor], Any], image: Tensor) -> float:
    """Between the outputs of two networks for an image; they must be of the same shape."""
    found, wanted = ours(image), original(image)
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    return float((found - wanted).abs().max())
