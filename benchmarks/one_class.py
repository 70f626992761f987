"""Five strokes of one class alone: does the network call everything that class?

    python benchmarks/one_class.py DATA [--out FILE]

Phase contrast, of which the built-in model knows little. A simulated person paints five strokes on
cells that are missed, or five on background, and nothing else; then live mode learns for 20 steps,
with untouched pixels held to what was said before, and without. DATA as in `annotation.py`.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
from annotation_kinds import kind_of
from machines import processor, tell, versions_of

import napari_unet as nu
from napari_unet.core.annotator import draw_strokes, next_strokes
from napari_unet.core.metrics import pixel_iou

N_STROKES, N_STEPS, SIZE = 5, 20, 320


def strokes_of(value: int, shown: np.ndarray, truth: np.ndarray, seed: int) -> np.ndarray:
    """Corrections `(y, x)` with strokes of one class on what is not shown as that class."""
    painted = np.zeros(truth.shape, np.uint8)
    # NOTE: hardly any background is called cells; where none is, any will do
    wrong = np.where(truth, 0, shown) if value == 2 else np.ones(truth.shape, int)
    n = 0
    for draw in range(30):
        for stroke in next_strokes(wrong, truth, painted, 10, seed=100 * seed + draw):
            if stroke.value == value and n < N_STROKES:
                draw_strokes(painted, [stroke])
                n += 1
    return painted


def both(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean IoU of cells and background."""
    return (pixel_iou(found, truth) + pixel_iou(~found, ~truth)) / 2


def measured(pairs: list, memory: float, value: int, seeds: int) -> tuple[float, float, float]:
    """Mean IoU before and after, and the share called cells after; means over images."""
    rows = []
    for seed in range(seeds):
        image, labels = pairs[seed]
        truth = (labels > 0).astype(int)
        live = nu.LiveSession("nuclei", nu.LiveSettings(seed=seed, memory=memory))
        key = live.add_image(image)
        shown = live.look(key).classes > 0
        live.paint(key, strokes_of(value, shown.astype(int), truth, seed))
        live.learn(steps=N_STEPS)
        found = live.look(key).classes > 0
        rows.append((both(shown, truth > 0), both(found, truth > 0), found.mean()))
    before, after, share = np.mean(rows, axis=0).tolist()
    return before, after, share


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    pairs = list(kind_of("phase contrast", chosen.data, SIZE, 1).corrected)
    cells = np.mean([(labels > 0).mean() for _, labels in pairs[: chosen.seeds]])
    lines = [
        "# Strokes of one class alone",
        "",
        f"Measured on {time.strftime('%Y-%m-%d')} with `one_class.py DATA`: "
        f"{processor()} ({os.cpu_count()} cores), {versions_of(['torch', 'numpy'])}. "
        f"Phase contrast, {SIZE} px, {cells:.0%} of it cells; {N_STEPS} steps after {N_STROKES} "
        f"strokes; means of {chosen.seeds} images.",
        "",
        "| strokes on | memory | mean IoU before | after | called cells after |",
        "|---|--:|--:|--:|--:|",
    ]
    for value, name in ((2, "cells"), (1, "background")):
        for memory in (nu.LiveSettings().memory, 0.0):
            before, after, share = measured(pairs, memory, value, chosen.seeds)
            lines.append(f"| {name} | {memory:g} | {before:.2f} | {after:.2f} | {share:.0%} |")
            print(lines[-1], flush=True)
    tell("\n".join(lines) + "\n", chosen.out)


if __name__ == "__main__":
    main()
