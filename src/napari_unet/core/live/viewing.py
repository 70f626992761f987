"""What is in view, by the newest weights: again and again, so what does not change is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from napari_unet.core.device import autocast
from napari_unet.core.engine.facts import general_facts
from napari_unet.core.engine.source import Source
from napari_unet.core.image import Image
from napari_unet.core.live.images import LiveImage
from napari_unet.core.model import Model
from napari_unet.core.outcomes import Outcome, probabilities_of
from napari_unet.core.scoring import memory_format
from napari_unet.core.segmentation import check_image
from napari_unet.core.tiling import nearest_first

__all__ = ["PIECE_SIZE", "Seen", "View", "Viewer", "pieces_of", "rest_of"]

AROUND = 32
"""What lies so far around a window, in px, is shown to the network as well (at most) ..."""
SLICES_AROUND = 6
"""... and so many slices before and behind."""
PIECE_SIZE = 768
"""Windows are predicted in pieces of at most this edge, in px; on a GPU larger ones."""
MOST_KEPT = 4

Window = tuple[slice, slice]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A place to look at: image, index along the label axes before `(y, x)`, and window."""

    image: LiveImage
    index: tuple[int, ...]
    window: Window


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """What the newest weights say of a window.

    Attributes
    ----------
    key : of the image.
    index, window : where: the axes before `(y, x)`, and `(y, x)` in px.
    outputs : float16 `(output, y, x)`, probabilities.
    version : of the weights.
    shape : of the plane, `(y, x)` in px.
    n_steps : training steps that the weights have seen.
    is_view : whether it was in view; otherwise the rest of the image follows.
    """

    key: str
    index: tuple[int, ...]
    window: Window
    outputs: npt.NDArray[np.float16]
    version: int
    shape: tuple[int, int]
    n_steps: int = 0
    is_view: bool = True


class Viewer:
    """Predicts windows of images with whatever network it is given.

    Parameters
    ----------
    model : says what goes in and what comes out; its own network is not used.
    """

    def __init__(self, model: Model) -> None:
        self._model, self._about = model, model.description
        facts = general_facts(model.network, model.config.in_channels, model.config.dims)
        self._fit, reach = facts.fit, facts.reach or facts.fit.base
        most = (SLICES_AROUND, AROUND, AROUND)[-self._about.dims :]
        self._around = tuple(min(n, limit) for n, limit in zip(reach, most, strict=True))
        self._inputs: dict[object, Tensor] = {}

    def outputs(
        self, network: nn.Module, view: View, device: torch.device
    ) -> npt.NDArray[np.float16]:
        """Probabilities, float16 `(output, y, x)`, of exactly the window of a view.

        Raises
        ------
        ImageError
            If the model cannot take the image, or it cannot be read.
        """
        assert view.image.image is not None
        spans, inner = self._spans(view)
        shown = self._input(view, spans, device)
        return _asked(network, shown, inner, self._about.outcome)

    def forget(self) -> None:
        """Give back the memory of what was in view."""
        self._inputs.clear()

    def _input(
        self, view: View, spans: tuple[tuple[int, int], ...], device: torch.device
    ) -> Tensor:
        """The normalised picture `(1, c, [z,] y, x)`, kept while the view stays."""
        key = (view.image.key, id(view.image.image), view.index, spans, str(device))
        if key not in self._inputs:
            assert view.image.image is not None
            check_image(view.image.image, self._model)
            dims = self._about.dims
            source = Source(
                image=view.image.image, index=view.index[: len(view.index) - (dims - 2)],
                scale=view.image.scale(self._about), in_channels=self._about.in_channels,
                device=device,
            )  # fmt: skip
            while len(self._inputs) >= MOST_KEPT:
                self._inputs.pop(next(iter(self._inputs)))
            shown = source.read(spans)
            self._inputs[key] = shown.contiguous(memory_format=memory_format(dims))
        return self._inputs[key]

    def _spans(self, view: View) -> tuple[tuple[tuple[int, int], ...], tuple[slice, ...]]:
        """What to read, and which part of the answer is the window."""
        wanted = [(part.start, part.stop) for part in view.window]
        assert view.image.image is not None
        sizes = view.image.image.spatial_shape(self._about.dims)
        if self._about.dims == 3:
            wanted.insert(0, (view.index[-1], view.index[-1] + 1))
        firsts, lasts = [], []
        for (first, last), around, grid, size in zip(
            wanted, self._around, self._fit.grid, sizes, strict=True
        ):
            firsts.append(max(0, first - around) // grid * grid)
            lasts.append(min(size, last + around))
        room = tuple(last - first for first, last in zip(firsts, lasts, strict=True))
        fitting = self._fit.size_for(room)
        spans = tuple(
            (first - before, first - before + n)
            for first, before, n in zip(firsts, self._fit.before, fitting, strict=True)
        )
        inner = tuple(
            slice(a - first, b - first) for (a, b), first in zip(wanted, firsts, strict=True)
        )
        return spans, inner


@torch.inference_mode()
def _asked(
    network: nn.Module, shown: Tensor, inner: tuple[slice, ...], outcome: Outcome
) -> npt.NDArray[np.float16]:
    with autocast(shown.device):
        logits = network(shown)[(0, slice(None), *inner)]  # (output, [z,] y, x)
    found = probabilities_of(logits[None], outcome)[0]
    if len(inner) == 3:
        found = found[:, 0]  # the one slice that is in view
    return found.to(torch.float16).cpu().numpy()


def pieces_of(view: View, size: int = PIECE_SIZE) -> Iterator[View]:
    """A view in pieces of at most `size` px a side, from the middle outwards."""
    sides = []
    for part in view.window:
        n = part.stop - part.start
        count = max(1, -(-n // size))
        ends = [part.start + n * i // count for i in range(count + 1)]
        sides.append([slice(a, b) for a, b in pairwise(ends)])
    windows: list[tuple[slice, ...]] = [
        (rows, columns) for rows in sides[0] for columns in sides[1]
    ]
    middle = tuple((part.start + part.stop) / 2 for part in view.window)
    for rows, columns in nearest_first(windows, middle):
        yield View(image=view.image, index=view.index, window=(rows, columns))


def rest_of(view: View, image: Image, size: int = PIECE_SIZE) -> Iterator[View]:
    """The rest of the image: the plane in view from there outwards, then the planes around it.

    Planes of the same stack come first, the nearest before others; then the other stacks.
    """
    height, width = image.label_shape[-2:]
    whole = View(image=view.image, index=view.index, window=(slice(0, height), slice(0, width)))
    middle = tuple((part.start + part.stop) / 2 for part in view.window)
    windows = [piece.window for piece in pieces_of(whole, size)]
    for index in _planes_near(view.index, image.label_shape[:-2]):
        for rows, columns in nearest_first(windows, middle):
            yield View(image=view.image, index=index, window=(rows, columns))


def _planes_near(index: tuple[int, ...], shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """All planes: the nearest along the last axis that is stepped through, then along others."""
    if not shape:
        yield ()
        return
    for outer in _planes_near(index[:-1], shape[:-1]):
        for step in range(shape[-1]):
            for place in dict.fromkeys((index[-1] + step, index[-1] - step)):
                if 0 <= place < shape[-1]:
                    yield (*outer, place)
