"""What is learned from: the corrections of images, and how a network gets to see them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_unet.core.corrections import CorrectedBlock, corrected_blocks
from napari_unet.core.errors import CorrectionsError
from napari_unet.core.image import Image
from napari_unet.core.model import Description, Model
from napari_unet.core.normalization import match_channels, normalise, scale_of, summary_of
from napari_unet.core.volumes import Slices, corrected_volumes, slices_of

__all__ = ["TrainingImage", "as_input", "blocks_for", "input_of", "training_image"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingImage:
    """The corrections of one image, with what is needed to normalise it.

    Attributes
    ----------
    key : what tells images apart, stable from round to round.
    summary : raw quantiles `(c, n)` of the whole image, from `summary_of`.
    blocks : its corrected blocks, planes `(y, x)`.
    slices : what networks of volumes read the slices around them from; None if it has no z axis.
    """

    key: str
    summary: npt.NDArray[np.generic]
    blocks: Sequence[CorrectedBlock]
    slices: Slices | None = None


def training_image(image: Image, corrections: npt.NDArray[np.generic]) -> TrainingImage:
    """Gather the corrections of an image that is open."""
    return TrainingImage(
        key=image.fingerprint(),
        summary=summary_of(image.samples()),
        blocks=list(corrected_blocks(image, corrections)),
        slices=slices_of(image),
    )


def blocks_for(image: TrainingImage, dims: int) -> Iterable[CorrectedBlock]:
    """What a network of `dims` dimensions learns from: the planes, or volumes made of them."""
    return image.blocks if dims == 2 else corrected_volumes(image.blocks, image.slices)


def input_of(model: Model, image: TrainingImage, block: CorrectedBlock) -> Tensor:
    """The image of a block as the network wants it, `(c, [z,] y, x)`."""
    return torch.from_numpy(as_input(block.image, image.summary, model.description))


def as_input(
    raw: npt.NDArray[np.generic], summary: npt.NDArray[np.generic], about: Description
) -> npt.NDArray[np.float32]:
    """A part `(c, [z,] y, x)` of an image as the network wants it.

    Parameters
    ----------
    raw : its intensities.
    summary : raw quantiles `(c, n)` of the whole image, from `summary_of`.
    about : what goes into the network.

    Raises
    ------
    CorrectionsError
        If the model takes another number of channels.
    """
    scale = scale_of(summary, about.normalization, about.in_channels)
    matched = match_channels(normalise(raw, scale), about.in_channels)
    if matched.shape[0] != about.in_channels:
        raise CorrectionsError(
            f"Corrections were painted on an image with {matched.shape[0]} channels, but the "
            f"model {about.name!r} takes {about.in_channels}. "
            f"Leave that image out, or choose a model that fits."
        )
    return matched
