"""The engine beside a raw forward, and beside the sliding windows of other libraries.

    python benchmarks/inference.py [--quick] [--repeats N] [--out FILE]

MONAI and nnU-Net take part if they are installed (`pip install monai nnunetv2`, in an environment
of its own); nothing of them is needed otherwise. All variants of a case take turns in one process,
the shortest time of each counts, and only ratios within one table mean anything.

*Raw forward*: the same network, batch norm folded, channels last, without gradients, run on tiles
that lie side by side and see nothing of each other: the least work there can be, and a wrong result
at every seam. *Labels that differ* are counted against the network run once on the whole image.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from machines import processor, versions_of
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from napari_unet.core.engine import Request
from napari_unet.core.image import make_image
from napari_unet.core.networks import UNet, UNetConfig
from napari_unet.core.normalization import IntensityScale
from napari_unet.core.prediction import member_for, predict
from napari_unet.core.progress import finish
from napari_unet.core.rooms import ArrayRoom
from napari_unet.core.simulation import SimulationSettings, simulate

RAW_TILES = {2: (256, 512, 1024), 3: (64, 128)}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One table: a network, an image, and what is run on it."""

    name: str
    base: int
    depth: int
    shape: tuple[int, ...]
    has_peers: bool = False
    is_trained: bool = False

    @property
    def dims(self) -> int:
        """2 for planes, 3 for volumes."""
        return len(self.shape)


CASES = (
    Case(name="2D, 32 channels, 2048 x 2048", base=32, depth=5, shape=(2048, 2048),
         has_peers=True, is_trained=True),
    Case(name="2D, 32 channels, 4096 x 4096", base=32, depth=5, shape=(4096, 4096)),
    Case(name="2D, 64 channels, 2048 x 2048", base=64, depth=5, shape=(2048, 2048)),
    Case(name="2D, 64 channels, 4096 x 4096", base=64, depth=5, shape=(4096, 4096)),
    Case(name="3D, 16 channels, 128 x 128 x 128", base=16, depth=4, shape=(128, 128, 128)),
    Case(name="3D, 16 channels, 64 x 256 x 256", base=16, depth=4, shape=(64, 256, 256)),
)  # fmt: skip
QUICK = (
    Case(name="2D, 16 channels, 1024 x 1024", base=16, depth=5, shape=(1024, 1024),
         has_peers=True, is_trained=True),
    Case(name="3D, 8 channels, 64 x 64 x 64", base=8, depth=4, shape=(64, 64, 64)),
)  # fmt: skip


@dataclass
class Row:
    """One variant: how to run it, what it found, and how long each run took, in s."""

    name: str
    run: Callable[[], np.ndarray]
    kind: str
    seconds: list[float] = field(default_factory=list)
    differing: float | None = None
    furthest: float | None = None


