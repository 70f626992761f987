"""Painted planes go back to where they lie in their stack, with what lies around them."""

from dataclasses import replace

import dask.array as da
import numpy as np
import pytest

from napari_unet.core import volumes
from napari_unet.core.corrections import corrected_blocks, target_of
from napari_unet.core.errors import CorrectionsError
from napari_unet.core.image import make_image
from napari_unet.core.volumes import DEPTH, Slices, corrected_volumes, slices_of, slices_wanted


def numbered(*shape, axes):
    """An image in which each pixel has a value of its own."""
    return make_image(np.arange(np.prod(shape), dtype=np.uint32).reshape(shape), axes)


def volumes_in(image, corrections):
    return list(corrected_volumes(list(corrected_blocks(image, corrections)), slices_of(image)))


def put_back(found, shape):
    """The corrections of volumes, where they say that they lie."""
    whole = np.zeros(shape, np.uint8)
    for block in found:
        part = tuple(
            slice(at, at + n) for at, n in zip(block.origin, block.corrections.shape, strict=True)
        )
        whole[block.index][part] += block.corrections
    return whole


@pytest.mark.parametrize(
    ("painted", "expected"),
    [
        ([], []),
        ([5], [range(2, 9)]),
        ([0, 19], [range(4), range(16, 20)]),
        ([12, 5], [range(2, 16)]),  # they touch: one run
        ([5, 13], [range(2, 9), range(10, 17)]),
    ],
)
def test_which_slices_are_wanted(painted, expected):
    assert slices_wanted(painted, 20, depth=3) == expected


def test_every_stroke_is_there_once_and_the_image_is_that_around_it():
    shape = (50, 300, 280)
    image = numbered(*shape, axes="zyx")
    corrections = np.zeros(shape, np.uint8)
    corrections[3, 100:104, 20:200], corrections[7, 250:270, 250:260] = 1, 2
    corrections[45, 0, 0] = 2
    found = volumes_in(image, corrections)
    np.testing.assert_array_equal(put_back(found, shape), corrections)
    for block in found:
        part = tuple(
            slice(at, at + n)
            for at, n in zip(block.image_origin, block.image.shape[1:], strict=True)
        )
        np.testing.assert_array_equal(block.image[0], image.array[part])
        target = target_of(block)
        painted = corrections[part]
        known = target != 255
        assert known.sum() == np.count_nonzero(block.corrections)
        np.testing.assert_array_equal(target[known], painted[known] - 1)
    depths = {(block.image_origin[0], block.image.shape[1]) for block in found}
    assert depths == {(0, 24), (29, 21)}


def test_only_the_surroundings_of_the_paint_are_kept_in_memory():
    image = numbered(40, 256, 256, axes="zyx")
    corrections = np.zeros((40, 256, 256), np.uint8)
    corrections[20, 120, 130:140] = 1
    (block,) = volumes_in(image, corrections)
    assert (block.origin, block.corrections.shape) == ((20, 120, 130), (1, 1, 10))
    around = volumes.AROUND
    assert block.image_origin == (20 - DEPTH, 120 - around, 130 - around)
    assert block.image.shape == (1, 2 * DEPTH + 1, 2 * around + 1, 2 * around + 10)


@pytest.mark.parametrize("axes", ["tzyx", "tczyx", "zyxtc", "xyzt"])
def test_axes_of_all_kinds(axes):
    sizes = {"t": 2, "z": 3, "c": 2, "y": 20, "x": 30}
    image = numbered(*(sizes[axis] for axis in axes), axes=axes)
    corrections = np.zeros((2, 3, 20, 30), np.uint8)
    corrections[1, 2, 10, 5] = 1
    (block,) = volumes_in(image, corrections)
    assert block.index == (1,)
    np.testing.assert_array_equal(block.image, image.read((1,), (slice(3), slice(20), slice(30))))


def test_a_lazy_stack_is_read_where_it_was_painted():
    computed = []

    def compute(block, block_info=None):
        if block_info:
            computed.append(block_info[0]["chunk-location"])
        return block

    lazy = da.zeros((100, 64, 64), np.uint8, chunks=(10, 64, 64))
    image = make_image(lazy.map_blocks(compute, dtype=np.uint8), "zyx")
    corrections = np.zeros((100, 64, 64), np.uint8)
    corrections[50, 5, 5] = 1
    blocks = list(corrected_blocks(image, corrections))
    computed.clear()
    (block,) = corrected_volumes(blocks, slices_of(image))
    assert block.image.shape[1] == 2 * DEPTH + 1
    assert {place[0] for place in computed} == {3, 4, 5, 6}


def some_of(slices, kept):
    """Only some slices are at hand."""

    def read(block, wanted):
        return {z: plane for z, plane in slices.read(block, wanted).items() if z in kept}

    return Slices(n=slices.n, read=read)


def test_what_is_not_at_hand_is_left_out():
    image = numbered(30, 8, 9, axes="zyx")
    corrections = np.zeros((30, 8, 9), np.uint8)
    corrections[5], corrections[12] = 1, 2
    blocks = list(corrected_blocks(image, corrections))
    found = list(corrected_volumes(blocks, some_of(slices_of(image), (3, 4, 6, 7, 8, 11, 20))))
    assert [(b.image_origin[0], b.image.shape[1]) for b in found] == [(3, 6), (11, 2)]
    np.testing.assert_array_equal(put_back(found, (30, 8, 9)), corrections)
    for block in found:
        first, n = block.image_origin[0], block.image.shape[1]
        np.testing.assert_array_equal(block.image[0], image.array[first : first + n])


def test_a_slice_of_another_size_is_not_taken():
    image = numbered(5, 8, 9, axes="zyx")
    corrections = np.zeros((5, 8, 9), np.uint8)
    corrections[2] = 1
    blocks = list(corrected_blocks(image, corrections))
    slices = slices_of(image)

    def read(block, wanted):
        return {z: p[:, :4] if z == 1 else p for z, p in slices.read(block, wanted).items()}

    (found,) = corrected_volumes(blocks, replace(slices, read=read))
    assert (found.image_origin[0], found.image.shape[1]) == (2, 3)


def test_painted_slices_alone_are_not_enough():
    image = numbered(5, 8, 9, axes="zyx")
    corrections = np.zeros((5, 8, 9), np.uint8)
    corrections[2] = 1
    blocks = list(corrected_blocks(image, corrections))
    with pytest.raises(CorrectionsError, match=r"without the slices around them.*Open that image"):
        list(corrected_volumes(blocks, some_of(slices_of(image), ())))
    corrections[:] = 1  # but if every slice was painted on, nothing is missing
    blocks = list(corrected_blocks(image, corrections))
    (found,) = corrected_volumes(blocks, some_of(slices_of(image), ()))
    assert found.image.shape == (1, 5, 8, 9)


def test_a_stack_of_one_slice_is_a_volume():
    image = numbered(1, 8, 9, axes="zyx")
    (found,) = volumes_in(image, np.ones((1, 8, 9), np.uint8))
    assert found.image.shape == (1, 1, 8, 9)


@pytest.mark.parametrize("axes", ["yx", "tyx"])
def test_an_image_that_is_no_stack(axes):
    image = numbered(*(4, 8, 9)[-len(axes) :], axes=axes)
    corrections = np.ones(image.label_shape, np.uint8)
    assert slices_of(image) is None
    with pytest.raises(CorrectionsError, match="no stack"):
        volumes_in(image, corrections)
    assert volumes_in(image, 0 * corrections) == []
