"""Honest scores for fine-tuning: on corrections held out, and on what was known before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_unet.core.corrections import IGNORE, CorrectedBlock, target_of
from napari_unet.core.device import autocast
from napari_unet.core.losses import class_log_probabilities
from napari_unet.core.model import Model

__all__ = ["Scorer", "whole_picture_classes"]

MAX_BLOCKS = 8
MAX_MEMORIES = 4


@torch.inference_mode()
def whole_picture_classes(
    network: nn.Module, image: Tensor, stride: int, output_class: tuple[int, ...]
) -> Tensor:
    """Likeliest class of each pixel `(y, x)` of a picture `(c, y, x)`, its edge repeated to fit."""
    height, width = image.shape[-2:]
    padded = F.pad(image[None], (0, -width % stride, 0, -height % stride), mode="replicate")
    with autocast(image.device):
        logits = network(padded.contiguous(memory_format=torch.channels_last))
    logits = logits[..., :height, :width]
    return class_log_probabilities(logits, output_class)[0].argmax(dim=0)


class Scorer:
    """Measures one network after another on the same pixels.

    Parameters
    ----------
    model : the model before training; its network gives the old answers.
    blocks, inputs : the corrected blocks and their images `(c, y, x)` for the network.
    held_out : for each block, which of its corrections are never trained on.
    memories : pictures `(c, y, x)` of other kinds.
    """

    def __init__(
        self,
        model: Model,
        blocks: Sequence[CorrectedBlock],
        inputs: Sequence[Tensor],
        held_out: Sequence[npt.NDArray[np.bool_]],
        memories: Sequence[Tensor],
    ) -> None:
        self._stride = model.config.stride
        self._output_class = model.description.output_class
        self._device = model.device.torch_device
        self._pairs: list[tuple[Tensor, npt.NDArray[np.uint8]]] = []
        for block, image, held in zip(blocks, inputs, held_out, strict=True):
            kept = np.where(held, block.corrections, 0).astype(np.uint8)
            if kept.any():
                self._pairs.append(_cropped(image, _target(block, kept), model.config.halo))
        self._pairs = self._pairs[:: -(-len(self._pairs) // MAX_BLOCKS) or 1]
        known = {value for _, target in self._pairs for value in np.unique(target).tolist()}
        if len(known - {IGNORE}) < 2:
            self._pairs = []  # NOTE: by one class alone, a network that knows no other is best
        self._memories = list(memories[:: -(-len(memories) // MAX_MEMORIES) or 1])
        self._old_answers = [self._classes(model.network, m) for m in self._memories]

    def _classes(self, network: nn.Module, image: Tensor) -> npt.NDArray[np.int64]:
        found = whole_picture_classes(
            network, image.to(self._device), self._stride, self._output_class
        )
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
            scores = _agreement(np.concatenate(founds), np.concatenate(truths))
        if self._memories and with_memory:
            same = [
                (self._classes(network, picture) == old).mean()
                for picture, old in zip(self._memories, self._old_answers, strict=True)
            ]
            scores["memory"] = round(float(np.mean(same)), 4)
        return scores


def _target(block: CorrectedBlock, kept: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    held_block = CorrectedBlock(
        index=block.index,
        origin=block.origin,
        corrections=kept,
        image=block.image,
        image_origin=block.image_origin,
    )
    return target_of(held_block)


def _cropped(
    image: Tensor, target: npt.NDArray[np.uint8], halo: int
) -> tuple[Tensor, npt.NDArray[np.uint8]]:
    """The part of a picture that matters to its target."""
    sides = []
    for axis in (0, 1):
        known = np.flatnonzero((target != IGNORE).any(axis=1 - axis))
        sides.append(slice(max(0, int(known[0]) - halo), int(known[-1]) + 1 + halo))
    return image[:, sides[0], sides[1]], target[sides[0], sides[1]]


def _agreement(found: npt.NDArray[np.integer], truth: npt.NDArray[np.integer]) -> dict[str, float]:
    """Mean IoU over the classes that occur in the truth, and share of right pixels."""
    ious = []
    for value in np.unique(truth):
        union = np.count_nonzero((found == value) | (truth == value))
        ious.append(np.count_nonzero((found == value) & (truth == value)) / union)
    return {
        "iou": round(float(np.mean(ious)), 4),
        "accuracy": round(float((found == truth).mean()), 4),
    }
