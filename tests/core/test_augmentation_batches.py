"""Whole batches: against scipy, against exact crops, and image, target and weights together."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch

from napari_unet.core.augmentation import (
    IGNORE,
    AugmentationSettings,
    augment_batch,
    augment_intensity,
    batches,
    grid_lines,
    placing,
    preview,
    single,
    values,
)
from napari_unet.core.augmentation.draws import COLUMNS, draw
from napari_unet.core.errors import SettingsError

OFF = {
    "elastic_sigma": 0,
    "rotation": 0,
    "scale": 1,
    "flips": False,
    "brightness": 0,
    "contrast": 0,
    "gamma": 1,
    "noise": 0,
}
STILL = AugmentationSettings(**OFF)
EVERYTHING = AugmentationSettings(
    elastic_sigma=3, blur=1.5, color=0.4, gray=0.3, invert=0.3, dropout=0.2
)
BENT = AugmentationSettings(elastic_sigma=2, brightness=0, contrast=0, gamma=1, noise=0)
EDGES = ("low", "middle", "high")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def with_settings(**changes):
    return AugmentationSettings(**{**OFF, **changes})


def ramps(shape):
    """An image that tells where each px is from: `(axis, [z,] y, x)`."""
    return torch.from_numpy(np.indices(shape).astype(np.float32))


def numbers(shape):
    """A target that tells which px each px is, up to 250 of them."""
    return (torch.arange(np.prod(shape)) % 251).view(shape).to(torch.uint8)


def middle(shape):
    return tuple((n - 1) / 2 for n in shape)


def set_number(drawn, **columns):
    """The same draws, but with these uniform numbers."""
    changed = drawn.numbers.clone()
    for name, value in columns.items():
        changed[:, COLUMNS.index(name)] = value
    return replace(drawn, numbers=changed)


def places_of(placement):
    """Where each px comes from, `(b * z, y, x, axis)` in px, through what `grid_sample` gets."""
    low, high = placing.bounds(placement)
    size = (high - low + 1).amax(dim=0)
    tables = placing.tables_of(placement, low, tuple(size.tolist()))
    grid = placing.grid_of(tables, placement.shape)
    n_planes = len(grid) // len(low)
    first = low.repeat_interleave(n_planes, dim=0)[:, None, None]
    return (grid.flip(-1).double() + 1) / 2 * (size - 1) + first


# Nothing to vary


@pytest.mark.parametrize(("image_shape", "shape"), [((20, 23), (9, 12)), ((7, 20, 23), (4, 9, 12))])
def test_nothing_to_vary_gives_exact_parts(image_shape, shape):
    image = torch.rand(2, *image_shape, generator=seeded())
    target, weights = numbers(image_shape), torch.rand(image_shape, generator=seeded(1))
    starts = [(1, 5, 3)[-len(shape) :], (3, 0, 11)[-len(shape) :], (0, 11, 0)[-len(shape) :]]
    centers = [tuple(s + m for s, m in zip(start, middle(shape), strict=True)) for start in starts]
    batch = augment_batch([image] * 3, [target] * 3, [weights] * 3, centers, shape, STILL, seeded())
    for i, start in enumerate(starts):
        part = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
        assert torch.equal(batch.image[i], image[:, *part])
        assert torch.equal(batch.target[i], target[part])
        assert torch.equal(batch.weights[i], weights[part])


def test_without_weights_there_are_none():
    batch = augment_batch(
        [torch.rand(1, 9, 9)], [numbers((9, 9))], None, [(4, 4)], (5, 5), BENT, seeded()
    )
    assert batch.weights is None


@pytest.mark.parametrize("image_shape", [(6, 7), (3, 6, 7), (1, 6, 7), (1, 1), (1, 2, 30)])
def test_outside_is_mirrored_ignored_and_weightless(image_shape):
    image = torch.rand(2, *image_shape, generator=seeded())
    target = torch.ones(image_shape, dtype=torch.uint8)
    out = 20
    around = [(out, out)] * len(image_shape)
    shape = (5, 9, 8)[-len(image_shape) :]
    mirrored = np.pad(image.numpy(), [(0, 0), *around], mode="reflect")
    inside = np.pad(target.numpy(), around)
    for where in itertools.product((-13, -3, 1, 4), repeat=len(shape)):
        center = tuple(s + m for s, m in zip(where, middle(shape), strict=True))
        batch = augment_batch(
            [image], [target], [torch.ones(image_shape)], [center], shape, STILL, seeded()
        )
        part = tuple(slice(s + out, s + out + n) for s, n in zip(where, shape, strict=True))
        np.testing.assert_array_equal(batch.image[0].numpy(), mirrored[:, *part])
        np.testing.assert_array_equal(batch.target[0] == 1, inside[part] == 1)
        np.testing.assert_array_equal(batch.target[0] == IGNORE, inside[part] == 0)
        np.testing.assert_array_equal(batch.weights[0].numpy(), inside[part])


def test_images_of_any_size_and_type_come_together():
    images = [
        (torch.rand(2, *size, generator=seeded(i)) * 200).to(dtype)
        for i, (size, dtype) in enumerate(
            [((30, 40), torch.uint8), ((8, 50), torch.float64), ((64, 9), torch.int16)]
        )
    ]
    targets = [numbers(image.shape[1:]) for image in images]
    batch = augment_batch(images, targets, None, [(4, 4)] * 3, (9, 9), STILL, seeded())
    assert batch.image.dtype == torch.float32
    assert torch.equal(batch.image[0], images[0][:, :9, :9].float())
    assert torch.equal(batch.image[2], images[2][:, :9, :9].float())
    assert (batch.target[1, 8] == IGNORE).all()


# Where px come from


@pytest.mark.parametrize(("shape", "n_points"), [((33, 40), 3), ((64, 17), 5), ((5, 24, 31), 3)])
def test_elastic_places_are_scipys_cubic_spline(shape, n_points):
    settings = with_settings(elastic_sigma=10, elastic_points=n_points)
    drawn = draw(2, 1, len(shape), n_points, seeded(3))
    centers = torch.tensor([[50.0] * len(shape), [7.25] * len(shape)], dtype=torch.float64)
    found = places_of(placing.place(centers, shape, settings, drawn))
    points = drawn.points.double()
    if len(shape) == 3:
        own = min(1, shape[0] / ((shape[1] + shape[2]) / 2))
        points = own * points + (1 - own**2) ** 0.5 * drawn.common.double()
    else:
        points = points[:, :, 0]
    n_each = points.shape[2:]
    at = np.meshgrid(
        *[np.linspace(0, p - 1, n) for p, n in zip(n_each, shape, strict=True)], indexing="ij"
    )
    for i in range(2):
        for axis in range(2):
            moved = ndi.map_coordinates(10 * points[i, axis].numpy(), at, order=3, mode="mirror")
            n = shape[-2 + axis]
            line = centers[i, -2 + axis].item() + np.arange(n) - (n - 1) / 2
            expected = moved + (line[:, None] if axis == 0 else line)
            mine = found.view(2, -1, *shape[-2:], 2)[i, ..., axis].numpy().reshape(shape)
            np.testing.assert_allclose(mine, expected, atol=1e-4, rtol=0)


def test_rotation_zoom_and_flips_turn_the_bent_patch_about_its_middle():
    settings = AugmentationSettings(elastic_sigma=10, rotation=180, scale=1.5)
    drawn = draw(4, 1, 2, 3, seeded(5))
    centers = torch.full((4, 2), 40.0, dtype=torch.float64)
    bent = with_settings(elastic_sigma=10)
    before = places_of(placing.place(centers, (21, 30), bent, drawn)) - 40
    after = places_of(placing.place(centers, (21, 30), settings, drawn)) - 40
    angles = torch.deg2rad(drawn.uniform("rotation", -180, 180))
    zooms = drawn.factor("scale", 1.5)
    for i in range(4):
        cos, sin = angles[i].cos(), angles[i].sin()
        signs = (
            1
            - 2
            * torch.stack([drawn.uniform("flip_y")[i], drawn.uniform("flip_x")[i]]).lt(0.5).double()
        )
        matrix = zooms[i] * torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])]) * signs
        expected = before[i] @ matrix.T
        np.testing.assert_allclose(after[i].numpy(), expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("shape", [(70, 90), (3, 130, 40), (16, 16)])
def test_bounds_hold_all_places_and_little_more(shape):
    settings = AugmentationSettings(elastic_sigma=20, elastic_points=4)
    drawn = draw(6, 1, len(shape), 4, seeded(7))
    centers = torch.rand(6, len(shape), generator=seeded(), dtype=torch.float64) * 100
    placement = placing.place(centers, shape, settings, drawn)
    low, high = placing.bounds(placement)
    places = places_of(placement).reshape(6, -1, 2)
    assert (places.amin(dim=1) > low - 1e-3).all()
    assert (places.amax(dim=1) < high + 1e-3).all()
    assert (places.amin(dim=1) - low).max() < 5
    assert (high - places.amax(dim=1)).max() < 5


@pytest.mark.parametrize("shape", [(30, 31), (4, 20, 21)])
def test_image_target_and_weights_are_read_at_the_same_places(shape):
    """A ramp read linearly tells the place itself; the others are the px nearest to it."""
    n = len(shape)
    weights = torch.arange(np.prod(shape)).view(shape).float()
    centers = [middle(shape)] * 6
    batch = augment_batch(
        [ramps(shape)] * 6, [numbers(shape)] * 6, [weights] * 6, centers, shape, BENT, seeded()
    )
    places = torch.movedim(batch.image, 1, -1)
    known = batch.target != IGNORE
    assert 0.5 < known.float().mean() < 1
    sure = known & ((places - places.floor() - 0.5).abs() > 0.01).all(dim=-1)
    sure &= (places > 0.5).all(dim=-1) if n == 2 else (places[..., 1:] > 0.5).all(dim=-1)
    nearest = places[sure].round().long().T
    flat = np.ravel_multi_index(tuple(nearest.numpy()), shape)
    np.testing.assert_array_equal(batch.weights[sure].numpy(), flat)
    np.testing.assert_array_equal(batch.target[sure].numpy(), flat % 251)
    assert (batch.weights[~known] == 0).all()
    assert sure.float().mean() > 0.4


@pytest.mark.parametrize("shape", [(24, 24), (5, 24, 24)])
def test_targets_never_get_new_values(shape):
    known = torch.tensor([0, 3, 200, IGNORE], dtype=torch.uint8)
    target = known[torch.randint(0, 4, shape, generator=seeded())]
    batch = augment_batch(
        [torch.rand(1, *shape)] * 8, [target] * 8, None, [middle(shape)] * 8, shape, EVERYTHING,
        seeded(),
    )  # fmt: skip
    assert batch.target.dtype == torch.uint8
    assert set(batch.target.unique().tolist()) == {0, 3, 200, IGNORE}


@pytest.mark.parametrize("shape", [(6, 7), (3, 6, 7)])
def test_flips_are_exact_alike_and_all_happen(shape):
    target, image = numbers(shape), torch.rand(2, *shape, generator=seeded())
    n = len(shape)
    batch = augment_batch(
        [image] * 60, [target] * 60, [target.float()] * 60, [middle(shape)] * 60, shape,
        with_settings(flips=True), seeded(),
    )  # fmt: skip
    flips = [f for k in range(n + 1) for f in itertools.combinations(range(-n, 0), k)]
    seen = set()
    for i in range(60):
        which = [f for f in flips if torch.equal(batch.target[i], target.flip(f))]
        assert len(which) == 1
        assert torch.equal(batch.image[i], image.flip(which[0]))
        assert torch.equal(batch.weights[i], batch.target[i].float())
        seen.add(which[0])
    assert len(seen) == 2**n


def test_bent_and_unbent_patches_are_flipped_alike():
    shape = (16, 18)
    settings = with_settings(flips=True)
    tiny = replace(settings, elastic_sigma=1e-6)
    one, other = (
        augment_batch(
            [ramps(shape)] * 9, [numbers(shape)] * 9, None, [middle(shape)] * 9, shape, s, seeded(4)
        )
        for s in (settings, tiny)
    )
    torch.testing.assert_close(one.image, other.image, atol=1e-4, rtol=0)
    assert torch.equal(one.target, other.target)


@pytest.mark.parametrize("sigma", [0, 10])
def test_slices_are_never_mixed(sigma):
    shape = (6, 20, 20)
    settings = replace(BENT, elastic_sigma=sigma)
    batch = augment_batch(
        [ramps((9, 30, 30))] * 5, [numbers((9, 30, 30))] * 5, None, [(4.3, 15, 15)] * 5, shape,
        settings, seeded(),
    )  # fmt: skip
    for depth in batch.image[:, 0]:
        expected = torch.arange(2.0, 8)
        if depth[0, 0, 0] > depth[-1, 0, 0]:
            expected = expected.flip(0)
        torch.testing.assert_close(depth, expected.view(-1, 1, 1).expand(shape), atol=1e-5, rtol=0)


def test_samples_differ_and_only_the_generator_decides():
    shape = (20, 21)

    def make(seed):
        return augment_batch(
            [torch.rand(3, *shape, generator=seeded())] * 4, [numbers(shape)] * 4, None,
            [middle(shape)] * 4, shape, EVERYTHING, seeded(seed),
        )  # fmt: skip

    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, again, other = make(1), make(1), make(2)
    assert torch.equal(one.image, again.image)
    assert torch.equal(one.target, again.target)
    assert not torch.equal(one.image, other.image)
    assert not torch.equal(one.image[0], one.image[1])
    assert torch.equal(torch.get_rng_state(), state)
    assert not one.image.requires_grad


@pytest.mark.parametrize(
    ("name", "value"), [("noise", 0.3), ("dropout", 0.2), ("contrast", 0.3), ("blur", 1.0)]
)
def test_a_setting_changes_nothing_but_what_it_is_about(name, value):
    shape = (20, 21)
    image, settings = torch.rand(1, *shape, generator=seeded()), with_settings(elastic_sigma=5)
    one, other = (
        augment_batch([image], [numbers(shape)], None, [middle(shape)], shape, s, seeded())
        for s in (settings, replace(settings, **{name: value}))
    )
    assert torch.equal(one.target, other.target)
    assert not torch.equal(one.image, other.image)


@pytest.mark.parametrize("shape", [(20, 21), (3, 20, 21)])
def test_how_many_are_made_at_once_changes_nothing(monkeypatch, shape):
    image = torch.rand(3, *shape, generator=seeded())

    def make(n_cached):
        monkeypatch.setattr(batches, "N_CACHED", n_cached)
        return augment_batch(
            [image] * 5, [numbers(shape)] * 5, [image[0]] * 5, [middle(shape)] * 5, shape,
            EVERYTHING, seeded(),
        )  # fmt: skip

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    together, apart = make(2**30), make(1)
    torch.testing.assert_close(together.image, apart.image, atol=1e-4, rtol=0)
    assert (together.target != apart.target).float().mean() < 1e-3
    assert together.weights.shape == apart.weights.shape == (5, *shape)


# Values


def test_inputs_are_left_alone():
    image, target, weights = torch.rand(3, 16, 16), numbers((16, 16)), torch.rand(16, 16)
    before = image.clone(), target.clone(), weights.clone()
    for settings in (EVERYTHING, replace(EVERYTHING, elastic_sigma=0, rotation=0, scale=1)):
        augment_batch(
            [image] * 2, [target] * 2, [weights] * 2, [(7.5, 7.5)] * 2, (16, 16), settings, seeded()
        )
    assert torch.equal(image, before[0])
    assert torch.equal(target, before[1])
    assert torch.equal(weights, before[2])


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_values_are_varied_as_for_single_patches(monkeypatch, edge):
    monkeypatch.setattr(single, "_uniform", lambda low, high, generator: low + (high - low) * edge)
    settings = with_settings(brightness=0.1, contrast=0.3, gamma=1.5, blur=1.3)
    image = torch.rand(2, 2, 14, 15, generator=seeded()) * 2 - 0.5
    drawn = draw(2, 2, 2, 3, seeded())
    drawn = set_number(drawn, gamma=edge, contrast=edge, brightness=edge, blur=edge)
    expected = torch.stack([augment_intensity(one, settings, seeded()) for one in image])
    found = values.vary_values(image.clone(), settings, drawn)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_invert_and_gamma_keep_signs_and_zero():
    drawn = set_number(draw(1, 1, 2, 3, seeded()), gamma=1.0, invert=0.0)
    image = torch.tensor([[[[-0.25, 0.0, 0.25, 1.0]]]])
    bent = values.vary_values(image.clone(), with_settings(gamma=2.0), drawn)
    torch.testing.assert_close(bent, torch.tensor([[[[-0.0625, 0.0, 0.0625, 1.0]]]]))
    inverted = values.vary_values(image.clone(), with_settings(invert=0.5), drawn)
    torch.testing.assert_close(inverted, 1 - image)


def test_each_sample_is_blurred_by_its_own_width():
    drawn = draw(3, 2, 3, 3, seeded())
    drawn.numbers[:, COLUMNS.index("blur")] = torch.tensor([0.0, 0.4, 1.0])
    image = torch.rand(3, 2, 3, 20, 22, generator=seeded())
    found = values.vary_values(image.clone(), with_settings(blur=2.0), drawn).numpy()
    np.testing.assert_allclose(found[0], image[0].numpy(), atol=1e-6)
    for i, sigma in ((1, 0.8), (2, 2.0)):
        expected = ndi.gaussian_filter(
            image[i].numpy(),
            (0, 0, sigma, sigma),
            mode="mirror",
            radius=(0, 0, *[int(np.ceil(2 * sigma))] * 2),
        )
        np.testing.assert_allclose(found[i], expected, atol=1e-5)


def test_a_blur_wider_than_the_patch_is_left_out():
    drawn = set_number(draw(1, 1, 2, 3, seeded()), blur=1.0)
    image = torch.rand(1, 1, 4, 30, generator=seeded())
    assert torch.equal(values.vary_values(image.clone(), with_settings(blur=3), drawn), image)


def test_noise_has_the_spread_it_says():
    drawn = set_number(draw(2, 1, 2, 3, seeded()), noise=1.0)
    found = values.vary_values(torch.zeros(2, 1, 100, 100), with_settings(noise=0.2), drawn)
    assert found.std(dim=(1, 2, 3)).tolist() == pytest.approx([0.2, 0.2], rel=0.05)
    both = found.flatten(1) / 0.2
    assert abs((both[0] * both[1]).mean().item()) < 0.05


def test_gray_and_colour_mixing():
    image = torch.rand(2, 3, 6, 6, generator=seeded())
    drawn = draw(2, 3, 2, 3, seeded())
    gray = values.vary_values(image.clone(), with_settings(gray=1.0), drawn)
    torch.testing.assert_close(gray[:, 0], gray[:, 1])
    torch.testing.assert_close(gray[:, 0], gray[:, 2])
    assert not torch.equal(gray[0, 0], image[0].mean(dim=0))
    alike = image[:, :1].expand(2, 3, 6, 6)
    mixed = values.vary_values(alike.clone(), with_settings(color=0.5), drawn)
    torch.testing.assert_close(mixed, alike)
    mixed = values.vary_values(image.clone(), with_settings(color=0.5), drawn)
    assert not torch.allclose(mixed, image)
    assert mixed.min() >= image.min() - 1e-6
    assert mixed.max() <= image.max() + 1e-6


@pytest.mark.parametrize("shape", [(40, 50), (8, 40, 50)])
def test_dropout_hides_rectangles_by_the_mean(shape):
    image = torch.rand(20, 2, *shape, generator=seeded())
    drawn = set_number(draw(20, 2, len(shape), 3, seeded()), dropout=1.0)
    found = values.vary_values(image.clone(), with_settings(dropout=0.3), drawn)
    hidden = found != image
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    means = image.mean(dim=tuple(range(2, image.ndim)), keepdim=True)
    torch.testing.assert_close(found, torch.where(hidden, means, image))
    shares = hidden.float().flatten(1).mean(dim=1)
    assert shares.max() <= 0.32
    assert shares.min() > 0.08
    # whole rectangles: along x, hidden px come in long runs
    starts = (hidden[..., 1:] & ~hidden[..., :-1]).sum()
    assert hidden.sum() / starts > 3


@pytest.mark.parametrize("value", [-0.1, 1.0, 2])
def test_dropout_is_a_share(value):
    with pytest.raises(SettingsError, match="dropout"):
        AugmentationSettings(dropout=value)


def test_dropout_is_off_unless_wanted():
    assert AugmentationSettings().dropout == 0


# The preview


def test_the_preview_is_what_training_sees_and_the_same_each_time():
    image, target = torch.rand(1, 60, 70, generator=seeded()), numbers((60, 70))
    one, again, other = (
        preview(image, target, EVERYTHING, n=3, seed=seed, shape=(32, 32)) for seed in (1, 1, 2)
    )
    assert len(one) == 3
    for example, same, different in zip(one, again, other, strict=True):
        assert example.image.shape == (1, 32, 32)
        assert example.target.shape == example.lines.shape == (32, 32)
        assert example.image.dtype == np.float32
        np.testing.assert_array_equal(example.image, same.image)
        assert not np.array_equal(example.image, different.image)
        assert not example.lines.any()


def test_the_preview_shows_what_is_known():
    target = torch.full((200, 200), IGNORE, dtype=torch.uint8)
    target[150, 40] = 7
    for example in preview(torch.rand(1, 200, 200), target, STILL, shape=(20, 20)):
        assert (example.target == 7).any()
    nothing = torch.full((50, 50), IGNORE, dtype=torch.uint8)
    assert len(preview(torch.rand(1, 50, 50), nothing, STILL, shape=(64, 64))) == 4


def test_the_preview_stays_inside_and_takes_arrays():
    target = np.zeros((40, 50), np.uint8)
    image = np.random.default_rng(0).random((2, 40, 50), np.float32)
    for example in preview(image, target, STILL, n=20, shape=(30, 40)):
        assert (example.target == 0).all()
    for example in preview(image, target, STILL, n=2, shape=(64, 64)):  # larger than the image
        assert (example.target == 0).sum() == 40 * 50


def test_the_preview_shows_the_place_it_is_told():
    image = torch.rand(1, 60, 70, generator=seeded())
    target = numbers((60, 70))
    for example in preview(image, target, STILL, n=3, shape=(11, 11), center=(25, 40)):
        np.testing.assert_array_equal(example.image, image[:, 20:31, 35:46].numpy())
    moved = with_settings(flips=True)
    one = preview(image, target, moved, n=9, shape=(11, 11))
    told = preview(image, target, moved, n=9, shape=(11, 11), center=(25, 40))
    flips = [example.target[0, 0] > example.target[0, -1] for example in one]
    assert flips == [example.target[0, 0] > example.target[0, -1] for example in told]
    assert 0 < sum(flips) < 9


def test_lines_are_straight_until_they_are_bent():
    lines = grid_lines((3, 20, 30), 10)
    assert lines.dtype == np.uint8
    assert lines[1, 5].all() and lines[2, :, 15].all()
    assert lines.sum() == 3 * (2 * 30 + 3 * 20 - 6)
    image, target = np.zeros((1, 64, 64), np.float32), np.zeros((64, 64), np.uint8)
    for example in preview(image, target, STILL, shape=(40, 40), spacing=8):
        rows = example.lines.all(axis=1).sum()
        assert rows == 5
    bent = preview(image, target, with_settings(elastic_sigma=5), shape=(40, 40), spacing=8)
    assert all(example.lines.all(axis=1).sum() == 0 for example in bent)
    assert all(example.lines.any() for example in bent)
