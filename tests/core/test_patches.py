"""Patches fit the network, show what was painted, and nothing else counts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_unet.core import patches
from napari_unet.core.augmentation import sample, sampling_grid
from napari_unet.core.corrections import IGNORE, CorrectedBlock
from napari_unet.core.engine.facts import Facts
from napari_unet.core.engine.fitting import Fit
from napari_unet.core.patches import PatchPlan, TrainingBlock, draw_batch, plan_for, training_blocks
from napari_unet.core.settings import AugmentationSettings, FineTuneSettings

STILL = AugmentationSettings(
    elastic_sigma=0, rotation=0, scale=1, flips=False, brightness=0, contrast=0, gamma=1, noise=0
)


def facts(stride=(2, 2, 2), margin=(0, 0, 0), reach=None):
    base = tuple(32 * n for n in stride)
    return Facts(
        graph=None, fit=Fit(base=base, stride=stride, margin=margin), reach=reach, reason=""
    )


def blank(*shape):
    """A block with one painted pixel in its middle."""
    target = torch.full(shape, IGNORE, dtype=torch.uint8)
    middle = tuple(n // 2 for n in shape)
    target[middle] = 1
    image = torch.zeros(1, *shape)
    return TrainingBlock(image=image, target=target, places={1: torch.tensor([middle])})


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# --- plans -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patch_size", "stride", "depth", "reach", "shape"),
    [
        (128, (1, 1, 1), 100, None, (32, 64, 64)),
        (128, (1, 1, 1), 100, (40, 40, 40), (32, 64, 64)),
        (128, (1, 1, 1), 16, None, (16, 91, 91)),
        (128, (8, 8, 8), 10, None, (16, 96, 96)),
        (128, (1, 16, 16), 100, (3, 50, 50), (7, 128, 128)),
        (128, (1, 1, 1), 100, (0, 9, 9), (1, 128, 128)),
        (64, (2, 2, 2), 100, None, (16, 46, 46)),
        (16, (1, 1, 1), 100, None, (4, 16, 16)),
        (16, (16, 16, 16), 1, None, (16, 16, 16)),
    ],
)
def test_patches_of_volumes_are_flat_and_not_too_large(patch_size, stride, depth, reach, shape):
    settings = FineTuneSettings(patch_size=patch_size)
    plan = plan_for(settings, facts(stride, reach=reach), [blank(depth, 9, 9)], False)
    assert plan.shape == plan.spread == shape
    assert (plan.n_patches, plan.n_memories) == (2, 0)


def test_networks_without_padding_lose_their_margin():
    found = facts((2, 2, 2), (8, 20, 20))
    plan = plan_for(FineTuneSettings(patch_size=64), found, [blank(40, 90, 90)], False)
    assert plan.shape == (16, 46, 46)
    assert plan.spread == (8, 26, 26)
    assert found.fit.size_for(plan.spread) == plan.shape
    deep = facts((8, 8, 8), (88, 88, 88))
    plan = plan_for(FineTuneSettings(), deep, [blank(40, 90, 90)], False)
    assert plan.shape == deep.fit.size_for(plan.spread) == (104, 120, 120)


def test_patches_of_planes_are_square():
    found = facts((4, 4), (6, 6))
    plan = plan_for(FineTuneSettings(patch_size=50), found, [blank(90, 90)], True)
    assert plan == PatchPlan(
        shape=(56, 56), spread=(56, 56), n_patches=3, n_memories=1,
        augmentation=AugmentationSettings(),
    )  # fmt: skip


def test_smaller_patches_are_deformed_less():
    plan = plan_for(FineTuneSettings(), facts((1, 1, 1)), [blank(100, 9, 9)], False)
    assert plan.augmentation == AugmentationSettings(elastic_sigma=5.0)


# --- drawing -----------------------------------------------------------------------------------


def plan_of(shape, augmentation=STILL, spread=None, n=2):
    return PatchPlan(
        shape=shape, spread=spread or shape, n_patches=n, n_memories=0, augmentation=augmentation
    )


def test_the_stroke_is_in_the_patch_and_nothing_else_counts():
    block = blank(30, 40, 50)
    images, targets, is_memory = draw_batch([block], [], plan_of((8, 16, 16), n=40), seeded())
    assert images.shape == (40, 1, 8, 16, 16)
    assert targets.shape == (40, 8, 16, 16)
    assert not is_memory.any()
    known = targets != IGNORE
    assert (known.flatten(1).sum(dim=1) <= 1).all()
    assert known.flatten(1).any(dim=1).float().mean() > 0.9  # halves of px aside
    assert (targets[known] == 1).all()
    assert len({tuple(place) for place in torch.nonzero(known)[:, 1:].tolist()}) > 20


@pytest.mark.parametrize(("place", "n", "size", "expected"), [
    (10.0, 4, 20, 10.0), (0.0, 4, 20, 1.5), (19.0, 4, 20, 17.5), (0.0, 8, 4, 0.0), (3.0, 8, 4, 3.0),
    (7.0, 8, 4, 3.5), (-9.0, 8, 4, -0.5), (0.0, 1, 1, 0.0),
])  # fmt: skip
def test_slices_are_taken_from_among_those_there_are(place, n, size, expected):
    assert patches.inside(place, n, size) == expected


def test_patches_lie_inside_the_stack():
    """Painted on its first slice, and still nothing is mirrored."""
    image = torch.arange(20.0).view(1, 20, 1, 1).expand(1, 20, 30, 30)
    target = torch.full((20, 30, 30), IGNORE, dtype=torch.uint8)
    target[0, 15, 15] = 0
    block = TrainingBlock(image=image, target=target, places={0: torch.tensor([[0, 15, 15]])})
    images, targets, _ = draw_batch([block], [], plan_of((6, 4, 4), n=10), seeded())
    ramp = torch.arange(6.0).view(1, 1, 6, 1, 1).expand(10, 1, 6, 4, 4)
    torch.testing.assert_close(images, ramp, atol=1e-4, rtol=0)
    assert (targets[:, 1:] == IGNORE).all()


@pytest.mark.parametrize("shape", [(9, 20, 22), (1, 20, 22), (40, 9, 9)])
@pytest.mark.parametrize("seed", range(8))
def test_reading_only_a_part_changes_nothing(shape, seed):
    generator = seeded(seed)
    image = torch.rand(2, *shape, generator=generator)
    target = torch.randint(0, 5, shape, generator=generator, dtype=torch.uint8)
    center = tuple(float(n * torch.rand((), generator=generator)) for n in shape)
    settings = replace(AugmentationSettings(), elastic_sigma=2)
    grid = sampling_grid((5, 12, 10), center, settings, generator)
    read, found = sample(image, target[None], grid)
    some, part, moved = patches._near(image, target, grid)
    again, found_again = sample(some, part[None], moved)
    torch.testing.assert_close(again, read, atol=1e-4, rtol=0)
    assert (found_again != found).float().mean() < 2e-3  # halves of px are rounded this or that way


def test_only_the_part_around_is_read():
    grid = sampling_grid((4, 8, 8), (20.0, 50.0, 60.0), STILL, seeded())
    image, target, _ = patches._near(torch.zeros(1, 90, 99, 99), torch.zeros(90, 99, 99), grid)
    assert image.shape == (1, *target.shape)
    assert max(target.shape) <= 10


def test_held_out_voxels_are_not_trained_on():
    corrections = np.zeros((2, 4, 4), np.uint8)
    corrections[0], corrections[1] = 1, 2
    held = corrections == 2
    block = CorrectedBlock(
        index=(), origin=(3, 0, 0), corrections=corrections, image=np.zeros((1, 6, 4, 4)),
        image_origin=(1, 0, 0),
    )  # fmt: skip
    (ready,) = training_blocks([block], [torch.zeros(1, 6, 4, 4)], [held], 2)
    assert list(ready.places) == [0]
    assert len(ready.places[0]) == 16
    assert (ready.target[2] == 0).all()
    assert (ready.target != IGNORE).sum() == 16
