"""Random deformations and intensity changes, as Ronneberger et al. 2015 trained with.

`augment_batch` makes whole batches for training from masks, `preview` shows what it does.
`sampling_grid`, `sample` and `augment_intensity` make one patch, for fine-tuning.
"""

from napari_unet.core.augmentation.batches import Batch, augment_batch
from napari_unet.core.augmentation.examples import Example, grid_lines, preview
from napari_unet.core.augmentation.single import (
    augment_intensity,
    elastic_field,
    sample,
    sampling_grid,
)
from napari_unet.core.corrections import IGNORE
from napari_unet.core.settings import AugmentationSettings

__all__ = [
    "IGNORE",
    "AugmentationSettings",
    "Batch",
    "Example",
    "augment_batch",
    "augment_intensity",
    "elastic_field",
    "grid_lines",
    "preview",
    "sample",
    "sampling_grid",
]
