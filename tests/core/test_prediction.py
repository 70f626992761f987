"""Windows give the result of the whole image, in the right order, and survive a lack of memory."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import pytest
import torch
import zarr
from torch import Tensor, nn

from napari_unet.core import prediction, running
from napari_unet.core.engine import Request, streaming
from napari_unet.core.engine.ways import RowByRow
from napari_unet.core.errors import DeviceMemoryError, ImageError, SettingsError, UNetLiveError
from napari_unet.core.image import Image, make_image
from napari_unet.core.networks import UNet, UNetConfig
from napari_unet.core.normalization import IntensityScale, match_channels, normalise
from napari_unet.core.prediction import TileDone, member_for, predict
from napari_unet.core.progress import finish
from napari_unet.core.regions import Region
from napari_unet.core.rooms import ArrayRoom
from napari_unet.core.running import Member

SMALL = UNetConfig(widths=(4, 8, 8), out_channels=3)
ROWS, TILES = "row by row", "in tiles"


class Plain(nn.Module):
    """Gives back what it is shown; its calls are not those of known layers."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> Tensor:
        """`(b, c, [z,] y, x)` unchanged."""
        self.shapes.append(tuple(image.shape[2:]))
        return image.flip(-1).flip(-1)


class Failing(nn.Module):
    """A network that fails where `fails` says so, given the number of px it is shown."""

    def __init__(self, network: nn.Module, fails: Callable[[int], None]) -> None:
        super().__init__()
        self.network = network
        self.fails: Callable[[int], None] = lambda n: None
        self._fails_later = fails

    def begin(self) -> None:
        """From now on, and not while it is tried out."""
        self.fails = self._fails_later

    def forward(self, image: Tensor) -> Tensor:
        """`(b, c, [z,] y, x)` to logits, or an error."""
        self.fails(image[0, 0].numel())
        logits: Tensor = self.network(image.flip(-1).flip(-1))
        return logits


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [one.name for one in threading.enumerate() if one.name.startswith("napari-unet")] == []


