"""Paint becomes blocks, blocks become targets, and what is held out is never trained on."""

from dataclasses import replace

import dask.array as da
import numpy as np
import pytest

from napari_unet.core.corrections import (
    BLOCK_SIZE,
    IGNORE,
    MARGIN,
    CorrectedBlock,
    block_at,
    block_origins,
    check_corrections,
    corrected_blocks,
    corrections_from_classes,
    corrections_from_objects,
    count_corrections,
    hold_out,
    origins_in,
    target_of,
)
from napari_unet.core.errors import CorrectionsError
from napari_unet.core.image import make_image

CELL = 32


def numbered(*shape, axes):
    """An image in which each pixel has a value of its own."""
    return make_image(np.arange(np.prod(shape), dtype=np.uint32).reshape(shape), axes)


# --- blocks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(600, 520), (256, 256), (257, 10), (1, 1), (100, 700)])
def test_blocks_hold_all_the_paint_once(shape):
    image = numbered(*shape, axes="yx")
    corrections = np.random.default_rng(0).integers(0, 4, shape).astype(np.uint8)
    gathered = np.zeros_like(corrections)
    for block in corrected_blocks(image, corrections):
        (y, x), (height, width) = block.origin, block.corrections.shape
        assert y % BLOCK_SIZE == x % BLOCK_SIZE == 0
        assert height == min(BLOCK_SIZE, shape[0] - y)
        assert width == min(BLOCK_SIZE, shape[1] - x)
        assert block.corrections.dtype == np.uint8
        gathered[y : y + height, x : x + width] += block.corrections
    np.testing.assert_array_equal(gathered, corrections)


def test_the_image_of_a_block_has_a_margin_cut_at_the_border():
    image = numbered(600, 520, axes="yx")
    corrections = np.ones((600, 520), np.uint8)
    blocks = {block.origin: block for block in corrected_blocks(image, corrections)}
    assert sorted(blocks) == [(y, x) for y in (0, 256, 512) for x in (0, 256, 512)]
    expected = {  # origin: first and last row, first and last column
        (0, 0): (0, 320, 0, 320),
        (256, 256): (192, 576, 192, 520),
        (512, 512): (448, 600, 448, 520),
        (0, 512): (0, 320, 448, 520),
    }
    for origin, (top, bottom, left, right) in expected.items():
        assert blocks[origin].image_origin == (top, left)
        np.testing.assert_array_equal(
            blocks[origin].image, image.array[None, top:bottom, left:right]
        )


def test_only_painted_blocks_are_made():
    corrections = np.zeros((2, 600, 600), np.uint8)
    corrections[0, 300, 599] = corrections[1, 255, 256] = 2
    assert list(block_origins(corrections)) == [((0,), 256, 512), ((1,), 0, 256)]
    assert list(block_origins(np.zeros((600, 600), np.uint8))) == []


@pytest.mark.parametrize("axes", ["tzyx", "tczyx", "tzyxc"])
def test_blocks_of_a_stack_come_from_their_plane(axes):
    sizes = {"t": 2, "z": 3, "c": 2, "y": 40, "x": 50}
    image = numbered(*(sizes[axis] for axis in axes), axes=axes)
    corrections = np.zeros((2, 3, 40, 50), np.uint8)
    corrections[1, 2, 30, 40] = 1
    (block,) = corrected_blocks(image, corrections)
    assert (block.index, block.origin, block.image_origin) == ((1, 2), (0, 0), (0, 0))
    np.testing.assert_array_equal(block.corrections, corrections[1, 2])
    whole = image.array if "c" in axes else image.array[..., None]
    expected = np.moveaxis(whole, axes.find("c"), 0)[:, 1, 2]  # (c, y, x)
    np.testing.assert_array_equal(block.image, expected)


def test_only_the_margin_of_a_lazy_image_is_computed():
    computed = []

    def compute(block, block_info=None):
        if block_info:
            computed.append(block_info[0]["chunk-location"])
        return block

    lazy = da.zeros((1024, 1024), np.uint8, chunks=64).map_blocks(compute, dtype=np.uint8)
    corrections = np.zeros((1024, 1024), np.uint8)
    corrections[300, 300] = 1
    (block,) = corrected_blocks(make_image(lazy, "yx"), corrections)
    assert block.image.shape == (1, 384, 384)
    assert {location for location in computed if location} == {
        (y, x) for y in range(3, 9) for x in range(3, 9)
    }


