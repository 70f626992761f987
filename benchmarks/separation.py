"""The separation map of the U-Net paper for many objects, beside other ways to compute it.

    python benchmarks/separation.py [--quick] [--repeats N] [--case TEXT] [--out FILE]

All ways take turns in one process on one thread, the shortest time of each counts, and only ratios
within one table mean anything. Objects are balls of random size at random places, also touching.

*Formula*: a distance transform of the whole image for each object, as the formula reads and as most
scripts do it. It is timed on a few of the objects, and the time is scaled up to all of them.
*Formula in windows*: the same, of each object's box and the pixels it can reach.
*KD-trees*: one of all rims of objects for the nearest, and for each object one of the other rims
around it for the second nearest; pixels that are too far away are left out beforehand. Of large
volumes an eighth is timed, and the time scaled up.
*Furthest* is the largest relative difference from the formula in windows between objects, where it
gives at least 1e-4 (of 10).
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.ndimage as ndi
from machines import processor, versions_of
from scipy.spatial import cKDTree

from napari_unet.core.separation import separation_map

W_0, SIGMA, REACH = 10.0, 5.0, 24
"""The paper's values; further than `REACH` px the map is below 1e-4."""

OURS = "napari-unet-live"
LARGE = 1 << 22
"""Volumes of more px are too much for KD-trees."""
LONG = 30
"""What takes more seconds is run once."""

Map = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Case:
    """One table: an image of objects."""

    name: str
    shape: tuple[int, ...]
    n_objects: int
    radii: tuple[float, float]
    spacing: tuple[float, ...] | None = None


CASES = (
    Case(name="2D, 2048 x 2048, 1000 objects", shape=(2048, 2048), n_objects=1000, radii=(10, 18)),
    Case(name="3D, 64 x 512 x 512, 1000 objects", shape=(64, 512, 512), n_objects=1000,
         radii=(7, 13)),
    Case(name="3D, 64 x 512 x 512, 1000 objects, slices 2 px apart", shape=(64, 512, 512),
         n_objects=1000, radii=(7, 13), spacing=(2.0, 1.0, 1.0)),
)  # fmt: skip
QUICK = (
    Case(name="2D, 512 x 512, 60 objects", shape=(512, 512), n_objects=60, radii=(10, 22)),
    Case(name="3D, 32 x 128 x 128, 40 objects", shape=(32, 128, 128), n_objects=40, radii=(7, 13)),
)


@dataclass
class Row:
    """One way: how to run it, by how much its time is scaled, and how long each run took, in s."""

    name: str
    run: Callable[[], Map | None]
    factor: float = 1.0
    seconds: list[float] = field(default_factory=list)
    furthest: float | None = None

    @property
    def best(self) -> float:
        """Shortest time, scaled up to all objects."""
        return min(self.seconds) * self.factor


def objects(case: Case) -> np.ndarray:
    """Object ids int32; who comes later is cut by who was there."""
    rng = np.random.default_rng(0)
    labels = np.zeros(case.shape, np.int32)
    for number in range(1, case.n_objects + 1):
        center, radius = [rng.integers(0, n) for n in case.shape], rng.uniform(*case.radii)
        box = tuple(slice(max(0, int(c - radius)), int(c + radius) + 2) for c in center)
        part = labels[box]
        grid = np.ogrid[tuple(slice(0, n) for n in part.shape)]
        squares = sum((g + b.start - c) ** 2 for g, b, c in zip(grid, box, center, strict=True))
        part[(squares <= radius**2) & (part == 0)] = number
    return labels


def weights_of(first: Map, second: Map) -> Map:
    """The formula."""
    return (W_0 * np.exp(-((first + second) ** 2) / (2 * SIGMA**2))).astype(np.float32)


def insert(first: Map, second: Map, distances: Map) -> None:
    """Keep the two least distances."""
    np.minimum(second, np.maximum(first, distances), out=second)
    np.minimum(first, distances, out=first)


def by_formula(labels: np.ndarray, case: Case, n_objects: int) -> Map:
    """A distance transform of the image for each of some objects."""
    first, second = (np.full(labels.shape, np.inf) for _ in range(2))
    for number in range(1, n_objects + 1):
        insert(first, second, ndi.distance_transform_edt(labels != number, sampling=case.spacing))
    return weights_of(first, second)


def wider(box: tuple[slice, ...], case: Case, reach: float) -> tuple[slice, ...]:
    """A box with all that is in reach."""
    sizes = case.spacing or (1.0,) * len(box)
    steps = [int(np.ceil(reach / size)) for size in sizes]
    return tuple(
        slice(max(0, side.start - n), side.stop + n) for side, n in zip(box, steps, strict=True)
    )


