"""Honest scores for fine-tuning: on corrections held out, and on what was known before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from napari_unet.core.corrections import IGNORE, CorrectedBlock, target_of
from napari_unet.core.device import autocast
from napari_unet.core.engine.facts import general_facts
from napari_unet.core.engine.fitting import Fit
from napari_unet.core.engine.source import continued
from napari_unet.core.losses import class_log_probabilities
from napari_unet.core.model import Description, Model

__all__ = [
    "Scorer",
    "agreement",
    "memory_format",
    "whole_picture_classes",
    "whole_picture_logits",
]

MAX_BLOCKS = 8
MAX_MEMORIES = 4
PIECE_SHAPE = (8, 64, 64)
"""Volumes are scored in pieces of this many px `(z, y, x)`, ..."""
SHOWN_AROUND = (16, 32, 32)
"""... of which the network is shown no more than this around them."""

_Pair: TypeAlias = tuple[Tensor, npt.NDArray[np.uint8]]
"""A picture `(c, [z,] y, x)` and its target `([z,] y, x)`."""


def memory_format(dims: int) -> torch.memory_format:
    """How the images of a network of `dims` dimensions lie in memory.

    NOTE: volumes as they are. With `channels_last_3d`, 16-bit training on a CPU (torch 2.13) gives
    other gradients each time, some of them no numbers.
    """
    return torch.channels_last if dims == 2 else torch.contiguous_format


def whole_picture_logits(network: nn.Module, image: Tensor, fit: Fit) -> Tensor:
    """What a network says `(1, output, [z,] y, x)` of all of `(c, [z,] y, x)`, mirrored to fit."""
    shape = tuple(image.shape[1:])
    each = zip(fit.before, fit.size_for(shape), strict=True)
    image = continued(image, tuple((-before, size - before) for before, size in each))
    logits: Tensor = network(image[None].contiguous(memory_format=memory_format(len(shape))))
    all_of_it = slice(None)
    return logits[(all_of_it, all_of_it, *(slice(n) for n in shape))]  # not what was added to fit


@torch.inference_mode()
def whole_picture_classes(
    network: nn.Module, image: Tensor, fit: Fit, about: Description
) -> Tensor:
    """Likeliest class `([z,] y, x)` of the pixels of `(c, [z,] y, x)`, mirrored to fit."""
    with autocast(image.device):
        logits = whole_picture_logits(network, image, fit)
    return class_log_probabilities(logits, about.output_class, about.outcome)[0].argmax(dim=0)


class Scorer:
    """Measures one network after another on the same pixels.

    Parameters
    ----------
    model : the model before training; its network gives the old answers.
    blocks, inputs : the corrected blocks and their images `(c, [z,] y, x)` for the network.
    held_out : for each block, which of its corrections are never trained on.
    memories : pictures `(c, [z,] y, x)` of other kinds.
    """

    def __init__(
        self,
        model: Model,
        blocks: Sequence[CorrectedBlock],
        inputs: Sequence[Tensor],
        held_out: Sequence[npt.NDArray[np.bool_]],
        memories: Sequence[Tensor],
    ) -> None:
        facts = general_facts(model.network, model.config.in_channels, model.config.dims)
        self._fit, self._about = facts.fit, model.description
        reach = facts.reach or facts.fit.base
        self._device = model.device.torch_device
        self._pairs: list[_Pair] = []
        for block, image, held in zip(blocks, inputs, held_out, strict=True):
            kept = np.where(held, block.corrections, 0).astype(np.uint8)
            if kept.any():
                target = target_of(replace(block, corrections=kept))
                self._pairs += _pieces(image, target, reach)
        self._pairs = _few(self._pairs)
        known = {value for _, target in self._pairs for value in np.unique(target).tolist()}
        if len(known - {IGNORE}) < 2:
            self._pairs = []  # NOTE: by one class alone, a network that knows no other is best
        self._memories = list(memories[:: -(-len(memories) // MAX_MEMORIES) or 1])
        self._old_answers = [self._classes(model.network, m) for m in self._memories]

    def _classes(self, network: nn.Module, image: Tensor) -> npt.NDArray[np.int64]:
        found = whole_picture_classes(network, image.to(self._device), self._fit, self._about)
        return found.cpu().numpy()

    def score(self, network: nn.Module, with_memory: bool = True) -> dict[str, float]:
        """Scores in 0 ... 1.

        Parameters
        ----------
        network : what to measure.
        with_memory : whether to measure "memory" too, which takes longest.

        Returns
        -------
        dict
            "iou": mean IoU over the classes on held-out corrections, and "accuracy": share of
            their pixels that is right; both missing if fewer than two classes were held out.
            "memory": share of the pixels of other pictures with the same class as before.
        """
        scores: dict[str, float] = {}
        if self._pairs:
            truths, founds = [], []
            for image, target in self._pairs:
                known = target != IGNORE
                truths.append(target[known])
                founds.append(self._classes(network, image)[known])
            scores = agreement(np.concatenate(founds), np.concatenate(truths))
        if self._memories and with_memory:
            same = [
                (self._classes(network, picture) == old).mean()
                for picture, old in zip(self._memories, self._old_answers, strict=True)
            ]
            scores["memory"] = round(float(np.mean(same)), 4)
        return scores


def _pieces(
    image: Tensor, target: npt.NDArray[np.uint8], reach: tuple[int, ...]
) -> Iterator[_Pair]:
    """The parts of a picture that matter to its target."""
    if target.ndim == 2:
        yield _cropped(image, target, (max(reach),) * 2)
        return
    around = tuple(min(n, most) for n, most in zip(reach, SHOWN_AROUND, strict=True))
    sides = [range(0, n, step) for n, step in zip(target.shape, PIECE_SHAPE, strict=True)]
    for at in product(*sides):
        part = tuple(slice(n, n + step) for n, step in zip(at, PIECE_SHAPE, strict=True))
        piece = np.full_like(target, IGNORE)
        piece[part] = target[part]
        if (piece[part] != IGNORE).any():
            yield _cropped(image, piece, around)


def _cropped(image: Tensor, target: npt.NDArray[np.uint8], reach: tuple[int, ...]) -> _Pair:
    """The part of a picture within `reach` of its target."""
    sides = []
    for axis, around in enumerate(reach):
        others = tuple(other for other in range(target.ndim) if other != axis)
        known = np.flatnonzero((target != IGNORE).any(axis=others))
        sides.append(slice(max(0, int(known[0]) - around), int(known[-1]) + 1 + around))
    return image[(slice(None), *sides)], target[tuple(sides)]


def _few(pairs: Sequence[_Pair]) -> list[_Pair]:
    """As many as can be scored again and again.

    Planes are thinned evenly. The pieces of volumes are smaller, and few of them may show some
    class: each class chooses in turn.
    """
    if len(pairs) <= MAX_BLOCKS or pairs[0][1].ndim == 2:
        return list(pairs[:: -(-len(pairs) // MAX_BLOCKS) or 1])
    shown = [set(np.unique(target).tolist()) - {IGNORE} for _, target in pairs]
    classes = sorted(set().union(*shown))
    chosen: list[int] = []
    for turn in range(MAX_BLOCKS):
        value = classes[turn % len(classes)]
        free = [i for i in range(len(pairs)) if i not in chosen]
        having = [i for i in free if value in shown[i]] or free
        chosen.append(having[len(having) * turn // MAX_BLOCKS])
    return [pairs[i] for i in sorted(chosen)]


def agreement(found: npt.NDArray[np.integer], truth: npt.NDArray[np.integer]) -> dict[str, float]:
    """Mean IoU over the classes that occur in the truth, and share of right pixels."""
    ious = []
    for value in np.unique(truth):
        union = np.count_nonzero((found == value) | (truth == value))
        ious.append(np.count_nonzero((found == value) & (truth == value)) / union)
    return {
        "iou": round(float(np.mean(ious)), 4),
        "accuracy": round(float((found == truth).mean()), 4),
    }
