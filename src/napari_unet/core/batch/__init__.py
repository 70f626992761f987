"""Many images: segmented and measured one by one, with tables, a report, and no repetition.

`batch` is the work, `run_batch` does it; `planning` is only the check beforehand, `running` all
that comes after it.
"""

from __future__ import annotations

from napari_unet.core.batch.planning import Plan, planning
from napari_unet.core.batch.running import BatchProgress, BatchResult, batch, run_batch, running
from napari_unet.core.batch.settings import ENDINGS, BatchSettings
from napari_unet.core.batch.sources import Source
from napari_unet.core.batch.state import Entry

__all__ = [
    "ENDINGS",
    "BatchProgress",
    "BatchResult",
    "BatchSettings",
    "Entry",
    "Plan",
    "Source",
    "batch",
    "planning",
    "run_batch",
    "running",
]
