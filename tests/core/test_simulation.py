"""The simulated fields: their truth is exact, and they are what their settings say."""

import time

import numpy as np
import pytest
import scipy.ndimage as ndi

from napari_unet.core.errors import SettingsError
from napari_unet.core.simulation import CAMERA_OFFSET, SimulationSettings, simulate

KINDS = ("fluorescence", "inverted", "rings")
SMALL = {"size": 200, "n_nuclei": 20, "radius": 9.0}


def touching_pairs(labels):
    """Pairs of ids that share an edge of a pixel."""
    pairs = set()
    for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        at = (a != b) & (a > 0) & (b > 0)
        pairs |= set(map(tuple, np.sort([a[at], b[at]], axis=0).T.tolist()))
    return pairs


@pytest.mark.parametrize("kind", KINDS)
def test_types_and_shapes(kind):
    simulated = simulate(SimulationSettings(kind=kind, **SMALL))
    assert simulated.image.shape == simulated.labels.shape == (200, 200)
    assert simulated.image.dtype == np.uint16
    assert simulated.labels.dtype == np.int32


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_image_and_no_global_randomness(kind):
    settings = SimulationSettings(kind=kind, **SMALL)
    np.random.seed(3)
    state = np.random.get_state()[1].copy()
    one, again, other = (simulate(settings, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.image, again.image)
    np.testing.assert_array_equal(one.labels, again.labels)
    assert (one.image != other.image).any()
    assert (one.labels != other.labels).any()
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("seed", range(5))
def test_ids_are_gapless_and_each_nucleus_is_one_piece(seed):
    settings = SimulationSettings(size=300, n_nuclei=40, radius=9, touching=0.7)
    labels = simulate(settings, seed).labels
    np.testing.assert_array_equal(np.unique(labels), np.arange(labels.max() + 1))
    assert labels.max() == 40
    for index in range(1, 41):
        assert ndi.label(labels == index)[1] == 1


def test_sizes_follow_the_radius():
    labels = simulate(SimulationSettings(size=600, n_nuclei=60, radius=14)).labels
    interior = np.setdiff1d(labels, np.r_[labels[0], labels[-1], labels[:, 0], labels[:, -1], 0])
    radii = np.sqrt(np.bincount(labels.ravel())[interior] / np.pi)
    assert 12 < np.median(radii) < 16
    assert radii.std() > 0.5  # they are not all alike


def test_touching_says_how_many_touch():
    counts = [
        len(touching_pairs(simulate(SimulationSettings(n_nuclei=60, touching=t)).labels))
        for t in (0.0, 0.4, 1.0)
    ]
    assert counts[0] == 0
    assert 10 <= counts[1] < counts[2]
    assert counts[2] >= 50


def test_no_room_means_fewer_nuclei():
    labels = simulate(SimulationSettings(size=60, n_nuclei=200, radius=9)).labels
    assert 3 <= labels.max() < 200
    np.testing.assert_array_equal(np.unique(labels)[-3:], labels.max() + np.array([-2, -1, 0]))


def test_no_nuclei_and_tiny_images():
    assert simulate(SimulationSettings(size=64, n_nuclei=0)).labels.max() == 0
    for kind in KINDS:
        assert simulate(SimulationSettings(kind=kind, size=1)).image.shape == (1, 1)


def test_fluorescence_is_bright_where_the_truth_is():
    simulated = simulate(SimulationSettings(**SMALL))
    inside = ndi.binary_erosion(simulated.labels > 0, iterations=2)
    outside = ~ndi.binary_dilation(simulated.labels > 0, iterations=4)
    assert np.percentile(simulated.image[inside], 5) > np.percentile(simulated.image[outside], 95)


def test_inverted_is_dark_where_the_truth_is_but_no_threshold_finds_it():
    simulated = simulate(SimulationSettings(kind="inverted", **SMALL))
    inside = ndi.binary_erosion(simulated.labels > 0, iterations=2)
    outside = ~ndi.binary_dilation(simulated.labels > 0, iterations=4)
    assert simulated.image[inside].mean() < 0.9 * simulated.image[outside].mean()
    assert np.percentile(simulated.image[inside], 90) > np.percentile(simulated.image[outside], 10)


def test_rings_have_a_bright_halo_around_a_dark_inside():
    simulated = simulate(SimulationSettings(kind="rings", uneven=0, **SMALL))
    nuclei = simulated.labels > 0
    inside = ndi.binary_erosion(nuclei, iterations=3)
    halo = ndi.binary_dilation(nuclei, iterations=2) & ~nuclei
    far = ~ndi.binary_dilation(nuclei, iterations=8)
    image = simulated.image.astype(float)
    assert image[inside].mean() < image[far].mean() < image[halo].mean()


def test_photons_and_noise():
    """Without nuclei and light falloff: Poisson mean and variance, plus those of the camera."""
    settings = SimulationSettings(
        size=300, n_nuclei=0, uneven=0, background=0.0, photons=100, read_noise=4
    )
    image = simulate(settings).image.astype(float)
    assert image.mean() == pytest.approx(CAMERA_OFFSET, abs=0.2)
    assert image.std() == pytest.approx(2 * 4, rel=0.03)  # two gray levels per photon
    lit = simulate(SimulationSettings(kind="inverted", size=300, n_nuclei=0, uneven=0, photons=1e4))
    assert lit.image.mean() == pytest.approx(CAMERA_OFFSET + 2 * 1e4 * (0.2 + 0.08), rel=0.01)


def test_uneven_light_darkens_a_corner():
    shading = []
    for uneven in (0.0, 0.8):
        settings = SimulationSettings(kind="rings", size=256, n_nuclei=0, uneven=uneven)
        image = simulate(settings).image.astype(float) - CAMERA_OFFSET
        means = ndi.uniform_filter(image, 41)[20:-20:40, 20:-20:40]
        shading.append(means.min() / means.max())
    assert shading[1] < 0.5 < shading[0]


def test_bright_scenes_saturate_instead_of_wrapping_round():
    simulated = simulate(SimulationSettings(photons=200_000, **SMALL))
    assert simulated.image.max() == 65535
    inside = ndi.binary_erosion(simulated.labels > 0, iterations=2)
    assert simulated.image[inside].min() > 20_000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", "dic"),
        ("size", 0),
        ("n_nuclei", -1),
        ("radius", 1.0),
        ("photons", 0.0),
        ("touching", 1.2),
        ("uneven", -0.1),
        ("blur", -1.0),
        ("texture", -1.0),
    ],
)
def test_wrong_settings_are_named(name, value):
    with pytest.raises(SettingsError, match=name):
        SimulationSettings(**{name: value})


def test_it_is_fast():
    started = time.process_time()
    labels = simulate(SimulationSettings(size=1024, n_nuclei=150)).labels
    assert labels.max() == 150
    assert time.process_time() - started < 2
