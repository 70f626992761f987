"""Cutting is local to each part, and holes belong to one object."""

import numpy as np
import pytest
import scipy.ndimage as ndi

from napari_unet.core.splitting import N_LEVELS, cut, holes_of


def random_parts(shape, seed):
    """Classes 0 to 2, and evidence of the inside."""
    noise = np.random.default_rng(seed).random((2, *shape))
    classes = np.digitize(ndi.gaussian_filter(noise[0], 2), (0.48, 0.52)).astype(np.uint8)
    level = (ndi.gaussian_filter(noise[1], 1) * N_LEVELS).astype(np.uint8)
    return classes, 2 * level + (level > 5)


def around(box, shape):
    """A window with one px more on each side where the image goes on."""
    return tuple(
        slice(max(0, side.start - 1), min(length, side.stop + 1))
        for side, length in zip(box, shape, strict=True)
    )


def same_pieces(first, second):
    """Whether two labellings differ at most in their ids."""
    pairs = np.unique(np.stack([first.ravel(), second.ravel()]), axis=1)
    return all(len(np.unique(ids)) == pairs.shape[1] for ids in pairs)


@pytest.mark.parametrize("shape", [(70, 80), (16, 25, 30)], ids=str)
@pytest.mark.parametrize("has_rises", [False, True])
@pytest.mark.parametrize("split", [0.0, 0.5, 1.0])
def test_each_part_is_cut_as_if_alone(shape, has_rises, split):
    classes, rises = random_parts(shape, 0)
    rises = rises if has_rises else None
    whole = cut(classes, rises, split)
    n_parts = 0
    for which in (1, 2):
        parts, _ = ndi.label(classes == which)
        for number, box in enumerate(ndi.find_objects(parts), start=1):
            window = around(box, shape)
            mine = parts[window] == number
            alone = cut(
                np.where(mine, which, 0).astype(np.uint8), None if rises is None else rises[window],
                split,
            )  # fmt: skip
            assert same_pieces(alone, np.where(mine, whole[window], 0))
            n_parts += 1
    assert n_parts > 5
    assert whole.max() >= n_parts


def test_ids_are_gapless_and_pieces_connected():
    classes, rises = random_parts((60, 60), 1)
    for evidence in (None, rises):
        found = cut(classes, evidence, 0.7)
        np.testing.assert_array_equal(np.unique(found), np.arange(found.max() + 1))
        np.testing.assert_array_equal(found > 0, classes > 0)
        assert all(ndi.label(found == which)[1] == 1 for which in range(1, found.max() + 1))


def test_starts_share_a_plain_by_distance():
    rises = np.full((1, 11), 8, np.uint8)
    rises[0, [0, 10]] = 19
    found = cut(np.ones((1, 11), np.uint8), rises, 0.5)[0]
    assert found[:5].tolist() == [1] * 5
    assert found[6:].tolist() == [2] * 5


def test_a_start_flows_round_a_valley_last():
    rises = np.array([[19, 8, 2, 8, 8, 19]], np.uint8)
    assert cut(np.ones((1, 6), np.uint8), rises, 0.5)[0].tolist()[:2] == [1, 1]
    assert cut(np.ones((1, 6), np.uint8), rises, 0.5)[0].tolist()[3:] == [2, 2, 2]


def test_holes_belong_to_the_only_object_around_them():
    objects = np.array(
        [
            [1, 1, 1, 2, 2, 2, 2],
            [1, 0, 1, 2, 0, 0, 2],
            [1, 1, 1, 2, 2, 2, 2],
            [1, 0, 2, 2, 3, 0, 2],
            [1, 1, 1, 2, 2, 2, 2],
            [0, 1, 1, 3, 0, 3, 2],
            [0, 0, 1, 1, 3, 2, 2],
        ],
        np.int32,
    )
    at, owners = holes_of(objects)
    places = {(1, 1): 1, (1, 4): 2, (1, 5): 2}
    assert dict(zip(zip(*np.unravel_index(at, (7, 7)), strict=True), owners, strict=True)) == places


def test_holes_of_volumes_are_closed_on_all_sides():
    objects = np.ones((5, 5, 5), np.int32)
    objects[2, 2, 2] = 0
    assert holes_of(objects)[0].tolist() == [62]
    objects[:3, 2, 2] = 0  # a well
    assert not holes_of(objects)[0].size
    assert not holes_of(np.zeros((0, 4), np.int32))[0].size
