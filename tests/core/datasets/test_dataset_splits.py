"""Splits: by group, the same every time, and never torn by one more image."""

from collections import Counter

import numpy as np
import pytest

from napari_unet.core.datasets import Pair, fold_of, pairs_to_test, split_pairs
from napari_unet.core.errors import SettingsError
from napari_unet.core.image import make_image

IMAGE = make_image(np.zeros((4, 4)))


def pairs_of(groups, split=""):
    return [
        Pair(
            key=f"{group}/{i}", group=group, split=split, image=IMAGE, labels=np.zeros((4, 4), int)
        )
        for group, n in groups.items()
        for i in range(n)
    ]  # fmt: skip


def keys(pairs):
    return {pair.key for pair in pairs}


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_a_share_is_held_out_by_group(share):
    pairs = pairs_of({f"dish {i}": 1 + i % 4 for i in range(40)})
    train, held = split_pairs(pairs, share, seed=0)
    assert keys(train) | keys(held) == keys(pairs)
    assert not {pair.group for pair in train} & {pair.group for pair in held}
    assert abs(len(held) - share * len(pairs)) <= 2
    assert [pair.key for pair in held] == [pair.key for pair in pairs if pair.key in keys(held)]


def test_splits_depend_on_the_seed_alone():
    pairs = pairs_of({f"dish {i}": 2 for i in range(20)})
    first = keys(split_pairs(pairs, 0.3, 5)[1])
    assert keys(split_pairs(pairs[::-1], 0.3, 5)[1]) == first
    assert keys(split_pairs(pairs, 0.3, 6)[1]) != first


def test_one_more_image_hardly_changes_who_is_held_out():
    pairs = pairs_of({f"dish {i}": 1 for i in range(50)})
    held = keys(split_pairs(pairs, 0.2, 0)[1])
    for name in ("new", "other", "third"):
        more = keys(split_pairs([*pairs, *pairs_of({name: 1})], 0.2, 0)[1])
        assert len(held ^ more) <= 2


def test_some_group_is_held_out_and_some_is_trained_on():
    for groups in ({"a": 1, "b": 1}, {"a": 30, "b": 1}, {"a": 9, "b": 9}):
        for share in (0.01, 0.5, 0.99):
            train, held = split_pairs(pairs_of(groups), share, 0)
            assert train
            assert held
    assert len(split_pairs(pairs_of({"a": 30, "b": 1}), 0.1, 0)[1]) == 1


def test_nothing_is_held_out_of_one_group():
    train, held = split_pairs(pairs_of({"a": 3}), 0.2, 0)
    assert (len(train), held) == (3, ())
    assert split_pairs(pairs_of({"a": 1, "b": 1}), 0, 0)[1] == ()


def test_what_the_dataset_says_is_respected():
    train = pairs_of({"a": 2, "b": 2}, "train")
    test = pairs_of({"t": 3}, "test")
    valid = pairs_of({"v": 1}, "validation")
    odd = pairs_of({"o": 1}, "spare")
    for share in (0, 0.3, 0.9):
        trained, held = split_pairs([*train, *valid, *test, *odd], share, 0)
        assert keys(trained) == keys(train)
        assert keys(held) == keys(valid)
    trained, held = split_pairs([*train, *test], 0.5, 0)
    assert keys(trained) | keys(held) == keys(train)
    assert held
    assert pairs_to_test([*train, *test]) == tuple(test)
    for fold in range(2):
        assert not keys(test) & {
            key for half in fold_of([*train, *test], 2, fold) for key in keys(half)
        }
    with pytest.raises(SettingsError, match="None of the 3 images may be trained on"):
        split_pairs(test, 0.2, 0)


@pytest.mark.parametrize("share", [-0.1, 1, 2])
def test_a_share_that_makes_no_sense(share):
    with pytest.raises(SettingsError, match="held_out"):
        split_pairs(pairs_of({"a": 1, "b": 1}), share, 0)


@pytest.mark.parametrize(("n_groups", "n_folds"), [(5, 5), (12, 5), (30, 3), (7, 2)])
def test_folds_are_equal_and_each_image_is_held_out_once(n_groups, n_folds):
    pairs = pairs_of({f"dish {i}": 1 for i in range(n_groups)})
    held = [fold_of(pairs, n_folds, fold)[1] for fold in range(n_folds)]
    counts = Counter(pair.key for half in held for pair in half)
    assert set(counts) == keys(pairs)
    assert set(counts.values()) == {1}
    sizes = [len(half) for half in held]
    assert max(sizes) - min(sizes) <= 1


def test_folds_of_unequal_groups():
    groups = {f"dish {i}": n for i, n in enumerate([9, 7, 5, 3, 1, 1, 1, 2, 2, 4])}
    pairs = pairs_of(groups)
    halves = [fold_of(pairs, 3, fold, seed=2) for fold in range(3)]
    sizes = [len(held) for _, held in halves]
    assert sum(sizes) == 35
    assert max(sizes) - min(sizes) <= 2
    for train, held in halves:
        assert not {pair.group for pair in train} & {pair.group for pair in held}
    one_large = [len(fold_of(pairs_of({"a": 90, "b": 1, "c": 1}), 3, fold)[1]) for fold in range(3)]
    assert sorted(one_large) == [1, 1, 90]


def test_one_more_image_hardly_changes_the_folds():
    pairs = pairs_of({f"dish {i}": 1 for i in range(60)})
    before = {p.key: fold for fold in range(5) for p in fold_of(pairs, 5, fold)[1]}
    more = [*pairs, *pairs_of({"new": 1})]
    after = {p.key: fold for fold in range(5) for p in fold_of(more, 5, fold)[1]}
    assert sum(after[key] != before[key] for key in before) <= 6


def test_folds_that_cannot_be():
    pairs = pairs_of({"a": 5, "b": 5})
    with pytest.raises(SettingsError, match=r"3 folds need at least 3 groups .* are 2 "):
        fold_of(pairs, 3, 0)
    with pytest.raises(SettingsError, match="fold must be 0 to 1, not 2"):
        fold_of(pairs, 2, 2)
    with pytest.raises(SettingsError, match="n_folds must be 2 or more"):
        fold_of(pairs, 1, 0)
