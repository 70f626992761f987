"""Every network of the zoo gives, in pieces of any size, what it gives for the whole image."""

from __future__ import annotations

import zlib
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from networks import BLENDED, BY_NAME, CASES, EXACT, N_OUTPUTS, ROW, TILED, Case, picture
from running import image_of, plan_for, run, unscaled, with_strips
from torch import nn

from napari_unet.core.engine import Source, choosing, memory
from napari_unet.core.engine.tiles import Blended, Tiled, run_network
from napari_unet.core.engine.ways import RowByRow, activated

ATOL = 3e-5
SHAPES = {2: (70, 93), 3: (19, 26, 33)}
SMALL = {2: [(1, 1), (5, 3), (1, 40), (37, 1)], 3: [(1, 1, 1), (3, 5, 2), (1, 17, 20)]}
MANY = [BY_NAME[name] for name in (
    "unet 2d 3 batch linear", "unet 3d 2 batch linear", "unpadded 2d", "residual 2d", "corners",
    "nested 2d", "dense 2d", "strided", "kernels 2d", "stem 2d", "flat 3d", "flat 2d", "shuffled",
    "padded up", "segnet", "segnet 3 x 2", "mirrored", "up by 4 with overlap", "gates 3d",
    "even kernels", "heads in a dict",
)]  # fmt: skip


def random_for(*about: object) -> np.random.Generator:
    """Always the same for one test."""
    return np.random.default_rng(zlib.crc32(repr(about).encode()))


def random_window(
    shape: tuple[int, ...], generator: np.random.Generator
) -> tuple[tuple[int, int], ...]:
    spans = (sorted(generator.choice(n + 1, 2, replace=False)) for n in shape)
    return tuple((int(start), int(stop)) for start, stop in spans)


def inside(whole: npt.NDArray[Any], window: tuple[tuple[int, int], ...]) -> npt.NDArray[Any]:
    return whole[(slice(None), *(slice(*span) for span in window))]


