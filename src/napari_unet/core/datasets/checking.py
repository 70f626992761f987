"""What is wrong with which image or mask, before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from napari_unet.core.corrections import IGNORE
from napari_unet.core.datasets.masks import WHITE
from napari_unet.core.datasets.naming import listed
from napari_unet.core.datasets.pairs import Dataset, Pair, Problem
from napari_unet.core.datasets.seeing import Seen, in_groups, survey
from napari_unet.core.errors import SettingsError

__all__ = ["check"]

LARGE = 2**31
"""Bytes of an image that is worth a warning."""
MAX_CLASSES = 64
"""So many classes can be trained."""


def check(
    dataset: Dataset,
    what: Literal["objects", "classes"] = "objects",
    dims: Literal[2, 3] | None = None,
) -> list[Problem]:
    """List what is wrong with a dataset, file by file. Reads every image and mask, once.

    Parameters
    ----------
    dataset : from `open_dataset` or `of_arrays`.
    what : what the masks number; see `TrainSettings`.
    dims : 2 for a network of planes, 3 for one of volumes; None if not known.

    Returns
    -------
    list of Problem
        What was found when the dataset was opened, and in its pixels; those that must be mended
        first come first. Nothing is changed.

    Raises
    ------
    SettingsError
        If `what` is neither.
    """
    if what not in ("objects", "classes"):
        raise SettingsError(f"what must be 'objects' or 'classes', not {what!r}.")
    seen = survey(dataset)
    found = [*dataset.problems, *_of_files(seen), *_of_set(seen), *_of_dims(seen, dims)]
    found += _of_objects(seen) if what == "objects" else _of_classes(seen)
    unique = list(dict.fromkeys(found))
    return sorted(unique, key=lambda problem: not problem.is_fatal)


def _problem(pair: Pair, sentence: str, is_fatal: bool = False, of_labels: bool = False) -> Problem:
    path = pair.labels_path if of_labels else pair.path
    return Problem(path=path, sentence=sentence, is_fatal=is_fatal, key=pair.key)


def _of_files(seen: Sequence[Seen]) -> Iterator[Problem]:
    for one in seen:
        if one.error:
            yield Problem(
                path=one.error_path, sentence=one.error, is_fatal=True, key=one.pair.key
            )  # fmt: skip
        else:
            yield from _of_file(one)


def _of_file(one: Seen) -> Iterator[Problem]:
    pair = one.pair
    if one.n_not_finite:
        yield _problem(
            pair, f"The image {pair.key} holds {one.n_not_finite} values that are no numbers (NaN "
            "or infinite). Replace them, for example by 0, and save it again.", True,
        )  # fmt: skip
    if one.is_constant:
        yield _problem(
            pair, f"The image {pair.key} has the same value everywhere: there is nothing to see "
            "in it. Look at it, and leave it out if it is empty.",
        )  # fmt: skip
    size = math.prod(pair.image.array.shape) * np.dtype(pair.image.array.dtype).itemsize
    if size > LARGE:
        yield _problem(
            pair, f"The image {pair.key} is very large: it takes {size / 2**30:.1f} GB of memory "
            "while it is trained on. Cut it into parts if memory runs out.",
        )  # fmt: skip
    for remark in one.remarks:
        if remark != WHITE:
            many = pair.labels_path is not None and pair.labels_path.is_dir() and "have" in remark
            subject = f"The masks of {pair.key}" if many else f"The mask of {pair.key}"
            yield _problem(pair, f"{subject} {remark}", of_labels=True)
    if not (one.values >= 0).any():
        yield _problem(
            pair, f"Nothing is known in the mask of {pair.key}: all of it is below 0. It is not "
            "trained on.", of_labels=True,
        )  # fmt: skip
    elif not one.foreground.size:
        yield _problem(
            pair, f"The mask of {pair.key} is empty: all of it is background. That is fine if "
            "there is nothing in the image; leave it out if it was never annotated.",
            of_labels=True,
        )  # fmt: skip
    if one.values.size and one.values[0] < 0 and not one.partial:
        n = int(one.counts[one.values < 0].sum())
        yield _problem(
            pair, f"The mask of {pair.key} holds {n} px below 0. They are taken as unknown and not "
            "trained on; if they are objects, number them from 1.", of_labels=True,
        )  # fmt: skip


def _of_set(seen: Sequence[Seen]) -> Iterator[Problem]:
    readable = [one for one in seen if not one.error]
    if readable and not any(one.foreground.size for one in readable):
        yield _of_all("All masks are empty: there is nothing to learn.", True)
    yield from _of_channels(readable)
    for same in in_groups(readable).values():
        yield from _of_copies(same)
    yield from _of_one_group([one.pair for one in seen])
    yield from _of_groups(seen)
    yield from _of_white(readable)


def _of_one_group(pairs: Sequence[Pair]) -> Iterator[Problem]:
    trained = [pair for pair in pairs if pair.split in ("", "train")]
    is_one = len({pair.group for pair in trained}) == 1
    if any(pair.split == "validation" for pair in pairs) or not is_one:
        return
    is_flat = all(pair.image.label_axes == "yx" for pair in trained)
    one = "image" if is_flat else "stack"
    advice = "Add images."
    if len(trained) > 1 or not is_flat:
        advice = "Add images, or cut what there is into blocks of N planes with --block N."
    yield _of_all(
        (
            f"All {len(trained)} {one}s to train on are one group"
            if len(trained) > 1
            else f"There is only one {one} to train on"
        )
        + f", so none can be held out and there will be no score. {advice}"
    )


def _of_dims(seen: Sequence[Seen], dims: Literal[2, 3] | None) -> Iterator[Problem]:
    """Networks of planes take planes and stacks, those of volumes only stacks."""
    are_flat = {one.pair.image.label_axes == "yx" for one in seen}
    if dims != 2 and len(are_flat) == 2:
        yield _of_all(
            "Some images are single planes and others are stacks. A network of planes takes both, "
            "but one of volumes takes stacks only: for volumes, leave the single planes out, or "
            "put those that are sections of a volume into their place with --planes volume."
        )


def _of_all(sentence: str, is_fatal: bool = False) -> Problem:
    return Problem(path=None, sentence=sentence, is_fatal=is_fatal)


def _of_channels(seen: Sequence[Seen]) -> Iterator[Problem]:
    by_count: dict[int, list[str]] = {}
    for one in seen:
        by_count.setdefault(one.pair.image.n_channels, []).append(one.pair.key)
    if len(by_count) < 2:
        return
    counts = ", ".join(
        f"{len(keys)} with {n} ({listed(keys)})" for n, keys in sorted(by_count.items())
    )
    if len(by_count) == 2 and 1 in by_count:
        advice = "The gray ones are shown to each of the channels; leave them out if that is wrong."
        yield _of_all(f"The images have different numbers of channels: {counts}. {advice}")
    else:
        advice = "Leave out those that differ, or save all with the same channels."
        yield _of_all(f"The images have different numbers of channels: {counts}. {advice}", True)


def _of_groups(seen: Sequence[Seen]) -> Iterator[Problem]:
    splits: dict[str, set[str]] = {}
    for one in seen:
        splits.setdefault(one.pair.group, set()).add(one.pair.split or "train")
    torn = [group for group, found in splits.items() if len(found) > 1]
    if torn:
        yield _of_all(
            f"Images of one group are both trained and scored on, in {len(torn)} of {len(splits)} "
            f"groups ({listed(torn)}). If they show the same thing, scores will be too good; give "
            "all images of a group the same split."
        )


def _of_copies(same: Sequence[Seen]) -> Iterator[Problem]:
    if len(same) < 2 or same[0].is_constant:
        return
    names = listed([one.pair.key for one in same])
    splits = {one.pair.split for one in same}
    if len(splits) > 1 and splits & {"test", "validation"}:
        words = " and ".join(sorted(split or "train" for split in splits))
        sentence = (
            f"The same image is there several times, for {words}: {names}. Scores on it would be "
            "too good; keep it in one of them."
        )
    elif len({one.pair.group for one in same}) > 1:
        sentence = (
            f"The same image is there several times: {names}. It may so be trained and scored on; "
            "remove the copies, or put them in one group."
        )
    else:
        sentence = f"The same image is there several times: {names}. Remove the copies."
    yield _problem(same[0].pair, sentence)


def _of_white(seen: Sequence[Seen]) -> Iterator[Problem]:
    """White is the foreground in some masks, and a value among others elsewhere."""
    white = [one.pair.key for one in seen if WHITE in one.remarks]
    others = [one.pair.key for one in seen if WHITE not in one.remarks and IGNORE in one.values]
    if white and others:
        yield _of_all(
            f"In some masks 255 is the only value beside 0 and is read as 1 ({listed(white)}), in "
            f"others it is one of several ({listed(others)}). Say which values are the classes, "
            "or give a threshold."
        )


def _of_objects(seen: Sequence[Seen]) -> Iterator[Problem]:
    blurred = [one for one in seen if _is_blurred(one)]
    yield from _of_blurred(blurred)
    one_value = [one.pair.key for one in seen if one.is_one_value]
    if one_value:
        yield _of_all(
            f"{len(one_value)} of {len(seen)} masks say what is an object, but not which "
            f"({listed(one_value)}): touching objects cannot be told apart. Each connected part is "
            "taken for one object."
        )
    n_values = max((one.foreground.size for one in seen), default=0)
    n_parts = sum(one.n_parts for one in seen)
    n_objects = sum(one.foreground.size for one in seen)
    if 2 <= n_values <= 8 and n_parts > 4 * n_objects and not blurred:
        yield _of_all(
            f"The masks hold no more than {n_values} values in many separate parts, as masks of "
            "classes do. If they are classes, train on classes; objects need a number each."
        )


def _of_classes(seen: Sequence[Seen]) -> Iterator[Problem]:
    yield from _of_blurred([one for one in seen if _is_blurred(one)])
    parts = [one.foreground for one in seen if not one.error and not _is_blurred(one)]
    values = np.unique(np.concatenate([np.empty(0, np.int64), *parts]))
    has_unknown = IGNORE in values
    values = values[values != IGNORE]
    if not values.size:
        return
    highest = int(values[-1])
    are_single = sum(one.n_parts for one in seen) <= 1.5 * sum(one.foreground.size for one in seen)
    if values.size > MAX_CLASSES or (values.size > 12 and are_single):
        yield _of_all(
            f"The masks hold {values.size} values up to {highest}: they seem to number objects. "
            "Train on objects, or save masks with one value for each class.",
            values.size > MAX_CLASSES,
        )
    elif highest > values.size:
        shown = listed([str(value) for value in values], 10)
        unknown = f" ({IGNORE} counts as unknown)" if has_unknown else ""
        yield _of_all(
            f"The classes in the masks are not numbered 0, 1, 2, ... without gaps: there are "
            f"{shown}{unknown}. Name the values that are to be classes, in their order.",
            highest > 2 * values.size or highest >= MAX_CLASSES,
        )


def _is_blurred(one: Seen) -> bool:
    """Whether nearly all of the foreground is white, and a little of it is every gray."""
    counts = one.counts[one.values > 0]
    is_white = one.foreground.size >= 8 and one.foreground[-1] == IGNORE
    return bool(is_white and counts[-1] > 0.9 * counts.sum())


def _of_blurred(blurred: Sequence[Seen]) -> Iterator[Problem]:
    for one in blurred:
        yield _problem(
            one.pair, f"The mask of {one.pair.key} is black and white with gray edges "
            f"({one.foreground.size + 1} values): it was smoothed, or resized. Give a threshold, "
            "such as 127, or save it anew without smoothing.", True, of_labels=True,
        )  # fmt: skip
