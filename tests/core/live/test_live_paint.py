"""Strokes come, change and go; what is held out is never trained on."""

import numpy as np
import pytest
import torch

from napari_unet.core.corrections import IGNORE
from napari_unet.core.errors import CorrectionsError
from napari_unet.core.image import make_image
from napari_unet.core.live.drawing import varied
from napari_unet.core.live.holding import Holding
from napari_unet.core.live.images import PaintedBlock, live_image, painted_blocks
from napari_unet.core.live.inbox import Painted
from napari_unet.core.live.paint import Paint
from napari_unet.core.live.pieces import HELD, Patch, Piece, cut

PLACE = ("image", (), (0, 0))


def picture(size=96, seed=0):
    return np.random.default_rng(seed).normal(300, 50, (size, size)).astype(np.float32)


def empty(block):
    return PaintedBlock(
        index=block.index, origin=block.origin, corrections=np.zeros_like(block.corrections)
    )


@pytest.fixture
def paint(tiny_model):
    return Paint(tiny_model.description, held_out=0)


def painted_on(paint, corrections, image=None):
    live = live_image(make_image(picture(corrections.shape[-1]) if image is None else image))
    paint.take(Painted(image=live, blocks=painted_blocks(corrections)))
    return live


def test_a_stroke_is_trained_on_where_it_was_painted(paint):
    corrections = np.zeros((96, 96), np.uint8)
    corrections[10:13, 20:40], corrections[50, 50] = 2, 1
    painted_on(paint, corrections)
    (piece,) = paint.all()
    expected = np.where(corrections > 0, corrections.astype(int) - 1, IGNORE)
    np.testing.assert_array_equal(piece.target.numpy(), expected)
    assert paint.values == [0, 1]
    assert paint.n_trained == 61
    assert [stroke.value for stroke in paint.strokes.recent] == [0, 1]


def test_undo_takes_a_stroke_out(paint):
    corrections = np.zeros((96, 96), np.uint8)
    corrections[10:13, 20:40], corrections[50, 50] = 2, 1
    live = painted_on(paint, corrections)
    corrections[10:13, 20:40] = 0
    paint.take(Painted(image=live, blocks=painted_blocks(corrections)))
    assert paint.values == [0]
    found = [
        paint.strokes.newest(paint.pieces, at, torch.Generator().manual_seed(0)) for at in range(2)
    ]
    assert sum(one is not None for one in found) == 1  # the other one is not there any more
    (block,) = painted_blocks(corrections)
    paint.take(Painted(image=live, blocks=(empty(block),)))
    assert (paint.n_blocks, paint.n_trained, list(paint.all())) == (0, 0, [])


def test_only_what_is_new_counts_as_a_new_stroke(paint):
    corrections = np.zeros((96, 96), np.uint8)
    corrections[10, 20:40] = 2
    live = painted_on(paint, corrections)
    corrections[60, 10:15] = 1
    paint.take(Painted(image=live, blocks=painted_blocks(corrections)))
    newest = paint.strokes.recent[-1]
    assert (newest.value, len(newest.pixels)) == (0, 5)
    assert newest.pixels[:, 0].unique().tolist() == [60]


def test_paint_of_the_neighbouring_block_shows_in_a_picture(paint):
    corrections = np.zeros((60, 300), np.uint8)
    corrections[30, 200:299] = 2
    image = np.random.default_rng(0).normal(300, 50, corrections.shape)
    painted_on(paint, corrections, image)
    assert paint.n_blocks == 2
    for piece in paint.all():
        left = piece.start[1]
        shown = piece.target.numpy() != IGNORE
        np.testing.assert_array_equal(shown, corrections[:, left : left + shown.shape[1]] > 0)


def test_a_class_that_the_model_does_not_have(paint):
    corrections = np.zeros((96, 96), np.uint8)
    corrections[5, 5] = 3
    with pytest.raises(CorrectionsError, match="3"):
        painted_on(paint, corrections)
    assert paint.n_blocks == 0


def test_an_image_with_other_channels(paint):
    corrections = np.zeros((40, 40), np.uint8)
    corrections[5, 5] = 2
    live = live_image(make_image(np.random.default_rng(0).random((2, 40, 40)), "cyx"))
    with pytest.raises(CorrectionsError, match="2 channels"):
        paint.take(Painted(image=live, blocks=painted_blocks(corrections)))