def unet(config: UNetConfig = SMALL, seed: int = 0) -> UNet:
    """A U-Net whose batch normalisation has seen something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNet(config)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                nn.init.normal_(module.running_mean, 0, 0.3)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
                nn.init.uniform_(module.weight, 0.7, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
    return network.eval().requires_grad_(False)


def scale_for(image: Image) -> IntensityScale:
    """Raw values are what the network sees."""
    return IntensityScale(offset=(0.0,) * image.n_channels, scale=(1.0,) * image.n_channels)


def member(
    network: nn.Module, image: Image, dims: int = 2, n_in: int = 1, scale: Any = None, **about: Any
) -> Member:
    """A network at work on an image."""
    about = {"activation": "softmax", "precision": "full"} | about
    request = Request(
        network=network, dims=dims, in_channels=n_in, shape=image.spatial_shape(dims), **about
    )
    return member_for(request, image, scale or scale_for(image))


def in_strips(given: Member, n_bytes: int) -> Member:
    """The same, evaluated some rows at a time."""
    ways = tuple(
        replace(way, strip_bytes=n_bytes) if isinstance(way, RowByRow) else way
        for way in given.plan.ways
    )
    return replace(given, plan=replace(given.plan, ways=ways))


def whole(
    network: nn.Module, image: Image, index: tuple[int, ...] = (), dims: int = 2, n_in: int = 1,
    stride: int = 4, scale: Any = None,
) -> npt.NDArray[np.float32]:  # fmt: skip
    """Probabilities `(output, [z,] y, x)` of one run on the whole plane or volume."""
    shape = image.spatial_shape(dims)
    raw = image.read(index, tuple(slice(0, n) for n in shape))
    shown = match_channels(normalise(raw, scale or scale_for(image)), n_in)
    shown = np.pad(shown, [(0, 0)] + [(0, -n % stride) for n in shape], mode="reflect")
    with torch.no_grad():
        logits = network(torch.from_numpy(shown)[None])[0]
    found: npt.NDArray[np.float32] = logits.softmax(dim=0).numpy()
    return found[(slice(None), *(slice(0, n) for n in shape))]


def picture(*shape: int, seed: int = 1) -> Image:
    """Noise on a gradient, `([z,] y, x)` float32."""
    generator = np.random.default_rng(seed)
    gradient = np.linspace(-1, 1, shape[-1])
    array = generator.normal(0, 1, shape).astype(np.float32) + gradient.astype(np.float32)
    return make_image(array, "zyx"[-len(shape) :])


def room(n_outputs: int, image: Image, dtype: Any = np.float32) -> npt.NDArray[Any]:
    """Room for a result, `(output, ...)`, filled with what no network gives."""
    return np.full((n_outputs, *image.label_shape), -7, dtype)


def run(
    members: list[Member], image: Image, n_outputs: int = 3, **about: Any
) -> tuple[npt.NDArray[Any], list[TileDone]]:
    """Predict to the end: the result, and all that was said."""
    out = room(n_outputs, image)
    steps = list(predict(members, image, ArrayRoom(out), **about))
    return out, steps


def check_steps(steps: list[TileDone], image: Image) -> None:
    """Each px comes once, with what belongs there, and is counted."""
    times = np.zeros(image.label_shape, int)
    done = 0
    for step in steps:
        where = (*step.region.index, *step.region.window)
        times[where] += 1
        done += times[where].size
        assert step.found.shape[1:] == times[where].shape
        assert (step.done, step.total) == (done, times.size)
    np.testing.assert_array_equal(times, 1)


# --- exactness ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (33, 47), (64, 64)])
@pytest.mark.parametrize("tile_size", [5, 16, 200, None])
def test_an_identity_network_gives_the_image(shape: tuple[int, int], tile_size: int | None) -> None:
    image = picture(*shape)
    one = member(Plain(), image, activation="none", tile_size=tile_size)
    out, steps = run([one], image, 1)
    np.testing.assert_array_equal(out[0], np.clip(image.array, -1, 4))
    check_steps(steps, image)


@pytest.mark.parametrize("shape", [(1, 1), (2, 90), (97, 130), (128, 64)])
@pytest.mark.parametrize("tile_size", [16, 40, 1000, None])
@pytest.mark.parametrize(
    "config",
    [
        SMALL, replace(SMALL, upsampling="linear"), replace(SMALL, norm="none"),
        replace(SMALL, widths=(4, 4, 4, 4)), replace(SMALL, widths=(4, 8), upsampling="linear"),
        replace(SMALL, widths=(8,)),
    ],
    ids=["batch", "linear", "no norm", "4 levels", "2 levels", "1 level"],
)  # fmt: skip
def test_windows_give_the_result_of_the_whole_image(
    config: UNetConfig, shape: tuple[int, int], tile_size: int | None
) -> None:
    network, image = unet(config), picture(*shape)
    expected = whole(network, image, stride=config.stride)
    out, steps = run([member(network, image, tile_size=tile_size)], image)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(out.argmax(axis=0), expected.argmax(axis=0))
    check_steps(steps, image)


@pytest.mark.parametrize("shape", [(1, 3, 5), (9, 30, 41), (24, 16, 40)])
@pytest.mark.parametrize("tile_size", [8, 16, None])
@pytest.mark.parametrize("upsampling", ["transposed", "linear"])
def test_windows_give_the_result_of_the_whole_volume(
    upsampling: Any, shape: tuple[int, int, int], tile_size: int | None
) -> None:
    config = replace(SMALL, dims=3, widths=(3, 4, 4), upsampling=upsampling)
    network, image = unet(config), picture(*shape)
    expected = whole(network, image, dims=3)
    out, steps = run([member(network, image, 3, tile_size=tile_size)], image)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(out.argmax(axis=0), expected.argmax(axis=0))
    check_steps(steps, image)


def test_a_smaller_reach_would_not_be_exact() -> None:
    network, image = unet(), picture(97, 130)
    one = member(Failing(network, lambda n: None).eval(), image, tile_size=32)
    assert one.plan.name == TILES
    expected = whole(network, image)
    np.testing.assert_allclose(run([one], image)[0], expected, rtol=0, atol=1e-5)
    ways = tuple(replace(way, reach=(8, 8)) for way in one.plan.ways)
    one = replace(one, plan=replace(one.plan, ways=ways))
    assert np.abs(run([one], image)[0] - expected).max() > 1e-4


@pytest.mark.parametrize("axes", ["tzyx", "ztcyx", "czyx", "yxc", "xyz"])
def test_steps_through_all_other_axes(axes: str) -> None:
    sizes = {"t": 2, "z": 3, "c": 3, "y": 21, "x": 30}
    generator = np.random.default_rng(3)
    image = make_image(generator.integers(0, 4, [sizes[a] for a in axes]).astype(">u2"), axes)
    scale = IntensityScale(
        offset=(0.5, 1.0, 1.5)[: image.n_channels], scale=(1.0, 2.0, 3.0)[: image.n_channels]
    )
    network = unet(replace(SMALL, in_channels=3))
    out = room(3, image, np.float16)
    one = member(network, image, n_in=3, scale=scale, tile_size=16)
    finish(predict([one], image, ArrayRoom(out)))
    for index in np.ndindex(*image.index_shape(2)):
        expected = whole(network, image, index, n_in=3, scale=scale)
        np.testing.assert_allclose(out[(slice(None), *index)], expected, rtol=0, atol=1e-3)


def test_a_3d_network_steps_through_time_only() -> None:
    generator = np.random.default_rng(3)
    image = make_image(generator.random((2, 5, 12, 18)).astype(np.float32), "tzyx")
    network = unet(replace(SMALL, dims=3, widths=(4, 4)))
    out, steps = run([member(network, image, 3, tile_size=8)], image)
    assert {step.region.index for step in steps} == {(0,), (1,)}
    for t in range(2):
        expected = whole(network, image, (t,), 3, stride=2)
        np.testing.assert_allclose(out[:, t], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_activations_and_types(activation: Any, dtype: Any) -> None:
    image = make_image(np.array([[[0.0, 1.0]], [[2.0, -0.5]]]), "cyx")
    out = room(2, image, dtype)
    finish(predict([member(Plain(), image, n_in=2, activation=activation)], image, ArrayRoom(out)))
    logits = image.array
    expected = {
        "softmax": np.exp(logits) / np.exp(logits).sum(axis=0),
        "sigmoid": 1 / (1 + np.exp(-logits)),
        "none": logits,
    }[activation]
    np.testing.assert_allclose(out, expected, atol=1e-6 if dtype == np.float32 else 1e-3)


def test_not_a_number_becomes_nothing_and_no_other_px_suffers() -> None:
    image = picture(40, 40)
    image.array[3, 4], image.array[30, 30], image.array[31, 8] = np.nan, np.inf, -np.inf
    network = unet()
    out, _ = run([member(network, image, tile_size=16)], image)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out, whole(network, image), rtol=0, atol=1e-5)


def test_the_network_and_the_image_stay_as_they_are() -> None:
    network, image = unet(), picture(40, 40)
    weights = {name: weight.clone() for name, weight in network.state_dict().items()}
    before = image.array.copy()
    run([member(network, image, tile_size=16)], image)
    np.testing.assert_array_equal(image.array, before)
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, weights[name])
        assert weight.stride() == weights[name].stride()


# --- averages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tile_size", [16, None])
def test_several_networks_give_their_mean(tile_size: int | None) -> None:
    """Also of different strides and kinds, on images that fit none of them."""
    image = picture(2, 45, 70)
    networks = [unet(seed=1), unet(replace(SMALL, widths=(4, 8, 8, 8)), 2), unet(seed=3)]
    tiled = Failing(networks[2], lambda n: None).eval()
    members = [member(one, image, tile_size=tile_size) for one in (*networks[:2], tiled)]
    assert [one.plan.name for one in members] == [ROWS, ROWS, TILES]
    out, steps = run(members, image)
    check_steps(steps, image)
    for z in range(2):
        each = [whole(one, image, (z,), stride=one.config.stride) for one in networks]
        np.testing.assert_allclose(out[:, z], np.mean(each, axis=0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("views", ["flips", "rotations"])
def test_views_and_networks_are_averaged_alike(views: Any) -> None:
    image = picture(44, 60)
    networks = [unet(seed=1), unet(seed=2)]
    members = [member(one, image, views=views, tile_size=16) for one in networks]
    out, steps = run(members, image)
    check_steps(steps, image)
    each = []
    for turned in (False, True) if views == "rotations" else (False,):
        for flips in ((), (0,), (1,), (0, 1)):
            seen = np.swapaxes(image.array, 0, 1) if turned else image.array
            seen = np.flip(seen, flips)
            for network in networks:
                found = whole(network, make_image(seen.copy(), "yx"))
                found = np.flip(found, [axis + 1 for axis in flips])
                each.append(np.swapaxes(found, 1, 2) if turned else found)
    np.testing.assert_allclose(out, np.mean(each, axis=0), rtol=0, atol=1e-5)


def test_the_mean_of_one_network_twice_is_its_own() -> None:
    image, network = picture(33, 47), unet()
    one = member(network, image)
    np.testing.assert_allclose(run([one, one], image)[0], run([one], image)[0], rtol=0, atol=1e-6)


# --- order, progress, stopping -----------------------------------------------------------------


def regions_of(image: Image, tile_size: int | None = 32, **about: Any) -> list[TileDone]:
    """What comes, one after another."""
    one = member(Plain(), image, activation="none", tile_size=tile_size)
    return run([one], image, 1, **about)[1]


def holds(region: Region, focus: tuple[float, ...]) -> bool:
    places = (*(slice(at, at + 1) for at in region.index), *region.window)
    return all(part.start <= at < part.stop for part, at in zip(places, focus, strict=True))


def test_the_plane_and_the_tile_in_focus_come_first() -> None:
    image = picture(5, 64, 96)
    steps = regions_of(image, focus=(3, 40.0, 70.5))
    assert [step.region.index[0] for step in steps[::6]] == [3, 2, 4, 1, 0]
    first, second = steps[0].region, steps[6].region
    assert first.window == second.window == (slice(32, 64), slice(64, 96))
    assert steps[5].region.window == (slice(0, 32), slice(0, 32))
    check_steps(steps, image)


@pytest.mark.parametrize(
    "shape", [(20, 30), (70, 70), (100, 300), (90, 40), (5, 60, 50), (60, 9, 40)]
)
@pytest.mark.parametrize("at", [0.01, 0.3, 0.5, 0.99])
def test_the_first_part_holds_the_focus(
    shape: tuple[int, ...], at: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row by row as well, on images of any size beside that of the first window."""
    monkeypatch.setattr(running, "QUICK_SIZE", {2: 32, 3: 16})
    monkeypatch.setattr(running, "PIXELS_AT_ONCE", 256)
    monkeypatch.setattr(running, "FOCUSED_SIZE", {2: 128, 3: 64})
    dims = len(shape)
    image = picture(*shape)
    focus = tuple(at * n for n in shape)
    config = replace(SMALL, dims=dims, widths=(2, 2))
    one = in_strips(member(unet(config), image, dims), 3000)
    assert one.plan.name == ROWS
    out, steps = run([one], image, focus=focus)
    assert holds(steps[0].region, focus)
    check_steps(steps, image)
    expected = whole(one.request.network, image, dims=dims, stride=2)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)