def test_a_block_keeps_its_own_paint():
    corrections = np.ones((20, 20), np.uint8)
    (block,) = corrected_blocks(numbered(20, 20, axes="yx"), corrections)
    corrections[:] = 2
    assert (block.corrections == 1).all()


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        ((0, 1), (0, 1), [(0, 0)]),
        ((255, 256), (255, 256), [(0, 0)]),
        ((255, 257), (256, 257), [(0, 256), (256, 256)]),
        ((-30, 5), (590, 900), [(0, 512)]),
        ((0, 600), (0, 300), [(y, x) for y in (0, 256, 512) for x in (0, 256)]),
        ((600, 700), (0, 5), []),
        ((-9, 0), (0, 5), []),
        ((5, 5), (0, 5), []),
    ],
)
def test_which_blocks_a_stroke_touches(rows, columns, expected):
    box = ((7,), rows, columns)
    assert list(origins_in(box, (9, 600, 600))) == [((7,), y, x) for y, x in expected]


# --- targets -----------------------------------------------------------------------------------


def test_a_target_is_known_only_where_somebody_painted():
    image = numbered(600, 520, axes="yx")
    corrections = np.random.default_rng(1).integers(0, 4, (600, 520)).astype(np.uint8)
    for block in corrected_blocks(image, corrections):
        target = target_of(block)
        assert target.shape == block.image.shape[1:]
        assert target.dtype == np.uint8
        (top, left), (y, x) = block.image_origin, block.origin
        for row in range(target.shape[0]):
            inside = y <= top + row < y + block.corrections.shape[0]
            painted = corrections[top + row, left : left + target.shape[1]]
            columns = np.arange(left, left + target.shape[1])
            mine = inside & (columns >= x) & (columns < x + block.corrections.shape[1])
            known = mine & (painted > 0)
            np.testing.assert_array_equal(target[row] != IGNORE, known)
            np.testing.assert_array_equal(target[row][known], painted[known] - 1)


def test_a_target_by_hand():
    painted = np.array([[0, 1, 2], [3, 0, 255]], np.uint8)
    block = CorrectedBlock(
        index=(), origin=(256, 256), corrections=painted, image=np.zeros((1, 4, 6)),
        image_origin=(255, 254),
    )  # fmt: skip
    expected = np.full((4, 6), IGNORE)
    expected[1, 3:5], expected[2, 2], expected[2, 4] = (0, 1), 2, 254
    np.testing.assert_array_equal(target_of(block), expected)


def test_a_target_of_a_volume():
    painted = np.array([[[0, 1]], [[3, 0]]], np.uint8)
    block = CorrectedBlock(
        index=(4,), origin=(7, 3, 2), corrections=painted, image=np.zeros((2, 4, 2, 5)),
        image_origin=(6, 2, 1),
    )  # fmt: skip
    expected = np.full((4, 2, 5), IGNORE)
    expected[1, 1, 2], expected[2, 1, 1] = 0, 2
    np.testing.assert_array_equal(target_of(block), expected)


# --- counts ------------------------------------------------------------------------------------


def test_counting_pixels_and_regions():
    first = np.zeros((5, 8), np.uint8)
    first[0, 0] = first[1, 1] = first[4, 4] = 1  # two touch at a corner
    first[2, 5:8] = 3
    second = np.zeros((5, 8), np.uint8)
    second[:, 0] = 1
    second[:, 1] = 2
    counts = count_corrections({((), 0, 0): first, ((), 0, 256): second})
    assert counts == {1: (8, 3), 2: (5, 1), 3: (3, 1)}
    assert count_corrections({}) == {}


# --- checks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_fitting_corrections_pass(dtype):
    check_corrections(numbered(3, 8, 9, axes="cyx"), np.full((8, 9), 3, dtype), 3)
    check_corrections(numbered(8, 9, axes="yx"), np.zeros((8, 9), dtype), 2)


@pytest.mark.parametrize(
    ("corrections", "sentence"),
    [
        (np.zeros((9, 8), int), r"shape \(9, 8\), but 'image' has \(8, 9\) \(yx\)"),
        (np.zeros((1, 8, 9), int), r"shape \(1, 8, 9\)"),
        (np.zeros((8, 9)), "must be whole numbers, not float64"),
        (np.zeros((8, 9), bool), "must be whole numbers, not bool"),
        (np.full((8, 9), 4), "hold the value 4, but the model knows only 3 classes"),
        (np.full((8, 9), -1), "hold the value -1"),
        (np.full((8, 9), 258, np.int32), "hold the value 258"),
    ],
)
def test_corrections_that_do_not_fit(corrections, sentence):
    with pytest.raises(CorrectionsError, match=sentence):
        check_corrections(numbered(8, 9, axes="yx"), corrections, 3)


