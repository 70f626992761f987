"""V_rand, V_info and their relatives: by hand, pair by pair, and against scikit-image."""

import math
from collections import Counter

import numpy as np
import pytest
from skimage.metrics import adapted_rand_error, variation_of_information

from napari_unet.core.metrics import mean_partition_scores, partition_scores

TRUTH = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 0, 0]])
SAID = np.array([[1, 1, 1, 2, 2, 2, 2, 0, 3, 3]])


def random_segments(seed, shape=(7, 8), with_border=True):
    generator = np.random.default_rng(seed)
    lowest = 0 if with_border else 1
    return generator.integers(lowest, 5, shape), generator.integers(0, 4, shape)


def each_border_pixel_alone(said):
    """What the definition says of pixels that are 0 in a prediction, put into labels."""
    alone = said.copy()
    alone[said == 0] = said.max() + 1 + np.arange(np.count_nonzero(said == 0))
    return alone


def test_rand_by_hand():
    # The last two px are border in the truth: n = 8. Of the rest:
    #   shared px p: (1, 1) 3, (1, 2) 1, (2, 2) 3, and 1 px of border that stands alone
    #   segments s of the prediction: 3, 4, 1 (alone);  t of the truth: 4, 4
    #   sum p^2 = 9 + 1 + 9 + 1 = 20, sum s^2 = 9 + 16 + 1 = 26, sum t^2 = 32
    scores = partition_scores(SAID, TRUTH)
    assert scores.n_pixels == 8
    assert scores.v_rand_split == pytest.approx(20 / 32)
    assert scores.v_rand_merge == pytest.approx(20 / 26)
    assert scores.v_rand == pytest.approx(20 / (26 / 2 + 32 / 2))
    # Pairs of different px: 20 - 8 = 12, 26 - 8 = 18, 32 - 8 = 24 of 8 * 7 = 56 (each twice)
    assert scores.rand_error == pytest.approx(1 - 2 * 12 / (18 + 24))
    assert scores.rand_disagreement == pytest.approx((18 - 12 + 24 - 12) / 56)


def test_info_by_hand():
    # H(T) = 1 bit; H(S) = 3/8 log 8/3 + 4/8 log 8/4 + 1/8 log 8
    # H(S, T) = 2 * 3/8 log 8/3 + 2 * 1/8 log 8
    h_said = 3 / 8 * math.log2(8 / 3) + 1 / 2 + 3 / 8
    h_both = 3 / 4 * math.log2(8 / 3) + 3 / 4
    shared = h_said + 1 - h_both
    scores = partition_scores(SAID, TRUTH)
    assert scores.v_info_split == pytest.approx(shared / h_said)
    assert scores.v_info_merge == pytest.approx(shared / 1)
    assert scores.v_info == pytest.approx(shared / (h_said / 2 + 1 / 2))
    assert scores.vi_split == pytest.approx(h_both - 1)
    assert scores.vi_merge == pytest.approx(h_both - h_said)
    assert scores.variation_of_information == pytest.approx(2 * h_both - 1 - h_said)


def test_only_split_and_only_merged():
    whole, halves = np.array([[1, 1, 1, 1, 2, 2, 2, 2]]), np.array([[1, 1, 3, 3, 2, 2, 4, 4]])
    split, merged = partition_scores(halves, whole), partition_scores(whole, halves)
    # 4 segments of 2 px against 2 of 4: 16 / 32 of the pairs; entropies 2 bits and 1 bit
    assert (split.v_rand_split, split.v_rand_merge) == (1 / 2, 1)
    assert (split.v_info_split, split.v_info_merge) == (1 / 2, 1)
    assert (split.vi_split, split.vi_merge) == (1, 0)
    assert (merged.v_rand_split, merged.v_rand_merge) == (1, 1 / 2)
    assert (merged.v_info_split, merged.v_info_merge) == (1, 1 / 2)
    assert (merged.vi_split, merged.vi_merge) == (0, 1)
    assert split.v_rand == merged.v_rand == split.v_info == merged.v_info == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(5))