def test_parts_come_while_the_rest_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "PIXELS_AT_ONCE", 500)
    image = picture(90, 40)
    out, steps = run([in_strips(member(unet(), image), 2000)], image)
    assert len(steps) > 4
    assert all(step.found[0].size >= 500 for step in steps[:-1])
    check_steps(steps, image)
    for step in steps:
        np.testing.assert_array_equal(step.found, out[(slice(None), *step.region.window)])


@pytest.mark.parametrize("chunk", [1, 16, 50])
def test_parts_end_where_chunks_of_the_result_do(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "PIXELS_AT_ONCE", 300)
    image = picture(90, 40)
    one = in_strips(member(unet(), image), 2000)
    array = zarr.create_array(
        zarr.storage.MemoryStore(), shape=(3, 90, 40), dtype="f4", chunks=(3, chunk, 40)
    )
    steps = list(predict([one], image, ArrayRoom(array)))
    assert len(steps) > 1
    assert all(step.region.window[0].stop % chunk == 0 for step in steps[:-1])
    np.testing.assert_allclose(array[:], whole(unet(), image), rtol=0, atol=1e-5)


def test_only_the_regions_asked_for_are_filled() -> None:
    image = picture(4, 40, 50)
    wanted = [
        Region(index=(2,), window=(slice(3, 21), slice(40, 50))),
        Region(index=(0,), window=(slice(0, 40), slice(0, 7))),
        Region(index=(2,), window=(slice(30, 31), slice(0, 9))),
    ]
    out, network = room(3, image), unet()
    steps = list(predict([member(network, image)], image, ArrayRoom(out), regions=wanted))
    assert steps[-1].done == steps[-1].total == 18 * 10 + 40 * 7 + 9
    filled = np.zeros(image.label_shape, bool)
    for region in wanted:
        filled[(*region.index, *region.window)] = True
    assert (out[:, ~filled] == -7).all()
    for z in (0, 2):
        expected = whole(network, image, (z,))
        np.testing.assert_allclose(out[:, z][:, filled[z]], expected[:, filled[z]], atol=1e-5)
    assert regions_of(image, regions=[]) == []
    assert regions_of(image, regions=[Region(index=(1,), window=(slice(4, 4), slice(0, 9)))]) == []


