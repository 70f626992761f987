r"""Nuclei of the Data Science Bowl 2018: the networks of the field on one split.

    python benchmarks/accuracy/nuclei.py DATA/nuclei_fluorescence --out FILE
    python benchmarks/accuracy/nuclei.py stage1_train              # the original's own layout

DATA holds `images/`, `masks/` (16-bit PNG, object ids) and `index.csv` with a split by group
(BBBC038, labels as corrected by the community, CC0). All networks are trained for the same number
of steps, with the same batches of the same patches; each with the optimizer, the loss and the
outputs of its paper, or, with `--alike`, all with ours.
"""

from __future__ import annotations

from dataclasses import replace

from common import Row, Run, by, of_objects, parser, scored, seeds, table, use_threads, write

from napari_unet.core.datasets import open_dataset, pairs_to_test, split_pairs
from napari_unet.core.errors import SettingsError
from napari_unet.core.networks import Preset, Wanted, preset_of
from napari_unet.core.training import TrainSettings

TITLE = "Data Science Bowl 2018: nuclei in fluorescence"
NETWORKS = (
    "unet-tutorial", "unet-2015", "unet", "unet++", "unet-attention", "unet-dense",
    "unet-residual", "segnet", "fcn-8s-bn", "pspnet-resnet18",
)  # fmt: skip


def main() -> None:
    """Train each network with each seed, measure, and write the table."""
    made = parser(__doc__)
    made.add_argument("--networks", nargs="+", default=list(NETWORKS))
    made.add_argument("--patch", type=int, default=128)
    made.add_argument("--batch", type=int, default=8)
    made.add_argument("--alike", action="store_true", help="our optimizer and loss for all")
    arguments = made.parse_args()
    use_threads()
    pairs = open_dataset(arguments.data).pairs
    test = pairs_to_test(pairs)
    if not test:
        pairs, test = split_pairs(pairs, 0.25, seed=0)
    train = [pair for pair in pairs if pair.split != "test"]
    base = TrainSettings(
        steps=arguments.steps, patch_size=arguments.patch, batch_size=arguments.batch,
        held_out=0.1, **(ALIKE if arguments.alike else {}),
    )  # fmt: skip
    rows: list[Row] = []
    for network in arguments.networks:
        preset = preset_of(network)
        width = _width(preset, arguments.width)
        settings = replace(base, network=network, width=width)
        n = sum(p.numel() for p in preset.build(Wanted(width=width)).parameters())
        rows.append(Row(name=f"{preset.title} ({n / 1e6:.2f} M)", scores=[]))
        for seed in seeds(arguments):
            run = Run(name=f"nuclei {network}", settings=replace(settings, seed=seed))
            rows[-1].scores.append(
                scored(run, train, arguments, lambda model: of_objects(test, by(model)))
            )
        write(arguments, TITLE, [about(len(train), len(test), arguments), table(rows)])


def _width(preset: Preset, wanted: int) -> int | None:
    """The width that was asked for; None for networks that have one of their own."""
    try:
        preset.config_for(Wanted(width=wanted))
    except SettingsError:
        return None
    return wanted


ALIKE = {"loss": "dice+cross-entropy", "optimizer": "adamw", "learning_rate": 1e-3,
         "outputs": "softmax", "schedule": "cosine"}  # fmt: skip


def about(n_train: int, n_test: int, arguments) -> str:
    """What was done, for the reader of the table."""
    how = (
        "our optimizer and loss for all" if arguments.alike else "optimizer and loss of each paper"
    )
    return (
        f"{n_train} training and {n_test} test images (of other groups); {arguments.steps} "
        f"steps of {arguments.batch} patches of {arguments.patch} px; first level "
        f"{arguments.width} channels wide (networks on a ResNet as they are); {how}. Mean ± half "
        "the range over the seeds. IoU: pixels, mean over images; SEG and object F1 (IoU 0.5) "
        "over all objects; mean AP over IoU 0.50 to 0.95."
    )


if __name__ == "__main__":
    main()
