"""Images larger than memory: time, memory, waiting, and going on after a kill.

    python benchmarks/big_images.py FOLDER [--sizes 4096x4096,8192x8192] [--kill] [--out FILE]

Makes each image as a zarr array in FOLDER (30000x30000 needs 2 GB there, its result about 4 GB),
segments it into a store beside it in a process of its own, and watches that process: its resident
memory beyond what Python, torch and the model take, the seconds spent waiting for the disk, and
the time of each phase. `--kill` kills the process half-way and lets another one continue.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import zarr

MIB = 2**20
BRIGHT = 187
"""Where a blob begins: about 7 % of a volume are brighter."""


def blobs(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A volume of smooth noise, uint8, that can be repeated in all directions."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).normal(size=shape)
    return (gaussian_filter(noise, 3, mode="wrap") * 2000 + 100).clip(0, 255).astype(np.uint8)


def make_picture(folder: Path, shape: tuple[int, ...]) -> Path:
    """A zarr array of simulated nuclei (2D, uint16) or blobs (3D, uint8); one tile, moved about."""
    path = folder / f"{'x'.join(map(str, shape))}.zarr"
    if path.exists():
        return path
    if len(shape) == 2:
        from napari_unet.core.simulation import SimulationSettings, simulate

        tile = simulate(SimulationSettings(size=1024, n_nuclei=280), 0).image
        chunks: tuple[int, ...] = (1024, 1024)
    else:
        tile = blobs((128, 256, 256), 0)
        chunks = (64, 128, 128)
    partial = path.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    array = zarr.create_array(partial, shape=shape, chunks=chunks, dtype=tile.dtype)
    for at in np.ndindex(*(-(-n // m) for n, m in zip(shape, tile.shape, strict=True))):
        where = tuple(
            slice(i * m, min((i + 1) * m, n)) for i, m, n in zip(at, tile.shape, shape, strict=True)
        )
        moved = np.roll(tile, [131 * i for i in at], tuple(range(len(at))))
        array[where] = moved[tuple(slice(0, part.stop - part.start) for part in where)]
    partial.rename(path)
    return path


def work(picture: Path, store_folder: Path, what: str, precision: str) -> None:
    """The process that is watched: says what it did as lines of JSON."""
    import torch

    import napari_unet as nu
    from napari_unet.core.image import make_image
    from napari_unet.core.segmentation import segmenting
    from napari_unet.core.store import store_for

    array = zarr.open_array(picture, mode="r")
    model = nu.load_model("nuclei", "cpu") if array.ndim == 2 else model_3d()
    with torch.inference_mode():  # what torch loads at its first run is not the engine's
        model.network(torch.zeros(1, model.config.in_channels, *(64,) * array.ndim))
    base = peak = resident()
    is_running = True

    def watch() -> None:
        nonlocal peak
        while is_running:
            peak = max(peak, resident())
            time.sleep(0.02)

    threading.Thread(target=watch, daemon=True).start()
    image = make_image(array, "zyx"[-array.ndim :], picture.name)
    settings = nu.SegmentSettings(what=what, precision=precision)
    store = store_for(store_folder, image, model, settings)
    phase, start, first = "", time.perf_counter(), None
    for progress in segmenting(image, model, settings, store=store):
        if progress.message != phase:
            report(phase, start, base, peak)
            phase, start, peak = progress.message, time.perf_counter(), resident()
        if first is None:
            first = progress.done / progress.total
            say(plan=str(progress.plan))
        say(done=progress.done / progress.total, waited=progress.waited)
    report(phase, start, base, peak)
    is_running = False


def report(phase: str, start: float, base: float, peak: float) -> None:
    """Say how long a phase took, in s, and the most memory in it, in MiB."""
    if phase:
        say(phase=phase, seconds=time.perf_counter() - start, peak=(peak - base) / MIB)


def say(**facts: object) -> None:
    """One line of JSON for the process that watches."""
    print(json.dumps(facts), flush=True)


def model_3d():  # type: ignore[no-untyped-def]
    """A 3D U-Net with 16, 32, 64 and 128 channels that has learnt to find the blobs."""
    import torch

    from napari_unet.core.device import choose_device
    from napari_unet.core.model import Description, Model, weights_id
    from napari_unet.core.networks import UNet, UNetConfig
    from napari_unet.core.normalization import Normalization

    torch.manual_seed(0)
    config = UNetConfig(dims=3, widths=(16, 32, 64, 128))
    network = UNet(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for step in range(40):
        raw = torch.from_numpy(blobs((32, 48, 48), step)).float()[None, None]
        target = (raw[:, 0] > BRIGHT).long()
        loss = torch.nn.functional.cross_entropy(network(raw / 255), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval().requires_grad_(False)
    return Model(
        network=network, architecture="unet", config=config, id=weights_id(network),
        description=Description(name="3D", dims=3, normalization=Normalization(kind="range")),
        device=choose_device("cpu"),
    )  # fmt: skip


def resident() -> int:
    """Resident memory of this process in bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def watched(command: list[str], kill_at: float | None) -> dict[str, object]:
    """Run the process, kill it when it is so far if asked, and gather what it says."""
    facts: dict[str, object] = {"phases": {}}
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            if "phase" in said:
                facts["phases"][said["phase"]] = said  # type: ignore[index]
            facts |= {name: said[name] for name in ("plan", "waited", "done") if name in said}
            if "done" in said and "first" not in facts:
                facts["first"] = said["done"]
            if kill_at is not None and said.get("done", 0) >= kill_at:
                process.send_signal(signal.SIGKILL)
                break
    facts["seconds"] = time.perf_counter() - start
    return facts


