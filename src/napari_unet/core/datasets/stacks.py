"""Stacks become planes or blocks of planes, and sections become volumes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from napari_unet.core.datasets.lazy import Part, Stacked
from napari_unet.core.datasets.naming import runs
from napari_unet.core.datasets.pairs import Pair
from napari_unet.core.datasets.settings import DatasetSettings
from napari_unet.core.errors import ImageError

__all__ = ["arranged", "as_planes"]


def arranged(
    pairs: Sequence[Pair], settings: DatasetSettings, are_sections: bool = True
) -> tuple[Pair, ...]:
    """The same pairs in the same order, with planes and blocks as the settings say.

    Whatever the settings, keys become unique, and only axes of space are left: pictures along
    time become pairs of their own, in one group. These are never stacked; nor are the pictures of
    a folder, unless `are_sections` (whether they can lie one upon the other).
    """
    by_pair = [list(_without_time(pair)) for pair in _with_own_keys(pairs)]
    still = [one for moments in by_pair for one in moments]
    if settings.planes == "volume" and are_sections:
        singles = [one for moments in by_pair if len(moments) == 1 for one in moments]
        movies = [one for moments in by_pair if len(moments) > 1 for one in moments]
        still = [*(one for run in _by_folder(singles) for one in _stacked(run)), *movies]
    blocks = _blocks_of_planes(still, settings.block)
    found: list[Pair] = []
    for pair in still:
        if pair.image.label_axes == "yx":
            found.append(replace(pair, group=blocks.get(pair.key, pair.group)))
        elif settings.planes == "planes":
            found += _planes(pair, settings.block)
        else:
            found += _cut(pair, settings.block)
    return tuple(found)


def _with_own_keys(pairs: Sequence[Pair]) -> Iterator[Pair]:
    """The pairs, with a number behind keys that are there already."""
    counts: Counter[str] = Counter()
    for pair in pairs:
        counts[pair.key] += 1
        n = counts[pair.key]
        own = pair.key if n == 1 else f"{pair.key} ({n})"
        yield replace(pair, key=own, group=own if pair.group == pair.key else pair.group)


def as_planes(pairs: Sequence[Pair], block: int = 0) -> tuple[Pair, ...]:
    """The planes of volumes as pairs `(y, x)`; planes stay as they are.

    Parameters
    ----------
    pairs : of planes and volumes.
    block : so many consecutive planes are a group; 0 for the group of the volume.
    """
    return tuple(plane for pair in pairs for plane in _planes(pair, block))


def _planes(pair: Pair, block: int) -> Iterator[Pair]:
    if "z" not in pair.image.axes:
        yield pair
        return
    n = pair.image.label_shape[pair.image.label_axes.index("z")]
    for first, stop in runs(n, block):
        group = f"{pair.group}, z {first}-{stop - 1}" if block else pair.group
        for z in range(first, stop):
            yield replace(_at(pair, "z", z), group=group)


def _without_time(pair: Pair) -> Iterator[Pair]:
    """Pairs that have no axes but those of space, and a z axis only if it has several planes."""
    shape = dict(zip(pair.image.label_axes, pair.image.label_shape, strict=True))
    stepped = [axis for axis, n in shape.items() if axis not in "zyx" or (axis == "z" and n == 1)]
    if not stepped:
        yield pair
        return
    for i in range(shape[stepped[0]]):
        one = _at(pair, stepped[0], i)
        yield from _without_time(one if shape[stepped[0]] > 1 else replace(one, key=pair.key))


def _at(pair: Pair, axis: str, at: int | tuple[int, int]) -> Pair:
    """The pair at a place along an axis, or at a run of places."""
    image, label_axis = pair.image, pair.image.label_axes.index(axis)
    is_one = isinstance(at, int)
    where = f"{axis}{at:03d}" if isinstance(at, int) else f"{axis}{at[0]:03d}-{at[1] - 1:03d}"
    part = replace(
        image,
        array=Part(image.array, image.axes.index(axis), at),
        axes=image.axes.replace(axis, "") if is_one else image.axes,
    )
    return replace(
        pair, key=f"{pair.key} {where}", image=part, labels=Part(pair.labels, label_axis, at)
    )


def _cut(pair: Pair, block: int) -> Iterator[Pair]:
    """A volume as volumes of `block` planes, each a group."""
    n = pair.image.label_shape[0]
    parts = runs(n, block)
    if len(parts) == 1:
        yield pair
        return
    for first, stop in parts:
        part = _at(pair, "z", (first, stop))
        is_own = pair.group == pair.key
        group = part.key if is_own else f"{pair.group}, z {first}-{stop - 1}"
        yield replace(part, group=group)  # the same planes of a movie stay together


def _blocks_of_planes(pairs: Sequence[Pair], block: int) -> dict[str, str]:
    """The groups of consecutive planes of the same folder, by key; none without blocks."""
    groups: dict[str, str] = {}
    for run in _by_folder([pair for pair in pairs if pair.image.label_axes == "yx"]):
        for first, stop in runs(len(run), block) if block else []:
            group = f"{run[first].key} to {run[stop - 1].key}"
            groups |= {pair.key: group for pair in run[first:stop]}
    return groups


def _by_folder(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Pairs of the same folder and split, and of the same group where they share one."""
    found: dict[Any, list[Pair]] = {}
    sizes = Counter(pair.group for pair in pairs)
    for pair in pairs:
        folder = pair.path.parent if pair.path else None
        group = pair.group if sizes[pair.group] > 1 else None
        found.setdefault((folder, pair.split, group), []).append(pair)
    return list(found.values())


def _stacked(pairs: Sequence[Pair]) -> list[Pair]:
    """The sections of a folder one upon the other; volumes stay as they are."""
    sections = [pair for pair in pairs if pair.image.label_axes == "yx"]
    volumes = [pair for pair in pairs if pair.image.label_axes != "yx"]
    return [*([_volume_of(sections)] if sections else []), *volumes]


def _volume_of(sections: Sequence[Pair]) -> Pair:
    first = sections[0]
    for section in sections:
        if section.image.array.shape != first.image.array.shape:
            raise ImageError(
                f"The sections {first.key} and {section.key} have different sizes, "
                f"{first.image.array.shape} and {section.image.array.shape}, and cannot lie one "
                "upon the other. Use them as single images, or crop them to the same size."
            )
    image = replace(
        first.image,
        array=Stacked([section.image.array for section in sections]),
        axes="z" + first.image.axes,
    )
    key = f"{first.key} to {sections[-1].key}" if len(sections) > 1 else first.key
    labels = Stacked([section.labels for section in sections])
    groups = {section.group for section in sections}
    group = first.group if len(groups) == 1 else key
    return replace(first, key=key, group=group, image=image, labels=labels)
