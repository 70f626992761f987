"""Patches: where they come from and how large they are."""

import numpy as np
import pytest
import torch

from napari_unet.core.augmentation import augment_batch
from napari_unet.core.corrections import IGNORE
from napari_unet.core.engine.facts import Facts
from napari_unet.core.engine.fitting import Fit
from napari_unet.core.normalization import Normalization, normalise
from napari_unet.core.patches import seen
from napari_unet.core.settings import AugmentationSettings
from napari_unet.core.training.outputs import outputs_for
from napari_unet.core.training.patches import PatchPlan, _crop, draw_batch, plan_for
from napari_unet.core.training.pictures import pictures_of
from napari_unet.core.training.settings import TrainSettings

CPU = torch.device("cpu")


def pictures(pairs, **changes):
    settings = TrainSettings(**changes).completed({})
    return list(pictures_of(pairs, settings, outputs_for(settings, 2), Normalization(), 1))


def plan(still, shape=(16, 16), n=3, augmentation=None):
    return PatchPlan(
        shape=shape, answer=shape, n_patches=n, in_channels=1, augmentation=augmentation or still
    )


def facts(fit):
    return Facts(graph=None, fit=fit, reach=None, reason="")


PADDED = Fit(base=(16, 16), stride=(16, 16), margin=(0, 0))
UNPADDED = Fit(base=(572, 572), stride=(16, 16), margin=(184, 184))


def test_sizes_are_those_that_the_network_takes(make_pairs):
    shown = pictures(make_pairs(1))
    settings = TrainSettings(patch_size=50, batch_size=3).completed({})
    padded = plan_for(settings, facts(PADDED), shown, 1)
    assert (padded.shape, padded.answer, padded.n_patches) == ((64, 64), (64, 64), 3)
    unpadded = plan_for(settings, facts(UNPADDED), shown, 1)
    assert unpadded.answer[0] >= 50 and unpadded.shape[0] - unpadded.answer[0] == 184
    assert (unpadded.shape[0] - 572) % 16 == 0


def test_the_paper_s_own_size(make_pairs):
    settings = TrainSettings(patch_size=388).completed({})
    assert plan_for(settings, facts(UNPADDED), pictures(make_pairs(1)), 1).shape == (572, 572)


def test_patches_of_volumes_are_no_thicker_than_the_stack(make_image):
    from napari_unet.core.datasets import of_arrays

    image, labels = make_image(0)
    pairs = of_arrays([(np.stack([image] * 6), np.stack([labels] * 6))]).pairs
    settings = TrainSettings(dims=3, patch_size=64).completed({})
    fit = Fit(base=(4, 8, 8), stride=(1, 8, 8), margin=(0, 0, 0))
    found = plan_for(settings, facts(fit), pictures(pairs, dims=3), 1)
    assert found.shape[0] <= 6 and found.shape[1] == found.shape[2] <= 64


def test_unvaried_patches_are_the_image(make_pairs, still):
    (shown,) = pictures(make_pairs(1))
    whole = normalise(shown.image, shown.scale)
    crop = _crop(shown, (20.0, 23.0), plan(still, (15, 17)))
    batch = augment_batch(
        [crop.image], [crop.target], None, [crop.center], (15, 17), still,
        torch.Generator().manual_seed(0), CPU,
    )  # fmt: skip
    np.testing.assert_allclose(batch.image[0], whole[:, 13:28, 15:32], atol=1e-5)
    np.testing.assert_array_equal(batch.target[0], shown.target[13:28, 15:32])


@pytest.mark.parametrize("center", [(100.0, 90.0), (3.0, 5.0), (-6.0, 80.0), (155.0, 158.0)])
def test_a_crop_holds_all_that_a_patch_can_show(center, make_pairs, still):
    (shown,) = pictures(make_pairs(1, 160))
    vary = AugmentationSettings(brightness=0, contrast=0, gamma=1, noise=0, elastic_sigma=2)
    wanted = plan(still, (24, 24), augmentation=vary)
    crop = _crop(shown, center, wanted)
    image, target = normalise(shown.image, shown.scale), shown.target
    for seed in range(5):
        cropped, whole = (
            augment_batch(
                [torch.as_tensor(i)], [torch.as_tensor(t)], None, [c], (24, 24), vary,
                torch.Generator().manual_seed(seed), CPU,
            )
            for i, t, c in ((crop.image, crop.target, crop.center), (image, target, center))
        )  # fmt: skip
        torch.testing.assert_close(cropped.image, whole.image, atol=2e-3, rtol=0)
        assert (cropped.target != whole.target).float().mean() < 0.01
    assert crop.target.numel() < shown.target.size


def test_outside_the_image_nothing_is_known(make_pairs, still):
    (shown,) = pictures(make_pairs(1))
    batch = draw_batch([shown], plan(still, (96, 96), 1), torch.Generator().manual_seed(0), CPU)
    assert 48 * 48 * 0.4 < (batch.target != IGNORE).sum() <= 48 * 48
    assert batch.image.isfinite().all()


def test_objects_are_drawn_as_often_as_background_and_groups_alike(make_pairs, still):
    shown = pictures(make_pairs(3, 64), split="none")
    generator = torch.Generator().manual_seed(0)
    targets = torch.cat(
        [draw_batch(shown, plan(still, (1, 1), 8), generator, CPU).target for _ in range(60)]
    )
    known = targets[targets != IGNORE]
    assert 0.4 < (known == 1).float().mean() < 0.6  # objects cover less than a tenth


def test_equal_generators_draw_equal_batches(make_pairs, still):
    shown = pictures(make_pairs(2), separation=10.0)
    vary = AugmentationSettings()
    first, second, other = (
        draw_batch(shown, plan(still, augmentation=vary), torch.Generator().manual_seed(s), CPU)
        for s in (1, 1, 2)
    )
    assert torch.equal(first.image, second.image) and torch.equal(first.weights, second.weights)
    assert not torch.equal(first.image, other.image)
    assert first.weights.shape == first.target.shape


def test_an_image_with_one_channel_is_shown_to_all(make_pairs, still):
    from dataclasses import replace

    shown = pictures(make_pairs(1))
    three = replace(plan(still), in_channels=3)
    batch = draw_batch(shown, three, torch.Generator().manual_seed(0), CPU)
    assert batch.image.shape[1] == 3
    assert torch.equal(batch.image[:, 0], batch.image[:, 2])


def test_what_an_unpadded_network_says_something_of():
    target = torch.arange(572 * 572).view(1, 572, 572)
    assert torch.equal(seen(target, UNPADDED), target[:, 92:480, 92:480])
    assert torch.equal(seen(target, PADDED), target)
