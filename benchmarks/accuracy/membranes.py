r"""Membranes of neurons in electron microscopy: the ISBI 2012 challenge, by k-fold over blocks.

    python benchmarks/accuracy/membranes.py DATA/membranes_em --out FILE

DATA holds `images/` and `masks/` with the 30 slices of the challenge's training stack (0 membrane,
255 inside; Cardona et al. 2010). Slices that follow one another are nearly alike, so that the stack
is cut into blocks of slices, and each block is scored by networks that saw none of it. (On the
hidden test set the paper reports a warping error of 0.000353 and a Rand error of 0.0382.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from common import Row, Run, Scores, parser, scored, seeds, table, use_threads, write

import napari_unet as nu
from napari_unet.core.datasets import DatasetSettings, Pair, fold_of, open_dataset
from napari_unet.core.metrics import best_of, best_pixel_error, scores_over_thresholds
from napari_unet.core.model import Model
from napari_unet.core.training import TrainSettings

TITLE = "ISBI 2012: membranes in electron microscopy"
N_FOLDS = 5


def of_membranes(pairs: Sequence[Pair], maps: Sequence[np.ndarray]) -> Scores:
    """The challenge's measures of maps `(y, x)` of the probability of being inside."""
    inside = np.stack(maps)
    truth = np.stack([np.asarray(pair.labels) > 0 for pair in pairs])
    thin = scores_over_thresholds(inside, truth, thin=True)
    thick = scores_over_thresholds(inside, truth, thin=False)
    return {
        "V_rand": best_of(thin, "v_rand").value,
        "V_info": best_of(thin, "v_info").value,
        "Rand error": best_of(thick, "rand_error").value,
        "pixel error": best_pixel_error(inside, truth)[1],
    }


def maps_of(model: Model, pairs: Sequence[Pair]) -> list[np.ndarray]:
    """Probability of being inside `(y, x)`, for each slice; mean over flips and rotations."""
    settings = nu.SegmentSettings(what="classes", augmentation="rotations")
    return [
        np.asarray(nu.segment(pair.image, model, settings).probabilities[1], dtype=np.float32)
        for pair in pairs
    ]


def main() -> None:
    """Train with each seed on each fold, measure, and write the table."""
    made = parser(__doc__)
    made.add_argument("--networks", nargs="+", default=["unet-2015", "unet"])
    made.add_argument("--folds", type=int, default=N_FOLDS, help="how many of the five folds")
    arguments = made.parse_args()
    use_threads()
    pairs = open_dataset(arguments.data, settings=DatasetSettings(block=30 // N_FOLDS)).pairs
    gray = [np.asarray(pair.image.array, np.float32).squeeze() / 255 for pair in pairs]
    rows = [Row(name="the image itself, as a map", scores=[of_membranes(pairs, gray)])]
    base = TrainSettings(
        width=arguments.width, steps=arguments.steps, split="none", held_out=0.0, separation=0.0,
    )  # fmt: skip
    for network in arguments.networks:
        rows.append(Row(name=f"{network}, width {arguments.width}", scores=[]))
        for seed in seeds(arguments):
            found = []
            for fold in range(arguments.folds):
                train, test = fold_of(pairs, N_FOLDS, fold)
                settings = replace(base, network=network, seed=seed)
                run = Run(name=f"membranes {network}", settings=settings, part=f"fold{fold}")
                found.append(
                    scored(
                        run, train, arguments,
                        lambda model, test=test: of_membranes(test, maps_of(model, test)),
                    )
                )  # fmt: skip
            mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
            rows[-1].scores.append(mean)
            write(arguments, TITLE, [about(arguments), table(rows)])


def about(arguments) -> str:
    """What was done, for the reader of the table."""
    return (
        f"30 slices of 512 x 512 px in {N_FOLDS} blocks of {30 // N_FOLDS}, {arguments.folds} "
        f"of them scored; {arguments.steps} steps a run; a run is one seed, mean over its "
        "folds; ± half the range over the seeds. The best threshold is taken on the scored "
        "slices, as in the challenge. V_rand and V_info with the border thinned, Rand error "
        "(of 2012) without."
    )


if __name__ == "__main__":
    main()
