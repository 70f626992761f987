"""How good the network is on held-out strokes and on what it could do before; cheap enough to
be asked again and again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from napari_unet.core.corrections import IGNORE
from napari_unet.core.device import autocast
from napari_unet.core.engine.fitting import Fit
from napari_unet.core.live.pieces import Piece, cut
from napari_unet.core.losses import class_log_probabilities
from napari_unet.core.model import Description
from napari_unet.core.patches import seen
from napari_unet.core.scoring import agreement, memory_format

__all__ = ["Exam", "exam_of"]

MOST_PATCHES = 12
AT_ONCE = 4


class Exam:
    """Patches that show held-out pixels, to be asked of one network after another.

    Parameters
    ----------
    images : `(c, [z,] y, x)`, normalised.
    targets : `([z,] y, x)` uint8, already of the size that the network answers.
    about : what its outputs mean.

    Attributes
    ----------
    is_fair : whether at least two classes are held out.
    """

    def __init__(
        self, images: Sequence[Tensor], targets: Sequence[Tensor], about: Description
    ) -> None:
        known = {int(v) for target in targets for v in torch.unique(target) if v != IGNORE}
        # NOTE: by one class alone, a network that knows no other is best
        self.is_fair = len(known) > 1
        self._images, self._targets, self._about = images, targets, about

    def score(self, network: nn.Module, device: torch.device) -> float | None:
        """Mean IoU over the classes, 0 to 1; None if there are not two of them."""
        if not self.is_fair:
            return None
        said, truth = self.answers(network, device)
        return agreement(said.argmax(axis=0), truth)["iou"]

    def temperature(self, network: nn.Module, device: torch.device) -> float:
        """How much too sure of itself a network is, for `uncertain`; 1 if there is no telling."""
        from napari_unet.core.live.calibration import temperature

        return temperature(*self.answers(network, device)) if self.is_fair else 1.0

    @torch.inference_mode()
    def answers(
        self, network: nn.Module, device: torch.device
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """What a network says of the held-out pixels, and what they are.

        Returns
        -------
        probabilities, truth
            `(class, pixel)` and `(pixel,)`.
        """
        truths, founds = [], []
        for first in range(0, len(self._images), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            image = torch.stack([one.contiguous() for one in self._images[part]])
            known = (target := torch.stack(list(self._targets[part]))) != IGNORE
            form = memory_format(image.ndim - 2)
            with autocast(device):
                logits = network(image.to(device, memory_format=form))
            said = class_log_probabilities(
                logits, self._about.output_class, self._about.outcome
            ).exp()  # (b, class, [z,] y, x)
            truths.append(target[known].numpy())
            founds.append(said.movedim(1, 0).cpu()[:, known].numpy())
        return np.concatenate(founds, axis=1), np.concatenate(truths)


def exam_of(pieces: Iterable[Piece], shape: tuple[int, ...], fit: Fit, about: Description) -> Exam:
    """Patches of `shape` around held-out cells, a few of each class, spread over all pieces."""
    images, targets = [], []
    for piece, center in _chosen(list(pieces)):
        shown = Piece(
            index=piece.index, start=piece.start, image=piece.image, target=piece.held,
            held=piece.held,
        )  # fmt: skip
        patch = cut(shown, center, shape)
        images.append(patch.image.expand(about.in_channels, *patch.image.shape[1:]))
        targets.append(seen(patch.target, fit))
    return Exam(images, targets, about)


def _chosen(pieces: Sequence[Piece]) -> list[tuple[Piece, list[float]]]:
    """Pieces and places of held-out pixels: the classes take turns, evenly over the pieces."""
    found: dict[int, list[tuple[Piece, list[float]]]] = {}
    for piece in pieces:
        for value, places in piece.held_places.items():
            cells = torch.unique(torch.div(places, 32, rounding_mode="floor"), dim=0)
            for cell in cells:
                mine = places[(torch.div(places, 32, rounding_mode="floor") == cell).all(dim=1)]
                found.setdefault(value, []).append((piece, mine.float().mean(dim=0).tolist()))
    each = MOST_PATCHES // max(1, len(found))
    return [one for mine in found.values() for one in mine[:: -(-len(mine) // max(1, each)) or 1]]