def main() -> None:
    """Make the images, have them segmented, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for images and results")
    parser.add_argument("--sizes", default="4096x4096,8192x8192,16384x16384")
    parser.add_argument("--what", choices=("objects", "classes"), default="objects")
    parser.add_argument("--precision", choices=("auto", "full"), default="auto")
    parser.add_argument("--kill", action="store_true", help="kill it half-way, and go on")
    parser.add_argument("--out", type=Path, help="a file for the table (Markdown)")
    parser.add_argument("--work", nargs=2, type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        work(*chosen.work, chosen.what, chosen.precision)
        return
    chosen.folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "| image | phase | s | Mpx/s | most memory, MiB | waiting |",
        "|---|---|---|---|---|---|",
    ]
    for size in chosen.sizes.split(","):
        shape = tuple(int(n) for n in size.split("x"))
        picture = make_picture(chosen.folder, shape)
        store = chosen.folder / f"{size}-result.zarr"
        shutil.rmtree(store, ignore_errors=True)
        command = [
            sys.executable, __file__, str(chosen.folder), "--what", chosen.what,
            "--precision", chosen.precision, "--work", str(picture), str(store),
        ]  # fmt: skip
        if chosen.kill:
            facts = watched(command, kill_at=0.5)
            lines.append(
                f"| {size} | killed at {facts['done']:.0%} | {facts['seconds']:.0f} | | | |"
            )
        facts = watched(command, None)
        print(facts.get("plan"), flush=True)
        for phase, said in facts["phases"].items():  # type: ignore[attr-defined]
            rate = np.prod(shape) / said["seconds"] / 1e6
            waited = float(facts.get("waited", 0)) / said["seconds"]  # type: ignore[arg-type]
            share = f"{waited:.1%}" if phase.startswith("Segment") else ""
            lines.append(
                f"| {size} | {phase} | {said['seconds']:.1f} | {rate:.2f} "
                f"| {said['peak']:.0f} | {share} |"
            )
        print("\n".join(lines), flush=True)
        if chosen.out is not None:
            chosen.out.write_text("\n".join(["# Big images", "", *lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