# --- hold out ----------------------------------------------------------------------------------


def block_of(corrections, origin=(0, 0), index=()):
    return CorrectedBlock(
        index=index, origin=origin, corrections=corrections, image=np.zeros((1, 1, 1)),
        image_origin=origin,
    )  # fmt: skip


def strokes(seed, n=40, n_values=2, shape=(256, 256)):
    """Random short strokes `(y, x)`, uint8."""
    generator = np.random.default_rng(seed)
    corrections = np.zeros(shape, np.uint8)
    for _ in range(n):
        y, x = generator.integers(0, shape[0] - 12), generator.integers(0, shape[1] - 12)
        corrections[y : y + 3, x : x + 12] = generator.integers(1, n_values + 1)
    return corrections


def cells_of(mask):
    """`(y, x)` of the cells in which anything is set."""
    return {(int(y) // CELL, int(x) // CELL) for y, x in zip(*np.nonzero(mask), strict=True)}


def test_whole_cells_are_held_out_and_others_are_not_touched():
    corrections = strokes(0)
    (mask,) = hold_out([("a", block_of(corrections))])
    assert mask.any()
    for y, x in cells_of(np.ones_like(mask)):
        cell = mask[CELL * y : CELL * (y + 1), CELL * x : CELL * (x + 1)]
        assert cell.all() or not cell.any()
    assert cells_of(mask) <= cells_of(corrections)


def test_the_share_is_about_right():
    keyed = [(f"image {i}", block_of(np.ones((256, 256), np.uint8))) for i in range(40)]
    for share in (0.1, 0.2, 0.5):
        held = np.mean(hold_out(keyed, share))
        assert held == pytest.approx(share, abs=0.03)
    assert np.mean(hold_out(keyed, 0.2)) < np.mean(hold_out(keyed, 0.5))


def test_a_share_of_zero_holds_nothing_out():
    (mask,) = hold_out([("a", block_of(strokes(0)))], 0)
    assert not mask.any()


def test_some_of_every_class_is_trained_on_however_large_the_share():
    for seed in range(20):
        corrections = strokes(seed, n=25, n_values=3)
        (mask,) = hold_out([("a", block_of(corrections))], 0.999)
        assert mask.any()
        assert set(np.unique(corrections[~mask])) >= {1, 2, 3}


def test_a_scarce_class_spares_nothing_even_beside_others():
    for seed in range(30):
        corrections = strokes(seed, n=60, n_values=2)
        places = sorted(cells_of(corrections))[::7][:4]
        for y, x in places:  # four cells have a pixel of class 3 beside what they had
            corrections[CELL * y + 5, CELL * x + 5] = 3
        (mask,) = hold_out([("a", block_of(corrections))], 0.4)
        assert mask.any()
        assert not mask[corrections == 3].any()
        assert not cells_of(mask) & set(places)


@pytest.mark.parametrize(("n", "n_held"), [(1, 0), (4, 0), (5, 1), (6, 1)])
def test_from_five_cells_on_one_at_least_is_held_out(n, n_held):
    corrections = np.zeros((256, 256), np.uint8)
    corrections[5, 3 : CELL * n : CELL] = 1
    (mask,) = hold_out([("a", block_of(corrections))], 1e-9)
    assert len(cells_of(mask)) == n_held


def test_each_class_that_can_spare_a_cell_is_scored():
    for seed in range(20):
        corrections = strokes(seed, n=60, n_values=3)
        (mask,) = hold_out([("a", block_of(corrections))], 0.05)
        assert set(np.unique(corrections[mask])) >= {1, 2, 3}


def test_the_choice_follows_from_the_place_alone():
    first, second = strokes(1), strokes(2)
    a, b = hold_out([("a", block_of(first)), ("a", block_of(second, (256, 0)))])
    b_again, a_again = hold_out([("a", block_of(second, (256, 0))), ("a", block_of(first))])
    np.testing.assert_array_equal(a, a_again)
    np.testing.assert_array_equal(b, b_again)
    as_numpy = replace(block_of(first), index=(), origin=(np.int64(0), np.int64(0)))
    np.testing.assert_array_equal(
        hold_out([("a", as_numpy)])[0], hold_out([("a", block_of(first))])[0]
    )


@pytest.mark.parametrize(
    ("key", "origin", "index"), [("b", (0, 0), (0,)), ("a", (256, 0), (0,)), ("a", (0, 0), (1,))]
)
def test_another_image_plane_or_block_draws_anew(key, origin, index):
    everything = np.ones((256, 256), np.uint8)
    (here,) = hold_out([("a", block_of(everything, (0, 0), (0,)))])
    (there,) = hold_out([(key, block_of(everything, origin, index))])
    assert (here != there).any()


def test_more_paint_elsewhere_never_frees_what_is_held_for_its_place():
    everything = np.ones((256, 256), np.uint8)
    (by_place,) = hold_out([("a", block_of(everything))], 0.2, n_needed=1)
    corrections = np.zeros((256, 256), np.uint8)
    held_before = set()
    for seed in range(6):
        corrections = np.maximum(corrections, np.minimum(strokes(seed, n=12), 1))
        (mask,) = hold_out([("a", block_of(corrections))], 0.2)
        held = cells_of(mask) & cells_of(by_place)
        assert held >= held_before
        held_before = held
    assert held_before


def test_the_same_place_twice_is_held_out_in_both():
    for seed in range(20):
        corrections = strokes(seed, n=8, n_values=1)
        other = strokes(seed + 100, n=8, n_values=1)
        first, second = hold_out([("a", block_of(corrections)), ("a", block_of(other))], 0.01)
        np.testing.assert_array_equal(first & (other > 0), second & (other > 0))
        np.testing.assert_array_equal(second & (corrections > 0), first & (corrections > 0))


def test_blocks_of_any_size_and_none_at_all():
    assert hold_out([]) == []
    blocks = [("a", block_of(np.ones(shape, np.uint8))) for shape in ((1, 1), (256, 3), (33, 65))]
    masks = hold_out(blocks)
    assert [mask.shape for mask in masks] == [(1, 1), (256, 3), (33, 65)]
    (empty,) = hold_out([("a", block_of(np.zeros((9, 9), np.uint8)))])
    assert not empty.any()


def test_cells_of_volumes_are_held_out_with_their_neighbouring_slices():
    """Wherever the volume begins, the cells are those of the stack."""
    whole = np.ones((40, 128, 128), np.uint8)

    def held(z, y, x):
        block = CorrectedBlock(
            index=(), origin=(z, y, x), corrections=whole[z:, y:, x:],
            image=np.zeros((1, 1, 1, 1)), image_origin=(z, y, x),
        )  # fmt: skip
        (mask,) = hold_out([("a", block)], 0.3)
        return mask

    mask = held(0, 0, 0)
    assert 0.15 < mask.mean() < 0.45
    cells = mask.reshape(5, 8, 4, 32, 4, 32)
    assert (cells.all(axis=(1, 3, 5)) == cells.any(axis=(1, 3, 5))).all()
    np.testing.assert_array_equal(held(5, 40, 70), mask[5:, 40:, 70:])


# --- masks taken over --------------------------------------------------------------------------


def test_objects_become_one_class():
    objects = np.array([[0, 5, 5, 0], [0, 0, 0, 9]])
    expected = np.array([[1, 2, 2, 1], [1, 1, 1, 2]])
    found = corrections_from_objects(objects)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ([[1, 1, 2, 2]], [[2, 1, 2, 2]]),
        ([[1, 1, 0, 2]], [[2, 2, 1, 2]]),
        ([[7], [7], [3], [3]], [[2], [1], [2], [2]]),
        ([[1, 0], [0, 2]], [[2, 1], [1, 2]]),  # only a corner is shared
        ([[1, 1, 1], [1, 1, 1]], [[2, 2, 2], [2, 2, 2]]),
        ([[1, 0, 2]], [[2, 1, 2]]),  # the first and the last column do not touch
        ([[-1, 1]], [[1, 2]]),
    ],
)
def test_touching_objects_are_kept_apart(objects, expected):
    np.testing.assert_array_equal(corrections_from_objects(np.array(objects)), expected)


def test_a_mask_of_truth_values_is_one_object():
    mask = np.array([[True, True, False]])
    np.testing.assert_array_equal(corrections_from_objects(mask), [[2, 2, 1]])


def test_classes_move_up_by_one():
    classes = np.array([[0, 1], [2, 0]], np.int64)
    found = corrections_from_classes(classes)
    np.testing.assert_array_equal(found, [[1, 2], [3, 1]])
    assert found.dtype == np.uint8


def test_a_block_is_made_at_any_place_of_any_image():
    image = numbered(2, 300, 300, axes="tyx")
    painted = np.ones((44, 256), np.uint8)
    block = block_at(image, painted, (1,), 256, 0)
    assert block.image_origin == (256 - MARGIN, 0)
    assert block.image.shape == (1, 44 + MARGIN, 300)
    np.testing.assert_array_equal(block.image[0], image.array[1, 256 - MARGIN :])
