"""What a training step costs, and what of it is the input.

    python benchmarks/training.py [--widths 32,64] [--rounds 8] [--threads 2] [--out FILE]

Two steps on the same network, the same patches a step and the same loss, one after the other, again
and again:

- *ours*: a whole step of `napari_unet.core.training.training` as users run it: patches drawn and
  deformed, 16-bit arithmetic if the device gains from it, channels last, clipping, running mean.
- *plain*: the step that everyone writes: float32, as torch lays images out, Adam, cross-entropy, on
  a batch that is there already.

Both are the padded U-Net of five levels with Adam. The fastest of all rounds counts, since other
programs can only add time. Compared within one process, in turns.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in the plugin, before torch is imported

import numpy as np
import torch
import torch.nn.functional as F
from machines import tell
from torch import nn

from napari_unet.core.datasets import Pair, of_arrays
from napari_unet.core.device import choose_device
from napari_unet.core.engine.facts import general_facts
from napari_unet.core.networks import Wanted, preset_of
from napari_unet.core.progress import finish
from napari_unet.core.simulation import SimulationSettings, simulate
from napari_unet.core.training import TrainSettings, training
from napari_unet.core.training.patches import draw_batch, plan_for
from napari_unet.core.training.preparing import Request, subject_of

SIZE = 512
N_IMAGES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Seconds of one step each, at best."""

    width: int
    ours: float
    plain: float
    drawing: float
    medians: tuple[float, float, float]


def images() -> tuple[Pair, ...]:
    """Simulated nuclei with exact masks."""
    settings = SimulationSettings(size=SIZE, n_nuclei=70)
    drawn = [simulate(settings, seed=seed) for seed in range(N_IMAGES)]
    return of_arrays([(one.image, one.labels) for one in drawn]).pairs


def settings_for(width: int, batch_size: int, patch_size: int) -> TrainSettings:
    """A training that does not end and measures nothing."""
    return TrainSettings(
        width=width, steps=10**6, measure_every=10**6, optimizer="adam", loss="cross-entropy",
        batch_size=batch_size, patch_size=patch_size, held_out=0.0,
    )  # fmt: skip


def our_steps(pairs: tuple[Pair, ...], settings: TrainSettings, device: str) -> Iterator[None]:
    """One whole step each time."""
    for progress in training(pairs, settings, device=device):
        if np.isfinite(progress.loss):
            yield None


def plain_step(width: int, batch_size: int, patch_size: int, device: str) -> Callable[[], None]:
    """Float32, in the layout of torch, with Adam."""
    torch.manual_seed(0)
    network: nn.Module = preset_of("unet").build(Wanted(width=width)).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    image = torch.randn(batch_size, 1, patch_size, patch_size, device=device)
    target = (image[:, 0] > 0.5).long()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(network(image), target)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def drawing(pairs: tuple[Pair, ...], settings: TrainSettings, device: str) -> Callable[[], None]:
    """What one step draws and deforms."""
    request = Request(
        pairs=pairs, settings=settings, start=None, device=choose_device(device), name="",
        class_names=None,
    )  # fmt: skip
    subject = finish(subject_of(request))
    facts = general_facts(subject.network, 1, 2)
    plan = plan_for(subject.settings, facts, subject.trained, 1)
    generator = torch.Generator().manual_seed(0)

    def draw() -> None:
        batch = draw_batch(subject.trained, plan, generator, torch.device(device))
        batch.image.sum().item()

    return draw


def seconds(act: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def measured(width: int, chosen: argparse.Namespace, pairs: tuple[Pair, ...]) -> Row:
    """All three in turns."""
    settings = settings_for(width, chosen.batch_size, chosen.patch_size)
    device = choose_device(chosen.device).name
    steps = our_steps(pairs, settings, device)
    plain = plain_step(width, chosen.batch_size, chosen.patch_size, device)
    draw = drawing(pairs, replace(settings, width=2), device)
    acts: list[Callable[[], object]] = [lambda: next(steps), plain, draw]
    for act in acts:
        act()
    found: list[list[float]] = [[], [], []]
    for _ in range(chosen.rounds):
        for times, act in zip(found, acts, strict=True):
            times.append(seconds(act))
            if act is draw:
                times += [seconds(act) for _ in range(9)]
    steps.close()  # type: ignore[attr-defined]
    ours, base, input_side = (min(times) for times in found)
    medians = tuple(float(np.median(times)) for times in found)
    return Row(width=width, ours=ours, plain=base, drawing=input_side, medians=medians)


def report(rows: list[Row], chosen: argparse.Namespace) -> str:
    """The table, in Markdown."""
    device = choose_device(chosen.device)
    lines = [
        "# What a training step costs",
        "",
        f"Measured on {time.strftime('%Y-%m-%d')} with `training.py {' '.join(sys.argv[1:])}`: "
        f"{device.label}, {platform.machine()}, torch {version('torch')}, Python "
        f"{platform.python_version()}. Padded U-Net, {chosen.batch_size} patches of "
        f"{chosen.patch_size} px, {chosen.rounds} rounds in turns; the fastest counts (the median "
        f"in brackets).",
        "",
        "| width | plain float32 step, ms | ours, ms | times faster | drawing and deforming, ms | "
        "of our step |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        ours, plain, draw = (1000 * value for value in row.medians)
        lines.append(
            f"| {row.width} | {1000 * row.plain:.0f} ({plain:.0f}) | {1000 * row.ours:.0f} "
            f"({ours:.0f}) | **{row.plain / row.ours:.1f}** ({plain / ours:.1f}) | "
            f"{1000 * row.drawing:.1f} ({draw:.1f}) | {row.drawing / row.ours:.1%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--widths", default="32", help="channels of the first level: 32,64")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--patch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    pairs = images()
    rows = [measured(int(width), chosen, pairs) for width in chosen.widths.split(",")]
    tell(report(rows, chosen), chosen.out)


if __name__ == "__main__":
    main()
