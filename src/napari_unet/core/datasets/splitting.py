"""Which pairs are trained on and which are scored on: by group, and the same every time."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from napari_unet.core.datasets.pairs import Pair
from napari_unet.core.errors import SettingsError

__all__ = ["fold_of", "pairs_to_test", "split_pairs"]

Halves = tuple[tuple[Pair, ...], tuple[Pair, ...]]
"""Pairs to train on, and pairs to score on."""


def pairs_to_test(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """The pairs that the dataset itself sets apart for testing."""
    return tuple(pair for pair in pairs if pair.split == "test")


def split_pairs(pairs: Sequence[Pair], held_out: float, seed: int) -> Halves:
    """Hold out a share of the pairs, whole groups of them.

    Pairs whose split is "test" are in neither half. If the dataset says which pairs are for
    validation, exactly these are held out. Otherwise groups are drawn by a hash of their names,
    so that another image hardly changes who is held out; group after group is taken that brings
    the number of pairs nearer to the share. At least one group is held out and one is trained on;
    if there is only one group, nothing is held out.

    Parameters
    ----------
    pairs : of a dataset.
    held_out : share of the pairs, at least 0 and below 1.
    seed : another one, another draw.

    Raises
    ------
    SettingsError
        If there is nothing to train on, or the share makes no sense.
    """
    if not 0 <= held_out < 1:
        raise SettingsError(f"held_out must be at least 0 and below 1, not {held_out}.")
    open_ones = _trainable(pairs)
    if any(pair.split == "validation" for pair in open_ones):
        return _halves(open_ones, {p.key for p in open_ones if p.split == "validation"})
    sizes = Counter(pair.group for pair in open_ones)
    if held_out == 0 or len(sizes) == 1:
        return tuple(open_ones), ()
    groups = _drawn_groups(sizes, held_out * len(open_ones), seed)
    return _halves(open_ones, {pair.key for pair in open_ones if pair.group in groups})


def _trainable(pairs: Sequence[Pair]) -> list[Pair]:
    """All but those for testing, and those of a split that nobody knows."""
    open_ones = [pair for pair in pairs if pair.split in ("", "train", "validation")]
    if not any(pair.split != "validation" for pair in open_ones):
        raise SettingsError(
            f"None of the {len(pairs)} images may be trained on: all are set apart for testing or "
            "validation. Check the column 'split' of the table, or the names of the folders."
        )
    return open_ones


def _halves(pairs: Sequence[Pair], held: set[str]) -> Halves:
    train = tuple(pair for pair in pairs if pair.key not in held)
    return train, tuple(pair for pair in pairs if pair.key in held)


def _drawn_groups(sizes: Counter[str], wanted: float, seed: int) -> set[str]:
    """Groups, in the order of their hashes, that together have about as many pairs as wanted."""
    ordered = sorted(sizes, key=lambda group: _draw(seed, group))
    taken: set[str] = set()
    n_taken = 0
    for group in ordered:
        is_nearer = n_taken + sizes[group] / 2 <= wanted
        if is_nearer and len(taken) < len(sizes) - 1:
            taken.add(group)
            n_taken += sizes[group]
    return taken or {min(ordered, key=lambda group: sizes[group])}  # the first of the smallest


def _draw(*what: object) -> int:
    """A whole number that looks random and is the same every time."""
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=8).digest())


def fold_of(pairs: Sequence[Pair], n_folds: int, fold: int, seed: int = 0) -> Halves:
    """Hold out one of `n_folds` parts of the pairs, whole groups of them.

    Every pair that is not for testing is held out in exactly one of the folds. Groups are put
    into folds by hashes of their names, the largest first, each into the fold it likes best that
    still has room (consistent hashing with bounded loads, Mirrokni et al. 2018), so that the folds
    are about equally large and another image moves few of the others.

    Parameters
    ----------
    pairs : of a dataset.
    n_folds, fold : how many parts there are, and which is held out, from 0.
    seed : another one, another draw.

    Raises
    ------
    SettingsError
        If there are fewer groups than folds, or no such fold.
    """
    if n_folds < 2 or not 0 <= fold < n_folds:
        raise SettingsError(
            f"fold must be 0 to {n_folds - 1}, not {fold}." if n_folds >= 2 else
            f"n_folds must be 2 or more to hold out one after another, not {n_folds}."
        )  # fmt: skip
    open_ones = _trainable(pairs)
    sizes = Counter(pair.group for pair in open_ones)
    if len(sizes) < n_folds:
        n = len(open_ones)
        raise SettingsError(
            f"{n_folds} folds need at least {n_folds} groups of images, but there "
            f"{'is' if len(sizes) == 1 else 'are'} {len(sizes)} ({n} image{'s' if n > 1 else ''}). "
            "Images of one group, such as planes of one stack, must stay together. Choose fewer "
            "folds, or cut stacks into smaller blocks with --block N."
        )
    folds = _folds(sizes, n_folds, seed)
    return _halves(open_ones, {pair.key for pair in open_ones if folds[pair.group] == fold})


def _folds(sizes: Counter[str], n_folds: int, seed: int) -> dict[str, int]:
    """The fold of each group."""
    room = -(-sizes.total() // n_folds)  # what the largest fold needs at least
    loads = [0] * n_folds
    folds: dict[str, int] = {}
    for group in sorted(sizes, key=lambda group: (-sizes[group], _draw(seed, group))):
        liked = sorted(range(n_folds), key=lambda fold: _draw(seed, group, fold))
        roomy = [fold for fold in liked if loads[fold] + sizes[group] <= room]
        folds[group] = roomy[0] if roomy else min(liked, key=lambda fold: loads[fold])
        loads[folds[group]] += sizes[group]
    while _one_moved(folds, sizes, loads, seed):
        pass
    return folds


def _one_moved(folds: dict[str, int], sizes: Counter[str], loads: list[int], seed: int) -> bool:
    """Move one group into the smallest fold if that makes the folds more equal.

    An empty fold is always filled: another one then has two groups or more.
    """
    least = min(range(len(loads)), key=lambda fold: loads[fold])
    gains = {
        group: sizes[group] * (loads[fold] - loads[least] - sizes[group])
        for group, fold in folds.items()
    }
    best = max(gains, key=lambda group: (gains[group], _draw(seed, group)))
    if gains[best] <= 0:
        return False
    loads[folds[best]] -= sizes[best]
    loads[least] += sizes[best]
    folds[best] = least
    return True
