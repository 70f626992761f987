"""Images with masks, on disk or open, that networks are trained on."""

from __future__ import annotations

from napari_unet.core.datasets.arrays import of_arrays
from napari_unet.core.datasets.checking import check
from napari_unet.core.datasets.describing import describe
from napari_unet.core.datasets.masks import object_numbers
from napari_unet.core.datasets.opening import LAYOUTS, open_dataset
from napari_unet.core.datasets.pairs import Dataset, Pair, Problem
from napari_unet.core.datasets.seeing import Seen, survey, surveying
from napari_unet.core.datasets.settings import DatasetSettings
from napari_unet.core.datasets.splitting import fold_of, pairs_to_test, split_pairs
from napari_unet.core.datasets.stacks import as_planes

__all__ = [
    "LAYOUTS",
    "Dataset",
    "DatasetSettings",
    "Pair",
    "Problem",
    "Seen",
    "as_planes",
    "check",
    "describe",
    "fold_of",
    "object_numbers",
    "of_arrays",
    "open_dataset",
    "pairs_to_test",
    "split_pairs",
    "survey",
    "surveying",
]