def test_an_image_is_forgotten(paint):
    corrections = np.zeros((96, 96), np.uint8)
    corrections[5, 5] = 2
    live = painted_on(paint, corrections)
    painted_on(paint, corrections, picture(seed=1))
    paint.forget(live.key)
    assert paint.n_blocks == 1


# --- held out


def strokes_in(n, seed=0, size=256):
    """One stroke after another, each 20 px long, and the paint before each."""
    generator = np.random.default_rng(seed)
    corrections = np.zeros((size, size), np.uint8)
    for i in range(n):
        before = corrections.copy()
        y, x = generator.integers(0, size - 24, 2)
        corrections[y : y + 3, x : x + 20] = 1 + i % 2
        yield before, corrections.copy()


def test_no_stroke_is_held_out_as_a_whole():
    holding = Holding(0.5)
    n_held = 0
    for before, corrections in strokes_in(60):
        fresh = (corrections != before) & (corrections > 0)
        holding.take(PLACE, corrections, fresh)
        held = holding.held(PLACE, corrections.shape)
        assert (fresh & ~held).any()
        n_held += (fresh & held).sum()
    assert n_held > 100


def test_what_was_trained_on_is_never_held_out():
    holding, trained = Holding(0.3), np.zeros((256, 256), bool)
    for before, corrections in strokes_in(80, seed=1):
        fresh = (corrections != before) & (corrections > 0)
        holding.take(PLACE, corrections, fresh)
        held = holding.held(PLACE, corrections.shape)
        assert not (trained & held).any()
        trained |= (corrections > 0) & ~held


def test_few_strokes_are_all_trained_on():
    holding = Holding(0.5)
    for before, corrections in strokes_in(4):
        holding.take(PLACE, corrections, corrections != before)
    assert not holding.held(PLACE, (256, 256)).any()


def test_held_out_pixels_are_neither_trained_on_nor_held_to_the_old_answer(tiny_model):
    paint = Paint(tiny_model.description, held_out=0.3)
    *_, (_, corrections) = strokes_in(60)
    painted_on(paint, corrections, picture(256))
    (piece,) = paint.all()
    held = piece.held != IGNORE
    assert held.sum() > 50
    assert (piece.target[held] == HELD).all()
    assert paint.values == [0, 1]  # HELD is no class
    truth = torch.from_numpy(corrections)[held] - 1
    assert torch.equal(piece.held[held], truth)


# --- patches


def piece_like(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Piece(
        index=(), start=(0,) * len(shape), image=torch.rand(1, *shape, generator=generator),
        target=torch.zeros(shape, dtype=torch.uint8), held=torch.zeros(shape, dtype=torch.uint8),
        answer=torch.rand(2, *shape, generator=generator),
    )  # fmt: skip


def test_a_patch_is_moved_inside():
    piece = piece_like((50, 70))
    patch = cut(piece, (1.0, 69.0), (32, 32))
    assert torch.equal(patch.image, piece.image[:, :32, 38:])
    assert torch.equal(patch.answer, piece.answer[:, :32, 38:])


@pytest.mark.parametrize("shape", [(31, 40), (20, 33), (1, 5), (9, 31, 40)])
def test_a_patch_that_is_larger_than_the_picture(shape):
    piece = piece_like(shape)
    size = (12, 32, 32)[-len(shape) :]
    patch = cut(piece, [n / 2 for n in shape], size)
    assert patch.image.shape[1:] == patch.target.shape == patch.answer.shape[1:] == size
    outside = (patch.target == IGNORE).sum()
    inside = np.prod([min(n, m) for n, m in zip(shape, size, strict=True)])
    assert outside == patch.target.numel() - inside


def test_image_target_and_answer_are_turned_alike():
    grid = torch.arange(64.0).reshape(1, 8, 8)
    seen = set()
    for seed in range(30):
        patch = varied(
            Patch(image=grid, target=grid[0].to(torch.uint8), answer=grid.repeat(2, 1, 1)),
            torch.Generator().manual_seed(seed),
        )
        assert torch.equal(patch.image[0], patch.target.float())
        assert torch.equal(patch.image[0], patch.answer[1])
        seen.add(tuple(patch.image.flatten().tolist()))
    assert len(seen) == 8