def test_regions_near_the_focus_come_first() -> None:
    image = picture(3, 60, 60)
    wanted = [
        Region(index=(z,), window=(slice(y, y + 20), slice(0, 60))) for z in range(3)
        for y in (0, 20, 40)
    ]  # fmt: skip
    steps = regions_of(image, None, regions=wanted, focus=(1, 55, 5))
    found = [(step.region.index[0], step.region.window[0].start) for step in steps]
    assert found[:3] == [(1, 40), (1, 20), (1, 0)]
    assert {z for z, _ in found[3:]} == {0, 2}


@pytest.mark.parametrize(
    "region",
    [
        Region(index=(4,), window=(slice(0, 4), slice(0, 4))),
        Region(index=(0,), window=(slice(0, 41), slice(0, 4))),
        Region(index=(0,), window=(slice(-1, 4), slice(0, 4))),
        Region(index=(0,), window=(slice(5, 4), slice(0, 4))),
        Region(index=(0,), window=(slice(None), slice(0, 4))),
        Region(index=(), window=(slice(0, 1), slice(0, 4), slice(0, 4))),
        Region(index=(0, 0), window=(slice(0, 4), slice(0, 4))),
    ],
)
def test_regions_that_are_not_in_the_image(region: Region) -> None:
    with pytest.raises(SettingsError, match=r"must lie within the image, whose axes 'zyx' have"):
        regions_of(picture(4, 40, 50), regions=[region])


