"""How weights are changed: optimizers, their schedule, arithmetic, and the mean that is kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from napari_unet.core.device import autocast
from napari_unet.core.training.settings import TrainSettings

__all__ = ["Average", "arithmetic", "learning_rate", "needs_scaling", "optimizer_for", "seeded"]

WARM_UP = 10
"""Steps in which the learning rate rises to its highest."""
LOWEST = 0.02
"""A cosine ends at this part of the highest learning rate."""
POWER = 0.9
"""Of the "poly" schedule (Chen et al. 2017, DeepLab)."""


def optimizer_for(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimizer of settings with nothing left open."""
    assert settings.learning_rate is not None and settings.weight_decay is not None
    assert settings.momentum is not None
    weights, rate, decay = network.parameters(), settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(weights, rate, momentum=settings.momentum, weight_decay=decay)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(weights, rate, weight_decay=decay)


def learning_rate(settings: TrainSettings, step: int, share: float) -> float:
    """Of a step, counted from 1; `share` of the training is done before it, 0 to 1."""
    assert settings.learning_rate is not None
    if settings.schedule == "constant":
        return settings.learning_rate
    warm_up = min(1.0, step / WARM_UP)
    if settings.schedule == "poly":
        return settings.learning_rate * warm_up * float(max(0.0, 1 - share) ** POWER)
    cosine = 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    return settings.learning_rate * warm_up * (LOWEST + (1 - LOWEST) * cosine)


def _has_bfloat16(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.is_bf16_supported()


def arithmetic(device: torch.device, settings: TrainSettings) -> AbstractContextManager[object]:
    """16-bit arithmetic where the device gains from it, unless "full" was chosen."""
    if settings.precision == "full":
        return nullcontext()
    if not _has_bfloat16(device):
        return torch.autocast("cuda", dtype=torch.float16)
    return autocast(device, settings.dims)


def needs_scaling(device: torch.device, settings: TrainSettings) -> bool:
    """Whether gradients are too small for the 16-bit type (float16, not bfloat16)."""
    return settings.precision == "auto" and not _has_bfloat16(device)


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Whatever torch draws by itself within (weights, dropout) follows from the seed.

    The state of the global generators is as before afterwards (but for that of an Apple GPU).
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        yield


class Average:
    """The running mean of the weights of a network, and of its batch statistics.

    Parameters
    ----------
    network : that is trained.
    decay : of the mean, at most; it is smaller in the beginning. 0 for the network as it is.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._trained = network
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step, counted from 1."""
        decay = min(self._decay, (1 + step) / (10 + step)) if self._decay else 0.0
        mine, theirs = self._floats(self.network), self._floats(self._trained)
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for old, new in zip(self.network.buffers(), self._trained.buffers(), strict=True):
            if not old.is_floating_point():
                old.copy_(new)

    @staticmethod
    def _floats(network: nn.Module) -> list[Tensor]:
        floats = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        return [parameter.detach() for parameter in network.parameters()] + floats
