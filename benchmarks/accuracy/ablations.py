r"""What each ingredient of the paper of 2015 buys: one of them left out at a time.

    python benchmarks/accuracy/ablations.py DATA/cells_phase_contrast --out FILE
    python benchmarks/accuracy/ablations.py DATA/cells_phase_contrast --network unet-2015

DATA is laid out as for `glioblastoma.py`. One training image by default, since few of them is what
the paper made its ingredients for: where there is enough to learn from, a few hundred steps do not
show what augmentation is for. Each row differs from the first by one thing. The network is the
padded U-Net with batch normalisation, which learns within the few hundred steps that a processor
can afford; that of 2015 with its own settings has learned nothing by then at a width of 8.
"""

from __future__ import annotations

from dataclasses import replace

from common import (
    Row,
    Run,
    by,
    of_objects,
    parser,
    scored,
    seeds,
    table,
    use_threads,
    without_augmentation,
    write,
)
from glioblastoma import about, split

from napari_unet.core.training import TrainSettings

DROPOUT = 0.5
TITLE = "Ablations: what each ingredient buys"


def variants(base: TrainSettings) -> dict[str, TrainSettings]:
    """Name to settings, the complete recipe first."""
    full = base.augmentation
    nothing = without_augmentation()
    rows = {
        "complete": base,
        "without elastic deformation": replace(base, augmentation=replace(full, elastic_sigma=0.0)),
        "without any augmentation": replace(base, augmentation=nothing),
        "without separation map": replace(base, separation=0.0),
        "without dropout": replace(base, network_dropout=0.0),
        "Dice + cross-entropy": replace(base, loss="dice+cross-entropy"),
        "soft Dice": replace(base, loss="dice"),
    }
    if base.optimizer == "sgd":
        rows["AdamW instead of SGD"] = replace(base, optimizer="adamw")
    return rows


def main() -> None:
    """Train each variant with each seed, measure, and write the table."""
    made = parser(__doc__)
    made.add_argument("--network", default="unet")
    made.add_argument("--images", type=int, default=1, help="training images, the first ones")
    arguments = made.parse_args()
    use_threads()
    train, test = split(arguments)
    train = train[: arguments.images]
    base = TrainSettings(
        network=arguments.network, width=arguments.width, steps=arguments.steps, held_out=0.0,
        loss="cross-entropy", separation=10.0, network_dropout=DROPOUT,
    )  # fmt: skip
    rows: list[Row] = []
    for name, settings in variants(base).items():
        rows.append(Row(name=name, scores=[]))
        for seed in seeds(arguments):
            run = Run(name=f"ablation {name}", settings=replace(settings, seed=seed))
            rows[-1].scores.append(
                scored(run, train, arguments, lambda model: of_objects(test, by(model)))
            )
        write(arguments, TITLE, [about(train, test, arguments), table(rows)])


if __name__ == "__main__":
    main()