class SlowRoom(ArrayRoom):
    """A disk that takes its time."""

    def write(self, region: Region, found: npt.NDArray[np.floating[Any]]) -> None:
        time.sleep(0.03)
        ArrayRoom.write(self, region, found)


@pytest.mark.parametrize("kind", [ArrayRoom, SlowRoom])
@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_stopped_half_way_what_was_shown_stays(kind: type[ArrayRoom], n_steps: int) -> None:
    network, image = unet(), picture(64, 64)
    expected, out = whole(network, image), room(3, image)
    work = predict([member(network, image, tile_size=32)], image, kind(out), focus=(60, 60))
    regions = [next(work).region for _ in range(n_steps)]
    work.close()
    done = np.zeros(image.label_shape, bool)
    for region in regions:
        done[region.window] = True
    assert done.sum() == n_steps * 32 * 32
    np.testing.assert_allclose(out[:, done], expected[:, done], rtol=0, atol=1e-5)
    assert (out[:, ~done] == -7).all()


def test_stopped_in_the_middle_of_rows_from_a_lazy_image() -> None:
    """Closing waits for the threads that read ahead and write behind, and lets all memory go."""
    image = make_image(da.from_array(picture(200, 40).array, chunks=(16, 40)), "yx")
    one = in_strips(member(unet(), image), 2000)
    streams: list[Any] = []
    real = streaming.Stream.push

    def push(stream: Any, rows: Tensor) -> Tensor | None:
        streams[:] = [weakref.ref(stream)]
        return real(stream, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming.Stream, "push", push)
        patch.setattr(running, "PIXELS_AT_ONCE", 100)
        work = predict([one], image, ArrayRoom(room(3, image)))
        next(work)
        assert streams[0]() is not None
        work.close()
    gc.collect()
    assert streams[0]() is None


def test_training_can_follow_on_the_same_thread_after_a_stop() -> None:
    network, image = unet(), picture(64, 64)
    work = predict([member(network, image, tile_size=32)], image, ArrayRoom(room(3, image)))
    next(work)
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
    work.close()
    network.train().requires_grad_(True)
    network(torch.rand(1, 1, 16, 16)).sum().backward()


# --- lazy arrays -------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["dask", "zarr", "memmap"])
@pytest.mark.parametrize("tile_size", [16, None])
@pytest.mark.parametrize("axes", ["zyx", "yxz"])
def test_any_container_gives_the_same(
    container: str, tile_size: int | None, axes: str, tmp_path: Any
) -> None:
    array = (picture(3, 50, 70).array * 50).astype(np.int16)
    array = array if axes == "zyx" else np.moveaxis(array, 0, -1)
    held: Any = da.from_array(array, chunks=(2, 13, 17))
    if container == "zarr":
        held = zarr.create_array(tmp_path / "a.zarr", data=array, chunks=(2, 11, 19))
    elif container == "memmap":
        np.save(tmp_path / "a.npy", array)
        held = np.load(tmp_path / "a.npy", mmap_mode="r")
    network, found = unet(), []
    for one in (array, held):
        image = make_image(one, axes)
        scale = IntensityScale(offset=(0.0,), scale=(50.0,))
        given = member(network, image, scale=scale, tile_size=tile_size)
        found.append(run([in_strips(given, 5000)], image)[0])
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-6)


def test_a_lazy_image_is_read_plane_by_plane_and_each_chunk_once() -> None:
    computed: list[tuple[int, ...]] = []

    def block(block_info: Any = None) -> npt.NDArray[np.float32]:
        computed.append(block_info[None]["chunk-location"])
        return values[tuple(slice(*part) for part in block_info[None]["array-location"])]

    values = np.asarray(picture(3, 256, 64).array)
    chunks = ((1,) * 3, (64,) * 4, (64,))
    array = da.map_blocks(block, chunks=chunks, dtype=np.float32, meta=values[:0, :0, :0])
    image = make_image(array, "zyx")
    network, out = unet(), room(3, image)
    finish(predict([member(network, image)], image, ArrayRoom(out), focus=(1, 0, 0)))
    assert sorted(computed) == sorted(np.ndindex(3, 4, 1)), "each chunk once"
    assert [z for z, *_ in computed[::4]] == [1, 0, 2]
    np.testing.assert_allclose(
        out[:, 2], whole(network, make_image(values, "zyx"), (2,)), rtol=0, atol=1e-5
    )


def test_waiting_is_counted() -> None:
    class Slow:
        shape, dtype, chunks = (64, 16), np.dtype(np.float32), (16, 16)

        def __getitem__(self, where: Any) -> npt.NDArray[np.float32]:
            time.sleep(0.01)
            return np.zeros((64, 16), np.float32)[where]

    image = make_image(Slow(), "yx")
    steps = list(predict([member(unet(), image)], image, ArrayRoom(room(3, image))))
    assert steps[-1].waited > 0