def same(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)
    # Labels of px that are a tie but for rounding may be either.
    ordered = np.sort(expected, axis=0)
    is_clear = ordered[-1] - ordered[-2] > 2 * ATOL
    assert is_clear.mean() > 0.99
    np.testing.assert_array_equal(found.argmax(axis=0)[is_clear], expected.argmax(axis=0)[is_clear])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_network_goes_its_way(case: Case) -> None:
    made = plan_for(case.network(), picture(case.n_in, *SHAPES[case.dims]))
    assert made.name == case.way, made.reason
    assert {ROW: RowByRow, TILED: Tiled, BLENDED: Blended}[case.way] is type(made.ways[0])
    assert made.is_exact


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_result_is_that_of_the_whole_image(case: Case) -> None:
    """With strips of any height; also of networks that want the whole image, which fits here."""
    network, shape = case.network(), SHAPES[case.dims]
    array, generator = picture(case.n_in, *shape), random_for(case.name)
    expected = case.whole(network, array)
    made = plan_for(network, array)
    assert expected.shape == (N_OUTPUTS, *shape)
    same(run(with_strips(made, int(generator.integers(500, 50_000))), array), expected)
    same(run(with_strips(made, 1), array, tuple((n // 3, n) for n in shape)),
         inside(expected, tuple((n // 3, n) for n in shape)))  # fmt: skip


@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.name)
def test_any_window_and_any_tile_give_the_result_of_the_whole_image(case: Case) -> None:
    tile_size = [16, 20, 33][EXACT.index(case) % 3]
    network, shape = case.network(), tuple(n + 8 for n in SHAPES[case.dims])
    array, generator = picture(case.n_in, *shape, seed=2), random_for(case.name, tile_size)
    expected = case.whole(network, array)
    made = plan_for(network, array, tile_size=tile_size)
    assert max(made.largest) <= -(-tile_size // 16) * 16 + 16
    window = random_window(shape, generator)
    same(run(with_strips(made, 4096), array, window), inside(expected, window))
    corner = tuple((n - 1, n) for n in shape)
    same(run(made, array, corner), inside(expected, corner))
    if case.way == TILED:
        same(run(made, array), expected)


@pytest.mark.parametrize("case", MANY, ids=lambda case: case.name)
@pytest.mark.parametrize("seed", range(2))
def test_random_sizes_windows_and_strips(case: Case, seed: int) -> None:
    generator = random_for(case.name, seed)
    most = 90 if case.dims == 2 else 26
    network = case.network(seed)
    shape = tuple(int(n) for n in generator.integers(24 if case.dims == 2 else 16, most, case.dims))
    array = picture(case.n_in, *shape, seed=seed)
    expected = case.whole(network, array)
    made = plan_for(network, array, tile_size=[24, None][seed])
    for _ in range(4):
        window = random_window(shape, generator)
        strips = with_strips(made, int(2 ** generator.uniform(6, 18)))
        same(run(strips, array, window), inside(expected, window))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_images_smaller_than_anything(case: Case) -> None:
    """Compared where the network takes such an image; elsewhere it is mirrored until it does."""
    network = case.network()
    for shape in SMALL[case.dims]:
        array = picture(case.n_in, *shape)
        made = plan_for(network, array)
        assert made.is_exact
        found = run(made, array)
        assert found.shape == (N_OUTPUTS, *shape)
        assert np.isfinite(found).all()
        if case.way == BLENDED and 1 in shape:
            continue  # a norm of so few px needs more of them, which change it
        try:
            expected = case.whole(network, array)
        except (RuntimeError, ValueError):
            continue  # it does not take it
        np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize("name", ["mirrored", "padded up", "averages"])
def test_an_image_that_is_too_small_is_mirrored_to_the_least_size(name: str) -> None:
    case = BY_NAME[name]
    network, array = case.network(), picture(1, 1, 1)
    made = plan_for(network, array)
    (size, _) = made.ways[0].fit.size_for((1, 1))
    with torch.no_grad():
        shown = torch.from_numpy(np.pad(array, [(0, 0), (0, size - 1), (0, size - 1)], "reflect"))
        expected = network(shown[None])[0, :, :1, :1].numpy()
    np.testing.assert_allclose(run(made, array), expected, atol=ATOL)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", ["unet 3d 2 batch linear", "stem 3d", "flat 3d", "unpadded 3d"])
def test_rows_along_the_longest_axis(name: str, axis: int) -> None:
    case = BY_NAME[name]
    network = case.network()
    shape = tuple(31 if at == axis else 14 + at for at in range(3))
    array = picture(1, *shape)
    made = plan_for(network, array)
    assert made.axis == axis
    window = tuple((2, n - 3) for n in shape)
    same(run(with_strips(made, 5000), array, window), inside(case.whole(network, array), window))


@pytest.mark.parametrize("name", ["unet 2d 2 batch transposed", "nested 2d", "corners", "stem 2d"])
def test_windows_that_fit_a_small_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MEMORY", {2: 20_000, 3: 20_000})
    case = BY_NAME[name]
    network, array = case.network(), picture(1, 60, 300)
    made = plan_for(network, array)
    assert made.axis == 1
    assert made.largest[1] == 300
    assert made.largest[0] < 60
    expected = case.whole(network, array)
    for start in range(0, 60, made.largest[0]):
        window = ((start, min(60, start + made.largest[0])), (0, 300))
        same(run(made, array, window), inside(expected, window))


@pytest.mark.parametrize("name", ["segnet", "segnet 3 x 2", "mirrored", "bicubic"])
def test_a_reach_of_any_size_leaves_tiles_on_their_grid(name: str) -> None:
    case = BY_NAME[name]
    network, array = case.network(), picture(1, 73, 90)
    made = plan_for(network, array, tile_size=16)
    expected = case.whole(network, array)
    for more in (1, 2, 3):
        reach = tuple(n + more for n in made.ways[0].reach)
        way = replace(made.ways[0], reach=reach)
        same(run(replace(made, ways=(way,)), array), expected)


def test_parts_follow_one_another() -> None:
    case = BY_NAME["unet 2d 2 batch transposed"]
    array = picture(1, 60, 50)
    made = with_strips(plan_for(case.network(), array), 3000)
    source = Source(
        image=image_of(array), index=(), scale=unscaled(1), in_channels=1,
        device=torch.device("cpu"),
    )  # fmt: skip
    parts = [part for part, _ in made.ways[0].compute(source, (60, 50), ((7, 51), (3, 44)))]
    assert len(parts) > 3
    assert [part[1] for part in parts] == [(3, 44)] * len(parts)
    edges = [part[0] for part in parts]
    assert edges[0][0] == 7
    assert edges[-1][1] == 51
    assert all(one[1] == other[0] for one, other in pairwise(edges))


# --- networks that want the whole image --------------------------------------------------------

WHOLE = [case for case in CASES if case.way == BLENDED]


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.name)
def test_what_is_blended_is_near_and_says_so(case: Case) -> None:
    network = case.network()
    shape = (90, 110) if case.dims == 2 else (24, 30, 20)
    array = picture(case.n_in, *shape)
    made = plan_for(network, array, tile_size=48 if case.dims == 2 else 16)
    assert not made.is_exact
    assert made.summary.startswith("Approximate, in blended tiles")
    found, expected = run(made, array), case.whole(network, array)
    assert np.abs(found - expected).max() > 1e-4
    assert np.abs(found - expected).mean() < 0.5
    window = random_window(shape, random_for(case.name))
    np.testing.assert_allclose(run(made, array, window), inside(found, window), atol=1e-5)


def test_blended_tiles_of_a_local_network_agree() -> None:
    """Where tiles give the same, so does their mean: but for their borders it is the network."""
    network = nn.Conv2d(1, N_OUTPUTS, 1)
    array = picture(1, 90, 70)
    made = plan_for(BY_NAME["group norm"].network(), array, tile_size=32)
    way = replace(made.ways[0], network=network)
    with torch.no_grad():
        expected = network(torch.from_numpy(array)[None])[0].numpy()
    np.testing.assert_allclose(run(replace(made, ways=(way,)), array), expected, atol=1e-5)


# --- what goes with it -------------------------------------------------------------------------


def test_activations() -> None:
    logits = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    for name, expected in (
        ("none", logits), ("sigmoid", 1 / (1 + torch.exp(-logits))),
        ("softmax", torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True)),
    ):  # fmt: skip
        found = activated(logits.half(), name)  # type: ignore[arg-type]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected.float(), atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", ["unet 2d 2 batch transposed", "segnet", "group norm"])
def test_with_less_memory_the_result_is_the_same(name: str) -> None:
    case = BY_NAME[name]
    network, array = case.network(), picture(1, 80, 60)
    way = plan_for(network, array).ways[0]
    n_smaller = 0
    while way is not None:
        smallest, way, n_smaller = way, way.smaller(), n_smaller + 1
    assert 2 < n_smaller < 10
    made = replace(plan_for(network, array), ways=(smallest,))
    if case.way != BLENDED:
        same(run(made, array), case.whole(network, array))


def test_the_layout_of_the_image_does_not_matter() -> None:
    network = BY_NAME["segnet"].network()
    image = torch.randn(1, 20, 1, 30, generator=torch.Generator().manual_seed(0)).transpose(1, 2)
    view = choosing.AS_IT_IS
    torch.testing.assert_close(
        run_network(network, image, view), network(image.contiguous()), atol=1e-6, rtol=0
    )
