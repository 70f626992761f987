r"""Train the built-in model `nuclei`, measure it on held-back images, and write it with its card.

    python scripts/train_nuclei.py train DATA --out nuclei --minutes 85
    python scripts/train_nuclei.py pack nuclei.best.pt --out nuclei.safetensors
    python scripts/train_nuclei.py evaluate DATA --model nuclei.safetensors --out scores.json
    python scripts/train_nuclei.py pack nuclei.best.pt --out nuclei.safetensors \
        --scores scores.json --card src/napari_unet/models/nuclei.md

DATA holds `nuclei_fluorescence` and `nuclei_histology`, each with `images/`, `masks/` (16-bit
PNG, object ids) and `index.csv` (image_id, group, split). The pictures are those of the Data
Science Bowl 2018 (BBBC038 of the Broad Bioimage Benchmark Collection, CC0), with the labels
corrected by the community; pictures cut from one larger picture share a `group` and a split.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.ndimage as ndi
import torch
from skimage.color import rgb2hed
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_local, threshold_otsu
from skimage.io import imread
from skimage.measure import label
from skimage.morphology import remove_small_objects
from skimage.segmentation import watershed

import napari_unet as nu
from napari_unet.core.augmentation import (
    AugmentationSettings,
    augment_intensity,
    sample,
    sampling_grid,
)
from napari_unet.core.checkpoints.native import build_with_weights
from napari_unet.core.device import autocast, choose_device
from napari_unet.core.instances import ObjectSettings, objects_of
from napari_unet.core.losses import class_log_probabilities, masked_cross_entropy, masked_dice
from napari_unet.core.metrics import (
    ObjectScores,
    mean_average_precision,
    object_scores,
    pixel_dice,
    pixel_iou,
)
from napari_unet.core.model import Description, Model, save_model, weights_id
from napari_unet.core.networks import UNet, UNetConfig
from napari_unet.core.normalization import Normalization, match_channels, normalise, scale_of

KINDS = ("nuclei_fluorescence", "nuclei_histology")
WIDTHS = [16, 32, 64, 128, 256]
BACKGROUND, RIM, CORE = 0, 1, 2
OUTPUT_CLASS = (0, 1, 1)
NONE = ObjectScores(n_true_positive=0, n_false_positive=0, n_false_negative=0)
NORMALIZATION = Normalization()
AUGMENTATION = AugmentationSettings(
    elastic_sigma=8, scale=1.8, brightness=0.15, contrast=0.35, gamma=1.8, noise=0.08, blur=1.2,
    color=0.35, gray=0.25, invert=0.1,
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """One labelled picture: normalised image `(c, y, x)`, object ids and targets `(y, x)`."""

    kind: str
    group: str
    image: np.ndarray
    masks: np.ndarray
    target: np.ndarray
    weight: np.ndarray


def target_of(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Background, rim or core for each pixel, and its weight in tenths, both uint8.

    The core of an object is what lies deeper than half its greatest depth. Cores of touching
    nuclei are far apart, so that objects found from them seldom merge; a thin border between
    nuclei, tried first, breaks at a single pixel (on stained tissue object F1 fell to 0.48
    at a pixel IoU of 0.80). Background squeezed between two objects counts more, as in
    Ronneberger et al. 2015.
    """
    target = np.full(masks.shape, BACKGROUND, np.uint8)
    for index, box in enumerate(ndi.find_objects(masks), start=1):
        if box is None:
            continue
        mine = np.pad(masks[box] == index, 1)
        depth = ndi.distance_transform_edt(mine)[1:-1, 1:-1]
        target[box][depth > 0] = RIM
        target[box][depth > 0.5 * depth.max()] = CORE
    return target, separation_weight(masks)


def separation_weight(masks: np.ndarray, w_0: float = 4.0, sigma: float = 3.0) -> np.ndarray:
    """`10 + 10 w_0 exp(-(d_1 + d_2)^2 / 2 sigma^2)` near two objects, 10 elsewhere."""
    if masks.max() < 2:
        return np.full(masks.shape, 10, np.uint8)
    d_1, nearest = ndi.distance_transform_edt(masks == 0, return_indices=True)
    owner = masks[tuple(nearest)]
    largest = ndi.maximum_filter(owner, 7)
    smallest = ndi.minimum_filter(owner, 7)
    near_two = (largest != smallest) & (d_1 <= 3)
    return np.where(near_two, 10 + 10 * w_0 * np.exp(-2 * d_1**2 / sigma**2), 10).astype(np.uint8)