# --- a lack of memory --------------------------------------------------------------------------

LACKS_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:72] DefaultCPUAllocator: not enough memory"),
    RuntimeError("MPS backend out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    MemoryError(),
]
SMALLER = "Segmenting in smaller pieces, as the memory had run out"


def limited(network: nn.Module, n_pixels: int, error: Exception) -> Failing:
    """The network on a device that has memory for `n_pixels` px."""

    def fails(n: int) -> None:
        if n > n_pixels:
            raise error

    return Failing(network, fails).eval()


def begun(network: Failing, image: Image, **about: Any) -> Member:
    """Planned while there was memory; from now on there is less."""
    one = member(network, image, **about)
    assert one.plan.name == TILES
    network.begin()
    return one


@pytest.mark.parametrize("error", LACKS_OF_MEMORY, ids=lambda error: str(error)[-30:])
def test_goes_on_in_smaller_tiles_when_the_memory_runs_out(error: Exception) -> None:
    network, image = unet(), picture(2, 300, 280)
    one = begun(limited(network, 150 * 150, error), image)
    out, steps = run([one], image, focus=(1, 150, 150))
    assert max(w.stop - w.start for step in steps for w in step.region.window) < 150
    assert {step.message for step in steps} == {SMALLER}
    check_steps(steps, image)
    for z in range(2):
        np.testing.assert_allclose(out[:, z], whole(network, image, (z,)), rtol=0, atol=1e-5)


