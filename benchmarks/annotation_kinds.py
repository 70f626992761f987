"""The images of `annotation.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from finetuning import Pair, _cropped, _read
from skimage.io import imread

from napari_unet.core.simulation import SimulationSettings, simulate

KINDS = ("inverted", "rings", "phase contrast", "membranes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of image: one to be corrected for each seed, others, and all there are masks of."""

    name: str
    corrected: Sequence[Pair]
    others: Sequence[Pair]
    is_mask: bool = False  # whether the truth is a mask, not object ids


def kind_of(name: str, data: Path, size: int, n_others: int) -> Kind:
    """Images of one kind: `size` px wide what is corrected, and `n_others` to test on."""
    if name == "phase contrast":
        folder = data / "cells_phase_contrast"
        train, test = ([_cropped(p, size) for p in _read(folder, s)] for s in ("train", "test"))
        return Kind(name=name, corrected=train, others=test[:n_others])
    if name == "membranes":
        slices = [_cropped(_membranes(data, i), size) for i in (0, 3, 6, 9, 12, 21, 25, 29)]
        others = slices[5 : 5 + n_others]
        return Kind(name=name, corrected=slices[:5], others=others, is_mask=True)

    def draw(seed: int, edge: int) -> Pair:
        n_nuclei = 70 * edge**2 // 512**2
        settings = SimulationSettings(kind=name, size=edge, n_nuclei=n_nuclei)  # type: ignore
        field = simulate(settings, seed=seed)
        return field.image, field.labels

    others = [draw(1000 + i, min(size, 512)) for i in range(n_others)]
    return Kind(name=name, corrected=[draw(i, size) for i in range(6)], others=others)


def _membranes(data: Path, index: int) -> Pair:
    """A slice, and where it shows membranes."""
    image, inside = (
        imread(data / "membranes_em" / folder / f"{index:02}.png") for folder in ("images", "masks")
    )
    return image, (inside == 0).astype(np.int32)


def known_images(data: Path, n: int) -> list[Pair]:
    """Images that the model was good at, never trained on, evenly drawn."""
    pairs = list(_read(data / "nuclei_fluorescence", "test"))
    return [_cropped(pairs[i], 256) for i in np.linspace(0, len(pairs) - 1, n).round().astype(int)]
