"""How well a segmentation agrees with the truth. docs/metrics.md says what each measure punishes.

`pixels.py` compares masks and classes, `objects.py` objects (F1, AP, panoptic quality),
`tracking.py` is SEG of the Cell Tracking Challenge, `partitions.py` V_rand and V_info of the ISBI
2012 challenge, `thresholds.py` the same for probability maps, `warping.py` the warping error. Truth
and prediction are arrays of one shape; objects are numbered with whole numbers, 0 is background.
"""

from __future__ import annotations

from napari_unet.core.metrics.objects import (
    AP_THRESHOLDS,
    ObjectScores,
    mean_average_precision,
    object_scores,
    scores_over_iou,
)
from napari_unet.core.metrics.partitions import (
    PartitionScores,
    mean_partition_scores,
    partition_scores,
)
from napari_unet.core.metrics.pixels import (
    ClassMeasure,
    ClassScores,
    class_scores,
    pixel_dice,
    pixel_error,
    pixel_iou,
)
from napari_unet.core.metrics.thresholds import (
    THRESHOLDS,
    Best,
    best_of,
    best_over_thresholds,
    best_pixel_error,
    scores_over_thresholds,
    segments_of,
)
from napari_unet.core.metrics.tracking import SegScore, seg_score
from napari_unet.core.metrics.warping import warped_truth, warping_error

__all__ = [
    "AP_THRESHOLDS",
    "THRESHOLDS",
    "Best",
    "ClassMeasure",
    "ClassScores",
    "ObjectScores",
    "PartitionScores",
    "SegScore",
    "best_of",
    "best_over_thresholds",
    "best_pixel_error",
    "class_scores",
    "mean_average_precision",
    "mean_partition_scores",
    "object_scores",
    "partition_scores",
    "pixel_dice",
    "pixel_error",
    "pixel_iou",
    "scores_over_iou",
    "scores_over_thresholds",
    "seg_score",
    "segments_of",
    "warped_truth",
    "warping_error",
]