def test_finished_tiles_stay_when_the_memory_runs_out_later() -> None:
    calls = []

    def fails(n: int) -> None:
        calls.append(n)
        if len(calls) > 2 and n > 130 * 130:
            raise torch.OutOfMemoryError("CUDA out of memory")

    network, image = unet(), picture(256, 256)
    one = begun(Failing(network, fails).eval(), image, tile_size=128)
    out, steps = run([one], image)
    sizes = [step.region.window[0].stop - step.region.window[0].start for step in steps]
    assert sizes == [128] * 2 + [64] * 8
    assert [step.message for step in steps] == ["Segmenting"] * 2 + [SMALLER] * 8
    check_steps(steps, image)
    np.testing.assert_allclose(out, whole(network, image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("error", LACKS_OF_MEMORY[:2], ids=["gpu", "processor"])
def test_rows_go_on_where_they_stopped(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was handed out before stays; the rest comes in narrower windows."""
    monkeypatch.setattr(running, "PIXELS_AT_ONCE", 1000)
    real, pushed = streaming.Stream.push, []

    def push(stream: Any, rows: Tensor) -> Tensor | None:
        pushed.append(rows.shape[3])
        if len(pushed) > 6 and rows.shape[3] > 200:
            raise error
        return real(stream, rows)

    monkeypatch.setattr(streaming.Stream, "push", push)
    network, image = unet(), picture(300, 280)
    one = in_strips(member(network, image), 300_000)
    assert one.plan.name == ROWS
    out, steps = run([one], image)
    check_steps(steps, image)
    messages = [step.message for step in steps]
    n_first = messages.index(SMALLER)
    assert n_first > 0
    assert messages == ["Segmenting"] * n_first + [SMALLER] * (len(messages) - n_first)
    np.testing.assert_allclose(out, whole(network, image), rtol=0, atol=1e-5)


def test_an_average_starts_its_window_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real, n_pushed = streaming.Stream.push, []

    def push(stream: Any, rows: Tensor) -> Tensor | None:
        n_pushed.append(1)
        if len(n_pushed) in (3, 9):
            raise torch.OutOfMemoryError("out of memory")
        return real(stream, rows)

    image, networks = picture(150, 90), [unet(seed=1), unet(seed=2)]
    members = [in_strips(member(one, image), 20_000) for one in networks]
    monkeypatch.setattr(streaming.Stream, "push", push)
    out, steps = run(members, image)
    check_steps(steps, image)
    assert len(n_pushed) > 9
    each = [whole(one, image) for one in networks]
    np.testing.assert_allclose(out, np.mean(each, axis=0), rtol=0, atol=1e-5)


def test_at_last_the_processor_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that never has enough memory; here it is played by the processor."""
    network, image = unet(), picture(100, 90)
    moved: list[Member] = []
    one = member(network, image)
    fake = SimpleNamespace(type="cuda")

    def on_processor(given: Member) -> Member:
        moved.append(given)
        return member(network, image)

    def push(stream: Any, rows: Tensor) -> Tensor | None:
        if not moved:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(stream, rows)

    real = streaming.Stream.push
    monkeypatch.setattr(streaming.Stream, "push", push)
    monkeypatch.setattr(running, "_on_processor", on_processor)
    monkeypatch.setattr(prediction, "release_memory", lambda device: None)
    monkeypatch.setattr(running, "release_memory", lambda device: None)
    monkeypatch.setattr(
        Member,
        "source",
        lambda self, image, index: running.Source(
            image=image, index=index, scale=self.scale, in_channels=1, device=torch.device("cpu")
        ),
    )
    one = replace(one, plan=replace(one.plan, device=fake))
    out, steps = run([one], image)
    assert len(moved) == 1
    assert {step.message for step in steps} == {
        "Segmenting on the processor, as the memory of the GPU had run out"
    }
    np.testing.assert_allclose(out, whole(network, image), rtol=0, atol=1e-5)


def test_a_member_on_the_processor_is_a_copy() -> None:
    network, image = unet(), picture(100, 90)
    one = member(network, image)
    other = running._on_processor(one)
    assert other.request.network is not network
    assert other.plan.device == torch.device("cpu")
    np.testing.assert_array_equal(run([other], image)[0], run([one], image)[0])


@pytest.mark.parametrize("is_known", [False, True])
def test_says_so_when_the_smallest_piece_is_too_large(
    is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, error = picture(300, 300), LACKS_OF_MEMORY[0]

    def push(stream: Any, rows: Tensor) -> Tensor | None:
        raise error

    if is_known:
        one = member(unet(), image)
        monkeypatch.setattr(streaming.Stream, "push", push)
    else:
        one = begun(limited(unet(), 1000, error), image)
    with pytest.raises(DeviceMemoryError, match=r"even for the smallest pieces\. Close other"):
        run([one], image)


def test_recognises_a_real_lack_of_memory() -> None:
    def fails(n: int) -> None:
        torch.empty(2**55)

    image = picture(40, 40)
    with pytest.raises(DeviceMemoryError, match="memory of this computer"):
        run([begun(Failing(unet(), fails).eval(), image)], image)


def test_a_lack_of_memory_of_numpy_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are put together outside of torch."""
    n_calls = []
    real = running.gathered

    def gathered(*about: Any) -> Any:
        n_calls.append(1)
        if len(n_calls) == 1:
            raise np._core._exceptions._ArrayMemoryError((1, 2), np.dtype(float))  # type: ignore
        return real(*about)

    monkeypatch.setattr(running, "gathered", gathered)
    network, image = unet(), picture(100, 90)
    out, steps = run([member(network, image)], image)
    assert {step.message for step in steps} == {SMALLER}
    np.testing.assert_allclose(out, whole(network, image), rtol=0, atol=1e-5)


def test_memory_of_a_failed_attempt_is_free_before_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither the rows that waited nor the last result are kept by the error."""
    held: list[Any] = []
    alive: list[bool] = []
    real = streaming.Stream.push

    def push(stream: Any, rows: Tensor) -> Tensor | None:
        held.append(weakref.ref(stream))
        if len(held) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        found = real(stream, rows)
        if found is not None:
            held.append(weakref.ref(found))
        return found

    def release(device: torch.device) -> None:
        if held and not alive:
            alive.extend(one() is not None for one in held)

    image = picture(100, 90)
    one = in_strips(member(unet(), image), 60_000)
    monkeypatch.setattr(streaming.Stream, "push", push)
    monkeypatch.setattr(running, "release_memory", release)
    monkeypatch.setattr(prediction, "release_memory", release)
    run([one], image)
    assert alive
    assert not any(alive)


# --- a GPU that becomes slow -------------------------------------------------------------------


def watched(monkeypatch: pytest.MonkeyPatch, seconds: list[float], kind: str = "cuda") -> Any:
    """A prediction in 4 tiles on a device that takes so long for each of them."""
    now = [0.0]
    times = iter(seconds)

    class Clock:
        @staticmethod
        def perf_counter() -> float:
            return now[0]

    class Passing(Plain):
        def forward(self, image: Tensor) -> Tensor:
            now[0] += next(times, 0.001)
            return image.flip(-1).flip(-1)

    image, network = picture(128, 128), Passing()
    one = member(Plain(), image, activation="none", tile_size=64)
    ways = tuple(replace(way, network=network) for way in one.plan.ways)
    fake = SimpleNamespace(type=kind)
    one = replace(one, plan=replace(one.plan, ways=ways, device=fake))
    monkeypatch.setattr(running, "time", Clock)
    monkeypatch.setattr(prediction, "release_memory", lambda device: None)
    monkeypatch.setattr(running, "release_memory", lambda device: None)
    monkeypatch.setattr(
        running,
        "_on_processor",
        lambda given: replace(given, plan=replace(given.plan, device=torch.device("cpu"))),
    )
    monkeypatch.setattr(
        Member,
        "source",
        lambda self, image, index: running.Source(
            image=image, index=index, scale=self.scale, in_channels=1, device=torch.device("cpu")
        ),
    )
    out, steps = run([one], image, 1)
    np.testing.assert_array_equal(out[0], np.clip(image.array, -1, 4))
    check_steps(steps, image)
    return [step.message for step in steps]


@pytest.mark.parametrize(
    ("seconds", "is_slow"),
    [([0.1] * 4, False), ([0.1, 0.1, 3.0, 0.1], True), ([0.1, 1.9], False), ([1.0, 15.0], False),
     ([3.0, 3.0, 3.0, 3.0], False)],
)  # fmt: skip
def test_a_gpu_that_becomes_slow_has_lent_memory(
    seconds: list[float], is_slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = watched(monkeypatch, seconds)
    assert any("memory" in one for one in messages) == is_slow
    if is_slow:
        assert messages[:2] == ["Segmenting"] * 2


def test_a_processor_may_be_as_slow_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched(monkeypatch, [0.1, 0.1, 300.0, 0.1], "cpu") == ["Segmenting"] * 4


# --- what goes wrong ---------------------------------------------------------------------------


def test_no_runtime_error_comes_out() -> None:
    error = RuntimeError("Expected 3 channels\nand more lines")

    def fails(n: int) -> None:
        raise error

    image = picture(40, 42)
    with pytest.raises(UNetLiveError, match=r"part of the image \(Expected 3 channels\)\. ") as e:
        run([begun(Failing(unet(), fails).eval(), image)], image)
    assert e.value.__cause__ is error
    assert not isinstance(e.value, RuntimeError)


@pytest.mark.parametrize("error", [OSError("the disk is gone"), RuntimeError("bad chunk")])
def test_an_unreadable_image_is_a_sentence(error: Exception) -> None:
    class Broken:
        shape, dtype = (40, 40), np.dtype(np.uint8)

        def __getitem__(self, where: object) -> None:
            raise error

    image = make_image(Broken(), name="scan")
    with pytest.raises(ImageError, match=f"'scan' could not be read: {error}") as e:
        run([member(unet(), image)], image)
    assert e.value.__cause__ is error


def test_an_error_of_writing_comes_out_as_it_is() -> None:
    class Full(ArrayRoom):
        def write(self, region: Region, found: npt.NDArray[np.floating[Any]]) -> None:
            raise UNetLiveError("The disk is full.")

    image = picture(40, 40)
    with pytest.raises(UNetLiveError, match="The disk is full"):
        list(predict([member(unet(), image, tile_size=16)], image, Full(room(3, image))))


def test_refuses_what_does_not_fit_together() -> None:
    two = make_image(np.zeros((2, 20, 20)), "cyx", "pair")
    with pytest.raises(ImageError, match=r"'pair' has 2 channels .* takes 3"):
        member(unet(replace(SMALL, in_channels=3)), two, n_in=3)
    with pytest.raises(ImageError, match="works on volumes"):
        member(unet(replace(SMALL, dims=3)), picture(20, 20), 3)
    image = picture(20, 20)
    with pytest.raises(ImageError, match=r"gives \(3, 20, 20\) .* room for \(2, 20, 20\)"):
        run([member(unet(), image)], image, n_outputs=2)
    with pytest.raises(SettingsError, match="focus must have a number for each"):
        run([member(unet(), image)], image, focus=(1, 2, 3))


def test_gives_memory_back_however_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[torch.device] = []
    monkeypatch.setattr(prediction, "release_memory", released.append)
    monkeypatch.setattr(running, "release_memory", released.append)
    image = picture(64, 64)
    one = member(unet(), image, tile_size=32)
    run([one], image)
    assert released == [torch.device("cpu")]
    work = predict([one], image, ArrayRoom(room(3, image)))
    next(work)
    work.close()
    assert len(released) == 2
    with pytest.raises(DeviceMemoryError):
        run([begun(limited(unet(), 10, MemoryError()), image, tile_size=64)], image)
    assert len(released) == 4  # once before it gives up, once at the end


def test_the_piece_that_is_tried_is_where_the_user_looks() -> None:
    array = np.zeros((3, 500, 400), np.float32)
    array[1, 300:340, 200:240] = 3
    image = make_image(array, "zyx")
    request = Request(network=unet(), dims=2, in_channels=1, activation="softmax", shape=(500, 400))
    places = [(1, 320, 220), (1, 20, 20), (2, 320, 220), (1.4, 499, 399), (9, -5, 1e9), None]
    for focus, is_there in zip(places, [True, *[False] * 5], strict=True):
        one = member_for(request, image, scale_for(image), focus)
        assert one.request.piece is not None
        piece = one.request.piece((64, 48))
        assert piece.shape == (1, 1, 64, 48)
        assert bool(piece.max() == 3) == is_there
    small = member_for(request, make_image(array[0, :20, :30], "yx"), scale_for(image))
    assert small.request.piece is not None
    assert small.request.piece((64, 48)).shape == (1, 1, 64, 48)
