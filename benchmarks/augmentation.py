"""What it costs to deform a training patch and its target, beside the libraries that do it.

    python benchmarks/augmentation.py [--quick] [--case NAME] [--rounds N] [--out FILE]

Each variant deforms an image (linear interpolation) and its target (nearest neighbour) and does
nothing else; libraries that are not installed are named as such. All take turns, and the shortest
of several rounds counts: of the time that passed, and of the time that all threads computed, which
other programs change less. The deformations are not the same: some libraries smooth a random field,
others interpolate a coarse grid. In volumes this package moves px in the plane only, and slices
are never mixed; the others move them along z, too.

Then a training step of a U-Net (32 channels, 4 patches of 256 x 256 px) and all that is done to
its batch, in the same rounds.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the plugin sets it: threads sleep
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import numpy as np
import scipy.ndimage as ndi
import torch
import torch.nn.functional as F
from machines import processor, versions_of

from napari_unet.core.augmentation import augment_batch, elastic_field
from napari_unet.core.device import autocast
from napari_unet.core.networks.registry import Wanted, preset_of
from napari_unet.core.settings import AugmentationSettings

N_THREADS = 2
SIGMA = 10.0
"""Standard deviation of displacements, in px."""
SLOW = 0.2
"""Seconds that one variant takes of a round, about."""
DISTRIBUTIONS = (
    "napari-unet-live", "torch", "torchvision", "numpy", "scipy", "elasticdeform",
    "batchgenerators", "batchgeneratorsv2", "kornia", "albumentations", "opencv-python-headless",
    "monai", "gryds",
)  # fmt: skip
BENT = AugmentationSettings(
    elastic_sigma=SIGMA, rotation=0, scale=1, flips=False, brightness=0, contrast=0, gamma=1,
    noise=0,
)  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Row:
    """One variant: `run(n)` does `n` samples; `seconds` and `work` (of all threads) are of one."""

    name: str
    run: Callable[[int], object] | None = None
    problem: str = ""
    n: int = 1
    seconds: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A size of patch, `([z,] y, x)` in px, and how many come in a batch."""

    shape: tuple[int, ...]
    n: int

    @property
    def name(self) -> str:
        """Such as 512 x 512, batch 8."""
        return " x ".join(map(str, self.shape)) + (f", batch {self.n}" if self.n > 1 else "")


CASES = (
    Case(shape=(512, 512), n=8), Case(shape=(256, 256), n=8), Case(shape=(64, 128, 128), n=1),
)  # fmt: skip
QUICK = (Case(shape=(128, 128), n=4), Case(shape=(16, 64, 64), n=1))


