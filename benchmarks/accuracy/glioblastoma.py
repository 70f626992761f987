r"""Glioblastoma cells in phase contrast: the U-Net of 2015 with its own settings.

    python benchmarks/accuracy/glioblastoma.py DATA/cells_phase_contrast --out FILE
    python benchmarks/accuracy/glioblastoma.py PhC-U373                # the paper's own comparison
    python benchmarks/accuracy/glioblastoma.py DIC-HeLa

DATA is a folder of `images/`, `masks/` (16-bit PNG, object ids) and `index.csv` (image_id, group,
split): T98G glioblastoma cells (oist/Usiigaci, MIT licence, Tsai et al. 2019), the same kind of
cell and contrast as PhC-U373 of the Cell Tracking Challenge, on which Ronneberger et al. 2015
report an IOU of 0.92 (second best 0.83), and 0.775 (0.46) on DIC-HeLa. Whoever has those sets
gives their folder (`01`, `01_GT/SEG`, ...): training on one sequence, testing on the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import scipy.ndimage as ndi
from common import Row, Run, by, of_objects, parser, scored, seeds, table, use_threads, write
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_objects

from napari_unet.core.datasets import Pair, open_dataset, pairs_to_test
from napari_unet.core.training import TrainSettings

TITLE = "Glioblastoma cells in phase contrast"


@dataclass(frozen=True)
class Classical:
    """What one does without a network: local spread of intensity, a threshold, filled parts."""

    window: int  # px
    factor: float  # of Otsu's threshold
    min_size: int  # px

    def segment(self, pair: Pair) -> np.ndarray:
        """Object ids `(y, x)`."""
        raw = np.asarray(pair.image.array, dtype=np.float32).squeeze()
        mean = ndi.uniform_filter(raw, self.window)
        spread = np.sqrt(np.maximum(ndi.uniform_filter(raw**2, self.window) - mean**2, 0))
        mask = ndi.binary_fill_holes(spread > self.factor * threshold_otsu(spread))
        found, _ = ndi.label(remove_small_objects(mask, max_size=self.min_size))
        return np.asarray(found)


def tuned(pairs: list[Pair]) -> Classical:
    """The classical settings with the best IoU on these images."""
    grid = [Classical(*one) for one in product((7, 15, 31), (0.4, 0.7, 1.0), (200, 1000))]
    return max(grid, key=lambda one: of_objects(pairs, one.segment)["IoU"])


def split(arguments: argparse.Namespace) -> tuple[list[Pair], Sequence[Pair]]:
    """Training and test images: as the set says, else the first sequence and the others."""
    pairs = open_dataset(arguments.data).pairs
    test = pairs_to_test(pairs)
    if not test:
        first = pairs[0].group
        test = tuple(pair for pair in pairs if pair.group != first)
    kept = {pair.key for pair in test}
    return [pair for pair in pairs if pair.key not in kept], test


def main() -> None:
    """Train with each seed, measure, and write the table."""
    arguments = parser(__doc__).parse_args()
    use_threads()
    train, test = split(arguments)
    print(f"{len(train)} training images, {len(test)} test images")
    classical = tuned(train)
    rows = [
        Row(
            name="classical (local spread, threshold)", scores=[of_objects(test, classical.segment)]
        )
    ]
    paper = TrainSettings(
        network="unet-2015", width=arguments.width, steps=arguments.steps, held_out=0.0
    )
    ours = replace(paper, network="unet", patch_size=256, batch_size=4)
    for name, settings in (
        (f"U-Net 2015, width {arguments.width}, the paper's settings", paper),
        (f"U-Net, padded, width {arguments.width}, our defaults", ours),
    ):
        runs = [Run(name=name, settings=replace(settings, seed=seed)) for seed in seeds(arguments)]
        scores = [
            scored(run, train, arguments, lambda model: of_objects(test, by(model))) for run in runs
        ]
        rows.append(Row(name=name, scores=scores))
        write(arguments, TITLE, [about(train, test, arguments), table(rows)])


def about(train: Sequence[Pair], test: Sequence[Pair], arguments: argparse.Namespace) -> str:
    """What was done, for the reader of the table."""
    return (
        f"{len(train)} training and {len(test)} test images, none of which was looked at in "
        f"training; {arguments.steps} steps. Mean ± half the range over the seeds. IoU: pixels, "
        "mean over the images; SEG: as in the Cell Tracking Challenge; object F1 at IoU 0.5, "
        "over all objects."
    )


if __name__ == "__main__":
    main()