def picture(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Simulated nuclei `(y, x)`, or blobs `(z, y, x)`, uint16."""
    if len(shape) == 2:
        size = max(shape)
        settings = SimulationSettings(size=size, n_nuclei=70 * size**2 // 512**2)
        return scaled(simulate(settings, seed).image)
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return scaled(gaussian_filter(noise, 3))


def scaled(image: np.ndarray) -> np.ndarray:
    """To 0 ... 1, float32."""
    image = image.astype(np.float32)
    return (image - image.min()) / (np.ptp(image) + 1e-9)


def network_for(case: Case, n_steps: int) -> UNet:
    """A U-Net whose batch norm has seen images; trained for some steps if the labels matter."""
    torch.manual_seed(0)
    widths = tuple(case.base * 2**level for level in range(case.depth))
    network = UNet(UNetConfig(dims=case.dims, widths=widths))
    size = 128 if case.dims == 2 else 32
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for step in range(n_steps if case.is_trained else 3):
        if case.dims == 2:
            drawn = simulate(SimulationSettings(size=size, n_nuclei=8), step)
            image, truth = scaled(drawn.image), drawn.labels
        else:
            image = picture((size,) * 3, step)
            truth = image > 0.5
        batch = torch.from_numpy(image.astype(np.float32))[None, None]
        target = torch.from_numpy((np.asarray(truth) > 0).astype(np.int64))[None]
        loss = nn.functional.cross_entropy(network(batch), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


def folded(network: UNet, dtype: torch.dtype) -> UNet:
    """The same network as fast as torch runs it: batch norm folded, channels last."""
    fast = copy.deepcopy(network)
    for block in (*fast.encoder, *fast.decoder):
        for at in (0, 3):
            block[at] = fuse_conv_bn_eval(block[at], block[at + 1])
            block[at + 1] = nn.Identity()
    return fast.to(dtype).to(memory_format=layout_of(network.config.dims))


def layout_of(dims: int) -> torch.memory_format:
    """The layout that convolutions like best."""
    return torch.channels_last if dims == 2 else torch.channels_last_3d


def labels_of(logits: torch.Tensor) -> np.ndarray:
    """The likeliest output of each px."""
    return logits.argmax(0).to(torch.uint8).numpy()


@torch.inference_mode()
def raw(network: UNet, image: np.ndarray, tile: int, dtype: torch.dtype) -> np.ndarray:
    """Labels from tiles side by side."""
    labels = np.zeros(image.shape, np.uint8)
    for window in windows(image.shape, tile):
        batch = torch.from_numpy(image[window])[None, None].to(dtype)
        batch = batch.contiguous(memory_format=layout_of(image.ndim))
        labels[window] = labels_of(network(batch)[0])
    return labels


def windows(shape: tuple[int, ...], tile: int) -> Iterator[tuple[slice, ...]]:
    """Tiles side by side."""
    cuts = [[slice(a, min(a + tile, n)) for a in range(0, n, tile)] for n in shape]
    return itertools.product(*cuts)


def engine(network: UNet, image: np.ndarray, precision: str) -> Callable[[], np.ndarray]:
    """The whole of `predict`: reading, scaling, the network, softmax, probabilities in memory."""
    opened = make_image(image, "zyx"[-image.ndim :])
    request = Request(
        network=network, dims=image.ndim, in_channels=1, activation="softmax", shape=image.shape,
        precision=precision,
    )  # fmt: skip
    one = IntensityScale(offset=(0.0,), scale=(1.0,))
    member = member_for(request, opened, one)
    print(f"    {member.plan}".replace("\n", "\n    "), flush=True)

    def run() -> np.ndarray:
        out = np.zeros((2, *image.shape), np.float32)
        finish(predict([member], opened, ArrayRoom(out)))
        return (out[1] > out[0]).astype(np.uint8)

    run.is_reduced = member.plan.precision.is_reduced  # type: ignore[attr-defined]
    return run


def peers(network: UNet, fast: UNet, image: np.ndarray) -> Iterator[tuple[str, str, Callable]]:
    """Other libraries, as their users run them and at their best, on this network."""
    batch = torch.from_numpy(image)[None, None]
    try:
        from monai.inferers import sliding_window_inference
    except ImportError:
        print("    MONAI is not installed")
    else:

        @torch.inference_mode()
        def monai(net: UNet, size: int, n: int) -> np.ndarray:
            found = sliding_window_inference(
                batch, (size,) * image.ndim, n, net, overlap=0.25, mode="gaussian"
            )
            return labels_of(found[0])

        yield "MONAI, 512 px, 4 at once (usual)", "peer", lambda: monai(network, 512, 4)
        yield "MONAI, 256 px, 1 at once", "peer", lambda: monai(network, 256, 1)
        yield "MONAI, 512 px, 1 at once", "peer", lambda: monai(network, 512, 1)
        yield "MONAI, 256 px, with our folded network", "peer", lambda: monai(fast, 256, 1)
    try:
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    except ImportError:
        print("    nnU-Net is not installed")
    else:
        predictor = nnUNetPredictor(
            tile_step_size=0.5, use_gaussian=True, use_mirroring=False,
            perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False,
        )  # fmt: skip
        predictor.network = network
        predictor.configuration_manager = SimpleNamespace(patch_size=(512,) * image.ndim)
        predictor.label_manager = SimpleNamespace(num_segmentation_heads=2)
        predictor.allowed_mirroring_axes = None

        def nnunet() -> np.ndarray:
            found = predictor.predict_sliding_window_return_logits(batch[0][:, None])
            return labels_of(found[:, 0].float())

        yield "nnU-Net, 512 px, half steps, no mirroring", "peer", nnunet


def rows_of(case: Case, network: UNet, image: np.ndarray) -> Iterator[Row]:
    """Every variant that takes part in a case."""
    fast, half = folded(network, torch.float32), folded(network, torch.bfloat16)
    full, auto = engine(network, image, "full"), engine(network, image, "auto")
    tiles = [tile for tile in RAW_TILES[case.dims] if tile <= max(case.shape)]
    for tile in tiles:
        yield Row(
            f"raw forward, {tile} px", partial(raw, fast, image, tile, torch.float32), "raw 32"
        )
    yield Row("engine, float32", full, "engine 32")
    if auto.is_reduced:  # type: ignore[attr-defined]
        for tile in tiles:
            run = partial(raw, half, image, tile, torch.bfloat16)
            yield Row(f"raw forward, bfloat16, {tile} px", run, "raw 16")
        yield Row("engine, bfloat16", auto, "engine 16")
    if case.has_peers:
        for name, kind, run in peers(network, fast, image):
            yield Row(name, run, kind)


def measured(case: Case, n_repeats: int, n_steps: int) -> list[Row]:
    """All variants of a case, taking turns."""
    print(f"## {case.name}", flush=True)
    network = network_for(case, n_steps)
    image = picture(case.shape, 1000).astype(np.float32)
    rows = list(rows_of(case, network, image))
    with torch.inference_mode():
        is_small = np.prod(case.shape) * case.base <= 2048**2 * 32
        truth = labels_of(network(torch.from_numpy(image)[None, None])[0]) if is_small else None
    for repeat in range(n_repeats):
        for row in rows:
            if row.kind == "peer" and repeat >= max(1, n_repeats // 2):
                continue
            start = time.perf_counter()
            labels = row.run()
            row.seconds.append(time.perf_counter() - start)
            if truth is not None and row.differing is None:
                row.differing = float((labels != truth).mean())
            print(f"    {repeat} {row.name}: {row.seconds[-1]:.2f} s", flush=True)
    return rows


def table(case: Case, rows: list[Row]) -> str:
    """Times as ratios to the raw forward of the same precision, and to the engine in float32."""
    best = {row.name: min(row.seconds) for row in rows}
    raw_of = {
        bits: min((best[row.name] for row in rows if row.kind == f"raw {bits}"), default=None)
        for bits in ("32", "16")
    }
    ours = best["engine, float32"]
    lines = [
        f"### {case.name}", "",
        "| variant | s | x raw forward | x engine float32 | labels that differ |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        base = raw_of["16" if row.kind.endswith("16") else "32"]
        differing = "" if row.differing is None else f"{row.differing:.1e}"
        lines.append(
            f"| {row.name} | {best[row.name]:.2f} | {best[row.name] / base:.2f} "
            f"| {best[row.name] / ours:.2f} | {differing} |"
        )
    return "\n".join(lines)


def machine() -> str:
    """Processor, threads and versions."""
    found = versions_of(("napari-unet-live", "torch", "numpy", "monai", "nnunetv2"))
    return f"{processor()}, {torch.get_num_threads()} threads, {platform.platform()}; {found}"


def main() -> None:
    """Measure all cases and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small networks and images")
    parser.add_argument("--repeats", type=int, default=4, help="runs of each variant")
    parser.add_argument("--case", help="only cases whose name holds this")
    parser.add_argument("--steps", type=int, default=250, help="of training, where labels count")
    parser.add_argument("--out", type=Path, help="a file for the tables (Markdown)")
    chosen = parser.parse_args()
    cases = [
        case for case in (QUICK if chosen.quick else CASES) if (chosen.case or "") in case.name
    ]
    text = ["# Inference", "", machine(), ""]
    for case in cases:
        text += [table(case, measured(case, chosen.repeats, chosen.steps)), ""]
        if chosen.out is not None:
            chosen.out.write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
