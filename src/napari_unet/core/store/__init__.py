"""Where the results of big images go: a zarr folder that can be looked at while it fills.

::

    result.zarr/
        zarr.json            what it was made for, and what is finished (`record.py`)
        outputs/             (output, *label axes) float16, the probabilities
        segmentation/        OME-Zarr 0.5: labels and coarser levels of them, each half as wide
            0/  1/  2/ ...

Every file is written whole, flushed to the disk and renamed, so that a reader never meets half
of one, and whoever is killed leaves nothing but files that are right.
"""

from napari_unet.core.store.opening import open_store, store_for
from napari_unet.core.store.result import ResultStore
from napari_unet.core.store.sizes import label_dtype, needed_bytes

__all__ = ["ResultStore", "label_dtype", "needed_bytes", "open_store", "store_for"]