def test_rand_pair_by_pair(seed):
    said, truth = random_segments(seed)
    inside = truth > 0
    ours, true = each_border_pixel_alone(said)[inside], truth[inside]
    same_said = ours[:, None] == ours[None]  # (px, px)
    same_true = true[:, None] == true[None]
    both = same_said & same_true
    scores = partition_scores(said, truth)
    assert scores.v_rand_split == pytest.approx(both.sum() / same_true.sum())
    assert scores.v_rand_merge == pytest.approx(both.sum() / same_said.sum())
    different = ~np.eye(len(ours), dtype=bool)
    said_wrong = (same_said != same_true)[different].mean()
    assert scores.rand_disagreement == pytest.approx(said_wrong)


def entropy(counts):
    total = sum(counts)
    return -sum(n / total * math.log2(n / total) for n in counts)


@pytest.mark.parametrize("seed", range(5))
def test_info_from_the_definition(seed):
    said, truth = random_segments(seed)
    inside = truth > 0
    ours, true = each_border_pixel_alone(said)[inside].tolist(), truth[inside].tolist()
    h_said, h_true = entropy(Counter(ours).values()), entropy(Counter(true).values())
    shared = h_said + h_true - entropy(Counter(zip(ours, true, strict=True)).values())
    scores = partition_scores(said, truth)
    assert scores.v_info_split == pytest.approx(shared / h_said)
    assert scores.v_info_merge == pytest.approx(shared / h_true)
    split, merge = scores.v_info_split, scores.v_info_merge
    assert scores.v_info == pytest.approx(2 * split * merge / (split + merge))
    split, merge = scores.v_rand_split, scores.v_rand_merge
    assert scores.v_rand == pytest.approx(2 * split * merge / (split + merge))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("with_border", [True, False])
def test_against_skimage(seed, with_border):
    said, truth = random_segments(seed, (12, 13), with_border)
    alone = each_border_pixel_alone(said)
    scores = partition_scores(said, truth)
    error, _, _ = adapted_rand_error(truth, alone, ignore_labels=(0,))
    assert scores.rand_error == pytest.approx(error)
    split, merge = variation_of_information(truth, alone, ignore_labels=(0,))
    assert (scores.vi_split, scores.vi_merge) == pytest.approx((split, merge))


def test_names_of_segments_do_not_matter():
    said, truth = random_segments(3)
    assert partition_scores(said * 1000, truth * 7) == partition_scores(said, truth)


def test_perfect_but_for_the_border():
    truth = np.array([[1, 1, 0, 2, 2, 0, 3]])
    said = np.array([[4, 4, 4, 9, 9, 2, 2]])  # who owns the border does not count
    scores = partition_scores(said, truth)
    assert scores.v_rand == scores.v_info == 1
    assert scores.rand_error == scores.variation_of_information == 0


def test_nothing_to_be_right_about():
    nothing, one = np.zeros((2, 3), int), np.ones((2, 3), int)
    for said in (nothing, one):
        scores = partition_scores(said, nothing)
        assert (scores.n_pixels, scores.v_rand, scores.v_info, scores.rand_error) == (0, 1, 1, 0)
    whole = partition_scores(one, one)  # entropies are 0
    assert (whole.v_rand, whole.v_info, whole.rand_error) == (1, 1, 0)
    lost = partition_scores(nothing, one)  # 6 segments of 1 px instead of one
    assert (lost.v_rand_split, lost.v_rand_merge) == (pytest.approx(1 / 6), 1)
    assert (lost.v_info_split, lost.v_info_merge, lost.v_info) == (0, 1, 0)
    assert lost.rand_error == 1


def test_mean_over_slices_leaves_out_those_without_truth():
    nothing = partition_scores(SAID, 0 * TRUTH)
    first, second = partition_scores(SAID, TRUTH), partition_scores(TRUTH, TRUTH)
    mean = mean_partition_scores([first, nothing, second])
    assert mean.v_rand == pytest.approx((first.v_rand + 1) / 2)
    assert mean.vi_split == pytest.approx(first.vi_split / 2)
    assert mean.n_pixels == 16
    assert mean_partition_scores([nothing]).v_rand == 1