def pictures(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Images `(b, ...)` float32 and targets `(b, ...)` uint8 of three values."""
    rng = np.random.default_rng(0)
    image = rng.random((case.n, *case.shape), np.float32)
    smooth = ndi.gaussian_filter(rng.random((case.n, *case.shape)), (0, *[6] * len(case.shape)))
    target = np.digitize(smooth, np.quantile(smooth, [0.5, 0.8])).astype(np.uint8)
    return image, target


def ours(image: np.ndarray, target: np.ndarray) -> Callable[[int], object]:
    """`augment_batch` with nothing but the elastic deformation."""
    images = [torch.from_numpy(one)[None] for one in image]
    targets = [torch.from_numpy(one) for one in target]
    shape = target.shape[1:]
    centers = [tuple((n - 1) / 2 for n in shape)] * len(images)
    generator = torch.Generator().manual_seed(0)
    return lambda n: augment_batch(
        images[:n], targets[:n], None, centers[:n], shape, BENT, generator
    )


def three_axes(image: np.ndarray, target: np.ndarray) -> Callable[[int], object]:
    """What it would cost to move the px of volumes along z, too: a part of z for each core."""
    n_dims = image.ndim - 1
    shape = image.shape[1:]
    images, targets = torch.from_numpy(image)[:, None], torch.from_numpy(target)[:, None].float()
    places = [torch.arange(n, dtype=torch.float32) for n in shape]
    identity = torch.stack(torch.meshgrid(*places, indexing="ij"))
    scale = 2 / (torch.tensor(shape).view(-1, 1, 1, 1) - 1)

    def run(n: int) -> None:
        for i in range(n):
            field = elastic_field(torch.randn(n_dims, 3, 3, 3) * SIGMA, shape)
            grid = field.add_(identity).mul_(scale).sub_(1).flip(0).movedim(0, -1)
            grid = grid.view(N_THREADS, -1, *shape[1:], n_dims)
            for one, mode in ((images[i], "bilinear"), (targets[i], "nearest")):
                parts = one[None].expand(N_THREADS, *[-1] * one.ndim)
                F.grid_sample(parts, grid, mode, padding_mode="reflection", align_corners=True)

    return run


def floor(image: np.ndarray, target: np.ndarray) -> Callable[[int], object]:
    """One bilinear reading of the image and nothing else, from places that are known."""
    images = torch.from_numpy(image).view(-1, 1, *image.shape[-2:])
    places = [torch.linspace(-0.95, 0.95, size) for size in image.shape[-2:]]
    y, x = torch.meshgrid(*places, indexing="ij")
    grid = torch.stack([x, y], dim=-1).expand(len(images), -1, -1, -1).contiguous()
    n_planes = len(images) // len(image)
    return lambda n: F.grid_sample(
        images[: n * n_planes], grid[: n * n_planes], padding_mode="border", align_corners=True
    )


def elasticdeform(image: np.ndarray, target: np.ndarray, order: int) -> Callable[[int], object]:
    """Its 3 x 3 grid, with the image interpolated to `order`."""
    deform = importlib.import_module("elasticdeform").deform_random_grid

    def run(n: int) -> None:
        for i in range(n):
            deform([image[i], target[i]], sigma=SIGMA, points=3, order=[order, 0], mode="mirror")

    return run


def scipy_fields(image: np.ndarray, target: np.ndarray) -> Callable[[int], object]:
    """Smoothed random fields (Simard et al. 2003), as in many a recipe."""
    rng = np.random.default_rng(0)
    places = np.indices(image.shape[1:], dtype=np.float32)

    def run(n: int) -> None:
        for i in range(n):
            at = []
            for line in places:
                moved = ndi.gaussian_filter(rng.uniform(-1, 1, line.shape).astype(np.float32), 12)
                at.append(line + moved * (SIGMA / moved.std()))
            ndi.map_coordinates(image[i], at, order=1, mode="mirror")
            ndi.map_coordinates(target[i], at, order=0, mode="constant", cval=255)

    return run


def batchgenerators(image: np.ndarray, target: np.ndarray) -> Callable[[int], object]:
    """`augment_spatial`, elastic part only, linear."""
    name = "batchgenerators.augmentations.spatial_transformations"
    augment = importlib.import_module(name).augment_spatial
    return lambda n: augment(
        image[:n, None], target[:n, None], image.shape[1:], do_elastic_deform=True,
        do_rotation=False, do_scale=False, random_crop=False, order_data=1, order_seg=0,
        border_mode_data="mirror",
    )  # fmt: skip


def batchgeneratorsv2(image: np.ndarray, target: np.ndarray) -> Callable[[int], object]:
    """`SpatialTransform`, elastic part only, as nnU-Net runs it but with nearest targets."""
    module = importlib.import_module("batchgeneratorsv2.transforms.spatial.spatial")
    transform = module.SpatialTransform(
        image.shape[1:], 0, False, p_elastic_deform=1, mode_seg="nearest",
        padding_mode_image="reflection",
    )  # fmt: skip
    images, targets = torch.from_numpy(image)[:, None], torch.from_numpy(target)[:, None]

    def run(n: int) -> None:
        for i in range(n):
            transform(image=images[i], segmentation=targets[i])

    return run


def torchvision(image: np.ndarray, target: np.ndarray) -> Callable[[int], object]:
    """`v2.ElasticTransform` with its defaults (a blur with a small kernel), on the whole batch."""
    v2 = importlib.import_module("torchvision.transforms.v2")
    typed = importlib.import_module("torchvision.tv_tensors")
    transform = v2.ElasticTransform()
    images = typed.Image(torch.from_numpy(image)[:, None])
    targets = typed.Mask(torch.from_numpy(target)[:, None])
    return lambda n: transform(
        typed.wrap(images[:n], like=images), typed.wrap(targets[:n], like=targets)
    )


def kornia(image: np.ndarray, target: np.ndarray) -> Callable[[int], object]:
    """`RandomElasticTransform` with its defaults, on the whole batch."""
    k = importlib.import_module("kornia.augmentation")
    transform = k.AugmentationSequential(
        k.RandomElasticTransform(p=1.0), data_keys=["input", "mask"]
    )
    images, targets = torch.from_numpy(image)[:, None], torch.from_numpy(target)[:, None].float()
    return lambda n: transform(images[:n], targets[:n])


def albumentations(
    image: np.ndarray, target: np.ndarray, is_approximate: bool
) -> Callable[[int], object]:
    """`ElasticTransform`."""
    module = importlib.import_module("albumentations")
    importlib.import_module("cv2").setNumThreads(N_THREADS)
    transform = module.ElasticTransform(
        alpha=120, sigma=12, approximate=is_approximate, border_mode=4, p=1.0
    )

    def run(n: int) -> None:
        for i in range(n):
            transform(image=image[i], mask=target[i])

    return run


def monai(image: np.ndarray, target: np.ndarray) -> Callable[[int], object]:
    """`Rand2DElasticd` or `Rand3DElasticd`, mirrored, with nearest targets."""
    module = importlib.import_module("monai.transforms")
    how = {"keys": ("image", "target"), "prob": 1.0, "mode": ("bilinear", "nearest"),
           "padding_mode": "reflection"}  # fmt: skip
    if image.ndim == 3:
        spacing = tuple(n / 2 for n in image.shape[1:])
        transform = module.Rand2DElasticd(spacing=spacing, magnitude_range=(SIGMA, SIGMA), **how)
    else:
        transform = module.Rand3DElasticd(sigma_range=(5, 8), magnitude_range=(50, 100), **how)
    images, targets = torch.from_numpy(image)[:, None], torch.from_numpy(target)[:, None]

    def run(n: int) -> None:
        for i in range(n):
            transform({"image": images[i], "target": targets[i]})

    return run


def gryds(image: np.ndarray, target: np.ndarray) -> Callable[[int], object]:
    """A B-spline of a 3 x 3 grid, linear."""
    module = importlib.import_module("gryds")
    rng = np.random.default_rng(0)
    n_dims = image.ndim - 1

    def run(n: int) -> None:
        for i in range(n):
            moved = rng.normal(0, SIGMA, (n_dims, *[3] * n_dims))
            moved /= np.array(image.shape[1:]).reshape(-1, *[1] * n_dims)
            transform = module.BSplineTransformation(moved)
            module.Interpolator(image[i], order=1, mode="mirror").transform(transform)
            module.Interpolator(target[i], order=0).transform(transform)

    return run


PLANES_ONLY = {"torchvision", "kornia", "albumentations", "albumentations, approximate"}
PEERS: dict[str, Callable[..., Callable[[int], object]]] = {
    "elasticdeform, image order 3 (its default)": lambda i, t: elasticdeform(i, t, 3),
    "elasticdeform, image order 1": lambda i, t: elasticdeform(i, t, 1),
    "scipy: gaussian_filter, map_coordinates": scipy_fields,
    "batchgenerators": batchgenerators,
    "batchgeneratorsv2": batchgeneratorsv2,
    "torchvision": torchvision,
    "kornia": kornia,
    "albumentations": lambda i, t: albumentations(i, t, False),
    "albumentations, approximate": lambda i, t: albumentations(i, t, True),
    "MONAI": monai,
    "gryds": gryds,
}


def rows_of(case: Case) -> Iterator[Row]:
    """All variants that can run, tried once, and those that cannot with the reason."""
    image, target = pictures(case)
    yield Row(name="augment_batch", run=ours(image, target), n=case.n)
    yield Row(name="one grid_sample, no target", run=floor(image, target), n=case.n)
    if len(case.shape) == 3:
        name = "elastic_field and grid_sample, along z too"
        yield Row(name=name, run=three_axes(image, target))
    for name, build in PEERS.items():
        if len(case.shape) == 3 and name in PLANES_ONLY:
            continue
        row = Row(name=name)
        try:
            row.run = build(image, target)
            row.run(1)
            start = time.perf_counter()
            row.run(1)
            row.n = max(1, min(case.n, int(SLOW / (time.perf_counter() - start))))
        except Exception as error:  # NOTE: whatever a peer raises, the others are measured
            row.run, row.problem = None, f"{type(error).__name__}: {error}".splitlines()[0][:70]
        yield row


def measured(rows: list[Row], n_rounds: int) -> list[Row]:
    """Time all that run, taking turns."""
    for _ in range(n_rounds):
        for row in rows:
            if row.run is not None:
                start, work = time.perf_counter(), time.process_time()
                row.run(row.n)
                row.seconds.append((time.perf_counter() - start) / row.n)
                row.work.append((time.process_time() - work) / row.n)
    return rows


def table(case: Case, rows: list[Row]) -> str:
    """Milliseconds per sample, and how many times ours that is."""
    first, least = min(rows[0].seconds), min(rows[0].work)
    lines = [
        f"### {case.name}", "",
        "| variant | ms per sample | x ours | computing, ms | x ours |", "|---|--:|--:|--:|--:|",
    ]  # fmt: skip
    for row in rows:
        if row.run is None:
            lines.append(f"| {row.name} | {row.problem} | | | |")
        else:
            best, work = min(row.seconds), min(row.work)
            lines.append(
                f"| {row.name} | {best * 1e3:.2f} | {best / first:.1f} "
                f"| {work * 1e3:.2f} | {work / least:.1f} |"
            )
    return "\n".join(lines)


def training_step(n_patches: int, size: int, width: int, bits: int) -> Callable[[int], object]:
    """One step of a U-Net on a batch that is there: forward, loss, backward, AdamW."""
    preset = preset_of("unet")
    torch.manual_seed(0)
    network = preset.kind.network(preset.configure(Wanted(width=width)))
    network = network.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    image = torch.rand(n_patches, 1, size, size).to(memory_format=torch.channels_last)
    target = torch.randint(0, 2, (n_patches, size, size))

    def run(n: int) -> None:
        for _ in range(n):
            optimizer.zero_grad()
            with (
                autocast(torch.device("cpu"))
                if bits == 16
                else torch.autocast("cpu", enabled=False)
            ):
                logits = network(image)
            F.cross_entropy(logits.float(), target).backward()
            optimizer.step()

    return run


def batch_of(n_patches: int, size: int, settings: AugmentationSettings) -> Callable[[int], object]:
    """A batch from larger images, as training makes it."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(1, 2 * size, 2 * size) for _ in range(n_patches)]
    targets = [torch.zeros(2 * size, 2 * size, dtype=torch.uint8) for _ in range(n_patches)]
    centers = [(size - 0.5, size - 0.5)] * n_patches
    return lambda n: [
        augment_batch(images, targets, None, centers, (size, size), settings, generator)
        for _ in range(n)
    ]


def share_of_a_step(n_rounds: int, size: int, width: int) -> str:
    """What a batch costs beside the step that it is for."""
    rows = [
        Row(name=f"training step, {'bfloat16' if bits == 16 else 'float32'}",
            run=training_step(4, size, width, bits))
        for bits in (16, 32)
    ]  # fmt: skip
    rows.append(Row(name="elastic", run=batch_of(4, size, BENT), n=4))
    quiet = AugmentationSettings(noise=0)
    rows.append(Row(name="the default without noise", run=batch_of(4, size, quiet), n=4))
    rows.append(Row(name="the default", run=batch_of(4, size, AugmentationSettings()), n=4))
    for row in rows:
        assert row.run is not None
        row.run(1)
    measured(rows, n_rounds)
    steps = [min(row.work) for row in rows[:2]]
    lines = [
        f"### A step with 4 patches of {size} x {size} px, U-Net of {width} channels", "",
        "| | ms per batch | computing, ms | part of a step, bfloat16 | part of a step, float32 |",
        "|---|--:|--:|--:|--:|",
    ]  # fmt: skip
    for row in rows:
        best, work = min(row.seconds), min(row.work)
        parts = " | ".join(f"{work / step:.2%}" for step in steps)
        lines.append(f"| {row.name} | {best * 1e3:.2f} | {work * 1e3:.2f} | {parts} |")
    return "\n".join(lines)


def machine() -> str:
    """Processor, threads and versions."""
    found = versions_of(DISTRIBUTIONS)
    return f"{processor()}, {torch.get_num_threads()} threads; {found}"


def main() -> None:
    """Measure all cases and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small patches and a small network")
    parser.add_argument("--rounds", type=int, default=7, help="times that each variant has a turn")
    parser.add_argument("--case", default="", help="only cases whose name holds this, or 'step'")
    parser.add_argument("--out", type=Path, help="a file for the tables (Markdown)")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(N_THREADS)
    text = ["# Augmentation", "", machine(), ""]
    for case in QUICK if chosen.quick else CASES:
        if chosen.case in case.name:
            text += [table(case, measured(list(rows_of(case)), chosen.rounds)), ""]
            print(text[-2], flush=True)
    if chosen.case in "step":
        size, width = (64, 8) if chosen.quick else (256, 32)
        text += [share_of_a_step(chosen.rounds, size, width), ""]
        print(text[-2], flush=True)
    if chosen.out is not None:
        chosen.out.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
