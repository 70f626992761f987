"""The warping error: what may move for nothing, and what costs."""

import numpy as np
import pytest
import scipy.ndimage as ndi

from napari_unet.core.errors import SettingsError
from napari_unet.core.metrics import warped_truth, warping_error
from napari_unet.core.metrics.warping import AROUND, _simple_points


def rooms():
    """Two rooms of 4 x 4 px with a wall of 1 px between and around them."""
    inside = np.zeros((6, 11), bool)
    inside[1:5, 1:5] = inside[1:5, 6:10] = True
    return inside


def parts(inside):
    """Parts of the inside (4-connected) and of the border (8-connected), with border around."""
    padded = np.pad(inside, 1)
    return ndi.label(padded)[1], ndi.label(~padded, np.ones((3, 3)))[1]


def test_moving_a_wall_is_free():
    moved = rooms()
    moved[:, 5], moved[1:5, 4] = rooms()[:, 4], False
    assert (moved != rooms()).sum() == 8
    assert warping_error(moved, rooms()) == 0
    assert np.array_equal(warped_truth(moved, rooms()), moved)


def test_every_change_of_topology_costs_a_pixel():
    hole, door, gone = rooms(), rooms(), rooms()
    hole[2, 2] = False
    door[3, 5] = True
    gone[:, 6:] = False
    for changed in (hole, door):
        assert warping_error(changed, rooms()) == 1 / 66
        assert warping_error(rooms(), changed) == 1 / 66
    # A room that is not there shrinks to a px and cannot vanish; a new one cannot begin.
    assert warping_error(gone, rooms()) == 1 / 66
    assert warping_error(rooms(), gone) == 16 / 66


def test_a_wall_that_is_missing_costs_its_whole_length():
    door = rooms()
    door[1:5, 5] = True
    assert warping_error(door, rooms()) == 4 / 66  # none of its px can be given away first
    assert warping_error(rooms(), door) == 1 / 66  # but built, it grows from both ends


def test_surest_pixels_change_first():
    inside = np.full((1, 3), 0.1)
    inside[0] = 0.9, 0.4, 0.3  # of the three px of the truth, two have to go: 0.3, then 0.4
    assert warped_truth(inside, np.ones((1, 3), bool)).tolist() == [[True, False, False]]
    assert warping_error(inside, np.ones((1, 3), bool)) == 0
    # All three should go: 0.1 goes first, then 0.2, and 0.3 must stay
    assert warped_truth(np.array([[0.3, 0.2, 0.1]]), np.ones((1, 3), bool)).tolist() == [
        [True, False, False]
    ]


@pytest.mark.parametrize("seed", range(30))
def test_simple_points_are_those_that_change_no_count(seed):
    """In a plane a change keeps the topology exactly if it keeps both numbers of parts."""
    generator = np.random.default_rng(seed)
    inside = generator.random((7, 7)) < generator.uniform(0.2, 0.8)
    before = parts(inside)
    for y, x in np.ndindex(*inside.shape):
        padded = np.pad(inside, 1)
        code = sum(
            int(padded[1 + y + dy, 1 + x + dx]) << bit for bit, (dy, dx) in enumerate(AROUND)
        )
        changed = inside.copy()
        changed[y, x] ^= True
        assert _simple_points()[code] == (parts(changed) == before)


@pytest.mark.parametrize("seed", range(8))
def test_warping_keeps_the_topology(seed):
    generator = np.random.default_rng(seed)
    truth, target = ndi.gaussian_filter(generator.standard_normal((2, 24, 31)), (0, 1.5, 1.5)) > 0
    warped = warped_truth(target, truth)
    assert parts(warped) == parts(truth)
    n_before, n_after = (truth != target).sum(), (warped != target).sum()
    assert n_after < n_before / 3
    assert not ((warped != target) & (truth == target)).any()  # nothing right was made wrong
    assert warping_error(target, truth) == n_after / truth.size


def test_stacks_and_ids():
    hole = rooms()
    hole[2, 2] = False
    stack = np.stack([hole, rooms()])
    truth = np.stack([rooms(), rooms()])
    assert warping_error(stack, truth.astype(np.uint16) * 300) == 1 / 132
    assert warping_error(np.where(stack, 0.7, 0.6), truth, threshold=0.65) == 1 / 132
    assert warping_error(np.zeros((0, 3)), np.zeros((0, 3), bool)) == 0


def test_lines_are_no_pictures():
    with pytest.raises(SettingsError, match="axes y and x"):
        warping_error(np.zeros(3), np.zeros(3, bool))