def in_windows(labels: np.ndarray, case: Case) -> Map:
    """A distance transform around each object."""
    first, second = (np.full(labels.shape, np.inf) for _ in range(2))
    for number, box in enumerate(ndi.find_objects(labels), start=1):
        if box is not None:
            place = wider(box, case, REACH)
            found = ndi.distance_transform_edt(labels[place] != number, sampling=case.spacing)
            insert(first[place], second[place], found)
    return weights_of(first, second)


def by_trees(labels: np.ndarray, case: Case) -> Map:
    """Nearest and second nearest rims from KD-trees, in the background."""
    sizes = np.array(case.spacing or (1.0,) * labels.ndim)
    found = np.zeros(labels.shape, np.float32)
    is_rim = (ndi.minimum_filter(labels, 3) != ndi.maximum_filter(labels, 3)) & (labels > 0)
    rims = np.argwhere(is_rim)
    pixels = np.argwhere(labels == 0)
    first, nearest = cKDTree(rims * sizes).query(
        pixels * sizes, distance_upper_bound=REACH / 2 + 1e-6
    )
    near = np.isfinite(first)
    pixels, first = pixels[near], first[near]
    owners = labels[tuple(rims[nearest[near]].T)]
    order = np.argsort(owners, kind="stable")
    starts = np.searchsorted(owners[order], np.arange(1, labels.max() + 2))
    for number, box in enumerate(ndi.find_objects(labels), start=1):
        mine = order[starts[number - 1] : starts[number]]
        if box is None or not len(mine):
            continue
        place = wider(box, case, REACH * 1.5)
        others = np.argwhere(is_rim[place] & (labels[place] != number))
        if len(others):
            others += [side.start for side in place]
            second = cKDTree(others * sizes).query(
                pixels[mine] * sizes, distance_upper_bound=REACH + 1e-6
            )[0]
            found[tuple(pixels[mine].T)] = weights_of(first[mine], second)
    return found


def rows_of(labels: np.ndarray, case: Case, n_formula: int) -> list[Row]:
    """All ways."""

    def single() -> None:
        ndi.distance_transform_edt(labels == 0, sampling=case.spacing)

    def formula() -> None:
        by_formula(labels, case, n_formula)

    def trees() -> None:
        by_trees(labels[:, : case.shape[1] // 4, : case.shape[2] // 2], case)

    return [
        Row("formula in windows", lambda: in_windows(labels, case)),
        Row(OURS, lambda: separation_map(labels, W_0, SIGMA, case.spacing)),
        Row("(one distance transform of the image)", single),
        Row("KD-trees", lambda: by_trees(labels, case))
        if labels.ndim == 2 or labels.size < LARGE
        else Row("KD-trees (from an eighth)", trees, 8),
        Row(f"formula (from {n_formula} objects)", formula, case.n_objects / n_formula),
    ]


def measured(case: Case, n_repeats: int, n_formula: int) -> list[Row]:
    """Run all ways in turn."""
    print(f"  {case.name}", flush=True)
    labels = objects(case)
    truth = counts = np.zeros(0)
    rows = rows_of(labels, case, n_formula)
    for repeat in range(n_repeats):
        for row in rows:
            if row.seconds and row.seconds[0] > LONG:
                continue
            start = time.perf_counter()
            found = row.run()
            row.seconds.append(time.perf_counter() - start)
            if found is not None and not truth.size:
                truth, counts = found, (labels == 0) & (found >= 1e-5 * W_0)
            elif found is not None and row is not rows[0]:
                row.furthest = float(np.abs(found[counts] / truth[counts] - 1).max())
            print(f"    {repeat} {row.name}: {row.seconds[-1]:.2f} s", flush=True)
    share = f"{counts.mean():.0%} of the pixels are between objects"
    print(f"    {share}, {(labels > 0).mean():.0%} in objects", flush=True)
    return rows


def table(case: Case, rows: list[Row]) -> str:
    """Times, and as ratios to ours."""
    ours = next(row.best for row in rows if row.name == OURS)
    lines = [
        f"### {case.name}", "",
        "| way | s | x napari-unet-live | furthest |",
        "|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        furthest = "" if row.furthest is None else f"{row.furthest:.1e}"
        lines.append(f"| {row.name} | {row.best:.2f} | {row.best / ours:.1f} | {furthest} |")
    return "\n".join(lines)


def machine() -> str:
    """Processor and versions."""
    found = versions_of(("napari-unet-live", "numpy", "scipy"))
    return f"{processor()}, one thread, {platform.system()}; {found}"


def main() -> None:
    """Measure all cases and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small images")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way")
    parser.add_argument("--objects", type=int, default=3, help="that the formula is timed on")
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    parser.add_argument("--out", type=Path, help="a file for the tables (Markdown)")
    chosen = parser.parse_args()
    cases = [case for case in (QUICK if chosen.quick else CASES) if chosen.case in case.name]
    text = ["# Separation map", "", machine(), ""]
    for case in cases:
        text += [table(case, measured(case, chosen.repeats, chosen.objects)), ""]
        if chosen.out is not None:
            chosen.out.write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