def read_pictures(data: Path, split: str) -> list[Picture]:
    """All pictures of one split, normalised as in prediction."""
    pictures = []
    for kind in KINDS:
        with (data / kind / "index.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        for row in rows:
            raw = imread(data / kind / "images" / f"{row['image_id']}.png")
            raw = np.atleast_3d(raw)[..., :3].transpose(2, 0, 1)  # (c, y, x)
            image = match_channels(normalise(raw, scale_of(raw, NORMALIZATION)), 3)
            masks = imread(data / kind / "masks" / f"{row['image_id']}.png").astype(np.int32)
            target, weight = target_of(masks)
            group = f"{kind}/{row['group']}"
            pictures.append(Picture(kind, group, image, masks, target, weight))
    return pictures


class Sampler:
    """Draws patches: first the kind, then the group, then the picture, then the place."""

    def __init__(self, pictures: list[Picture], share: tuple[float, float], seed: int) -> None:
        groups: dict[str, dict[str, list[Picture]]] = {kind: defaultdict(list) for kind in KINDS}
        for picture in pictures:
            groups[picture.kind][picture.group].append(picture)
        self.groups = {kind: list(of_kind.values()) for kind, of_kind in groups.items()}
        # A group of many near-identical tiles counts more than a single tile, but not by number.
        self.odds = {
            kind: np.sqrt([len(group) for group in of_kind])
            for kind, of_kind in self.groups.items()
        }
        self.share = share
        self.numpy = np.random.default_rng(seed)
        self.torch = torch.Generator().manual_seed(seed)

    def batch(self, size: int, patch_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images `(b, 3, y, x)`, targets and weights `(b, y, x)`."""
        drawn = [self._patch(patch_size) for _ in range(size)]
        images, targets, weights = zip(*drawn, strict=True)
        return torch.stack(images), torch.stack(targets), torch.stack(weights)

    def _patch(self, patch_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        kind = str(self.numpy.choice(KINDS, p=self.share))
        odds = self.odds[kind] / self.odds[kind].sum()
        group = self.groups[kind][self.numpy.choice(len(odds), p=odds)]
        picture = group[self.numpy.integers(len(group))]
        grid = sampling_grid(
            (patch_size,) * 2, self._center(picture, patch_size), AUGMENTATION, self.torch
        )
        both = torch.from_numpy(np.stack([picture.target, picture.weight]))
        image, targets = sample(torch.from_numpy(picture.image), both, grid)
        assert targets is not None
        image = augment_intensity(image, AUGMENTATION, self.torch)
        return image, targets[0], targets[1].float() / 10

    def _center(self, picture: Picture, patch_size: int) -> tuple[float, ...]:
        """Mostly near an object: much of a fluorescence picture is empty."""
        if picture.masks.max() > 0 and self.numpy.random() < 0.7:
            box = ndi.find_objects(picture.masks)[self.numpy.integers(picture.masks.max())]
            if box is not None:
                return tuple(
                    (side.start + side.stop) / 2 + self.numpy.normal(0, patch_size / 5)
                    for side in box
                )
        margin = [min(patch_size / 3, n / 2) for n in picture.target.shape]
        return tuple(
            self.numpy.uniform(m, n - m) for m, n in zip(margin, picture.target.shape, strict=True)
        )


def loss_of(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted cross-entropy over background, rim and core, plus Dice."""
    log_outputs = torch.log_softmax(logits.float(), dim=1)
    classes = class_log_probabilities(logits, OUTPUT_CLASS)
    as_class = torch.where(target == CORE, RIM, target)
    entropy = masked_cross_entropy(log_outputs, target, weight)
    return entropy + masked_dice(log_outputs, target) + 0.5 * masked_dice(classes, as_class)


@torch.inference_mode()
def outputs_of(network: UNet, image: np.ndarray) -> np.ndarray:
    """Probabilities `(output, y, x)` of a whole picture, padded to fit by mirroring."""
    stride = network.config.stride
    pads = [(0, 0), *((0, -n % stride) for n in image.shape[1:])]
    batch = torch.from_numpy(np.pad(image, pads, mode="symmetric"))[None]
    outputs = torch.softmax(network(batch.to(next(network.parameters()).device)), dim=1)[0]
    return outputs[:, : image.shape[1], : image.shape[2]].cpu().numpy()


@dataclass
class Tally:
    """Scores of one kind of picture, gathered picture by picture."""

    iou: list[float]
    dice: list[float]
    ap: list[float]
    f1: list[float]
    objects: ObjectScores

    def add(self, found: np.ndarray, masks: np.ndarray) -> None:
        """Add a picture: object ids found and true, `(y, x)`."""
        at_half = object_scores(found, masks)
        self.iou.append(pixel_iou(found > 0, masks > 0))
        self.dice.append(pixel_dice(found > 0, masks > 0))
        self.ap.append(mean_average_precision(found, masks))
        self.f1.append(at_half.f1)
        self.objects += at_half

    def summary(self) -> dict[str, float]:
        """Means over pictures, and F1 over all objects."""
        return {
            "pictures": len(self.iou),
            "pixel_iou": round(float(np.mean(self.iou)), 4),
            "pixel_dice": round(float(np.mean(self.dice)), 4),
            "object_f1": round(self.objects.f1, 4),
            "object_f1_mean_per_picture": round(float(np.mean(self.f1)), 4),
            "mean_ap": round(float(np.mean(self.ap)), 4),
        }


def score(pictures: list[Picture], segment) -> dict[str, dict[str, float]]:
    """Scores per kind of `segment(picture) -> object ids`."""
    tallies: dict[str, Tally] = {}
    for picture in pictures:
        tally = tallies.setdefault(picture.kind, Tally([], [], [], [], NONE))
        tally.add(segment(picture), picture.masks)
    return {kind: tally.summary() for kind, tally in tallies.items()}


def evaluate(network: UNet, pictures: list[Picture], settings: ObjectSettings):
    """Scores per kind of the network on whole pictures."""
    network.eval()
    return score(
        pictures,
        lambda picture: objects_of(
            outputs_of(network, picture.image), OUTPUT_CLASS, settings, inside=CORE
        ),
    )


class Average:
    """Exponential moving average of the weights; what is evaluated and shipped."""

    def __init__(self, network: UNet, decay: float) -> None:
        self.network = UNet(network.config)
        self.network.load_state_dict(network.state_dict())
        self.decay = decay
        self.n_steps = 0

    @torch.no_grad()
    def update(self, network: UNet) -> None:
        """Move a little towards the weights of `network`."""
        self.n_steps += 1
        decay = min(self.decay, (1 + self.n_steps) / (10 + self.n_steps))
        current = network.state_dict()
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                value.lerp_(current[name].to(value), 1 - decay)
            else:
                value.copy_(current[name])


def freeze_norm(network: UNet, average: Average) -> None:
    """Train on with fixed batch statistics, those that prediction will use.

    A batch that mixes dark fluorescence and bright tissue is normalised by statistics that
    fit neither; in prediction their long-run average takes its place. The longer the network
    leans on the statistics of its batch, the more it loses there.
    """
    network.load_state_dict(average.network.state_dict())
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()


def train(arguments: argparse.Namespace) -> None:
    """Train for a given time, keep the weights that were best on the validation pictures."""
    torch.manual_seed(arguments.seed)
    device = choose_device(arguments.device).torch_device
    network = UNet(_config(arguments.widths))
    if arguments.start:
        network.load_state_dict(torch.load(arguments.start, weights_only=True))
    network = network.to(device, memory_format=torch.channels_last)
    average = Average(network, decay=0.998)
    average.network.to(device)
    learning = torch.optim.AdamW(network.parameters(), lr=arguments.rate, weight_decay=0.01)
    pictures = read_pictures(arguments.data, "train")
    validation = read_pictures(arguments.data, "validation")
    sampler = Sampler(pictures, (0.55, 0.45), arguments.seed)
    log = arguments.out.with_suffix(".log")
    start, step, best = time.monotonic(), 0, -1.0
    share, is_frozen = 0.0, False
    network.train()
    while share < 1:
        share = (time.monotonic() - start) / (60 * arguments.minutes)
        warm_up = min(1.0, (step + 1) / 200)
        rate = arguments.rate * warm_up * max(0.01, 0.5 * (1 + np.cos(np.pi * min(share, 1))))
        for group in learning.param_groups:
            group["lr"] = rate
        image, target, weight = sampler.batch(arguments.batch, arguments.patch)
        image = image.to(device, memory_format=torch.channels_last)
        if share > arguments.freeze_at and not is_frozen:
            freeze_norm(network, average)
            is_frozen = True
        with autocast(device):
            logits = network(image)
        loss = loss_of(logits, target.to(device), weight.to(device))
        learning.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        learning.step()
        average.update(network)
        step += 1
        if step % arguments.every == 0 or share >= 1:
            scores = evaluate(average.network, validation, ObjectSettings())
            total = float(np.mean([scores[kind]["object_f1"] for kind in KINDS]))
            line = {"step": step, "minutes": round((time.monotonic() - start) / 60, 1),
                    "loss": round(loss.item(), 4), "mean": round(total, 4)}  # fmt: skip
            line |= {k: {n: s[n] for n in ("pixel_iou", "object_f1")} for k, s in scores.items()}
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
            torch.save(average.network.state_dict(), arguments.out.with_suffix(".last.pt"))
            if total > best:
                best = total
                torch.save(average.network.state_dict(), arguments.out.with_suffix(".best.pt"))


def read_raw(data: Path, kind: str, split: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Raw pictures, `(y, x)` or `(y, x, c)`, with their object ids `(y, x)`."""
    with (data / kind / "index.csv").open() as file:
        names = [row["image_id"] for row in csv.DictReader(file) if row["split"] == split]
    pairs = []
    for name in names:
        raw = imread(data / kind / "images" / f"{name}.png")
        raw = raw[..., :3] if raw.ndim == 3 else raw
        masks = imread(data / kind / "masks" / f"{name}.png").astype(np.int32)
        pairs.append((raw, masks))
    return pairs


@dataclass(frozen=True)
class Classical:
    """Smoothing, a threshold and a watershed: what one does without a network."""

    sigma: float
    window: int  # px of the local threshold; 0 for Otsu's
    distance: int  # px between the centres of two nuclei, at least
    min_size: int

    def segment(self, raw: np.ndarray) -> np.ndarray:
        """Object ids `(y, x)` of a raw picture; of stained tissue, from its haematoxylin."""
        gray = rgb2hed(raw)[..., 0] if raw.ndim == 3 else raw.astype(float)
        gray = gaussian(gray, self.sigma)
        at = threshold_local(gray, self.window) if self.window else threshold_otsu(gray)
        mask = remove_small_objects(ndi.binary_fill_holes(gray > at), max_size=self.min_size)
        depth = gaussian(ndi.distance_transform_edt(mask), 1)
        peaks = peak_local_max(depth, min_distance=self.distance, labels=label(mask))
        seeds = np.zeros(mask.shape, int)
        seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        return watershed(-depth, seeds, mask=mask)


def tuned(pairs: list[tuple[np.ndarray, np.ndarray]]) -> Classical:
    """The classical settings with the best mean object F1 on these pictures."""
    grid = [
        Classical(sigma, window, distance, min_size)
        for sigma in (0.5, 1.0, 2.0, 3.0)
        for window in (0, 51, 101)
        for distance in (4, 7, 11, 16)
        for min_size in (20, 60, 150)
    ]

    def f1(method: Classical) -> float:
        scores = [object_scores(method.segment(raw), masks).f1 for raw, masks in pairs]
        return float(np.mean(scores))

    return max(grid, key=f1)


def tally(pairs: list[tuple[np.ndarray, np.ndarray]], segment) -> dict[str, float]:
    """Scores of `segment(raw) -> object ids` on pictures."""
    result = Tally([], [], [], [], NONE)
    for raw, masks in pairs:
        result.add(segment(raw), masks)
    return result.summary()


def evaluate_file(arguments: argparse.Namespace) -> None:
    """Measure a model file and the classical pipeline on the test pictures, in one run."""
    model = nu.load_model(arguments.model)
    rows = {}
    for kind in KINDS:
        tuning = read_raw(arguments.data, kind, "train")
        step = max(1, len(tuning) // 40)
        classical = tuned(tuning[::step])
        test = read_raw(arguments.data, kind, "test")
        network = tally(test, lambda raw: nu.segment(raw, model, axes="yxc"[: raw.ndim]).labels)
        rows[kind] = {"network": network, "classical": tally(test, classical.segment)}
        rows[kind]["classical_settings"] = vars(classical)
    print(table_of(rows))
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def table_of(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """The scores as a table in Markdown, as README and card show them."""
    lines = [
        "| test pictures | method | pixel IoU | pixel Dice | object F1 | mean AP |",
        "|---|---|---|---|---|---|",
    ]
    for kind, row in rows.items():
        words = kind.removeprefix("nuclei_").replace("histology", "stained tissue")
        for method in ("network", "classical"):
            scores = row[method]
            values = [scores[n] for n in ("pixel_iou", "pixel_dice", "object_f1", "mean_ap")]
            figures = " | ".join(f"{value:.3f}" for value in values)
            lines.append(f"| {words} ({scores['pictures']}) | {method} | {figures} |")
    return "\n".join(lines)


def pack(arguments: argparse.Namespace) -> None:
    """Write weights from training as a model file with its description, scores and card."""
    weights = torch.load(arguments.weights, map_location="cpu", weights_only=True)
    config = _config(arguments.widths)
    network = build_with_weights("unet", config, weights)
    scores = json.loads(arguments.scores.read_text()) if arguments.scores else {}
    card = arguments.card.read_text(encoding="utf-8") if arguments.card else ""
    description = Description(
        name="nuclei",
        segments="cell nuclei",
        in_channels=3,
        channels="one channel (fluorescence) or RGB (stained tissue)",
        class_names=("background", "nucleus"),
        outputs=("background", "rim of a nucleus", "core of a nucleus"),
        output_class=OUTPUT_CLASS,
        inside=CORE,
        normalization=NORMALIZATION,
        licence="CC0-1.0",
        source="Data Science Bowl 2018 (BBBC038)",
        card=card,
        scores={kind: row["network"] for kind, row in scores.items()},
    )
    model = Model(
        network=network, architecture="unet", config=config, description=description,
        device=choose_device("cpu"), id=weights_id(network),
    )  # fmt: skip
    save_model(model, arguments.out, half=True)


def _config(widths: list[int]) -> UNetConfig:
    return UNetConfig(in_channels=3, out_channels=3, widths=tuple(widths), dropout=0.2)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train", help="train, for a given time")
    training.add_argument("data", type=Path)
    training.add_argument("--out", type=Path, default=Path("nuclei"))
    training.add_argument("--minutes", type=float, default=85)
    training.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    training.add_argument("--batch", type=int, default=8)
    training.add_argument("--patch", type=int, default=192)
    training.add_argument("--rate", type=float, default=2e-3)
    training.add_argument("--every", type=int, default=250)
    training.add_argument("--freeze-at", type=float, default=0.4)
    training.add_argument("--start", type=Path, help="weights to go on from")
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--device", default="auto")
    training.set_defaults(run=train)
    measuring = commands.add_parser("evaluate", help="measure on the test pictures")
    measuring.add_argument("data", type=Path)
    measuring.add_argument("--model", default="nuclei")
    measuring.add_argument("--out", type=Path)
    measuring.set_defaults(run=evaluate_file)
    packing = commands.add_parser("pack", help="make a model file of trained weights")
    packing.add_argument("weights", type=Path)
    packing.add_argument("--out", type=Path, required=True)
    packing.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    packing.add_argument("--scores", type=Path)
    packing.add_argument("--card", type=Path)
    packing.set_defaults(run=pack)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
