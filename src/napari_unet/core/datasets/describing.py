"""What is in a dataset, in a few lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from napari_unet.core.datasets.naming import listed
from napari_unet.core.datasets.pairing import sizes_in_words
from napari_unet.core.datasets.pairs import Dataset
from napari_unet.core.datasets.seeing import Seen, survey

__all__ = ["describe"]

MANY_CLASSES = 16


def describe(dataset: Dataset, what: Literal["objects", "classes"] | None = None) -> str:
    """A table of what is in a dataset. Reads every image and mask, once, as `check` does.

    A line each for images, sizes, channels and type, groups and splits, objects (per image, and
    their median diameter in px), and classes with their shares if there are few values.

    Parameters
    ----------
    dataset : from `open_dataset` or `of_arrays`.
    what : what the masks number; classes are left out where that is objects. None if not known.
    """
    seen = [one for one in survey(dataset) if not one.error]
    if not seen:
        return f"images    none that can be used ({dataset.layout})"
    unread = _unread(len(dataset.pairs), len(seen))
    rows = [
        ("images", f"{len(dataset.pairs)} ({dataset.layout}){unread}"),
        ("size", _sizes(seen)),
        ("pixels", _pixels(seen)),
        ("split", _splits(dataset)),
        ("objects", _objects(seen)),
        ("classes", "" if what == "objects" else _classes(seen)),
    ]
    return "\n".join(f"{name:<10}{text}" for name, text in rows if text)


def _unread(n: int, n_seen: int) -> str:
    return "" if n == n_seen else f", {n - n_seen} of which cannot be read"


def _sizes(seen: Sequence[Seen]) -> str:
    shapes = Counter(one.pair.image.label_shape for one in seen)
    if len(shapes) == 1:
        return sizes_in_words(next(iter(shapes)))
    most, n = shapes.most_common(1)[0]
    areas = sorted(shapes, key=lambda shape: np.prod(shape))
    text = f"{sizes_in_words(areas[0])} to {sizes_in_words(areas[-1])}"
    return f"{text}, mostly {sizes_in_words(most)} ({n})" if 2 * n > len(seen) else text


def _pixels(seen: Sequence[Seen]) -> str:
    channels = sorted({one.pair.image.n_channels for one in seen})
    types = sorted({np.dtype(one.pair.image.array.dtype).name for one in seen})
    word = "channel" if channels == [1] else "channels"
    return f"{' or '.join(str(n) for n in channels)} {word}, {', '.join(types)}"


def _splits(dataset: Dataset) -> str:
    groups = {pair.group for pair in dataset.pairs}
    splits = Counter(pair.split for pair in dataset.pairs)
    order = ["train", "validation", "test", "", *sorted(splits)]
    words = [
        f"{splits[split]} {split or 'free'}" for split in dict.fromkeys(order) if splits[split]
    ]
    text = "" if set(splits) == {""} else ", ".join(words) + "; "
    return f"{text}{len(groups)} group{'s' if len(groups) > 1 else ''}"


def _objects(seen: Sequence[Seen]) -> str:
    counts = np.array([one.sizes.size for one in seen])
    diameters = np.concatenate([one.diameters for one in seen])
    if not diameters.size:
        return "none"
    spread = f" ({counts.min()} to {counts.max()})" if len(counts) > 1 else ""
    each = " or parts" if any(one.is_one_value for one in seen) else ""
    return (
        f"{diameters.size}{each}, {np.median(counts):.0f} per image{spread}, "
        f"median diameter {np.median(diameters):.0f} px"
    )


def _classes(seen: Sequence[Seen]) -> str:
    counts: Counter[int] = Counter()
    for one in seen:
        counts.update(dict(zip(one.values.tolist(), one.counts.tolist(), strict=True)))
    if len(counts) > MANY_CLASSES:
        return ""
    n = counts.total()
    return listed([f"{value} ({counts[value] / n:.1%})" for value in sorted(counts)], MANY_CLASSES)
