"""Deformations against scipy, and what must hold exactly for images and their targets."""

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch

from napari_unet.core.augmentation import (
    IGNORE,
    AugmentationSettings,
    augment_intensity,
    elastic_field,
    sample,
    sampling_grid,
    single,
)
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
NOTHING = AugmentationSettings(**OFF)
EVERYTHING = AugmentationSettings(blur=1.5, color=0.4, gray=0.3, invert=0.3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def middle(shape):
    return tuple((n - 1) / 2 for n in shape)


def positions(shape):
    """Index of each pixel along each axis, `([z,] y, x, axis)`."""
    return torch.from_numpy(np.moveaxis(np.indices(shape), 0, -1).astype(np.float32))


def with_settings(**changes):
    return AugmentationSettings(**{**OFF, **changes})


# The elastic field


@pytest.mark.parametrize(
    ("points", "shape"),
    [((3, 3), (65, 40)), ((4, 6), (33, 80)), ((2, 3), (16, 17)), ((3, 3, 3), (9, 24, 31)),
     ((2, 4, 5), (12, 30, 19))],
)  # fmt: skip
def test_elastic_field_is_scipys_cubic_spline(points, shape):
    control = torch.randn(len(shape), *points, generator=seeded(1)) * 10
    at = np.meshgrid(
        *[np.linspace(0, p - 1, n) for p, n in zip(points, shape, strict=True)], indexing="ij"
    )
    expected = np.stack(
        [ndi.map_coordinates(c.double().numpy(), at, order=3, mode="mirror") for c in control]
    )
    field = elastic_field(control, shape)
    assert field.shape == (len(shape), *shape)
    np.testing.assert_allclose(field.numpy(), expected, atol=1e-4, rtol=0)


def test_elastic_field_goes_through_its_control_points():
    control = torch.randn(2, 3, 3, generator=seeded()) * 10
    field = elastic_field(control, (21, 41))
    np.testing.assert_allclose(field[:, ::10, ::20].numpy(), control.numpy(), atol=1e-4)


def test_one_control_point_moves_everything_alike():
    field = elastic_field(torch.tensor([2.0, -3.0]).view(2, 1, 1), (5, 6))
    np.testing.assert_allclose(field[0].numpy(), 2.0)
    np.testing.assert_allclose(field[1].numpy(), -3.0)


def test_elastic_sigma_is_the_spread_of_the_control_displacements():
    settings = with_settings(elastic_sigma=10, elastic_points=3)
    generator = seeded()
    drawn = [sampling_grid((5, 5), (0, 0), settings, generator)[2, 2] for _ in range(400)]
    drawn = torch.stack(drawn)  # (draw, axis): the middle pixel is a control point
    assert drawn.std().item() == pytest.approx(10, rel=0.1)
    assert abs(drawn.mean().item()) < 1.5


# The sampling grid


@pytest.mark.parametrize("shape", [(16, 16), (7, 31), (5, 8, 12)])
def test_nothing_to_vary_is_the_identity(shape):
    grid = sampling_grid(shape, middle(shape), NOTHING, seeded())
    assert torch.equal(grid, positions(shape))
    image = torch.rand(2, *shape, generator=seeded())
    targets = torch.randint(0, 4, (1, *shape), generator=seeded(), dtype=torch.uint8)
    read, found = sample(image, targets, grid)
    torch.testing.assert_close(read, image, atol=1e-5, rtol=0)
    assert torch.equal(found, targets)


def test_the_centre_says_which_part_is_shown():
    image = torch.rand(1, 40, 50, generator=seeded())
    targets = torch.randint(0, 9, (1, 40, 50), generator=seeded(), dtype=torch.uint8)
    grid = sampling_grid((8, 8), (13.5, 23.5), NOTHING, seeded())
    read, found = sample(image, targets, grid)
    torch.testing.assert_close(read, image[:, 10:18, 20:28], atol=1e-5, rtol=0)
    assert torch.equal(found, targets[:, 10:18, 20:28])


@pytest.mark.parametrize("n_dims", [2, 3])
def test_flips_are_exact_and_all_happen(n_dims):
    shape = (6, 7, 8)[:n_dims]
    targets = torch.arange(np.prod(shape)).view(1, *shape) % 251
    targets = targets.to(torch.uint8)
    axes = range(1, n_dims + 1)
    flips = [[a for a in axes if chosen >> a & 1] for chosen in range(0, 2 ** (n_dims + 1), 2)]
    seen = set()
    generator = seeded()
    for _ in range(60):
        grid = sampling_grid(shape, middle(shape), with_settings(flips=True), generator)
        read, found = sample(targets.float(), targets, grid)
        which = [i for i, flip in enumerate(flips) if torch.equal(found, targets.flip(flip))]
        assert len(which) == 1
        torch.testing.assert_close(read, found.float(), atol=1e-2, rtol=0)
        seen.add(which[0])
    assert len(seen) == 2**n_dims


@pytest.mark.parametrize("shape", [(9, 9), (8, 8), (3, 8, 8)])
def test_rotation_by_a_quarter_is_exact(monkeypatch, shape):
    monkeypatch.setattr(single, "_uniform", lambda low, high, generator: high)
    targets = torch.randint(0, 99, (1, *shape), generator=seeded(), dtype=torch.uint8)
    grid = sampling_grid(shape, middle(shape), with_settings(rotation=90), seeded())
    read, found = sample(targets.float(), targets, grid)
    assert torch.equal(found, torch.rot90(targets, 1, dims=(-2, -1))) or torch.equal(
        found, torch.rot90(targets, -1, dims=(-2, -1))
    )
    torch.testing.assert_close(read, found.float(), atol=1e-2, rtol=0)


@pytest.mark.parametrize("end", [0, 1])
def test_zoom_goes_out_to_its_limit_and_in_to_its_inverse(monkeypatch, end):
    monkeypatch.setattr(single, "_uniform", lambda *limits: limits[end])
    grid = sampling_grid((5, 5), (2.0, 2.0), with_settings(scale=1.25), seeded())
    step = (1 / 1.25, 1.25)[end]
    np.testing.assert_allclose((grid[1:, :, 0] - grid[:-1, :, 0]).numpy(), step, rtol=1e-5)
    np.testing.assert_allclose(grid[2, 2].numpy(), 2.0, atol=1e-6)


def test_volumes_are_varied_in_the_plane_only():
    settings = AugmentationSettings(flips=False)
    grid = sampling_grid((7, 20, 20), (10.0, 30.0, 30.0), settings, seeded(4))
    depth = torch.arange(7.0) + 7
    torch.testing.assert_close(grid[..., 0], depth.view(-1, 1, 1).expand(7, 20, 20))
    assert (grid[..., 1:] - positions((7, 20, 20))[..., 1:]).std() > 1


@pytest.mark.parametrize(
    ("shape", "own"), [((8, 80, 80), 0.1), ((40, 80, 80), 0.5), ((9, 9, 9), 1)]
)
def test_slices_close_together_are_deformed_nearly_alike(shape, own):
    """From the first slice to the last one as much as over the same distance in the plane."""
    settings = with_settings(elastic_sigma=10, elastic_points=2)
    generator = seeded()
    drawn = [sampling_grid(shape, (0, 0, 0), settings, generator)[:, 0, 0] for _ in range(300)]
    moved = torch.stack(drawn)[..., 1:]  # (draw, z, axis), of a control point of the plane
    assert moved[:, 0].std().item() == pytest.approx(10, rel=0.1)
    change = (moved[:, -1] - moved[:, 0]).std().item()
    assert change == pytest.approx(own * 10 * 2**0.5, rel=0.15)


@pytest.mark.parametrize("shape", [(12, 13), (4, 12, 13)])
def test_only_the_generator_decides(shape):
    def draw(seed):
        grid = sampling_grid(shape, middle(shape), EVERYTHING, generator := seeded(seed))
        return grid, augment_intensity(torch.ones(3, *shape) / 3, EVERYTHING, generator)

    torch.manual_seed(5)
    state = torch.get_rng_state()
    for one, again, other in zip(draw(1), draw(1), draw(2), strict=True):
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_gradients_are_recorded():
    grid = sampling_grid((8, 8), (4.0, 4.0), EVERYTHING, seeded())
    read, _ = sample(torch.rand(3, 8, 8), None, grid)
    assert not grid.requires_grad
    assert not read.requires_grad


# Images and their targets


@pytest.mark.parametrize("shape", [(15, 16), (4, 7, 8)])
def test_image_and_target_are_read_at_the_same_places(shape):
    """A ramp read linearly tells the place itself; the target is the pixel nearest to it."""
    numbers = torch.arange(np.prod(shape)).view(1, *shape).to(torch.uint8)
    ramps = torch.movedim(positions(shape), -1, 0)
    settings = AugmentationSettings(elastic_sigma=2)
    n_checked = 0
    for seed in range(10):
        grid = sampling_grid(shape, middle(shape), settings, seeded(seed))
        read, found = sample(ramps, numbers, grid)
        sizes = torch.tensor(shape)
        inside = ((grid >= 0) & (grid <= sizes - 1)).all(dim=-1)
        torch.testing.assert_close(
            read[:, inside], torch.movedim(grid, -1, 0)[:, inside], atol=1e-4, rtol=0
        )
        sure = inside & ((grid - grid.floor() - 0.5).abs() > 0.01).all(dim=-1)
        nearest = np.moveaxis(grid.round().long().numpy(), -1, 0)  # (axis, [z,] y, x)
        nearest = [np.clip(n, 0, s - 1) for n, s in zip(nearest, shape, strict=True)]
        expected = numbers[0].numpy()[tuple(nearest)]
        np.testing.assert_array_equal(found[0].numpy()[sure], expected[sure])
        n_checked += int(sure.sum())
    assert n_checked > 500


def test_labels_and_their_float_copy_agree_away_from_borders():
    y, x = np.mgrid[:60, :60]
    labels = ((y // 20) * 3 + x // 20).astype(np.uint8)  # nine squares of 20 px
    targets = torch.from_numpy(labels)[None]
    # NOTE: one channel per label: between two labels a float copy would show a third one.
    copies = torch.stack([(targets[0] == i).float() for i in range(9)])
    grid = sampling_grid((48, 48), (29.5, 29.5), AugmentationSettings(elastic_sigma=3), seeded())
    read, found = sample(copies, targets, grid)
    known = found[0] != IGNORE
    sure = known & (read.amax(dim=0) > 0.75)
    assert sure.float().mean() > 0.7
    assert torch.equal(read.argmax(dim=0)[sure], found[0][sure].long())


@pytest.mark.parametrize("shape", [(24, 24), (5, 24, 24)])
def test_targets_never_get_new_values(shape):
    values = torch.tensor([0, 3, 200, IGNORE], dtype=torch.uint8)
    targets = values[torch.randint(0, 4, (2, *shape), generator=seeded())]
    image = torch.rand(1, *shape, generator=seeded())
    for seed in range(10):
        grid = sampling_grid(shape, middle(shape), AugmentationSettings(), seeded(seed))
        _, found = sample(image, targets, grid)
        assert found.dtype == torch.uint8
        assert found.shape == targets.shape
        assert set(found.unique().tolist()) <= {0, 3, 200, IGNORE}


def test_outside_is_ignored_and_inside_is_not():
    targets = torch.ones(1, 10, 12, dtype=torch.uint8)
    grid = sampling_grid((20, 20), (4.5, 5.5), NOTHING, seeded())  # 5 px and 4 px stick out
    image = torch.rand(1, 10, 12, generator=seeded())
    read, found = sample(image, targets, grid)
    expected = torch.full((1, 20, 20), IGNORE, dtype=torch.uint8)
    expected[:, 5:15, 4:16] = 1
    assert torch.equal(found, expected)
    mirrored = np.pad(image.numpy(), ((0, 0), (5, 5), (4, 4)), mode="reflect")
    np.testing.assert_allclose(read.numpy(), mirrored, atol=1e-5)
    _, zeros = sample(image, targets, grid, ignore=0)
    assert torch.equal(zeros, torch.where(expected == 1, 1, 0).to(torch.uint8))


def test_a_single_slice_and_a_single_pixel_can_be_read():
    volume = torch.rand(1, 1, 6, 6, generator=seeded())
    targets = torch.ones(1, 1, 6, 6, dtype=torch.uint8)
    grid = sampling_grid((1, 6, 6), middle((1, 6, 6)), NOTHING, seeded())
    read, found = sample(volume, targets, grid)
    torch.testing.assert_close(read, volume, atol=1e-5, rtol=0)
    assert torch.equal(found, targets)
    grid = sampling_grid((1, 1), (0.0, 0.0), NOTHING, seeded())
    assert sample(torch.full((1, 1, 1), 7.0), None, grid)[0].item() == 7.0


def test_nothing_is_known_before_and_behind_a_single_slice():
    volume, targets = torch.rand(1, 1, 6, 6), torch.ones(1, 1, 6, 6, dtype=torch.uint8)
    grid = sampling_grid((5, 6, 6), (1.0, 2.5, 2.5), NOTHING, seeded())
    read, found = sample(volume, targets, grid)
    torch.testing.assert_close(read, volume.expand(1, 5, 6, 6), atol=1e-5, rtol=0)
    assert (found[0, 1] == 1).all()
    assert (found[0, [0, 2, 3, 4]] == IGNORE).all()


# Intensities


@pytest.mark.parametrize("shape", [(1, 16, 17), (3, 16, 17), (2, 4, 16, 17), (3, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_intensity_keeps_shape_and_type_and_its_input(shape, dtype):
    image = torch.rand(shape, generator=seeded(), dtype=dtype) * 3 - 1
    before = image.clone()
    changed = 0
    for seed in range(8):
        varied = augment_intensity(image, EVERYTHING, seeded(seed))
        assert varied.shape == image.shape
        assert varied.dtype == dtype
        assert varied.isfinite().all()
        changed += not torch.allclose(varied, image)
    assert changed == 8
    assert torch.equal(image, before)


def test_intensity_off_changes_nothing():
    image = torch.rand(3, 9, 9, generator=seeded()) * 4 - 1
    torch.testing.assert_close(augment_intensity(image, NOTHING, seeded()), image)


def test_invert():
    image = torch.rand(1, 5, 5, generator=seeded())
    varied = augment_intensity(image, with_settings(invert=1.0), seeded())
    torch.testing.assert_close(varied, 1 - image)


def test_contrast_and_brightness_at_their_limits(monkeypatch):
    monkeypatch.setattr(single, "_uniform", lambda low, high, generator: high)
    settings = with_settings(contrast=0.5, brightness=0.1)
    varied = augment_intensity(torch.tensor([[[0.0, 0.5, 1.0]]]), settings, seeded())
    torch.testing.assert_close(varied, torch.tensor([[[-0.15, 0.6, 1.35]]]))


def test_gamma_keeps_zero_one_and_signs(monkeypatch):
    monkeypatch.setattr(single, "_uniform", lambda low, high, generator: high)
    varied = augment_intensity(
        torch.tensor([[[-0.25, 0.0, 0.25, 1.0]]]), with_settings(gamma=2.0), seeded()
    )
    torch.testing.assert_close(varied, torch.tensor([[[-0.0625, 0.0, 0.0625, 1.0]]]))


def test_noise_has_the_spread_it_says(monkeypatch):
    monkeypatch.setattr(single, "_uniform", lambda low, high, generator: high)
    varied = augment_intensity(torch.zeros(1, 200, 200), with_settings(noise=0.2), seeded())
    assert varied.std().item() == pytest.approx(0.2, rel=0.02)


def test_blur_is_scipys_and_leaves_z_alone(monkeypatch):
    monkeypatch.setattr(single, "_uniform", lambda low, high, generator: high)
    image = torch.rand(2, 3, 20, 22, generator=seeded())
    varied = augment_intensity(image, with_settings(blur=1.5), seeded())
    expected = ndi.gaussian_filter(image.numpy(), (0, 0, 1.5, 1.5), mode="mirror", truncate=2.0)
    np.testing.assert_allclose(varied.numpy(), expected, atol=1e-5)


def test_gray_makes_all_channels_alike():
    image = torch.rand(3, 6, 6, generator=seeded())
    varied = augment_intensity(image, with_settings(gray=1.0), seeded())
    assert torch.equal(varied[0], varied[1])
    assert torch.equal(varied[0], varied[2])
    assert (varied[0] >= image.amin(dim=0) - 1e-6).all()
    assert (varied[0] <= image.amax(dim=0) + 1e-6).all()


def test_mixing_colours_leaves_gray_gray():
    gray = torch.rand(1, 6, 6, generator=seeded()).repeat(3, 1, 1)
    varied = augment_intensity(gray, with_settings(color=0.5), seeded())
    torch.testing.assert_close(varied, gray)
    image = torch.rand(3, 6, 6, generator=seeded())
    assert not torch.allclose(augment_intensity(image, with_settings(color=0.5), seeded()), image)


@pytest.mark.parametrize(
    ("name", "value"),
    [("elastic_points", 1), ("scale", 0.9), ("gamma", 0.5), ("elastic_sigma", -1),
     ("rotation", -1), ("noise", -0.1), ("blur", -1)],
)  # fmt: skip
def test_wrong_settings_are_named(name, value):
    with pytest.raises(SettingsError, match=name):
        AugmentationSettings(**{name: value})
