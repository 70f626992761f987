"""How well an image, prepared in one way or another, suits a network with batch normalisation.

While a network learns, each batch normalisation keeps the mean and variance of what it sees. So a
file tells how the images looked to the network that made it, though it does not say how they were
prepared: the right preparation is the one that makes the user's image look like that again. The
score of one layer is the mean over its channels of |mean - kept mean| / kept standard deviation
plus |log(variance / kept variance)|; that of a network is the mean over its layers. An image of
the kind that it was trained on, prepared alike, scores about 0.2 to 0.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from napari_unet.core.checkpoints.card import card_of, changed
from napari_unet.core.checkpoints.normalizations import NORMALIZATIONS
from napari_unet.core.engine.facts import general_facts
from napari_unet.core.engine.fitting import Fit
from napari_unet.core.engine.source import continued
from napari_unet.core.errors import ModelFileError
from napari_unet.core.image import Image
from napari_unet.core.model import Model
from napari_unet.core.normalization import match_channels, normalise, scale_of, summary_of

__all__ = [
    "Guess",
    "Proposal",
    "guess_normalization",
    "guess_option",
    "has_fingerprint",
    "mismatch",
]

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
EDGES = {2: 192, 3: 48}
"""About as many px of an image are looked at along each axis."""
N_PIECES = 3
STRANGE = 2.0
"""From this score on, the image looks like nothing that the network has seen."""
CLEAR = 0.8
"""A guess is proposed if its score is at most this times that of the present choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """One way, and how well it fits.

    Attributes
    ----------
    value : plain value for `core.checkpoints.card.changed`.
    text : in plain words.
    score : how far off the statistics of the image are; smaller is better.
    """

    value: Any
    text: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What the network's own statistics say of an image.

    Attributes
    ----------
    guesses : all ways, the best first.
    present : the score of the model as it is.
    """

    guesses: tuple[Guess, ...]
    present: float

    @property
    def best(self) -> Guess | None:
        """The way to change to, if one is clearly better than what is so now."""
        first = self.guesses[0]
        return first if first.score <= CLEAR * self.present else None

    @property
    def is_strange(self) -> bool:
        """Whether the image looks like nothing that the network has seen, however prepared."""
        return min(self.present, self.guesses[0].score) > STRANGE

    def sentence(self) -> str:
        """What to tell the user."""
        best = self.best
        score = self.present if best is None else best.score
        if self.is_strange:
            return (
                f"This image looks like nothing that the network has seen, however its intensities "
                f"are prepared (mismatch {score:.1f}, where 0.5 is usual). Expect poor results."
            )
        if best is None:
            return f"The present choice fits this image (mismatch {self.present:.2f})."
        return (
            f"The network's own statistics fit this image best with: {best.text} (mismatch "
            f"{best.score:.2f}, now {self.present:.2f})."
        )


def has_fingerprint(model: Model) -> bool:
    """Whether a network keeps statistics of what it was trained on."""
    return any(_keeps(module) for module in model.network.modules())


def _keeps(module: nn.Module) -> bool:
    return isinstance(module, NORMS) and module.running_mean is not None


def guess_normalization(model: Model, image: Image) -> Proposal:
    """Rank the usual ways to prepare intensities by how well an image then suits the network.

    Parameters
    ----------
    model : with batch normalisation, see `has_fingerprint`.
    image : of the user; it may be lazy, and a few pieces of it are read.

    Raises
    ------
    ModelFileError
        If the network keeps no statistics.
    ImageError
        If the image has other channels than the network takes.
    """
    pieces, summary = _pieces(model, image), summary_of(image.samples())
    guesses = [
        Guess(
            value=key,
            text=text,
            score=_score(model.described(normalization=normalization), pieces, summary),
        )
        for key, (normalization, text) in NORMALIZATIONS.items()
        if model.description.in_channels == 3 or len(normalization.offset) <= 1
    ]
    return _proposal(guesses, _score(model, pieces, summary))


def guess_option(model: Model, image: Image, name: str) -> Proposal:
    """The same for another attribute that the file does not state, such as the padding.

    Parameters
    ----------
    model, image : as in `guess_normalization`.
    name : of a line of the card with options.
    """
    pieces, summary = _pieces(model, image), summary_of(image.samples())
    options = next((line.options for line in card_of(model) if line.name == name), ())
    guesses = []
    for option in options:
        try:
            other = changed(model, name, option.value)
            score = _score(other, pieces, summary)
        except ModelFileError:
            continue
        guesses.append(Guess(value=option.value, text=option.text, score=score))
    return _proposal(guesses, _score(model, pieces, summary))


def _proposal(guesses: list[Guess], present: float) -> Proposal:
    return Proposal(guesses=tuple(sorted(guesses, key=lambda one: one.score)), present=present)


def _pieces(model: Model, image: Image) -> list[npt.NDArray[np.generic]]:
    """Pieces of an image, raw `(c, [z,] y, x)`, where there is most to see."""
    if not has_fingerprint(model):
        raise ModelFileError(
            f"{model.description.name} keeps no statistics of what it was trained on (it has no "
            f"batch normalisation), so that nothing can be worked out from an image. Ask how the "
            f"intensities were prepared."
        )
    dims = model.description.dims
    shape = image.spatial_shape(dims)
    index = tuple(n // 2 for n in image.index_shape(dims))
    edge = EDGES[dims]
    starts = [sorted({0, max(0, n - edge) // 2, max(0, n - edge)}) for n in shape]
    found = []
    for at in range(max(map(len, starts))):
        corner = [places[at % len(places)] for places in starts]
        window = tuple(slice(a, min(a + edge, n)) for a, n in zip(corner, shape, strict=True))
        found.append(image.read(index, window))
    return found[:N_PIECES]


def _score(
    model: Model, pieces: list[npt.NDArray[np.generic]], summary: npt.NDArray[np.generic]
) -> float:
    about = model.description
    scale = scale_of(summary, about.normalization, about.in_channels)
    inputs = [
        torch.from_numpy(match_channels(normalise(piece, scale), about.in_channels))
        for piece in pieces
    ]
    fit = general_facts(model.network, about.in_channels, about.dims).fit
    return mismatch(model.network, [_fitting(one, fit) for one in inputs])


def _fitting(image: Tensor, fit: Fit) -> Tensor:
    """An image `(c, [z,] y, x)`, mirrored at its end until the network takes it."""
    each = zip(image.shape[1:], fit.margin, strict=True)
    wanted = fit.size_for(tuple(max(1, n - lost) for n, lost in each))
    return continued(image, tuple((0, size) for size in wanted))


@torch.inference_mode()
def mismatch(network: nn.Module, images: list[Tensor]) -> float:
    """How far the statistics of images `(c, [z,] y, x)` are from those that a network keeps."""
    device = next(network.parameters()).device
    with _watched(network) as seen:
        for image in images:
            network(image[None].to(device))
    scores = [_of_layer(module, inputs) for module, inputs in seen.items()]
    return float(np.mean(scores)) if scores else 0.0


@contextmanager
def _watched(network: nn.Module) -> Iterator[dict[nn.Module, list[tuple[Tensor, Tensor]]]]:
    """Note mean and mean square per channel of what enters each batch normalisation."""
    seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        values = inputs[0].float()
        axes = [axis for axis in range(values.ndim) if axis != 1]
        seen.setdefault(module, []).append(
            (values.mean(dim=axes), values.square().mean(dim=axes))
        )  # each (c,)

    hooks = [
        module.register_forward_pre_hook(note) for module in network.modules() if _keeps(module)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _of_layer(module: Any, inputs: list[tuple[Tensor, Tensor]]) -> float:
    mean = torch.stack([one for one, _ in inputs]).mean(dim=0)
    variance = (torch.stack([one for _, one in inputs]).mean(dim=0) - mean.square()).clamp(min=0)
    kept = module.running_var + module.eps
    off = (mean - module.running_mean).abs() / kept.sqrt()
    spread = ((variance + module.eps) / kept).log().abs()
    return float((off + spread).mean())
