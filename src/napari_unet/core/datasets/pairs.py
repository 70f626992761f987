"""What training learns from: pictures, and masks that lie on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari_unet.core.image import Image

__all__ = ["Dataset", "Pair", "Problem"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """A picture and what is in it.

    Attributes
    ----------
    key : what tells the pairs of a dataset apart, such as the name of the file without its ending.
    group : pairs of the same group are never split between training and scoring: tiles of one
        picture, planes of one stack, pictures of one movie. The key, where nothing says more.
    split : "train", "validation" or "test" where the dataset says so, else "".
    image : the picture; its axes are y and x, maybe z, maybe c.
    labels : whole numbers `(*image.label_shape)`, numpy or read when used; `numpy.asarray` reads
        them all. 0 is the background; the rest are numbers of objects or of classes.
    path : where the picture is; None for one in memory.
    labels_path : where the labels are, likewise.
    """

    key: str
    group: str
    split: str = ""
    image: Image
    labels: Any
    path: Path | None = None
    labels_path: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with a file of a dataset.

    Attributes
    ----------
    path : the file or folder; None for pictures in memory.
    sentence : what is wrong, and what happens or is to be done.
    is_fatal : whether it must be mended before anything is trained; the others are warnings,
        and files that are left out.
    key : of the pair that it is about; "" for the whole dataset, or what is in no pair.
    """

    path: Path | None
    sentence: str
    is_fatal: bool = False
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Dataset:
    """Pairs, and what was found wrong while they were looked for.

    Attributes
    ----------
    layout : the name of the layout; see `napari_unet.core.datasets.LAYOUTS`.
    pairs : files in natural order ("cell2" before "cell10"), arrays as they were given.
    problems : what could be seen without reading pixels; `check` finds the rest.
    """

    layout: str
    pairs: tuple[Pair, ...]
    problems: tuple[Problem, ...] = ()

    def without(self, problems: Iterable[Problem]) -> Dataset:
        """The same without the pairs that have fatal problems among `problems`."""
        bad = {problem.key for problem in problems if problem.is_fatal}
        return replace(self, pairs=tuple(pair for pair in self.pairs if pair.key not in bad))
